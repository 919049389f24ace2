//! What is known so far about one request: the context that its phases fill in, typed, instead of a map of extensions.
//!
//! It is boxed once and travels with the exchange, at the end inside the response body; dropping it is what writes the record, so
//! no path can forget to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use smallvec::SmallVec;

use super::Shared;
use super::attempt::Attempt;
use super::id::Id;
use super::narrow::Narrowed;
use super::pinned::Keeps;
use super::pool::{Buffered, Claiming};
use super::provenance::Client;
use super::scratch::{Candidates, give_back};
use super::shadow::Shadowed;
use super::translated::Translated;
use super::upload::Turn;
use super::{account, headers};
use crate::affinity::Session;
use crate::backend::{Backend, BackendId};
use crate::decide::{Candidate, Decision, Standing};
use crate::dialect::Dialect;
use crate::estimate::Demand;
use crate::key::Key;
use crate::live::{Permit, Remedy};
use crate::policy::Policy;
use crate::record::Ended;
use crate::route::{Deployment, FlowId, Route};
use crate::state::{Lesson, Snapshot};
use crate::units::Millis;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::RequestHead;
use crate::wire::usage::{Clocked, Usage, UsageSource};
use crate::wire::{Operation, bedrock, gemini};

/// How sure it is that a key is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It was shown, or the request is signed with it.
    Shown,
    /// The request names it and is not yet known to be signed with it, so no record may say whose it is.
    Claimed,
}

/// What lay ready for so long, for a client that did not take it, does not show when it came: a thread that is busy with others does
/// not look for less ..
const HELD_UP: Duration = Duration::from_millis(20);
/// .. unless it is no more than this part of a time that is measured.
const HELD_UP_PART: u32 = 20;

/// Bytes of an id that somebody else made; the usual ones have 36.
pub(super) const MAX_ID: usize = 128;

/// One request and its response, as far as they have come.
pub struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) begun: Instant,
    pub(super) wall: Timestamp,
    /// Who is at the other end of the connection, where whoever embeds the proxy has said it.
    pub(super) client: Option<Client>,
    pub(super) id: Id,
    pub(super) client_request_id: Option<HeaderValue>,
    pub(super) provider_request_id: Option<HeaderValue>,
    /// Those of attempts that were answered and followed by another.
    pub(super) ids_before: Vec<(BackendId, HeaderValue)>,
    pub(super) method: Method,
    pub(super) path: http::uri::PathAndQuery,
    pub(super) http1: bool,
    /// The dialect whose clients alone send the version of theirs, if this one does.
    says_version: Option<Dialect>,
    /// Whether the client may be sent trailers: whoever writes the response sends what it is given.
    pub(super) takes_trailers: bool,
    pub(super) route: Option<usize>,
    /// The client's key, by its place in the plan.
    pub(super) key: Option<usize>,
    /// How sure it is that the key is the client's.
    pub(super) key_is: Proof,
    /// Its place among those that are not yet known to be signed as they claim.
    pub(super) claiming: Option<Claiming>,
    /// Its policy, where it asked for more than that.
    pub(super) narrowed: Option<Box<Narrowed>>,
    pub(super) operation: Option<Operation>,
    pub(super) model: Option<Box<str>>,
    pub(super) streamed: bool,
    pub(super) demand: Option<Demand>,
    /// The conversation that it is a turn of, under a policy that counts that.
    pub(super) session: Option<Session>,
    /// What is to be remembered of what its backend makes.
    pub(super) keeps: Keeps,
    /// Where a candidate speaks another dialect.
    pub(super) translated: Option<Box<Translated>>,
    pub(super) deployments: Option<Arc<[Deployment]>>,
    pub(super) candidates: Candidates,
    pub(super) decision: Option<Decision>,
    /// What the route's shadow would have decided.
    pub(super) shadow: Option<Box<Shadowed>>,
    /// The rotation's state that it was decided with.
    pub(super) turn: Option<u32>,
    /// From its arrival to the decision, by which its candidates were judged.
    pub(super) spent: Millis,
    /// The share of the places in time that was kept free of it when it was last held back, or was shed; 0 where it was neither.
    pub(super) reserve: f64,
    /// By which share of a limit it was let go beyond that.
    pub(super) strain: f64,
    /// The backend whose response is passed on, and what predicted its first token.
    pub(super) serving: Option<(Arc<Backend>, Option<usize>)>,
    pub(super) permit: Option<Permit>,
    pub(super) buffered: Option<Buffered>,
    /// Whose turn it is while a body is passed on as it comes.
    pub(super) upload: Option<Arc<Turn>>,
    pub(super) attempts: SmallVec<[Attempt; 2]>,
    /// When the request had left for the backend that answered: what came before is Windward's own doing.
    pub(super) overhead_us: u64,
    pub(super) status: StatusCode,
    pub(super) error: Option<&'static str>,
    /// What its answer said in the middle: that there is no room at the backend, for any model or for this one.
    pub(super) is_full: Option<bool>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) first_token: Option<Instant>,
    /// How long the response lay ready for a client that did not take it.
    pub(super) held_up: Duration,
    /// Requests that the backend had in flight when the first token came.
    pub(super) in_flight_then: u32,
    pub(super) counted: Counted,
    pub(super) usage: (Usage, UsageSource),
    /// What the backend says of its own time.
    pub(super) clocked: Clocked,
    /// The model as the backend names it.
    pub(super) response_model: Option<Bytes>,
    /// What the answer says of where the model ran.
    pub(super) evidence: Option<Box<str>>,
    pub(super) ended: Ended,
    /// When it was over, where the clock need not be asked again for that.
    pub(super) over: Option<Instant>,
}

impl Exchange {
    /// Begins with the head of a request; the clock is read here once.
    pub(super) fn begin(shared: &Arc<Shared>, request: &RequestHead, client: Option<Client>) -> Box<Self> {
        shared.metrics.in_flight.add(1);
        let client_request_id = request.fields.value(Name::XRequestId).filter(|id| id.len() <= MAX_ID);
        let http1 = request.version < http::Version::HTTP_2;
        let path = request.target.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
        // Written where it stays, as far as the compiler sees that: nearly 2 KB, most of which is room.
        Box::write(
            Box::new_uninit(),
            Self {
                snapshot: shared.state.load(),
                begun: shared.clock.monotonic(),
                wall: shared.clock.wall(),
                client,
                id: shared.next_id(),
                client_request_id,
                provider_request_id: None,
                ids_before: Vec::new(),
                method: request.method.clone(),
                says_version: request.fields.has(Name::AnthropicVersion).then_some(Dialect::Anthropic),
                path,
                http1,
                takes_trailers: headers::asks_for_trailers(&request.fields),
                route: None,
                key: None,
                key_is: Proof::Shown,
                claiming: None,
                narrowed: None,
                operation: None,
                model: None,
                streamed: false,
                demand: None,
                session: None,
                keeps: Keeps::Nothing,
                translated: None,
                deployments: None,
                candidates: Candidates::default(),
                decision: None,
                shadow: None,
                turn: None,
                spent: Millis::ZERO,
                reserve: 0.0,
                strain: 0.0,
                serving: None,
                permit: None,
                buffered: None,
                upload: None,
                attempts: SmallVec::new(),
                overhead_us: 0,
                status: StatusCode::OK,
                error: None,
                is_full: None,
                request_bytes: 0,
                response_bytes: 0,
                first_token: None,
                held_up: Duration::ZERO,
                in_flight_then: 0,
                counted: Counted::Yes,
                usage: (Usage::default(), UsageSource::Unknown),
                clocked: Clocked::default(),
                response_model: None,
                evidence: None,
                // Until something better is known: the whole future is dropped when the client leaves.
                ended: Ended::ClientGone,
                over: None,
                shared: Arc::clone(shared),
            },
        )
    }

    /// The id that a backend gave to what it was asked, as far as it can be kept.
    pub(super) fn provider_id(fields: &Fields) -> Option<HeaderValue> {
        let names = [Name::XRequestId, Name::RequestId, Name::XAmznRequestid];
        names.into_iter().find_map(|name| fields.value(name)).filter(|id| id.len() <= MAX_ID)
    }

    /// Bytes of the client's body: those that were collected, or passed on as they came.
    pub(super) fn bytes_taken(&self) -> u64 {
        self.upload.as_ref().map_or(self.request_bytes, |upload| upload.carried())
    }

    /// The route, once there is one.
    pub(super) fn route(&self) -> Option<&Route> {
        self.snapshot.plan.routes.get(self.route?)
    }

    /// The client's key, where the plan has any.
    pub(super) fn key(&self) -> Option<&Key> {
        self.snapshot.plan.keys.get(self.key?)
    }

    /// Whether the client's key, where one is needed, opens the route.
    pub(super) fn key_opens_route(&self) -> bool {
        self.key().zip(self.route).is_none_or(|(key, route)| key.opens(route))
    }

    /// What is wanted: by the key's policy, or else by the route's, as the request narrowed it.
    pub(super) fn policy(&self) -> Option<&Arc<Policy>> {
        if let Some(narrowed) = &self.narrowed {
            return Some(&narrowed.policy);
        }
        let of_key = self.key().and_then(|key| key.policy.as_ref()).map(|own| &own.policy);
        of_key.or_else(|| self.route().map(|route| &route.policy))
    }

    /// The flow that its demand is counted in: that of its key's policy, where the key brings one.
    pub(super) fn demand_of(&self, flow: FlowId) -> FlowId {
        let own = self.key().and_then(|key| key.policy.as_ref());
        own.map_or(flow, |own| own.demand_of(flow))
    }

    /// Whether a backend lies inside the residency of the route's policy, of the key's, and of what the request asked for.
    pub(super) fn may_serve(&self, backend: BackendId) -> bool {
        !self.is_asked_not_to(backend) && self.is_let_serve(backend)
    }

    fn is_asked_not_to(&self, backend: BackendId) -> bool {
        self.narrowed.as_ref().is_some_and(|asked| asked.outside.binary_search(&backend).is_ok())
    }

    /// The same without the route's policy.
    pub(super) fn suits_who_asks(&self, backend: BackendId) -> bool {
        !self.is_asked_not_to(backend) && self.is_let_by_key(backend)
    }

    /// The same without what the request asked for.
    pub(super) fn is_let_serve(&self, backend: BackendId) -> bool {
        let outside_route = self.route().is_some_and(|route| route.outside.contains(&backend));
        !outside_route && self.is_let_by_key(backend)
    }

    fn is_let_by_key(&self, backend: BackendId) -> bool {
        let own = self.key().and_then(|key| key.policy.as_ref());
        own.is_none_or(|own| own.outside.binary_search(&backend).is_err())
    }

    /// The dialect in which the client is answered: that of its route, or else what its request looks like.
    pub(super) fn dialect(&self) -> Dialect {
        let by_looks = || match (self.says_version, self.path.path()) {
            (Some(dialect), _) => dialect,
            (None, path) if bedrock::is_path(path) => Dialect::Bedrock,
            (None, path) if gemini::is_path(path) => Dialect::Gemini,
            (None, _) => Dialect::Openai,
        };
        self.route().map_or_else(by_looks, |route| route.dialect)
    }

    /// The id that goes to the backend and back to the client: the client's own where it gave one.
    pub(super) fn tell_id(&self, name: Name, fields: &mut Fields) {
        match &self.client_request_id {
            Some(own) => fields.set(name, own),
            None => fields.set_text(name, self.id.as_str()),
        }
    }

    /// How long an attempt that begins now may wait for its first byte: what the backend is given, and not beyond the whole.
    pub(super) fn first_byte_within(&self, backend: &Backend, now: Instant) -> Duration {
        let left = (self.begun + backend.timeouts.total).saturating_duration_since(now);
        backend.timeouts.first_byte.min(left)
    }

    /// What may be done about a backend that failed it, by who else could have served it.
    pub(super) fn remedy(&self, backend: BackendId, now: Instant) -> Remedy {
        if self.decision.is_none() {
            return self.snapshot.remedy(backend, now);
        }
        let may = |candidate: &&Candidate| !matches!(candidate.standing, Standing::OutsideResidency | Standing::Untranslatable);
        let able = self.candidates.iter().filter(may);
        let others = able.clone().filter(|candidate| candidate.backend != backend);
        let serves = |other: &Candidate| matches!(other.standing, Standing::Ready | Standing::Returning);
        if !others.clone().any(serves) {
            return Remedy::Keep;
        }
        let is_shut = |other: &&Candidate| self.snapshot.live(other.backend).shut_for(now).is_some();
        Remedy::of(able.count(), others.filter(is_shut).count())
    }

    /// Whether a status went to the client, as far as can be known: not when it left before a byte of the answer.
    pub(super) fn has_answered(&self) -> bool {
        !matches!(self.ended, Ended::ClientGone | Ended::Drained) || self.response_bytes > 0
    }

    /// What is cut at the end of a drain is dropped, as by a client that leaves. Asking takes a lock, so only what was dropped asks.
    pub(super) fn tell_cut_from_gone(&mut self) {
        if self.ended == Ended::ClientGone && self.error.is_none() && self.shared.cut.is_cancelled() {
            self.ended = Ended::Drained;
        }
    }

    /// The request is signed with the key that it named.
    pub(super) fn key_is_proved(&mut self) {
        self.key_is = Proof::Shown;
        self.claiming = None;
        if let Some(buffered) = &mut self.buffered {
            buffered.proved();
        }
    }

    /// The body is no longer needed for another attempt.
    pub(super) fn release_body(&mut self) {
        self.buffered = None;
    }

    /// Copies what it keeps of the heads of request and response. They are slices of the buffers that the connections read into, and
    /// for the minutes of a stream a few bytes of each would hold the whole of it: 16 KiB for each stream.
    pub(super) fn let_go_of_heads(&mut self) {
        let copied = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
        self.client_request_id = self.client_request_id.as_ref().and_then(copied);
        self.provider_request_id = self.provider_request_id.as_ref().and_then(copied);
        if let Ok(path) = self.path.as_str().parse() {
            self.path = path;
        }
    }

    /// What the answer teaches; nothing when it is none: failing is quick.
    pub(super) fn lesson(&self) -> Option<Lesson<'_>> {
        let teaches = self.status.is_success() && self.error.is_none() && !self.operation.is_some_and(Operation::runs_no_model);
        let (_, index) = self.serving.as_ref().filter(|_| teaches)?;
        self.lesson_of((*index)?)
    }

    /// What was asked of a candidate.
    pub(super) fn lesson_of(&self, index: usize) -> Option<Lesson<'_>> {
        Some(Lesson {
            deployment: self.deployments.as_ref()?.get(index)?,
            candidate: self.candidates.get(index)?,
            policy: self.policy()?,
            demand: self.demand.as_ref()?,
            session: self.session.as_ref(),
        })
    }

    /// The first body data of the response came `at` that time, and it is an answer or says that there is none. To be called once: it
    /// teaches.
    pub(super) fn saw_first_data(&mut self, answers: impl FnOnce() -> bool, at: Instant) {
        self.first_token = Some(at);
        if let Some(permit) = &mut self.permit {
            permit.answered();
            self.in_flight_then = permit.in_flight();
        }
        let taught = self.lesson().filter(|lesson| lesson.demand.streamed && answers());
        if let (Some(lesson), Some(attempt)) = (taught, self.attempts.last())
            && !self.was_held_up(at - attempt.begun)
        {
            self.snapshot.learn_first_token(&lesson, Millis::from(at - attempt.begun), Millis::from(at - self.begun), at);
        }
    }

    /// Whether the response lay ready so long, for a client that did not take it, that `time` does not show the backend's pace.
    pub(super) fn was_held_up(&self, time: Duration) -> bool {
        self.held_up > HELD_UP.max(time / HELD_UP_PART)
    }

    /// Gives back its place at the backend and among all that is in flight, when the backend is through with it: who is told of the end
    /// may ask again at once, and finds room.
    pub(super) fn give_back_places(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.first_token.is_none()
        {
            self.in_flight_then = permit.in_flight();
        }
        if std::mem::replace(&mut self.counted, Counted::NoMore) == Counted::Yes {
            self.shared.metrics.in_flight.add(-1);
        }
    }

    /// Bytes of the response body, for the log.
    pub(super) fn passed_on(&mut self, chunk: &Bytes) {
        self.response_bytes += chunk.len() as u64;
    }
}

/// Whether an exchange is counted among those in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Yes,
    NoMore,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.permit = None;
        if self.route.is_some() {
            account::close(self);
        }
        // Here and not with the books: an answer to a request that found no route is an answer too.
        if self.has_answered() {
            self.shared.metrics.answered(self.status);
        }
        self.give_back_places();
        give_back(&mut self.decision);
        if let Some(shadow) = self.shadow.take() {
            give_back(&mut shadow.decision());
        }
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("id", &self.id).field("ended", &self.ended).finish_non_exhaustive()
    }
}
