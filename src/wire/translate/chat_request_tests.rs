use serde_json::Value;

use super::*;

const BEGINNING: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]"#;

const OF_METADATA: &str =
    "`metadata.a` must have 256 characters at most, of letters, digits, white space and :_@$#=/+,-. (its name too)";

fn refused(body: &str) -> String {
    translate(body.as_bytes()).expect_err(body).to_string()
}

#[test]
fn what_has_no_counterpart_is_refused_by_its_name() {
    for (member, expected) in [
        (r#""n":2"#, "`n` can only be 1: Converse gives one answer"),
        (r#""logprobs":true"#, "`logprobs` cannot be had from Bedrock's Converse, which tells no probabilities"),
        (r#""top_logprobs":3"#, "`top_logprobs` cannot be had from Bedrock's Converse, which tells no probabilities"),
        (r#""seed":7"#, "`seed` has no counterpart in Bedrock's Converse"),
        (r#""user":7"#, "`user` must be a string"),
        (r#""frequency_penalty":0.5"#, "`frequency_penalty` has no counterpart in Bedrock's Converse"),
        (r#""store":true"#, "`store` cannot be true: nothing is kept behind Converse"),
        (r#""modalities":["text","audio"]"#, "`modalities` can only be text"),
        (r#""functions":[{}]"#, "`functions` is the elder form of `tools`, and only that is translated"),
        (r#""parallel_tool_calls":0"#, "`parallel_tool_calls` must be true or false"),
        (
            r#""parallel_tool_calls":false,"tools":[{"type":"function","function":{"name":"f"}}]"#,
            "`parallel_tool_calls` cannot be false: Converse has no word for it",
        ),
        (r#""brand_new":1"#, "`brand_new` has no counterpart in the API of the backend that would serve it"),
        (r#""brand_new":null"#, "`brand_new` has no counterpart in the API of the backend that would serve it"),
        (r#""model":"x""#, "`model` is given twice"),
        (r#""temperature":"hot""#, "`temperature` must be a number"),
        (r#""temperature":1.01"#, "`temperature` must be from 0 to 1 there"),
        (r#""temperature":-1"#, "`temperature` must be from 0 to 1 there"),
        (r#""top_p":2"#, "`top_p` must be from 0 to 1 there"),
        (r#""max_tokens":0"#, "`max_tokens` must be a whole number above 0"),
        (r#""max_tokens":1,"max_completion_tokens":2"#, "`max_tokens` cannot be given beside `max_completion_tokens`"),
        (r#""stop":["a",1]"#, "`stop[1]` must be a string"),
        (r#""stop":"""#, "`stop` is empty, and Bedrock takes no such stop"),
        (r#""stop":["a",""]"#, "`stop[1]` is empty, and Bedrock takes no such stop"),
        (r#""stop":7"#, "`stop` must be a string or an array"),
        (r#""stream":"yes""#, "`stream` must be true or false"),
        (r#""stream_options":{}"#, "`stream_options` is for streams alone"),
        (
            r#""stream":true,"stream_options":{"include_obfuscation":true}"#,
            "`stream_options.include_obfuscation` cannot be had of this backend",
        ),
        (
            r#""response_format":{"type":"json_object"}"#,
            "`response_format.type` must be text or json_schema: Converse has no other",
        ),
        (
            r#""response_format":{"type":"json_schema","json_schema":{"name":"n"}}"#,
            "`response_format.json_schema.schema` is missing",
        ),
        (r#""reasoning_effort":"minimal""#, "`reasoning_effort` must be one of low, medium, high, xhigh, max there"),
        (r#""service_tier":"scale""#, "`service_tier` must be auto, default, flex or priority there"),
        (r#""metadata":{"a":1}"#, "`metadata.a` must be a string"),
        (r#""metadata":{"a":"\u00e9"}"#, OF_METADATA),
        (r#""metadata":{"a":"a;b"}"#, OF_METADATA),
        (r#""tool_choice":"required""#, "`tool_choice` asks for a tool, and there are no `tools`"),
        (r#""tools":[{"type":"custom","custom":{}}]"#, "`tools[0].type` must be function: nothing else is translated"),
        (r#""tools":[{"type":"function","function":{"name":1}}]"#, "`tools[0].function.name` must be a string"),
        (
            r#""tools":[{"type":"function","function":{"name":"a.b"}}]"#,
            "`tools[0].function.name` must have 1 to 64 of a-z, A-Z, 0-9, _ and -: Bedrock takes no other",
        ),
        (
            r#""tools":[{"type":"function","function":{"name":"f","parameters":[]}}]"#,
            "`tools[0].function.parameters` must be an object",
        ),
        (
            r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none""#,
            "`tool_choice` cannot be none beside `tools`: Converse has no word for it",
        ),
        (
            r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"allowed_tools"}"#,
            "`tool_choice.type` must be function: nothing else is translated",
        ),
    ] {
        assert_eq!(refused(&format!("{BEGINNING},{member}}}")), expected);
    }
}

#[test]
fn a_message_that_cannot_be_said_there_is_refused_by_its_place() {
    for (message, expected) in [
        (r#"{"content":"x"}"#, "`messages[1].role` is missing"),
        (r#"{"role":"user"}"#, "`messages[1].content` is missing"),
        (r#"{"role":"user","content":7}"#, "`messages[1].content` must be a string or an array"),
        (
            r#"{"role":"user","content":"x","name":"Bo"}"#,
            "`messages[1].name` has no counterpart in Bedrock's Converse, where only roles speak",
        ),
        (r#"{"role":"function","content":"x"}"#, "`messages[1].role` must be system, developer, user, assistant or tool"),
        (r#"{"role":"system","content":"y"}"#, "`messages[1].role` cannot be system once the conversation has begun"),
        (
            r#"{"role":"tool","tool_call_id":"a b","content":"x"}"#,
            "`messages[1].tool_call_id` must have 1 to 64 of a-z, A-Z, 0-9, _ and -: Bedrock takes no other",
        ),
        (
            r#"{"role":"tool","tool_call_id":"c","content":"x"}"#,
            "`tools` is missing: beside calls and their results Bedrock wants the tools told",
        ),
        (
            r#"{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}],"tools":["#,
            "`tools` is missing: beside calls and their results Bedrock wants the tools told",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"x"},{"type":"input_audio","input_audio":{}}]}"#,
            "`messages[1].content[1].type` must be text or image_url: nothing else is translated",
        ),
        (
            r#"{"role":"user","content":[{"type":"file","file":{"file_data":"data:application/pdf;base64,AA=="}}]}"#,
            "`messages[1].content[0].type` must be text or image_url: nothing else is translated",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{}}]}"#,
            "`messages[1].content[0].prompt_cache_breakpoint` has no counterpart in the API of the backend that would serve it",
        ),
        (r#"{"role":"assistant"}"#, "`messages[1].content` is missing"),
        (
            r#"{"role":"assistant","content":"x","refusal":"no"}"#,
            "`messages[1].refusal` has no counterpart in Bedrock's Converse",
        ),
        (
            r#"{"role":"assistant","content":"x","reasoning_content":"y"}"#,
            "`messages[1].reasoning_content` has no counterpart in the API of the backend that would serve it",
        ),
        (
            r#"{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"[1]"}}]}"#,
            "`messages[1].tool_calls[0].function.arguments` must be the text of a JSON object",
        ),
        (
            r#"{"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{}}]}"#,
            "`messages[1].tool_calls[0].type` must be function: nothing else is translated",
        ),
        (r#"{"role":"tool","content":"x"}"#, "`messages[1].tool_call_id` is missing"),
    ] {
        assert_eq!(refused(&format!(r#"{{"messages":[{{"role":"user","content":"x"}},{message}]}}"#)), expected);
    }
    assert_eq!(refused("{}"), "`messages` is missing");
    assert_eq!(refused(r#"{"messages":{}}"#), "`messages` must be an array");
    assert_eq!(refused(r#"{"messages":[7]}"#), "`messages[0]` must be an object");
}

#[test]
fn a_picture_that_cannot_be_shown_there_is_refused_by_its_place() {
    let remote = "`messages[1].content[0].image_url.url` must be a data URL (`data:image/png;base64,..`): a picture that lies elsewhere is not fetched";
    for (message, expected) in [
        (r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}"#, remote),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/bmp;base64,AA=="}}]}"#,
            "`messages[1].content[0].image_url.url` must be a PNG, JPEG, GIF or WebP",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"detail":"low","url":"data:image/png;base64,AA=="}}]}"#,
            "`messages[1].content[0].image_url.detail` cannot be low: Converse has no word for it, and would charge for the whole picture",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,A A"}}]}"#,
            "`messages[1].content[0].image_url.url` is not in base64",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,A=A=="}}]}"#,
            "`messages[1].content[0].image_url.url` is not in base64",
        ),
    ] {
        assert_eq!(refused(&format!(r#"{{"messages":[{{"role":"user","content":"x"}},{message}]}}"#)), expected);
    }
    assert_eq!(refused("{}"), "`messages` is missing");
    assert_eq!(refused(r#"{"messages":{}}"#), "`messages` must be an array");
    assert_eq!(refused(r#"{"messages":[7]}"#), "`messages[0]` must be an object");
}

#[test]
fn turns_alternate_whatever_was_said_in_a_row() {
    let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"assistant","content":"c"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"1","name":"f","content":""},{"role":"user","content":"d"}],
        "tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let there: Value = serde_json::from_slice(&translate(body.as_bytes()).unwrap()).unwrap();
    let turns = there["messages"].as_array().unwrap();
    let shape: Vec<(&str, usize)> =
        turns.iter().map(|turn| (turn["role"].as_str().unwrap(), turn["content"].as_array().unwrap().len())).collect();
    assert_eq!(shape, [("user", 2), ("assistant", 2), ("user", 2)]);
    assert_eq!(turns[2]["content"][0]["toolResult"]["content"], Value::Array(Vec::new()), "an empty text is refused there");
}

#[test]
fn a_blank_text_is_never_sent() {
    let there = |messages: &str| {
        let body = translate(format!(r#"{{"messages":[{messages}]}}"#).as_bytes()).map_err(|refusal| refusal.to_string())?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        Ok::<_, String>(format!("{}{}", body["system"], body["messages"]))
    };
    let (x, answered) = (r#"{"role":"user","content":"x"}"#, r#"{"content":[{"text":"x"}],"role":"user"}"#);
    // What we answered ourselves, where a model said nothing.
    for blank in [r#""""#, r#"" \n\u0009""#, "[]", r#"[{"type":"text","text":"  "}]"#] {
        let silent = format!(r#"{{"role":"assistant","content":{blank}}}"#);
        let expected = r#"null[{"content":[{"text":"x"},{"text":"x"}],"role":"user"}]"#;
        assert_eq!(there(&format!("{x},{silent},{x}")).as_deref(), Ok(expected), "{blank}");
        for role in ["system", "developer"] {
            let system = format!(r#"{{"role":"{role}","content":{blank}}}"#);
            assert_eq!(there(&format!("{system},{x},{system}")), Ok(format!("null[{answered}]")), "{blank}");
        }
        let mute = format!(r#"{{"role":"user","content":{blank}}}"#);
        assert_eq!(there(&format!("{x},{mute}")), Ok(format!("null[{answered}]")), "{blank}");
        let refused = "`messages[0].content` is blank, and Bedrock takes no turn without content";
        assert_eq!(there(&mute), Err(refused.into()), "{blank}");
        assert_eq!(there(&silent), Err("`messages` has nobody say anything but the system".into()), "{blank}");
    }
    let parts = r#"{"role":"user","content":[{"type":"text","text":""},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AA==","detail":"high"}}]}"#;
    let image = r#"null[{"content":[{"image":{"format":"png","source":{"bytes":"AA=="}}}],"role":"user"}]"#;
    assert_eq!(there(parts).as_deref(), Ok(image));
    let spaced = r#"{"role":"user","content":" \u0020x"}"#;
    assert_eq!(there(spaced).as_deref(), Ok(r#"null[{"content":[{"text":"  x"}],"role":"user"}]"#));
}

#[test]
fn what_says_nothing_says_it_however_it_is_written() {
    for member in [
        r#""modalities":[ "t\u0065xt" ]"#,
        r#""logit_bias":{ }"#,
        r#""presence_penalty":-0.0,"frequency_penalty":0.00"#,
        r#""n":1.0,"user":"u","parallel_tool_calls":false"#,
    ] {
        let there = translate(format!("{BEGINNING},{member}}}").as_bytes()).map_err(|refusal| refusal.to_string());
        assert_eq!(there.as_deref(), Ok(&br#"{"messages":[{"role":"user","content":[{"text":"x"}]}]}"#[..]), "{member}");
    }
}

#[test]
fn what_is_without_end_is_refused_before_it_is_kept() {
    assert_eq!(refused(&format!("{BEGINNING},\"stop\":[{}]}}", vec![r#""a""#; 2501].join(","))), "`stop` must be 2500 at most");
    let pairs: Vec<String> = (0..17).map(|place| format!("\"{place}\":\"\"")).collect();
    assert_eq!(refused(&format!("{BEGINNING},\"metadata\":{{{}}}}}", pairs.join(","))), "`metadata` must be 16 pairs at most");
    let members = r#""a":0,"#.repeat(300);
    assert!(refused(&format!("{{{members}\"b\":0}}")).starts_with("`body` is not valid JSON: there are too many members"));
    let why = "has too many members, or one without a readable name";
    assert_eq!(refused(&format!(r#"{{"messages":[{{{members}"b":0}}]}}"#)), format!("`messages[0]` {why}"));
    let elements = "0,".repeat(100_000);
    assert_eq!(refused(&format!(r#"{{"messages":[{elements}0]}}"#)), "`messages` has too many elements");
}
