//! Sends a request to the candidates of its decision, in their order, until one answers.
//!
//! The rule for sending again is short: to the next candidate when nothing was sent, or when the backend refused the work (429,
//! 503); never after a whole body was sent and not refused, unless the policy says so, because the work may then be done and paid
//! for twice; never to the same backend twice; never once a byte of a response was passed on; and over all traffic no more often than
//! the budget allows ([`crate::live::RetryBudget`]), or retries would multiply an outage. Every attempt is in the record.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use smallvec::SmallVec;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::exchange::{Attempt, AttemptOutcome, Exchange};
use super::headers;
use super::provenance::Provenance;
use super::reject::Error;
use crate::backend::{Backend, Credential};
use crate::live::Live;
use crate::upstream::{SendBody, SendError, SendErrorKind, UpstreamResponse};
use crate::wire::refusal::{outranks, refuses, retry_after};
use crate::wire::splice;

/// A request as it is kept for as many attempts as it may take.
pub(super) struct Outgoing {
    /// The client's fields that every backend may see, with what the backend that is tried now sees besides.
    pub(super) headers: HeaderMap,
    /// The client's credential, for a backend that passes it through.
    pub(super) credential: Option<HeaderValue>,
    /// Who the client is, for a backend that is to know it.
    pub(super) provenance: Option<Provenance>,
    /// The path below the route's prefix, with the query.
    pub(super) below: Box<str>,
    /// The same without the client's credentials, where its query has any.
    pub(super) bare: Option<Box<str>>,
    /// What is collected of the body.
    pub(super) intake: super::intake::Intake,
}

/// Whether the usage event that was asked for has to be taken out of the stream again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageEvent {
    /// It was spliced in for a client that did not ask.
    Strip,
    /// The client gets what comes.
    Keep,
}

/// Tries the candidates in their order. The response that is returned is the one to pass on, whatever its status.
pub(super) async fn attempts(outgoing: &mut Outgoing, x: &mut Exchange) -> Result<(UpstreamResponse, UsageEvent), Error> {
    let Some(policy) = x.policy().map(Arc::clone) else { return Err(Error::NoRoute) };
    let order: SmallVec<[u16; 16]> = x.decision.as_ref().map(|decision| decision.order.clone()).unwrap_or_default();
    let (mut fault, mut refusal) = (Error::Unreachable, None);
    let limit = usize::from(policy.attempts.max.max(1));
    for (nth, &index) in order.iter().take(limit).enumerate() {
        let last = nth + 1 >= limit.min(order.len());
        let Some(deployment) = x.deployments.as_ref().and_then(|all| all.get(usize::from(index))).cloned() else { continue };
        let backend = Arc::clone(x.snapshot.plan.backend(deployment.backend));
        let live = Arc::clone(x.snapshot.live(backend.id));
        occupy(x, &backend, &live, usize::from(index));
        let (request, usage_event) = addressed(outgoing, x, &backend, deployment.upstream_model_json.as_ref(), last)?;
        let begun = x.shared.clock.monotonic();
        let Some(within) = in_time(x, &backend, begun) else {
            fault = Error::UpstreamTimeout;
            break;
        };
        open(x, &backend, nth, begun);
        let sent = send(x, &backend, request, within).await;
        let now = x.shared.clock.monotonic();
        match sent {
            Ok(Ok(response)) if refuses(response.head.status) => {
                note_refusal(&live, &backend, &response.head, now);
                close(x, AttemptOutcome::Refused, Some(response.head.status), now);
                keep_refusal(&mut refusal, response, x);
            }
            Ok(Ok(response)) if failed(response.head.status) => {
                live.failed(now, || x.remedy(backend.id, now));
                close(x, AttemptOutcome::Answered, Some(response.head.status), now);
                if last || !policy.attempts.retry_unsafe || !may_retry(x, now) {
                    return Ok((response, UsageEvent::Keep));
                }
                continue;
            }
            Ok(Ok(response)) => {
                close(x, AttemptOutcome::Answered, Some(response.head.status), now);
                return Ok((response, usage_event));
            }
            Ok(Err(error)) => {
                if is_its_fault(error.kind) {
                    live.failed(now, || x.remedy(backend.id, now));
                }
                let nothing_done = note_error(x, &backend, &error, now);
                fault = fault_of(error.kind);
                if !nothing_done && !policy.attempts.retry_unsafe {
                    return Err(fault);
                }
            }
            Err(_) => {
                live.failed(now, || x.remedy(backend.id, now));
                close(x, AttemptOutcome::TimedOut, None, now);
                fault = Error::UpstreamTimeout;
                if !policy.attempts.retry_unsafe {
                    return Err(fault);
                }
            }
        }
        if !last && !may_retry(x, now) {
            break;
        }
    }
    x.permit = None;
    // A client that is told to come back later knows more than one that is told that somebody could not be reached.
    let Some(refusal) = refusal else {
        x.serving = None;
        return Err(fault);
    };
    let (response, serving) = *refusal;
    x.serving = serving;
    Ok((response, UsageEvent::Keep))
}

/// Sends and waits for the head, within a time.
async fn send(
    x: &Exchange,
    backend: &Arc<Backend>,
    request: Box<Request<SendBody>>,
    within: Duration,
) -> Result<Result<UpstreamResponse, SendError>, Elapsed> {
    // Pinned, since by value it would be copied into the timeout, and with that into the wait for it.
    let sending = pin!(x.shared.upstreams.send(backend, request));
    timeout(within, sending).await
}

/// Takes a place at the backend that is tried next.
fn occupy(x: &mut Exchange, backend: &Arc<Backend>, live: &Arc<Live>, index: usize) {
    let prompt_tokens = x.candidates.get(index).map_or(0, |candidate| candidate.estimate.prompt_tokens);
    x.permit = Some(live.admit(prompt_tokens));
    x.serving = Some((Arc::clone(backend), Some(index)));
}

/// The request as this backend is to get it: only the bytes that must differ do. The last one gets the fields themselves.
fn addressed(
    outgoing: &mut Outgoing,
    x: &Exchange,
    backend: &Backend,
    upstream_model_json: Option<&Bytes>,
    last: bool,
) -> Result<(Box<Request<SendBody>>, UsageEvent), Error> {
    use crate::backend::UsageMode;
    use crate::wire::stream_options::StreamOptions;

    let fields = &outgoing.intake.fields;
    let inject = x.streamed
        && backend.usage == UsageMode::Inject
        && x.operation.is_some_and(crate::wire::Operation::usage_needs_asking)
        && matches!(fields.stream_options, StreamOptions::Absent | StreamOptions::NotAsked { .. });
    let edits = splice::edits(fields, upstream_model_json, inject);
    let body = SendBody::chunks(splice::apply(&outgoing.intake.chunks, &edits));
    let mut request = Box::new(Request::new(body));
    *request.method_mut() = x.method.clone();
    *request.uri_mut() = match (&outgoing.bare, x.route()) {
        (Some(bare), _) if backend.credential != Credential::PassThrough => target(backend, bare)?,
        // As the usual SDK and the usual backend have it: then it is the client's own target.
        (_, Some(route)) if route.prefix == backend.origin.base_path => Uri::from(x.path.clone()),
        _ => target(backend, &outgoing.below)?,
    };
    // Completed before they are copied: a copy has room for nothing more, and would be copied again.
    headers::addressed(&mut outgoing.headers, backend, outgoing.credential.as_ref(), outgoing.provenance.as_ref());
    outgoing.headers.insert(headers::REQUEST_ID, x.request_id().clone());
    *request.headers_mut() = if last { std::mem::take(&mut outgoing.headers) } else { outgoing.headers.clone() };
    headers::unaddressed(&mut outgoing.headers, backend);
    Ok((request, if inject { UsageEvent::Strip } else { UsageEvent::Keep }))
}

/// The target in origin form: the backend's base path where the route's prefix was.
pub(super) fn target(backend: &Backend, below: &str) -> Result<Uri, Error> {
    let mut path = String::with_capacity(backend.origin.base_path.len() + below.len() + 1);
    path.push_str(&backend.origin.base_path);
    path.push_str(below);
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    Uri::try_from(path).map_err(|_| Error::BadTarget("the path cannot be forwarded"))
}

/// Begins the books of an attempt.
fn open(x: &mut Exchange, backend: &Backend, nth: usize, begun: Instant) {
    if nth == 0 {
        x.overhead_us = u64::try_from((begun - x.begun).as_micros()).unwrap_or(u64::MAX);
        x.shared.retries.asked(begun);
    }
    // Until it is known better, so that a client that leaves now leaves an attempt behind.
    x.attempts.push(Attempt { backend: backend.id, outcome: AttemptOutcome::Abandoned, status: None, begun, ended: begun });
}

fn close(x: &mut Exchange, outcome: AttemptOutcome, status: Option<StatusCode>, now: Instant) {
    if let Some(attempt) = x.attempts.last_mut() {
        attempt.outcome = outcome;
        attempt.status = status;
        attempt.ended = now;
    }
}

/// Whether one more attempt is within the budget, which it then counts in.
fn may_retry(x: &Exchange, now: Instant) -> bool {
    let metrics = &x.shared.metrics;
    let granted = x.shared.retries.spend(x.snapshot.plan.limits.retries, now);
    if granted { &metrics.retries } else { &metrics.retries_withheld }.add_one();
    granted
}

/// How long the attempt that begins now may take; none begins once the exchange has had its time.
fn in_time(x: &Exchange, backend: &Backend, now: Instant) -> Option<Duration> {
    Some(x.first_byte_within(backend, now)).filter(|left| !left.is_zero())
}

/// Books an attempt that ended without a response head, and says whether it is certain that the backend has done nothing.
fn note_error(x: &mut Exchange, backend: &Backend, error: &SendError, now: Instant) -> bool {
    tracing::warn!(backend = &*backend.name, id = ?x.id, kind = %error, cause = %error.source, "attempt failed");
    let nothing_done = error.kind.nothing_done();
    close(x, if nothing_done { AttemptOutcome::Unreachable } else { AttemptOutcome::Broken }, None, now);
    nothing_done
}

/// A refusal, and whose it is. Boxed, because it is rare, and every future that waits for an attempt has room for one.
type Refusal = (UpstreamResponse, Option<(Arc<Backend>, Option<usize>)>);

/// Keeps the refusal that the client is to see if nobody does the work.
fn keep_refusal(kept: &mut Option<Box<Refusal>>, refusal: UpstreamResponse, x: &Exchange) {
    if outranks(refusal.head.status, kept.as_ref().map(|kept| kept.0.head.status)) {
        *kept = Some(Box::new((refusal, x.serving.clone())));
    }
}

/// A refusal counts for everybody, but for one: a client's own key may be spent without the backend being full for the others.
pub(super) fn note_refusal(live: &Live, backend: &Backend, head: &http::response::Parts, now: Instant) {
    if head.status != StatusCode::TOO_MANY_REQUESTS || backend.credential != Credential::PassThrough {
        live.refused(now, retry_after(&head.headers));
    }
}

/// What the client is told when that was the last attempt.
pub(super) fn fault_of(kind: SendErrorKind) -> Error {
    match kind {
        SendErrorKind::Exhausted => Error::Busy,
        kind if kind.nothing_done() => Error::Unreachable,
        _ => Error::BadGateway,
    }
}

/// Of a machine without descriptors or ports every backend looks dead, and none of them is.
pub(super) fn is_its_fault(kind: SendErrorKind) -> bool {
    kind != SendErrorKind::Exhausted
}

/// The backend, not the request, is at fault.
fn failed(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
