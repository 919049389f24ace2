//! The slow half of a decision, once a second: limits that follow the backends, and prices of their capacity.
//!
//! It reads what the requests counted and writes what the next ones are decided with. It is a function of snapshot and time, so that
//! `simulate` runs this very code; the task that calls it is [`super::Control`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::affinity::Warm;
use crate::backend::BackendId;
use crate::config::Plan;
use crate::decide::{Candidate, Standing};
use crate::demand::Usual;
use crate::estimate::Size;
use crate::key::KeyPolicy;
use crate::live::{Asked, PROMPT_CLASSES};
use crate::policy::Policy;
use crate::price::{Market, STEPS_PER_PAIR};
use crate::route::{Deployment, FlowId, Route};
use crate::state::{Question, Snapshot};
use crate::units::{Grams, Millis};

/// How often limits and prices are made. With 5 s simulation lost half a point of the possible saving and with 15 s two.
pub const EVERY: Duration = Duration::from_secs(1);
/// Demand is averaged over about this long: shorter than the bursts that a price should answer, longer than their noise.
const MEMORY_S: f64 = 10.0;
/// Weight of a new price. The demand that it is made of is an average already.
const SMOOTHING: f64 = 0.7;
/// Grams for an output token below which a price is none: a millionth of what a token emits on a clean grid.
const LEAST_PRICE: f64 = 1e-12;
/// Groups of demand in one market, the largest of them. The work grows with its square; 64 at 16 backends take about a millisecond.
const MOST_GROUPS: usize = 64;
/// Pairs of group and backend in one market: that many groups beside 128 backends, and fewer beside more, or there would not be time to
/// clear it.
const MOST_PAIRS: usize = 1 << 13;
/// Below so many output tokens a second a group is of no consequence.
const LEAST_DEMAND: f64 = 1e-3;
/// Whose budget is shorter can hardly wait: where a first token takes 0.1 s and more, less than half a second is left of it. It is a figure
/// by itself: where all first tokens take a second, nobody counts as being in a hurry, and the least is left free.
const HURRIED: Millis = Millis::saturating(600.0);

/// What remains from one time to the next.
#[derive(Debug)]
pub struct Pricer {
    plan: Arc<Plan>,
    /// By backend: the strictest budget of an output token for each model.
    strictest: Vec<HashMap<Arc<str>, Millis>>,
    /// Each flow, with what is known of its demand.
    flows: Vec<Flowing>,
    before: Option<Instant>,
    /// By backend, smoothed.
    prices: Vec<f64>,
    /// What a market may take.
    pub(super) steps_per_pair: usize,
}

/// A flow's candidates and demand.
#[derive(Debug)]
struct Flowing {
    id: FlowId,
    model: Arc<str>,
    policy: Arc<Policy>,
    deployments: Arc<[Deployment]>,
    outside: Box<[BackendId]>,
    seen: [Asked; PROMPT_CLASSES],
    rates: [Rate; PROMPT_CLASSES],
}

/// Averages a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    requests: f64,
    streamed: f64,
    prompt_tokens: f64,
    output_tokens: f64,
}

/// What came of one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ticked {
    /// By `BackendId`, for each output token; `None` when nothing was found and the prices before stay.
    pub prices: Option<Arc<[Grams]>>,
    /// What was asked for lately; an answer of 0 tokens where nothing was.
    pub usual: Usual,
    /// Groups in the market.
    pub groups: usize,
}

impl Pricer {
    /// For a snapshot's plan; prices go on from the snapshot's.
    pub fn new(snapshot: &Snapshot) -> Self {
        let plan = Arc::clone(&snapshot.plan);
        let mut strictest: Vec<HashMap<Arc<str>, Millis>> = vec![HashMap::new(); plan.backends.len()];
        let mut flows = Vec::new();
        for (place, route) in plan.routes.iter().enumerate() {
            let wanted = wanted(&plan, place, route);
            for (name, deployments) in route.models.iter().chain([(&Arc::from("*"), &route.any_model)]) {
                let Some(of_route) = deployments.first().map(|deployment| deployment.flow) else { continue };
                for (policy, own) in &wanted {
                    for deployment in deployments.iter() {
                        let Some(budget) = policy.budget.and_then(|budget| budget.per_output_token) else { break };
                        if let Some(models) = strictest.get_mut(deployment.backend.index()) {
                            let strict = models.entry(Arc::clone(&deployment.model)).or_insert(budget);
                            *strict = if budget < *strict { budget } else { *strict };
                        }
                    }
                    let id = own.map_or(of_route, |own| own.demand_of(of_route));
                    // Beyond so many flows a key's requests are counted with the route's.
                    if own.is_some() && id == of_route && wanted.len() > 1 {
                        continue;
                    }
                    let outside = route.outside.iter().chain(own.iter().flat_map(|own| own.outside.iter())).copied().collect();
                    flows.push(Flowing {
                        id,
                        model: Arc::clone(name),
                        policy: Arc::clone(policy),
                        deployments: Arc::clone(deployments),
                        outside,
                        seen: snapshot.flow(id).map(|flow| flow.totals()).unwrap_or_default(),
                        rates: [Rate::default(); PROMPT_CLASSES],
                    });
                }
            }
        }
        let prices = (0..plan.backends.len()).map(|index| snapshot.prices.get(index).map_or(0.0, |price| price.get())).collect();
        Self { plan, strictest, flows, before: None, prices, steps_per_pair: STEPS_PER_PAIR }
    }

    /// Adapts the limits to what was learned, and finds out what capacity is worth now.
    pub fn tick(&mut self, snapshot: &Snapshot, now: Instant, wall: Timestamp) -> Ticked {
        if !Arc::ptr_eq(&self.plan, &snapshot.plan) {
            self.change_plan(snapshot);
        }
        let since = self.before.replace(now).map_or(EVERY, |before| now.saturating_duration_since(before));
        let seconds = since.as_secs_f64().clamp(1e-3, 60.0);
        for backend in &snapshot.plan.backends {
            let budgets = self.strictest.get(backend.id.index());
            let budget = |model: &str| budgets.and_then(|budgets| budgets.get(model).copied());
            snapshot.live(backend.id).adapt(backend.max_in_flight, seconds, budget);
        }
        for flow in &mut self.flows {
            flow.count(snapshot, seconds);
        }
        let (market, groups) = self.market(snapshot, now, wall);
        let usual = self.usual(&market);
        let Some(cleared) = market.clear_within(self.steps_per_pair) else {
            return Ticked { prices: None, usual, groups };
        };
        for (price, new) in self.prices.iter_mut().zip(&cleared.prices) {
            *price += SMOOTHING * (new - *price);
            // What is left of a price that is over; it would halve for ever.
            if *price < LEAST_PRICE {
                *price = 0.0;
            }
        }
        Ticked { prices: Some(self.prices.iter().map(|price| Grams::saturating(*price)).collect()), usual, groups }
    }

    /// What is asked for lately, by all flows together.
    fn usual(&self, market: &Market) -> Usual {
        let asked = || self.flows.iter().flat_map(|flow| flow.asked().map(move |rate| (flow, rate)));
        let requests: f64 = asked().map(|(_, rate)| rate.requests).sum();
        let answer = if requests > 0.0 { asked().map(|(_, rate)| rate.output_tokens).sum::<f64>() / requests } else { 0.0 };
        let hurried = || asked().filter(|(flow, rate)| flow.is_hurried(rate));
        // Of a plan with several models, those backends to which who is in a hurry may go.
        let mut theirs = vec![false; market.capacity.len()];
        for deployment in hurried().flat_map(|(flow, _)| flow.deployments.iter()) {
            if let Some(is_theirs) = theirs.get_mut(deployment.backend.index()) {
                *is_theirs = true;
            }
        }
        let capacity: f64 = market.capacity.iter().zip(&theirs).filter(|(_, is_theirs)| **is_theirs).map(|(all, _)| all).sum();
        let tokens: f64 = hurried().map(|(_, rate)| rate.output_tokens).sum();
        Usual { answer, hurried: if capacity > 0.0 { tokens / capacity } else { 0.0 } }
    }

    /// Another plan: demand that is known by name goes on.
    fn change_plan(&mut self, snapshot: &Snapshot) {
        let mut next = Self::new(snapshot);
        let old: HashMap<_, _> = self.flows.iter().map(|flow| (self.plan.flows.get(flow.id.index()), flow.rates)).collect();
        for flow in &mut next.flows {
            if let Some(rates) = old.get(&snapshot.plan.flows.get(flow.id.index())) {
                flow.rates = *rates;
            }
        }
        next.before = self.before;
        *self = next;
    }

    /// Every group of demand beside every backend.
    fn market(&self, snapshot: &Snapshot, now: Instant, wall: Timestamp) -> (Market, usize) {
        let backends = snapshot.plan.backends.len();
        let mut groups: Vec<(&Flowing, &Rate)> =
            self.flows.iter().flat_map(|flow| flow.asked().map(move |rate| (flow, rate))).collect();
        groups.sort_by(|(_, a), (_, b)| b.output_tokens.total_cmp(&a.output_tokens));
        groups.truncate(MOST_GROUPS.min(MOST_PAIRS / backends.max(1)).max(1));
        let mut market = Market {
            demand: groups.iter().map(|(_, rate)| rate.output_tokens).collect(),
            capacity: snapshot.plan.backends.iter().map(|backend| capacity(snapshot, backend.id, now)).collect(),
            cost: vec![f64::INFINITY; groups.len() * backends],
        };
        for (row, (flow, rate)) in market.cost.chunks_exact_mut(backends.max(1)).zip(&groups) {
            flow.costs(rate, snapshot, now, wall, row);
        }
        (market, groups.len())
    }
}

/// The policies under which a route's requests come: its own, unless every key that opens it brings another, and those of such keys.
/// What a request narrows of its policy by header is not looked at: it is counted as its policy has it.
fn wanted<'p>(plan: &'p Plan, place: usize, route: &'p Route) -> Vec<(&'p Arc<Policy>, Option<&'p KeyPolicy>)> {
    let opening = || plan.keys.iter().filter(|key| key.opens(place));
    let by_route = plan.keys.is_empty() || opening().any(|key| key.policy.is_none());
    let mut wanted: Vec<(&Arc<Policy>, Option<&KeyPolicy>)> = Vec::new();
    wanted.extend(by_route.then_some((&route.policy, None)));
    for own in opening().filter_map(|key| key.policy.as_deref()) {
        if !wanted.iter().any(|(_, known)| known.is_some_and(|known| std::ptr::eq(known, own))) {
            wanted.push((&own.policy, Some(own)));
        }
    }
    wanted
}

/// Output tokens a second that a backend gives when it is as full as it should be: as the busiest of its models shows it that give
/// any. Embeddings give none: they need little of what is scarce, which is time in a batch, and have no price.
fn capacity(snapshot: &Snapshot, id: BackendId, now: Instant) -> f64 {
    let (backend, live) = (snapshot.plan.backend(id), snapshot.live(id));
    if live.shut_for(now).is_some() || live.full_for(now).is_some() {
        return 0.0;
    }
    let models = snapshot.plan.priors(id).filter_map(|(name, _)| live.model(&name));
    let Some(model) = models.max_by_key(|model| (model.knows_token_rate(), model.samples())) else { return 0.0 };
    let limit = model.limit(backend.max_in_flight);
    f64::from(limit) / model.per_output_token(limit, backend.max_in_flight).get().max(1e-3) * 1e3
}

impl Flowing {
    /// Takes what was asked for since the last time into the averages.
    fn count(&mut self, snapshot: &Snapshot, seconds: f64) {
        let Some(flow) = snapshot.flow(self.id) else { return };
        let totals = flow.totals();
        let weight = 1.0 - (-seconds / MEMORY_S).exp();
        for ((rate, now), seen) in self.rates.iter_mut().zip(&totals).zip(&self.seen) {
            let blend = |average: &mut f64, now: u64, seen: u64| {
                // Of other replicas more may have been guessed than they then said.
                *average += weight * (now.wrapping_sub(seen).cast_signed() as f64 / seconds - *average);
            };
            blend(&mut rate.requests, now.requests, seen.requests);
            blend(&mut rate.streamed, now.streamed, seen.streamed);
            blend(&mut rate.prompt_tokens, now.prompt_tokens, seen.prompt_tokens);
            blend(&mut rate.output_tokens, now.output_tokens, seen.output_tokens);
        }
        self.seen = totals;
    }

    /// Its demand, by class of prompts, where it is of consequence.
    fn asked(&self) -> impl Iterator<Item = &Rate> {
        self.rates.iter().filter(|rate| rate.output_tokens > LEAST_DEMAND && rate.requests > 0.0)
    }

    /// Whether those who ask so can hardly wait.
    fn is_hurried(&self, rate: &Rate) -> bool {
        let mean = (rate.prompt_tokens / rate.requests) as u32;
        let budget = self.policy.budget.and_then(|budget| budget.of(rate.streamed * 2.0 >= rate.requests, mean));
        budget.is_some_and(|budget| budget < HURRIED)
    }

    /// What a token of this demand costs at each backend that may serve it in time.
    fn costs(&self, rate: &Rate, snapshot: &Snapshot, now: Instant, wall: Timestamp, row: &mut [f64]) {
        let mean = |sum: f64| (sum / rate.requests).round().clamp(0.0, f64::from(u32::MAX)) as u32;
        let size = Size { prompt_tokens: mean(rate.prompt_tokens), output_tokens: mean(rate.output_tokens).max(1) };
        let streamed = rate.streamed * 2.0 >= rate.requests;
        let (warm, now) = (Warm::default(), snapshot.now(now));
        let question = Question { model: &self.model, size, policy: &self.policy, warm, now, wall, turn: 0 };
        for deployment in self.deployments.iter() {
            let inside = !self.outside.contains(&deployment.backend);
            let Some(candidate) = snapshot.prospect(deployment, inside, &question) else { continue };
            if let Some(slot) = row.get_mut(deployment.backend.index())
                && let Some(cost) = self.cost(&candidate, streamed)
            {
                *slot = cost / f64::from(size.output_tokens);
            }
        }
    }

    /// Grams of one request with what its waiting is worth, at a backend where it would be in time; of unknown carbon there are none.
    fn cost(&self, candidate: &Candidate, streamed: bool) -> Option<f64> {
        let estimate = &candidate.estimate;
        let usable = matches!(candidate.standing, Standing::Ready | Standing::Returning | Standing::NoCapacity);
        let budget = self.policy.budget.and_then(|budget| budget.of(streamed, estimate.prompt_tokens));
        let latency = if streamed { estimate.first_token } else { estimate.total };
        if !usable || budget.is_some_and(|budget| latency > budget) {
            return None;
        }
        let waiting = self.policy.grams_for_waiting(estimate.first_token).get();
        let money = estimate.cost.map_or(0.0, |cost| self.policy.grams_for(cost).get());
        estimate.emissions.map(|grams| grams.get() + waiting + money)
    }
}
