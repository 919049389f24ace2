//! An HTTP/1.1 connection without hyper, for requests that say how long they are.
//!
//! Nearly every request to an inference API is one: a head with a `Content-Length`, and a body of a few kilobytes behind it. For those
//! there is nothing to coordinate: the request is made of the bytes that were read ([`wire::framing`](crate::wire::framing)), the
//! response is written as it comes ([`wire::reply`](crate::wire::reply)), and meanwhile the socket is only watched. Of a longer body the
//! rest is read as it is asked for ([`feed`](super::feed)). The first message that is anything else (a chunked body, an upgrade, a
//! refusal, a body that is late) ends this: hyper has the connection from there on, behind its [`Guard`], with the bytes that were read.
//!
//! Against hyper behind the guard, each build in turn, that took 5,000 of 78,200 user instructions off a chat request
//! (`benches/peers/instr.py`), and of the memory of an open stream, as it was then, one half (`benches/peers/compare.py --workloads rss`):
//! there are no buffers for reading and for writing, and no second state machine with its channels.
//!
//! One message at a time: what a client sends ahead of its answer is read only as far as it takes to see that it left, and looked at
//! when the answer is written. While it waits, a connection holds no buffer.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::accepted::SeesEnd;
use super::connection::{Answers, Outcome};
use super::detect::Prefix;
use super::feed::{Doing, IN_A_TURN, Rest};
use super::guard::{Guard, Held, LOOK_EVERY, READ_AHEAD};
use super::respond::{Occasion, Written};
use super::timers::{Expired, Timers};
use super::tracked::{ConnState, InProgress};
use crate::config::Limits;
use crate::proxy::{RequestBody, fed};
use crate::upstream::LazyTimer;
use crate::wire::framing::{Look, Plain, Reader, Whole};
use crate::wire::message::{Message, RequestHead, ResponseHead};

/// Read at once at most, into a buffer that all connections of a thread share, and out of which it is copied. The rest of a longer
/// message is read into memory of its own.
const READ: usize = 16 << 10;
/// A body whose end has not come so long after its head is left to hyper, and with it to the limits for bodies that are waited for:
/// until then nobody has counted its bytes, of which there are few.
const BODY_SOON: Duration = Duration::from_secs(1);
/// When the body has not come by then, it is asked whether its request will be refused without it: a client that sends slowly is to
/// hear of that before it has sent all. One that sends head and body one after another, as many do, costs nobody the question.
const ASKED_AFTER: Duration = Duration::from_millis(10);

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How the plain requests of a connection came to an end.
pub(super) enum Left<IO> {
    /// With the connection.
    Ended(Outcome),
    /// With a message that is not plain, which these bytes begin with.
    Longer(IO, Held, Vec<u8>),
}

/// A connection between a client and a service.
pub(super) struct Link<IO> {
    pub(super) socket: IO,
    held: Held,
    /// Read and not yet made a request of; mostly nothing.
    pub(super) input: Vec<u8>,
    /// Whether that was not looked at yet.
    news: bool,
    reader: Reader,
    timers: Timers,
    timer: LazyTimer,
    left_timer: LazyTimer,
    /// Of a head that waits for its body.
    body: Option<Awaited>,
    /// Of a request that is answered before its body was read.
    pub(super) rest: Option<Rest>,
    pub(super) write_timer: LazyTimer,
    pub(super) write_since: Option<Instant>,
    /// When the response that is written has had its time.
    pub(super) write_until: Option<Instant>,
}

/// A body that is waited for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    since: Instant,
    /// Whether it was asked if the request is refused without it, and it is not.
    asked: bool,
}

/// What comes next.
enum Next {
    Request(Plain<RequestBody>),
    /// A message for the longer way.
    Longer,
    /// Nothing, and the client is told so.
    Close,
    /// Nothing, not even a goodbye.
    Cut(Outcome),
}

/// Serves a connection of which `read` was read, as long as its requests are plain.
pub(super) async fn serve<S, IO>(socket: IO, read: &[u8], mut service: S, limits: &Limits, held: Held, begun: Instant) -> Left<IO>
where
    S: Answers,
    IO: AsyncRead + AsyncWrite + SeesEnd + Unpin + Send + 'static,
{
    let mut link = Link {
        socket,
        held,
        input: read.to_vec(),
        news: !read.is_empty(),
        reader: Reader::new(limits.head, limits.body).with_fields(limits.fields),
        timers: Timers::new(limits.header_read, limits.idle, false, begun),
        timer: LazyTimer::default(),
        left_timer: LazyTimer::default(),
        body: None,
        rest: None,
        write_timer: LazyTimer::default(),
        write_since: None,
        write_until: None,
    };
    poll_fn(|cx| {
        link.state().run_by(cx.waker());
        Poll::Ready(())
    })
    .await;
    loop {
        let Plain { request, keeps_alive } = match poll_fn(|cx| link.poll_next(cx, &mut service)).await {
            Next::Request(plain) => plain,
            Next::Longer => return Left::Longer(link.socket, link.held, link.input),
            Next::Close => return link.close().await,
            Next::Cut(outcome) => return Left::Ended(outcome),
        };
        let progress = InProgress::begin(&link.held.entry.state);
        let method = request.head.method.clone();
        // Not a refusal: the client is gone, and with the future everything that was done for it.
        let Some(response) = link.answered(&mut service, request).await else { return Left::Ended(Outcome::Fine) };
        // An answer to the beginning of a body is the last: what is left of that would be taken for the next request, and nobody knows yet
        // whether anything will be.
        let keeps_alive = keeps_alive && link.rest.is_none() && !link.state().is_dismissed();
        let written = link.respond(response, Occasion { method, keeps_alive }).await;
        drop(progress);
        match written {
            Written::KeepsAlive if !link.state().is_dismissed() => link.news = !link.input.is_empty(),
            Written::KeepsAlive | Written::Closes => return link.close().await,
            Written::Broken => return Left::Ended(Outcome::Fine),
        }
    }
}

impl<IO> Link<IO> {
    pub(super) fn state(&self) -> &ConnState {
        &self.held.entry.state
    }

    /// Looks at what is kept.
    fn look(&mut self) -> Option<Next> {
        let (begun, ended) = self.state().requests();
        self.timers.received(begun, ended);
        let mut room = Whole::default();
        match self.reader.look(&self.input, &mut room) {
            Look::More { head } => {
                self.wait(head);
                None
            }
            Look::Other => Some(Next::Longer),
            Look::Whole(whole) | Look::Long(whole) if whole.length() >= self.input.len() => {
                let message = Bytes::from(std::mem::take(&mut self.input));
                Some(self.made(whole, &message))
            }
            Look::Whole(whole) | Look::Long(whole) => {
                let rest = self.input.split_off(whole.length());
                let message = Bytes::from(std::mem::replace(&mut self.input, rest));
                Some(self.made(whole, &message))
            }
        }
    }

    /// Looks at bytes that came when none were kept, and keeps what is left of them: they are another's.
    fn look_at(&mut self, bytes: &[u8]) -> Option<Next> {
        let (begun, ended) = self.state().requests();
        self.timers.received(begun, ended);
        let mut room = Whole::default();
        match self.reader.look(bytes, &mut room) {
            Look::Whole(whole) | Look::Long(whole) => {
                let (message, rest) = bytes.split_at(whole.length().min(bytes.len()));
                self.input.extend_from_slice(rest);
                Some(self.made(whole, &Bytes::copy_from_slice(message)))
            }
            look => {
                self.input.extend_from_slice(bytes);
                match look {
                    Look::More { head } => {
                        self.wait(head);
                        None
                    }
                    Look::Other | Look::Whole(_) | Look::Long(_) => Some(Next::Longer),
                }
            }
        }
    }

    /// Notes that there is more to come, of a body if the head is there.
    fn wait(&mut self, head: bool) {
        if head && self.body.is_none() {
            self.body = Some(Awaited { since: Instant::now(), asked: false });
        }
    }

    fn made(&mut self, whole: &Whole, message: &Bytes) -> Next {
        self.body = None;
        let made = whole.request(message, |there| {
            let (length, unread) = (whole.body_length(), whole.body_length() - there.len());
            if unread == 0 {
                return RequestBody::Whole(there);
            }
            let (feeder, body) = fed(there, length as u64);
            self.rest = Some(Rest::new(feeder, unread as u64));
            RequestBody::Fed(body)
        });
        if let Some(plain) = made {
            return Next::Request(plain);
        }
        self.input.splice(..0, message.iter().copied());
        Next::Longer
    }

    /// Until when there may be nothing to read.
    fn deadline(&mut self) -> Option<Instant> {
        let (begun, ended) = self.state().requests();
        let deadline = self.timers.waiting(begun, ended, Instant::now);
        self.body.map_or(deadline, |body| Some(body.since + if body.asked { BODY_SOON } else { ASKED_AFTER }))
    }

    /// What there is to do when it has passed; `None` when there is something to see now.
    fn expired(&mut self, service: &mut impl Answers) -> Option<Next> {
        if let Some(body) = &mut self.body {
            let mut refused = || self.reader.head(&self.input).is_some_and(|head| service.refuses(&head));
            let is_over = std::mem::replace(&mut body.asked, true) || refused();
            return is_over.then_some(Next::Longer);
        }
        match self.timers.expired(Instant::now()) {
            Expired::Dismiss => {
                self.state().dismiss();
                None
            }
            Expired::Close => Some(Next::Cut(Outcome::Fine)),
            Expired::Abort => Some(Next::Cut(Outcome::BadHead)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + SeesEnd + Unpin> Link<IO> {
    /// Reads until there is a request, or none to come.
    fn poll_next(&mut self, cx: &mut Context<'_>, service: &mut impl Answers) -> Poll<Next> {
        loop {
            if std::mem::take(&mut self.news)
                && let Some(next) = self.look()
            {
                return Poll::Ready(next);
            }
            let mut scratch = SCRATCH.take();
            let read = read(&mut self.socket, cx, &mut scratch, READ);
            let next = match &read {
                Poll::Ready(Ok([]) | Err(_)) => Some(self.ended()),
                Poll::Ready(Ok(bytes)) if self.input.is_empty() => self.look_at(bytes),
                Poll::Ready(Ok(bytes)) => {
                    self.input.extend_from_slice(bytes);
                    self.news = true;
                    None
                }
                Poll::Pending => None,
            };
            let waits = read.is_pending();
            SCRATCH.set(scratch);
            if let Some(next) = next {
                return Poll::Ready(next);
            }
            if waits {
                if self.input.is_empty() && self.state().is_dismissed() {
                    return Poll::Ready(Next::Close);
                }
                let Some(deadline) = self.deadline() else { return Poll::Pending };
                ready!(self.timer.poll(deadline, cx));
                if let Some(next) = self.expired(service) {
                    return Poll::Ready(next);
                }
            }
        }
    }

    /// The client's side has ended. Within a body that is no goodbye, but something to be answered and booked.
    fn ended(&self) -> Next {
        if self.body.is_some() { Next::Longer } else { Next::Close }
    }

    /// Watches a client that takes its answer, and reads on for who reads its body; ready when it has left.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.poll_client(cx)) == Doing::Sent {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + SeesEnd + Unpin> Link<IO> {
    /// Watches a client that has sent its request; ready when it has left.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD {
            let mut scratch = SCRATCH.take();
            let read = read(&mut self.socket, cx, &mut scratch, READ_AHEAD - self.input.len());
            let left = match read {
                Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                    self.input.extend_from_slice(bytes);
                    None
                }
                Poll::Ready(_) => Some(Poll::Ready(())),
                Poll::Pending => Some(Poll::Pending),
            };
            SCRATCH.set(scratch);
            if let Some(left) = left {
                return left;
            }
        }
        self.poll_end(cx)
    }

    /// Looks for the end of a client behind what is left to the kernel, where it cannot be read.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.socket.has_ended() {
            ready!(self.left_timer.poll(Instant::now() + LOOK_EVERY, cx));
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + AsyncWrite + SeesEnd + Unpin> Link<IO> {
    /// What the service answers; `None` when the client does not wait for it.
    async fn answered<S: Answers>(
        &mut self,
        service: &mut S,
        request: Box<Message<RequestHead, RequestBody>>,
    ) -> Option<Message<ResponseHead, S::Body>> {
        let mut answer = pin!(service.answer_plain(request));
        poll_fn(|cx| {
            for _ in 0..IN_A_TURN {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Some(answer));
                }
                // What came is looked at before anybody else has a turn, while it is in the core's cache.
                if ready!(self.poll_client(cx)) == Doing::Left {
                    return Poll::Ready(None);
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Ends the connection as a [`Guard`] does: with patience for who is still sending.
    async fn close(self) -> Left<IO> {
        let unread = !self.input.is_empty() || self.rest.is_some();
        // Boxed: it is the end, and needs no place in every connection from its beginning on.
        let mut guard = Box::new(Guard::new(self.socket, Prefix::default(), self.held, None).having_unread(unread));
        // Whether the goodbye arrives is the client's business.
        let _ = poll_fn(|cx| Pin::new(&mut *guard).poll_shutdown(cx)).await;
        Left::Ended(Outcome::Fine)
    }
}

/// Reads once, `most` bytes at most; none at the end.
fn read<'a, IO: AsyncRead + Unpin>(
    socket: &mut IO,
    cx: &mut Context<'_>,
    scratch: &'a mut Vec<u8>,
    most: usize,
) -> Poll<io::Result<&'a [u8]>> {
    scratch.resize(READ, 0);
    let mut buffer = ReadBuf::new(scratch.get_mut(..most.min(READ)).unwrap_or_default());
    ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
    let count = buffer.filled().len();
    Poll::Ready(Ok(scratch.get(..count).unwrap_or_default()))
}

#[cfg(test)]
#[path = "direct_tests.rs"]
pub(super) mod tests;
