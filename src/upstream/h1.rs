//! One HTTP/1.1 connection: hyper's sender and hyper's connection side by side, without a task between.
//!
//! Whoever runs the exchange polls the connection: the send future until the response head, then the response body. Only when that
//! could stand still is the connection moved into a task: while the request body is unfinished (a client that does not read its
//! response would stop its own upload), and for an upgrade.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, unconstrained};
use tokio_util::task::TaskTracker;

use super::body::{SendBody, Tracked, Upload};
use super::connect::BoxIo;
use super::direct::MAX_INFORMATIONAL;
use super::gate::Gate;
use crate::wire::fields::{Fields, Name};
use crate::wire::response::MAX_HEAD;

/// Bytes that hyper reads ahead of what is asked for: its own default, stated because memory per stream depends on it.
const MAX_READ_AHEAD: usize = 408 << 10;

/// Hyper's side of a connection. The plain one throws the byte stream away when the peer switches protocols, so a request that
/// asks for that runs on the other one, whose type hyper does not name.
#[expect(clippy::large_enum_variant, reason = "the large variant is the ordinary one, and a slot is boxed")]
enum Connection {
    Plain(http1::Connection<TokioIo<BoxIo>, Tracked>),
    Upgradable(Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>),
}

impl Future for Connection {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll(cx),
            Self::Upgradable(connection) => connection.as_mut().poll(cx),
        }
    }
}

/// A connection, idle or with one exchange on it. Dropping it closes the socket.
pub(super) struct Slot {
    sender: http1::SendRequest<Tracked>,
    /// `None` once it has ended.
    connection: Option<Connection>,
    upload: Arc<Upload>,
    /// Informational responses before the one that is waited for, which hyper would read for ever.
    informational: Arc<AtomicUsize>,
    gate: Gate,
}

impl Slot {
    /// Boxed: it moves between pool, future and body, and hyper's connection is several hundred bytes.
    pub(super) async fn open(io: BoxIo) -> hyper::Result<Box<Self>> {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MAX_READ_AHEAD).max_header_size(MAX_HEAD).handshake(TokioIo::new(io)).await?;
        Ok(Box::new(Self {
            sender,
            connection: Some(Connection::Plain(connection)),
            upload: Arc::default(),
            informational: Arc::default(),
            gate: Gate::new(Waker::noop().clone()),
        }))
    }

    /// Sends a request and waits for its head. The error gives the request back if nothing was sent.
    pub(super) async fn exchange(
        &mut self,
        request: Request<SendBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Tracked>>> {
        if request.headers().contains_key(UPGRADE) {
            self.connection = self.connection.take().map(|connection| match connection {
                Connection::Plain(plain) => Connection::Upgradable(Box::pin(plain.with_upgrades())),
                already @ Connection::Upgradable(_) => already,
            });
        }
        let mut request = request.map(|body| Tracked::new(&self.upload, None, body));
        self.informational.store(0, Ordering::Relaxed);
        let heard = Arc::clone(&self.informational);
        hyper::ext::on_informational(&mut request, move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        });
        self.gate.shut();
        // Only polling the connection, or dropping it, can bring a reply; so `reply` needs no waker of its own. But it must not be
        // turned away for want of budget either, for then nobody would come back to it.
        let mut reply = pin!(unconstrained(self.sender.try_send_request(request)));
        let (gate, connection, informational) = (&mut self.gate, &mut self.connection, &self.informational);
        std::future::poll_fn(|cx| {
            // The connection first: it writes the request and reads the head. When it ends, dropping it is what answers `reply`.
            poll(connection, gate, cx);
            if is_flood(informational) {
                *connection = None;
            }
            reply.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// The next frame of the response whose other end this connection holds, driving the connection only when there is none yet.
    pub(super) fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // As with `reply`: frames come only out of the connection, which is polled here.
        let mut unheard = Context::from_waker(Waker::noop());
        self.gate.shut();
        let mut frame = Pin::new(&mut *incoming).poll_frame(&mut unheard);
        if frame.is_pending() {
            self.poll_connection(cx);
            self.gate.shut();
            frame = Pin::new(incoming).poll_frame(&mut unheard);
        }
        // Who got a frame comes back for the next; who got none has to be woken for what the connection was woken for.
        if self.gate.open() && frame.is_pending() {
            cx.waker().wake_by_ref();
        }
        frame
    }

    /// Lets the connection do what it can.
    fn poll_connection(&mut self, cx: &mut Context<'_>) {
        poll(&mut self.connection, &mut self.gate, cx);
    }

    /// After the end of a response: whether the next request may be sent here. It may not after `Connection: close`, after surplus
    /// bytes, or while the request is still being written.
    pub(super) fn poll_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.sender.is_ready() {
            self.poll_connection(cx);
        }
        // Idle, it wakes nobody: the sweep asks.
        self.gate.shut();
        self.is_open() && self.sender.is_ready()
    }

    /// While idle: whether the peer has neither closed nor spoken out of turn.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_connection(cx);
        self.is_open()
    }

    /// As of the last poll.
    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some() && !self.sender.is_closed()
    }

    /// Whether more came before the response than may.
    pub(super) fn was_flooded(&self) -> bool {
        is_flood(&self.informational)
    }

    /// How far the request body has come.
    pub(super) fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }

    /// Moves the connection into a task, where an upgrade is completed as well; `None` when it has ended already, and all that it
    /// had to give is here.
    pub(super) fn spawn(self: Box<Self>, tasks: &TaskTracker) -> Option<AbortHandle> {
        let connection = self.connection?;
        Some(
            tasks
                .spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "connection ended");
                    }
                })
                .abort_handle(),
        )
    }
}

fn is_flood(informational: &AtomicUsize) -> bool {
    informational.load(Ordering::Relaxed) > MAX_INFORMATIONAL
}

/// Polls a connection, and drops it when it has ended. Why it ended is told to whoever waits for a head or a body.
fn poll(connection: &mut Option<Connection>, gate: &mut Gate, cx: &mut Context<'_>) {
    if let Some(running) = connection {
        gate.lead_to(cx.waker());
        gate.open();
        if Pin::new(running).poll(&mut Context::from_waker(gate.waker())).is_ready() {
            *connection = None;
        }
    }
}

/// Sets version and framing so that they say what the body is, whatever the fields said. A body whose length only the fields know
/// keeps that length; hyper fails the exchange when it does not hold.
pub(super) fn frame(request: &mut Request<SendBody>) {
    *request.version_mut() = Version::HTTP_11;
    let exact = request.body().size_hint().exact();
    let needs_length = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    match exact {
        // RFC 9110, 8.6: a length of 0 is said where a body could have been expected, and nowhere else.
        Some(0) if !needs_length => {
            headers.remove(CONTENT_LENGTH);
        }
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said outright, because hyper takes a GET without a length for one without a body.
        None if !headers.contains_key(CONTENT_LENGTH) => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        None => {}
    }
}

/// Refuses what two readers could understand in two ways, and makes a repeated length a single one. Hyper takes such heads.
pub(super) fn check_head(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("the response has both Transfer-Encoding and Content-Length");
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("the response has a Transfer-Encoding other than chunked, which nobody asked for");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let several = lengths.next().is_some();
        if several || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            // Hyper has seen to it that all of them are the same number.
            let first = length.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            let first = HeaderValue::from_bytes(first).map_err(|_| "the response has a Content-Length that is no number")?;
            headers.insert(CONTENT_LENGTH, first);
        }
    }
    Ok(())
}

/// How long a connection may be idle: what the plan says, or less if the backend announced to close sooner. Half of its time, or
/// all but a second, is ours: closing must not cross with the next request.
pub(super) fn keep(configured: Duration, fields: &Fields) -> Duration {
    let Some(value) = fields.get_text(Name::KeepAlive) else { return configured };
    let timeout = value.split(',').find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().trim_matches('"').parse::<u32>().ok()).flatten()
    });
    match timeout {
        None => configured,
        Some(seconds) => {
            let announced = Duration::from_secs(u64::from(seconds));
            configured.min(announced.saturating_sub(Duration::from_secs(1)).max(announced / 2))
        }
    }
}
