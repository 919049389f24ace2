//! The life of one request, told once, top to bottom, in [`Proxy::handle`].
//!
//! These are plain async functions over a typed [`Exchange`], not a stack of layers: context that has to travel through a type map
//! is context that can be missing at run time. What a layer is good for is the edge, and there [`Proxy`] is a `tower::Service` that
//! anybody can wrap or embed.

mod account;
mod address;
mod admit;
mod attempt;
mod backend_time;
mod edit;
mod evidence;
mod exchange;
mod fed;
mod forward;
mod headers;
mod hedge;
mod id;
mod intake;
mod models;
mod narrow;
mod pinned;
mod pool;
mod provenance;
mod reject;
mod relay;
mod request_body;
mod scratch;
mod shadow;
mod signature;
mod through;
mod translated;
mod tries;
mod upload;
mod verdicts;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, Version};
use http_body::Body as _;
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::affinity::{Session, SessionKey};
use crate::backend::BackendId;
use crate::clock::Clock;
use crate::decide::{Decision, InTime, Outcome, Waiting, decide_in_time};
use crate::dialect::Dialect;
use crate::live::{HedgeBudget, RetryBudget};
use crate::policy::Policy;
use crate::record::Ended;
use crate::state::{Question, State};
use crate::telemetry::log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::units::Millis;
use crate::upstream::{UpstreamResponse, Upstreams, for_hyper};
use crate::wire::fields::{Fields, Name};
use crate::wire::message::{Message, RequestHead, ResponseHead};
use crate::wire::{Call, Operation};

pub use attempt::{Attempt, AttemptOutcome};
pub use exchange::Exchange;
use exchange::Proof;
pub use fed::{Appetite, Fed, Feeder, fed};
use id::Id;
use pool::{Claiming, Pool};
pub use provenance::Client;
use provenance::{Provenance, Pseudonym};
pub use reject::Error;
use reject::SOON;
pub use relay::{Body, Cut, Limited};
use request_body::Received;
pub use request_body::{RequestBody, RequestBodyError};
use scratch::with_scratch;

/// What all workers of one proxy share.
pub struct Shared {
    /// The snapshot in force.
    pub state: Arc<State>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Connections to backends.
    pub upstreams: Upstreams,
    /// Tasks that outlive their request: tunnels.
    pub tasks: TaskTracker,
    /// Where records go.
    pub log: AccessLog,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Cancelled before the workers drop what is still open.
    pub cut: CancellationToken,
    /// Request bodies being held, and requests that only claim to be signed.
    buffered: Arc<Pool>,
    /// Tells this run's ids from another's.
    pub run: u32,
    /// What may be sent again.
    retries: RetryBudget,
    counter: AtomicU32,
    turns: [AtomicU32; TURNS],
    pseudonym: Pseudonym,
    hedges: [HedgeBudget; HEDGES],
    /// With which conversations get their names.
    session_key: SessionKey,
}

/// Rotations kept apart. Two questions that share one by accident only take turns less evenly.
const TURNS: usize = 64;

/// Budgets of hedges kept apart, by the names of policies. Two policies that share one by accident share what both may hedge.
const HEDGES: usize = 16;

/// What a proxy is made of.
pub struct Parts {
    /// The snapshot in force.
    pub state: Arc<State>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Connections to backends.
    pub upstreams: Upstreams,
    /// Who waits at the end for what outlives its request.
    pub tasks: TaskTracker,
    /// Where records go.
    pub log: AccessLog,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Cancelled by whoever ends all of it, before what is still open is dropped.
    pub cut: CancellationToken,
    /// Random; tells this run's ids from those of an earlier one.
    pub run: u32,
}

impl Shared {
    fn next_id(&self) -> Id {
        Id::of(u64::from(self.run) << 32 | u64::from(self.counter.fetch_add(1, Relaxed)))
    }

    /// Counts who is refused for a key, or for want of room of our own; a line in the log has only who found a route.
    fn count_refusal(&self, error: &Error) {
        let counter = match error {
            Error::NoKey => &self.metrics.keys_missing,
            Error::WrongKey | Error::WrongSignature(_) => &self.metrics.keys_wrong,
            Error::KeyNotAllowed => &self.metrics.keys_elsewhere,
            Error::Busy | Error::Shed => &self.metrics.shed,
            _ => return,
        };
        counter.add_one();
    }

    /// How many decisions there were about this model on this route: it rotates ties and turns. One count for everything would
    /// stand still for a client whose calls alternate between two models, and each of them would always get the same backend.
    fn turn(&self, route: Option<usize>, model: &str) -> u32 {
        let slot = slot(route.unwrap_or_default(), model, TURNS);
        self.turns.get(slot).map_or(0, |turn| turn.fetch_add(1, Relaxed))
    }

    /// A conversation of a client's, about a model.
    fn own_session(&self, session: Session, model: &str, client: &str) -> Session {
        session.of(&self.session_key, model, client)
    }

    /// What a policy may hedge. It outlives a reload, by the policy's name.
    fn hedges(&self, policy: &Policy) -> &HedgeBudget {
        #[expect(clippy::indexing_slicing, reason = "a slot of so many is one of them")]
        &self.hedges[slot(0, &policy.name, HEDGES)]
    }
}

/// One of so many slots, by a number and a name.
fn slot(seed: usize, name: &str, slots: usize) -> usize {
    let hash = name.bytes().fold(seed as u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32) as usize % slots
}

/// The proxy, as a service of one request and one response.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    client: Option<Client>,
}

impl Proxy {
    /// A proxy over these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { state, clock, upstreams, tasks, log, metrics, cut, run } = parts;
        let (buffered, counter) = (Arc::default(), AtomicU32::new(0));
        let turns = std::array::from_fn(|_| AtomicU32::new(0));
        let retries = RetryBudget::new(clock.monotonic());
        let (pseudonym, hedges, session_key) = (Pseudonym::new(run), Default::default(), intake::session_key(run));
        #[rustfmt::skip]
        let shared = Shared {
            state, clock, upstreams, tasks, log, metrics, cut, buffered, run, retries, counter, turns, pseudonym, hedges, session_key,
        };
        // Drawn apart from the other, which is kept nowhere.
        shared.state.load().pins().begin(intake::session_key(run));
        Self { shared: Arc::new(shared), client: None }
    }

    /// This proxy for the requests of one connection. Backends that are to know the client are told of this one.
    #[must_use]
    pub fn serving(&self, client: Client) -> Self {
        Self { shared: Arc::clone(&self.shared), client: Some(client) }
    }

    /// What its workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Answers one request. The record is written when the response body ends, or now if there is none.
    pub async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        for_hyper(self.answered(&mut request.into()).await)
    }

    /// The same for a request that was read without hyper, and whose answer is written so.
    ///
    /// Not boxed: into a box it would be copied with all that it will ever hold, 3 KB before it holds anything. The price is that a
    /// connection keeps the room between two requests and while a stream goes on: 2 KiB each (`compare.py --workloads rss`).
    pub fn answer(
        &self,
        request: Box<Message<RequestHead, RequestBody>>,
    ) -> impl Future<Output = Message<ResponseHead, Body>> + Send + use<> {
        let proxy = self.clone();
        let Message { head, body } = *request;
        let mut received = Received { head, body: Some(body), upgrade: None };
        async move { proxy.answered(&mut received).await }
    }

    /// Whether a request with this head is refused whatever its body is. Nothing comes of asking.
    pub fn refuses(&self, head: &RequestHead) -> bool {
        let mut x = Exchange::begin(&self.shared, head, self.client);
        let (snapshot, target) = (Arc::clone(&x.snapshot), x.path.clone());
        let refused = admit::request(head, &snapshot.plan, target.path(), &mut x).is_err();
        // What has no route is not in the books.
        x.route = None;
        refused
    }

    async fn answered(&self, request: &mut Received) -> Message<ResponseHead, Body> {
        let mut x = Exchange::begin(&self.shared, &request.head, self.client);
        let has_body = request.body.as_ref().is_some_and(|body| !body.is_end_stream());
        match answer(request, &mut x).await {
            Ok(Answer::Own(response)) => {
                x.status = response.status();
                x.ended = Ended::Complete;
                Message::from(response.map(|bytes| Body::Fixed(Full::new(bytes))))
            }
            Ok(Answer::Backend(response, usage_event)) => passed_on(response, usage_event, x),
            Ok(Answer::Tunnel(response, tunnel)) => {
                tunnel.run(x);
                Message::from(response.map(|()| Body::Fixed(Full::default())))
            }
            Err(error) => {
                if !matches!(error, Error::ClientGone) {
                    x.status = error.status();
                    x.error = Some(error.code());
                    x.ended = Ended::Rejected;
                }
                self.shared.count_refusal(&error);
                let closes = x.http1 && (error.closes() || (has_body && !Box::pin(intake::is_read(request)).await));
                let response = error.response(x.dialect(), closes).map(|bytes| Body::Fixed(Full::new(bytes)));
                let mut response = Message::<ResponseHead, Body>::from(response);
                x.tell_id(Name::XRequestId, &mut response.head.fields);
                if x.dialect() == Dialect::Anthropic {
                    // Where its SDKs read which id to show of a request that failed.
                    x.tell_id(Name::RequestId, &mut response.head.fields);
                }
                response
            }
        }
    }
}

/// An answer to come.
pub type Answering<R> = Pin<Box<dyn Future<Output = R> + Send>>;

/// Who answers.
enum Answer {
    /// Windward, from its plan.
    Own(Response<Bytes>),
    /// A backend.
    Backend(Box<UpstreamResponse>, forward::UsageEvent),
    /// Nobody any more: the connection was switched to another protocol, and a task of its own has the exchange.
    Tunnel(Response<()>, through::Tunnel),
}

async fn answer(request: &mut Received, x: &mut Exchange) -> Result<Answer, Error> {
    let snapshot = Arc::clone(&x.snapshot);
    let plan = &snapshot.plan;
    if x.shared.metrics.in_flight.get() > i64::try_from(plan.limits.in_flight).unwrap_or(i64::MAX) {
        return Err(Error::Busy);
    }
    // Shared with the request, whose body may have to be read before the path is done with.
    let target = x.path.clone();
    let admit::Called { route, below, call } = admit::request(&request.head, plan, target.path(), x)?;
    let by_signature = x.key_is == Proof::Claimed;
    if by_signature {
        admit::may_be_signed(&request.head, &plan.keys, x.wall)?;
        // Before its body is waited for, which anybody may make as long as they are let.
        x.claiming = Some(Claiming::take(&x.shared.buffered, &plan.limits).ok_or(Error::Busy)?);
    }
    if by_signature && !matches!(call, Call::Inference(_) | Call::Named(_)) {
        // What is signed is not passed on before it has been read, nor answered.
        Box::pin(intake::verify(request, x)).await?;
    }
    let (operation, named) = match call {
        Call::Models if let Some(own) = models::list(x)? => return Ok(Answer::Own(own)),
        Call::Model(name) if let Some(own) = models::one(x, &name)? => return Ok(Answer::Own(own)),
        Call::MethodNotAllowed { allow } => return Err(Error::MethodNotAllowed { allow }),
        Call::Home => {
            let keeper = Box::pin(pinned::of_call(request, below, x)).await?;
            return Box::pin(through::stream(request, keeper.unwrap_or(route.home), x)).await;
        }
        Call::Models | Call::Model(_) | Call::Stream => return Box::pin(through::stream(request, route.home, x)).await,
        Call::Inference(operation) => (operation, None),
        Call::Named(named) => (named.operation, Some(named)),
    };

    let below: Box<str> = match target.query() {
        Some(query) => format!("{below}?{query}").into(),
        None => below.into(),
    };
    let mut intake = intake::read(request, operation, named, x).await?;
    if by_signature {
        admit::verified(&request.head, &intake.chunks, &plan.keys, x.wall)?;
        x.key_is_proved();
    }
    translated::prepare(&mut intake, &request.head.fields, x)?;
    let keeper = pinned::of_intake(&intake, x)?;
    while let Some(span) = decide_candidates(x, keeper)? {
        // Boxed, since it is rare, and every future that waits for an answer would have room for it.
        Box::pin(tokio::time::sleep(x.shared.clock.timer(span))).await;
    }
    let tells = x.deployments.iter().flat_map(|all| all.iter()).any(|it| plan.backend(it.backend).forward_client);
    let provenance = x.client.filter(|_| tells).map(|client| Provenance::of(&request.head, client));
    let mut fields = std::mem::take(&mut request.head.fields);
    let credential = fields.value(headers::credential_field(x.dialect()));
    headers::clean_to_read(&mut fields, &plan.credential_fields);
    provenance::mark(&mut fields, request.head.version, x.id, &x.shared.pseudonym)?;
    let mut outgoing = forward::Outgoing::new(fields, credential, provenance, below, &intake);
    let (response, usage_event) = forward::attempts(&mut outgoing, x).await?;
    x.release_body();
    Ok(Answer::Backend(response, usage_event))
}

/// Estimates every candidate of the route for the model, or the only one that keeps what the request names, and decides among them,
/// unless the request is rather held back for so long.
fn decide_candidates(x: &mut Exchange, keeper: Option<BackendId>) -> Result<Option<Duration>, Error> {
    let snapshot = Arc::clone(&x.snapshot);
    let Some(route) = x.route.and_then(|route| snapshot.plan.routes.get(route)) else { return Err(Error::NoRoute) };
    let policy = Arc::clone(x.policy().unwrap_or(&route.policy));
    let (Some(model), Some(demand)) = (x.model.as_deref(), x.demand) else { return Err(Error::NoRoute) };
    let mut deployments = Arc::clone(route.candidates(model));
    if let Some(keeper) = keeper {
        deployments = deployments.iter().filter(|deployment| deployment.backend == keeper).cloned().collect();
    }
    // A pin outranks carbon, but no constraint.
    let pinned = keeper.is_some_and(|keeper| x.may_serve(keeper));
    let turn = (!pinned).then(|| x.shared.turn(x.route, model));
    let now = x.shared.clock.monotonic();
    let flow = deployments.first().map(|deployment| deployment.flow).unwrap_or_default();
    let size = snapshot.size(flow, &demand);
    let warm = snapshot.warm(x.session.as_ref(), &policy, demand.body_bytes, now);
    let (since, wall, turns) = (snapshot.now(now), x.wall, turn.unwrap_or_default());
    let question = Question { model, size, policy: &policy, warm, now: since, wall, turn: turns };
    // Put where they stay.
    x.candidates.begin(deployments.len());
    for deployment in deployments.iter() {
        let candidate = snapshot.candidate(deployment, x.may_serve(deployment.backend), &question);
        let Some(mut candidate) = candidate else {
            x.candidates.begin(0);
            return Err(Error::UnknownModel);
        };
        x.judge_translation(deployment, &mut candidate);
        x.candidates.push(candidate);
    }
    if x.candidates.is_empty() {
        return Err(Error::UnknownModel);
    }
    // A request that was held is no other one, and one for which no model runs asks for no capacity.
    let counts = x.deployments.is_none() && !x.operation.is_some_and(Operation::runs_no_model);
    if let Some(flow) = snapshot.flow(x.demand_of(flow)).filter(|_| counts) {
        flow.asked(size, demand.streamed);
    }
    x.spent = Millis::from(now - x.begun);
    let waiting = Waiting { spent: x.spent, usual: snapshot.usual };
    // What came first is what it would have made of the request: later much of the budget is over that this policy has waited away.
    if turn.is_some() && x.shadow.is_none() {
        x.shadow = shadow::decided(x, &deployments, &question, waiting);
    }
    let (streamed, candidates, decided) = (demand.streamed, &x.candidates, &mut x.decision);
    // Put where it stays: moved from one hand to the next, it was copied five times.
    let otherwise = with_scratch(|scratch| {
        let InTime { outcome, reserve, strain } = match turn {
            None => InTime::serve(Decision::pinned()),
            Some(turn) => decide_in_time(&policy, streamed, candidates, turn, waiting, scratch)?,
        };
        let otherwise = match outcome {
            Outcome::Serve(decision) => {
                *decided = Some(decision);
                None
            }
            Outcome::Hold(span) => Some(Ok(span)),
            Outcome::Shed => Some(Err(Error::Shed)),
        };
        Ok((otherwise, reserve, strain))
    });
    x.turn = turn;
    x.deployments = Some(deployments);
    let (otherwise, reserve, strain) = otherwise.map_err(|why| Error::no_candidate(why, x, now))?;
    x.strain = strain;
    if otherwise.is_some() {
        x.reserve = reserve;
    }
    otherwise.transpose()
}

/// Where Azure says that it worked.
const MS_REGION: HeaderName = HeaderName::from_static("x-ms-region");

/// The backend's response with Windward's fields, its body metered.
fn passed_on(
    response: Box<UpstreamResponse>,
    usage_event: forward::UsageEvent,
    mut x: Box<Exchange>,
) -> Message<ResponseHead, Body> {
    let UpstreamResponse { mut head, body, .. } = *response;
    headers::strip_hop_by_hop(&mut head.fields, x.takes_trailers);
    x.provider_request_id = Exchange::provider_id(&head.fields);
    let by_azure = x.serving.as_ref().is_some_and(|(backend, _)| backend.dialect == Dialect::AzureOpenai);
    x.evidence = by_azure.then(|| head.fields.get_text(&MS_REGION)).flatten().and_then(evidence::of_azure);
    let translated = translated::answer(&mut head, &x);
    let content_type = translated.as_ref().map(|answer| answer.content_type());
    x.status = head.status;
    decorate(&mut head.fields, head.version, &x);
    let metered = relay::Metered::new(body, &head.fields, usage_event, translated, x);
    if metered.changes_length() {
        head.fields.remove(Name::ContentLength);
    }
    if let Some(content_type) = content_type {
        head.fields.set_text(Name::ContentType, content_type);
    }
    Message { head, body: Body::Relay(metered) }
}

/// The fields that tell the client what was decided. Names and regions were rendered when the plan was made.
fn decorate(fields: &mut Fields, version: Version, x: &Exchange) {
    fields.append(Name::Via, &provenance::via(version));
    x.tell_id(Name::XRequestId, fields);
    if let Some((backend, index)) = &x.serving {
        fields.set(Name::XWindwardBackend, &backend.name_header);
        fields.set(Name::XWindwardRegion, &backend.region_header);
        let reason = x.decision.as_ref().map_or("pinned", |decision| decision.reason.as_str());
        fields.set_text(Name::XWindwardDecision, reason);
        let intensity = index.and_then(|index| x.candidates.get(index)).and_then(|candidate| candidate.estimate.intensity);
        if let Some(intensity) = intensity {
            fields.set_number(Name::XWindwardCarbonIntensity, intensity.get().round() as u64);
        }
    }
    fields.set_number(Name::XWindwardOverheadUs, x.overhead_us);
}

/// For requests as hyper has them, and for those that are read without it.
impl<B: Into<RequestBody>> tower::Service<Request<B>> for Proxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (proxy, mut request) = (self.clone(), Received::from(request));
        Box::pin(async move { Ok(for_hyper(proxy.answered(&mut request).await)) })
    }
}
