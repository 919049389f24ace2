//! The OpenAI shapes: answers, events of a stream, and errors. Only fields that clients read are there.

use base64::Engine as _;
use http::StatusCode;
use serde_json::{Value, json};

use super::call::{Asked, Call, Kind};
use super::{anthropic, azure, bedrock, gemini, words};
use crate::wire::sigv4::Mistrust;

/// An answer other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BadRequest(&'static str),
    TooLarge,
    Unauthorized,
    /// What is wrong with the signature.
    Mistrusted(Mistrust),
    NoSuchModel,
    NoSuchThing,
    Overloaded,
    Broken,
}

impl Fault {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Mistrusted(_) => StatusCode::FORBIDDEN,
            Self::NoSuchModel | Self::NoSuchThing => StatusCode::NOT_FOUND,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) const fn is_of_signature(self) -> bool {
        matches!(self, Self::Mistrusted(_))
    }

    pub(super) fn json(self) -> Value {
        let mistrust;
        let (kind, code, message) = match self {
            Self::Mistrusted(why) => {
                mistrust = why.to_string();
                ("invalid_request_error", json!("invalid_signature"), &*mistrust)
            }
            Self::BadRequest(what) => ("invalid_request_error", Value::Null, what),
            Self::TooLarge => ("invalid_request_error", json!("request_too_large"), "the body is too large"),
            Self::Unauthorized => ("invalid_request_error", json!("invalid_api_key"), "incorrect API key provided"),
            Self::NoSuchModel => ("invalid_request_error", json!("model_not_found"), "the model does not exist"),
            Self::NoSuchThing => ("invalid_request_error", Value::Null, "there is nothing of that name here"),
            Self::Overloaded => ("requests", json!("rate_limit_exceeded"), "all slots and the queue are full"),
            Self::Broken => ("server_error", Value::Null, "the server had an error while processing the request"),
        };
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
    }
}

/// The voice of one answer: everything that its events have in common.
#[derive(Debug)]
pub(super) struct Voice {
    pub(super) call: Call,
    /// Without the prefix that tells its kind.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// Decides the words.
    pub(super) seed: u64,
    pub(super) output_tokens: u32,
    /// After how many of them a stream says that the region is full, where it does.
    pub(super) full_after: Option<u32>,
    /// Whether a stream begins with what Azure's filter says of the prompt.
    pub(super) filtered: bool,
}

impl Voice {
    /// The body of an answer that is not streamed.
    pub(super) fn whole(&self) -> Value {
        let text = words::text(self.seed, 0..self.output_tokens);
        match self.call.kind {
            Kind::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish()});
                self.envelope("chat.completion", &json!([choice]), Some(&self.usage()))
            }
            Kind::Completion => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": self.finish()});
                self.envelope("text_completion", &json!([choice]), Some(&self.usage()))
            }
            Kind::Response => self.response("completed", &json!([self.item(&text, "completed")]), Some(&self.usage())),
            Kind::Embedding => self.embeddings(),
            Kind::Messages | Kind::CountMessages => anthropic::whole(self),
            Kind::Generate | Kind::GenerateArray | Kind::CountContents | Kind::EmbedContent | Kind::EmbedContents => {
                gemini::whole(self)
            }
            Kind::Converse | Kind::Invoke | Kind::InvokeClaude | Kind::Count => bedrock::whole(self),
        }
    }

    /// The bytes that begin a stream.
    pub(super) fn opening_bytes(&self) -> Vec<u8> {
        if self.call.kind.is_bedrock() { bedrock::opening(self) } else { self.opening().into_bytes() }
    }

    /// The bytes that carry these tokens.
    pub(super) fn delta_bytes(&self, tokens: std::ops::Range<u32>) -> Vec<u8> {
        if self.call.kind.is_bedrock() { bedrock::delta(self, tokens) } else { self.delta(tokens).into_bytes() }
    }

    /// The bytes that end a stream.
    pub(super) fn closing_bytes(&self) -> Vec<u8> {
        if self.call.kind.is_bedrock() { bedrock::closing(self) } else { self.closing().into_bytes() }
    }

    /// The bytes with which a stream says that it has failed.
    pub(super) fn failing_bytes(&self) -> Vec<u8> {
        let fault = Fault::Overloaded;
        let body = match self.call.kind {
            kind if kind.is_bedrock() => return bedrock::throttled(),
            Kind::Messages => anthropic::fault(fault),
            kind if kind.is_gemini() => gemini::fault(fault),
            _ => fault.json().to_string().into(),
        };
        let name = if self.call.kind == Kind::Messages { "event: error\n" } else { "" };
        [name.as_bytes(), b"data: ", &body, b"\n\n"].concat()
    }

    /// The events that begin a stream.
    fn opening(&self) -> String {
        match self.call.kind {
            Kind::Chat => {
                let filter = if self.filtered { azure::filter_event() } else { String::new() };
                filter + &self.chat_chunk(&json!({"role": "assistant", "content": ""}), None, 0)
            }
            Kind::Response => self.response_opening(),
            Kind::Messages => anthropic::opening(self),
            kind if kind.is_gemini() => gemini::opening(self),
            _ => String::new(),
        }
    }

    fn response_opening(&self) -> String {
        let response = self.response("in_progress", &json!([]), None);
        let part = json!({"type": "output_text", "text": "", "annotations": []});
        event(0, "response.created", json!({"response": response}))
            + &event(1, "response.output_item.added", json!({"output_index": 0, "item": self.empty_item()}))
            + &event(2, "response.content_part.added", self.placed(json!({"part": part})))
    }

    /// The event that carries these tokens.
    fn delta(&self, tokens: std::ops::Range<u32>) -> String {
        let (sequence, so_far) = (tokens.start + 3, tokens.end);
        let text = words::text(self.seed, tokens.clone());
        match self.call.kind {
            Kind::Chat => self.chat_chunk(&json!({"content": text}), None, so_far),
            Kind::Response => event(sequence, "response.output_text.delta", self.placed(json!({"delta": text}))),
            Kind::Messages => anthropic::delta(self, tokens),
            kind if kind.is_gemini() => gemini::delta(self, tokens),
            _ => self.completion_chunk(&text, None, so_far),
        }
    }

    /// The events that end a stream, with the usage for those who asked.
    fn closing(&self) -> String {
        let asked = self.call.usage != Asked::Nothing;
        match self.call.kind {
            Kind::Chat => {
                let usage = if asked { self.usage_chunk("chat.completion.chunk") } else { String::new() };
                self.chat_chunk(&json!({}), Some(self.finish()), self.output_tokens) + &usage + "data: [DONE]\n\n"
            }
            Kind::Messages => anthropic::closing(self),
            kind if kind.is_gemini() => gemini::closing(self),
            Kind::Response => {
                let text = words::text(self.seed, 0..self.output_tokens);
                let item = self.item(&text, "completed");
                let part = json!({"type": "output_text", "text": text, "annotations": []});
                let response = self.response("completed", &json!([item]), Some(&self.usage()));
                let next = self.output_tokens + 3;
                event(next, "response.output_text.done", self.placed(json!({"text": text})))
                    + &event(next + 1, "response.content_part.done", self.placed(json!({"part": part})))
                    + &event(next + 2, "response.output_item.done", json!({"output_index": 0, "item": item}))
                    + &event(next + 3, "response.completed", json!({"response": response}))
            }
            _ => {
                let usage = if asked { self.usage_chunk("text_completion") } else { String::new() };
                self.completion_chunk("", Some(self.finish()), self.output_tokens) + &usage + "data: [DONE]\n\n"
            }
        }
    }

    fn finish(&self) -> &'static str {
        if self.call.limit.is_some_and(|limit| self.output_tokens >= limit) { "length" } else { "stop" }
    }

    fn usage(&self) -> Value {
        self.usage_of(self.output_tokens)
    }

    fn usage_of(&self, output: u32) -> Value {
        let prompt = self.call.prompt_tokens;
        let total = u64::from(prompt) + u64::from(output);
        match self.call.kind {
            Kind::Response => json!({
                "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": total,
            }),
            Kind::Embedding => json!({"prompt_tokens": prompt, "total_tokens": total}),
            _ => json!({
                "prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens": output, "completion_tokens_details": {"reasoning_tokens": 0}, "total_tokens": total,
            }),
        }
    }

    fn envelope(&self, object: &str, choices: &Value, usage: Option<&Value>) -> Value {
        let prefix = if self.call.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let mut body = json!({
            "id": format!("{prefix}-{}", self.id), "object": object, "created": self.created,
            "model": self.call.model, "choices": choices,
        });
        // A stream whose client asked for usage says `null` in all events but the last; other streams do not mention it.
        if usage.is_some() || (self.call.streamed && self.call.usage != Asked::Nothing) {
            body["usage"] = usage.cloned().unwrap_or_default();
        }
        body
    }

    fn chat_chunk(&self, delta: &Value, finish: Option<&str>, so_far: u32) -> String {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        data(&self.envelope("chat.completion.chunk", &json!([choice]), self.running_total(so_far).as_ref()))
    }

    fn completion_chunk(&self, text: &str, finish: Option<&str>, so_far: u32) -> String {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish});
        data(&self.envelope("text_completion", &json!([choice]), self.running_total(so_far).as_ref()))
    }

    /// What an event with choices says of usage, for a client that asked for that.
    fn running_total(&self, so_far: u32) -> Option<Value> {
        (self.call.usage == Asked::InEach).then(|| self.usage_of(so_far))
    }

    fn usage_chunk(&self, object: &str) -> String {
        data(&self.envelope(object, &json!([]), Some(&self.usage())))
    }

    fn response(&self, status: &str, output: &Value, usage: Option<&Value>) -> Value {
        json!({
            "id": format!("resp_{}", self.id), "object": "response", "created_at": self.created, "status": status,
            "model": self.call.model, "output": output, "error": null, "incomplete_details": null, "usage": usage,
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
        })
    }

    fn item(&self, text: &str, status: &str) -> Value {
        let part = json!({"type": "output_text", "text": text, "annotations": []});
        json!({"id": self.item_id(), "type": "message", "role": "assistant", "status": status, "content": [part]})
    }

    fn empty_item(&self) -> Value {
        json!({"id": self.item_id(), "type": "message", "role": "assistant", "status": "in_progress", "content": []})
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.id)
    }

    /// Adds where in the response an event belongs: there is only one place.
    fn placed(&self, mut fields: Value) -> Value {
        fields["item_id"] = json!(self.item_id());
        fields["output_index"] = json!(0);
        fields["content_index"] = json!(0);
        fields
    }

    fn embeddings(&self) -> Value {
        let data: Vec<Value> = (0..self.call.inputs)
            .map(|index| {
                let mut rng = fastrand::Rng::with_seed(self.seed.wrapping_add(index as u64));
                let numbers: Vec<f32> = (0..self.call.dimensions).map(|_| rng.f32() - 0.5).collect();
                let embedding = if self.call.base64 { json!(packed(&numbers)) } else { json!(numbers) };
                json!({"object": "embedding", "index": index, "embedding": embedding})
            })
            .collect();
        json!({"object": "list", "data": data, "model": self.call.model, "usage": self.usage()})
    }
}

fn packed(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn data(body: &Value) -> String {
    format!("data: {body}\n\n")
}

fn event(sequence: u32, name: &str, mut fields: Value) -> String {
    fields["type"] = json!(name);
    fields["sequence_number"] = json!(sequence);
    format!("event: {name}\ndata: {fields}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(kind: Kind, body: &str) -> Voice {
        let call = Call::parse(kind, body.as_bytes()).unwrap();
        Voice { call, id: "1".to_owned(), created: 0, seed: 9, output_tokens: 3, full_after: None, filtered: false }
    }

    fn payloads(stream: &str) -> Vec<Value> {
        let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn stream(voice: &Voice) -> String {
        voice.opening() + &voice.delta(0..1) + &voice.delta(1..3) + &voice.closing()
    }

    #[test]
    fn a_stream_tells_usage_only_to_those_who_asked() {
        let silent = voice(Kind::Chat, r#"{"model":"m","messages":[],"stream":true}"#);
        assert!(!stream(&silent).contains("usage"));
        let asking = voice(Kind::Chat, r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#);
        let text = stream(&asking);
        let events = payloads(&text);
        let (last, others) = events.split_last().unwrap();
        assert_eq!((last["choices"].clone(), last["usage"]["completion_tokens"].clone()), (json!([]), json!(3)));
        assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
        assert!(text.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn every_event_tells_usage_to_those_who_asked_for_that() {
        let options = r#""stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;
        let asking = voice(Kind::Chat, &format!(r#"{{"model":"m","messages":[],"stream":true,{options}}}"#));
        let told: Vec<u64> =
            payloads(&stream(&asking)).iter().filter_map(|event| event["usage"]["completion_tokens"].as_u64()).collect();
        assert_eq!(told, [0, 1, 3, 3, 3]);
    }

    #[test]
    fn a_streamed_answer_says_what_a_whole_one_says() {
        let chat = voice(Kind::Chat, r#"{"model":"m","messages":[],"stream":true}"#);
        let said: String = payloads(&stream(&chat))
            .iter()
            .filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(said, chat.whole()["choices"][0]["message"]["content"]);
        let response = voice(Kind::Response, r#"{"model":"m","input":"x","stream":true}"#);
        let events = payloads(&stream(&response));
        let deltas: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
        let last = &events[events.len() - 1];
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], deltas);
        assert_eq!(last["response"]["usage"]["output_tokens"], 3);
        assert_eq!(last["response"], response.whole());
    }

    #[test]
    fn embeddings_come_as_numbers_or_packed() {
        let plain = voice(Kind::Embedding, r#"{"model":"m","input":["a","b"],"dimensions":4}"#).whole();
        let packed =
            voice(Kind::Embedding, r#"{"model":"m","input":["a","b"],"dimensions":4,"encoding_format":"base64"}"#).whole();
        assert_eq!(plain["data"][1]["embedding"].as_array().unwrap().len(), 4);
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed["data"][1]["embedding"].as_str().unwrap()).unwrap();
        let second = f32::from_le_bytes(bytes[4..8].try_into().unwrap());
        assert_eq!(json!(second), plain["data"][1]["embedding"][1]);
    }
}
