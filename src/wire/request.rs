//! The handful of facts in a request body that a decision needs, with their places.
//!
//! Official SDKs write `model` after `messages`, so there is no stopping early; but there is no need to understand what is skipped
//! either. One pass over the chunks as they arrive goes through the top-level object, and spends a table look-up on a structural
//! byte and memchr on the inside of strings, where nearly all bytes are. A tree of the body would cost an allocation for every
//! message, and serde's skipping visitor needs the body in one piece.

use std::ops::Range;

use smallvec::SmallVec;

use super::Operation;
use super::json::{Nest, Walk, skip_space, string_end};
use super::limit::Limit;
use super::stream_options::StreamOptions;
use crate::affinity::{PrefixScan, Session};

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
    /// Hashes what tells the conversation, where that is wanted.
    recognised: Option<Recognised>,
    /// The request names its model elsewhere, and its body need not.
    named_elsewhere: bool,
    /// What is asked for, where that is known: it says which members bound the output.
    operation: Option<Operation>,
    fault: Option<Malformed>,
}

/// What tells the conversation, as far as it has come.
#[derive(Debug)]
struct Recognised {
    prefix: PrefixScan,
    /// Whether the prompt has come. What may look like a second one is none.
    begun: bool,
    /// Which member named it.
    by: Member,
}

/// What the body says at its top level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFields {
    /// The model as the client names it, unescaped.
    pub model: String,
    /// The place of the model's string token, quotes included, in bytes from the start of the body; empty where it stands in the path.
    pub model_span: Range<usize>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// The most tokens that one choice may have, by what the API calls it: the least of `max_tokens` and `max_completion_tokens` in a
    /// chat, say, or Converse's `inferenceConfig.maxTokens`.
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
    /// What tells the conversation: `prompt_cache_key`, else `user`, else how the prompt begins. Only where that was asked for.
    pub session: Option<Session>,
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
    Limit(Limit),
    Choices,
    StreamOptions,
    PreviousResponse,
    Conversation,
    Store,
    CacheKey,
    User,
    Prompt,
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
        Self::recognising(None)
    }

    /// The same, and what tells the conversation is hashed by `prefix`.
    pub fn recognising(prefix: Option<PrefixScan>) -> Self {
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
            recognised: prefix.map(|prefix| Recognised { prefix, begun: false, by: Member::Other }),
            named_elsewhere: false,
            operation: None,
            fault: None,
        }
    }

    /// The same for a request whose path names the model.
    #[must_use]
    pub fn of_named(self) -> Self {
        Self { named_elsewhere: true, ..self }
    }

    /// The same for a request of that kind. Without it, any API's word for a limit is one.
    #[must_use]
    pub fn asking(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Whether the model's token, quotes included, has been read.
    fn has_model(&self) -> bool {
        !self.fields.model_span.is_empty()
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
    ///
    /// Not by value: the scan is half a kilobyte, and this is asked of every request.
    pub fn finish(&mut self) -> Result<RequestFields, Malformed> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.state != State::Done {
            return Err(Malformed::Ended { at: self.offset, expected: self.state.expected() });
        }
        if !self.has_model() && !self.named_elsewhere {
            return Err(Malformed::NoModel);
        }
        self.fields.length = self.offset;
        self.fields.session = self.fields.session.or_else(|| self.recognised.as_ref()?.prefix.session());
        Ok(std::mem::take(&mut self.fields))
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
        if self.member == Member::Model && self.has_model() {
            return self.fail(chunk, Malformed::DuplicateModel { at: self.offset + end });
        }
        if matches!(self.member, Member::CacheKey | Member::User | Member::Prompt) {
            let member = self.member;
            let unread = self.recognised.as_ref().is_none_or(|it| it.begun && member == Member::Prompt);
            self.member = if unread { Member::Other } else { member };
        }
        if let Some(recognised) = &mut self.recognised {
            recognised.begun |= self.member == Member::Prompt;
        }
        self.state = State::Colon;
        end
    }

    fn begin_value(&mut self, byte: u8, at: usize) -> usize {
        self.value_start = self.offset + at;
        self.value.clear();
        self.value_cut = false;
        // A client that names its model in the path may say so by `null`.
        if self.member == Member::Model && byte != b'"' && !(self.named_elsewhere && byte == b'n') {
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

    /// Keeps a part of a value for [`RequestScan::settle`], within the bound. Of a prompt nothing is kept but its hash.
    fn keep(&mut self, part: &[u8]) {
        if let (Member::Prompt, Some(recognised)) = (self.member, &mut self.recognised) {
            recognised.prefix.feed(part);
        } else if self.value.len() + part.len() > VALUE_BYTES {
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
            Member::Other | Member::Prompt => {}
            Member::Model if self.value_cut => self.fault = Some(Malformed::ModelTooLong { at: start }),
            Member::Model => match text(value) {
                Some(model) => {
                    fields.model = model;
                    fields.model_span = start..end;
                }
                None if self.named_elsewhere && value == b"null" => fields.model_span = start..end,
                None => self.fault = Some(Malformed::ModelNotString { at: start }),
            },
            Member::StreamOptions if self.value_cut => fields.stream_options = StreamOptions::Unreadable,
            Member::StreamOptions => fields.stream_options = StreamOptions::read(value, start),
            Member::Stream => fields.stream = value == b"true",
            Member::Limit(_) if self.value_cut => {}
            Member::Limit(limit) => limit.settle(self.operation, value, fields),
            Member::Choices => fields.choices = count(value),
            Member::Store => fields.store = serde_json::from_slice(value).ok(),
            Member::PreviousResponse => fields.previous_response = serde_json::from_slice(value).ok(),
            Member::Conversation => fields.conversation = conversation(value),
            Member::CacheKey | Member::User => self.settle_name(),
        }
    }

    /// The client's own word for the conversation, as it is written. That for the cache says more than that for the user.
    fn settle_name(&mut self) {
        let is_name = !self.value_cut && self.value.first() == Some(&b'"') && self.value.len() > 2;
        let Some(recognised) = self.recognised.as_mut().filter(|_| is_name) else { return };
        if self.member == Member::CacheKey || recognised.by != Member::CacheKey {
            recognised.by = self.member;
            self.fields.session = Some(Session::called(recognised.prefix.key(), &self.value));
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
            b"n" => Self::Choices,
            b"stream_options" => Self::StreamOptions,
            b"previous_response_id" => Self::PreviousResponse,
            b"conversation" => Self::Conversation,
            b"store" => Self::Store,
            b"prompt_cache_key" => Self::CacheKey,
            b"user" => Self::User,
            b"messages" | b"input" | b"prompt" | b"contents" => Self::Prompt,
            _ if key.len() <= KEY_BYTES && key.contains(&b'\\') => Self::of_escaped(key),
            _ => Limit::of(key).map_or(Self::Other, Self::Limit),
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
pub(super) fn count(value: &[u8]) -> Option<u32> {
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
#[path = "request_tests.rs"]
mod tests;
