//! The search for what a body says of its tokens: chunk by chunk, without holding more of it than the small object that is wanted.

use memchr::memmem::Finder;
use memchr::memrchr;

use super::Operation;
use super::anthropic::geo_in;
use super::gemini::Counts;
use super::json::{Depth, Nest, USAGE, USAGE_KEY, USAGE_METADATA_KEY, Walk, members, skip_space};
use super::usage::{Usage, count, read};

/// Largest usage object that is read, in bytes; those in use have 100 to 600.
pub(super) const USAGE_BYTES: usize = 4096;

/// Where a whole answer of Converse's says how long it took.
const METRICS_KEY: &[u8] = b"\"metrics\"";

/// Finds `"usage": {..}`, or what Gemini calls it, in chunks, wherever they are cut.
#[derive(Debug)]
pub(super) struct UsageSearch {
    pub(super) operation: Operation,
    /// Whether it is written as Gemini writes it.
    of_google: bool,
    key: &'static [u8],
    finder: &'static Finder<'static>,
    /// Where a model's words may stand as JSON; boxed, because most are strings.
    pub(super) own: Option<Box<Own>>,
    state: Search,
    nest: Nest,
    /// The beginning of an object that a cut divides.
    held: Vec<u8>,
    /// Whether the object that is being walked through outgrew the bound.
    too_long: bool,
    last: Option<Usage>,
    pub(super) geo: Option<Box<str>>,
    /// What Converse says of its own time, in milliseconds.
    pub(super) latency_ms: Option<u64>,
}

/// What is kept where only the top object's own member is the backend's word.
#[derive(Debug, Default)]
pub(super) struct Own {
    depth: Depth,
    /// What Gemini's chunks say.
    pub(super) counts: Counts,
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
    pub(super) fn new(operation: Operation) -> Self {
        Self::of(operation, operation == Operation::GenerateContent)
    }

    /// Of an answer of Gemini's, to whatever.
    pub(super) fn of_google(operation: Operation) -> Self {
        Self::of(operation, true)
    }

    fn of(operation: Operation, of_google: bool) -> Self {
        let key = if of_google { USAGE_METADATA_KEY } else { USAGE_KEY };
        let in_strings = !of_google
            && matches!(operation, Operation::Chat | Operation::Completions | Operation::Responses | Operation::Embeddings);
        Self {
            operation,
            of_google,
            key,
            finder: &USAGE,
            own: (!in_strings).then(Box::default),
            state: Search::Key(0),
            nest: Nest::default(),
            held: Vec::new(),
            too_long: false,
            last: None,
            geo: None,
            latency_ms: None,
        }
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.state {
                Search::Key(matched) if self.own.is_some() => self.own_key(chunk, at, matched),
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
            let rest = &self.key[matched..];
            let length = rest.len().min(chunk.len() - at);
            if chunk[at..at + length] == rest[..length] {
                self.state = if length == rest.len() { Search::Colon } else { Search::Key(matched + length) };
                return at + length;
            }
            // Only its first byte is a quote, so no other match can have begun within the part that failed.
        }
        if let Some(found) = self.finder.find(&chunk[at..]) {
            self.state = Search::Colon;
            return at + found + self.key.len();
        }
        let tail = &chunk[at.max(chunk.len().saturating_sub(self.key.len() - 1))..];
        let begun = memrchr(b'"', tail).map_or(&[][..], |quote| &tail[quote..]);
        // Byte by byte: a call of memcmp for these few cost more than the search of the whole event.
        let is_key = begun.iter().zip(self.key).all(|(byte, wanted)| byte == wanted);
        self.state = Search::Key(if is_key { begun.len() } else { 0 });
        chunk.len()
    }

    /// The same, but only where it names a member of the top object itself.
    fn own_key(&mut self, chunk: &[u8], mut at: usize, matched: usize) -> usize {
        let Some(own) = &mut self.own else { return chunk.len() };
        if matched == 1 && self.operation == Operation::Converse {
            self.key = if chunk.get(at) == METRICS_KEY.get(1) { METRICS_KEY } else { USAGE_KEY };
        }
        if matched > 0 {
            let rest = &self.key[matched..];
            let alike = rest.iter().zip(&chunk[at..]).take_while(|(wanted, byte)| wanted == byte).count();
            self.state = if alike == rest.len() {
                own.depth.close_string();
                Search::Colon
            } else if at + alike == chunk.len() {
                Search::Key(matched + alike)
            } else {
                Search::Key(0)
            };
            return at + alike;
        }
        while let Some((byte, next)) = own.depth.step(chunk, at) {
            at = next;
            if byte == b'"' && own.depth.is_own() {
                self.state = Search::Key(1);
                return at;
            }
        }
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
        if !ended || !self.held.is_empty() {
            self.held.extend_from_slice(part);
        }
        if ended {
            let held = std::mem::take(&mut self.held);
            self.take(if held.is_empty() { part } else { &held });
            self.held = held;
        }
        next
    }

    fn take(&mut self, object: &[u8]) {
        if let Some(own) = self.own.as_mut().filter(|_| self.of_google) {
            own.counts.take(object);
            return;
        }
        if self.key == METRICS_KEY {
            let said = members(object).find(|(name, _)| *name == b"latencyMs");
            self.latency_ms = said.and_then(|(_, value)| count(value).ok()?).or(self.latency_ms);
            return;
        }
        self.last = read(self.operation, object).or(self.last);
        if self.operation == Operation::Messages {
            self.geo = geo_in(object).or_else(|| self.geo.take());
        }
    }

    pub(super) fn found(&self) -> Option<Usage> {
        self.last.or_else(|| self.own.as_ref()?.counts.usage())
    }
}
