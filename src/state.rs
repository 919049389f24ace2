//! What a request sees of the world: one immutable snapshot, loaded once and kept for the whole exchange.

pub mod kept;

mod keyring;
mod learned;
mod recorded;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use jiff::Timestamp;

pub use keyring::{Keyring, Unsigned, set_signature};
pub use learned::{Lesson, Seen};
pub use token::{Token, TokenState, Unfit};

use crate::affinity::{Memory, Tag, Warm};
use crate::backend::{Backend, BackendId, Credential};
use crate::config::{ListenerTls, Plan, Shown};
use crate::decide::{Candidate, Standing};
use crate::demand::Usual;
use crate::estimate::{Demand, Size, Terms, estimate};
use crate::grid::{Grid, Intensity, ZoneId};
use crate::live::{Flow, Live, Load, Margin, ModelLive, Now, Remedy};
use crate::pins::Pins;
use crate::policy::{Policy, PolicyId};
use crate::route::{Deployment, FlowId};
use crate::units::{Grams, GramsPerKwh};

/// Plan and grid as of one generation, with the live statistics of its backends.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts published plans: 1 is the one at start. A new grid does not change it.
    pub generation: u64,
    /// The configuration.
    pub plan: Arc<Plan>,
    /// The latest readings.
    pub grid: Arc<Grid>,
    /// Statistics of the plan's backends, by `BackendId`; the same objects as before a reload for backends that stay.
    pub live: Vec<Arc<Live>>,
    /// What is known of the requests of each flow, kept across reloads likewise.
    flows: Vec<Arc<Flow>>,
    /// How much of its budget each policy believes, by `PolicyId`, kept likewise.
    margins: Vec<Arc<Margin>>,
    /// Who served which conversation last, kept likewise.
    conversations: Arc<Memory>,
    /// What each backend is known by there, by `BackendId`.
    tags: Arc<[Tag]>,
    /// The AWS keys of the backends that are signed for, by `BackendId`; kept likewise where they come from the same place.
    keyrings: Vec<Option<Arc<Keyring>>>,
    /// The tokens of the backends that are sent one which is renewed, likewise. Backends that are sent the same one share it.
    tokens: Vec<Option<Arc<Token>>>,
    /// Which backend handed out which id; kept likewise.
    pins: Arc<Pins>,
    /// What the listeners of the process show under TLS, by the listener's place; only a restart changes which these are.
    listeners: Arc<[Option<ListenerTls>]>,
    /// What capacity is worth, by `BackendId`: for each output token. Empty until somebody has found out.
    pub prices: Arc<[Grams]>,
    /// What was asked for lately; nothing before.
    pub usual: Usual,
}

/// Flows that are learned apart; where a plan has more of them, some share. Each takes 1.1 kilobytes.
const MOST_FLOWS: usize = 16_384;

impl Snapshot {
    /// The first snapshot of a plan: nothing is known but the yearly figures.
    pub fn first(plan: Arc<Plan>, now: Instant) -> Self {
        let live = plan.backends.iter().map(|backend| Arc::new(Live::new(now, plan.priors(backend.id)))).collect();
        let grid = Arc::new(Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age));
        let flows = plan.flows.iter().take(MOST_FLOWS).map(|_| Arc::default()).collect();
        let margins = plan.policies.iter().map(|_| Arc::default()).collect();
        let keyrings = plan.backends.iter().map(|backend| new_keyring(backend)).collect();
        let listeners = plan.boot.listeners.iter().map(|listener| listener.tls.clone()).collect();
        let (conversations, tags, tokens) = (Arc::new(Memory::new(now)), tags(&plan), token::of(&plan, &[]));
        Self {
            generation: 1,
            plan,
            grid,
            live,
            flows,
            margins,
            conversations,
            tags,
            keyrings,
            tokens,
            pins: Arc::default(),
            listeners,
            prices: Arc::default(),
            usual: Usual::default(),
        }
    }

    /// This snapshot with another plan: readings, and what is usual, stay for zones that stay, statistics for backends that stay, both by name.
    #[must_use]
    pub fn with_plan(&self, plan: Arc<Plan>, now: Instant) -> Self {
        let mut grid = Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age);
        for (index, zone) in plan.zones.iter().enumerate() {
            let old = self.plan.zones.iter().position(|z| z == zone).and_then(|i| self.grid.usual(ZoneId(i as u16)));
            if let Some((usual, reading)) =
                old.filter(|(_, reading)| reading.signal == plan.carbon.signal && reading.basis == plan.carbon.basis)
            {
                grid.set_known(ZoneId(index as u16), usual.clone(), reading.clone());
            }
        }
        let live = plan
            .backends
            .iter()
            .map(|backend| {
                let old = self.plan.backends.iter().position(|old| old.name == backend.name && old.origin.is_at(&backend.origin));
                match old.and_then(|index| self.live.get(index).map(|live| (live, index))) {
                    Some((live, index)) if self.plan.priors(BackendId(index as u16)).eq(plan.priors(backend.id)) => {
                        Arc::clone(live)
                    }
                    Some((live, _)) => Arc::new(live.carried_over(plan.priors(backend.id))),
                    None => Arc::new(Live::new(now, plan.priors(backend.id))),
                }
            })
            .collect();
        let known: HashMap<_, _> = self.plan.flows.iter().zip(&self.flows).collect();
        let flows =
            plan.flows.iter().take(MOST_FLOWS).map(|names| known.get(names).map_or_else(Arc::default, |flow| Arc::clone(flow)));
        // It says how wrong predictions are at that quantile. What a loose budget forgave is no measure of a shorter one.
        let quantile = |policy: &Policy| policy.budget.map(|budget| budget.quantile);
        let margin = |policy: &Arc<Policy>| {
            let same = |old: &Policy| old.name == policy.name && quantile(old) == quantile(policy);
            let old = self.plan.policies.iter().zip(&self.margins).find(|(old, _)| same(old));
            let no_shorter = |old: &Policy| policy.budget.zip(old.budget).is_none_or(|(new, old)| new.is_no_shorter_than(&old));
            old.map_or_else(Arc::default, |(old, margin)| {
                if no_shorter(old) { Arc::clone(margin) } else { Arc::new(margin.at_least_as_predicted()) }
            })
        };
        let (flows, margins) = (flows.collect(), plan.policies.iter().map(margin).collect());
        let old_price = |backend: &Arc<Backend>| {
            let old = self.plan.backends.iter().position(|old| old.name == backend.name);
            old.and_then(|index| self.prices.get(index).copied()).unwrap_or(Grams::ZERO)
        };
        let prices = plan.backends.iter().map(old_price).collect();
        let old_keyring = |backend: &Arc<Backend>| {
            let same = |old: &Arc<Backend>| old.name == backend.name && old.credential == backend.credential;
            let old = self.plan.backends.iter().position(same).and_then(|index| self.keyrings.get(index)?.clone());
            old.or_else(|| new_keyring(backend))
        };
        let keyrings = plan.backends.iter().map(old_keyring).collect();
        let tags = tags(&plan);
        let tokens = token::of(&plan, &self.tokens);
        let listeners = renewed(&self.listeners, &plan);
        let others = self.with_grid(Arc::new(grid));
        Self { generation: self.generation + 1, plan, live, flows, margins, tags, keyrings, tokens, listeners, prices, ..others }
    }

    /// This snapshot with other prices, and what was asked for lately; where nobody asked, the usual answer stays what it was.
    #[must_use]
    pub fn with_prices(&self, prices: Arc<[Grams]>, usual: Usual) -> Self {
        let answer = if usual.answer > 0.0 { usual.answer } else { self.usual.answer };
        Self { prices, usual: Usual { answer, ..usual }, ..self.with_grid(Arc::clone(&self.grid)) }
    }

    /// This snapshot with other readings.
    #[must_use]
    pub fn with_grid(&self, grid: Arc<Grid>) -> Self {
        Self {
            generation: self.generation,
            plan: Arc::clone(&self.plan),
            grid,
            live: self.live.clone(),
            flows: self.flows.clone(),
            margins: self.margins.clone(),
            conversations: Arc::clone(&self.conversations),
            tags: Arc::clone(&self.tags),
            keyrings: self.keyrings.clone(),
            tokens: self.tokens.clone(),
            pins: Arc::clone(&self.pins),
            listeners: Arc::clone(&self.listeners),
            prices: Arc::clone(&self.prices),
            usual: self.usual,
        }
    }

    /// This snapshot as if every credential that is asked for were there: for who decides and sends nothing.
    #[must_use]
    pub fn with_all_credentials(mut self) -> Self {
        self.tokens.clear();
        self
    }

    /// What a listener of the process shows under TLS, by its place.
    pub fn shown(&self, listener: usize) -> Option<&Shown> {
        Some(&self.listeners.get(listener)?.as_ref()?.shown)
    }

    /// The live statistics of a backend.
    pub fn live(&self, id: BackendId) -> &Arc<Live> {
        #[expect(clippy::indexing_slicing, reason = "built with one entry for each backend of the plan")]
        &self.live[id.index()]
    }

    /// The AWS keys of a backend that has them from the start; `None` for one that is not signed for, or by keys that are asked for.
    pub fn keyring(&self, id: BackendId) -> Option<&Arc<Keyring>> {
        self.keyrings.get(id.index())?.as_ref()
    }

    /// Which backend handed out which id.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The token of a backend, or the AWS keys that are asked for; `None` for one with none that is renewed, and for all of them in
    /// [`Self::with_all_credentials`].
    pub fn token(&self, id: BackendId) -> Option<&Arc<Token>> {
        self.tokens.get(id.index())?.as_ref()
    }

    /// What is known of a flow's requests; `None` only where the plan has no flow at all.
    pub fn flow(&self, id: FlowId) -> Option<&Arc<Flow>> {
        self.flows.get(id.index().checked_rem(self.flows.len())?)
    }

    /// What predictions are multiplied by under a policy.
    pub fn margin(&self, id: PolicyId) -> Option<&Arc<Margin>> {
        self.margins.get(id.index())
    }

    /// A moment to ask all backends about.
    pub fn now(&self, at: Instant) -> Now {
        // Without any there is nobody to be asked.
        self.live.first().map_or_else(|| Now::new(at, at), |first| first.now(at))
    }

    /// How large a request of that flow is expected to be.
    pub fn size(&self, flow: FlowId, demand: &Demand) -> Size {
        self.flow(flow).map_or_else(|| Flow::default().size(demand), |flow| flow.size(demand))
    }

    /// The same where the length of the prompt is known.
    pub fn size_of(&self, flow: FlowId, prompt_tokens: u32, demand: &Demand) -> Size {
        self.flow(flow).map_or_else(|| Flow::default().size_of(prompt_tokens, demand), |flow| flow.size_of(prompt_tokens, demand))
    }

    /// What may be done about a failing backend where no decision says who else could serve: the hardest that one of its routes
    /// allows, because on a route that has nobody else it is tried as a last resort.
    pub fn remedy(&self, id: BackendId, now: Instant) -> Remedy {
        let lists = self.plan.routes.iter().flat_map(|route| {
            let lists = route.models.values().chain([&route.any_model]);
            lists.map(|list| list.iter().map(|deployment| deployment.backend).filter(|other| !route.outside.contains(other)))
        });
        let remedies = lists.filter(|list| list.clone().any(|other| other == id)).map(|list| {
            let ejected = list.clone().filter(|other| *other != id && self.live(*other).shut_for(now).is_some()).count();
            Remedy::of(list.count(), ejected)
        });
        remedies.max().unwrap_or(Remedy::Keep)
    }

    /// One that may serve, as it stands at this moment; `None` when nothing is known of the model there. `inside` says whether it
    /// may be used where it is.
    pub fn candidate(&self, deployment: &Deployment, inside: bool, question: &Question<'_>) -> Option<Candidate> {
        let live = self.live(deployment.backend);
        let learned = live.model_at(deployment.place, &deployment.model)?;
        let now_ms = live.millis_at(&question.now);
        learned.doubt(now_ms);
        Some(self.judged(deployment, inside, question, (live, learned), (live.load(), now_ms)))
    }

    /// The same as it would be with nothing ahead of the request: what a price is made of.
    pub fn prospect(&self, deployment: &Deployment, inside: bool, question: &Question<'_>) -> Option<Candidate> {
        let live = self.live(deployment.backend);
        let (learned, now_ms) = (live.model_at(deployment.place, &deployment.model)?, live.millis_at(&question.now));
        Some(self.judged(deployment, inside, question, (live, learned), (Load::default(), now_ms)))
    }

    fn judged(
        &self,
        deployment: &Deployment,
        inside: bool,
        question: &Question<'_>,
        (live, learned): (&Live, &ModelLive),
        (load, now_ms): (Load, u64),
    ) -> Candidate {
        let Question { model, size, policy, warm, now: _, wall, turn } = question;
        let backend = self.plan.backend(deployment.backend);
        let terms = Terms {
            coefficients: deployment.coefficients.as_deref().unwrap_or_else(|| self.plan.energy.find(model)),
            prices: deployment.prices.as_ref(),
            intensity: self.intensity(backend, *wall).map(|intensity| intensity.value),
            margin: self.margin(policy.id).map_or(1.0, |margin| margin.get()),
            known: self.tags.get(deployment.backend.index()).map_or(0.0, |tag| warm.share(*tag)),
            price_per_output_token: self.prices.get(deployment.backend.index()).copied().unwrap_or(Grams::ZERO),
        };
        let estimate = estimate(*size, backend, learned, load, &terms);
        let is_full = live.is_full_for(learned, now_ms) || learned.lacks(estimate.wanted(), now_ms);
        let in_flight = if is_full { u32::MAX } else { estimate.in_flight };
        // Two that come back at once are not let in by the same turns.
        let own_turn = turn.wrapping_add(deployment.backend.0.into());
        let no_token = self.token(deployment.backend).is_some_and(|token| !token.is_good(*wall));
        let by_health = if no_token {
            Standing::Ejected
        } else if !live.is_left_alone(now_ms, own_turn) {
            Standing::Ready
        } else if live.is_shut(now_ms) {
            Standing::Ejected
        } else {
            Standing::Returning
        };
        // What was declared is a bound; what was learned below it is a matter of latency, and weighed with it.
        let standing = Standing::of(inside, by_health, in_flight, backend.max_in_flight);
        Candidate { backend: deployment.backend, estimate, standing, weight: deployment.weight }
    }

    /// The intensity that counts for a backend: of the zones it may run in, the dirtiest; `None` when a zone is unknown or nobody
    /// knows where it runs.
    pub fn intensity(&self, backend: &Backend, now: Timestamp) -> Option<Intensity<'_>> {
        let mut worst: Option<Intensity<'_>> = None;
        for zone in &backend.placement.zones {
            let here = self.grid.at(*zone, now)?;
            if worst.is_none_or(|w| here.value > w.value) {
                worst = Some(here);
            }
        }
        worst
    }

    /// Both ends of the interval in which the intensity of a backend lies; `None` where it has one place, or one that is unknown.
    pub fn intensities(&self, backend: &Backend, now: Timestamp) -> Option<[GramsPerKwh; 2]> {
        Some([self.lowest_intensity(backend, now)?, self.intensity(backend, now)?.value])
    }

    /// The other end of that interval: the value of the cleanest zone of those that a backend may run in; `None` where there is only one.
    pub fn lowest_intensity(&self, backend: &Backend, now: Timestamp) -> Option<GramsPerKwh> {
        let zones = &backend.placement.zones;
        if zones.len() < 2 {
            return None;
        }
        let values = zones.iter().filter_map(|zone| self.grid.at(*zone, now)).map(|intensity| intensity.value);
        values.min_by(|a, b| a.get().total_cmp(&b.get()))
    }
}

fn tags(plan: &Plan) -> Arc<[Tag]> {
    plan.backends.iter().map(|backend| Tag::of(&backend.name)).collect()
}

fn new_keyring(backend: &Backend) -> Option<Arc<Keyring>> {
    match &backend.credential {
        Credential::SigV4(how) => Some(Arc::new(Keyring::new(how.first_keys()?.clone()))),
        _ => None,
    }
}

/// What is asked of every candidate of one request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model as the client names it.
    pub model: &'a str,
    /// How large the request is expected to be.
    pub size: Size,
    /// What is wanted.
    pub policy: &'a Policy,
    /// Who has something of the prompt.
    pub warm: Warm,
    /// Now, for what backends did lately ([`Snapshot::now`]).
    pub now: Now,
    /// Now, for how old a reading is.
    pub wall: Timestamp,
    /// The rotation's state.
    pub turn: u32,
}

/// What listeners show after another plan: what it read of the same files, and where it names other files what they showed before.
fn renewed(listeners: &[Option<ListenerTls>], plan: &Plan) -> Arc<[Option<ListenerTls>]> {
    let read = || plan.boot.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let one = |tls: &ListenerTls| read().find(|read| *read == tls).unwrap_or(tls).clone();
    listeners.iter().map(|listener| listener.as_ref().map(one)).collect()
}

/// The snapshot in force. Only `control` publishes; a request loads once (about 25 ns uncontended, 90 ns contended; a lock would
/// cost as much and could block).
#[derive(Debug)]
pub struct State(ArcSwap<Snapshot>);

impl State {
    /// Starts with a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn publish(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }
}
