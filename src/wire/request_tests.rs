use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::affinity::SessionKey;

fn scan(chunks: &[&[u8]]) -> Result<RequestFields, Malformed> {
    let prefix = PrefixScan::new(SessionKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]));
    let mut scan = RequestScan::recognising(Some(prefix));
    for chunk in chunks {
        scan.feed(chunk);
    }
    scan.finish()
}

fn read(body: &str) -> Result<RequestFields, Malformed> {
    scan(&[body.as_bytes()])
}

#[test]
fn the_fields_are_found_wherever_they_stand() {
    let body = r#" {"messages":[{"role":"user","content":"say \"model\": {[ \\"}],"max_tokens": 64,"n":2,"model" : "gpt\u002d6",
        "stream":true,"store":false,"max_completion_tokens":32,"stream_options":{"include_usage":false} } "#;
    let fields = read(body).expect("well made");
    assert_eq!(fields.model, "gpt-6");
    assert_eq!(&body[fields.model_span.clone()], r#""gpt\u002d6""#);
    assert!(fields.stream);
    assert_eq!(fields.max_output_tokens, Some(32));
    assert_eq!(fields.choices, Some(2));
    assert_eq!(fields.store, Some(false));
    assert_eq!(&body[fields.object_end..=fields.object_end], "}");
    assert_eq!(fields.length, body.len());
    let StreamOptions::NotAsked { at, with: "true" } = fields.stream_options else { panic!("not understood") };
    assert_eq!(&body[at], "false");
    assert_eq!(fields.previous_response, None);
}

#[test]
fn what_lives_in_one_backend_is_named() {
    let fields = read(r#"{"model":"m","previous_response_id":"resp_1","conversation":{"id":"conv_1"}}"#).expect("well made");
    assert_eq!(fields.previous_response.as_deref(), Some("resp_1"));
    assert_eq!(fields.conversation.as_deref(), Some("conv_1"));
    assert!(fields.names_stored());
    let fields = read(r#"{"model":"m","previous_response_id":null,"conversation":null}"#).expect("well made");
    assert!(!fields.names_stored());
}

#[test]
fn a_conversation_is_what_the_client_calls_it_or_how_its_prompt_begins() {
    let session = |body: String| read(&body).expect("well made").session;
    let prompt = "x".repeat(1100);
    let messages = |more: &str| format!(r#""messages":[{{"role":"user","content":"{prompt}"}}{more}]"#);
    let by_prompt = session(format!(r#"{{"model":"m",{}}}"#, messages("")));
    assert!(by_prompt.is_some());
    for (other, same) in [
        (format!(r#"{{{},"model":"m","temperature":1}}"#, messages(r#",{"role":"assistant","content":"y"}"#)), true),
        (format!(r#"{{"model":"m","user":null,"prompt_cache_key":"",{}}}"#, messages("")), true),
        (format!(r#"{{"model":"m",{},"input":"{prompt}"}}"#, messages("")), true),
        (format!(r#"{{"model":"m","messages":"{prompt}"}}"#), false),
        (format!(r#"{{"model":"m",{},"user":"u"}}"#, messages("")), false),
    ] {
        assert_eq!(session(other.clone()) == by_prompt, same, "{other}");
    }
    let named = |members: &str| session(format!(r#"{{"model":"m",{members},{}}}"#, messages("")));
    let by_key = named(r#""prompt_cache_key":"k""#);
    assert!(by_key.is_some() && by_key != named(r#""user":"u""#));
    assert_eq!(named(r#""user":"u","prompt_cache_key":"k""#), by_key);
    assert_eq!(named(r#""prompt_cache_key":"k","user":"u""#), by_key);
    assert_eq!(session(r#"{"model":"m","messages":["short"]}"#.to_owned()), None);
    let mut plain = RequestScan::new();
    plain.feed(format!(r#"{{"model":"m","user":"u",{}}}"#, messages("")).as_bytes());
    assert_eq!(plain.finish().expect("well made").session, None, "nobody asked for it");
}

#[test]
fn an_escaped_key_is_the_same_key() {
    assert_eq!(read(r#"{"mod\u0065l":"m"}"#).expect("well made").model, "m");
    assert_eq!(read(r#"{"model":"a","\u006dodel":"b"}"#), Err(Malformed::DuplicateModel { at: 25 }));
    let all_escaped = "max_completion_tokens".chars().fold(String::new(), |text, c| format!("{text}\\u{:04x}", c as u32));
    let fields = read(&format!(r#"{{"{all_escaped}":7,"model":"m"}}"#)).expect("well made");
    assert_eq!(fields.max_output_tokens, Some(7));
}

#[test]
fn a_limit_is_what_the_api_calls_one() {
    use Operation::{Chat, Completions, Converse, CountTokens, Embeddings, GenerateContent, InvokeModel, Messages, Responses};
    let body =
        br#"{"model":"m","max_tokens":64,"max_completion_tokens":32,"max_output_tokens":16,"inferenceConfig":{"maxTokens":8,
        "maxOutputTokens":1,"candidateCount":9},"generationConfig":{"maxOutputTokens":4,"candidateCount":2,"maxTokens":1}}"#;
    for (operation, limit, choices) in [
        (Chat, Some(32), None),
        (Completions, Some(64), None),
        (Responses, Some(16), None),
        (Messages, Some(64), None),
        (Converse, Some(8), None),
        (GenerateContent, Some(4), Some(2)),
        (InvokeModel, Some(8), None),
        (Embeddings, None, None),
        (CountTokens, None, None),
    ] {
        let mut scan = RequestScan::new().asking(operation);
        scan.feed(body);
        let fields = scan.finish().expect("well made");
        assert_eq!((fields.max_output_tokens, fields.choices), (limit, choices), "{operation:?}");
    }
}

#[test]
fn faults_are_named_with_their_place() {
    let deep = format!(r#"{{"model":"m","x":{}}}"#, "[".repeat(129));
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(5000));
    let table = [
        ("", "the body is no JSON object: it ends at byte 0, where `{` was expected"),
        ("[]", "the body is no JSON object: expected `{` at byte 0"),
        ("{,}", "the body is no JSON object: expected a member's name or `}` at byte 1"),
        (r#"{"model":"m",}"#, "the body is no JSON object: expected a member's name at byte 13"),
        (r#"{"model" "m"}"#, "the body is no JSON object: expected `:` at byte 9"),
        (r#"{"model":"m"} {}"#, "the body is no JSON object: expected the end of the body at byte 14"),
        (r#"{"model":"m","a":]}"#, "the body is no JSON object: expected a value at byte 17"),
        (r#"{"a":[}"#, "the body is no JSON object: expected the closing bracket that matches the opening one at byte 6"),
        (r#"{"model":"m"#, "the body is no JSON object: it ends at byte 11, where the end of a string was expected"),
        (r#"{"model":17}"#, "`model` must be a string, at byte 9"),
        (r#"{"model":"\x"}"#, "`model` must be a string, at byte 9"),
        (r#"{"messages":[{"model":"m"}]}"#, "`model` is missing"),
        (r#"{"model":"m","model":"m"}"#, "`model` is given a second time at byte 20"),
        (deep.as_str(), "arrays and objects are nested more than 128 deep at byte 145"),
        (long.as_str(), "`model` is longer than 4096 bytes, at byte 9"),
    ];
    for (body, message) in table {
        assert_eq!(read(body).expect_err(body).to_string(), message, "{body}");
    }
}

#[test]
fn a_model_that_the_path_names_may_be_null_in_the_body() {
    let body = r#"{"model": null ,"messages":[]}"#;
    for size in [1, 3, body.len()] {
        let mut scan = RequestScan::new().of_named();
        body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
        let fields = scan.finish().unwrap();
        assert_eq!((&*fields.model, fields.model_span), ("", 10..14));
    }
    for body in [r#"{"model":nil}"#, r#"{"model":7}"#, r#"{"model":null,"model":"m"}"#] {
        let mut scan = RequestScan::new().of_named();
        scan.feed(body.as_bytes());
        assert!(scan.finish().is_err(), "{body}");
    }
    assert!(read(r#"{"model":null}"#).is_err(), "where nothing else names it");
}

#[test]
fn deeper_faults_are_left_to_the_backend() {
    assert!(read(r#"{"model":"m","messages":[tru,,"\q"],"temperature":1.2.3}"#).is_ok());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        r#"[\\"{}\[\]:, model]{0,12}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

#[rustfmt::skip]
const KEYS: [&str; 12] = [
    "stream", "max_tokens", "n", "stream_options", "previous_response_id", "conversation", "store", "messages", "input", "user",
    "prompt_cache_key", "é\"\\",
];

prop_compose! {
    fn any_body()(
        model in any::<String>(),
        members in prop::collection::vec((prop::sample::select(&KEYS[..]), any_value()), 0..8),
        limit in prop::option::of(any::<u64>()),
        stream in prop::option::of(any::<bool>()),
        first in any::<bool>(),
        pretty in any::<bool>(),
    ) -> (Value, String) {
        let mut members: Vec<(&str, Value)> = members;
        members.push(("model", model.into()));
        if let Some(limit) = limit { members.push(("max_output_tokens", limit.into())); }
        if let Some(stream) = stream { members.push(("stream", stream.into())); }
        if first { members.reverse(); }
        // serde_json sorts its maps; written by hand to have the members in any order, and some of them twice.
        let text = |value: &Value| if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let gap = if pretty { "\r\n\t " } else { "" };
        let parts: Vec<String> = members.iter()
            .map(|(key, value)| format!("{gap}{}{gap}:{gap}{}", json!(key), text(value).expect("json")))
            .collect();
        let body = format!("{gap}{{{}{gap}}}{gap}", parts.join(","));
        (serde_json::from_str(&body).expect("json"), body)
    }
}

proptest! {
    #[test]
    fn agrees_with_a_parser((value, body) in any_body()) {
        let fields = read(&body).expect("well made");
        prop_assert_eq!(&fields.model, value["model"].as_str().expect("a string"));
        prop_assert_eq!(&serde_json::from_str::<String>(&body[fields.model_span.clone()]).expect("a string"), &fields.model);
        prop_assert_eq!(fields.stream, value["stream"] == true);
        prop_assert_eq!(fields.choices.map(u64::from), value["n"].as_u64().map(|n| n.min(u64::from(u32::MAX))));
        prop_assert_eq!(fields.store, value["store"].as_bool());
        prop_assert_eq!(fields.previous_response.as_deref(), value["previous_response_id"].as_str());
        prop_assert_eq!(body[fields.object_end..].trim(), "}");
        prop_assert_eq!(fields.length, body.len());
        if let Some(limit) = value["max_output_tokens"].as_u64() {
            prop_assert!(fields.max_output_tokens.is_some_and(|found| u64::from(found) <= limit));
        }
        let asked = value["stream_options"]["include_usage"] == true;
        prop_assert_eq!(fields.stream_options == StreamOptions::Asked, asked);
    }

    #[test]
    fn cuts_make_no_difference((_, body) in any_body(), damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
                               cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut body = body.into_bytes();
        if let Some((place, byte)) = damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        let whole = scan(&[&body]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&scan(&chunks), &whole);
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        prop_assert_eq!(&scan(&bytes), &whole);
    }

    #[test]
    fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(&[&body]);
    }

    #[test]
    fn any_near_json_is_survived(body in r#"\{"model":[\[\]{}",:\\ a1]{0,60}"#) {
        let whole = scan(&[body.as_bytes()]);
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        prop_assert_eq!(scan(&bytes), whole.clone());
        if serde_json::from_str::<Value>(&body).is_ok_and(|value| value["model"].is_string()) {
            let refused_twice = matches!(whole, Err(Malformed::DuplicateModel { .. }));
            prop_assert!(whole.is_ok() || refused_twice);
        }
    }
}
