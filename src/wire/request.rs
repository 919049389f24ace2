//! The handful of facts in a request body that a decision needs, with their places.
//!
//! Official SDKs write `model` after `messages`, so there is no stopping early; but there is no need to understand what is skipped
//! either. One pass over the chunks as they arrive goes through the top-level object, and spends a table look-up on a structural
//! byte and memchr on the inside of strings, where nearly all bytes are. A tree of the body would cost an allocation for every
//! message, and serde's skipping visitor needs the body in one piece.

use std::ops::Range;

use smallvec::SmallVec;

use super::json::{Nest, Walk, skip_space, string_end};
use super::stream_options::StreamOptions;

/// Longest name of interest (`max_completion_tokens`, 21 letters) with every letter written as `\u006d` makes 126 bytes.
const KEY_BYTES: usize = 128;

/// Most bytes of a member's value that are kept. No model's name and no `stream_options` comes near it.
const VALUE_BYTES: usize = 4096;

/// Reads a request body chunk by chunk.
#[derive(Debug)]
pub struct RequestScan {
    state: State,
    /// Bytes of the body before the present chunk.
    offset: usize,
    /// The key that a cut divides, without its quotes and not yet unescaped; too long a one is kept one byte beyond the bound, and
    /// matches nothing.
    key: SmallVec<[u8; KEY_BYTES + 1]>,
    escaped: bool,
    nest: Nest,
    member: Member,
    value_start: usize,
    /// The value that is being read, if its member is of interest.
    value: SmallVec<[u8; 64]>,
    value_cut: bool,
    fields: RequestFields,
    has_model: bool,
    fault: Option<Malformed>,
}

/// What the body says at its top level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFields {
    /// The model as the client names it, unescaped.
    pub model: String,
    /// The place of the model's string token, quotes included, in bytes from the start of the body.
    pub model_span: Range<usize>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// The most tokens that one choice may have: the least of `max_tokens`, `max_completion_tokens` and `max_output_tokens`.
    pub max_output_tokens: Option<u32>,
    /// How many choices are asked for (`n`).
    pub choices: Option<u32>,
    /// Whether usage on the stream is asked for.
    pub stream_options: StreamOptions,
    /// The stored response that this request goes on from; it lives in one backend.
    pub previous_response: Option<String>,
    /// The stored conversation that this request belongs to; it lives in one backend.
    pub conversation: Option<String>,
    /// `store`: whether the backend shall keep the result, where the request says so.
    pub store: Option<bool>,
    /// The place of the object's closing brace, in bytes from the start of the body.
    pub object_end: usize,
    /// Bytes of the whole body.
    pub length: usize,
}

impl RequestFields {
    /// Whether the request names something that lives in one backend.
    pub const fn names_stored(&self) -> bool {
        self.previous_response.is_some() || self.conversation.is_some()
    }
}

/// Why a body cannot be routed. Faults deeper inside are the backend's business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A byte that cannot stand there.
    #[error("the body is no JSON object: expected {expected} at byte {at}")]
    Unexpected {
        /// Bytes from the start of the body.
        at: usize,
        /// In words.
        expected: &'static str,
    },
    /// The body ended within the object.
    #[error("the body is no JSON object: it ends at byte {at}, where {expected} was expected")]
    Ended {
        /// Bytes from the start of the body.
        at: usize,
        /// In words.
        expected: &'static str,
    },
    /// Arrays and objects nested too deep to keep account of.
    #[error("arrays and objects are nested more than {} deep at byte {at}", Nest::MAX_DEPTH)]
    TooDeep {
        /// Bytes from the start of the body.
        at: usize,
    },
    /// The object has no `model`.
    #[error("`model` is missing")]
    NoModel,
    /// `model` is something else than a string, or a string that is not valid JSON.
    #[error("`model` must be a string, at byte {at}")]
    ModelNotString {
        /// Bytes from the start of the body.
        at: usize,
    },
    /// A name that no model has.
    #[error("`model` is longer than {VALUE_BYTES} bytes, at byte {at}")]
    ModelTooLong {
        /// Bytes from the start of the body.
        at: usize,
    },
    /// Two `model` members: which of them counts depends on the reader, so the backend might serve another than was decided on.
    #[error("`model` is given a second time at byte {at}")]
    DuplicateModel {
        /// Bytes from the start of the body.
        at: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    FirstKey,
    Key,
    Colon,
    Value,
    Text,
    Nested,
    Scalar,
    AfterValue,
    NextKey,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Model,
    Stream,
    MaxOutput,
    Choices,
    StreamOptions,
    PreviousResponse,
    Conversation,
    Store,
    Other,
}

impl Default for RequestScan {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestScan {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            state: State::Before,
            offset: 0,
            key: SmallVec::new(),
            escaped: false,
            nest: Nest::default(),
            member: Member::Other,
            value_start: 0,
            value: SmallVec::new(),
            value_cut: false,
            fields: RequestFields::default(),
            has_model: false,
            fault: None,
        }
    }

    /// Goes on with the next chunk. After a fault the rest is only counted.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while at < chunk.len() && self.fault.is_none() {
            at = match self.state {
                State::Key => self.go_on_key(chunk, at),
                State::Text | State::Nested | State::Scalar => self.go_on_value(chunk, at),
                _ => self.go_between(chunk, at),
            };
        }
        self.offset += chunk.len();
    }

    /// What the body said, now that it has ended.
    pub fn finish(mut self) -> Result<RequestFields, Malformed> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.state != State::Done {
            return Err(Malformed::Ended { at: self.offset, expected: self.state.expected() });
        }
        if !self.has_model {
            return Err(Malformed::NoModel);
        }
        self.fields.length = self.offset;
        Ok(self.fields)
    }

    /// White space, and the one byte of punctuation or the first byte of a value after it.
    fn go_between(&mut self, chunk: &[u8], at: usize) -> usize {
        let at = skip_space(chunk, at);
        let Some(byte) = chunk.get(at).copied() else {
            return at;
        };
        self.state = match (self.state, byte) {
            (State::Before, b'{') => State::FirstKey,
            (State::FirstKey | State::NextKey, b'"') => {
                self.key.clear();
                State::Key
            }
            (State::FirstKey | State::AfterValue, b'}') => {
                self.fields.object_end = self.offset + at;
                State::Done
            }
            (State::Colon, b':') => State::Value,
            (State::AfterValue, b',') => State::NextKey,
            (State::Value, _) => return self.begin_value(byte, at),
            (state, _) => return self.fail(chunk, Malformed::Unexpected { at: self.offset + at, expected: state.expected() }),
        };
        at + 1
    }

    fn go_on_key(&mut self, chunk: &[u8], at: usize) -> usize {
        let end = string_end(chunk, at, &mut self.escaped);
        let part = &chunk[at..end.map_or(chunk.len(), |end| end - 1)];
        let written = if end.is_some() && self.key.is_empty() {
            part
        } else {
            let room = KEY_BYTES + 1 - self.key.len();
            self.key.extend_from_slice(&part[..part.len().min(room)]);
            &self.key
        };
        let Some(end) = end else {
            return chunk.len();
        };
        self.member = Member::of(written);
        if self.member == Member::Model && self.has_model {
            return self.fail(chunk, Malformed::DuplicateModel { at: self.offset + end });
        }
        self.state = State::Colon;
        end
    }

    fn begin_value(&mut self, byte: u8, at: usize) -> usize {
        self.value_start = self.offset + at;
        self.value.clear();
        self.value_cut = false;
        if self.member == Member::Model && byte != b'"' {
            self.fault = Some(Malformed::ModelNotString { at: self.value_start });
            return at;
        }
        self.state = match byte {
            b'"' => State::Text,
            b'{' | b'[' => {
                self.nest = Nest::default();
                self.state = State::Nested;
                return at;
            }
            _ if is_scalar(byte) => {
                self.state = State::Scalar;
                return at;
            }
            _ => {
                self.fault = Some(Malformed::Unexpected { at: self.value_start, expected: State::Value.expected() });
                return at;
            }
        };
        self.keep(&[byte]);
        at + 1
    }

    fn go_on_value(&mut self, chunk: &[u8], at: usize) -> usize {
        let end = match self.state {
            State::Text => string_end(chunk, at, &mut self.escaped),
            State::Scalar => chunk[at..].iter().position(|byte| !is_scalar(*byte)).map(|length| at + length),
            _ => match self.nest.walk(chunk, at) {
                Walk::Ended(end) => Some(end),
                Walk::Cut => None,
                Walk::Mismatch(place) => {
                    let expected = "the closing bracket that matches the opening one";
                    return self.fail(chunk, Malformed::Unexpected { at: self.offset + place, expected });
                }
                Walk::TooDeep(place) => return self.fail(chunk, Malformed::TooDeep { at: self.offset + place }),
            },
        };
        let next = end.unwrap_or(chunk.len());
        if self.member != Member::Other {
            self.keep(&chunk[at..next]);
        }
        if end.is_some() {
            self.state = State::AfterValue;
            self.settle(self.offset + next);
        }
        next
    }

    /// Keeps a part of a value for [`RequestScan::settle`], within the bound.
    fn keep(&mut self, part: &[u8]) {
        if self.value.len() + part.len() > VALUE_BYTES {
            self.value_cut = true;
        } else {
            self.value.extend_from_slice(part);
        }
    }

    /// A value ended before byte `end` of the body. Where a member other than `model` is repeated the last one counts, as it does
    /// for nearly every reader.
    fn settle(&mut self, end: usize) {
        let (value, start) = (&self.value[..], self.value_start);
        let fields = &mut self.fields;
        match self.member {
            Member::Other => {}
            Member::Model if self.value_cut => self.fault = Some(Malformed::ModelTooLong { at: start }),
            Member::Model => match text(value) {
                Some(model) => {
                    fields.model = model;
                    fields.model_span = start..end;
                    self.has_model = true;
                }
                None => self.fault = Some(Malformed::ModelNotString { at: start }),
            },
            Member::StreamOptions if self.value_cut => fields.stream_options = StreamOptions::Unreadable,
            Member::StreamOptions => fields.stream_options = StreamOptions::read(value, start),
            Member::Stream => fields.stream = value == b"true",
            Member::MaxOutput => {
                let limit = count(value);
                fields.max_output_tokens = fields.max_output_tokens.into_iter().chain(limit).min();
            }
            Member::Choices => fields.choices = count(value),
            Member::Store => fields.store = serde_json::from_slice(value).ok(),
            Member::PreviousResponse => fields.previous_response = serde_json::from_slice(value).ok(),
            Member::Conversation => fields.conversation = conversation(value),
        }
    }

    fn fail(&mut self, chunk: &[u8], fault: Malformed) -> usize {
        self.fault = Some(fault);
        chunk.len()
    }
}

impl State {
    const fn expected(self) -> &'static str {
        match self {
            Self::Before => "`{`",
            Self::FirstKey => "a member's name or `}`",
            Self::Key => "the end of a member's name",
            Self::Colon => "`:`",
            Self::Value => "a value",
            Self::Text => "the end of a string",
            Self::Nested => "the end of an array or object",
            Self::Scalar | Self::AfterValue => "`,` or `}`",
            Self::NextKey => "a member's name",
            Self::Done => "the end of the body",
        }
    }
}

impl Member {
    /// The member that a key names, as written between its quotes.
    fn of(key: &[u8]) -> Self {
        match key {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => Self::MaxOutput,
            b"n" => Self::Choices,
            b"stream_options" => Self::StreamOptions,
            b"previous_response_id" => Self::PreviousResponse,
            b"conversation" => Self::Conversation,
            b"store" => Self::Store,
            _ if key.len() <= KEY_BYTES && key.contains(&b'\\') => Self::of_escaped(key),
            _ => Self::Other,
        }
    }

    /// `"mod\u0065l"` names the model for every backend, so it has to for us.
    fn of_escaped(key: &[u8]) -> Self {
        let quoted = [b"\"", key, b"\""].concat();
        match serde_json::from_slice::<String>(&quoted) {
            Ok(plain) if !plain.contains('\\') => Self::of(plain.as_bytes()),
            _ => Self::Other,
        }
    }
}

/// What numbers, `true`, `false` and `null` are made of; whether they are well made is the backend's business.
const fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// A string, quotes included. One without an escape is itself, which is nearly every model's name.
fn text(value: &[u8]) -> Option<String> {
    if value.iter().any(|byte| *byte == b'\\' || *byte < 0x20) {
        return serde_json::from_slice(value).ok();
    }
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inside).ok().map(str::to_owned)
}

/// A count of tokens or choices; one beyond `u32` is as good as the largest.
fn count(value: &[u8]) -> Option<u32> {
    let value: u64 = serde_json::from_slice(value).ok()?;
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

/// A conversation is named by its id or by an object that has one.
fn conversation(value: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Conversation {
        id: String,
    }
    match value.first() {
        Some(b'{') => serde_json::from_slice(value).ok().map(|conversation: Conversation| conversation.id),
        _ => serde_json::from_slice(value).ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scan(chunks: &[&[u8]]) -> Result<RequestFields, Malformed> {
        let mut scan = RequestScan::new();
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
    fn an_escaped_key_is_the_same_key() {
        assert_eq!(read(r#"{"mod\u0065l":"m"}"#).expect("well made").model, "m");
        assert_eq!(read(r#"{"model":"a","\u006dodel":"b"}"#), Err(Malformed::DuplicateModel { at: 25 }));
        let all_escaped = "max_completion_tokens".chars().fold(String::new(), |text, c| format!("{text}\\u{:04x}", c as u32));
        let fields = read(&format!(r#"{{"{all_escaped}":7,"model":"m"}}"#)).expect("well made");
        assert_eq!(fields.max_output_tokens, Some(7));
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

    const KEYS: [&str; 9] =
        ["stream", "max_tokens", "n", "stream_options", "previous_response_id", "conversation", "store", "messages", "é\"\\"];

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
}
