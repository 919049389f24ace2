//! Connections to backends: one exchange at a time, from a pool of the calling core.
//!
//! It is not hyper-util's client, because three things it does not tell decide how a proxy may go on: whether a byte of the request
//! was sent, whether the connection was fresh, and when exactly an exchange is over. What hyper does well (flow control, uploads
//! beside downloads, upgrades, HTTP/2) is left to hyper's `client::conn`; the plain exchange over HTTP/1.1, which nearly all are, goes
//! without it (`direct`, which says what that saves).
//!
//! An exchange never waits for another one. The request path takes no lock of ours and, over HTTP/1.1, spawns no task, but for two
//! rare cases that `h1` names. There are no timers here but that of connecting and that of the first byte, which is told by
//! whoever waits for it: idle gap and total belong to whoever can tell a slow model from a dead one. Names are looked up once for everybody who wants them (`names`).

mod body;
mod connect;
mod direct;
mod error;
mod frames;
mod gate;
mod h1;
mod h2;
mod heads;
mod names;
mod pool;
#[cfg(test)]
mod tests;
mod timer;
mod turn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::UPGRADE;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use rustls::RootCertStore;
use tokio::time::{timeout, timeout_at};
use tokio_util::task::TaskTracker;

pub use body::{Chunks, SendBody, UpstreamBody};
pub use connect::{BoxIo, Connector, Io, Target, round_trip, system_roots, tcp};
pub use error::{BodyError, BoxError, ConnectError, SendError, SendErrorKind};
pub use heads::{for_hyper, head_of};
pub use names::Names;
pub(crate) use timer::LazyTimer;
pub(crate) use turn::{others_first, wake_after_others};

use crate::backend::{Backend, Protocol};
use crate::clock::Clock;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::{Message, RequestHead, ResponseHead};
use crate::wire::response::Head;
use direct::{Direct, Whole};
use pool::Parked;

/// All connections of one proxy instance, on all cores. Cheap to clone; what is idle belongs to the core that opened it, so an
/// instance is used from runtimes that do not move a connection between reactors: one `current_thread` runtime per core, or one
/// runtime of any kind.
#[derive(Clone)]
pub struct Upstreams {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    tls: connect::Tls,
    tasks: TaskTracker,
    clock: Arc<dyn Clock>,
}

/// The head of a response, and the way to the rest. Those who send give it boxed: it goes through ten hands, and was copied by each.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// Status and fields, hop-by-hop fields included; `Content-Length` stands once at most and never beside `Transfer-Encoding`.
    pub head: ResponseHead,
    /// The rest.
    pub body: UpstreamBody,
    /// After 101, the byte stream to come. The request had asked for it.
    pub upgrade: Option<OnUpgrade>,
    /// Time it took to open the connection, TLS included; `None` for one that was open already.
    pub connect: Option<Duration>,
}

impl UpstreamResponse {
    /// Whether it came over a connection that was open before.
    pub fn reused(&self) -> bool {
        self.connect.is_none()
    }
}

/// Idle connections that may turn out to be closed before a fresh one is opened. A backend that restarts closes all of them, and
/// the sweep finds that sooner than a second round would.
const MAX_STALE: usize = 8;

/// A second request like that one. Of a body that is still coming it has nothing.
pub fn copied(request: &Message<RequestHead, SendBody>) -> Message<RequestHead, SendBody> {
    Message { head: request.head.clone(), body: request.body.copy() }
}

impl Upstreams {
    /// An instance that opens byte streams with `connector` (usually [`tcp`]), trusts what `roots` gives (usually [`system_roots`])
    /// unless a backend has certificates of its own, and leaves no task that `tasks` does not know. `roots` is called at most once:
    /// when the first https backend without certificates of its own is prepared or connected to.
    pub fn new(
        connector: Connector,
        roots: impl FnOnce() -> RootCertStore + Send + 'static,
        tasks: TaskTracker,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { shared: Arc::new(Shared { connector, tls: connect::Tls::new(roots), tasks, clock }) }
    }

    /// Whether a backend could be connected to as far as its certificates go; to be asked before a plan is published.
    pub fn prepare(&self, backend: &Backend) -> Result<(), ConnectError> {
        if backend.origin.tls { self.shared.tls.config(backend).map(drop) } else { Ok(()) }
    }

    /// One exchange: takes an idle connection or opens one, sends, and waits for the response head. The request is in origin form
    /// with the backend's `Host`; version and framing fields are set here. An idle connection that turns out to be closed before the
    /// request was taken up is replaced by another, which is no second attempt: nothing was sent. Dropping the future cancels the
    /// exchange at the backend.
    ///
    /// The request is boxed because every step on its way has a place for it: together they were a kilobyte of every exchange.
    pub fn send<'a>(
        &'a self,
        backend: &'a Arc<Backend>,
        request: impl Into<Box<Request<SendBody>>>,
    ) -> impl Future<Output = Result<Box<UpstreamResponse>, SendError>> + Send {
        let request = request.into();
        async move {
            match backend.protocol {
                Protocol::Http1 if !request.body().is_stream() && !request.headers().contains_key(UPGRADE) => {
                    let fields = Fields::of_map(request.headers());
                    let whole = Whole { method: request.method(), target: request.uri(), fields: &fields, body: request.body() };
                    // Without an end to wait for there is none that could be missed.
                    let Ok(sent) = self.send_direct(backend, whole, None).await else {
                        return Err(SendError::lost(SendErrorKind::Broken, "no answer in time"));
                    };
                    sent.map_err(|error| if error.kind.nothing_sent() { error.with_request(request) } else { error })
                }
                // Boxed, as are other long ways round: every future on the short one would be as large as the longest.
                Protocol::Http1 => Box::pin(self.send_by_hyper(backend, *request)).await,
                Protocol::Http2 => Box::pin(self.send_h2(backend, *request)).await,
            }
        }
    }

    /// As [`Self::send`], for a request that is there as a whole and stays with its owner, who may send it elsewhere: over HTTP/1.1
    /// that takes no copy of its fields. Of a body that is still coming nothing is sent.
    pub async fn send_kept(
        &self,
        backend: &Arc<Backend>,
        request: &Message<RequestHead, SendBody>,
        within: Duration,
    ) -> Result<Result<Box<UpstreamResponse>, SendError>, TimedOut> {
        let until = tokio::time::Instant::now() + within;
        let Message { head: RequestHead { method, target, fields, .. }, body } = request;
        if backend.protocol == Protocol::Http1 && !body.is_stream() && !fields.has(Name::Upgrade) {
            return self.send_direct(backend, Whole { method, target, fields, body }, Some(until)).await;
        }
        // Boxed as above.
        let sending = Box::pin(self.send(backend, Request::from(copied(request))));
        timeout_at(until, sending).await.map_err(|_| TimedOut)
    }

    /// Closes what the calling thread has kept idle too long, and what backends have closed meanwhile. To be called every second or
    /// so by every worker: an idle connection has no task of its own.
    pub fn sweep(&self, now: Instant) {
        pool::sweep(&self.shared, now);
    }

    /// An error does not have the request in it.
    async fn send_direct(
        &self,
        backend: &Arc<Backend>,
        request: Whole<'_>,
        until: Option<tokio::time::Instant>,
    ) -> Result<Result<Box<UpstreamResponse>, SendError>, TimedOut> {
        let is_direct = |parked: &Parked| matches!(parked, Parked::Direct(_));
        for _ in 0..MAX_STALE {
            let Some(Parked::Direct(mut connection)) = pool::take(&self.shared, backend, self.now(), is_direct) else { break };
            match connection.exchange(request, true, until).await {
                Ok(head) => return Ok(Ok(self.received(backend, head, connection, None))),
                Err(direct::Failed::Sent(error)) => return Ok(Err(error)),
                Err(direct::Failed::TimedOut) => return Err(TimedOut),
                Err(direct::Failed::Unsent(_)) => {}
            }
        }
        let started = self.now();
        // Boxed: it is rare, and a TLS handshake would make every exchange's future several times larger.
        let connecting = Box::pin(connect::establish(&self.shared.connector, &self.shared.tls, backend));
        let connected = match until {
            Some(until) => timeout_at(until, connecting).await.map_err(|_| TimedOut)?,
            None => connecting.await,
        };
        let mut connection = match connected {
            Ok(io) => Direct::new(io),
            Err(error) => return Ok(Err(error.into())),
        };
        let took = self.now().saturating_duration_since(started);
        match connection.exchange(request, false, until).await {
            Ok(head) => Ok(Ok(self.received(backend, head, connection, Some(took)))),
            Err(direct::Failed::Sent(error)) => Ok(Err(error)),
            Err(direct::Failed::TimedOut) => Err(TimedOut),
            Err(direct::Failed::Unsent(error)) => Ok(Err(not_taken(None, error))),
        }
    }

    fn received(
        &self,
        backend: &Arc<Backend>,
        head: Head,
        connection: Box<Direct>,
        connect: Option<Duration>,
    ) -> Box<UpstreamResponse> {
        let Head { head, body, keeps_alive } = head;
        let keep = if keeps_alive { h1::keep(backend.keep_idle, &head.fields) } else { Duration::ZERO };
        let home = body::Home { shared: Arc::clone(&self.shared), backend: Arc::clone(backend), keep };
        Box::new(UpstreamResponse { head, body: UpstreamBody::direct(connection, body, home), upgrade: None, connect })
    }

    async fn send_by_hyper(
        &self,
        backend: &Arc<Backend>,
        mut request: Request<SendBody>,
    ) -> Result<Box<UpstreamResponse>, SendError> {
        h1::frame(&mut request);
        let asked = Asked { upgrade: request.headers().contains_key(UPGRADE) };
        for _ in 0..MAX_STALE {
            let Some(parked) = pool::take(&self.shared, backend, self.now(), |_| true) else { break };
            let Some(mut slot) = by_hyper(parked).await else { continue };
            match slot.exchange(request).await {
                Ok(response) => return self.receive(backend, response, slot, asked, None).await,
                Err(failed) => request = given_back(failed, slot.upload(), true)?.0,
            }
        }
        let started = self.now();
        let mut slot = match Box::pin(self.open_h1(backend)).await {
            Ok(slot) => slot,
            Err(error) => return Err(SendError::from(error).with_request(Box::new(request))),
        };
        let took = self.now().saturating_duration_since(started);
        match slot.exchange(request).await {
            Ok(response) => self.receive(backend, response, slot, asked, Some(took)).await,
            Err(failed) => {
                let (request, error) = given_back(failed, slot.upload(), false)?;
                Err(not_taken(Some(Box::new(request)), error))
            }
        }
    }

    async fn open_h1(&self, backend: &Backend) -> Result<Box<h1::Slot>, ConnectError> {
        let io = connect::establish(&self.shared.connector, &self.shared.tls, backend).await?;
        h1::Slot::open(io).await.map_err(|error| ConnectError::new(SendErrorKind::Connect, error))
    }

    /// What to do with the connection once the head is here.
    async fn receive(
        &self,
        backend: &Arc<Backend>,
        mut response: Response<Incoming>,
        slot: Box<h1::Slot>,
        asked: Asked,
        connect: Option<Duration>,
    ) -> Result<Box<UpstreamResponse>, SendError> {
        let invalid = |why: &'static str| Err(SendError::lost(SendErrorKind::InvalidHead, why));
        if slot.was_flooded() {
            return invalid("there is no end of informational responses");
        }
        if let Err(why) = h1::check_head(response.headers_mut()) {
            return invalid(why);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !asked.upgrade || !slot.upload().is_over() {
                return invalid("the backend switched protocols unasked, or before it had the whole request");
            }
            let upgrade = hyper::upgrade::on(&mut response);
            // Usually the byte stream has been handed over by now; if not, the task does it.
            slot.spawn(&self.shared.tasks);
            let (head, incoming) = response.into_parts();
            let head = head_of(head);
            let body = UpstreamBody::detached(incoming);
            return Ok(Box::new(UpstreamResponse { head, body, upgrade: Some(upgrade), connect }));
        }
        let (head, incoming) = response.into_parts();
        let head = head_of(head);
        let body = if slot.upload().is_over() {
            let keep = h1::keep(backend.keep_idle, &head.fields);
            let home = body::Home { shared: Arc::clone(&self.shared), backend: Arc::clone(backend), keep };
            UpstreamBody::inline(incoming, slot, home).await
        } else {
            let upload = Arc::clone(slot.upload());
            UpstreamBody::spawned(incoming, upload, slot.spawn(&self.shared.tasks))
        };
        Ok(Box::new(UpstreamResponse { head, body, upgrade: None, connect }))
    }

    async fn send_h2(&self, backend: &Arc<Backend>, mut request: Request<SendBody>) -> Result<Box<UpstreamResponse>, SendError> {
        let mut stale = 0;
        loop {
            let started = self.now();
            let (mut lease, fresh) = match pool::lease(&self.shared, backend, started) {
                Some(lease) => (lease, false),
                None => match Box::pin(self.open_h2(backend)).await {
                    Ok(opened) => opened,
                    Err(error) => return Err(SendError::from(error).with_request(Box::new(request))),
                },
            };
            let took = fresh.then(|| self.now().saturating_duration_since(started));
            lease.frame(&mut request, backend.origin.tls);
            match lease.exchange(request).await {
                Ok((response, _)) if response.status().is_informational() => {
                    return Err(SendError::lost(SendErrorKind::InvalidHead, "an informational response is no final one"));
                }
                Ok((response, cancel)) => {
                    let (head, incoming) = response.into_parts();
                    let body = UpstreamBody::stream(incoming, lease, cancel);
                    return Ok(Box::new(UpstreamResponse { head: head_of(head), body, upgrade: None, connect: took }));
                }
                Err(failed) => {
                    let (mut unsent, error) = given_back(failed, lease.upload(), !fresh)?;
                    h2::unframe(&mut unsent, &backend.origin);
                    stale += 1;
                    if fresh || stale == MAX_STALE {
                        return Err(not_taken(Some(Box::new(unsent)), error));
                    }
                    request = unsent;
                }
            }
        }
    }

    /// A place on a connection that was opened just now, by this exchange (then `true`) or by one that it waited for.
    async fn open_h2(&self, backend: &Arc<Backend>) -> Result<(h2::Lease, bool), ConnectError> {
        let ended = || ConnectError::new(SendErrorKind::Connect, "the thread is ending");
        let gate = pool::dialing(&self.shared, backend).ok_or_else(ended)?;
        let opening = async {
            let _permit = gate.acquire().await.map_err(|closed| ConnectError::new(SendErrorKind::Connect, closed))?;
            if let Some(lease) = pool::lease(&self.shared, backend, self.now()) {
                return Ok((lease, false));
            }
            let io = connect::establish(&self.shared.connector, &self.shared.tls, backend).await?;
            let opened = h2::Handle::open(io, &backend.origin, &self.shared.tasks, self.now()).await;
            let mut handle = opened.map_err(|error| ConnectError::new(SendErrorKind::Connect, error))?;
            let lease = handle.lease(self.now());
            pool::share(&self.shared, backend, handle);
            Ok((lease, true))
        };
        // Waiting for another's handshake counts as connecting; else a dead backend would hold its whole queue, one timeout each.
        timeout(backend.timeouts.connect, opening)
            .await
            .unwrap_or_else(|elapsed| Err(ConnectError::new(SendErrorKind::ConnectTimeout, elapsed)))
    }

    fn now(&self) -> Instant {
        self.shared.clock.monotonic()
    }
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// There was no response head in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// What the request asked for that its response has to fit.
#[derive(Clone, Copy)]
struct Asked {
    upgrade: bool,
}

/// The request that hyper did not take up, and why; an error when it may have been sent.
fn given_back(
    mut failed: TrySendError<Request<body::Tracked>>,
    upload: &body::Upload,
    reused: bool,
) -> Result<(Request<SendBody>, hyper::Error), SendError> {
    match failed.take_message() {
        Some(request) => Ok((request.map(body::Tracked::into_body), failed.into_error())),
        None => Err(SendError { reused, ..SendError::from_hyper(failed.into_error(), upload.has_failed()) }),
    }
}

fn not_taken(request: Option<Box<Request<SendBody>>>, error: impl Into<BoxError>) -> SendError {
    SendError { kind: SendErrorKind::SentNothing, request, reused: false, source: error.into() }
}

/// An idle connection in hyper's hands; `None` when the peer turns out to have closed it.
async fn by_hyper(parked: Parked) -> Option<Box<h1::Slot>> {
    match parked {
        Parked::Hyper(slot) => Some(slot),
        Parked::Direct(mut connection) => {
            std::future::poll_fn(|cx| std::task::Poll::Ready(connection.look_idle(cx))).await.ok()?;
            h1::Slot::open(connection.into_io()).await.ok()
        }
    }
}
