//! Streams in AWS's binary frames, as Bedrock's streaming operations send them.
//!
//! A frame is decoded by AWS's own crate, on a copy of the bytes that were forwarded. One beyond the limit is passed over.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use aws_smithy_types::str_bytes::StrBytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Operation;
use super::event_frames::{EventFrames, Piece};
use super::events::{StreamError, piece_has_output};
use super::json::members;
use super::usage::{Clocked, Usage, UsageSource, count, read};

/// The largest frame that is looked into, in bytes. Those with text have some hundred; only pictures and sound make longer ones.
const MOST: usize = 256 << 10;

/// What the last piece of an invocation says of it besides the model's own words.
const METRICS: &[u8] = b"amazon-bedrock-invocationMetrics";

/// Reads one stream.
#[derive(Debug)]
pub(super) struct EventStream {
    frames: EventFrames,
    read: Read,
}

/// What was read of it.
#[derive(Debug, Default)]
pub(super) struct Read {
    with_output: u64,
    pub(super) saw_event: bool,
    /// The usage that ends a stream is here.
    pub(super) saw_last: bool,
    pub(super) error: Option<StreamError>,
    usage: Usage,
    pub(super) clocked: Clocked,
}

impl Default for EventStream {
    fn default() -> Self {
        Self { frames: EventFrames::new(MOST), read: Read::default() }
    }
}

impl EventStream {
    pub(super) fn feed(&mut self, mut chunk: &[u8]) {
        loop {
            let broken = match self.frames.next(&mut chunk) {
                None => return,
                Some(Piece::Frame(frame)) => {
                    let message = read_message_from(frame);
                    message.map(|message| self.read.message(&message)).is_err()
                }
                Some(Piece::TooLong | Piece::Lost) => {
                    self.read.saw_event = true;
                    false
                }
            };
            if broken {
                self.frames.lose();
            }
        }
    }

    /// What was read until now.
    pub(super) const fn read(&self) -> &Read {
        &self.read
    }
}

impl Read {
    fn message(&mut self, message: &Message) {
        self.saw_event = true;
        let field = |name: &str| {
            let header = message.headers().iter().find(|header| header.name().as_str() == name)?;
            header.value().as_string().ok().map(StrBytes::as_str)
        };
        let payload = message.payload();
        match (field(":message-type"), field(":event-type")) {
            (Some("exception"), _) => self.fail(field(":exception-type").unwrap_or_default()),
            (Some("error"), _) => self.fail(""),
            (_, Some("chunk")) => self.chunk(payload),
            (_, Some("contentBlockDelta")) => self.with_output += 1,
            (_, Some("metadata")) => {
                self.take_usage(payload, b"usage", true);
                self.take_times(payload, b"metrics");
            }
            _ => {}
        }
    }

    fn fail(&mut self, exception: &str) {
        let error = match exception {
            "validationException" | "accessDeniedException" | "resourceNotFoundException" => StreamError::Request,
            "throttlingException" | "modelNotReadyException" => StreamError::Full { whole: false },
            "serviceUnavailableException" => StreamError::Full { whole: true },
            _ => StreamError::Backend,
        };
        self.error.get_or_insert(error);
    }

    /// A piece of what the model says in its own words, in base64.
    fn chunk(&mut self, payload: &[u8]) {
        if payload.first() != Some(&b'{') {
            return;
        }
        let bytes = members(payload).find(|(name, _)| *name == b"bytes").map(|(_, value)| value);
        let text = bytes.and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
        let Some(piece) = text.and_then(|text| STANDARD.decode(text).ok()).filter(|piece| piece.first() == Some(&b'{')) else {
            return;
        };
        if piece_has_output(&piece) {
            self.with_output += 1;
        }
        // Anthropic's first event has the usage within its message.
        if let Some((_, message)) = members(&piece).find(|(name, value)| *name == b"message" && value.first() == Some(&b'{')) {
            self.take_usage(message, b"usage", false);
        }
        self.take_usage(&piece, b"usage", false);
        self.take_usage(&piece, METRICS, true);
        self.take_times(&piece, METRICS);
    }

    /// What the backend says of its own time.
    fn take_times(&mut self, object: &[u8], wanted: &[u8]) {
        let Some((_, metrics)) = members(object).find(|(name, value)| *name == wanted && value.first() == Some(&b'{')) else {
            return;
        };
        for (name, value) in members(metrics) {
            let slot = match name {
                b"firstByteLatency" => &mut self.clocked.first_byte_ms,
                b"invocationLatency" | b"latencyMs" => &mut self.clocked.whole_ms,
                _ => continue,
            };
            *slot = count(value).ok().flatten().or(*slot);
        }
    }

    fn take_usage(&mut self, object: &[u8], wanted: &[u8], last: bool) {
        if object.first() != Some(&b'{') {
            return;
        }
        let said = members(object).find(|(name, value)| *name == wanted && value.first() == Some(&b'{'));
        if let Some(usage) = said.and_then(|(_, value)| read(Operation::Converse, value)) {
            self.usage = self.usage.updated(usage);
            self.saw_last |= last;
        }
    }

    /// What is known at the end. What was said on the way of the output of a stream that broke is a beginning of it.
    pub(super) fn finish(&self) -> (Usage, UsageSource) {
        let counted = Some(self.with_output).filter(|count| *count > 0);
        match (self.saw_last, counted.max(self.usage.output_tokens)) {
            (true, _) => (self.usage, UsageSource::Reported),
            (false, None) => (Usage::default(), UsageSource::Unknown),
            (false, output_tokens) => (Usage { output_tokens, ..self.usage }, UsageSource::Counted),
        }
    }
}

#[cfg(test)]
#[path = "event_stream_tests.rs"]
pub(super) mod tests;
