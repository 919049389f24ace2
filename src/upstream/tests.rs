//! Peers of our own, written byte by byte, because what matters is what a well-behaved server never does. The in-memory ones show
//! a closed end at once, which makes the races of a pool repeatable; sockets are used where the kernel's behaviour is the subject.

mod exchanges;
mod hostile;
mod http2;
mod over_tls;
mod pooling;
mod waking;

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
use crate::backend::{Backend, BackendId, Credential, Identity, Origin, Protocol, Timeouts, UsageMode};
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
            identity: None,
        },
        protocol: Protocol::Http1,
        dialect: crate::dialect::Dialect::Openai,
        translates: Box::default(),
        region: Arc::from("test/here"),
        region_header: HeaderValue::from_static("test/here"),
        placement: crate::backend::Placement::default(),
        pue: Pue::ONE,
        credential: Credential::None,
        api_version: None,
        max_in_flight: 100,
        prior: crate::live::Prior::default(),
        probe: false,
        timeouts: Timeouts { connect: PATIENCE, ..Timeouts::default() },
        usage: UsageMode::Never,
        keep_idle: Duration::from_secs(4),
        health: None,
        forward_client: false,
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
        (Self::new(tcp(Names::of_this_system(), || Ok(())), backend_at("127.0.0.1", port)), listener)
    }

    async fn send(&self, request: Request<SendBody>) -> Result<Box<UpstreamResponse>, SendError> {
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
