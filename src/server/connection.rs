//! One accepted connection from its first byte to its last.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::accepted::{Accepted, SeesEnd};
use super::detect::{Prefix, Version, detect};
use super::direct::{self, Left};
use super::guard::{Guard, Held, LOOK_EVERY};
use super::streams::Streams;
use super::timers::{Expired, Timers};
use super::tracked::{ConnState, InProgress, TrackedBody};
use crate::config::Limits;
use crate::proxy::{self, Limited, Proxy, RequestBody};
use crate::telemetry::metrics::Metrics;
use crate::upstream::{LazyTimer, head_of};
use crate::wire::frames::Frames;
use crate::wire::framing::{Framing, USUAL_FIELDS};
use crate::wire::message::{Message, RequestHead, ResponseHead};

/// Bytes that hyper may buffer in each direction of an HTTP/1.1 connection, unless a head may be longer. Its own default of 400 KiB
/// would let a slow reader of each of ten thousand streams hold that much.
const H1_BUFFER: usize = 64 << 10;
/// Bytes of one HTTP/2 stream's response that may wait for the peer's window.
const H2_SEND_BUFFER: usize = 64 << 10;
/// An HTTP/2 peer is asked for a sign of life this often while it has streams open ..
const H2_PING_EVERY: Duration = Duration::from_secs(30);
/// .. and is given this long for it.
const H2_PONG_WITHIN: Duration = Duration::from_secs(20);

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it is one of the listener's `trusted_proxies`.
    pub trusted: bool,
}

/// What can answer requests of a connection: any [`tower::Service`] that never fails, or `Lean`.
pub trait Answers: Clone + Send + 'static {
    /// The body of its responses.
    type Body: Limited<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers a request that hyper has read.
    fn answer(&mut self, request: Request<RequestBody>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers a request that was read without hyper, and so will its answer be written.
    fn answer_plain(
        &mut self,
        request: Box<Message<RequestHead, RequestBody>>,
    ) -> impl Future<Output = Message<ResponseHead, Self::Body>> + Send;

    /// Whether a request with this head is refused whatever its body is, so that nobody need wait for that. Nothing comes of asking.
    fn refuses(&mut self, _: &RequestHead) -> bool {
        false
    }
}

impl<S, B> Answers for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Limited<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;

    async fn answer(&mut self, request: Request<RequestBody>) -> Response<B> {
        // Not `oneshot`, in whose states the request would be moved twice more.
        let Ok(()) = std::future::poll_fn(|cx| self.poll_ready(cx)).await;
        let Ok(response) = self.call(request).await;
        response
    }

    async fn answer_plain(&mut self, request: Box<Message<RequestHead, RequestBody>>) -> Message<ResponseHead, B> {
        let (head, body) = self.answer((*request).into()).await.into_parts();
        Message { head: head_of(head), body }
    }
}

/// The proxy, which takes a request as it was read: to make of its fields what a service is given would cost more than to choose a
/// backend for it.
#[derive(Clone)]
pub(super) struct Lean(pub(super) Proxy);

impl Answers for Lean {
    type Body = proxy::Body;

    async fn answer(&mut self, request: Request<RequestBody>) -> Response<proxy::Body> {
        let Ok(response) = self.0.call(request).await;
        response
    }

    fn answer_plain(
        &mut self,
        request: Box<Message<RequestHead, RequestBody>>,
    ) -> impl Future<Output = Message<ResponseHead, proxy::Body>> + Send {
        self.0.answer(request)
    }

    fn refuses(&mut self, head: &RequestHead) -> bool {
        self.0.refuses(head)
    }
}

/// What a connection needs besides its socket and its service.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) held: Held,
}

/// Serves a connection until it ends.
pub(super) async fn serve<S: Answers>(socket: TcpStream, service: S, setting: Setting) {
    let socket = Accepted::new(socket, &setting.held.entry.state);
    let metrics = Arc::clone(&setting.metrics);
    // Boxed each by itself: a plain connection need not take as much memory as one with TLS, and there are many for a long time.
    let outcome = match setting.tls.clone() {
        None => Box::pin(plain(socket, service, setting)).await,
        Some(tls) => Box::pin(secure(socket, TlsAcceptor::from(tls), service, setting)).await,
    };
    match outcome {
        Outcome::Fine => {}
        Outcome::BadHead => metrics.bad_heads.add_one(),
        Outcome::Flood => metrics.floods.add_one(),
        Outcome::BadHandshake => metrics.handshake_errors.add_one(),
    }
}

async fn plain<S: Answers>(mut socket: Accepted, service: S, setting: Setting) -> Outcome {
    let (mut prefix, begun) = (Prefix::default(), Instant::now());
    match timeout_at(begun + setting.limits.header_read, detect(&mut socket, &mut prefix)).await {
        Ok(Ok(Some(version))) => run(version, socket, prefix, service, setting, begun).await,
        Err(_) if !prefix.is_empty() => Outcome::BadHead,
        // It went, or it was opened in advance and never used.
        Ok(Ok(None) | Err(_)) | Err(_) => Outcome::Fine,
    }
}

async fn secure<S: Answers>(socket: Accepted, acceptor: TlsAcceptor, service: S, setting: Setting) -> Outcome {
    let begun = Instant::now();
    let Ok(Ok(socket)) = timeout_at(begun + setting.limits.header_read, acceptor.accept(socket)).await else {
        return Outcome::BadHandshake;
    };
    let h2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
    let version = if h2 { Version::Http2 } else { Version::Http1 };
    run(version, socket, Prefix::default(), service, setting, begun).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended, or broke off in a way that is the peer's business.
    Fine,
    /// It ended because of a head that was none, or that did not end.
    BadHead,
    /// It ended because of frames that brought no stream forward.
    Flood,
    /// It never spoke TLS, or not in time.
    BadHandshake,
}

pub(super) async fn run<S, IO>(
    version: Version,
    socket: IO,
    prefix: Prefix,
    service: S,
    setting: Setting,
    begun: Instant,
) -> Outcome
where
    S: Answers,
    IO: AsyncRead + AsyncWrite + SeesEnd + Unpin + Send + 'static,
{
    let Setting { limits, held, .. } = setting;
    match version {
        Version::Http1 => {
            // Boxed, because it has room for an answer to come, and a connection that does not speak yet, or HTTP/2, needs none.
            match Box::pin(direct::serve(socket, prefix.bytes(), service.clone(), &limits, held, begun)).await {
                Left::Ended(outcome) => outcome,
                // Boxed, because few connections come to this, and each would have room for it.
                Left::Longer(socket, held, read) => Box::pin(http1(socket, held, read, service, limits)).await,
            }
        }
        Version::Http2 => Box::pin(http2(socket, held, prefix, service, limits)).await,
    }
}

/// Runs a connection of HTTP/1.1 from a message on that begins with what was `read`.
async fn http1<S, IO>(socket: IO, held: Held, read: Vec<u8>, service: S, limits: Limits) -> Outcome
where
    S: Answers,
    IO: AsyncRead + AsyncWrite + SeesEnd + Unpin + Send + 'static,
{
    let state = Arc::clone(&held.entry.state);
    let timers = Timers::new(limits.header_read, limits.idle, false, Instant::now());
    let framing = Framing::new(limits.head).with_fields(limits.fields);
    let guard = Guard::new(socket, Prefix::default(), held, Some(framing)).having_read(read);
    let own = Arc::clone(&state);
    let service = service_fn(move |request| answer(service.clone(), request, InProgress::begin(&own)));
    let mut connection = Box::pin(http1_builder(&limits).serve_connection(TokioIo::new(guard), service).with_upgrades());
    drive(connection.as_mut(), &state, timers, http1::UpgradeableConnection::graceful_shutdown).await
}

/// Runs a connection of HTTP/2 whose preface is in `prefix`.
async fn http2<S, IO>(socket: IO, held: Held, prefix: Prefix, service: S, limits: Limits) -> Outcome
where
    S: Answers,
    IO: AsyncRead + AsyncWrite + SeesEnd + Unpin + Send + 'static,
{
    let state = Arc::clone(&held.entry.state);
    // Its preface is there, so that it is idle from now on and not since it was accepted.
    let timers = Timers::new(limits.header_read, limits.idle, true, Instant::now());
    let frames = Frames::new(limits.streams, Instant::now().into_std());
    let guard = Guard::new(socket, prefix, held, None).counting(Some(frames));
    let own = Arc::clone(&state);
    let service = service_fn(move |request| answer(service.clone(), request, InProgress::begin(&own)));
    let builder = http2_builder(&limits, Streams(Arc::clone(&state)));
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(guard), service));
    drive(connection.as_mut(), &state, timers, http2::Connection::graceful_shutdown).await
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The guard has the timers, and counts the fields. `max_headers` stays as it is where it can: set, it costs an allocation for each
    // request.
    builder.header_read_timeout(None).max_header_size(limits.head).max_buf_size(limits.head.max(H1_BUFFER));
    if limits.fields > USUAL_FIELDS {
        builder.max_headers(limits.fields as usize);
    }
    builder
}

fn http2_builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PONG_WITHIN);
    builder
}

/// Answers one request; the request is in progress until hyper has let go of the response's body.
async fn answer<S: Answers>(
    mut service: S,
    request: Request<Incoming>,
    progress: InProgress,
) -> Result<Response<TrackedBody<S::Body>>, Infallible> {
    let version = request.version();
    let mut response = service.answer(request.map(RequestBody::from)).await;
    if version < http::Version::HTTP_2 && progress.is_the_last() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // hyper says so by itself only of what was asked for before it was told to end.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        progress.switch();
    }
    let open_end = version == http::Version::HTTP_10
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.body().size_hint().exact().is_none();
    Ok(response.map(|body| TrackedBody::new(body, progress, open_end)))
}

/// Runs a connection, tells it to finish once it is dismissed, and ends it when its time is over.
///
/// The timers are looked at here rather than when hyper reads: hyper does not read again when a response ends while it was waiting
/// for bytes already.
async fn drive<C>(mut connection: Pin<&mut C>, state: &ConnState, mut timers: Timers, dismiss: impl Fn(Pin<&mut C>)) -> Outcome
where
    C: Future<Output = hyper::Result<()>>,
{
    let (mut timer, mut look_timer) = (LazyTimer::default(), LazyTimer::default());
    let (mut dismissed, mut next_look) = (false, None);
    std::future::poll_fn(|cx| {
        state.run_by(cx.waker());
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                let bad = ended.is_err_and(|error| error.is_parse()) || state.was_refused();
                return Poll::Ready(match (state.was_flooded(), bad) {
                    (true, _) => Outcome::Flood,
                    (false, true) => Outcome::BadHead,
                    (false, false) => Outcome::Fine,
                });
            }
            if !dismissed && state.is_dismissed() && state.is_dismissible() {
                dismissed = true;
                dismiss(connection.as_mut());
                continue;
            }
            let (begun, ended) = state.requests();
            if begun == ended && state.take_received() {
                timers.received(begun, ended);
            }
            let Some(deadline) = timers.waiting(begun, ended, Instant::now) else {
                // Of HTTP/1.1 only: the bodies of streams are looked after one by one.
                if state.is_uploading() {
                    // hyper reads no more of a body than is taken of it; but it flushes at every turn.
                    let at = *next_look.get_or_insert_with(|| Instant::now() + LOOK_EVERY);
                    if look_timer.poll(at, cx).is_ready() {
                        next_look = None;
                        state.look_for_end();
                        continue;
                    }
                }
                let Some(until) = state.body_until() else { return Poll::Pending };
                ready!(timer.poll(until, cx));
                tracing::debug!("a response had its time, and its client had not taken it");
                return Poll::Ready(Outcome::Fine);
            };
            ready!(timer.poll(deadline, cx));
            match timers.expired(Instant::now()) {
                Expired::Dismiss => state.dismiss(),
                Expired::Close => return Poll::Ready(Outcome::Fine),
                Expired::Abort => return Poll::Ready(Outcome::BadHead),
            }
        }
    })
    .await
}
