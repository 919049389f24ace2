//! The one place where the simulation meets the product: the plan is made by the configuration's loader, candidates by the snapshot,
//! the choice by [`decide`], and what was learned and counted is in [`crate::live`]. Nothing here chooses anything; it calls what a
//! request calls, in the order in which a request does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::Player;
use super::ablation::{Ablations, FIXED_LIMIT};
use super::world::World;
use crate::affinity::{Session, SessionKey};
use crate::backend::BackendId;
use crate::config::scenario::{Ablation, Class, Scenario, Settings};
use crate::config::{self, ConfigErrors, Env, NoFiles, Plan};
use crate::control::pricing::{Pricer, Ticked};
use crate::decide::{self, Candidate, Decision, NoCandidate, Scratch, Standing, Waiting};
use crate::estimate::Demand;
use crate::grid::{Basis, Grid, Quality, Reading, Signal};
use crate::live::{Permit, Remedy, RetryBudget};
use crate::peers::Exchange;
use crate::policy::Policy;
use crate::route::{Deployment, Route};
use crate::state::{self, Lesson, Question, Snapshot};
use crate::units::{Grams, GramsPerKwh, Millis};

/// The one model that is asked for.
pub const MODEL: &str = "simulated";
/// Any key will do where nobody guesses.
const SESSION_KEY: SessionKey = SessionKey::new([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]);
/// What an operator would expect of a region beyond its round trip before anything was measured.
const EXPECTED_READING: Millis = Millis::saturating(15.0);

/// A moment of a run. The two clocks differ: an hour of the grid passes faster than an hour of requests.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By which requests are measured.
    pub now: Instant,
    /// By which readings grow old.
    pub wall: Timestamp,
}

/// What was decided about one request, and on what grounds.
#[derive(Debug)]
pub struct Decided {
    /// The route, as an index.
    pub route: usize,
    /// What it was decided on.
    pub demand: Demand,
    /// The conversation that it is a turn of.
    pub session: Option<Session>,
    /// Everybody who serves the model.
    pub candidates: SmallVec<[Candidate; 8]>,
    /// The rotation's state.
    pub turn: u32,
    /// From its arrival until then.
    pub spent: Millis,
    /// The plan, the readings and the prices that it came under, which stay for as long as it is held back.
    pub snapshot: Arc<Snapshot>,
    /// What came of it.
    pub outcome: Outcome,
    /// The share of the places in time that was kept free of it when it was last held back, or was shed; 0 where it was neither.
    pub reserve: f64,
    /// By which share of a limit it was let go beyond that; 0 where it was not.
    pub strain: f64,
}

/// What is to be done with a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum Outcome {
    /// It is sent, to these in their order.
    Serve(Decision),
    /// It is refused.
    Refuse(NoCandidate),
    /// It is refused because it could only come too late.
    Shed,
    /// It is held back, and decided again after this long.
    Hold(Duration),
}

/// One proxy.
#[derive(Debug)]
pub struct Router {
    snapshot: Arc<Snapshot>,
    pricer: Pricer,
    retries: RetryBudget,
    exchange: Exchange,
    ablations: Arc<Ablations>,
    /// Seconds since it started.
    seconds: u64,
    /// By route.
    turns: Vec<u32>,
    scratch: Scratch,
}

impl Router {
    /// A proxy that has just started. `run` tells it from the others.
    pub fn new(run: u64, player: &Player, origin: Instant) -> Self {
        let turns = vec![0; player.plan.routes.len()];
        let snapshot = Arc::new(Snapshot::first(Arc::clone(&player.plan), origin).with_grid(Arc::clone(&player.grid)));
        let (pricer, exchange) = (Pricer::new(&snapshot), Exchange::new(run, &snapshot));
        let (ablations, retries) = (Arc::clone(&player.ablations), RetryBudget::new(origin));
        Self { snapshot, pricer, retries, exchange, ablations, seconds: 0, turns, scratch: Scratch::default() }
    }

    /// The policy of a route.
    pub fn policy(&self, route: usize) -> Option<&Arc<Policy>> {
        self.route(route).map(|route| &route.policy)
    }

    fn route(&self, route: usize) -> Option<&Route> {
        self.snapshot.plan.routes.get(route)
    }

    /// Who may serve on a route.
    pub fn deployments(&self, route: usize) -> &[Deployment] {
        self.route(route).map_or(&[], |route| route.candidates(MODEL))
    }

    /// Decides who serves a request, a turn of the conversation of that number if there is one.
    pub fn decide(&mut self, route: usize, demand: Demand, conversation: Option<u32>, at: Moment) -> Decided {
        let snapshot = Arc::clone(&self.snapshot);
        self.decide_under(snapshot, route, demand, conversation, Duration::ZERO, at)
    }

    /// Decides a request anew that was held back, and came `spent` ago: by what it came under, as one request sees one snapshot.
    pub fn decide_again(&mut self, held: &Decided, conversation: Option<u32>, spent: Duration, at: Moment) -> Decided {
        let decided = self.decide_under(Arc::clone(&held.snapshot), held.route, held.demand, conversation, spent, at);
        let reserve = if matches!(decided.outcome, Outcome::Hold(_) | Outcome::Shed) { decided.reserve } else { held.reserve };
        Decided { reserve, ..decided }
    }

    fn decide_under(
        &mut self,
        snapshot: Arc<Snapshot>,
        route: usize,
        demand: Demand,
        conversation: Option<u32>,
        spent: Duration,
        at: Moment,
    ) -> Decided {
        let turn = self.turns.get_mut(route).map_or(0, |turn| {
            *turn = turn.wrapping_add(1);
            turn.wrapping_sub(1)
        });
        self.believe(at);
        let called = |number: u32| Session::called(&SESSION_KEY, &number.to_le_bytes()).of(&SESSION_KEY, MODEL, "");
        let session = conversation.filter(|_| !self.ablations.has(Ablation::NoAffinity)).map(called);
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        let (mut outcome, mut reserve, mut strain) = (Outcome::Refuse(NoCandidate::NoneServes), 0.0, 0.0);
        if let Some(route) = snapshot.plan.routes.get(route) {
            let inside = |deployment: &Deployment| !route.outside.contains(&deployment.backend);
            let all = route.candidates(MODEL).iter();
            let flow = all.clone().next().map(|deployment| deployment.flow).unwrap_or_default();
            let mut size = snapshot.size(flow, &demand);
            if let Some(flow) = snapshot.flow(flow) {
                size = self.ablations.size(size, flow, &demand);
            }
            if let Some(flow) = snapshot.flow(flow).filter(|_| spent.is_zero()) {
                flow.asked(size, demand.streamed);
            }
            let warm = snapshot.warm(session.as_ref(), &route.policy, demand.body_bytes, at.now);
            let now = snapshot.now(at.now);
            let question = Question { model: MODEL, size, policy: &route.policy, warm, now, wall: at.wall, turn };
            candidates.extend(all.filter_map(|one| snapshot.candidate(one, inside(one), &question)));
            for candidate in &mut candidates {
                let price = snapshot.prices.get(candidate.backend.index()).copied().unwrap_or(Grams::ZERO);
                self.ablations.estimate(&mut candidate.estimate, price);
            }
            let in_time = self.ablations.in_time(
                &route.policy,
                demand.streamed,
                &candidates,
                turn,
                Waiting { spent: Millis::from(spent), usual: snapshot.usual },
                &self.scratch,
            );
            outcome = match in_time {
                Ok(it) => {
                    (reserve, strain) = (it.reserve, it.strain);
                    match it.outcome {
                        decide::Outcome::Serve(decision) => Outcome::Serve(decision),
                        decide::Outcome::Hold(span) => Outcome::Hold(span),
                        decide::Outcome::Shed => Outcome::Shed,
                    }
                }
                Err(why) => Outcome::Refuse(why),
            };
        }
        Decided { route, demand, session, candidates, turn, spent: Millis::from(spent), snapshot, outcome, reserve, strain }
    }

    /// A request is sent to one of its candidates. `first` says that it was sent to nobody before.
    pub fn dispatched(&self, candidate: &Candidate, first: bool, at: Moment) -> Permit {
        if first {
            self.retries.asked(at.now);
        }
        self.snapshot.live(candidate.backend).admit(self.ablations.pending(candidate.estimate.tokens_to_read()))
    }

    /// The first token is there.
    pub fn first_token(&self, permit: &mut Permit, decided: &Decided, candidate: &Candidate, seen: FirstSeen) {
        if !self.ablations.has(Ablation::QueueByCount) {
            permit.answered();
        }
        if let Some(lesson) = self.lesson(decided, candidate) {
            self.snapshot.learn_first_token(&lesson, Millis::from(seen.took), Millis::from(seen.waited), seen.now);
            if let Some(margin) = self.snapshot.margin(lesson.policy.id).filter(|_| self.ablations.has(Ablation::NoErrorBudget)) {
                margin.restore(1.0, 1.0);
            }
        }
    }

    /// The answer came to its end: it counts for the backend's health, and teaches what an exchange teaches when its books are closed.
    pub fn ended(&self, decided: &Decided, candidate: &Candidate, seen: &Seen, at: Moment) {
        let live = self.snapshot.live(candidate.backend);
        live.succeeded(at.now);
        if let Some(lesson) = self.lesson(decided, candidate) {
            let seen = state::Seen {
                first_token: Some(Millis::from(seen.first_token)),
                whole: Millis::from(seen.total),
                waited: Millis::from(seen.total),
                held_up: false,
                in_flight_then: seen.in_flight_then,
                output_tokens: Some(seen.output_tokens),
                input_tokens: Some(seen.input_tokens),
                cached_tokens: Some(seen.cached_tokens),
                now: at.now,
            };
            self.snapshot.learn(&lesson, &seen);
        }
    }

    fn lesson<'l>(&'l self, decided: &'l Decided, candidate: &'l Candidate) -> Option<Lesson<'l>> {
        let deployment = self.deployments(decided.route).iter().find(|one| one.backend == candidate.backend)?;
        let (policy, session) = (self.policy(decided.route)?, decided.session.as_ref());
        Some(Lesson { deployment, candidate, policy, demand: &decided.demand, session })
    }

    /// A backend said that it has no room.
    pub fn refused(&self, backend: BackendId, retry_after: Option<Duration>, at: Moment) {
        self.snapshot.live(backend).refused(MODEL, false, at.now, retry_after);
    }

    /// A backend failed a request that was decided.
    pub fn failed(&self, backend: BackendId, decided: &Decided, at: Moment) {
        self.snapshot.live(backend).failed(at.now, || self.remedy(backend, decided, at));
    }

    /// As an exchange judges it.
    fn remedy(&self, backend: BackendId, decided: &Decided, at: Moment) -> Remedy {
        let able = decided.candidates.iter().filter(|candidate| candidate.standing != Standing::OutsideResidency);
        let others = able.clone().filter(|candidate| candidate.backend != backend);
        let serves = |other: &Candidate| matches!(other.standing, Standing::Ready | Standing::Returning);
        if !others.clone().any(serves) {
            return Remedy::Keep;
        }
        let is_shut = |other: &&Candidate| self.snapshot.live(other.backend).shut_for(at.now).is_some();
        Remedy::of(able.count(), others.filter(is_shut).count())
    }

    /// Whether one more attempt is within the budget, which it then counts in.
    pub fn may_retry(&self, at: Moment) -> bool {
        self.retries.spend(self.snapshot.plan.limits.retries, at.now)
    }

    /// A carbon source has a new reading for a region; it is good for an hour of the grid.
    pub fn reading(&mut self, region: usize, intensity: GramsPerKwh, at: Moment) {
        let backend = self.snapshot.plan.backends.get(region);
        let Some(zone) = backend.and_then(|backend| backend.placement.zones.first().copied()) else { return };
        self.snapshot = Arc::new(self.snapshot.with_grid(Arc::new(self.snapshot.grid.with(zone, simulated(intensity, at.wall)))));
    }

    /// A second has passed: what `control` does once a second.
    pub fn tick(&mut self, at: Moment) {
        self.seconds += 1;
        if !self.ablations.ticks(self.seconds) {
            return;
        }
        let Ticked { prices, usual, .. } = self.pricer.tick(&self.snapshot, at.now, at.wall);
        let prices = prices.unwrap_or_else(|| Arc::clone(&self.snapshot.prices));
        let free = self.ablations.has(Ablation::NoPrice);
        let prices = if free { prices.iter().map(|_| Grams::ZERO).collect() } else { prices };
        self.snapshot = Arc::new(self.snapshot.with_prices(prices, usual));
    }

    /// Lets nothing fade, where that is taken away.
    fn believe(&self, at: Moment) {
        if self.ablations.has(Ablation::NoDoubt) {
            let models = self.snapshot.live.iter().filter_map(|live| Some((live.model(MODEL)?, live.millis(at.now))));
            models.for_each(|(model, now_ms)| model.believe(now_ms));
        }
    }

    /// What it says of its load to so many others.
    pub fn loads(&mut self, at: Moment, others: usize) -> Vec<Vec<u8>> {
        self.exchange.look(&self.snapshot, at.now, others);
        self.exchange.loads(&self.snapshot)
    }

    /// What it says of what it has learned.
    pub fn lessons(&mut self, at: Moment) -> Vec<Vec<u8>> {
        self.exchange.it_is(at.now);
        self.exchange.lessons(&self.snapshot)
    }

    /// Another proxy said something.
    pub fn hear(&mut self, message: &[u8], at: Moment) {
        // Whatever was wrong with it, the next one will do.
        let _ = self.exchange.take(message, &self.snapshot, at.now);
    }

    /// Requests and prompt tokens that are still counted as under way: none, once all have ended.
    pub fn under_way(&self) -> (u64, u64) {
        let live = || self.snapshot.live.iter();
        (live().map(|one| u64::from(one.in_flight())).sum(), live().map(|one| one.pending_prompt_tokens()).sum())
    }
}

/// A reading of the feed, which is good for an hour of the grid.
pub(super) fn simulated(intensity: GramsPerKwh, at: Timestamp) -> Reading {
    Reading {
        intensity,
        signal: Signal::Average,
        basis: Basis::Lifecycle,
        quality: Quality::Simulated,
        measured_at: at,
        valid_until: at.checked_add(Duration::from_hours(1)).unwrap_or(Timestamp::MAX),
        source: Arc::from("simulated"),
    }
}

/// What a proxy knows of the grids when it has run for weeks before the scenario begins, where these were recorded.
pub(super) fn grid_before(plan: &Plan, world: &World) -> Grid {
    let mut grid = Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age);
    for (backend, trace) in plan.backends.iter().zip(&world.grids) {
        let Some(zone) = backend.placement.zones.first() else { continue };
        trace.before.iter().for_each(|(at, intensity)| grid.set(*zone, simulated(*intensity, *at)));
    }
    grid
}

/// What an exchange has seen of an answer, measured from when it was sent to whoever gave it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Until the first token.
    pub first_token: Duration,
    /// Until the end.
    pub total: Duration,
    /// Requests that the backend had in flight at the first token.
    pub in_flight_then: u32,
    /// As reported.
    pub input_tokens: u64,
    /// As reported.
    pub cached_tokens: u64,
    /// As reported.
    pub output_tokens: u64,
}

/// When a first token came.
#[derive(Clone, Copy, Debug)]
pub struct FirstSeen {
    /// After it was asked for.
    pub took: Duration,
    /// After the request came.
    pub waited: Duration,
    /// Now.
    pub now: Instant,
}

/// The route of a class, without and with a rule of residency.
pub const fn route_of(class: u8, resident: bool) -> usize {
    class as usize * 2 + resident as usize
}

/// The plan of a scenario under one of its policies, by way of the configuration that an operator would write.
pub fn plan(scenario: &Scenario, settings: &Settings, means: &[GramsPerKwh]) -> Result<Plan, ConfigErrors> {
    let text = configuration(scenario, settings, means).to_string();
    let name = format!("(configuration of the policy {})", settings.name);
    config::load(&name, &text, &Env::default(), &NoFiles).map(|loaded| loaded.plan)
}

/// The configuration. JSON is YAML, and needs no quoting of one's own.
fn configuration(scenario: &Scenario, settings: &Settings, means: &[GramsPerKwh]) -> Value {
    let names: Vec<&str> = scenario.regions.iter().map(|region| &*region.spec.name).collect();
    let residency: Vec<&str> =
        scenario.regions.iter().filter(|region| region.resident).map(|region| &*region.spec.name).collect();
    let fixed = settings.ablate.contains(&Ablation::FixedLimits);
    let zones: Map<String, Value> = scenario
        .regions
        .iter()
        .zip(means)
        .map(|(region, mean)| (region.zone.as_str().to_owned(), json!({ "yearly": mean.get() })))
        .collect();
    let backends: Vec<Value> = scenario
        .regions
        .iter()
        .map(|region| {
            json!({
                "name": &*region.spec.name,
                "url": "http://127.0.0.1:1/v1",
                "region": &*region.spec.name,
                "grid_zone": region.zone.as_str(),
                "pue": region.pue.get(),
                "models": [MODEL],
                "max_in_flight": if fixed { (f64::from(region.declared) * FIXED_LIMIT) as u32 } else { region.declared },
                "simulated": true,
                "price_usd_per_million_tokens": region.prices,
                "expect": {
                    "first_token": span(region.spec.rtt + EXPECTED_READING),
                    "per_prompt_token": "62500ns",
                },
            })
        })
        .collect();
    let (mut policies, mut routes) = (Vec::new(), Vec::new());
    for class in &scenario.classes {
        for resident in [false, true] {
            let name = format!("{}{}", class.name, if resident { "-resident" } else { "" });
            policies.push(policy(&name, class, settings, if resident { &residency } else { &[] }));
            routes.push(json!({ "name": name, "match": { "path": format!("/{name}") }, "policy": name, "backends": names }));
        }
    }
    let energy = scenario.energy;
    json!({
        "carbon": { "sources": ["builtin"], "zones": zones },
        "energy": [{
            "model": MODEL,
            "input_joules_per_token": energy.input.get(),
            "cached_joules_per_token": energy.cached.get(),
            "output_joules_per_token": energy.output.get(),
        }],
        "backends": backends,
        "policies": policies,
        "routes": routes,
    })
}

/// A policy: the class's budget, what the class asks for besides, and over both what is compared.
fn policy(name: &str, class: &Class, settings: &Settings, residency: &[&str]) -> Value {
    let mut policy = json!({
        "name": name,
        "latency_budget": {
            "first_token": span(class.first_token),
            "per_prompt_token": span(class.per_prompt_token),
            "per_output_token": span(class.per_output_token),
        },
    });
    for wanted in [&class.policy, &settings.settings] {
        merge(&mut policy, wanted);
    }
    // Without a budget for them nothing is learned of a limit but by refusals.
    if let Some(Value::Object(budget)) =
        policy.get_mut("latency_budget").filter(|_| settings.ablate.contains(&Ablation::FixedLimits))
    {
        budget.remove("per_output_token");
    }
    if settings.ablate.contains(&Ablation::NoShed) {
        policy["overload"] = json!("spill");
    }
    if !residency.is_empty() {
        policy["residency"] = json!(residency);
    }
    policy
}

/// Puts `over` on top of `under`, mapping by mapping.
fn merge(under: &mut Value, over: &Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(below @ Value::Object(_)), Value::Object(above)) => merge(below, above),
            _ => under[key] = value.clone(),
        }
    }
}

fn span(millis: Millis) -> String {
    format!("{:.0}ns", millis.get() * 1e6)
}
