//! The Bedrock shapes: the five operations of its runtime, its frames, and its exceptions. Only fields that clients read are there.
//!
//! InvokeModel answers in the model's own words. Here these are OpenAI's, or Anthropic's for a body that says which version of
//! theirs it is.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::call::{Call, Kind};
use super::openai::{Fault, Voice};
use super::words;
use crate::wire::bedrock::{ERROR_TYPE, exception};
use crate::wire::{Named, Operation};

const INPUT_TOKENS: HeaderName = HeaderName::from_static("x-amzn-bedrock-input-token-count");
const OUTPUT_TOKENS: HeaderName = HeaderName::from_static("x-amzn-bedrock-output-token-count");

/// What the type of a stream is called.
pub(super) const STREAM_TYPE: &str = "application/vnd.amazon.eventstream";

/// Reads a call.
pub(super) fn parse(named: Named, body: &[u8]) -> Result<Call, Fault> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Fault::BadRequest("the body is not the JSON of this call"))?;
    let kind = match named.operation {
        Operation::Converse => Kind::Converse,
        Operation::CountTokens => Kind::Count,
        _ if body.get("anthropic_version").is_some() => Kind::InvokeClaude,
        _ => Kind::Invoke,
    };
    if body.get("model").is_some_and(|model| model.as_str() != Some(&*named.model)) {
        return Err(Fault::BadRequest("the model of the body is not that of the path"));
    }
    if kind == Kind::Converse {
        hold_to_converse(&body)?;
    }
    let asked = if kind == Kind::Count { counted(&body)? } else { body };
    let texts = ["messages", "system", "prompt"].map(|name| asked.get(name).cloned().unwrap_or_default());
    if texts[0].is_null() && texts[2].is_null() {
        return Err(Fault::BadRequest("there is nothing to answer"));
    }
    let limit = asked.pointer("/inferenceConfig/maxTokens").or_else(|| asked.get("max_tokens")).and_then(Value::as_u64);
    let limit = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX).max(1));
    let tool = tool(&asked);
    Ok(Call { tool, ..Call::of_texts(kind, named.model.into(), &texts, limit, named.streamed.unwrap_or(false)) })
}

/// What Converse knows. The service refuses what it does not.
const MEMBERS: [&str; 13] = [
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "guardrailConfig",
    "projectIdentifier",
    "additionalModelRequestFields",
    "promptVariables",
    "additionalModelResponseFieldPaths",
    "requestMetadata",
    "performanceConfig",
    "serviceTier",
    "outputConfig",
];

/// Holds a request to Converse's shape, as far as a client of another API would get it wrong.
fn hold_to_converse(body: &Value) -> Result<(), Fault> {
    let strange = body.as_object().is_none_or(|members| members.keys().any(|name| !MEMBERS.contains(&&**name)));
    let turns = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    // Of its roles this is what nearly all of its models take.
    let speaks = |turn: &Value| matches!(turn["role"].as_str(), Some("user" | "assistant"));
    let fine = |turn: &Value| speaks(turn) && turn["content"].as_array().is_some_and(|content| !content.is_empty());
    let in_turn = |pair: &[Value]| pair.first().map(|turn| &turn["role"]) != pair.last().map(|turn| &turn["role"]);
    if strange || !turns.iter().all(fine) || !turns.windows(2).all(in_turn) {
        return Err(Fault::BadRequest("the body is not the JSON of this call"));
    }
    let said = || turns.iter().filter_map(|turn| turn["content"].as_array()).flatten();
    let system = body["system"].as_array().into_iter().flatten();
    if said().chain(system).any(|block| block["text"].as_str().is_some_and(|text| text.trim().is_empty())) {
        return Err(Fault::BadRequest("a text is blank"));
    }
    let of_tools = |block: &Value| block.get("toolUse").is_some() || block.get("toolResult").is_some();
    if body.get("toolConfig").is_none() && said().any(of_tools) {
        return Err(Fault::BadRequest("toolUse and toolResult are there without toolConfig"));
    }
    Ok(())
}

/// The tool that has to be called: the one that is named, or the first where it may be any.
fn tool(asked: &Value) -> Option<Box<str>> {
    let choice = asked.pointer("/toolConfig/toolChoice").or_else(|| asked.get("tool_choice"))?;
    let named = choice.pointer("/tool/name").or_else(|| choice.get("name")).and_then(Value::as_str);
    let any = choice.get("any").is_some() || choice["type"] == "any";
    let first = || asked.pointer("/toolConfig/tools/0/toolSpec/name").or_else(|| asked.pointer("/tools/0/name"))?.as_str();
    named.or_else(|| any.then(first).flatten()).map(Into::into)
}

/// The request whose tokens are to be counted.
fn counted(body: &Value) -> Result<Value, Fault> {
    const NONE: Fault = Fault::BadRequest("there is nothing to count");
    if let Some(converse) = body.pointer("/input/converse") {
        return Ok(converse.clone());
    }
    let inner = body.pointer("/input/invokeModel/body").and_then(Value::as_str).ok_or(NONE)?;
    let inner = STANDARD.decode(inner).map_err(|_| NONE)?;
    serde_json::from_slice(&inner).map_err(|_| NONE)
}

/// The frames that begin a stream.
pub(super) fn opening(voice: &Voice) -> Vec<u8> {
    match voice.call.kind {
        Kind::InvokeClaude => {
            let usage = json!({"input_tokens": voice.call.prompt_tokens, "output_tokens": 1});
            let message = json!({
                "id": format!("msg_bdrk_{}", voice.id), "type": "message", "role": "assistant", "model": voice.call.model,
                "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
            });
            let block = match &voice.call.tool {
                Some(name) => json!({"type": "tool_use", "id": format!("toolu_bdrk_{}", voice.id), "name": name, "input": {}}),
                None => json!({"type": "text", "text": ""}),
            };
            [
                chunk(&json!({"type": "message_start", "message": message})),
                chunk(&json!({"type": "content_block_start", "index": 0, "content_block": block})),
            ]
            .concat()
        }
        Kind::Invoke => chunk(&openai_chunk(voice, &json!({"role": "assistant", "content": ""}), None)),
        _ => {
            let mut frames = event("messageStart", &json!({"role": "assistant"}));
            if let Some(name) = &voice.call.tool {
                let start = json!({"toolUse": {"toolUseId": format!("tooluse_{}", voice.id), "name": name}});
                frames.extend(event("contentBlockStart", &json!({"contentBlockIndex": 0, "start": start})));
            }
            frames
        }
    }
}

/// A piece of a tool's arguments, which are one text: `{"words":".."}`.
fn arguments(voice: &Voice, tokens: std::ops::Range<u32>) -> String {
    let begin = if tokens.start == 0 { r#"{"words":""# } else { "" };
    let end = if tokens.end == voice.output_tokens { r#""}"# } else { "" };
    [begin, &words::text(voice.seed, tokens), end].concat()
}

/// The frame that carries these tokens.
pub(super) fn delta(voice: &Voice, tokens: std::ops::Range<u32>) -> Vec<u8> {
    let is_tool = voice.call.tool.is_some();
    let text = if is_tool { arguments(voice, tokens) } else { words::text(voice.seed, tokens) };
    match voice.call.kind {
        Kind::InvokeClaude if is_tool => chunk(
            &json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}}),
        ),
        Kind::Converse if is_tool => {
            event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": text}}}))
        }
        Kind::InvokeClaude => {
            chunk(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}))
        }
        Kind::Invoke => chunk(&openai_chunk(voice, &json!({"content": text}), None)),
        _ => event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": text}})),
    }
}

/// The frames that end a stream, with the usage.
pub(super) fn closing(voice: &Voice) -> Vec<u8> {
    let (input, output) = (voice.call.prompt_tokens, voice.output_tokens);
    let metrics = json!({"inputTokenCount": input, "outputTokenCount": output, "invocationLatency": 100, "firstByteLatency": 10});
    match voice.call.kind {
        Kind::InvokeClaude => {
            let delta = json!({"stop_reason": stop(voice, "end_turn", "max_tokens"), "stop_sequence": null});
            [
                chunk(&json!({"type": "content_block_stop", "index": 0})),
                chunk(&json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}})),
                chunk(&json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})),
            ]
            .concat()
        }
        Kind::Invoke => {
            let mut last = openai_chunk(voice, &json!({}), Some(stop(voice, "stop", "length")));
            last["amazon-bedrock-invocationMetrics"] = metrics;
            chunk(&last)
        }
        _ => [
            event("contentBlockStop", &json!({"contentBlockIndex": 0})),
            event("messageStop", &json!({"stopReason": stop(voice, "end_turn", "max_tokens")})),
            event("metadata", &json!({"usage": usage(voice), "metrics": {"latencyMs": 100}})),
        ]
        .concat(),
    }
}

/// The body of an answer that is not streamed.
pub(super) fn whole(voice: &Voice) -> Value {
    let text = words::text(voice.seed, 0..voice.output_tokens);
    let (input, output) = (voice.call.prompt_tokens, voice.output_tokens);
    match voice.call.kind {
        Kind::Count => json!({"inputTokens": input}),
        Kind::InvokeClaude => json!({
            "id": format!("msg_bdrk_{}", voice.id), "type": "message", "role": "assistant", "model": voice.call.model,
            "content": [match &voice.call.tool {
                Some(name) => json!({"type": "tool_use", "id": format!("toolu_bdrk_{}", voice.id), "name": name, "input": {"words": text}}),
                None => json!({"type": "text", "text": text}),
            }], "stop_reason": stop(voice, "end_turn", "max_tokens"),
            "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": output},
        }),
        Kind::Invoke => json!({
            "id": format!("chatcmpl-{}", voice.id), "object": "chat.completion", "created": voice.created, "model": voice.call.model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stop(voice, "stop", "length")}],
            "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": u64::from(input) + u64::from(output)},
        }),
        _ => json!({
            "output": {"message": {"role": "assistant", "content": [match &voice.call.tool {
                Some(name) => json!({"toolUse": {"toolUseId": format!("tooluse_{}", voice.id), "name": name, "input": {"words": text}}}),
                None => json!({"text": text}),
            }]}},
            "stopReason": stop(voice, "end_turn", "max_tokens"), "usage": usage(voice), "metrics": {"latencyMs": 100},
        }),
    }
}

/// What the head of an answer to InvokeModel says of its tokens.
pub(super) fn count_in_head(voice: &Voice, headers: &mut HeaderMap) {
    if matches!(voice.call.kind, Kind::Invoke | Kind::InvokeClaude) {
        headers.insert(INPUT_TOKENS, voice.call.prompt_tokens.into());
        headers.insert(OUTPUT_TOKENS, voice.output_tokens.into());
    }
}

/// A fault as AWS says it: the exception in the head, the message in the body.
pub(super) fn fault(fault: Fault, headers: &mut HeaderMap) -> Value {
    let name = if fault.is_of_signature() { "InvalidSignatureException" } else { exception(fault.status()) };
    headers.insert(ERROR_TYPE, http::HeaderValue::from_static(name));
    json!({"message": fault.json()["error"]["message"]})
}

fn usage(voice: &Voice) -> Value {
    let (input, output) = (voice.call.prompt_tokens, voice.output_tokens);
    json!({"inputTokens": input, "outputTokens": output, "totalTokens": u64::from(input) + u64::from(output)})
}

fn stop(voice: &Voice, by_itself: &'static str, at_limit: &'static str) -> &'static str {
    if voice.call.tool.is_some() {
        return "tool_use";
    }
    if voice.call.limit.is_some_and(|limit| voice.output_tokens >= limit) { at_limit } else { by_itself }
}

fn openai_chunk(voice: &Voice, delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": format!("chatcmpl-{}", voice.id), "object": "chat.completion.chunk", "created": voice.created,
        "model": voice.call.model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    })
}

fn chunk(inner: &Value) -> Vec<u8> {
    event("chunk", &json!({"bytes": STANDARD.encode(inner.to_string())}))
}

fn event(name: &str, payload: &Value) -> Vec<u8> {
    frame("event", (":event-type", name), payload)
}

/// The frame in which a stream says that there is no room for it.
pub(super) fn throttled() -> Vec<u8> {
    frame(
        "exception",
        (":exception-type", "throttlingException"),
        &json!({"message": "Too many tokens, please wait before trying again."}),
    )
}

fn frame(kind: &str, (name, value): (&'static str, &str), payload: &Value) -> Vec<u8> {
    let text = |text: &str| HeaderValue::String(text.to_owned().into());
    let message = Message::new(Bytes::from(payload.to_string()))
        .add_header(Header::new(name, text(value)))
        .add_header(Header::new(":content-type", text("application/json")))
        .add_header(Header::new(":message-type", text(kind)));
    let mut frame = Vec::new();
    // Only a header longer than 64 KiB could fail.
    let _ = write_message_to(&message, &mut frame);
    frame
}
