//! Token counts out of a response that is not held and not parsed.
//!
//! A chunk is looked at after it was forwarded. Parsing every event of a stream would cost as much as all the rest of the relay, so
//! the bytes are searched for the member `"usage"`, and only the small object behind it is read; the last one wins, which is right
//! both for backends that report once at the end and for those that report a running total. What a cut stream did not report is
//! counted from its events, and the source says so.

use bytes::Bytes;
use memchr::memrchr;
use serde::{Deserialize, Serialize};

use super::Operation;
use super::beginning::Beginning;
use super::events::Events;
use super::json::{Nest, USAGE, USAGE_KEY, Walk, members, skip_space};

pub use super::events::StreamError;

/// Largest usage object that is read, in bytes; those in use have 100 to 600.
const USAGE_BYTES: usize = 4096;

/// Tokens of one exchange; `None` is unknown, which is never the same as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All tokens of the input, those from a cache included.
    pub input_tokens: Option<u64>,
    /// The part of the input that came from the backend's prompt cache.
    pub cached_tokens: Option<u64>,
    /// All tokens of the output, reasoning included.
    pub output_tokens: Option<u64>,
    /// The part of the output that was reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// How the tokens came to be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageSource {
    /// The backend said so.
    Reported,
    /// Output events were counted, about one token each; backends that put several tokens in an event are counted too low.
    Counted,
    /// Nothing could be read.
    #[default]
    Unknown,
}

/// Watches one response body.
#[derive(Debug)]
pub struct Meter {
    events: Option<Events>,
    beginning: Option<Beginning>,
    usage: Option<UsageSearch>,
    any_byte: bool,
}

impl Meter {
    /// For a body of type `text/event-stream`.
    pub fn sse(operation: Operation) -> Self {
        let (events, usage) = (Some(Events::new(operation)), Some(UsageSearch::new(operation)));
        Self { events, beginning: None, usage, any_byte: false }
    }

    /// For a JSON body.
    pub fn json(operation: Operation) -> Self {
        let (beginning, usage) = (Some(Beginning::default()), Some(UsageSearch::new(operation)));
        Self { events: None, beginning, usage, any_byte: false }
    }

    /// For a body that cannot be read, because it is compressed or of another type.
    pub const fn off() -> Self {
        Self { events: None, beginning: None, usage: None, any_byte: false }
    }

    /// Looks at a chunk that was forwarded.
    pub fn feed(&mut self, chunk: &Bytes) {
        self.any_byte |= !chunk.is_empty();
        if let Some(events) = &mut self.events {
            events.feed(chunk);
        }
        if let Some(beginning) = &mut self.beginning {
            beginning.feed(chunk);
        }
        if let Some(usage) = &mut self.usage {
            usage.feed(chunk);
        }
    }

    /// Whether the first body data has come: for an event stream a `data` line, because a comment that keeps the connection alive
    /// is no answer; for other bodies any byte.
    pub fn saw_first_data(&self) -> bool {
        self.events.as_ref().map_or(self.any_byte, |events| events.saw_data)
    }

    /// Whether it watches an event stream.
    pub const fn reads_events(&self) -> bool {
        self.events.is_some()
    }

    /// What the body said went wrong: it may end as it should, under a status of success, and be no answer for all that. To be asked
    /// at its end.
    pub fn error(&self) -> Option<StreamError> {
        let of_events = self.events.as_ref().and_then(Events::error);
        of_events.or_else(|| self.beginning.as_ref().and_then(Beginning::error))
    }

    /// The model as the backend names it, in printable ASCII. To be asked at the end.
    pub fn model(&mut self) -> Option<Bytes> {
        let of_events = self.events.as_mut().and_then(|events| events.model.take());
        of_events.or_else(|| self.beginning.as_ref().and_then(Beginning::model))
    }

    /// What is known when the body has ended or was given up.
    pub fn finish(&mut self) -> (Usage, UsageSource) {
        if let Some(usage) = self.usage.as_ref().and_then(|search| search.last) {
            return (usage, UsageSource::Reported);
        }
        match self.events.as_ref().map_or(0, |events| events.with_output) {
            0 => (Usage::default(), UsageSource::Unknown),
            counted => (Usage { output_tokens: Some(counted), ..Usage::default() }, UsageSource::Counted),
        }
    }
}

/// Finds `"usage": {..}` in chunks, wherever they are cut.
#[derive(Debug)]
struct UsageSearch {
    operation: Operation,
    state: Search,
    nest: Nest,
    /// The beginning of an object that a cut divides.
    held: Vec<u8>,
    /// Whether the object that is being walked through outgrew the bound.
    too_long: bool,
    last: Option<Usage>,
}

#[derive(Clone, Copy, Debug)]
enum Search {
    /// For the key, so many bytes of which ended the last chunk.
    Key(usize),
    Colon,
    Value,
    Object,
}

impl UsageSearch {
    fn new(operation: Operation) -> Self {
        Self { operation, state: Search::Key(0), nest: Nest::default(), held: Vec::new(), too_long: false, last: None }
    }

    fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.state {
                Search::Key(matched) => self.key(chunk, at, matched),
                Search::Colon => self.punctuation(chunk, at, b':', Search::Value),
                Search::Value => {
                    (self.nest, self.too_long) = (Nest::default(), false);
                    self.held.clear();
                    // The walk wants to see the brace.
                    self.punctuation(chunk, at, b'{', Search::Object)
                }
                Search::Object => self.object(chunk, at),
            };
        }
    }

    fn key(&mut self, chunk: &[u8], at: usize, matched: usize) -> usize {
        if matched > 0 {
            let rest = &USAGE_KEY[matched..];
            let length = rest.len().min(chunk.len() - at);
            if chunk[at..at + length] == rest[..length] {
                self.state = if length == rest.len() { Search::Colon } else { Search::Key(matched + length) };
                return at + length;
            }
            // Only its first byte is a quote, so no other match can have begun within the part that failed.
        }
        if let Some(found) = USAGE.find(&chunk[at..]) {
            self.state = Search::Colon;
            return at + found + USAGE_KEY.len();
        }
        let tail = &chunk[at.max(chunk.len().saturating_sub(USAGE_KEY.len() - 1))..];
        let begun = memrchr(b'"', tail).map_or(&[][..], |quote| &tail[quote..]);
        // Byte by byte: a call of memcmp for these few cost more than the search of the whole event.
        let is_key = begun.iter().zip(USAGE_KEY).all(|(byte, wanted)| byte == wanted);
        self.state = Search::Key(if is_key { begun.len() } else { 0 });
        chunk.len()
    }

    fn punctuation(&mut self, chunk: &[u8], at: usize, wanted: u8, then: Search) -> usize {
        let at = skip_space(chunk, at);
        match chunk.get(at) {
            None => at,
            Some(byte) if *byte == wanted => {
                self.state = then;
                at + usize::from(wanted == b':')
            }
            Some(_) => {
                self.state = Search::Key(0);
                at
            }
        }
    }

    fn object(&mut self, chunk: &[u8], at: usize) -> usize {
        let (next, ended) = match self.nest.walk(chunk, at) {
            Walk::Ended(end) => (end, true),
            Walk::Cut => (chunk.len(), false),
            Walk::Mismatch(place) | Walk::TooDeep(place) => {
                self.state = Search::Key(0);
                return place + 1;
            }
        };
        self.too_long |= self.held.len() + (next - at) > USAGE_BYTES;
        if ended {
            self.state = Search::Key(0);
        }
        if self.too_long {
            return next;
        }
        let part = &chunk[at..next];
        let found = if ended && self.held.is_empty() {
            read(self.operation, part)
        } else {
            self.held.extend_from_slice(part);
            if ended { read(self.operation, &self.held) } else { None }
        };
        self.last = found.or(self.last);
        next
    }
}

/// Reads a usage object of either API; `None` where it is another thing of that name (a tool's parameter, say). Chat and completions
/// count `prompt` and `completion`, responses `input` and `output`. The object is known to be balanced; a serde visitor
/// took half as many instructions again.
fn read(operation: Operation, object: &[u8]) -> Option<Usage> {
    let (mut input, mut output, mut total) = (None, None, None);
    let (mut cached, mut reasoning) = (None, None);
    for (name, value) in members(object) {
        match name {
            b"prompt_tokens" | b"input_tokens" => input = count(value).ok()?.or(input),
            b"completion_tokens" | b"output_tokens" => output = count(value).ok()?.or(output),
            b"total_tokens" => total = count(value).ok()?,
            b"prompt_tokens_details" | b"input_tokens_details" => cached = detail(value, b"cached_tokens").ok()?.or(cached),
            b"completion_tokens_details" | b"output_tokens_details" => {
                reasoning = detail(value, b"reasoning_tokens").ok()?.or(reasoning);
            }
            _ => {}
        }
    }
    if operation == Operation::Embeddings {
        // They have no output, and say so only by their total.
        let rest = total.zip(input).and_then(|(total, input): (u64, u64)| total.checked_sub(input));
        output = output.or(rest);
    }
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage { input_tokens: input, cached_tokens: cached, output_tokens: output, reasoning_tokens: reasoning })
}

/// A value that is no count where a count belongs: the object is something else than usage.
struct NoCount;

/// A whole number, or `null`.
fn count(value: &[u8]) -> Result<Option<u64>, NoCount> {
    if value == b"null" {
        return Ok(None);
    }
    let add = |count: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        count.checked_mul(10)?.checked_add(u64::from(digit))
    };
    match value.iter().try_fold(0, add) {
        Some(count) if !value.is_empty() => Ok(Some(count)),
        _ => Err(NoCount),
    }
}

/// A count in an object of details.
fn detail(details: &[u8], wanted: &[u8]) -> Result<Option<u64>, NoCount> {
    if details == b"null" {
        return Ok(None);
    }
    if details.first() != Some(&b'{') {
        return Err(NoCount);
    }
    members(details).find(|(name, _)| *name == wanted).map_or(Ok(None), |(_, value)| count(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            "chat-cut",
            "chat-reasoning",
            "chat-running-total-cut",
            "chat-spaced-crlf",
            "chat-tools-not-asked",
            "completions",
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
    fn streams_are_metered_whole_and_byte_by_byte() {
        for (name, stream, expected) in cases() {
            let expected_all = (expected.usage, expected.source, true);
            assert_eq!(meter(Meter::sse(expected.operation), &[stream]), expected_all, "{name}");
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(meter(Meter::sse(expected.operation), &bytes), expected_all, "{name} by bytes");
        }
    }

    #[test]
    fn json_bodies_are_read_to_the_last_usage() {
        let body =
            br#"{"tools":[{"usage":{"type":"object"}}],"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],
            "usage" : {"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        let expected = Usage { input_tokens: Some(12), cached_tokens: Some(8), output_tokens: Some(3), reasoning_tokens: None };
        assert_eq!(meter(Meter::json(Operation::Chat), &[body]), (expected, UsageSource::Reported, true));
        let embeddings = br#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;
        let expected = Usage { input_tokens: Some(5), output_tokens: Some(0), ..Usage::default() };
        assert_eq!(meter(Meter::json(Operation::Embeddings), &[embeddings]), (expected, UsageSource::Reported, true));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let unknown = |first| (Usage::default(), UsageSource::Unknown, first);
        let long = format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{}"}}}}"#, "y".repeat(USAGE_BYTES));
        for body in [r#"{"usage":null}"#, r#"{"usage":{"prompt_tokens":1"#, r#"{"usage":{"prompt_tokens":"1"}}"#, "<html>", &long]
        {
            assert_eq!(meter(Meter::json(Operation::Chat), &[body.as_bytes()]), unknown(true), "{body}");
            let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
            assert_eq!(meter(Meter::json(Operation::Chat), &bytes), unknown(true), "{body} by bytes");
        }
        assert_eq!(meter(Meter::json(Operation::Chat), &[]), unknown(false));
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
            for operation in [Operation::Chat, Operation::Completions, Operation::Responses] {
                let whole = meter(Meter::sse(operation), &[text.as_bytes()]);
                let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
                prop_assert_eq!(meter(Meter::sse(operation), &bytes), whole);
            }
        }
    }
}
