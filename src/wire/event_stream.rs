//! Streams in AWS's binary frames, as Bedrock's streaming operations send them.
//!
//! A frame is decoded by AWS's own crate, on a copy of the bytes that were forwarded. How long one is stands in its first four bytes,
//! so that one beyond the limit is passed over without being kept.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use aws_smithy_types::str_bytes::StrBytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Operation;
use super::events::{StreamError, piece_has_output};
use super::json::members;
use super::usage::{Usage, UsageSource, read};

/// The largest frame that is looked into, in bytes. Those with text have some hundred; only pictures and sound make longer ones.
const MOST: usize = 256 << 10;
/// Prelude and checksums: no frame is shorter.
const LEAST: usize = 16;

/// Reads one stream.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    /// The beginning of a frame that a cut divides.
    held: Vec<u8>,
    /// What is still to come of a frame that is passed over.
    skip: usize,
    /// It is no such stream, or not one from here on.
    lost: bool,
    with_output: u64,
    pub(super) saw_event: bool,
    /// The usage that ends a stream is here.
    pub(super) saw_last: bool,
    pub(super) error: Option<StreamError>,
    usage: Usage,
}

impl EventStream {
    pub(super) fn feed(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() && !self.lost {
            chunk = self.go_on(chunk);
        }
    }

    /// Takes a part of the chunk, and gives back the rest.
    fn go_on<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        if self.skip > 0 {
            let (passed, rest) = chunk.split_at(self.skip.min(chunk.len()));
            self.skip -= passed.len();
            return rest;
        }
        if self.held.is_empty()
            && let Some(length) = length_of(chunk)
        {
            // Most often a frame comes as a whole.
            return self.frame_or_hold(chunk, length);
        }
        let wanted = match length_of(&self.held) {
            Some(length) => length - self.held.len(),
            None => 4 - self.held.len(),
        };
        let (part, rest) = chunk.split_at(wanted.min(chunk.len()));
        self.held.extend_from_slice(part);
        if let Some(length) = length_of(&self.held) {
            if !(LEAST..=MOST).contains(&length) {
                self.pass_over(length, self.held.len());
                self.held.clear();
            } else if self.held.len() == length {
                let frame = std::mem::take(&mut self.held);
                self.frame(&frame);
                self.held = frame;
                self.held.clear();
            }
        }
        rest
    }

    fn frame_or_hold<'c>(&mut self, chunk: &'c [u8], length: usize) -> &'c [u8] {
        if !(LEAST..=MOST).contains(&length) {
            self.pass_over(length, 0);
            return chunk;
        }
        if let Some((frame, rest)) = chunk.split_at_checked(length) {
            self.frame(frame);
            return rest;
        }
        self.held.extend_from_slice(chunk);
        &[]
    }

    /// Of a frame of that length so many bytes have gone by.
    fn pass_over(&mut self, length: usize, gone: usize) {
        self.lost = length < LEAST;
        self.saw_event = true;
        self.skip = length.saturating_sub(gone);
    }

    fn frame(&mut self, frame: &[u8]) {
        match read_message_from(frame) {
            Ok(message) => self.message(&message),
            // What follows a broken frame cannot be told from noise.
            Err(_) => self.lost = true,
        }
    }

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
            (_, Some("metadata")) => self.take_usage(payload, b"usage", true),
            _ => {}
        }
    }

    fn fail(&mut self, exception: &str) {
        let by_request = matches!(exception, "validationException" | "accessDeniedException" | "resourceNotFoundException");
        let error = if by_request { StreamError::Request } else { StreamError::Backend };
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
        self.take_usage(&piece, b"amazon-bedrock-invocationMetrics", true);
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

/// The length that a frame begins with.
fn length_of(frame: &[u8]) -> Option<usize> {
    let (length, _) = frame.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
#[path = "event_stream_tests.rs"]
mod tests;
