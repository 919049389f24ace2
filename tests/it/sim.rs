//! A seeded simulation of what decides: plan, grid, statistics and time, without a socket. Readings come and grow old, backends
//! fail, refuse and come back, files change for the better and the worse, requests begin and end in any order; after each step
//! everything has to hold that is promised of a decision.
//!
//! `WINDWARD_SIM_SEED=17 cargo test --test it sim` plays one seed again, `WINDWARD_SIM_SEEDS=1000` more of them.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use windward::affinity::Warm;
use windward::backend::BackendId;
use windward::config::{self, Env, Files};
use windward::control::pricing::Pricer;
use windward::decide::{Candidate, Decision, NoCandidate, Standing, Verdict, decide};
use windward::estimate::Demand;
use windward::grid::{Basis, Freshness, Grid, Quality, Reading, Signal, ZoneId};
use windward::live::Permit;
use windward::policy::{Objective, OnNoCandidate};
use windward::route::Route;
use windward::state::{Question, Snapshot, State};
use windward::units::{Grams, GramsPerKwh, Millis};

const STEPS: u32 = 400;
const SEEDS: u64 = 64;

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// A file of some backends in some regions under some policy; now and then one that is wrong.
fn file(random: &mut fastrand::Rng) -> String {
    const REGIONS: [&str; 6] =
        ["aws/eu-north-1", "aws/us-east-1", "aws/ap-southeast-2", "aws/eu-central-1", "gcp/europe-west9", "aws/nowhere-9"];
    let objective = random.choice(["least_carbon", "least_carbon", "least_latency", "round_robin"]).unwrap();
    let budget = random.choice(["200ms", "2s", "1m"]).unwrap();
    let rest = random.choice(["fastest", "reject"]).unwrap();
    let residency = random.choice(["", "    residency: [eu]\n"]).unwrap();
    let count = random.u32(1..6);
    let names: Vec<String> = (0..count).map(|name| format!("b{name}")).collect();
    let mut text = format!(
        "policies:\n  - name: p\n    objective: {objective}\n    latency_budget: {{ first_token: {budget} }}\n    on_no_candidate: \
         {rest}\n{residency}routes:\n  - name: r\n    policy: p\n    backends: [{}]\nbackends:\n",
        names.join(", "),
    );
    for name in 0..count {
        let known = if random.u32(..20) == 0 { 6 } else { 5 };
        let region = random.choice(REGIONS.into_iter().take(known)).unwrap();
        let _ = write!(
            text,
            "  - name: b{name}\n    url: http://127.0.0.1:{}/v1\n    region: {region}\n    models: [m{}]\n    max_in_flight: {}\n",
            9000 + name,
            if random.bool() { "" } else { ", n" },
            random.u32(1..6),
        );
    }
    text
}

struct World {
    random: fastrand::Rng,
    state: State,
    pricer: Pricer,
    now: Instant,
    wall: Timestamp,
    /// What is in flight: whose, since when, and whether its first token is there.
    open: Vec<(BackendId, Arc<windward::live::Live>, Permit)>,
    generation: u64,
    turn: u32,
    decided: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = (0..100).find_map(|_| config::load("sim.yaml", &file(&mut random), &Env::default(), &NoFiles).ok());
        let plan = Arc::new(plan.expect("one file in a hundred is good").plan);
        let (now, wall) = (Instant::now(), "2026-11-26T12:00:00Z".parse().unwrap());
        let state = State::new(Snapshot::first(plan, now));
        let pricer = Pricer::new(&state.load());
        Self { random, state, pricer, now, wall, open: Vec::new(), generation: 1, turn: 0, decided: 0 }
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..8 => self.pass_time(),
            8..10 => self.price(),
            10..20 => self.read_grid(),
            20..22 => self.lose_readings(),
            22..27 => self.change_file(),
            27..45 => self.end_one(),
            45..55 => self.fail_one(),
            _ => self.ask(),
        }
        let snapshot = self.state.load();
        assert_eq!(snapshot.generation, self.generation);
        assert_eq!(snapshot.live.len(), snapshot.plan.backends.len());
    }

    fn pass_time(&mut self) {
        let span = Duration::from_millis(self.random.u64(1..20_000_000));
        self.now += span;
        self.wall += span;
    }

    /// What the control task does each second.
    fn price(&mut self) {
        let snapshot = self.state.load();
        let ticked = self.pricer.tick(&snapshot, self.now, self.wall);
        let prices = ticked.prices.expect("a market of a few is cleared");
        assert_eq!(prices.len(), snapshot.plan.backends.len());
        self.state.publish(snapshot.with_prices(prices, 0.0));
        for backend in &snapshot.plan.backends {
            for (model, _) in snapshot.plan.priors(backend.id) {
                let limit = snapshot.live(backend.id).model(&model).unwrap().limit(backend.max_in_flight);
                assert!((1..=backend.max_in_flight).contains(&limit));
            }
        }
    }

    /// A reading for one zone, at times an old one, or one of long ago.
    fn read_grid(&mut self) {
        let snapshot = self.state.load();
        let zone = ZoneId(self.random.usize(..snapshot.plan.zones.len().max(1)) as u16);
        let measured_at = self.wall - Duration::from_secs(*self.random.choice(&[0, 60, 4_000, 90_000, 800_000_000]).unwrap());
        let intensity = GramsPerKwh::saturating(self.random.f64() * 900.0);
        let reading = Reading {
            intensity,
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality: Quality::Measured,
            measured_at,
            valid_until: measured_at + Duration::from_hours(1),
            source: Arc::from("sim"),
        };
        self.state.publish(snapshot.with_grid(Arc::new(snapshot.grid.with(zone, reading))));
        let after = self.state.load();
        if let Some(at) = after.grid.at(zone, self.wall) {
            let age = self.wall.duration_since(at.reading.measured_at).unsigned_abs();
            let limit = after.plan.carbon.max_age;
            assert!(age <= limit || at.freshness == Freshness::Assumed, "{age:?} old and {:?}", at.freshness);
        }
    }

    /// The sources say nothing any more, and what they said is gone.
    fn lose_readings(&mut self) {
        let snapshot = self.state.load();
        let plan = &snapshot.plan;
        self.state.publish(snapshot.with_grid(Arc::new(Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age))));
        let after = self.state.load();
        for zone in 0..plan.zones.len() {
            let left = after.grid.at(ZoneId(zone as u16), self.wall);
            assert!(left.is_none_or(|left| left.freshness == Freshness::Assumed));
        }
    }

    /// A bad file changes nothing; a good one is in force at once, and what is in flight still counts.
    fn change_file(&mut self) {
        let before = self.state.load();
        match config::load("sim.yaml", &file(&mut self.random), &Env::default(), &NoFiles) {
            Err(problems) => assert!(!problems.to_string().is_empty()),
            Ok(loaded) => {
                self.state.publish(before.with_plan(Arc::new(loaded.plan), self.now));
                self.generation += 1;
                let after = self.state.load();
                for (index, backend) in after.plan.backends.iter().enumerate() {
                    let same = |old: &&Arc<windward::backend::Backend>| old.name == backend.name && old.origin == backend.origin;
                    if let Some(old) = before.plan.backends.iter().find(same) {
                        let (was, is) = (before.live(old.id).in_flight(), after.live[index].in_flight());
                        assert_eq!(was, is, "what is in flight at {} was forgotten", backend.name);
                    }
                }
            }
        }
    }

    fn end_one(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let nth = self.random.usize(..self.open.len());
        let (_, live, mut permit) = self.open.swap_remove(nth);
        let before = live.in_flight();
        permit.answered();
        live.succeeded(self.now);
        drop(permit);
        assert_eq!(live.in_flight(), before - 1);
    }

    fn fail_one(&mut self) {
        let snapshot = self.state.load();
        let id = BackendId(self.random.usize(..snapshot.plan.backends.len()) as u16);
        let live = snapshot.live(id);
        if self.random.u32(..4) == 0 {
            let models: Vec<_> = snapshot.plan.priors(id).map(|(model, _)| model).collect();
            let (model, whole) = (&models[self.random.usize(..models.len())], self.random.bool());
            live.refused(model, whole, self.now, self.random.bool().then(|| Duration::from_secs(u64::from(u32::MAX))));
        } else {
            live.failed(self.now, || snapshot.remedy(id, self.now));
        }
    }

    fn ask(&mut self) {
        let snapshot = self.state.load();
        let model = *self.random.choice(&["m", "n"]).unwrap();
        let Some(route) = snapshot.plan.routes.first() else { return };
        self.turn = self.turn.wrapping_add(1);
        let demand = Demand {
            body_bytes: self.random.usize(..200_000),
            max_output_tokens: self.random.bool().then(|| self.random.u32(..4_000)),
            streamed: self.random.bool(),
            embeddings: false,
        };
        let flow = route.candidates(model).first().map(|deployment| deployment.flow).unwrap_or_default();
        let size = snapshot.size(flow, &demand);
        let question = Question {
            model,
            size,
            policy: &route.policy,
            warm: Warm::default(),
            now: self.now,
            wall: self.wall,
            turn: self.turn,
        };
        let candidates: Vec<Candidate> = route
            .candidates(model)
            .iter()
            .map(|deployment| {
                let inside = !route.outside.contains(&deployment.backend);
                snapshot.candidate(deployment, inside, &question).expect("a plan's models are known to its statistics")
            })
            .collect();
        let decision = decide(&route.policy, demand.streamed, &candidates, self.turn);
        assert_eq!(decision, decide(&route.policy, demand.streamed, &candidates, self.turn), "the same is decided twice alike");
        self.decided += 1;
        match decision {
            Err(why) => none_could(&why, route, &candidates, demand.streamed),
            Ok(decision) => {
                holds(&decision, route, &candidates, demand.streamed);
                let chosen = candidates[usize::from(decision.chosen())].backend;
                let live = snapshot.live(chosen);
                self.open.push((chosen, Arc::clone(live), live.admit(candidates[0].estimate.prompt_tokens)));
            }
        }
    }
}

fn late(route: &Route, candidate: &Candidate, streamed: bool) -> bool {
    let budget = route.policy.budget.as_ref().and_then(|budget| budget.of(streamed, candidate.estimate.prompt_tokens));
    let latency = if streamed { candidate.estimate.first_token } else { candidate.estimate.total };
    budget.is_some_and(|budget| latency > budget) || candidate.estimate.in_flight >= candidate.estimate.limit
}

/// A request is refused only when nobody may take it.
fn none_could(why: &NoCandidate, route: &Route, candidates: &[Candidate], streamed: bool) {
    let usable = |candidate: &&Candidate| matches!(candidate.standing, Standing::Ready | Standing::Returning | Standing::Ejected);
    match why {
        NoCandidate::NoneServes => assert!(candidates.is_empty()),
        NoCandidate::AllExcluded { .. } => {
            let crowded = |candidate: &&Candidate| candidate.estimate.in_flight >= candidate.estimate.limit;
            let rejects = route.policy.on_no_candidate == OnNoCandidate::Reject;
            assert!(candidates.iter().filter(usable).all(|candidate| rejects && crowded(&candidate)));
        }
        NoCandidate::OverBudget { by } => {
            assert!(*by > Millis::ZERO && route.policy.on_no_candidate == OnNoCandidate::Reject);
            let ready = candidates.iter().filter(|candidate| candidate.standing == Standing::Ready);
            assert!(ready.into_iter().all(|candidate| late(route, candidate, streamed)));
        }
    }
}

fn holds(decision: &Decision, route: &Route, candidates: &[Candidate], streamed: bool) {
    let at = |index: u16| &candidates[usize::from(index)];
    assert_eq!(decision.verdicts.len(), candidates.len());
    assert!(!decision.order.is_empty());
    let mut seen = decision.order.to_vec();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), decision.order.len(), "nobody is tried twice");
    let anybody_ready = candidates.iter().any(|candidate| candidate.standing == Standing::Ready);
    for index in decision.order.iter().chain([&decision.baseline]) {
        let standing = at(*index).standing;
        let fits = match standing {
            Standing::Ready | Standing::Returning => true,
            Standing::Ejected => !anybody_ready,
            Standing::NoCapacity | Standing::OutsideResidency | Standing::Untranslatable => false,
        };
        assert!(fits, "{standing:?} is tried");
    }
    for (index, verdict) in decision.verdicts.iter().enumerate() {
        assert_eq!(*verdict == Verdict::Chosen, index == usize::from(decision.chosen()));
    }
    let chosen = at(decision.chosen());
    let punctual = |candidate: &&Candidate| candidate.standing == chosen.standing && !late(route, candidate, streamed);
    if !late(route, chosen, streamed) && route.policy.objective == Objective::LeastCarbon {
        let least = candidates.iter().filter(punctual).filter_map(|candidate| candidate.estimate.emissions).map(Grams::get);
        let least = least.fold(f64::INFINITY, f64::min);
        let own = chosen.estimate.emissions.map_or(f64::INFINITY, Grams::get);
        assert!(own <= least * 1.01 || least == f64::INFINITY, "{own} g were chosen, {least} g were to be had");
    }
    if late(route, chosen, streamed) {
        assert_eq!(candidates.iter().filter(punctual).count(), 0, "somebody would have been in time");
    }
}

fn play(seed: u64) -> u32 {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    // Whatever happened, nothing is left of it once all has ended.
    let held: Vec<_> = world.open.iter().map(|(_, live, _)| Arc::clone(live)).collect();
    world.open.clear();
    for live in held {
        assert_eq!((live.in_flight(), live.pending_prompt_tokens()), (0, 0));
    }
    world.decided
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn what_is_promised_of_a_decision_holds_whatever_happens() {
    let seeds = match number("WINDWARD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WINDWARD_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut decided = 0;
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed)).ok();
        let again = "play it again with `cargo test --test it sim` and it in WINDWARD_SIM_SEED";
        decided += played.unwrap_or_else(|| panic!("seed {seed} failed: {again}"));
    }
    assert!(decided > 0);
}
