//! One model reached through two dialects: a request in the words of the backend's, and its answer in those of the client's.
//!
//! A translation is a promise that nothing is lost, so a request is read to its last member, and one that has no counterpart is refused
//! by its name before anything is sent ([`Refusal`]); an answer with a part that has none is cut like one that broke off ([`Broken`]),
//! never rounded off. Both are pure: bytes in, bytes out, and where the network cut a stream makes no difference. What takes memory is
//! bounded: a frame of a stream, and an answer in one piece.
//!
//! There are two pairs, both towards Bedrock, where a model's maker and AWS have an API each: a chat to Converse, and Anthropic's messages
//! to InvokeModel, which takes them nearly as they are.

mod chat_answer;
mod chat_request;
mod converse;
mod document;
mod fault;
mod messages;

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use aws_smithy_types::str_bytes::StrBytes;
use bytes::Bytes;
use http::StatusCode;

use super::event_frames::{EventFrames, Piece};
use super::{Dialect, Operation};
use chat_answer::ChatStream;
pub use document::{LONGEST_NAME, Refusal};
pub use fault::status_of;
use messages::MessagesStream;
pub use messages::Spoken;

/// The longest frame of a stream, in bytes. One has a piece of a text, some hundred bytes of it, and a client may leave hundreds of
/// streams unread with a part of one in each.
const LONGEST_FRAME: usize = 1 << 20;
/// The longest answer in one piece, in bytes. The longest that models write, 128 thousand tokens, has about one million of them.
const LONGEST_ANSWER: usize = 8 << 20;

/// The longest error, in bytes. One has a sentence.
const LONGEST_FAULT: usize = 64 << 10;

/// From what to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// OpenAI's chat completions to Bedrock's Converse.
    ChatToConverse,
    /// Anthropic's messages to Bedrock's InvokeModel of Claude.
    MessagesToInvoke,
}

impl Translation {
    /// What there is for a call to a backend of that dialect.
    pub fn of(operation: Operation, there: Dialect) -> Option<Self> {
        match (operation, there) {
            (Operation::Chat, Dialect::Bedrock) => Some(Self::ChatToConverse),
            (Operation::Messages, Dialect::Bedrock) => Some(Self::MessagesToInvoke),
            _ => None,
        }
    }

    /// What the backend is asked for.
    pub const fn operation_there(self) -> Operation {
        match self {
            Self::ChatToConverse => Operation::Converse,
            Self::MessagesToInvoke => Operation::InvokeModel,
        }
    }

    /// Whether a parameter of the client's query says nothing that would be lost.
    pub fn knows_parameter(self, name: &str) -> bool {
        match self {
            // Which version of its paths Azure is asked by.
            Self::ChatToConverse => name.eq_ignore_ascii_case("api-version"),
            // Which betas those are is said in the head.
            Self::MessagesToInvoke => name == "beta",
        }
    }

    /// Translates a request's body. `spoken` is what its head says to the point.
    pub fn request(self, body: &[u8], spoken: Spoken<'_>) -> Result<Bytes, Refusal> {
        match self {
            Self::ChatToConverse => chat_request::translate(body).map(Bytes::from),
            Self::MessagesToInvoke => messages::translate(body, spoken).map(Bytes::from),
        }
    }

    /// Whether an answer that begins so is what the client would get of its own API.
    pub fn passes(self, head: &Head<'_>) -> bool {
        self == Self::MessagesToInvoke && head.status.is_success() && !head.streamed
    }
}

/// What an answer in the client's dialect says besides what the backend said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// The client's dialect.
    pub dialect: Dialect,
    /// The answer's id.
    pub id: Box<str>,
    /// Seconds since 1970.
    pub created: i64,
    /// The model as the client names it.
    pub model: Box<str>,
    /// Whether the client asked for usage on its stream.
    pub include_usage: bool,
}

/// Why an answer cannot be gone on with: it is not what the backend's API says, or has parts that the client's has no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(&'static str);

/// Why an answer that nobody is to blame for is not gone on with.
pub const NO_ROOM: Broken = Broken("there is no room to hold it until it can be translated");

/// What a response's head says of its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Whether a stream was asked for.
    pub streamed: bool,
    /// Its type.
    pub content_type: &'a [u8],
    /// Whether it is compressed, although nobody asked for that.
    pub encoded: bool,
    /// `x-amzn-errortype`.
    pub exception: Option<&'a str>,
}

impl Head<'_> {
    /// Why what follows cannot be read, where that is known already. Of an error the status says enough.
    pub fn unreadable(&self) -> Option<Broken> {
        let wanted: &[u8] = if self.streamed { b"application/vnd.amazon.eventstream" } else { b"application/json" };
        match self.status.is_success() {
            true if self.encoded => Some(Broken("the answer is compressed")),
            true if !self.content_type.starts_with(wanted) => Some(Broken("the answer is of another type")),
            _ => None,
        }
    }
}

/// An answer on its way.
#[derive(Debug)]
pub struct Answer {
    of: Occasion,
    body: Body,
    broken: Option<Broken>,
}

#[derive(Debug)]
enum Body {
    /// In one piece, until it is all here.
    Whole(Vec<u8>),
    /// An error, in one piece.
    Fault {
        held: Vec<u8>,
        status: StatusCode,
        exception: Option<Box<str>>,
    },
    Stream(EventFrames, Stream),
}

#[derive(Debug)]
enum Stream {
    Chat(ChatStream),
    Messages(MessagesStream),
    /// It said that it failed, and its client was told so. Nothing follows.
    Failed,
}

impl Body {
    const fn stream(stream: Stream) -> Self {
        Self::Stream(EventFrames::new(LONGEST_FRAME), stream)
    }
}

impl Answer {
    /// An answer that begins with that head.
    pub fn new(translation: Translation, head: Head<'_>, of: Occasion) -> Self {
        let body = if head.status.is_success() {
            match translation {
                _ if !head.streamed => Body::Whole(Vec::new()),
                Translation::ChatToConverse => Body::stream(Stream::Chat(ChatStream::default())),
                Translation::MessagesToInvoke => Body::stream(Stream::Messages(MessagesStream::default())),
            }
        } else {
            let exception = head.exception.map(Into::into);
            Body::Fault { held: Vec::new(), status: status_of(head.status), exception }
        };
        Self { of, body, broken: head.unreadable() }
    }

    /// The type of what comes out.
    pub const fn content_type(&self) -> &'static str {
        match self.body {
            Body::Stream(..) => "text/event-stream; charset=utf-8",
            Body::Whole(_) | Body::Fault { .. } => "application/json",
        }
    }

    /// Why it broke, once it has. What was given out until then is good.
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Bytes of it that are held until more has come.
    pub fn held(&self) -> usize {
        match &self.body {
            Body::Whole(held) | Body::Fault { held, .. } => held.len(),
            Body::Stream(frames, _) => frames.held(),
        }
    }

    /// It is not gone on with, because there is no room for what has to be held of it.
    pub fn give_up(&mut self) {
        self.broken.get_or_insert(NO_ROOM);
        self.let_go();
    }

    fn let_go(&mut self) {
        match &mut self.body {
            Body::Whole(held) | Body::Fault { held, .. } => *held = Vec::new(),
            Body::Stream(frames, _) => *frames = EventFrames::new(LONGEST_FRAME),
        }
    }

    /// What becomes of a chunk.
    pub fn feed(&mut self, chunk: &[u8]) -> Bytes {
        let mut out = Vec::new();
        if self.broken.is_none() {
            self.broken = match &mut self.body {
                Body::Whole(held) => hold(held, chunk),
                Body::Fault { held, .. } => {
                    // Of a longer one the beginning is kept, which is no JSON: then its status alone is told.
                    held.extend_from_slice(chunk.get(..LONGEST_FAULT.saturating_sub(held.len())).unwrap_or(chunk));
                    Ok(())
                }
                Body::Stream(frames, stream) => stream.feed(frames, chunk, &self.of, &mut out),
            }
            .err();
        }
        out.into()
    }

    /// What becomes of the end, if it is one.
    pub fn finish(&mut self) -> Bytes {
        if self.broken.is_some() {
            return Bytes::new();
        }
        let mut out = Vec::new();
        let said = match &mut self.body {
            Body::Whole(held) => chat_answer::whole(held, &self.of).map(Bytes::from),
            Body::Fault { held, status, exception } => Ok(fault::whole(held, self.of.dialect, *status, exception.as_deref())),
            Body::Stream(frames, stream) => stream.finish(frames, &self.of, &mut out).map(|()| Bytes::from(out)),
        };
        self.let_go();
        said.unwrap_or_else(|broken| {
            self.broken = Some(broken);
            Bytes::new()
        })
    }
}

fn hold(held: &mut Vec<u8>, chunk: &[u8]) -> Result<(), Broken> {
    if held.len() + chunk.len() > LONGEST_ANSWER {
        *held = Vec::new();
        return Err(Broken("the answer is longer than any that is translated"));
    }
    held.extend_from_slice(chunk);
    Ok(())
}

impl Stream {
    fn feed(&mut self, frames: &mut EventFrames, mut chunk: &[u8], of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        while let Some(piece) = frames.next(&mut chunk) {
            let Piece::Frame(frame) = piece else { return Err(Broken("a frame is longer than any that is translated")) };
            let message = read_message_from(frame).map_err(|_| Broken("a frame is damaged"))?;
            self.message(&message, of, into)?;
        }
        Ok(())
    }

    fn message(&mut self, message: &Message, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        let field = |name: &str| {
            let header = message.headers().iter().find(|header| header.name().as_str() == name)?;
            header.value().as_string().ok().map(StrBytes::as_str)
        };
        let failed = match field(":message-type") {
            Some("exception") => Some((field(":exception-type"), None)),
            // What has no shape of its own has its message in a header.
            Some("error") => Some((field(":error-code"), field(":error-message"))),
            _ => None,
        };
        if self.is_done() {
            return Ok(());
        }
        match (failed, &mut *self) {
            (Some((exception, said)), _) => {
                fault::event(message.payload(), said, of.dialect, exception.unwrap_or_default(), into);
                *self = Self::Failed;
                Ok(())
            }
            (None, Self::Chat(chat)) => chat.take(message, field(":event-type").unwrap_or_default(), of, into),
            (None, Self::Messages(messages)) => messages.take(message, field(":event-type").unwrap_or_default(), into),
            (None, Self::Failed) => Ok(()),
        }
    }

    fn finish(&mut self, frames: &EventFrames, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            _ if self.is_done() => Ok(()),
            _ if frames.is_within() => Err(Broken("the stream ended within a frame")),
            Self::Chat(chat) => chat.end_of_stream(of, into),
            Self::Messages(_) | Self::Failed => Err(Broken("the stream ended before its answer did")),
        }
    }

    /// Whether nothing follows.
    fn is_done(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.is_done(),
            Self::Messages(messages) => messages.is_done(),
            Self::Failed => true,
        }
    }
}

#[cfg(test)]
mod tests;
