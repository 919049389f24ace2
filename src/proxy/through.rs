//! Calls that are not decided: what lives in one backend, and what cannot be read. They stream to the route's `home`, byte for
//! byte, and can be sent only once. A body is bounded by its pace, by the time of the whole and by `limits.upload`. An upgrade
//! (WebSocket, for realtime) becomes a tunnel with a task of its own, which ends with the backend's side and then writes the record.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use smallvec::smallvec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::attempt::{Attempt, AttemptOutcome};
use super::exchange::Exchange;
use super::forward::{self, UsageEvent};
use super::pinned::Keeps;
use super::provenance::{self, Provenance};
use super::reject::Error;
use super::request_body::RequestBody;
use super::upload::{self, Cleaned, Late, Paced, Turn};
use super::{Answer, Received, address, decorate, headers, intake, narrow, relay, signature, translated};
use crate::backend::{Backend, BackendId, Credential, Timeouts};
use crate::decide::NoCandidate;
use crate::record::Ended;
use crate::upstream::{SendBody, SendError, SendErrorKind, UpstreamResponse};
use crate::wire::azure;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::{Message, RequestHead, ResponseHead};
use crate::wire::query::without_credentials;

/// Sends the request as it comes to `home`, or whoever keeps what it is about.
pub(super) async fn stream(request: &mut Received, home: BackendId, x: &mut Exchange) -> Result<Answer, Error> {
    let snapshot = Arc::clone(&x.snapshot);
    let backend = Arc::clone(snapshot.plan.backend(home));
    // Whatever lives at home, a place that is not allowed is not traded for it.
    if !x.may_serve(home) {
        let why = NoCandidate::AllExcluded { no_capacity: 0, outside_residency: 1 };
        let refusal = narrow::left_nobody(x, std::iter::once(home));
        return Err(refusal.unwrap_or(Error::NoCandidate { why, after: super::SOON }));
    }
    if !backend.dialect.is_kin_of(x.dialect()) {
        return Err(Error::Untranslatable(Box::new(translated::no_such_call(x))));
    }
    let live = Arc::clone(snapshot.live(home));
    let below = below(request, &backend, x);
    let asked = upgrade_asked(&request.head.fields);
    let client_side = request.upgrade.take().filter(|_| asked.is_some());

    let provenance = x.client.filter(|_| backend.forward_client).map(|client| Provenance::of(&request.head, client));
    let mut fields = std::mem::take(&mut request.head.fields);
    let credential = fields.value(headers::credential_field(x.dialect()));
    if x.keeps == Keeps::Things && asked.is_none() {
        headers::clean_to_read(&mut fields, &snapshot.plan.credential_fields);
    } else {
        headers::clean(&mut fields, &snapshot.plan.credential_fields);
    }
    provenance::mark(&mut fields, request.head.version, x.id, &x.shared.pseudonym)?;
    headers::addressed(&mut fields, &backend, credential.as_ref(), provenance.as_ref());
    x.tell_id(Name::XRequestId, &mut fields);
    headers::strip_protocol_key(&mut fields);
    if let Some(protocol) = asked {
        fields.set_text(Name::Connection, "upgrade");
        fields.set(Name::Upgrade, &protocol);
    }
    let turn = Turn::new(Instant::now());
    let body = content(request.body.take(), &backend, &turn, x).await?;
    // What is still coming is counted on its way.
    x.request_bytes = body.pieces().iter().map(|piece| piece.len() as u64).sum();
    let (method, target) = (request.head.method.clone(), address::target(&backend.origin.base_path, &below)?);
    let mut outgoing = Message { head: RequestHead { method, target, fields, ..RequestHead::default() }, body };
    signature::sign(&mut outgoing, &backend, &x.snapshot, || x.shared.clock.wall())?;
    let outgoing = Request::from(outgoing);
    x.upload = outgoing.body().is_stream().then(|| Arc::clone(&turn));

    x.permit = Some(live.admit(0));
    x.serving = Some((Arc::clone(&backend), None));
    let begun = x.shared.clock.monotonic();
    x.overhead_us = u64::try_from((begun - x.begun).as_micros()).unwrap_or(u64::MAX);
    x.attempts.push(Attempt { backend: home, outcome: AttemptOutcome::Abandoned, status: None, begun, ended: begun });
    let whole = Instant::now() + (x.begun + backend.timeouts.total).saturating_duration_since(begun);
    let sending = x.shared.upstreams.send(&backend, outgoing);
    let sent = upload::in_time(sending, &turn, backend.timeouts.first_byte, whole).await;
    let result = booked(sent, &backend, x);
    // What was collected has been sent, and nothing is sent twice here.
    x.release_body();
    let mut response = result?;
    if response.head.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Backend(response, UsageEvent::Keep));
    }
    match (client_side, response.upgrade.take()) {
        (Some(client), Some(upstream)) => Ok(Answer::Tunnel(switching(&response.head, x), Tunnel { client, upstream })),
        _ => Err(Error::BadGateway),
    }
}

/// The request's body as the backend gets it: as it comes, unless it is there as a whole or has to be.
async fn content(body: Option<RequestBody>, backend: &Backend, turn: &Arc<Turn>, x: &mut Exchange) -> Result<SendBody, Error> {
    let snapshot = Arc::clone(&x.snapshot);
    let limits = snapshot.plan.limits;
    let clean = move |frame| headers::cleaned_frame(frame, &snapshot.plan.credential_fields);
    if body.as_ref().is_some_and(|body| body.size_hint().lower() > limits.upload) {
        return Err(Error::TooLarge { limit: limits.upload });
    }
    Ok(match body {
        Some(body @ (RequestBody::Incoming(_) | RequestBody::Fed(_))) if matches!(backend.credential, Credential::SigV4(_)) => {
            // Its signature covers all of it, and so it is collected first.
            let chunks = intake::collect(body, |_| {}, x).await?;
            SendBody::chunks(chunks.into_iter().collect())
        }
        None => SendBody::empty(),
        Some(RequestBody::Whole(bytes)) => SendBody::chunks(smallvec![bytes]),
        Some(body) => SendBody::stream(Cleaned { body: Paced::new(body, &limits, turn), clean }),
    })
}

/// The path below the route's prefix, with the query that the backend is to see.
fn below(request: &Received, backend: &Backend, x: &Exchange) -> String {
    let path = request.head.target.path_and_query().map_or("/", |path| path.as_str());
    let prefix = x.route().map_or(0, |route| route.prefix.len());
    let below = path.get(prefix..).unwrap_or_default();
    let bare = if backend.credential == Credential::PassThrough { None } else { without_credentials(below) };
    let below = bare.unwrap_or_else(|| below.to_owned());
    match (&backend.api_version, below.split_once('?')) {
        (None, _) => below,
        (Some(version), None) => azure::versioned(below, None, Some(version)),
        (Some(version), Some((path, query))) => azure::versioned(path.to_owned(), Some(query), Some(version)),
    }
}

/// Books how the attempt went, for the record and for the backend's health.
fn booked(
    sent: Result<Result<Box<UpstreamResponse>, SendError>, Late>,
    backend: &Backend,
    x: &mut Exchange,
) -> Result<Box<UpstreamResponse>, Error> {
    let (now, live) = (x.shared.clock.monotonic(), Arc::clone(x.snapshot.live(backend.id)));
    let mut its_fault = true;
    let (outcome, result) = match sent {
        Ok(Ok(response)) if forward::refuses_credential(response.head.status, backend) => {
            // Calls of any kind come this way, and a key that may not make one of them is still good for the others.
            forward::note_credential(x, backend, response.head.status, None);
            (AttemptOutcome::Refused, Err(Error::CredentialRefused))
        }
        Ok(Ok(response)) => {
            forward::note_full(&live, &response.head, now);
            (AttemptOutcome::Answered, Ok(response))
        }
        Ok(Err(error)) => {
            its_fault = forward::is_its_fault(error.kind);
            tracing::warn!(backend = &*backend.name, id = ?x.id, kind = %error, cause = %error.source, "attempt failed");
            match error.kind {
                SendErrorKind::RequestBody => {
                    (AttemptOutcome::Abandoned, Err(x.upload.as_ref().map_or(Error::BodyBroken, |turn| turn.why_failed())))
                }
                kind if kind.nothing_done() => (AttemptOutcome::Unreachable, Err(forward::fault_of(kind))),
                kind => (AttemptOutcome::Broken, Err(forward::fault_of(kind))),
            }
        }
        Err(late) => {
            // Of an upload that went on all that time it may only be large.
            its_fault = late == Late::Backend || x.upload.is_none();
            (AttemptOutcome::TimedOut, Err(Error::UpstreamTimeout))
        }
    };
    if its_fault && matches!(outcome, AttemptOutcome::Unreachable | AttemptOutcome::Broken | AttemptOutcome::TimedOut) {
        // Nobody else could serve this call, and health is also about those that others could.
        live.failed(now, || x.remedy(backend.id, now));
    }
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.outcome = outcome;
        attempt.ended = now;
        attempt.status = result.as_ref().ok().map(|response| response.head.status);
    }
    result
}

/// The protocol that the client asks to switch to. Only `websocket` is one: through `h2c`, for one, requests would pass to the
/// backend that nobody routes, strips of credentials or records.
fn upgrade_asked(fields: &Fields) -> Option<HeaderValue> {
    let mut options = fields.texts(Name::Connection).flat_map(|value| value.split(','));
    let named = options.any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    fields.value(Name::Upgrade).filter(|protocol| named && protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The 101 to send.
fn switching(head: &ResponseHead, x: &mut Exchange) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = head.fields.value(Name::Upgrade);
    let mut fields = head.fields.clone();
    headers::strip_hop_by_hop(&mut fields, false);
    fields.set_text(Name::Connection, "upgrade");
    if let Some(protocol) = protocol {
        fields.set(Name::Upgrade, &protocol);
    }
    decorate(&mut fields, head.version, x);
    *response.headers_mut() = fields.to_map();
    x.status = StatusCode::SWITCHING_PROTOCOLS;

    response
}

/// Both sides of a connection that changed its protocol.
pub(super) struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
}

impl Tunnel {
    /// Carries bytes both ways, in a task of its own, once the 101 is out.
    pub(super) fn run(self, mut x: Box<Exchange>) {
        let tasks = x.shared.tasks.clone();
        tasks.spawn(async move {
            let Ok((client, upstream)) = tokio::try_join!(self.client, self.upstream) else { return };
            let (client_reads, client_writes) = tokio::io::split(TokioIo::new(client));
            let (upstream_reads, upstream_writes) = tokio::io::split(TokioIo::new(upstream));
            let idle = x.serving.as_ref().map_or(Timeouts::default().idle, |(backend, _)| backend.timeouts.idle);
            let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
            let upwards = carry((client_reads, Side::Client), (upstream_writes, Side::Backend), &up);
            let downwards = carry((upstream_reads, Side::Backend), (client_writes, Side::Client), &down);
            let carried = || up.load(Relaxed) + down.load(Relaxed);
            x.ended = tokio::select! {
                ended = until_upstream_ends(upwards, downwards) => match ended {
                    Ok(()) => Ended::Complete,
                    // Clients leave a realtime session as they like, by a reset or without a goodbye under TLS.
                    Err(Side::Client) => Ended::ClientGone,
                    Err(Side::Backend) => Ended::UpstreamBroke,
                },
                () = until_idle(idle, carried) => {
                    x.error = Some(relay::SILENT);
                    Ended::TimedOut
                }
            };
            x.request_bytes = up.load(Relaxed);
            x.response_bytes = down.load(Relaxed);
        });
    }
}

/// Who broke a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

/// Bytes from one side to the other until the first ends, counted as they go; an error says whose connection broke.
async fn carry(
    (from, from_side): (impl AsyncRead + Unpin, Side),
    (mut to, to_side): (impl AsyncWrite + Unpin, Side),
    count: &AtomicU64,
) -> Result<(), Side> {
    let reading = AtomicBool::new(false);
    let mut from = Counted { from, count, failed: &reading };
    let copied = tokio::io::copy(&mut from, &mut to).await;
    let side = |_| if reading.load(Relaxed) { from_side } else { to_side };
    copied.map_err(side)?;
    to.shutdown().await.map_err(|_| to_side)
}

/// Counts what is read, and notes that reading failed: `copy` does not say which of its two ends did.
struct Counted<'a, R> {
    from: R,
    count: &'a AtomicU64,
    failed: &'a AtomicBool,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<'_, R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.from).poll_read(cx, buffer));
        self.count.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        self.failed.store(read.is_err(), Relaxed);
        Poll::Ready(read)
    }
}

/// A client that has said everything may still listen; once the backend has, there is nobody left to talk to.
async fn until_upstream_ends(
    upwards: impl Future<Output = Result<(), Side>>,
    downwards: impl Future<Output = Result<(), Side>>,
) -> Result<(), Side> {
    let (mut upwards, mut downwards) = (pin!(upwards), pin!(downwards));
    tokio::select! {
        ended = &mut downwards => ended,
        ended = &mut upwards => match ended {
            Ok(()) => downwards.await,
            Err(side) => Err(side),
        },
    }
}

/// Ends when nothing was carried either way for `idle`: a peer that vanished without a word would hold its backend for ever.
async fn until_idle(idle: Duration, carried: impl Fn() -> u64) {
    loop {
        let before = carried();
        tokio::time::sleep(idle).await;
        if carried() == before {
            return;
        }
    }
}
