//! Token counts out of a response that is not held and not parsed.
//!
//! A chunk is looked at after it was forwarded. Parsing every event of a stream would cost as much as all the rest of the relay, so
//! the bytes are searched for the member `"usage"`, and only the small object behind it is read; the last one wins, which is right
//! both for backends that report once at the end and for those that report a running total. In the APIs that write a tool's arguments
//! as JSON and not within a string, a client can have a model say anything, and there the brackets are counted, too: only a member of
//! the top object is the backend's word. What a cut stream did not report is
//! counted from its events, and the source says so.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Operation;
use super::beginning::Beginning;
use super::elements::Elements;
use super::event_stream::EventStream;
use super::events::Events;
use super::fields::Fields;
use super::json::members;
use super::search::UsageSearch;
use super::stored::{all_ids, own_id};

pub use super::events::StreamError;

/// Where Bedrock says how many tokens went into a model, and came out of it.
const INPUT_TOKENS: &[u8] = b"x-amzn-bedrock-input-token-count";
const OUTPUT_TOKENS: &[u8] = b"x-amzn-bedrock-output-token-count";
/// Where it says how long that took, in milliseconds.
const LATENCY: &[u8] = b"x-amzn-bedrock-invocation-latency";

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

impl Usage {
    /// What is known now that `later` was said: what it leaves out stays.
    pub(super) fn updated(self, later: Self) -> Self {
        Self {
            input_tokens: later.input_tokens.or(self.input_tokens),
            cached_tokens: later.cached_tokens.or(self.cached_tokens),
            output_tokens: later.output_tokens.or(self.output_tokens),
            reasoning_tokens: later.reasoning_tokens.or(self.reasoning_tokens),
        }
    }

    /// No more can have come from a cache than there was; a report that says so is to move neither prices nor decisions.
    fn sound(self) -> Self {
        let cached = self.cached_tokens.zip(self.input_tokens);
        Self { cached_tokens: cached.map(|(cached, input)| cached.min(input)), ..self }
    }
}

/// What a backend says of its own time, in milliseconds by its own clock. What passed besides was spent on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocked {
    /// Until its first byte.
    pub first_byte_ms: Option<u64>,
    /// Until its last.
    pub whole_ms: Option<u64>,
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
    /// Of a stream as one array; boxed, because few are.
    elements: Option<Box<Elements>>,
    /// Of a stream in AWS's frames; boxed, because few are.
    frames: Option<Box<EventStream>>,
    /// What the head of the response said.
    by_head: Option<Usage>,
    latency_by_head: Option<u64>,
    any_byte: bool,
}

impl Meter {
    /// For a body of type `text/event-stream`.
    pub fn sse(operation: Operation) -> Self {
        // Anthropic's events say it in parts, which are put together as they are looked at anyway.
        let usage = (operation != Operation::Messages).then(|| UsageSearch::new(operation));
        Self { events: Some(Events::new(operation)), usage, ..Self::off() }
    }

    /// The same, and the id of the answer is looked for.
    #[must_use]
    pub fn telling_id(mut self, wanted: bool) -> Self {
        if let Some(events) = &mut self.events {
            events.wants_id = wanted;
        }
        self
    }

    /// For a body of type `application/vnd.amazon.eventstream`.
    pub fn event_stream() -> Self {
        Self { frames: Some(Box::default()), ..Self::off() }
    }

    /// For a JSON body whose head had these fields, which may say of the tokens what it does not.
    pub fn json(operation: Operation, fields: &Fields) -> Self {
        let (beginning, usage) = (Some(Beginning::default()), Some(UsageSearch::new(operation)));
        let elements = (operation == Operation::GenerateContent).then(Box::default);
        // Elsewhere no head says anything of tokens.
        let (by_head, latency_by_head) = if operation == Operation::InvokeModel { by_head(fields) } else { (None, None) };
        Self { events: None, beginning, usage, elements, frames: None, by_head, latency_by_head, any_byte: false }
    }

    /// For a JSON body of Gemini's with embeddings.
    pub fn embeddings_of_google() -> Self {
        let usage = Some(UsageSearch::of_google(Operation::Embeddings));
        Self { beginning: Some(Beginning::default()), usage, ..Self::off() }
    }

    /// For a JSON body that is no answer of a model: what it is about.
    pub fn things() -> Self {
        Self { beginning: Some(Beginning::default()), ..Self::off() }
    }

    /// For a body that cannot be read, because it is compressed or of another type.
    pub const fn off() -> Self {
        Self {
            events: None,
            beginning: None,
            usage: None,
            elements: None,
            frames: None,
            by_head: None,
            latency_by_head: None,
            any_byte: false,
        }
    }

    /// What the backend says of its own time. To be asked at the end.
    pub fn clocked(&self) -> Clocked {
        let in_body = || self.usage.as_ref().and_then(|search| search.latency_ms);
        let said = || Clocked { whole_ms: self.latency_by_head.or_else(in_body), ..Clocked::default() };
        self.frames.as_ref().map_or_else(said, |frames| frames.read().clocked)
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
        if let Some(elements) = &mut self.elements {
            elements.feed(chunk);
        }
        if let Some(frames) = &mut self.frames {
            frames.feed(chunk);
        }
    }

    /// Whether the first body data has come: for an event stream a `data` line, because a comment that keeps the connection alive
    /// is no answer; for other bodies any byte.
    pub fn saw_first_data(&self) -> bool {
        match (&self.events, &self.frames) {
            (Some(events), _) => events.saw_data(),
            (_, Some(frames)) => frames.read().saw_event,
            _ => self.any_byte,
        }
    }

    /// Whether the last event of a stream is here, whatever is still to come of its body.
    pub fn saw_last_event(&self) -> bool {
        let of_events = self.events.as_ref().is_some_and(|events| events.saw_last);
        of_events || self.frames.as_ref().is_some_and(|frames| frames.read().saw_last)
    }

    /// Whether it watches an event stream.
    pub const fn reads_events(&self) -> bool {
        self.events.is_some() || self.frames.is_some()
    }

    /// What the body said went wrong: it may end as it should, under a status of success, and be no answer for all that. To be asked
    /// at its end.
    pub fn error(&self) -> Option<StreamError> {
        let of_events = self.events.as_ref().and_then(Events::error);
        let of_frames = || self.frames.as_ref().and_then(|frames| frames.read().error);
        let of_elements = || self.elements.as_ref().and_then(|elements| elements.error);
        of_events.or_else(of_frames).or_else(of_elements).or_else(|| self.beginning.as_ref().and_then(Beginning::error))
    }

    /// The model as the backend names it, in printable ASCII. To be asked at the end.
    pub fn model(&mut self) -> Option<Bytes> {
        let of_events = self.events.as_mut().and_then(|events| events.model.take());
        of_events.or_else(|| self.beginning.as_ref().and_then(Beginning::model))
    }

    /// Where the backend says that the model ran (`us`), as far as its API has a word for it. To be asked at the end.
    pub fn inference_geo(&mut self) -> Option<Box<str>> {
        let of_events = self.events.as_mut().and_then(|events| events.snapshot.geo.take());
        of_events.or_else(|| self.usage.as_mut().and_then(|search| search.geo.take()))
    }

    /// The id of the answer, as soon as a stream has told it, or at the end.
    pub fn id(&mut self, at_end: bool) -> Option<Bytes> {
        match (&mut self.events, &self.beginning) {
            (Some(events), _) => events.id.take(),
            (None, Some(beginning)) if at_end => own_id(beginning.text()).map(Bytes::copy_from_slice),
            _ => None,
        }
    }

    /// Every id that a body tells in its own members. To be asked at the end.
    pub fn ids(&self, mut found: impl FnMut(&[u8])) {
        if let Some(beginning) = &self.beginning {
            all_ids(beginning.text()).for_each(&mut found);
        }
    }

    /// What is known when the body has ended or was given up.
    pub fn finish(&mut self) -> (Usage, UsageSource) {
        let (usage, source) = self.found();
        (usage.sound(), source)
    }

    fn found(&self) -> (Usage, UsageSource) {
        if let Some(frames) = &self.frames {
            return frames.read().finish();
        }
        let in_body = self.usage.as_ref().and_then(UsageSearch::found);
        let of_elements = self.elements.as_ref().map_or(0, |elements| elements.with_output);
        let counted = self.events.as_ref().map_or(of_elements, |events| events.with_output);
        let of_choices = self.events.as_ref().and_then(|events| events.totals.as_ref()?.sum(events.operation));
        if let Some(usage) = of_choices {
            // It is a sum that the backend did not make, and choices of which nothing was heard are not in it.
            return (Usage { output_tokens: usage.output_tokens.max(Some(counted)), ..usage }, UsageSource::Counted);
        }
        if let Some(usage) = in_body.filter(|usage| self.is_behind(usage, counted)) {
            return (Usage { output_tokens: Some(counted), ..usage }, UsageSource::Counted);
        }
        if let Some(usage) = in_body.or(self.by_head) {
            return (usage, UsageSource::Reported);
        }
        let Some(events) = &self.events else {
            let source = if counted > 0 { UsageSource::Counted } else { UsageSource::Unknown };
            return (Usage { output_tokens: Some(counted).filter(|counted| *counted > 0), ..Usage::default() }, source);
        };
        let (said, whole) = events.snapshot.usage();
        match events.with_output {
            _ if whole => (said, UsageSource::Reported),
            // That its prompt was read is known, and that nothing was said.
            0 if said.input_tokens.is_none() => (said, UsageSource::Unknown),
            counted => (Usage { output_tokens: Some(counted), ..said }, UsageSource::Counted),
        }
    }
}

impl Meter {
    /// Whether a running total, of which Gemini's early chunks have only the input, is less than what has been seen. What a total leaves
    /// for the output says nothing before the end.
    fn is_behind(&self, usage: &Usage, counted: u64) -> bool {
        let Some(search) = self.usage.as_ref().filter(|search| search.operation == Operation::GenerateContent) else {
            return false;
        };
        let only_rest = search.own.as_ref().is_some_and(|own| !own.counts.tells_output());
        let unfinished = self.elements.as_ref().is_some_and(|elements| elements.is_unfinished());
        usage.output_tokens.unwrap_or(0) < counted || only_rest && unfinished
    }
}

/// What Bedrock says in the head of an answer to InvokeModel, whose body is the model's own.
fn by_head(fields: &Fields) -> (Option<Usage>, Option<u64>) {
    let (mut input_tokens, mut output_tokens, mut latency) = (None, None, None);
    // In one pass over the few whose names are not known: many an answer says it in its body, and pays only for that look.
    for field in fields.iter().filter(|field| field.known.is_none()) {
        let place = match field.name {
            name if name.eq_ignore_ascii_case(INPUT_TOKENS) => &mut input_tokens,
            name if name.eq_ignore_ascii_case(OUTPUT_TOKENS) => &mut output_tokens,
            name if name.eq_ignore_ascii_case(LATENCY) => &mut latency,
            _ => continue,
        };
        *place = place.or_else(|| count(field.value).ok().flatten());
    }
    let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
    (Some(usage).filter(|usage| *usage != Usage::default()), latency)
}

/// Reads a usage object of any API; `None` where it is another thing of that name (a tool's parameter, say). Chat and completions
/// count `prompt` and `completion`, responses and Anthropic `input` and `output`, and Bedrock has these in its own spelling. The object
/// is known to be balanced; a serde visitor took half as many instructions again.
pub(super) fn read(operation: Operation, object: &[u8]) -> Option<Usage> {
    let (mut input, mut output, mut total) = (None, None, None);
    let (mut cached, mut reasoning) = (None, None);
    // Anthropic and Bedrock count these beside the input, and the input is all three together.
    let (mut read, mut written) = (None, None);
    for (name, value) in members(object) {
        match name {
            b"prompt_tokens" | b"input_tokens" | b"inputTokens" | b"inputTokenCount" => input = count(value).ok()?.or(input),
            b"completion_tokens" | b"output_tokens" | b"outputTokens" | b"outputTokenCount" => {
                output = count(value).ok()?.or(output);
            }
            b"cache_read_input_tokens" | b"cacheReadInputTokens" | b"cacheReadInputTokenCount" => read = count(value).ok()?,
            b"cache_creation_input_tokens" | b"cacheWriteInputTokens" | b"cacheWriteInputTokenCount" => {
                written = count(value).ok()?;
            }
            b"total_tokens" => total = count(value).ok()?,
            b"prompt_tokens_details" | b"input_tokens_details" => cached = detail(value, b"cached_tokens").ok()?.or(cached),
            b"completion_tokens_details" | b"output_tokens_details" => {
                let thinking = detail(value, b"thinking_tokens").ok()?;
                reasoning = detail(value, b"reasoning_tokens").ok()?.or(thinking).or(reasoning);
            }
            _ => {}
        }
    }
    if operation == Operation::Embeddings {
        // What has no output says so only by the total.
        output = output.or(total.zip(input).and_then(|(total, input): (u64, u64)| total.checked_sub(input)));
    }
    if input.is_none() && output.is_none() {
        return None;
    }
    let beside = [read, written].into_iter().flatten().fold(0_u64, u64::saturating_add);
    input = input.map(|input: u64| input.saturating_add(beside));
    let cached = read.or(cached);
    Some(Usage { input_tokens: input, cached_tokens: cached, output_tokens: output, reasoning_tokens: reasoning })
}

/// A value that is no count where a count belongs: the object is something else than usage.
#[derive(Debug)]
pub(super) struct NoCount;

/// A whole number, or `null`.
pub(super) fn count(value: &[u8]) -> Result<Option<u64>, NoCount> {
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
pub(super) fn detail(details: &[u8], wanted: &[u8]) -> Result<Option<u64>, NoCount> {
    if details == b"null" {
        return Ok(None);
    }
    if details.first() != Some(&b'{') {
        return Err(NoCount);
    }
    members(details).find(|(name, _)| *name == wanted).map_or(Ok(None), |(_, value)| count(value))
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
