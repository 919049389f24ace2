use serde_json::Value;

use super::*;

const BEGINNING: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]"#;

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
        (r#""user":"u""#, "`user` has no counterpart in Bedrock's Converse"),
        (r#""frequency_penalty":0.5"#, "`frequency_penalty` has no counterpart in Bedrock's Converse"),
        (r#""store":true"#, "`store` cannot be true: nothing is kept behind Converse"),
        (r#""modalities":["text","audio"]"#, "`modalities` can only be text"),
        (r#""functions":[{}]"#, "`functions` is the elder form of `tools`, and only that is translated"),
        (r#""parallel_tool_calls":false"#, "`parallel_tool_calls` cannot be false: Converse has no word for it"),
        (r#""brand_new":1"#, "`brand_new` has no counterpart in the API of the backend that would serve it"),
        (r#""brand_new":null"#, "`brand_new` has no counterpart in the API of the backend that would serve it"),
        (r#""model":"x""#, "`model` is given twice"),
        (r#""temperature":"hot""#, "`temperature` must be a number"),
        (r#""max_tokens":0"#, "`max_tokens` must be a whole number above 0"),
        (r#""max_tokens":1,"max_completion_tokens":2"#, "`max_tokens` cannot be given beside `max_completion_tokens`"),
        (r#""stop":["a",1]"#, "`stop[1]` must be a string"),
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
        (r#""tool_choice":"required""#, "`tool_choice` asks for a tool, and there are no `tools`"),
        (r#""tools":[{"type":"custom","custom":{}}]"#, "`tools[0].type` must be function: nothing else is translated"),
        (r#""tools":[{"type":"function","function":{"name":1}}]"#, "`tools[0].function.name` must be a string"),
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
    let remote = "`messages[1].content[0].image_url.url` must be a data URL (`data:image/png;base64,..`): a picture that lies elsewhere is not fetched";
    for (message, expected) in [
        (r#"{"content":"x"}"#, "`messages[1].role` is missing"),
        (r#"{"role":"user"}"#, "`messages[1].content` is missing"),
        (r#"{"role":"user","content":7}"#, "`messages[1].content` must be a string or an array"),
        (
            r#"{"role":"user","content":"x","name":"Bo"}"#,
            "`messages[1].name` has no counterpart in Bedrock's Converse, where only roles speak",
        ),
        (r#"{"role":"function","content":"x"}"#, "`messages[1].role` must be system, developer, user, assistant or tool"),
        (r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}"#, remote),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/bmp;base64,AA=="}}]}"#,
            "`messages[1].content[0].image_url.url` must be a PNG, JPEG, GIF or WebP",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,A A"}}]}"#,
            "`messages[1].content[0].image_url.url` is not in base64",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA","detail":"low"}}]}"#,
            "`messages[1].content[0].image_url.detail` can only be auto",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"x"},{"type":"input_audio","input_audio":{}}]}"#,
            "`messages[1].content[1].type` must be text or image_url: nothing else is translated",
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
fn turns_alternate_whatever_was_said_in_a_row() {
    let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"assistant","content":"c"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"1","content":""},{"role":"user","content":"d"}]}"#;
    let there: Value = serde_json::from_slice(&translate(body.as_bytes()).unwrap()).unwrap();
    let turns = there["messages"].as_array().unwrap();
    let shape: Vec<(&str, usize)> =
        turns.iter().map(|turn| (turn["role"].as_str().unwrap(), turn["content"].as_array().unwrap().len())).collect();
    assert_eq!(shape, [("user", 2), ("assistant", 2), ("user", 2)]);
    assert_eq!(turns[2]["content"][0]["toolResult"]["content"], Value::Array(Vec::new()), "an empty text is refused there");
}
