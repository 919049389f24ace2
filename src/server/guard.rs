//! What stands between a socket and hyper: the place for anything that must see raw bytes.
//!
//! It gives back what was read to find out the protocol, notes that bytes arrived, and ends a connection whose peer takes none.
//! It also holds what a connection occupies, because an upgraded one lives on in other hands when hyper has done with it.
//!
//! Under HTTP/1.1 it is there from the first message on that is not plain ([`direct`](super::direct)). It shows hyper one message at
//! a time and only what [`framing`](crate::wire::framing) approves. The next message waits until the last response is written: what
//! is refused is answered here and not by hyper, and an answer must not overtake another. Under HTTP/2 it counts
//! [`frames`](crate::wire::frames) that bring no stream forward, and a flood of them is the end: it is cut, since an answer could not
//! be put between hyper's frames. Bytes are checked where they were read, in hyper's own buffer; they are copied only when a head
//! comes in pieces, or when a client sends the next request before it has the answer to the last.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::accepted::SeesEnd;
use super::detect::Prefix;
use super::listener::Place;
use super::refuse;
use super::stash::Stash;
use super::tracked::Entry;
use crate::clock::{Clock, SystemClock};
use crate::upstream::LazyTimer;
use crate::wire::frames::Frames;
use crate::wire::framing::{Framing, Refusal, Then};

/// A peer that takes no byte of its response for that long is gone (nginx's `send_timeout` has the same value).
pub(super) const WRITE_STALL: Duration = Duration::from_mins(1);
/// A peer that is still sending when it was refused is listened to this long ..
const LINGER: Duration = Duration::from_secs(2);
/// .. and for so many bytes: closing at once would reset the connection, and the reset can overtake the refusal.
const LINGER_BYTES: usize = 1 << 20;
/// So much is read ahead of the last answer, and more is left to the kernel. It is read at all to see that a client left, which
/// ends the work for it, also when it had said something more before.
pub(super) const READ_AHEAD: usize = 8 << 10;
/// How often it is looked for the end of a client whose end cannot be read: it has said more than that, or a body that its backend does
/// not take.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What an open connection occupies.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) _place: Place,
    pub(super) _tracked: TaskTrackerToken,
}

/// A socket as hyper sees it.
#[derive(Debug)]
pub(super) struct Guard<S> {
    socket: S,
    /// What was read to find out the protocol.
    prefix: Prefix,
    held: Held,
    write_timer: LazyTimer,
    write_since: Option<Instant>,
    left_timer: LazyTimer,
    /// Whether the last read found something, so that there may be more.
    unread: bool,
    lingering: Option<Lingering>,
    /// `None` where bytes are no messages of HTTP/1.1.
    framing: Option<Framing>,
    /// `None` where they are no frames of HTTP/2.
    frames: Option<Frames>,
    stash: Stash,
    /// Requests of the connection that were answered before there was a guard.
    before: u32,
    /// Requests whose responses are written.
    settled: u32,
    /// Whether the task has to be woken when the last response is written.
    waiting: bool,
    refusing: Option<Box<Refusing>>,
}

/// The end of a connection whose peer may still be sending.
#[derive(Debug)]
struct Lingering {
    until: Instant,
    bytes: usize,
}

/// The end of a connection whose last message is refused.
#[derive(Debug)]
enum Refusing {
    /// Its head was wrong: this is the answer, of which so much is written.
    Head { response: Vec<u8>, written: usize },
    /// Its body broke; whoever reads it has to be told, and answers.
    Body(Refusal),
}

impl<S> Guard<S> {
    /// Around a socket whose messages are checked by `framing`, if there are any.
    pub(super) fn new(socket: S, prefix: Prefix, held: Held, framing: Option<Framing>) -> Self {
        Self {
            socket,
            prefix,
            before: held.entry.state.requests().0,
            held,
            write_timer: LazyTimer::default(),
            write_since: None,
            left_timer: LazyTimer::default(),
            unread: false,
            lingering: None,
            framing,
            frames: None,
            stash: Stash::default(),
            settled: 0,
            waiting: false,
            refusing: None,
        }
    }

    /// With frames of HTTP/2 counted by `frames`, if there are any.
    pub(super) fn counting(self, frames: Option<Frames>) -> Self {
        Self { frames, ..self }
    }

    /// With bytes that were read before, and nobody has looked at.
    pub(super) fn having_read(mut self, bytes: Vec<u8>) -> Self {
        self.unread = !bytes.is_empty();
        self.stash = Stash::of(bytes);
        self
    }

    /// Of a connection that is only to be closed: whether its peer may still be sending.
    pub(super) fn having_unread(self, unread: bool) -> Self {
        Self { unread, ..self }
    }

    /// After a write: progress, if there are frames.
    const fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(count))) = (&mut self.frames, written) {
            frames.sent(*count);
        }
    }

    /// After a write or flush: is the peer still taking bytes?
    fn progress<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_since = None;
            return written;
        }
        let since = *self.write_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll(since + WRITE_STALL, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// After a flush: hyper flushes when it has written all it has, so that a response whose body is gone by then is out.
    fn settle(&mut self, cx: &Context<'_>) {
        let Some(framing) = &self.framing else { return };
        let (begun, ended) = self.held.entry.state.requests();
        if begun == ended {
            self.settled = begun.wrapping_sub(self.before);
            if self.waiting && framing.messages() == self.settled {
                self.waiting = false;
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Refusing {
    /// What there is to do about bytes of which the last are refused.
    fn of(then: Then, bytes: &[u8]) -> Option<Box<Self>> {
        Some(Box::new(match then {
            Then::More | Then::Next => return None,
            Then::Refuse(refusal) => {
                tracing::debug!(code = refusal.code(), "refused a request: {refusal}");
                Self::Head { response: refuse::response(refusal, bytes.starts_with(b"HEAD "), SystemClock.wall()), written: 0 }
            }
            Then::Break(refusal) => Self::Body(refusal),
        }))
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Reads from the socket, and from what was read before there was anybody to give it to.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.prefix.give(buffer);
        let read = if buffer.remaining() == 0 && buffer.filled().len() > before {
            Poll::Pending
        } else {
            Pin::new(&mut self.socket).poll_read(cx, buffer)
        };
        self.unread = buffer.filled().len() > before;
        if !self.unread {
            return read;
        }
        self.held.entry.state.received();
        let read = buffer.filled().get(before..).unwrap_or_default();
        if let Some(frames) = &mut self.frames
            && !frames.feed(read, || Instant::now().into_std())
        {
            self.held.entry.state.flood();
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        // Of the prefix alone there may be something, while the socket has nothing; and an end or an error comes again.
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets what comes, until the peer ends, or sent or took too much.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.lingering.get_or_insert_with(|| Lingering { until: Instant::now() + LINGER, bytes: LINGER_BYTES });
        loop {
            let mut scratch = [0; 4096];
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && left.bytes > 0 => {
                    left.bytes = left.bytes.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.write_timer.poll(left.until, cx),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + SeesEnd + Unpin> Guard<S> {
    /// Reads what may be seen of the messages that come.
    fn poll_messages(&mut self, framing: &mut Framing, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.stash.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            match self.refusing.as_deref() {
                None => {}
                Some(Refusing::Head { .. }) => return self.poll_close(cx),
                Some(Refusing::Body(refusal)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, *refusal))),
            }
            let waits = framing.is_between() && framing.messages() != self.settled;
            if waits && self.stash.len() >= READ_AHEAD {
                self.waiting = true;
                while !self.socket.has_ended() {
                    ready!(self.left_timer.poll(Instant::now() + LOOK_EVERY, cx));
                }
                return Poll::Ready(Ok(()));
            }
            if !waits && self.stash.take_news() {
                self.look_at_stash(framing);
                continue;
            }
            let before = buffer.filled().len();
            let Poll::Ready(read) = self.poll_socket(cx, buffer) else {
                self.waiting = waits && !self.stash.is_empty();
                return Poll::Pending;
            };
            read?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let good = if waits || !self.stash.is_empty() {
                self.stash.keep(read, true);
                0
            } else {
                self.look_at(read, framing)
            };
            buffer.set_filled(before + good);
            if good > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Looks at bytes that came when none were kept, and keeps those that are not good; says how many are.
    fn look_at(&mut self, read: &[u8], framing: &mut Framing) -> usize {
        let fed = framing.feed(read);
        let rest = read.get(fed.pass..).unwrap_or_default();
        if let Some(refusing) = Refusing::of(fed.then, rest) {
            self.refuse(refusing);
        } else if !rest.is_empty() {
            self.stash.keep(rest, fed.then == Then::Next);
            self.held.entry.state.keeps_part_of_head(fed.then == Then::More && framing.is_in_head());
        }
        self.held.entry.state.uploads(!framing.is_in_head());
        fed.pass
    }

    /// Looks at the bytes that are kept.
    fn look_at_stash(&mut self, framing: &mut Framing) {
        // Those that came during the last request count for this one from now on.
        self.held.entry.state.received();
        let fed = framing.feed(self.stash.doubtful());
        self.stash.approve(fed.pass, fed.then == Then::Next);
        self.held.entry.state.keeps_part_of_head(fed.then == Then::More && framing.is_in_head());
        self.held.entry.state.uploads(!framing.is_in_head());
        if let Some(refusing) = Refusing::of(fed.then, self.stash.doubtful()) {
            self.refuse(refusing);
        }
    }

    fn refuse(&mut self, refusing: Box<Refusing>) {
        if matches!(*refusing, Refusing::Head { .. }) {
            self.held.entry.state.refuse();
        }
        // There may be more, and closing with bytes unread would be a reset.
        self.unread = true;
        self.stash.forget_doubtful();
        self.refusing = Some(refusing);
    }

    /// Says what there is to say to a message that was refused, and ends the connection.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(Refusing::Head { response, written }) = self.refusing.as_deref_mut()
            && let Some(rest) = response.get(*written..).filter(|rest| !rest.is_empty())
        {
            let count = Pin::new(&mut self.socket).poll_write(cx, rest);
            match count {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => *written += count,
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
            ready!(self.progress(count, cx))?;
        }
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
            ready!(self.progress(shut, cx))?;
        }
        if self.unread || !self.stash.is_empty() {
            ready!(self.linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + SeesEnd + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut framing) = self.framing.take()
            && !self.held.entry.state.is_switched()
        {
            let read = self.poll_messages(&mut framing, cx, buffer);
            self.framing = Some(framing);
            return read;
        }
        if self.stash.give_any(buffer) {
            return Poll::Ready(Ok(()));
        }
        self.poll_socket(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + SeesEnd + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.sent(&written);
        self.progress(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.entry.state.take_look() && self.socket.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.settle(cx);
        }
        self.progress(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_close(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.sent(&written);
        self.progress(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
