//! What is done to a response on its way: an event of Windward's own taken out, or all of it put into the client's dialect. Nearly always
//! nothing is.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::strip::UsageStripper;
use crate::wire::translate::{Answer, Broken};

/// An edit under way.
#[derive(Debug)]
pub(super) enum Edit {
    /// The usage event is taken out that the client did not ask for.
    Strip(UsageStripper),
    /// It is translated.
    Translate(Box<Answer>),
}

impl Edit {
    /// What of a chunk, and of what was held before it, may leave now.
    pub(super) fn feed(&mut self, chunk: &Bytes, ready: &mut VecDeque<Bytes>) {
        match self {
            Self::Strip(strip) => ready.extend(strip.feed(chunk)),
            Self::Translate(answer) => ready.extend(Some(answer.feed(chunk)).filter(|bytes| !bytes.is_empty())),
        }
    }

    /// What was still held when the response ended.
    pub(super) fn finish(&mut self, ready: &mut VecDeque<Bytes>) {
        match self {
            Self::Strip(strip) => ready.extend(strip.finish()),
            Self::Translate(answer) => ready.extend(Some(answer.finish()).filter(|bytes| !bytes.is_empty())),
        }
    }

    /// Bytes that are held until more of an answer has come that is translated. What an event of ours takes is bounded by itself.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Strip(_) => 0,
            Self::Translate(answer) => answer.held(),
        }
    }

    /// There is no room for what it holds.
    pub(super) fn give_up(&mut self) {
        match self {
            Self::Strip(_) => {}
            Self::Translate(answer) => answer.give_up(),
        }
    }

    /// Why it cannot be gone on with, once it cannot. What is ready by then is good.
    pub(super) fn broken(&self) -> Option<Broken> {
        match self {
            Self::Strip(_) => None,
            Self::Translate(answer) => answer.broken(),
        }
    }
}
