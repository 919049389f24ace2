//! Peers of our own, written byte by byte, because what matters is what a well-behaved server never does. The in-memory ones show
//! a closed end at once, which makes the races of a pool repeatable; sockets are used where the kernel's behaviour is the subject.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use smallvec::smallvec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::{Backend, BackendId, Credential, Origin, Protocol, Timeouts, UsageMode};
use crate::clock::SimulatedClock;
use crate::units::Pue;

/// Upper bound of every test; nothing waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn backend_at(host: &str, port: u16) -> Backend {
    Backend {
        id: BackendId(0),
        name: Arc::from("here"),
        name_header: HeaderValue::from_static("here"),
        origin: Origin {
            tls: false,
            host: Arc::from(host),
            port,
            authority: HeaderValue::from_str(&format!("{host}:{port}")).unwrap(),
            base_path: Arc::from(""),
            ca: None,
        },
        protocol: Protocol::Http1,
        dialect: crate::dialect::Dialect::Openai,
        region: Arc::from("test/here"),
        region_header: HeaderValue::from_static("test/here"),
        placement: crate::backend::Placement::default(),
        pue: Pue::ONE,
        credential: Credential::None,
        max_in_flight: 100,
        prior: crate::live::Prior::default(),
        timeouts: Timeouts { connect: PATIENCE, ..Timeouts::default() },
        usage: UsageMode::Never,
        keep_idle: Duration::from_secs(4),
        simulated: false,
    }
}

/// An instance, its clock and a backend.
struct World {
    upstreams: Upstreams,
    clock: Arc<SimulatedClock>,
    backend: Arc<Backend>,
}

impl World {
    fn new(connector: Connector, backend: Backend) -> Self {
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        let upstreams = Upstreams::new(connector, RootCertStore::empty, TaskTracker::new(), Arc::clone(&clock) as Arc<dyn Clock>);
        Self { upstreams, clock, backend: Arc::new(backend) }
    }

    /// With in-memory peers: each connection's other end comes out of the receiver.
    fn in_memory() -> (Self, mpsc::Receiver<DuplexStream>) {
        Self::in_memory_for(backend_at("peer", 80))
    }

    fn in_memory_for(backend: Backend) -> (Self, mpsc::Receiver<DuplexStream>) {
        let (peers, connections) = mpsc::channel(1024);
        let connector = Connector::new(tower::service_fn(move |_: Target| {
            let (near, far) = tokio::io::duplex(64 << 10);
            let sent = peers.try_send(far).map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            async move { sent.map(|()| Box::new(near) as BoxIo) }
        }));
        (Self::new(connector, backend), connections)
    }

    /// With a socket.
    async fn on_socket() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Self::new(tcp(), backend_at("127.0.0.1", port)), listener)
    }

    async fn send(&self, request: Request<SendBody>) -> Result<UpstreamResponse, SendError> {
        within(self.upstreams.send(&self.backend, request)).await
    }

    fn idle(&self) -> usize {
        pool::count(&self.upstreams.shared, &self.backend).0
    }

    fn shared(&self) -> usize {
        pool::count(&self.upstreams.shared, &self.backend).1
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("a test stood still")
}

fn get() -> Request<SendBody> {
    Request::get("/v1/models").header(HOST, "peer").body(SendBody::empty()).unwrap()
}

fn post(body: SendBody) -> Request<SendBody> {
    Request::post("/v1/chat").header(HOST, "peer").body(body).unwrap()
}

fn hello() -> SendBody {
    SendBody::chunks(smallvec![Bytes::from_static(b"hel"), Bytes::new(), Bytes::from_static(b"lo")])
}

/// A body fed through a channel, one frame at a time.
struct Fed(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|item| item.map(|chunk| chunk.map(Frame::data)))
    }
}

fn fed() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, SendBody) {
    let (feed, frames) = mpsc::channel(1);
    (feed, SendBody::stream(Fed(frames)))
}

/// Reads one request: its head as text and its body as it was on the wire.
async fn read_request<S: AsyncRead + Unpin>(io: &mut S) -> (String, String) {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = memchr::memmem::find(&seen, b"\r\n\r\n") {
            break at + 4;
        }
        assert!(within(io.read_buf(&mut seen)).await.unwrap() > 0, "the peer saw the end before a request");
    };
    let mut body = seen.split_off(end);
    let head = String::from_utf8(seen).unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("transfer-encoding:") == Some("chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            assert!(within(io.read_buf(&mut body)).await.unwrap() > 0, "the peer saw a cut body");
        }
    } else {
        let length: usize = field("content-length:").map_or(0, |text| text.parse().unwrap());
        while body.len() < length {
            assert!(within(io.read_buf(&mut body)).await.unwrap() > 0, "the peer saw a cut body");
        }
    }
    (head, String::from_utf8(body).unwrap())
}

/// Answers one request with these bytes.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S, reply: &str) -> (String, String) {
    let request = read_request(io).await;
    io.write_all(reply.as_bytes()).await.unwrap();
    request
}

/// Waits until the other side has closed, whether with or without manners.
async fn closed<S: AsyncRead + Unpin>(io: &mut S) {
    let mut rest = Vec::new();
    let _ = within(io.read_to_end(&mut rest)).await;
}

async fn text(body: UpstreamBody) -> Result<String, BodyError> {
    let bytes = within(body.collect()).await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn futures_and_bodies_may_cross_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn types<T: Send + 'static>() {}
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Upstreams>();
    types::<UpstreamBody>();
    types::<UpstreamResponse>();
    types::<SendError>();
    types::<Arc<SendError>>();
    let (world, _connections) = World::in_memory();
    let future = world.upstreams.send(&world.backend, get());
    is_send(&future);
    // The future is part of every exchange's memory.
    assert!(size_of_val(&future) < 3072, "{} bytes", size_of_val(&future));
}

#[tokio::test]
async fn one_connection_carries_every_kind_of_response() {
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        answer(&mut io, OK).await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 204 No Content\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await;
        closed(&mut io).await;
        // Nobody else came.
        std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_pending())).await
    });
    let bodies = ["hello", "hello", "", "", "no"];
    for (count, expected) in bodies.into_iter().enumerate() {
        let response = world.send(post(hello())).await.unwrap();
        assert_eq!(response.reused(), count > 0);
        assert_eq!(text(response.body).await.unwrap(), expected);
        assert_eq!(world.idle(), 1);
    }
    let head = world.send(Request::head("/").header(HOST, "peer").body(SendBody::empty()).unwrap()).await.unwrap();
    assert!(head.body.is_end_stream());
    assert_eq!(world.idle(), 1, "a body that is known to be empty is not polled, and still gives its connection back");
    drop(head);
    assert_eq!(world.idle(), 1);
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert!(within(peer).await.unwrap());
}

#[tokio::test]
async fn a_connection_goes_back_exactly_once() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, OK).await;
        io
    });
    let mut body = world.send(get()).await.unwrap().body;
    assert_eq!(world.idle(), 0);
    let frame = within(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    assert_eq!(world.idle(), 1, "the length says that this was the end");
    assert!(within(body.frame()).await.is_none());
    assert!(within(body.frame()).await.is_none());
    drop(body);
    assert_eq!(world.idle(), 1);
    drop(within(peer).await.unwrap());
}

#[tokio::test]
async fn bodies_are_framed_by_what_they_are() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(answer(&mut io, OK).await);
        }
        seen
    });
    let mut lying = post(hello());
    lying.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
    lying.headers_mut().insert(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let (feed, streamed) = fed();
    let (feed_get, streamed_get) = fed();
    for feed in [feed, feed_get] {
        feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    }
    let get_with_body = Request::get("/").header(HOST, "peer").body(streamed_get).unwrap();
    for request in [lying, post(SendBody::empty()), get(), post(streamed), get_with_body] {
        text(world.send(request).await.unwrap().body).await.unwrap();
    }
    let seen = within(peer).await.unwrap();
    assert!(seen[0].0.contains("content-length: 5\r\n") && !seen[0].0.contains("transfer-encoding"), "{}", seen[0].0);
    assert_eq!(seen[0].1, "hello");
    assert!(seen[1].0.contains("content-length: 0\r\n"), "{}", seen[1].0);
    assert!(!seen[2].0.contains("content-length") && !seen[2].0.contains("transfer-encoding"), "{}", seen[2].0);
    for streamed in [&seen[3], &seen[4]] {
        assert!(streamed.0.contains("transfer-encoding: chunked\r\n"), "{}", streamed.0);
        assert_eq!(streamed.1, "5\r\nhello\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn dropping_the_body_closes_the_connection_at_once() {
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        closed(&mut io).await;
    });
    let mut response = world.send(get()).await.unwrap();
    within(response.body.frame()).await.unwrap().unwrap();
    drop(response);
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn dropping_the_send_future_closes_the_connection_at_once() {
    let (world, listener) = World::on_socket().await;
    let (arrived, seen) = oneshot::channel();
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        read_request(&mut io).await;
        arrived.send(()).unwrap();
        closed(&mut io).await;
    });
    tokio::select! {
        response = world.send(get()) => panic!("nobody answered, but {response:?}"),
        seen = within(seen) => seen.unwrap(),
    }
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn a_cut_body_ends_with_an_error() {
    let cuts = [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ];
    for cut in cuts {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move { answer(&mut connections.recv().await.unwrap(), cut).await });
        let mut body = world.send(get()).await.unwrap().body;
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "hello");
        assert!(within(body.frame()).await.unwrap().is_err(), "{cut}");
        within(peer).await.unwrap();
        assert_eq!(world.idle(), 0);
    }
}

#[tokio::test]
async fn a_trickle_is_passed_on_as_it_comes() {
    let (world, mut connections) = World::in_memory();
    let (go, mut may) = mpsc::channel::<()>(1);
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while may.recv().await.is_some() {
            io.write_all(b"3\r\none\r\n").await.unwrap();
        }
        io.write_all(b"0\r\n\r\n").await.unwrap();
        io
    });
    let mut body = world.send(get()).await.unwrap().body;
    for _ in 0..20 {
        go.send(()).await.unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
    }
    drop(go);
    assert!(within(body.frame()).await.is_none());
    assert_eq!(world.idle(), 1);
    within(peer).await.unwrap();
}

#[tokio::test]
async fn a_stale_connection_is_replaced_and_the_body_is_whole() {
    let (world, mut connections) = World::in_memory();
    let (close, closing) = oneshot::channel::<()>();
    let (done, closed) = oneshot::channel::<()>();
    let peer = tokio::spawn(async move {
        let mut first = connections.recv().await.unwrap();
        answer(&mut first, OK).await;
        closing.await.unwrap();
        drop((first, done));
        let mut second = connections.recv().await.unwrap();
        let request = answer(&mut second, OK).await;
        (request, second)
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(world.idle(), 1);
    close.send(()).unwrap();
    within(closed).await.unwrap_err();
    let (feed, body) = fed();
    feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    drop(feed);
    let response = world.send(post(body)).await.unwrap();
    assert!(!response.reused());
    assert_eq!(text(response.body).await.unwrap(), "hello");
    let ((_, sent), _second) = within(peer).await.unwrap();
    assert_eq!(sent, "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(world.idle(), 1);
}

#[tokio::test]
async fn bytes_out_of_turn_spoil_an_idle_connection() {
    let (world, mut connections) = World::in_memory();
    let (speak, speaking) = oneshot::channel::<()>();
    let (spoke, spoken) = oneshot::channel::<()>();
    let peer = tokio::spawn(async move {
        let mut first = connections.recv().await.unwrap();
        answer(&mut first, OK).await;
        speaking.await.unwrap();
        first.write_all(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        spoke.send(()).unwrap();
        let mut second = connections.recv().await.unwrap();
        answer(&mut second, OK).await;
        (first, second)
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(world.idle(), 1);
    speak.send(()).unwrap();
    within(spoken).await.unwrap();
    let response = world.send(get()).await.unwrap();
    assert_eq!(response.head.status, StatusCode::OK, "not the answer to a question nobody asked");
    text(response.body).await.unwrap();
    drop(within(peer).await.unwrap());
}

#[tokio::test]
async fn what_must_not_be_reused_is_not() {
    let replies = [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellosurplus",
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 5\r\n\r\nhello",
    ];
    for reply in replies {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            answer(&mut io, reply).await;
            closed(&mut io).await;
        });
        assert_eq!(text(world.send(get()).await.unwrap().body).await.unwrap(), "hello");
        assert_eq!(world.idle(), 0, "{reply}");
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_may_not_be_passed_on_is_refused() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(300 << 10));
    let heads = [
        "220 mail.example ESMTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        &huge,
    ];
    for head in heads {
        let (world, mut connections) = World::in_memory();
        let reply = head.to_owned();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            read_request(&mut io).await;
            // A head that is too long is refused before it has all been written.
            let _ = io.write_all(reply.as_bytes()).await;
            closed(&mut io).await;
        });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::InvalidHead, "{}", &head[..head.len().min(80)]);
        assert!(error.request.is_none());
        assert_eq!(world.idle(), 0);
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_repeated_length_becomes_one() {
    for head in ["content-length: 5\r\ncontent-length: 5", "content-length: 5, 5"] {
        let (world, mut connections) = World::in_memory();
        let reply = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello");
        let peer = tokio::spawn(async move { answer(&mut connections.recv().await.unwrap(), &reply).await });
        let response = world.send(get()).await.unwrap();
        let lengths: Vec<_> = response.head.headers.get_all(CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["5"]);
        assert_eq!(text(response.body).await.unwrap(), "hello");
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_is_not_tried_again() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        read_request(&mut connections.recv().await.unwrap()).await;
        connections
    });
    let error = world.send(post(hello())).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Broken);
    assert!(error.request.is_none() && !error.kind.nothing_sent());
    assert!(within(peer).await.unwrap().try_recv().is_err(), "no second connection");
}

#[tokio::test]
async fn what_was_not_sent_is_given_back_whole() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let refused = World::new(tcp(), backend_at("127.0.0.1", free));
    let never = Connector::new(tower::service_fn(|_: Target| std::future::pending()));
    let mut impatient = backend_at("peer", 80);
    impatient.timeouts.connect = Duration::from_millis(1);
    let silent = World::new(never, impatient);
    let gone = Connector::new(tower::service_fn(|_: Target| async { Ok(Box::new(tokio::io::duplex(64).0) as BoxIo) }));
    let closing = World::new(gone, backend_at("peer", 80));
    let short = Connector::new(tower::service_fn(|_: Target| async { Err(std::io::Error::from_raw_os_error(24)) }));
    let short = World::new(short, backend_at("peer", 80));
    for (world, kind) in [
        (refused, SendErrorKind::Connect),
        (silent, SendErrorKind::ConnectTimeout),
        (closing, SendErrorKind::SentNothing),
        (short, SendErrorKind::Exhausted),
    ] {
        let (feed, body) = fed();
        feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
        drop(feed);
        let error = world.send(post(body)).await.unwrap_err();
        assert_eq!(error.kind, kind);
        let body = error.request.unwrap().into_body();
        assert_eq!(within(body.collect()).await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_clients_doing() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move { closed(&mut connections.recv().await.unwrap()).await });
    let (feed, body) = fed();
    feed.try_send(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))).unwrap();
    let error = world.send(post(body)).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::RequestBody);
    within(peer).await.unwrap();
    let (world, _accepted, _ended, _kill) = h2_world(100);
    let (feed, body) = fed();
    feed.try_send(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))).unwrap();
    assert_eq!(world.send(post(body)).await.unwrap_err().kind, SendErrorKind::RequestBody);
}

/// The peer answers after the first chunk; then the client goes on uploading far more than any buffer holds, without reading.
#[tokio::test]
async fn an_early_answer_does_not_stop_the_upload() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 256;
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"first").is_none() {
            assert!(io.read_buf(&mut seen).await.unwrap() > 0);
        }
        io.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n").await.unwrap();
        let mut uploaded = 0;
        while !seen.ends_with(b"0\r\n\r\n") {
            seen.clear();
            let read = io.read_buf(&mut seen).await.unwrap();
            assert!(read > 0);
            uploaded += read;
        }
        assert!(uploaded > CHUNK * CHUNKS);
        io.write_all(b"4\r\nlate\r\n0\r\n\r\n").await.unwrap();
        closed(&mut io).await;
    });
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let response = world.send(post(body)).await.unwrap();
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    for _ in 0..CHUNKS {
        within(feed.send(Ok(chunk.clone()))).await.unwrap();
    }
    drop(feed);
    assert_eq!(text(response.body).await.unwrap(), "earlylate");
    within(peer).await.unwrap();
}

#[tokio::test]
async fn an_unfinished_upload_ends_with_the_response() {
    // An answer that is whole at once, one that ends later, and one that is dropped on the way.
    for (reply, read) in [
        ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nlarge", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nearly", false),
    ] {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            let mut seen = Vec::new();
            while memchr::memmem::find(&seen, b"first").is_none() {
                assert!(io.read_buf(&mut seen).await.unwrap() > 0);
            }
            io.write_all(reply.as_bytes()).await.unwrap();
            closed(&mut io).await;
        });
        let (feed, body) = fed();
        feed.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
        let response = world.send(post(body)).await.unwrap();
        if read {
            text(response.body).await.unwrap();
        } else {
            drop(response);
        }
        within(peer).await.unwrap();
        within(feed.closed()).await;
        assert_eq!(world.idle(), 0);
        world.upstreams.shared.tasks.close();
        within(world.upstreams.shared.tasks.wait()).await;
    }
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_hands_over_the_bytes() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nhi").await;
        let mut heard = [0; 5];
        io.read_exact(&mut heard).await.unwrap();
        io.write_all(&heard).await.unwrap();
    });
    let mut request = get();
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
    request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    let response = world.send(request).await.unwrap();
    assert_eq!(response.head.status, StatusCode::SWITCHING_PROTOCOLS);
    drop(response.body);
    let mut io = TokioIo::new(within(response.upgrade.unwrap()).await.unwrap());
    io.write_all(b"world").await.unwrap();
    let mut heard = String::new();
    within(io.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "hiworld");
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let (world, listener) = World::on_socket().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let peer = tokio::spawn(async move {
        for reply in [OK, "HTTP/1.1 200 OK\r\nkeep-alive: timeout=2, max=100\r\ncontent-length: 0\r\n\r\n", OK] {
            let (mut io, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            answer(&mut io, reply).await;
            closed(&mut io).await;
        }
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    world.clock.advance(Duration::from_millis(3999));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 1);
    // Too old when it is wanted: closed instead of used, without a sweep.
    world.clock.advance(Duration::from_millis(1));
    let response = world.send(get()).await.unwrap();
    assert!(!response.reused());
    text(response.body).await.unwrap();
    assert_eq!((accepted.load(Ordering::Relaxed), world.idle()), (2, 1));
    // This one is announced to close after two seconds: after one it is closed from here.
    world.clock.advance(Duration::from_secs(1));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 0);
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(accepted.load(Ordering::Relaxed), 3);
    world.clock.advance(Duration::from_secs(9));
    world.upstreams.sweep(world.clock.monotonic());
    within(peer).await.unwrap();
}

#[tokio::test]
async fn a_sweep_finds_what_the_peer_has_closed() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, OK).await;
        io
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    let io = within(peer).await.unwrap();
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 1);
    drop(io);
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn the_pool_is_bounded_and_survives_a_reload() {
    let (mut world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..260 {
            let mut io = connections.recv().await.unwrap();
            answer(&mut io, OK).await;
            open.push(io);
        }
        open
    });
    let mut bodies = Vec::new();
    for _ in 0..260 {
        bodies.push(world.send(get()).await.unwrap().body);
    }
    for body in bodies {
        text(body).await.unwrap();
    }
    assert_eq!(world.idle(), 256);
    // The same backend as another object keeps them; one at another address has none.
    world.backend = Arc::new(Backend::clone(&world.backend));
    assert_eq!(world.idle(), 256);
    let mut moved = Backend::clone(&world.backend);
    moved.origin.port = 81;
    assert_eq!(pool::count(&world.upstreams.shared, &Arc::new(moved)), (0, 0));
    // So has another instance.
    let (other, _connections) = World::in_memory_for(backend_at("peer", 80));
    assert_eq!(other.idle(), 0);
    drop(within(peer).await.unwrap());
}

#[test]
fn an_announced_timeout_only_shortens() {
    let keep = |value: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("keep-alive", HeaderValue::from_static(value));
        h1::keep(Duration::from_secs(4), &headers)
    };
    assert_eq!(h1::keep(Duration::from_secs(4), &http::HeaderMap::new()), Duration::from_secs(4));
    assert_eq!(keep("timeout=60"), Duration::from_secs(4));
    assert_eq!(keep("timeout=5, max=100"), Duration::from_secs(4));
    assert_eq!(keep("max=100, Timeout = \"3\""), Duration::from_secs(2));
    assert_eq!(keep("timeout=1"), Duration::from_millis(500));
    assert_eq!(keep("timeout=0"), Duration::ZERO);
    assert_eq!(keep("timeout=soon"), Duration::from_secs(4));
}

/// A certificate authority, and a server's TLS with a certificate of its for `name`.
fn authority(name: &str, alpn: &[&str]) -> (Arc<[CertificateDer<'static>]>, Arc<rustls::ServerConfig>) {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = parameters.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (Arc::from(vec![ca.der().clone()]), Arc::new(config))
}

fn tls_backend(ca: Option<Arc<[CertificateDer<'static>]>>, protocol: Protocol) -> Backend {
    let mut backend = backend_at("localhost", 443);
    backend.origin.tls = true;
    backend.origin.ca = ca;
    backend.protocol = protocol;
    backend
}

#[tokio::test]
async fn tls_is_verified_and_resumed() {
    let (ca, server) = authority("localhost", &["http/1.1"]);
    let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http1));
    world.upstreams.prepare(&world.backend).unwrap();
    let peer = tokio::spawn(async move {
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let io = connections.recv().await.unwrap();
            let mut io = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(io).await.unwrap();
            kinds.push(io.get_ref().1.handshake_kind().unwrap());
            answer(&mut io, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello").await;
        }
        kinds
    });
    for _ in 0..2 {
        let response = world.send(get()).await.unwrap();
        assert!(response.connect.is_some());
        assert_eq!(text(response.body).await.unwrap(), "hello");
    }
    let kinds = within(peer).await.unwrap();
    assert_eq!(kinds[1], rustls::HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_gets_nothing() {
    let (ca, named_otherwise) = authority("elsewhere.example", &[]);
    let (_, unknown) = authority("localhost", &[]);
    let nobody: Arc<[CertificateDer<'static>]> = Arc::from(Vec::new());
    for (trusted, server) in [
        (Some(Arc::clone(&ca)), named_otherwise),
        (Some(ca), Arc::clone(&unknown)),
        (None, Arc::clone(&unknown)),
        (Some(nobody), unknown),
    ] {
        let (world, mut connections) = World::in_memory_for(tls_backend(trusted, Protocol::Http1));
        let peer = tokio::spawn(async move {
            let io = connections.recv().await?;
            let accepted = tokio_rustls::TlsAcceptor::from(server).accept(io).await;
            let mut seen = Vec::new();
            if let Ok(mut io) = accepted {
                let _ = io.read_to_end(&mut seen).await;
            }
            Some(seen)
        });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Tls);
        assert_eq!(within(error.request.unwrap().into_body().collect()).await.unwrap().to_bytes(), "hello");
        drop(world);
        assert_eq!(within(peer).await.unwrap().unwrap_or_default(), b"", "not one byte of the request arrived");
    }
}

/// A response body of two events that then stands still until it is dropped, which `Guard` reports.
struct Standing {
    left: u8,
    _dropped: oneshot::Sender<Infallible>,
}

impl Body for Standing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"event")))))
    }
}

type H2Reply = Response<http_body_util::Either<http_body_util::Full<Bytes>, Standing>>;

/// Serves HTTP/2: `/stand` stands still and reports its end, everything else echoes method, authority and body.
async fn serve_h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, streams: u32, ended: mpsc::Sender<()>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let ended = ended.clone();
        async move {
            if request.uri().path() == "/stand" {
                let (dropped, seen) = oneshot::channel();
                tokio::spawn(async move {
                    let _ = seen.await;
                    let _ = ended.send(()).await;
                });
                return Ok::<H2Reply, hyper::Error>(Response::new(http_body_util::Either::Right(Standing {
                    left: 2,
                    _dropped: dropped,
                })));
            }
            let (head, body) = request.into_parts();
            let mut echo = format!("{} {} ", head.method, head.uri).into_bytes();
            echo.extend_from_slice(&body.collect().await?.to_bytes());
            Ok(Response::new(http_body_util::Either::Left(Bytes::from(echo).into())))
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(streams);
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

/// A plain HTTP/2 backend whose connections are served until a message asks to drop the first of them.
fn h2_world(streams: u32) -> (World, Arc<AtomicUsize>, mpsc::Receiver<()>, Vec<oneshot::Sender<()>>) {
    let mut backend = backend_at("peer", 80);
    backend.protocol = Protocol::Http2;
    let (world, mut connections) = World::in_memory_for(backend);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let (report, ended) = mpsc::channel(16);
    let (kill, mut killed): (Vec<_>, Vec<_>) = (0..16).map(|_| oneshot::channel::<()>()).unzip();
    killed.reverse();
    tokio::spawn(async move {
        while let Some(io) = connections.recv().await {
            count.fetch_add(1, Ordering::Relaxed);
            let kill = killed.pop().unwrap();
            let report = report.clone();
            tokio::spawn(async move {
                tokio::select! { () = serve_h2(io, streams, report) => {}, _ = kill => {} }
            });
        }
    });
    (world, accepted, ended, kill)
}

fn stand() -> Request<SendBody> {
    Request::get("/stand").header(HOST, "peer").body(SendBody::empty()).unwrap()
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let (world, accepted, _ended, _kill) = h2_world(100);
    let (feed, body) = fed();
    feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    drop(feed);
    let (one, two, three) = tokio::join!(world.send(post(hello())), world.send(post(body)), world.send(get()));
    for (response, expected) in [
        (one, "POST http://peer:80/v1/chat hello"),
        (two, "POST http://peer:80/v1/chat hello"),
        (three, "GET http://peer:80/v1/models "),
    ] {
        assert_eq!(text(response.unwrap().body).await.unwrap(), expected);
    }
    assert!(world.send(get()).await.unwrap().reused());
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (1, 1));
    // Idle for long enough, it is closed; in use it never is.
    let mut standing = world.send(stand()).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.shared(), 1);
    within(standing.body.frame()).await.unwrap().unwrap();
    drop(standing);
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.shared(), 0);
    world.upstreams.shared.tasks.close();
    within(world.upstreams.shared.tasks.wait()).await;
}

#[tokio::test]
async fn dropping_an_http2_body_resets_its_stream_only() {
    let (world, accepted, mut ended, _kill) = h2_world(100);
    let mut dropped = world.send(stand()).await.unwrap();
    let mut kept = world.send(stand()).await.unwrap();
    within(dropped.body.frame()).await.unwrap().unwrap();
    drop(dropped);
    within(ended.recv()).await.unwrap();
    within(kept.body.frame()).await.unwrap().unwrap();
    assert!(ended.try_recv().is_err());
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_broken_http2_connection_is_replaced() {
    let (world, accepted, _ended, mut kill) = h2_world(100);
    let mut standing = world.send(stand()).await.unwrap();
    kill.remove(0).send(()).unwrap();
    while let Some(Ok(_)) = within(standing.body.frame()).await {}
    assert_eq!(text(world.send(get()).await.unwrap().body).await.unwrap(), "GET http://peer:80/v1/models ");
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (2, 1));
}

#[tokio::test]
async fn a_full_http2_connection_gets_company() {
    let (world, accepted, _ended, _kill) = h2_world(1);
    text(world.send(get()).await.unwrap().body).await.unwrap();
    let _standing = world.send(stand()).await.unwrap();
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (2, 2));
}

#[tokio::test]
async fn http2_over_tls_is_agreed_upon() {
    let (ca, server) = authority("localhost", &["h2"]);
    let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http2));
    tokio::spawn(async move {
        let io = connections.recv().await.unwrap();
        let io = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap();
        serve_h2(io, 100, mpsc::channel(1).0).await;
    });
    let response = world.send(post(hello())).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "POST https://localhost:443/v1/chat hello");
}

#[tokio::test]
async fn http2_that_is_not_spoken_is_said_so() {
    for alpn in [&["http/1.1"] as &[&str], &[], &["spdy/3"]] {
        let (ca, server) = authority("localhost", alpn);
        let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http2));
        let peer = tokio::spawn(async move {
            let accepted = tokio_rustls::TlsAcceptor::from(server).accept(connections.recv().await.unwrap()).await;
            if let Ok(mut io) = accepted {
                closed(&mut io).await;
            }
        });
        let error = world.send(get()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::NotHttp2);
        assert!(error.source.to_string().contains("ALPN"), "{}", error.source);
        assert!(error.request.is_some());
        within(peer).await.unwrap();
    }
}

/// Speaks HTTP/2 just far enough to read until the first request, and then writes these frames and closes.
async fn http2_frames_after_a_request(mut io: DuplexStream, frames: &[u8]) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut seen = vec![0; PREFACE];
    io.read_exact(&mut seen).await.unwrap();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    io.write_all(frames).await.unwrap();
}

#[tokio::test]
async fn what_an_http2_peer_did_not_process_may_be_sent_again() {
    let refused: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    let cancelled: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    let gone_before: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let gone_after: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    for (frames, kind) in [
        (refused, SendErrorKind::Refused),
        (gone_before, SendErrorKind::Refused),
        (cancelled, SendErrorKind::Broken),
        (gone_after, SendErrorKind::Broken),
        (&[], SendErrorKind::Broken),
    ] {
        let mut backend = backend_at("peer", 80);
        backend.protocol = Protocol::Http2;
        let (world, mut connections) = World::in_memory_for(backend);
        tokio::spawn(async move { http2_frames_after_a_request(connections.recv().await.unwrap(), frames).await });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, kind, "{frames:?}: {}", error.source);
        assert_eq!(error.kind.nothing_done(), kind == SendErrorKind::Refused);
        assert!(error.request.is_none() && !error.reused);
    }
}

#[tokio::test]
async fn waiting_for_another_handshake_is_bounded() {
    let never = Connector::new(tower::service_fn(|_: Target| std::future::pending()));
    let mut impatient = backend_at("peer", 80);
    impatient.timeouts.connect = Duration::from_millis(1);
    impatient.protocol = Protocol::Http2;
    let world = World::new(never, impatient);
    let (one, two) = tokio::join!(world.send(post(hello())), world.send(post(hello())));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(error.kind, SendErrorKind::ConnectTimeout);
        assert!(error.request.is_some());
    }
}

/// A front like the proxy's, counting how often its task is polled.
async fn serve_counted(io: DuplexStream, upstreams: Upstreams, backend: Arc<Backend>, polls: Arc<AtomicUsize>) {
    let service = hyper::service::service_fn(move |_: Request<Incoming>| {
        let (upstreams, backend) = (upstreams.clone(), Arc::clone(&backend));
        async move { upstreams.send(&backend, post(hello())).await.map(|response| Response::new(response.body)) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let counted = std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        serving.as_mut().poll(cx)
    });
    let _ = counted.await;
}

#[tokio::test]
async fn nobody_wakes_himself() {
    const EVENTS: usize = 10;
    let (world, mut connections) = World::in_memory();
    let (mut client, front) = tokio::io::duplex(64 << 10);
    let polls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve_counted(front, world.upstreams.clone(), Arc::clone(&world.backend), Arc::clone(&polls)));
    let (go, mut may) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        for _ in 0..3 {
            answer(&mut io, OK).await;
        }
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nevent\r\n").await;
        while may.recv().await.is_some() {
            io.write_all(b"5\r\nevent\r\n").await.unwrap();
        }
    });
    // Counts the polls from here until a response, or one event of it, is through and everybody is at rest.
    let mut before = 0;
    let mut settle = async |client: &mut DuplexStream, end: &[u8]| {
        let mut seen = Vec::new();
        while !seen.ends_with(end) {
            assert!(within(client.read_buf(&mut seen)).await.unwrap() > 0);
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let now = polls.load(Ordering::Relaxed);
        now - std::mem::replace(&mut before, now)
    };
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    for warm in [false, true, true] {
        client.write_all(request).await.unwrap();
        let polled = settle(&mut client, b"hello").await;
        assert!(polled <= 2 || !warm, "{polled} polls: one for the request and one for the response would do");
    }
    client.write_all(request).await.unwrap();
    settle(&mut client, b"event\r\n").await;
    for _ in 0..EVENTS {
        go.send(()).await.unwrap();
        assert_eq!(settle(&mut client, b"event\r\n").await, 1, "one for the event");
    }
}

/// Megabytes both ways, many at once, through socket buffers far smaller than that: no wake is lost, and no byte.
#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    const SIZE: usize = 3 << 20;
    const AT_ONCE: usize = 6;
    let (world, listener) = World::on_socket().await;
    tokio::spawn(async move {
        let service = hyper::service::service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
        }
    });
    let pattern: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    let pattern = Bytes::from(pattern);
    for round in 0..3 {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..AT_ONCE {
            let (upstreams, backend, pattern) = (world.upstreams.clone(), Arc::clone(&world.backend), pattern.clone());
            running.spawn(async move {
                let body = if number % 2 == 0 {
                    SendBody::chunks(smallvec![pattern.slice(..SIZE / 3), pattern.slice(SIZE / 3..)])
                } else {
                    let (feed, body) = fed();
                    let pattern = pattern.clone();
                    tokio::spawn(async move {
                        for start in (0..SIZE).step_by(50_000) {
                            feed.send(Ok(pattern.slice(start..SIZE.min(start + 50_000)))).await.unwrap();
                        }
                    });
                    body
                };
                let response = within(upstreams.send(&backend, post(body))).await.unwrap();
                let echo = within(response.body.collect()).await.unwrap().to_bytes();
                assert!(echo == pattern);
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        assert!(world.idle() <= AT_ONCE, "round {round}");
    }
}
