//! Where one request ends and the next begins, and whether every reader would see it there.
//!
//! hyper reads requests as RFC 9112 allows a lenient recipient to: a head with bare line feeds, a `Content-Length` beside
//! `Transfer-Encoding`, blanks after a chunk's size all become clean requests, and nobody behind it can tell. For a server that is
//! well; a proxy stands between readers, and a message that two of them delimit differently is a way to smuggle a request past one.
//! So each message is checked before hyper sees it, to the letter, and hyper is shown one at a time.
//!
//! This is the machine, without a socket: it is fed bytes as they come and says how many of them are good. A head passes whole or
//! not at all, a body as it comes. Whatever passes is not changed, so that nothing has to be copied.
//!
//! It has 300 ns for a request of 1.5 KB. What is held to is the number of instructions, which no neighbour on the machine changes:
//! `frame` fails above 3,700 of them (`cargo bench --manifest-path benches/instructions/Cargo.toml --target-dir target`).

mod body;
mod chars;
mod head;
mod multiplexed;
mod refusal;
#[cfg(test)]
mod tests;
mod whole;

pub(super) use chars::end_of_value;
pub use multiplexed::check;
pub use refusal::Refusal;
pub use whole::{Look, MAX_WHOLE, Plain, Reader, Whole};

use body::Chunks;
use head::{Extent, Head, Most};

/// Bytes of a trailer section: some checksums and signatures fit, and it has to be kept until all of it is there.
const MAX_TRAILERS: usize = 8 << 10;
/// The most fields of a head, unless it is said otherwise, and of a trailer section in any case and either version of HTTP: what hyper takes without an allocation
/// for each message, and three times as many as any client is known to send.
pub const USUAL_FIELDS: u32 = 100;

const OF_TRAILERS: Most = Most { bytes: MAX_TRAILERS, fields: USUAL_FIELDS };

/// The requests of one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    head_limit: u32,
    fields: u32,
    messages: u32,
}

#[derive(Debug)]
enum State {
    /// Before a head, or within one that comes in pieces. Boxed, because most come in one.
    Head(Option<Box<Head>>),
    /// So much of a body is still to come.
    Length(u64),
    Chunks(Chunks),
    /// After the last chunk.
    Trailers(Option<Box<Head>>),
    /// Nothing more passes.
    Refused(Then),
}

/// What became of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// So many of them are good, from the first on.
    pub pass: usize,
    /// What about the others.
    pub then: Then,
}

/// What comes after the bytes that are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The others are part of something that cannot be judged yet: they have to be fed again, with what follows them.
    More,
    /// A message ended. What follows belongs to the next one and is to be fed when that one's turn has come.
    Next,
    /// The message is refused, and nothing of it has passed.
    Refuse(Refusal),
    /// The message breaks off within its body, whose beginning has passed.
    Break(Refusal),
}

impl Framing {
    /// For a connection whose heads have at most so many bytes.
    pub fn new(head_limit: usize) -> Self {
        let head_limit = u32::try_from(head_limit).unwrap_or(u32::MAX);
        Self { state: State::Head(None), head_limit, fields: USUAL_FIELDS, messages: 0 }
    }

    /// The same, and at most so many fields.
    #[must_use]
    pub fn with_fields(self, fields: u32) -> Self {
        Self { fields, ..self }
    }

    /// Messages that ended.
    pub const fn messages(&self) -> u32 {
        self.messages
    }

    /// Whether nothing of the next message was fed yet.
    pub const fn is_between(&self) -> bool {
        matches!(self.state, State::Head(None))
    }

    /// Whether nothing of a message has passed that has not ended.
    pub const fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Looks at bytes: those that did not pass last time, and what came since.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut pass = 0;
        loop {
            let rest = bytes.get(pass..).unwrap_or_default();
            match self.step(rest) {
                Ok((count, Some(then))) => return Fed { pass: pass + count, then },
                Ok((count, None)) => pass += count,
                Err((count, refusal)) => {
                    let then = if self.is_in_head() { Then::Refuse(refusal) } else { Then::Break(refusal) };
                    self.state = State::Refused(then);
                    return Fed { pass: pass + count, then };
                }
            }
        }
    }

    /// One step: how many bytes are good, and what then, unless it goes on at once.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<Then>), (usize, Refusal)> {
        match &mut self.state {
            State::Refused(then) => Ok((0, Some(*then))),
            _ if bytes.is_empty() => Ok((0, Some(Then::More))),
            State::Head(kept) => {
                let most = Most { bytes: self.head_limit as usize, fields: self.fields };
                let Some((length, head)) = scan(kept, Head::default, bytes, most).map_err(at_0)? else {
                    return Ok((0, Some(Then::More)));
                };
                match head.extent(bytes).map_err(at_0)? {
                    Extent::Length(0) => return Ok((length, Some(self.ended()))),
                    Extent::Length(left) => self.state = State::Length(left),
                    Extent::Chunked => self.state = State::Chunks(Chunks::new()),
                }
                Ok((length, None))
            }
            State::Length(left) => {
                let count = (*left).min(bytes.len() as u64);
                *left -= count;
                let then = if *left == 0 { self.ended() } else { Then::More };
                Ok((count as usize, Some(then)))
            }
            State::Chunks(chunks) => {
                let (count, last) = chunks.walk(bytes)?;
                if last {
                    self.state = State::Trailers(None);
                }
                Ok((count, None))
            }
            State::Trailers(kept) => match scan(kept, Head::trailers, bytes, OF_TRAILERS).map_err(at_0)? {
                Some((length, _)) => Ok((length, Some(self.ended()))),
                None => Ok((0, Some(Then::More))),
            },
        }
    }

    fn ended(&mut self) -> Then {
        self.messages = self.messages.wrapping_add(1);
        self.state = State::Head(None);
        Then::Next
    }
}

/// Reads a head or goes on with the one that was kept, which is kept again when its end is not there.
fn scan(
    kept: &mut Option<Box<Head>>,
    new: impl FnOnce() -> Head,
    bytes: &[u8],
    most: Most,
) -> Result<Option<(usize, Head)>, Refusal> {
    if let Some(head) = kept {
        return Ok(head.scan(bytes, most, &mut ())?.map(|length| (length, **head)));
    }
    let mut head = new();
    let length = head.scan(bytes, most, &mut ())?;
    if length.is_none() {
        *kept = Some(Box::new(head));
    }
    Ok(length.map(|length| (length, head)))
}

const fn at_0(refusal: Refusal) -> (usize, Refusal) {
    (0, refusal)
}
