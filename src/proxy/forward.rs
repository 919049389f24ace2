//! Sends a request to the candidates of its decision until one answers: first the chosen one, and after it whom [`crate::decide::next`]
//! names.
//!
//! The rule for sending again is short: to the next candidate when nothing was sent, or when the backend refused the work (429,
//! 503, 529) or the gateway's own credential (401, 403); never after a whole body was sent and not refused, unless the policy says so,
//! because the work may then be done and paid
//! for twice; never to the same backend twice; never once a byte of a response was passed on; and over all traffic no more often than
//! the budget allows ([`crate::live::RetryBudget`]), or retries would multiply an outage. Every attempt is in the record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::Shared;
use super::address::address;
use super::attempt::{Attempt, AttemptOutcome};
use super::exchange::Exchange;
use super::hedge::{self, Race};
use super::intake::Intake;
use super::provenance::Provenance;
use super::reject::Error;
use super::translated;
use super::tries::Tries;
use crate::backend::{Backend, Credential};
use crate::decide::{self, Standing};
use crate::dialect::Dialect;
use crate::live::{Live, Sent, Wanted};
use crate::policy::Policy;
use crate::units::Millis;
use crate::upstream::{SendBody, SendError, SendErrorKind, TimedOut, UpstreamResponse};
use crate::wire::Operation;
use crate::wire::allowance::allowances;
use crate::wire::fields::Fields;
use crate::wire::message::{Message, RequestHead, ResponseHead};
use crate::wire::query::without_credentials;
use crate::wire::refusal::{refuses, retry_after};
use crate::wire::translate::status_of;

/// A request as it is kept for as many attempts as it may take.
pub(super) struct Outgoing<'i> {
    /// The client's fields that every backend may see, with all that the backend that is tried now sees besides.
    pub(super) request: Message<RequestHead, SendBody>,
    /// These fields as they were before the last attempt, where that is at a backend of another dialect.
    pub(super) native: Option<Fields>,
    /// Whose own the last attempt's fields are.
    pub(super) addressed_to: Option<Arc<Backend>>,
    /// The client's credential, for a backend that passes it through.
    pub(super) credential: Option<HeaderValue>,
    /// Who the client is, for a backend that is to know it.
    pub(super) provenance: Option<Provenance>,
    /// The path below the route's prefix, with the query.
    pub(super) below: Box<str>,
    /// The same without credentials in the query, where there are some.
    pub(super) bare: Option<Box<str>>,
    /// What is collected of the body. It stays where it was read.
    pub(super) intake: &'i Intake,
}

impl<'i> Outgoing<'i> {
    /// Of a client's cleaned fields, and what else an attempt takes.
    pub(super) fn new(
        fields: Fields,
        credential: Option<HeaderValue>,
        provenance: Option<Provenance>,
        below: Box<str>,
        intake: &'i Intake,
    ) -> Self {
        let head = RequestHead { fields, ..RequestHead::default() };
        let request = Message { head, body: SendBody::empty() };
        let bare = without_credentials(&below).map(Into::into);
        Self { request, native: None, addressed_to: None, credential, provenance, below, bare, intake }
    }
}

/// Whether the usage that was asked for has to be taken out of the stream again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageEvent {
    /// Its event was asked for, for a client that did not.
    Strip,
    /// So was what each event says of it.
    StripEach,
    /// The client gets what comes.
    Keep,
}

/// Somebody who is asked.
pub(super) struct Asked {
    /// The candidate's place.
    pub(super) index: usize,
    pub(super) backend: Arc<Backend>,
    live: Arc<Live>,
    /// How long its head may take.
    pub(super) within: Duration,
    usage_event: UsageEvent,
    /// How much of what it says is left had been sent.
    sent: Sent,
}

/// What came of an attempt.
pub(super) enum Outcome {
    /// The answer to pass on.
    Answer(Box<UpstreamResponse>, UsageEvent),
    /// It is certain that nothing was done.
    Undone,
    /// It failed, and the work may have been done; what it said, if it said anything.
    Failed(Option<Box<UpstreamResponse>>),
}

/// What came of sending: the inner error is the connection's, the outer one says that no head came in time.
pub(super) type Came = Result<Result<Box<UpstreamResponse>, SendError>, TimedOut>;

/// Candidates that were not tried yet, in the order of the decision.
pub(super) type Waiting = SmallVec<[u16; 16]>;

/// Tries the candidates one after another. The response that is returned is the one to pass on, whatever its status.
pub(super) async fn attempts(
    outgoing: &mut Outgoing<'_>,
    x: &mut Exchange,
) -> Result<(Box<UpstreamResponse>, UsageEvent), Error> {
    let Some(policy) = x.policy().map(Arc::clone) else { return Err(Error::NoRoute) };
    let mut waiting = to_be_tried(x);
    let mut tries = Tries::new();
    while let Some(index) = next(x, &policy, &mut waiting) {
        occupy(x, index);
        let asked = match begin(outgoing, x, index) {
            Ok(Some(asked)) => asked,
            Ok(None) => {
                tries.fault = Error::UpstreamTimeout;
                break;
            }
            // Nothing was sent, so that whoever comes next is not asked again.
            Err(error @ Error::NoToken) => {
                tries.came_to_nothing(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let (asked, sent) = match hedge::second(&policy, x, &asked, &waiting) {
            None => {
                let sent = send(&x.shared, &asked.backend, &outgoing.request, asked.within).await;
                (asked, sent)
            }
            Some(second) => {
                let (policy, waiting, tries) = (&policy, &mut waiting, &mut tries);
                // Boxed, because every future that waits for an attempt would have room for a second one.
                Box::pin(hedge::race(Race { asked, second, policy, waiting, tries }, outgoing, x)).await
            }
        };
        let now = x.shared.clock.monotonic();
        let outcome = book(&mut tries, x, &asked, sent, now);
        let may_go_on = match &outcome {
            Outcome::Answer(..) => false,
            Outcome::Undone => policy.attempts.retry_unsafe || !tries.done,
            Outcome::Failed(_) => policy.attempts.retry_unsafe,
        };
        if may_go_on && is_anybody_left(x, &policy, &waiting) && may_retry(x, now) {
            continue;
        }
        match outcome {
            Outcome::Answer(response, usage_event) => return Ok((response, usage_event)),
            Outcome::Failed(Some(response)) => return Ok((response, UsageEvent::Keep)),
            Outcome::Failed(None) if !may_go_on => return Err(tries.fault),
            Outcome::Failed(None) | Outcome::Undone => break,
        }
    }
    x.permit = None;
    // A client that is told to come back later knows more than one that is told that somebody could not be reached. But where the work
    // may be done, a refusal would say that it is not, and the client's SDK would have it done again.
    let Some(refusal) = tries.refusal.filter(|_| !tries.done) else {
        x.serving = None;
        return Err(tries.fault);
    };
    let (response, serving) = *refusal;
    x.serving = serving;
    Ok((response, UsageEvent::Keep))
}

/// More than these wait for nothing: no policy asks as many about one request.
const MOST_WAITING: usize = 16;

/// Those who may be asked, in the decision's order: without those who have no token to be sent, if anybody else can be asked. Also one that
/// was ejected may answer, and an answer of somebody is not given up for the sake of one who cannot be asked.
fn to_be_tried(x: &Exchange) -> Waiting {
    let order = x.decision.as_ref().map_or(&[][..], |decision| &decision.order);
    let can_be_asked = |index: u16| {
        // Nobody else is without one.
        let candidate = x.candidates.get(usize::from(index)).filter(|candidate| candidate.standing == Standing::Ejected);
        let token = candidate.and_then(|candidate| x.snapshot.token(candidate.backend));
        token.is_none_or(|token| token.is_good(x.wall))
    };
    let anybody = order.iter().any(|index| can_be_asked(*index));
    order.iter().copied().filter(|index| !anybody || can_be_asked(*index)).take(MOST_WAITING).collect()
}

/// Whether somebody else may be asked: there is one, and not as many were as may see one request.
pub(super) fn is_anybody_left(x: &Exchange, policy: &Policy, waiting: &Waiting) -> bool {
    !waiting.is_empty() && x.attempts.len() < usize::from(policy.attempts.max.max(1))
}

/// Takes whoever is asked now from among those who wait: at first whom the decision chose, and then by what is left of the budget.
fn next(x: &Exchange, policy: &Policy, waiting: &mut Waiting) -> Option<usize> {
    if !is_anybody_left(x, policy, waiting) {
        return None;
    }
    let spent = || Millis::from(x.shared.clock.monotonic() - x.begun);
    let again = || decide::next(policy, x.streamed, &x.candidates, waiting, spent());
    let place = if x.attempts.is_empty() { 0 } else { again()? };
    Some(usize::from(waiting.remove(place)))
}

/// Takes a place at the backend that is tried next.
fn occupy(x: &mut Exchange, index: usize) {
    let Some(candidate) = x.candidates.get(index) else { return };
    let (id, to_read) = (candidate.backend, candidate.estimate.tokens_to_read());
    x.permit = Some(x.snapshot.live(id).admit(to_read));
    x.serving = Some((Arc::clone(x.snapshot.plan.backend(id)), Some(index)));
}

/// Begins an attempt at a candidate: addresses the request to it, and opens its books. `None` when there is no time left for it.
pub(super) fn begin(outgoing: &mut Outgoing<'_>, x: &mut Exchange, index: usize) -> Result<Option<Asked>, Error> {
    let Some(deployment) = x.deployments.as_ref().and_then(|all| all.get(index)).cloned() else {
        return Err(Error::UnknownModel);
    };
    let backend = Arc::clone(x.snapshot.plan.backend(deployment.backend));
    let live = Arc::clone(x.snapshot.live(backend.id));
    let usage_event = address(outgoing, x, &backend, &deployment)?;
    let begun = x.shared.clock.monotonic();
    let Some(within) = in_time(x, &backend, begun) else { return Ok(None) };
    open(x, &backend, begun);
    let wanted = || Some(wanted(x, index)).filter(|_| !x.operation.is_some_and(Operation::runs_no_model));
    let sent = live.sends(&deployment.model, wanted);
    Ok(Some(Asked { index, backend, live, within, usage_event, sent }))
}

/// Books what came of an attempt, the last one in the exchange's list.
pub(super) fn book(tries: &mut Tries, x: &mut Exchange, asked: &Asked, sent: Came, now: Instant) -> Outcome {
    let Asked { backend, live, .. } = asked;
    let failed = |x: &Exchange| live.failed(now, || x.remedy(backend.id, now));
    match sent {
        Ok(Ok(response)) => book_response(tries, x, asked, response, now),
        Ok(Err(error)) => {
            if is_its_fault(error.kind) {
                failed(x);
            }
            let nothing_done = note_error(x, backend, &error, now);
            if nothing_done {
                give_back(x, asked);
                tries.came_to_nothing(fault_of(error.kind));
                return Outcome::Undone;
            }
            tries.may_be_done(fault_of(error.kind));
            Outcome::Failed(None)
        }
        Err(_) => {
            failed(x);
            close(x, AttemptOutcome::TimedOut, None, now);
            tries.may_be_done(Error::UpstreamTimeout);
            Outcome::Failed(None)
        }
    }
}

fn book_response(tries: &mut Tries, x: &mut Exchange, asked: &Asked, response: Box<UpstreamResponse>, now: Instant) -> Outcome {
    let Asked { backend, live, usage_event, .. } = asked;
    let status = response.head.status;
    let said = note_allowance(x, asked, &response.head, now);
    if !status.is_success() {
        // Whoever refuses a request or finds fault with it has not taken it, unless it says what is left after it.
        if !said && (status.is_client_error() || refuses(status)) {
            give_back(x, asked);
        }
        note_id(x, backend, &response.head);
    }
    if refuses(status) {
        note_refusal(x, asked, &response.head, now);
        close(x, AttemptOutcome::Refused, Some(status), now);
        tries.refused(response, x);
        return Outcome::Undone;
    }
    if refuses_credential(status, backend) {
        // A supplier that forbids one model says nothing of the next request; one that does not know the key does.
        note_credential(x, backend, status, Some(now).filter(|_| status == StatusCode::UNAUTHORIZED));
        close(x, AttemptOutcome::Refused, Some(status), now);
        tries.came_to_nothing(Error::CredentialRefused);
        return Outcome::Undone;
    }
    if let Some(why) = translated::unreadable(&response.head, x, asked.index) {
        // Known before a byte went to the client, who is told so as of any answer that is none.
        tracing::warn!(backend = &*backend.name, id = ?x.id, %why, "an answer cannot be translated");
        live.failed(now, || x.remedy(backend.id, now));
        note_id(x, backend, &response.head);
        close(x, AttemptOutcome::Broken, Some(status), now);
        tries.may_be_done(Error::BadGateway);
        return Outcome::Failed(None);
    }
    close(x, AttemptOutcome::Answered, Some(status), now);
    if failed(judged(status, backend)) {
        live.failed(now, || x.remedy(backend.id, now));
        // Of its answer this much is left if somebody else is asked.
        tries.may_be_done(Error::BadGateway);
        return Outcome::Failed(Some(response));
    }
    Outcome::Answer(response, *usage_event)
}

/// Whether what came is an answer that the client is to get, and no error, failure or refusal.
pub(super) fn is_answer(sent: &Came, asked: &Asked, x: &Exchange) -> bool {
    let Ok(Ok(response)) = sent else { return false };
    let (status, backend) = (response.head.status, &*asked.backend);
    let fine = !refuses(status) && !refuses_credential(status, backend) && !failed(judged(status, backend));
    fine && translated::unreadable(&response.head, x, asked.index).is_none()
}

/// Sends and waits for the head, within a time.
pub(super) async fn send(
    shared: &Shared,
    backend: &Arc<Backend>,
    request: &Message<RequestHead, SendBody>,
    within: Duration,
) -> Came {
    shared.upstreams.send_kept(backend, request, shared.clock.timer(within)).await
}

/// Begins the books of an attempt.
fn open(x: &mut Exchange, backend: &Backend, begun: Instant) {
    if x.attempts.is_empty() {
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

/// Keeps the id that an attempt was answered with, for whoever holds the log against the supplier's own, in case another follows.
fn note_id(x: &mut Exchange, backend: &Backend, head: &ResponseHead) {
    if let Some(id) = Exchange::provider_id(&head.fields).and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
        x.ids_before.push((backend.id, id));
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

/// A refusal counts for everybody, but for one: a client's own key may be spent without the backend being full for the others. 429 is
/// about the quota of a model, and 503 and 529 are about the backend. To count tokens has a limit of its own, apart from that of the
/// model (Anthropic's "Token counting" says so), and whoever has used it up may still be answered.
fn note_refusal(x: &Exchange, asked: &Asked, head: &ResponseHead, now: Instant) {
    let Asked { backend, live, .. } = asked;
    let whole = head.status != StatusCode::TOO_MANY_REQUESTS;
    if x.operation.is_some_and(Operation::runs_no_model) {
        note_full(live, head, now);
    } else if whole || backend.credential != Credential::PassThrough {
        live.refused(model_of(x, asked), whole, now, retry_after(&head.fields));
    }
}

/// The same of a refusal that came within an answer, when the status had long been 200.
pub(super) fn note_full_within(x: &Exchange, backend: &Backend, whole: bool, now: Instant) {
    let candidate = x.serving.as_ref().and_then(|(_, candidate)| *candidate);
    let deployment = candidate.and_then(|index| x.deployments.as_ref()?.get(index));
    if whole || backend.credential != Credential::PassThrough {
        let model = deployment.map_or("", |deployment| &deployment.model);
        x.snapshot.live(backend.id).refused(model, whole, now, None);
    }
}

/// What it says of how much more it will take is about whose credential was sent, and of the moment when it was asked. Whether it says
/// anything of what the request counts against: a call that runs no model has a limit of its own.
fn note_allowance(x: &Exchange, asked: &Asked, head: &ResponseHead, now: Instant) -> bool {
    let Asked { backend, live, .. } = asked;
    if backend.credential == Credential::PassThrough || x.operation.is_some_and(Operation::runs_no_model) {
        return false;
    }
    let begun = x.attempts.last().map_or(now, |attempt| attempt.begun);
    let wall_then = || {
        let wall = x.shared.clock.wall();
        wall.checked_sub(now - begun).unwrap_or(wall)
    };
    let Some(said) = allowances(&head.fields, backend.dialect, wall_then) else { return false };
    live.told(model_of(x, asked), &said, asked.sent, begun);
    true
}

/// The request was not taken, and counts against nothing.
fn give_back(x: &Exchange, asked: &Asked) {
    asked.live.give_back(model_of(x, asked), wanted(x, asked.index), asked.sent);
}

fn wanted(x: &Exchange, index: usize) -> Wanted {
    x.candidates.get(index).map(|candidate| candidate.estimate.wanted()).unwrap_or_default()
}

fn model_of<'x>(x: &'x Exchange, asked: &Asked) -> &'x str {
    x.deployments.as_ref().and_then(|all| all.get(asked.index)).map_or("", |deployment| &deployment.model)
}

/// The same of a call of another kind: files and batches have quotas of their own, and who has used one up may still be answered. What
/// is left is that the backend takes nothing at all; how many inferences it bears is not said.
pub(super) fn note_full(live: &Live, head: &ResponseHead, now: Instant) {
    if refuses(head.status) && head.status != StatusCode::TOO_MANY_REQUESTS {
        live.full(now, retry_after(&head.fields));
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

/// Whether a backend refuses what the gateway sent it as credential. Where that is the client's own, the answer is the client's too;
/// elsewhere its SDK would take its own key for wrong.
pub(super) fn refuses_credential(status: StatusCode, backend: &Backend) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && backend.credential != Credential::PassThrough
}

/// Only the operator can mend it, so it is said loudly. `now` where it counts as the backend's failure: one that lets nobody in is as
/// good as dead, and its candidates' share of what may be sent again would be spent on it. Where the client's choice may have been what
/// was forbidden it does not, or anybody could shut a backend.
pub(super) fn note_credential(x: &Exchange, backend: &Backend, status: StatusCode, now: Option<Instant>) {
    let sent = if backend.credential == Credential::None { "none is configured" } else { "see its `auth`" };
    tracing::error!(backend = &*backend.name, id = ?x.id, %status, "the backend refuses the gateway's own credential: {sent}");
    let live = x.snapshot.live(backend.id);
    live.refused_credential();
    // It may have been revoked, or have ended sooner than anybody said. AWS says so with 403.
    let may_have_ended = status == StatusCode::UNAUTHORIZED || matches!(backend.credential, Credential::SigV4(_));
    if let Some(token) = x.snapshot.token(backend.id).filter(|_| may_have_ended) {
        token.refused(x.shared.clock.monotonic());
    }
    if let Some(now) = now {
        live.failed(now, || x.remedy(backend.id, now));
    }
}

/// Of a machine without descriptors or ports every backend looks dead, and none of them is.
pub(super) fn is_its_fault(kind: SendErrorKind) -> bool {
    kind != SendErrorKind::Exhausted
}

/// The status that says to everybody what this one says of that backend: Bedrock has 424 and 408 for a model that failed or was late.
pub(super) fn judged(status: StatusCode, backend: &Backend) -> StatusCode {
    if backend.dialect == Dialect::Bedrock { status_of(status) } else { status }
}

/// The backend, not the request, is at fault.
fn failed(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
