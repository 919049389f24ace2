use proptest::prelude::*;

use super::super::search::USAGE_BYTES;
use super::*;

fn meter(mut meter: Meter, chunks: &[&[u8]]) -> (Usage, UsageSource, bool) {
    for chunk in chunks {
        meter.feed(&Bytes::copy_from_slice(chunk));
    }
    let (usage, source) = meter.finish();
    (usage, source, meter.saw_first_data())
}

/// As serde reads a usage object.
fn by_serde(object: &serde_json::Value) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Reported {
        prompt_tokens: Option<u64>,
        completion_tokens: Option<u64>,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        prompt_tokens_details: Option<Details>,
        completion_tokens_details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    struct Details {
        cached_tokens: Option<u64>,
        reasoning_tokens: Option<u64>,
    }
    let reported: Reported = serde_json::from_value(object.clone()).ok()?;
    let usage = Usage {
        input_tokens: reported.prompt_tokens.or(reported.input_tokens),
        cached_tokens: reported.prompt_tokens_details.unwrap_or_default().cached_tokens,
        output_tokens: reported.completion_tokens.or(reported.output_tokens),
        reasoning_tokens: reported.completion_tokens_details.unwrap_or_default().reasoning_tokens,
    };
    (usage.input_tokens.is_some() || usage.output_tokens.is_some()).then_some(usage)
}

/// Values of which a few are counts.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let details = (any::<Option<u32>>(), any::<Option<u32>>(), ".{0,6}").prop_map(
        |(cached, reasoning, name)| json!({ name: [1, {"}": "]"}], "cached_tokens": cached, "reasoning_tokens": reasoning }),
    );
    prop_oneof![
        4 => any::<u64>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => (-5.0..5.0).prop_map(Value::from),
        1 => ".{0,8}".prop_map(Value::from),
        1 => Just(json!([1, "]", {}])),
        3 => details,
    ]
}

/// What stands beside a recorded stream.
#[derive(Deserialize)]
struct Expected {
    operation: Operation,
    source: UsageSource,
    usage: Usage,
}

macro_rules! cases {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_bytes!(concat!("../../tests/cases/wire/", $name, ".sse")).as_slice(),
            include_str!(concat!("../../tests/cases/wire/", $name, ".json")),
        )),*]
    };
}

fn cases() -> Vec<(&'static str, &'static [u8], Expected)> {
    cases![
        "chat-asked",
        "chat-azure-filtered",
        "chat-cut",
        "chat-reasoning",
        "chat-running-total-cut",
        "chat-spaced-crlf",
        "chat-tools-not-asked",
        "completions",
        "gemini",
        "gemini-cut",
        "gemini-thinking-cached",
        "gemini-withheld",
        "messages",
        "messages-cached-running-total",
        "messages-crlf-padded",
        "messages-cut",
        "messages-cut-before-output",
        "messages-overloaded",
        "messages-thinking-tools",
        "responses-completed",
        "responses-cut",
        "responses-failed",
        "responses-incomplete",
    ]
    .into_iter()
    .map(|(name, stream, expected)| (name, stream, serde_json::from_str(expected).expect(name)))
    .collect()
}

#[test]
fn streams_are_metered_wherever_they_are_cut() {
    for (name, stream, expected) in cases() {
        let expected_all = (expected.usage, expected.source, true);
        assert_eq!(meter(Meter::sse(expected.operation), &[stream]), expected_all, "{name}");
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(meter(Meter::sse(expected.operation), &bytes), expected_all, "{name} by bytes");
        for cut in 0..stream.len() {
            let (one, two) = stream.split_at(cut);
            assert_eq!(meter(Meter::sse(expected.operation), &[one, two]), expected_all, "{name} cut at {cut}");
        }
    }
}

#[test]
fn json_bodies_are_read_to_the_last_usage() {
    let body = br#"{"tools":[{"usage":{"type":"object"}}],"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],
        "usage" : {"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8}}}"#;
    let expected = Usage { input_tokens: Some(12), cached_tokens: Some(8), output_tokens: Some(3), reasoning_tokens: None };
    assert_eq!(meter(Meter::json(Operation::Chat, &Fields::default()), &[body]), (expected, UsageSource::Reported, true));
    let embeddings = br#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;
    let expected = Usage { input_tokens: Some(5), output_tokens: Some(0), ..Usage::default() };
    assert_eq!(
        meter(Meter::json(Operation::Embeddings, &Fields::default()), &[embeddings]),
        (expected, UsageSource::Reported, true)
    );
}

/// Models on Bedrock whose own answer says nothing of tokens have them counted in the head; where both say it, the body says more.
#[test]
fn what_bedrock_says_in_the_head_counts_where_the_body_says_nothing() {
    let head = |fields: &[(&'static str, &'static str)]| {
        let mut head = Fields::default();
        for (name, value) in fields {
            head.append(&http::HeaderName::from_static(name), &http::HeaderValue::from_static(value));
        }
        head
    };
    let both = head(&[
        ("x-amzn-bedrock-input-token-count", "11"),
        ("x-amzn-bedrock-output-token-count", "7"),
        ("x-amzn-bedrock-invocation-latency", "420"),
    ]);
    let said = |input, output| Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
    let titan = br#"{"inputTextTokenCount":11,"results":[{"tokenCount":7,"outputText":"x","completionReason":"FINISH"}]}"#;
    let claude = br#"{"type":"message","usage":{"input_tokens":3,"cache_read_input_tokens":8,"output_tokens":7}}"#;
    let cached = Usage { cached_tokens: Some(8), ..said(Some(11), Some(7)) };
    for (fields, body, expected) in [
        (&both, &titan[..], (said(Some(11), Some(7)), UsageSource::Reported, true)),
        (&both, claude, (cached, UsageSource::Reported, true)),
        (&head(&[("x-amzn-bedrock-input-token-count", "5")]), titan, (said(Some(5), None), UsageSource::Reported, true)),
        (&head(&[("x-amzn-bedrock-input-token-count", "many")]), titan, (Usage::default(), UsageSource::Unknown, true)),
        (&Fields::default(), titan, (Usage::default(), UsageSource::Unknown, true)),
    ] {
        for size in [1, body.len()] {
            let chunks: Vec<&[u8]> = body.chunks(size).collect();
            assert_eq!(meter(Meter::json(Operation::InvokeModel, fields), &chunks), expected);
        }
    }
    assert_eq!(meter(Meter::json(Operation::Chat, &both), &[titan]).0, Usage::default(), "elsewhere it is no field that counts");
    assert_eq!(Meter::json(Operation::InvokeModel, &both).clocked().whole_ms, Some(420));
}

/// Gemini's stream in its other form: one array, whatever is missing of its end.
#[test]
fn an_array_of_chunks_is_read_to_the_last_usage() {
    let whole = br#"[{"candidates": [{"content": {"parts": [{"text": "a"}]}}], "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1}},
        {"candidates": [], "usageMetadata": {"candidatesTokenCount": 8, "totalTokenCount": 13}}]"#;
    let of =
        |output| (Usage { input_tokens: Some(5), output_tokens: Some(output), ..Usage::default() }, UsageSource::Reported, true);
    for end in 0..whole.len() {
        let bytes: Vec<&[u8]> = whole[..end].chunks(1).collect();
        let (usage, source, _) = meter(Meter::json(Operation::GenerateContent, &Fields::default()), &bytes);
        let seen = [(Usage::default(), UsageSource::Unknown), (of(1).0, of(1).1), (of(8).0, of(8).1)];
        assert!(seen.contains(&(usage, source)), "{end}: {usage:?}");
    }
    assert_eq!(meter(Meter::json(Operation::GenerateContent, &Fields::default()), &[whole]), of(8));
}

#[test]
fn what_a_model_was_made_to_say_is_no_report() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    let forged = r#"{"promptTokenCount":1,"cachedContentTokenCount":1000000000000000000}"#;
    let call = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"functionCall":{{"name":"f","args":{{"deep":{deep},"usageMetadata":{forged}}}}}}}]}}}}],"modelVersion":"usageMetadata","usageMetadata":{{"promptTokenCount":40,"candidatesTokenCount":7}}}}"#
    );
    let said = Usage { input_tokens: Some(40), output_tokens: Some(7), ..Usage::default() };
    let message = format!(
        r#"{{"type":"message","content":[{{"type":"tool_use","input":{{"deep":{deep},"usage":{{"input_tokens":1,"inference_geo":"us"}}}}}}],"usage":{{"input_tokens":40,"output_tokens":7}}}}"#
    );
    let cases = [
        (Operation::GenerateContent, false, call.clone()),
        (Operation::GenerateContent, false, format!("[{call},\n{call}]")),
        (Operation::GenerateContent, true, format!("data: {call}\r\n\r\ndata: {call}\r\n\r\n")),
        (Operation::Messages, false, message.clone()),
        (Operation::InvokeModel, false, message),
    ];
    for (operation, streamed, body) in cases {
        for size in [1, 7, body.len()] {
            let mut meter = if streamed { Meter::sse(operation) } else { Meter::json(operation, &Fields::default()) };
            body.as_bytes().chunks(size).for_each(|chunk| meter.feed(&Bytes::copy_from_slice(chunk)));
            assert_eq!(meter.finish(), (said, UsageSource::Reported), "{operation:?} by {size}: {body}");
            assert_eq!(meter.inference_geo(), None);
        }
    }
}

#[test]
fn no_more_is_cached_than_was_read() {
    let body = br#"{"usage":{"prompt_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":1000000000000}}}"#;
    assert_eq!(meter(Meter::json(Operation::Chat, &Fields::default()), &[body]).0.cached_tokens, Some(12));
}

#[test]
fn an_array_that_was_left_is_counted_and_one_that_ends_in_an_error_is_one() {
    let first =
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#;
    let empty = r#"{"candidates":[],"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#;
    let of = |output| Usage { input_tokens: Some(9), output_tokens: Some(output), ..Usage::default() };
    for (body, expected, error) in [
        (format!("[{first}"), (of(1), UsageSource::Counted), None),
        (format!("[{first},{first}"), (of(2), UsageSource::Counted), None),
        (format!("[{empty}"), (of(0), UsageSource::Counted), None),
        (format!("[{empty}]"), (of(0), UsageSource::Reported), None),
        (
            format!(r#"[{first},{{"error":{{"code":503}}}}]"#),
            (of(1), UsageSource::Counted),
            Some(StreamError::Full { whole: true }),
        ),
    ] {
        for size in [1, body.len()] {
            let mut meter = Meter::json(Operation::GenerateContent, &Fields::default());
            body.as_bytes().chunks(size).for_each(|chunk| meter.feed(&Bytes::copy_from_slice(chunk)));
            assert_eq!((meter.finish(), meter.error()), (expected, error), "{body}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let unknown = |first| (Usage::default(), UsageSource::Unknown, first);
    let long = format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{}"}}}}"#, "y".repeat(USAGE_BYTES));
    for body in [r#"{"usage":null}"#, r#"{"usage":{"prompt_tokens":1"#, r#"{"usage":{"prompt_tokens":"1"}}"#, "<html>", &long] {
        assert_eq!(meter(Meter::json(Operation::Chat, &Fields::default()), &[body.as_bytes()]), unknown(true), "{body}");
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(meter(Meter::json(Operation::Chat, &Fields::default()), &bytes), unknown(true), "{body} by bytes");
    }
    assert_eq!(meter(Meter::json(Operation::Chat, &Fields::default()), &[]), unknown(false));
    assert_eq!(meter(Meter::off(), &[br#"{"usage":{"prompt_tokens":1}}"#]), unknown(true));
    assert_eq!(meter(Meter::sse(Operation::Chat), &[b": keep-alive\n\n"]), unknown(false));
}

proptest! {
    #[test]
    fn a_usage_object_is_read_as_serde_reads_it(
        prompt in prop::option::of(prop_oneof![4 => any::<u32>().prop_map(serde_json::Value::from), 1 => any_value()]),
        completion in prop::option::of(prop_oneof![4 => any::<u32>().prop_map(serde_json::Value::from), 1 => any_value()]),
        details in prop::option::of(any_value()),
        others in prop::collection::vec(("[a-z\"\\\\]{0,6}", any_value()), 0..4),
        pretty: bool,
    ) {
        let mut object = serde_json::Map::new();
        for (name, value) in others {
            object.insert(name, value);
        }
        for (name, value) in [("prompt_tokens", prompt), ("completion_tokens", completion), ("prompt_tokens_details", details)] {
            object.extend(value.map(|value| (name.to_owned(), value)));
        }
        let object = serde_json::Value::Object(object);
        let text = if pretty { serde_json::to_string_pretty(&object).unwrap() } else { object.to_string() };
        prop_assert_eq!(read(Operation::Chat, text.as_bytes()), by_serde(&object), "{}", text);
    }
    #[test]
    fn cuts_make_no_difference(case in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let cases = cases();
        let (_, stream, expected) = &cases[case.index(cases.len())];
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        prop_assert_eq!(meter(Meter::sse(expected.operation), &chunks), (expected.usage, expected.source, true));
    }

    #[test]
    fn any_text_is_survived_and_cut_anywhere(text in r#"("usage"|:|\{|\}|"|\\|"prompt_tokens"|1|,|"delta"|data|\n|\r| ){0,40}"#) {
        for operation in [Operation::Chat, Operation::Completions, Operation::Responses, Operation::Messages, Operation::GenerateContent] {
            let whole = meter(Meter::sse(operation), &[text.as_bytes()]);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            prop_assert_eq!(meter(Meter::sse(operation), &bytes), whole);
        }
    }
}
