//! What stands between a socket and hyper: the place for anything that must see raw bytes.
//!
//! It gives back what was read to find out the protocol, notes that bytes arrived, and ends a connection whose peer takes none.
//! It also holds what a connection occupies, because an upgraded one lives on in other hands when hyper has done with it.
//!
//! Under HTTP/1.1 it shows hyper one message at a time and only what [`framing`](crate::wire::framing) approves. The next message
//! waits until the last response is written: what is refused is answered here and not by hyper, and an answer must not overtake
//! another. Bytes are checked where they were read, in hyper's own buffer; they are copied only when a head comes in pieces, or
//! when a client sends the next request before it has the answer to the last.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::detect::Prefix;
use super::listener::Place;
use super::refuse;
use super::stash::Stash;
use super::timers::LazyTimer;
use super::tracked::Entry;
use crate::clock::{Clock, SystemClock};
use crate::wire::framing::{Framing, Refusal, Then};

/// A peer that takes no byte of its response for that long is gone (nginx's `send_timeout` has the same value).
const WRITE_STALL: Duration = Duration::from_mins(1);
/// A peer that is still sending when it was refused is listened to this long ..
const LINGER: Duration = Duration::from_secs(2);
/// .. and for so many bytes: closing at once would reset the connection, and the reset can overtake the refusal.
const LINGER_BYTES: usize = 1 << 20;
/// So much is read ahead of the last answer, and more is left to the kernel. It is read at all to see that a client left, which
/// ends the work for it, also when it had said something more before.
const READ_AHEAD: usize = 8 << 10;

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
    /// Whether the last read found something, so that there may be more.
    unread: bool,
    lingering: Option<Lingering>,
    /// `None` where bytes are no messages of HTTP/1.1.
    framing: Option<Framing>,
    stash: Stash,
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
            held,
            write_timer: LazyTimer::default(),
            write_since: None,
            unread: false,
            lingering: None,
            framing,
            stash: Stash::default(),
            settled: 0,
            waiting: false,
            refusing: None,
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
            self.settled = begun;
            if self.waiting && framing.messages() == begun {
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

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
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
                return Poll::Pending;
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
        fed.pass
    }

    /// Looks at the bytes that are kept.
    fn look_at_stash(&mut self, framing: &mut Framing) {
        // Those that came during the last request count for this one from now on.
        self.held.entry.state.received();
        let fed = framing.feed(self.stash.doubtful());
        self.stash.approve(fed.pass, fed.then == Then::Next);
        self.held.entry.state.keeps_part_of_head(fed.then == Then::More && framing.is_in_head());
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.progress(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        self.progress(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::server::tracked::{ConnState, Connections, InProgress, TrackedBody};
    use crate::telemetry::metrics::Metrics;

    fn held() -> Held {
        Held {
            entry: Arc::new(Connections::default()).enter(),
            _place: Place::take(&Arc::default(), 1, &Arc::new(Metrics::default())).unwrap(),
            _tracked: tokio_util::task::TaskTracker::new().token(),
        }
    }

    /// Whether a peer can send `count` bytes to somebody who read the first of them, refused and closed.
    fn sends_all(count: usize) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut peer, socket) = tokio::io::duplex(1024);
            let refusing = tokio::spawn(async move {
                let mut guard = Guard::new(socket, Prefix::default(), held(), None);
                guard.read_exact(&mut [0; 10]).await.unwrap();
                guard.shutdown().await.unwrap();
            });
            let sent = peer.write_all(&vec![b'x'; count]).await.is_ok();
            drop(peer);
            refusing.await.unwrap();
            sent
        })
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A guard over bytes that were sent, and its connection's state.
    struct Case {
        guard: Guard<DuplexStream>,
        peer: DuplexStream,
        state: Arc<ConnState>,
        woken: Arc<Woken>,
    }

    impl Case {
        fn new() -> Self {
            let (peer, socket) = tokio::io::duplex(1 << 16);
            let held = held();
            let state = Arc::clone(&held.entry.state);
            let guard = Guard::new(socket, Prefix::default(), held, Some(Framing::new(1 << 10)));
            Self { guard, peer, state, woken: Arc::default() }
        }

        fn send(&mut self, text: &str) {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut self.peer).poll_write(&mut cx, text.as_bytes()).is_ready());
        }

        /// What hyper would see now.
        fn read(&mut self) -> Poll<String> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let mut space = [0; 1 << 10];
            let mut buffer = ReadBuf::new(&mut space);
            let read = Pin::new(&mut self.guard).poll_read(&mut Context::from_waker(&waker), &mut buffer);
            read.map(|read| {
                read.map_or_else(|error| error.to_string(), |()| String::from_utf8(buffer.filled().to_vec()).unwrap())
            })
        }

        /// Whether a flush wakes the task.
        fn flush_wakes(&mut self) -> bool {
            let before = self.woken.0.load(Relaxed);
            let waker = Waker::from(Arc::clone(&self.woken));
            assert!(Pin::new(&mut self.guard).poll_flush(&mut Context::from_waker(&waker)).is_ready());
            self.woken.0.load(Relaxed) > before
        }

        /// What the peer was sent.
        fn said(&mut self) -> String {
            let mut space = [0; 1 << 10];
            let mut buffer = ReadBuf::new(&mut space);
            let _ = Pin::new(&mut self.peer).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
            String::from_utf8(buffer.filled().to_vec()).unwrap()
        }
    }

    const FIRST: &str = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    const SECOND: &str = "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok";

    #[tokio::test]
    async fn the_next_message_waits_until_the_last_response_is_written() {
        let mut case = Case::new();
        case.send(&[FIRST, SECOND].concat());
        assert_eq!(case.read(), Poll::Ready(FIRST.to_owned()));
        let request = InProgress::begin(&case.state);
        assert_eq!(case.read(), Poll::Pending);
        assert!(!case.flush_wakes(), "part of the response is out");
        assert_eq!(case.read(), Poll::Pending);
        drop(request);
        assert_eq!(case.read(), Poll::Pending, "its end is not written yet");
        assert!(case.flush_wakes());
        assert_eq!(case.read(), Poll::Ready(SECOND.to_owned()));
    }

    #[tokio::test]
    async fn half_a_head_is_kept_and_nobody_is_woken_for_it() {
        let mut case = Case::new();
        let (half, rest) = FIRST.split_at(20);
        case.send(half);
        for _ in 0..3 {
            assert_eq!(case.read(), Poll::Pending);
            assert!(!case.flush_wakes() && !case.state.is_dismissible());
        }
        case.send(&[rest, SECOND].concat());
        assert_eq!(case.read(), Poll::Ready(FIRST.to_owned()));
        assert!(case.state.is_dismissible());
    }

    #[tokio::test]
    async fn a_refusal_is_written_after_the_response_and_is_the_last_word() {
        let mut case = Case::new();
        case.send(&[FIRST, "NO\r\n", SECOND].concat());
        assert_eq!(case.read(), Poll::Ready(FIRST.to_owned()));
        let request = InProgress::begin(&case.state);
        assert_eq!((case.read(), case.said().as_str()), (Poll::Pending, ""));
        drop(request);
        assert!(case.flush_wakes());
        assert_eq!(case.read(), Poll::Pending, "the peer may still be sending");
        assert!(case.said().starts_with("HTTP/1.1 400 ") && case.state.was_refused());
        case.send("more");
        case.peer.shutdown().await.unwrap();
        assert_eq!(case.read(), Poll::Ready(String::new()));
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_an_error_after_what_was_right() {
        let mut case = Case::new();
        let right = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
        case.send(&[right, "x\r\n"].concat());
        assert_eq!(case.read(), Poll::Ready(right.to_owned()));
        assert_eq!(case.read(), Poll::Ready(Refusal::Chunk.to_string()));
        assert_eq!(case.said(), "", "whoever reads the body answers");
    }

    #[tokio::test]
    async fn a_connection_that_switched_is_seen_through() {
        let mut case = Case::new();
        case.send(&[FIRST, "\0\0"].concat());
        assert_eq!(case.read(), Poll::Ready(FIRST.to_owned()));
        let request = InProgress::begin(&case.state);
        assert_eq!(case.read(), Poll::Pending, "nobody agreed to anything yet");
        request.switch();
        assert_eq!(case.read(), Poll::Ready("\0\0".to_owned()));
        case.send("\0");
        assert_eq!(case.read(), Poll::Ready("\0".to_owned()));
    }

    #[tokio::test]
    async fn what_was_read_to_find_the_protocol_comes_with_what_follows() {
        let mut case = Case::new();
        let (begin, rest) = FIRST.split_at(24);
        case.send(begin);
        let mut prefix = Prefix::default();
        crate::server::detect::detect(&mut case.guard.socket, &mut prefix).await.unwrap();
        case.guard.prefix = prefix;
        case.send(rest);
        assert_eq!(case.read(), Poll::Ready(FIRST.to_owned()));
    }

    /// What hyper makes of pieces that come one after another through a guard: how many requests it saw whole, and all it said.
    fn served(pieces: Vec<Vec<u8>>, room: usize) -> (usize, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (peer, socket) = tokio::io::duplex(room);
            let held = held();
            let state = Arc::clone(&held.entry.state);
            let whole = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&whole);
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (progress, count) = (InProgress::begin(&state), Arc::clone(&count));
                async move {
                    let broken = request.into_body().collect().await.is_err();
                    count.fetch_add(usize::from(!broken), Relaxed);
                    // The answer takes a while, so that more can come before it.
                    tokio::task::yield_now().await;
                    let mut response =
                        http::Response::new(TrackedBody::new(Full::new(bytes::Bytes::from_static(b"{}")), progress));
                    if broken {
                        *response.status_mut() = http::StatusCode::BAD_REQUEST;
                    }
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let guard = Guard::new(socket, Prefix::default(), held, Some(Framing::new(1 << 10)));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(guard), service);
            let serving = tokio::spawn(connection);
            let (mut read, mut write) = tokio::io::split(peer);
            let reading = tokio::spawn(async move {
                let mut said = String::new();
                let _ = read.read_to_string(&mut said).await;
                said
            });
            for piece in pieces {
                if write.write_all(&piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            // Time passes only when nobody has anything to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = write.shutdown().await;
            drop(write);
            let _ = serving.await.unwrap();
            (whole.load(Relaxed), reading.await.unwrap())
        })
    }

    proptest! {
        #[test]
        fn hyper_sees_the_messages_that_were_counted_and_no_other(
            parts in prop::collection::vec(prop::sample::select(PARTS), 1..7),
            sizes in prop::collection::vec(1_usize..60, 1..6),
            room in 16_usize..200,
        ) {
            let bytes = parts.concat().into_bytes();
            let mut framing = Framing::new(1 << 10);
            let (mut at, mut refused) = (0, false);
            while let fed = framing.feed(&bytes[at..]) && fed.then != Then::More {
                at += fed.pass;
                if fed.then != Then::Next {
                    refused = true;
                    break;
                }
            }
            let mut sizes = sizes.iter().cycle();
            let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let (whole, said) = served(pieces, room);
            prop_assert_eq!(whole, framing.messages() as usize, "{}", said);
            let statuses: Vec<&str> = said.match_indices("HTTP/1.1 ").filter_map(|(at, _)| said.get(at + 9..at + 12)).collect();
            let answers: Vec<&str> = statuses.into_iter().filter(|status| *status != "100").collect();
            let (last, before) = if refused { answers.split_last().unwrap() } else { (&"4", answers.as_slice()) };
            prop_assert!(last.starts_with(['4', '5']) && before.iter().all(|status| *status == "200"), "{}", said);
            prop_assert_eq!(before.len(), whole, "{}", said);
        }
    }

    /// Messages and pieces of them, right and wrong.
    const PARTS: &[&str] = &[
        FIRST,
        SECOND,
        FIRST,
        SECOND,
        "POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
        "POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /4 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        "POST /5 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
        "GET /6 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /7 HTTP/1.1\nHost: h\n\n",
        "\r\n",
        "0\r\n\r\n",
        "x",
    ];

    #[test]
    fn what_follows_the_prefix_comes_with_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut peer, mut socket) = tokio::io::duplex(1024);
            let sent = [b'x'; 100];
            peer.write_all(&sent).await.unwrap();
            let mut prefix = Prefix::default();
            crate::server::detect::detect(&mut socket, &mut prefix).await.unwrap();
            let mut guard = Guard::new(socket, prefix, held(), None);
            let mut received = [0; 200];
            assert_eq!(guard.read(&mut received).await.unwrap(), sent.len());
            peer.write_all(&sent).await.unwrap();
            assert_eq!(guard.read(&mut received).await.unwrap(), sent.len());
        });
    }

    #[test]
    fn a_peer_that_is_refused_may_finish_its_sentence_but_not_go_on_for_ever() {
        assert!(sends_all(LINGER_BYTES / 2));
        assert!(!sends_all(LINGER_BYTES * 2));
    }
}
