//! The shapes of Gemini and Vertex AI: answers, chunks of a stream as events or as one array, errors. Only fields that clients read are
//! there.

use bytes::Bytes;
use http::HeaderName;
use serde_json::{Value, json};

use super::call::{Call, Kind};
use super::openai::{Fault, Voice};
use super::words;
use crate::wire::error::error_body;
use crate::wire::{Dialect, Named, Operation};

/// Where a client without a token shows its key.
pub(super) const KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// Reads a call; as events, where a stream is asked for in that form.
pub(super) fn parse(named: Named, as_events: bool, body: &[u8]) -> Result<Call, Fault> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Fault::BadRequest("Invalid JSON payload received"))?;
    let kind = match named.operation {
        Operation::CountTokens => Kind::CountContents,
        Operation::Embeddings if body.get("requests").is_some() => Kind::EmbedContents,
        Operation::Embeddings => Kind::EmbedContent,
        Operation::Messages if body.get("anthropic_version").is_none() => {
            return Err(Fault::BadRequest("anthropic_version: field required"));
        }
        Operation::Messages => Kind::Messages,
        _ if named.streamed == Some(true) && !as_events => Kind::GenerateArray,
        _ => Kind::Generate,
    };
    let requests = body.get("requests").and_then(Value::as_array).map_or(std::slice::from_ref(&body), Vec::as_slice);
    let own = format!("models/{}", named.model);
    if named.operation == Operation::Embeddings && requests.iter().any(|one| one.get("model").is_some_and(|name| *name != *own)) {
        return Err(Fault::BadRequest("the model of the body is not that of the path"));
    }
    if kind == Kind::EmbedContents {
        let contents: Vec<Value> = requests.iter().filter_map(|one| one.get("content").cloned()).collect();
        let inputs = requests.len();
        return Ok(Call { inputs, ..Call::of_texts(kind, named.model.into(), &contents, None, false) });
    }
    let asked = ["contents", "content", "messages"].iter().find_map(|name| body.get(*name)).cloned().unwrap_or_default();
    if asked.is_null() {
        return Err(Fault::BadRequest("contents is not specified"));
    }
    let limit = body.pointer("/generationConfig/maxOutputTokens").or_else(|| body.get("max_tokens")).and_then(Value::as_u64);
    let limit = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX).max(1));
    let system = ["systemInstruction", "system"].iter().find_map(|name| body.get(*name)).cloned().unwrap_or_default();
    Ok(Call::of_texts(kind, named.model.into(), &[asked, system], limit, named.streamed.unwrap_or(false)))
}

/// The bytes that begin a stream.
pub(super) fn opening(voice: &Voice) -> String {
    if voice.call.kind == Kind::GenerateArray { "[".to_owned() } else { String::new() }
}

/// The chunk that carries these tokens, with what there is so far.
pub(super) fn delta(voice: &Voice, tokens: std::ops::Range<u32>) -> String {
    let so_far = tokens.end;
    piece(voice, &answer(voice, &words::text(voice.seed, tokens), None, so_far)) + separator(voice)
}

/// The chunk that ends a stream.
pub(super) fn closing(voice: &Voice) -> String {
    let end = if voice.call.kind == Kind::GenerateArray { "]" } else { "" };
    piece(voice, &answer(voice, "", Some(stop(voice)), voice.output_tokens)) + end
}

/// The body of an answer that is not streamed.
pub(super) fn whole(voice: &Voice) -> Value {
    match voice.call.kind {
        Kind::CountContents => json!({"totalTokens": voice.call.prompt_tokens}),
        Kind::EmbedContent => {
            let usage = json!({"promptTokenCount": voice.call.prompt_tokens, "totalTokenCount": voice.call.prompt_tokens});
            json!({"embedding": {"values": vec![0.5; voice.call.dimensions]}, "usageMetadata": usage})
        }
        Kind::EmbedContents => {
            let one = json!({"values": vec![0.5; voice.call.dimensions]});
            json!({"embeddings": vec![one; voice.call.inputs], "usageMetadata": {"promptTokenCount": voice.call.prompt_tokens}})
        }
        _ => answer(voice, &words::text(voice.seed, 0..voice.output_tokens), Some(stop(voice)), voice.output_tokens),
    }
}

/// A fault in the words of this API.
pub(super) fn fault(fault: Fault) -> Bytes {
    let said = fault.json();
    error_body(Dialect::Gemini, fault.status(), "", said["error"]["message"].as_str().unwrap_or_default(), None)
}

fn answer(voice: &Voice, text: &str, finish: Option<&str>, so_far: u32) -> Value {
    let prompt = voice.call.prompt_tokens;
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": [{"text": text}]}});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    let total = u64::from(prompt) + u64::from(so_far);
    json!({
        "candidates": [candidate], "modelVersion": voice.call.model, "responseId": voice.id,
        "usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": so_far, "totalTokenCount": total},
    })
}

fn piece(voice: &Voice, answer: &Value) -> String {
    if voice.call.kind == Kind::GenerateArray { answer.to_string() } else { format!("data: {answer}\r\n\r\n") }
}

const fn separator(voice: &Voice) -> &'static str {
    if matches!(voice.call.kind, Kind::GenerateArray) { ",\r\n" } else { "" }
}

fn stop(voice: &Voice) -> &'static str {
    if voice.call.limit.is_some_and(|limit| voice.output_tokens >= limit) { "MAX_TOKENS" } else { "STOP" }
}
