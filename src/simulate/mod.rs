//! `windward simulate`: the product's own decisions in virtual time, against modelled regions, judged by an oracle.
//!
//! What is judged is the product: `router` makes its plan with the configuration's loader, asks its snapshot for candidates,
//! lets it decide, and tells it what backends did. Everything around that is a model. Requests come as a Poisson process with a daily
//! wave and bursts; a region has slots, a short queue, servers that read prompts, and a batch that slows down as it grows
//! ([`crate::fleet`], which the mock's sockets share); the grids are recorded hours, played faster than they were.
//!
//! The router is told what an operator can know: bytes of a body, usage at an answer's end, readings of the feed, declared capacity,
//! refusals and failures, and its own counters. It is not told lengths of answers, other tenants, true capacities, or true energy.
//!
//! # What a figure of it is worth
//!
//! * The model of a region is made of round numbers and was never held against a real engine. Its time per token is linear in the
//!   batch unless the scenario says otherwise.
//! * Energy per token does not depend on load, and an idle machine costs nothing. A fleet that stands there anyway saves less.
//! * Grams are attributed by the average intensity of a zone. What the grid as a whole emits may change by less, or not at all.
//! * Savings are against the fastest region, which in the shipped worlds is a dirty one. From a clean home there is little to save,
//!   so the figure to quote is the share of what an oracle would have saved, beside the share of requests that missed their budget.
//! * The oracle ([`oracle`]) ignores what happens within its steps of fifteen seconds, so it is a bound and no policy can reach it.
//!   Where the router is told wrong figures, a second row says how far one comes that has the same figures and knows all the rest.
//! * Clients do not send again, nothing is hedged or timed out, backends are not asked for their health, and no one waits for a
//!   proxy's own processor.

pub mod ablation;
pub mod conditions;
pub mod engine;
pub mod flight;
pub mod log;
pub mod oracle;
pub mod post;
pub mod render;
pub mod router;
pub mod score;
pub mod simplex;
pub mod site;
pub mod told;
pub mod traffic;
pub mod truth;
pub mod world;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use self::ablation::Ablations;
use self::engine::{Engine, Finished, Over, Watch};
use self::oracle::Best;
use self::told::Told;
use self::traffic::Course;
use self::world::World;
use crate::clock::{Clock, SystemClock};
use crate::config::scenario::Scenario;
use crate::config::{ConfigErrors, Plan};
use crate::grid::Grid;
use crate::units::GramsPerKwh;

/// One policy on one seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// The policy, as an index of the scenario's.
    pub policy: usize,
    /// The seed.
    pub seed: u64,
    /// What came of it.
    pub finished: Finished,
    /// How long it took to play.
    pub took: Duration,
}

/// Everything that a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// By policy and then by seed.
    pub runs: Vec<Run>,
    /// By seed: the best that could have been done.
    pub best: Vec<(u64, Best)>,
}

/// What is over.
#[derive(Clone, Debug)]
pub enum Done {
    /// A policy was played.
    Run(Run),
    /// The oracle has found the best of a seed.
    Best(u64, Best, Duration),
}

/// What plays: a policy's plan, and what it does without.
#[derive(Clone, Debug)]
pub struct Player {
    /// The plan, as the configuration's loader made it.
    pub plan: Arc<Plan>,
    /// What it knows of the grids at the beginning.
    pub grid: Arc<Grid>,
    /// What is taken away from the decision.
    pub ablations: Arc<Ablations>,
}

/// What plays for each policy of a scenario.
pub fn players(scenario: &Scenario, world: &World) -> Result<Vec<Player>, ConfigErrors> {
    let means: Vec<GramsPerKwh> = world.grids.iter().map(|grid| grid.mean).collect();
    let player = |settings| {
        let plan = Arc::new(router::plan(scenario, settings, &means)?);
        let grid = Arc::new(router::grid_before(&plan, world));
        Ok(Player { plan, grid, ablations: Arc::new(Ablations::new(&settings.ablate)) })
    };
    scenario.policies.iter().map(player).collect()
}

/// Nobody looks on.
struct Unwatched;

impl Watch for Unwatched {
    fn ended(&mut self, _: &Over<'_>) {}
}

/// Plays one policy on one course; `watch` sees every request that is over.
pub fn play(scenario: &Scenario, world: &World, course: &Course, player: &Player, watch: Option<&mut dyn Watch>) -> Finished {
    let mut unwatched = Unwatched;
    Engine::new(scenario, world, course, player, watch.unwrap_or(&mut unwatched)).run()
}

/// Plays every policy on every seed, and asks the oracle about each seed, as many at a time as `threads`. `done` is called for each
/// as it ends, on the thread that called this.
pub fn compare(
    scenario: &Scenario,
    world: &World,
    players: &[Player],
    threads: usize,
    mut done: impl FnMut(&Done),
) -> Comparison {
    let courses: Vec<OnceLock<Course>> = scenario.seeds.iter().map(|_| OnceLock::new()).collect();
    // The oracle first: it takes longest.
    let jobs: Vec<(usize, Option<usize>)> = (0..scenario.seeds.len())
        .flat_map(|seed| [None].into_iter().chain((0..players.len()).map(Some)).map(move |policy| (seed, policy)))
        .collect();
    let next = AtomicUsize::new(0);
    // One place for each job: nobody has to wait to say that it is over.
    let (ended, endings) = mpsc::sync_channel(jobs.len().max(1));
    let job = |nth: usize, policy: Option<usize>| {
        let (seed, course) = (*scenario.seeds.get(nth)?, courses.get(nth)?);
        let course = course.get_or_init(|| Course::draw(scenario, world, seed));
        let begun = SystemClock.monotonic();
        Some(match policy {
            None => {
                // All policies are told the same.
                let told = players.first().and_then(|player| Told::of(scenario, world, course, player));
                let best = oracle::best(scenario, world, course, told.as_ref());
                Done::Best(seed, best, SystemClock.monotonic() - begun)
            }
            Some(policy) => {
                let finished = play(scenario, world, course, players.get(policy)?, None);
                Done::Run(Run { policy, seed, finished, took: SystemClock.monotonic() - begun })
            }
        })
    };
    let work = |ended: mpsc::SyncSender<Done>| {
        while let Some((nth, policy)) = jobs.get(next.fetch_add(1, Relaxed)).copied() {
            let Some(over) = job(nth, policy) else { return };
            if ended.send(over).is_err() {
                return;
            }
        }
    };
    let mut comparison = Comparison::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let ended = ended.clone();
            scope.spawn(|| work(ended));
        }
        drop(ended);
        for over in &endings {
            done(&over);
            match over {
                Done::Run(run) => comparison.runs.push(run),
                Done::Best(seed, best, _) => comparison.best.push((seed, best)),
            }
        }
    });
    comparison.runs.sort_by_key(|run| (run.policy, run.seed));
    comparison.best.sort_by_key(|(seed, _)| *seed);
    comparison
}
