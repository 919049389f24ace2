//! The guard between a peer and hyper: what passes, when, and how it ends.

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
        read.map(|read| read.map_or_else(|error| error.to_string(), |()| String::from_utf8(buffer.filled().to_vec()).unwrap()))
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
                    http::Response::new(TrackedBody::new(Full::new(bytes::Bytes::from_static(b"{}")), progress, false));
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
