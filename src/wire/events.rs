//! What the events of a stream carry: a piece of output, or an error.
//!
//! No event is parsed. A few searches and a short walk over its bytes tell the two from the rest, because a stream has thousands of
//! events and the relay less than a microsecond for each.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use serde::Deserialize;

use super::Operation;
use super::anthropic::Snapshot;
use super::beginning::model_in;
use super::json::{Nest, Walk, after, skip_space, string_end};
use super::sse::EventBorders;
use super::stored::{id_of_response, own_id};
use super::totals::Totals;

/// How much of an event is looked at to see whether it carries output, in bytes. Deltas have some hundred.
const EVENT_BYTES: usize = 4096;

/// Counts the events that carry output, and keeps the first error.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts apart from each other, of which each event looks at one")]
pub(super) struct Events {
    pub(super) operation: Operation,
    borders: EventBorders,
    /// The beginning of an event that a cut divides, up to [`EVENT_BYTES`].
    held: Vec<u8>,
    pub(super) with_output: u64,
    /// An event that is here whole has data.
    saw_data: bool,
    /// The event that says that nothing follows it is here.
    pub(super) saw_last: bool,
    /// What Anthropic's events say of the tokens.
    pub(super) snapshot: Snapshot,
    error: Option<StreamError>,
    /// The model as the backend names it.
    pub(super) model: Option<Bytes>,
    /// The id of the answer, where that is wanted.
    pub(super) id: Option<Bytes>,
    pub(super) wants_id: bool,
    /// In how many more events both are looked for.
    looks: u8,
    /// What each event says of its own choice.
    pub(super) totals: Option<Box<Totals>>,
    /// Whether an event may have any of these, so that the others pay for one look.
    watches: bool,
}

/// Azure's first event names no model; nobody takes longer.
const EVENTS_TO_NAME_A_MODEL: u8 = 4;

impl Events {
    pub(super) fn new(operation: Operation) -> Self {
        Self {
            operation,
            borders: EventBorders::new(),
            held: Vec::new(),
            with_output: 0,
            saw_data: false,
            saw_last: false,
            snapshot: Snapshot::default(),
            error: None,
            model: None,
            id: None,
            wants_id: false,
            looks: EVENTS_TO_NAME_A_MODEL,
            totals: None,
            watches: true,
        }
    }

    /// The first error; also one whose event lacks its empty line.
    pub(super) fn error(&self) -> Option<StreamError> {
        self.error.or_else(|| error_in(&self.held))
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let mut at = self.borders.resume(chunk);
        if at > 0 && !self.held.is_empty() {
            self.hold(&chunk[..at]);
        }
        while let Some(end) = self.borders.next(chunk, at) {
            if self.held.is_empty() {
                self.event(&chunk[at..end]);
            } else {
                self.hold(&chunk[at..end]);
                let held = std::mem::take(&mut self.held);
                self.event(&held);
                self.held = held;
                self.held.clear();
            }
            at = end;
        }
        if at < chunk.len() {
            self.hold(&chunk[at..]);
        }
    }

    /// Whether data is here, be it of an event that is not here whole. What the beginning of an event seems to be may be taken back
    /// when more of it comes, so it is not remembered.
    pub(super) fn saw_data(&self) -> bool {
        self.saw_data || says_something(&self.held)
    }

    fn hold(&mut self, part: &[u8]) {
        let room = EVENT_BYTES - self.held.len();
        self.held.extend_from_slice(&part[..part.len().min(room)]);
    }

    #[cold]
    fn watch(&mut self, event: &[u8]) {
        if let Some(totals) = &mut self.totals {
            totals.take(self.operation, event);
        } else {
            self.totals = Totals::begun_by(self.operation, event);
        }
        if self.looks > 0 {
            self.look_for_model(event);
        }
        self.watches = self.looks > 0 || self.totals.is_some();
    }

    fn look_for_model(&mut self, event: &[u8]) {
        self.looks -= 1;
        // A copy: a part of what came would keep all of it for as long as the stream goes on.
        self.model = fields(event, b"data:").find_map(model_in).map(Bytes::copy_from_slice);
        if self.wants_id {
            self.look_for_id(event);
        }
        if self.model.is_some() {
            self.looks = 0;
        }
    }

    fn look_for_id(&mut self, event: &[u8]) {
        let id = match self.operation {
            Operation::Responses => id_of_response,
            _ => own_id,
        };
        self.id = fields(event, b"data:").find_map(id).map(Bytes::copy_from_slice);
    }

    fn event(&mut self, event: &[u8]) {
        let event = &event[..event.len().min(EVENT_BYTES)];
        self.saw_data = self.saw_data || says_something(event);
        if self.watches {
            self.watch(event);
        }
        if has_output(self.operation, event) {
            self.with_output += 1;
            return;
        }
        if self.operation == Operation::Messages {
            self.take_snapshot(event);
        }
        if self.error.is_none() {
            self.error = error_in(event);
        }
    }

    /// Of Anthropic's events those without output, which are few.
    fn take_snapshot(&mut self, event: &[u8]) {
        static STOP: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"message_stop\""));
        for data in fields(event, b"data:") {
            self.snapshot.take(data);
            // A tool may have that name.
            self.saw_last |=
                STOP.find(data).is_some() && members(data).any(|(name, value)| name == b"type" && value == b"\"message_stop\"");
        }
    }
}

/// What stands in the lines of an event that begin so.
pub(super) fn fields<'a>(event: &'a [u8], name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let lines = event.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.filter_map(move |line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// Whether an event is more than a comment, and more than what Azure's filter says of the prompt, which comes before the model has read it:
/// that has an empty list of choices.
fn says_something(event: &[u8]) -> bool {
    static NO_CHOICE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"choices\":[]"));
    has_data(event) && NO_CHOICE.find(event).is_none()
}

fn has_data(event: &[u8]) -> bool {
    event.split(|byte| matches!(byte, b'\n' | b'\r')).any(|line| line.starts_with(b"data:"))
}

/// Whether an event carries a piece of output, be it text, reasoning or the arguments of a call.
pub(super) fn has_output(operation: Operation, event: &[u8]) -> bool {
    static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"delta\""));
    static TEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"text\""));
    // The end of an event's type, `response.output_text.delta` and its like; in the text itself the quote would be escaped.
    static DELTA_TYPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b".delta\""));
    static CALL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"functionCall\""));
    static BLOCK_DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"content_block_delta\""));
    static SIGNATURE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"signature_delta\""));
    match operation {
        Operation::Chat => DELTA.find(event).is_some_and(|found| delta_has_output(event, found + 7).unwrap_or(false)),
        Operation::Completions => says(event, TEXT.find(event)),
        // Thoughts are texts, too.
        Operation::GenerateContent => says(event, TEXT.find(event)) || CALL.find(event).is_some(),
        Operation::Responses => DELTA_TYPE.find(event).is_some(),
        // A signature is no output, and neither are the empty texts that begin a block.
        Operation::Messages => BLOCK_DELTA.find(event).is_some() && SIGNATURE.find(event).is_none(),
        Operation::Embeddings | Operation::InvokeModel | Operation::Converse | Operation::CountTokens => false,
    }
}

/// Whether the member `text`, which begins there, is one that is not empty.
fn says(event: &[u8], text: Option<usize>) -> bool {
    let inside = text.and_then(|at| after(event, at + 6, b':')).and_then(|at| after(event, at, b'"'));
    inside.is_some_and(|at| event.get(at).is_some_and(|byte| *byte != b'"'))
}

/// The same of one that has no lines around it, in the model's own words: in those of the chat API, of Anthropic's, or in unknown
/// ones, of which each piece is taken for output.
pub(super) fn piece_has_output(piece: &[u8]) -> bool {
    static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"delta\""));
    let has = |name: &[u8], value: &[u8]| members(piece).any(|(n, v)| n == name && v == value);
    if members(piece).any(|(name, _)| name == b"choices") {
        return DELTA.find(piece).is_some_and(|found| delta_has_output(piece, found + 7).unwrap_or(false));
    }
    !members(piece).any(|(name, _)| name == b"type") || has(b"type", b"\"content_block_delta\"")
}

/// Whether a chat delta, whose key ended before `at`, has a member besides `role` that is not empty. `None` where the text ends.
fn delta_has_output(event: &[u8], at: usize) -> Option<bool> {
    // As most backends write nearly every event; the walk below costs as much as all the rest of the metering.
    if let Some([byte, ..]) = event[at..].strip_prefix(br#":{"content":""#)
        && *byte != b'"'
    {
        return Some(true);
    }
    let mut at = after(event, after(event, at, b':')?, b'{')?;
    loop {
        let key = after(event, at, b'"')?;
        let key_end = string_end(event, key, &mut false)?;
        let value = skip_space(event, after(event, key_end, b':')?);
        let rest = match event.get(value)? {
            b'"' => {
                let end = string_end(event, value + 1, &mut false)?;
                if end > value + 2 && &event[key..key_end - 1] != b"role" {
                    return Some(true);
                }
                end
            }
            b'{' | b'[' => {
                let inside = skip_space(event, value + 1);
                if !matches!(event.get(inside)?, b'}' | b']') {
                    return Some(true);
                }
                inside + 1
            }
            _ => value + event[value..].iter().position(|byte| matches!(byte, b',' | b'}'))?,
        };
        at = after(event, rest, b',')?;
    }
}

/// Whether an event says that there will be no answer. Only events without output are asked, which are few.
fn error_in(event: &[u8]) -> Option<StreamError> {
    static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"error"));
    static FAILED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"response.failed"));
    if ERROR.find(event).is_none() && FAILED.find(event).is_none() {
        return None;
    }
    let is_named = || fields(event, b"event:").any(|name| matches!(name, b"error" | b"response.failed"));
    fields(event, b"data:").find_map(StreamError::in_object).or_else(|| is_named().then_some(StreamError::Backend))
}

/// Names and values of an object's own members, as they are written and as far as the text goes.
pub(super) fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = after(object, 0, b'{');
    std::iter::from_fn(move || {
        let name = after(object, at?, b'"')?;
        let name_end = string_end(object, name, &mut false)?;
        let value = skip_space(object, after(object, name_end, b':')?);
        let end = value_end(object, value);
        at = after(object, end, b',');
        Some((&object[name..name_end - 1], &object[value..end]))
    })
}

fn value_end(text: &[u8], at: usize) -> usize {
    let end = match text.get(at) {
        Some(b'"') => string_end(text, at + 1, &mut false),
        Some(b'{' | b'[') => match Nest::default().walk(text, at) {
            Walk::Ended(end) => Some(end),
            Walk::Cut | Walk::Mismatch(_) | Walk::TooDeep(_) => None,
        },
        _ => text[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b' ')).map(|length| at + length),
    };
    end.unwrap_or(text.len())
}

/// An error that came as an event, when the status had long been 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The backend failed, or did not say who did.
    Backend,
    /// It has no room, as a status of 429, 503 or 529 would have said.
    Full {
        /// For any model, and not only for this one.
        whole: bool,
    },
    /// The backend finds fault with the request, and would with any like it.
    Request,
}

impl StreamError {
    /// The error that an object has as a member (`{"error":{..}}`, also beside an empty choice) or is (`{"type":"error",..}` in the
    /// Responses API, `{"object":"error",..}` from elder vLLM). Only the object's own members count, so that no output passes for one.
    pub(super) fn in_object(object: &[u8]) -> Option<Self> {
        let none: [&[u8]; 5] = [b"null", b"false", b"{}", b"\"\"", b""];
        let mut is_one = false;
        for (name, value) in members(object) {
            match name {
                b"error" if !none.contains(&value) => return Some(Self::of(value)),
                // An answer that has none says so before the long part of it.
                b"error" if !is_one => return None,
                b"type" => is_one |= matches!(value, b"\"error\"" | b"\"response.failed\""),
                b"object" => is_one |= value == b"\"error\"",
                _ => {}
            }
        }
        is_one.then(|| Self::of(object))
    }

    /// Whose fault an error object says it is: its `code` may be a status, its `type` is one of a few words.
    fn of(error: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Stated {
            r#type: Option<String>,
            code: Option<serde_json::Value>,
            response: Option<Failed>,
        }
        #[derive(Deserialize)]
        struct Failed {
            error: Option<Box<Stated>>,
        }
        let Ok(stated) = serde_json::from_slice::<Stated>(error) else { return Self::Backend };
        // Of `response.failed` it stands within the response.
        let inner = stated.response.and_then(|response| response.error);
        let (r#type, code) = inner.map_or((stated.r#type, stated.code), |inner| (inner.r#type, inner.code));
        let status = code.as_ref().and_then(serde_json::Value::as_u64);
        match (r#type.as_deref(), code.as_ref().and_then(serde_json::Value::as_str), status) {
            (.., Some(429)) | (Some("rate_limit_error"), ..) | (_, Some("rate_limit_exceeded"), _) => Self::Full { whole: false },
            (.., Some(503 | 529)) | (Some("overloaded_error"), ..) => Self::Full { whole: true },
            (Some("invalid_request_error" | "BadRequestError"), ..) => Self::Request,
            (.., Some(code)) if (400..500).contains(&code) && code != 408 => Self::Request,
            _ => Self::Backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn output_is_told_from_the_rest() {
        let table = [
            (r#"data: {"choices":[{"delta":{"content":"a"}}]}"#, true),
            (r#"data: {"choices":[{"delta": {"role" : "assistant", "content" : "a"}}]}"#, true),
            (r#"data: {"choices":[{"delta":{"role":"assistant","content":"","refusal":null}}]}"#, false),
            (r#"data: {"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}"#, true),
            (r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"data: {"choices":[{"delta":{"tool_calls":[ ],"content":"x"}}]}"#, true),
            (r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#, false),
            (r#"data: {"choices":[]}"#, false),
            ("data: [DONE]", false),
        ];
        for (event, expected) in table {
            assert_eq!(has_output(Operation::Chat, event.as_bytes()), expected, "{event}");
        }
    }

    #[test]
    fn what_azures_filter_says_of_a_prompt_is_no_first_token() {
        let filter =
            br#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}"#;
        for size in [filter.len(), 1, 10, 30, 50] {
            let mut events = Events::new(Operation::Chat);
            filter.chunks(size).chain([&b"\n\n"[..]]).for_each(|piece| events.feed(piece));
            assert!(!events.saw_data(), "{size}");
            events.feed(b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n");
            assert!(events.saw_data() && events.with_output == 0);
        }
    }

    #[test]
    fn a_tool_called_like_the_last_event_does_not_end_a_stream() {
        let mut events = Events::new(Operation::Messages);
        events.feed(
            b"data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"name\":\"message_stop\",\"input\":{}}}\n\n",
        );
        assert!(!events.saw_last);
        events.feed(b"event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n");
        assert!(events.saw_last);
    }

    fn error(chunks: &[&[u8]]) -> Option<StreamError> {
        let mut events = Events::new(Operation::Chat);
        for chunk in chunks {
            events.feed(chunk);
        }
        events.error()
    }

    #[test]
    fn an_error_is_told_from_what_only_speaks_of_one() {
        use StreamError::{Backend, Full, Request};
        let table = [
            (r#"data: {"error":{"message":"out of memory","type":"server_error"}}"#, Some(Backend)),
            (r#"data: {"id":"x","error" : {"code":502,"message":"gone"},"choices":[{"delta":{"content":""}}]}"#, Some(Backend)),
            (r#"data:{"choices":[],"error":"overloaded"}"#, Some(Backend)),
            (r#"data: {"error":{"message":"rate limit","code":429}}"#, Some(Full { whole: false })),
            (r#"data: {"error":{"message":"slow","type":"tokens","code":"rate_limit_exceeded"}}"#, Some(Full { whole: false })),
            (r#"data: {"error":{"message":"busy","code":503}}"#, Some(Full { whole: true })),
            ("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"}}", Some(Full { whole: false })),
            (
                r#"data: {"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}"#,
                Some(Full { whole: false }),
            ),
            (r#"data: {"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#, Some(Request)),
            (r#"data: {"error":{"message":"too long","type":"invalid_request_error","code":"context"}}"#, Some(Request)),
            (r#"data: {"error":{"message":"cut he"#, Some(Backend)),
            (r#"data: {"object":"error","message":"gone","type":"InternalServerError","code":500}"#, Some(Backend)),
            ("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}", Some(Full { whole: true })),
            ("event: error\r\ndata: gone", Some(Backend)),
            (r#"data: {"type":"error","code":"server_error","message":"gone"}"#, Some(Backend)),
            (r#"data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}"#, Some(Backend)),
            (r#"data: {"type":"response.completed","response":{"error":null,"output":["error"]}}"#, None),
            (r#"data: {"error":null,"choices":[{"delta":{"content":""}}]}"#, None),
            (r#"data: {"choices":[{"delta":{"content":"\"error\":{\"code\":1}"}}]}"#, None),
            (r#"data: {"choices":[{"delta":{"role":"assistant"},"error":{"code":1}}]}"#, None),
            (r#"data: {"choices":[{"delta":{},"finish_reason":"error"}]}"#, None),
            (": error\ndata: [DONE]", None),
        ];
        for (event, expected) in table {
            assert_eq!(error(&[event.as_bytes(), b"\n\n"]), expected, "{event}");
            assert_eq!(error(&[event.as_bytes()]), expected, "without its empty line: {event}");
            let bytes: Vec<&[u8]> = event.as_bytes().chunks(1).collect();
            assert_eq!(error(&bytes), expected, "in pieces: {event}");
        }
    }

    proptest! {
        #[test]
        fn any_event_is_survived(event in r#"(event: |data: |error|"|:|\{|\}|\[|\\|type|object|,|1|\n| ){0,30}"#) {
            let _ = error_in(event.as_bytes());
        }
    }
}
