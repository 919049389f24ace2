//! The Anthropic shapes: messages, events of a stream, errors. Only fields that clients read are there.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::call::Kind;
use super::openai::{Fault, Voice};
use super::words;
use crate::wire::Dialect;
use crate::wire::error::error_body;

/// Who sends it is a client of this API.
pub(super) const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// Where its SDKs read the id of a request.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Where they put their key, unless it is a bearer's.
pub(super) const KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How much more a client may ask.
pub(super) const LEFT: (HeaderName, HeaderValue) =
    (HeaderName::from_static("anthropic-ratelimit-requests-remaining"), HeaderValue::from_static("999"));

/// The events that begin a stream.
pub(super) fn opening(voice: &Voice) -> String {
    let mut message = message(voice, &json!([]), &Value::Null);
    message["usage"]["output_tokens"] = json!(1);
    event("message_start", json!({"message": message}))
        + &event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}}))
        + &event("ping", json!({}))
}

/// The event that carries these tokens.
pub(super) fn delta(voice: &Voice, tokens: std::ops::Range<u32>) -> String {
    let delta = json!({"type": "text_delta", "text": words::text(voice.seed, tokens)});
    event("content_block_delta", json!({"index": 0, "delta": delta}))
}

/// The events that end a stream.
pub(super) fn closing(voice: &Voice) -> String {
    let delta = json!({"stop_reason": stop(voice), "stop_sequence": null});
    event("content_block_stop", json!({"index": 0}))
        + &event("message_delta", json!({"delta": delta, "usage": {"output_tokens": voice.output_tokens}}))
        + &event("message_stop", json!({}))
}

/// The body of an answer that is not streamed.
pub(super) fn whole(voice: &Voice) -> Value {
    if voice.call.kind == Kind::CountMessages {
        return json!({"input_tokens": voice.call.prompt_tokens});
    }
    let text = words::text(voice.seed, 0..voice.output_tokens);
    message(voice, &json!([{"type": "text", "text": text}]), &json!(stop(voice)))
}

/// A fault in the words of this API.
pub(super) fn fault(fault: Fault) -> Bytes {
    let said = fault.json();
    error_body(Dialect::Anthropic, fault.status(), "", said["error"]["message"].as_str().unwrap_or_default(), None)
}

/// The list of models, by name.
pub(super) fn models<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let models: Vec<Value> =
        names.map(|id| json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z"})).collect();
    json!({"data": models, "has_more": false, "first_id": null, "last_id": null})
}

fn message(voice: &Voice, content: &Value, stop: &Value) -> Value {
    let usage = json!({
        "input_tokens": voice.call.prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "output_tokens": voice.output_tokens, "service_tier": "standard", "inference_geo": "global",
    });
    json!({
        "id": format!("msg_{}", voice.id), "type": "message", "role": "assistant", "model": voice.call.model,
        "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
    })
}

fn stop(voice: &Voice) -> &'static str {
    if voice.call.limit.is_some_and(|limit| voice.output_tokens >= limit) { "max_tokens" } else { "end_turn" }
}

fn event(name: &str, mut fields: Value) -> String {
    fields["type"] = json!(name);
    format!("event: {name}\ndata: {fields}\n\n")
}
