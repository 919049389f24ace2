//! The best that could have been done: a linear programme for every fifteen seconds, with everything known beforehand.
//!
//! It knows all arrivals, lengths of answers, true intensities, capacities, outages and other tenants, serves every request, and
//! minimises grams. In a region the tokens of a step must fit the largest batch that still keeps the strictest class's time per token,
//! and its prompts 85 % of the time of its readers; a region is open to a kind of requests if an unqueued one would meet the budget to
//! the first token in 99 of 100 cases. Bursts within a step and what is left over from the step before are ignored, so it is a bound
//! rather than a plan.
//!
//! Where a scenario tells the router wrong figures, no router can be held against one that knows the true ones. So there it is asked a
//! second time, by what a router is told of grids and machines ([`Told`]) and with all the rest known as before: that plan is the best by
//! these figures, and is judged by the true ones. It is no bound in the strict sense, as somebody may be wrong by luck the right way, and
//! one who knew how wrong figures are would trust them less where they differ little.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;

use super::conditions;
use super::score::{MOVEMENT_WINDOW, movement};
use super::simplex::{Column, Programme};
use super::told::Told;
use super::traffic::{Ask, Course};
use super::truth::truth;
use super::world::World;
use crate::config::scenario::{Changes, Scenario};
use crate::fleet::Spec;
use crate::tables::TokenCounts;
use crate::units::Millis;

/// A step: long against a request, short against an hour of the grid.
const STEP: Duration = Duration::from_secs(15);
/// Moments of a step at which conditions are looked at.
const LOOKS: u32 = 3;
/// How much of its time a reader of prompts may be busy before a queue of them is the rule.
const PREFILL_USE: f64 = 0.85;
/// How surely the budget to the first token has to be met.
const QUANTILE: f64 = 0.99;
/// Draws by which that is judged.
const DRAWS: u32 = 2_000;
/// Borders of the kinds of prompts, and of answers, in tokens.
const PROMPTS: [u32; 2] = [512, 2048];
const OUTPUTS: [u32; 2] = [128, 384];
/// What leaving requests unserved costs over the dearest way to serve them: so much that it is only done when there is no way.
const OVERFLOW: f64 = 1e3;

/// What the oracle would have emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Best {
    /// Grams of the scored requests; what could not be served in its step counts as served where it is cleanest.
    pub grams: f64,
    /// The share of requests that nobody could have served in their step.
    pub overflow: f64,
    /// Grams of an oracle that knows everything but how long an answer will be, which a router cannot know either. It is no bound in the
    /// strict sense: all of a class with prompts of a kind are one to it, and a router sees each prompt's own size.
    pub grams_without_lengths: f64,
    /// The share of requests, in percent, that it moves to another region from one minute to the next, as a mean.
    pub movement_percent: f64,
    /// An oracle that is told what a router is told; `None` where that is true.
    pub told: Option<Planned>,
}

/// A plan, judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Planned {
    /// Grams of the scored requests, in truth.
    pub grams: f64,
    /// The share of requests, in percent, that it moves to another region from one minute to the next, as a mean.
    pub movement_percent: f64,
}

/// What it has found so far.
#[derive(Clone, Debug, Default)]
struct Found {
    /// In truth, whatever it planned by.
    grams: f64,
    /// Requests that could not be served in their step.
    overflow: f64,
    /// By minute and region: requests served.
    windows: Vec<Vec<f64>>,
}

/// A kind of requests within a step.
#[derive(Clone, Debug, Default)]
struct Bin {
    requests: f64,
    prompt: f64,
    output: f64,
    /// By region, in truth.
    grams: Vec<f64>,
    /// By region, as it is planned by.
    believed: Vec<f64>,
}

/// Class, residency, kind of prompt and of answer.
type Kind = (u8, bool, u8, u8);

/// The best that could have been done on a course, and the best by what is `told`, where that is not true.
pub fn best(scenario: &Scenario, world: &World, course: &Course, told: Option<&Told>) -> Best {
    let prompts = mean_prompts(course);
    let with = |lengths, told| found(Oracle { scenario, world, course, told, lengths, open: HashMap::new(), prompts });
    let (grams_without_lengths, Found { grams, overflow, windows }) = (with(false, None).grams, with(true, None));
    let told = told.map(|told| with(true, Some(told)));
    let requests = course.asks.iter().filter(|ask| ask.at >= scenario.warm_up).count();
    Best {
        grams,
        overflow: overflow / requests.max(1) as f64,
        grams_without_lengths,
        movement_percent: movement(&windows),
        told: told.map(|told| Planned { grams: told.grams, movement_percent: movement(&told.windows) }),
    }
}

/// Step by step.
fn found(mut oracle: Oracle<'_>) -> Found {
    let Oracle { scenario, course, .. } = oracle;
    let scored = course.asks.iter().skip_while(|ask| ask.at < scenario.warm_up);
    let mut best = Found::default();
    let (mut step, mut asks) = (0, Vec::new());
    for ask in scored {
        let here = (ask.at.as_secs_f64() / STEP.as_secs_f64()) as u32;
        if here != step {
            oracle.step(step, &asks, &mut best);
            asks.clear();
            step = here;
        }
        asks.push(*ask);
    }
    oracle.step(step, &asks, &mut best);
    best
}

struct Oracle<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    course: &'a Course,
    /// What it plans by; the truth where that is `None`.
    told: Option<&'a Told>,
    /// Whether it knows how long answers will be.
    lengths: bool,
    /// Whether a region under such conditions is open to a class with such prompts.
    open: HashMap<(usize, u64, u8, u8), bool>,
    /// By kind of prompt: their mean.
    prompts: [f64; 3],
}

impl Oracle<'_> {
    fn step(&mut self, step: u32, asks: &[Ask], found: &mut Found) {
        if asks.is_empty() {
            return;
        }
        let bins = self.bins(asks);
        let looks: Vec<Duration> = (0..LOOKS).map(|look| STEP * step + STEP * look / LOOKS).collect();
        let now: Vec<Vec<Changes>> = (0..self.scenario.regions.len())
            .map(|region| looks.iter().map(|at| conditions::at(self.scenario, self.course, region, *at)).collect())
            .collect();
        let rooms: Vec<Vec<Room>> = self
            .scenario
            .regions
            .iter()
            .zip(&now)
            .map(|(region, looks)| looks.iter().map(|changes| self.room(&region.spec, changes)).collect())
            .collect();
        let mut columns = Vec::new();
        for (group, (kind, bin)) in bins.iter().enumerate() {
            for (region, (rooms, looks)) in rooms.iter().zip(&now).enumerate() {
                let cost = bin.believed.get(region).copied().unwrap_or(0.0);
                if let Some(uses) = self.uses(*kind, bin, region, rooms, looks) {
                    columns.push(Column { group, cost, uses });
                }
            }
        }
        // In a unit of its own, so that the table's numbers are of the order of one.
        let scale = columns.iter().map(|column| column.cost).fold(1e-12, f64::max);
        for column in &mut columns {
            column.cost /= scale;
        }
        let least: Vec<f64> = bins.iter().map(|(_, bin)| bin.grams.iter().copied().fold(f64::INFINITY, f64::min)).collect();
        let programme = Programme { overflow: vec![OVERFLOW; bins.len()], capacities: self.scenario.regions.len() * 2, columns };
        let solution = programme.solve();
        let window = (STEP * step).as_millis() / MOVEMENT_WINDOW.as_millis();
        found.windows.resize_with(window as usize + 1, || vec![0.0; self.scenario.regions.len()]);
        for (column, share) in programme.columns.iter().zip(&solution.shares) {
            let region = column.uses.first().map(|(capacity, _)| capacity / 2);
            let (Some(region), Some((_, bin))) = (region, bins.get(column.group)) else { continue };
            found.grams += share * bin.grams.get(region).copied().unwrap_or(0.0);
            if let Some(count) = found.windows.last_mut().and_then(|window| window.get_mut(region)) {
                *count += share * bin.requests;
            }
        }
        for ((share, least), (_, bin)) in solution.overflow.iter().zip(&least).zip(&bins) {
            found.grams += share * least;
            found.overflow += share * bin.requests;
        }
    }

    fn bins(&self, asks: &[Ask]) -> Vec<(Kind, Bin)> {
        let mut bins: HashMap<Kind, Bin> = HashMap::new();
        for ask in asks {
            let output = if self.lengths { place(ask.output, OUTPUTS) } else { 0 };
            let kind = (ask.class, ask.resident, place(ask.prompt, PROMPTS), output);
            let none = || vec![0.0; self.scenario.regions.len()];
            let bin = bins.entry(kind).or_insert_with(|| Bin { grams: none(), believed: none(), ..Bin::default() });
            bin.requests += 1.0;
            bin.prompt += f64::from(ask.prompt);
            bin.output += f64::from(ask.output);
            let tokens = TokenCounts { input: u64::from(ask.prompt), cached: 0, output: u64::from(ask.output) };
            for (region, (grams, believed)) in bin.grams.iter_mut().zip(&mut bin.believed).enumerate() {
                let true_grams = truth(self.scenario, self.world, self.course, ask, region, tokens);
                *grams += true_grams.get();
                *believed += self.told.map_or(true_grams, |told| told.grams(self.scenario, ask, region, tokens)).get();
            }
        }
        let mut bins: Vec<(Kind, Bin)> = bins.into_iter().collect();
        bins.sort_unstable_by_key(|(kind, _)| *kind);
        bins
    }

    /// What serving all of a bin in a region takes of the region's two capacities; `None` when it must not be served there.
    fn uses(&mut self, kind: Kind, bin: &Bin, region: usize, rooms: &[Room], looks: &[Changes]) -> Option<Vec<(usize, f64)>> {
        let (class, resident, prompt, _) = kind;
        let place = self.scenario.regions.get(region)?;
        let budget = self.scenario.classes.get(usize::from(class))?.per_output_token;
        // At some of the moments it may be open, at others not.
        let mut open = 0.0;
        for (room, changes) in rooms.iter().zip(looks) {
            let fast_enough = room.token_time <= budget && !changes.down;
            open += f64::from(u8::from(fast_enough && self.is_open(region, changes.slow, class, prompt)));
        }
        let mean = |of: fn(&Room) -> f64| rooms.iter().map(of).sum::<f64>() / rooms.len().max(1) as f64;
        let (tokens, reading) = (mean(|room| room.tokens), mean(|room| room.reading));
        if open == 0.0 || tokens <= 0.0 || reading <= 0.0 || (resident && !place.resident) {
            return None;
        }
        let share = |used: f64, capacity: f64| used / (capacity * STEP.as_secs_f64());
        Some(vec![(region * 2, share(bin.output, tokens)), (region * 2 + 1, share(bin.prompt, reading))])
    }

    /// What a region can do under such conditions.
    fn room(&self, spec: &Spec, changes: &Changes) -> Room {
        let replicas = f64::from(changes.replicas.unwrap_or(spec.replicas).get());
        let slots = f64::from(spec.slots_per_replica.get());
        if changes.down {
            return Room::NONE;
        }
        let mut budgets: Vec<Millis> = self.scenario.classes.iter().map(|class| class.per_output_token).collect();
        budgets.sort_unstable_by(|a, b| a.get().total_cmp(&b.get()));
        // The strictest class that can be served at all sets the batch.
        for budget in budgets {
            let batch = largest_batch(spec, budget.get() / changes.slow);
            let own = batch - changes.tenants * slots;
            if own > 0.0 {
                let token_time = spec.token_time(batch) * changes.slow;
                let load = (batch / slots).min(1.0);
                let read = spec.prefill_rate.get() / (changes.slow * (1.0 + 0.5 * load));
                let tokens = replicas * own / (token_time.get() / 1e3);
                return Room { tokens, reading: replicas * read * PREFILL_USE, token_time };
            }
        }
        Room::NONE
    }

    /// Whether an unqueued region meets the budget to the first token surely enough.
    fn is_open(&mut self, region: usize, slow: f64, class: u8, prompt: u8) -> bool {
        let (scenario, prompts) = (self.scenario, self.prompts);
        *self.open.entry((region, slow.to_bits(), class, prompt)).or_insert_with(|| {
            let (Some(place), Some(class)) = (scenario.regions.get(region), scenario.classes.get(usize::from(class))) else {
                return false;
            };
            let tokens = prompts.get(usize::from(prompt)).copied().unwrap_or(0.0);
            let budget = class.first_token + class.per_prompt_token * tokens;
            let (spec, noise) = (&place.spec, &place.spec.noise);
            let reading = tokens / spec.prefill_rate.get() * 1e3 * slow;
            let mut rng = Rng::with_seed(1);
            let met = (0..DRAWS).filter(|_| {
                let took = spec.rtt.get() * noise.spiky(noise.rtt, &mut rng) + reading * noise.spiky(noise.prefill, &mut rng);
                took <= budget.get()
            });
            met.count() as f64 >= QUANTILE * f64::from(DRAWS)
        })
    }
}

/// What a region can do.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Generated tokens a second.
    tokens: f64,
    /// Prompt tokens a second.
    reading: f64,
    /// The time of a step of its batch.
    token_time: Millis,
}

impl Room {
    const NONE: Self = Self { tokens: 0.0, reading: 0.0, token_time: Millis::saturating(f64::MAX) };
}

/// The largest batch of one replica that keeps a time per token, at most all its slots.
fn largest_batch(spec: &Spec, token_ms: f64) -> f64 {
    let slots = f64::from(spec.slots_per_replica.get());
    let (mut low, mut high) = (0.0, slots);
    if spec.token_time(slots).get() <= token_ms {
        return slots;
    }
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if spec.token_time(middle).get() <= token_ms { low = middle } else { high = middle }
    }
    low
}

fn place(tokens: u32, borders: [u32; 2]) -> u8 {
    borders.iter().filter(|border| tokens > **border).count() as u8
}

fn mean_prompts(course: &Course) -> [f64; 3] {
    let mut sums = [(0.0, 0_u32); 3];
    for ask in &course.asks {
        if let Some((sum, count)) = sums.get_mut(usize::from(place(ask.prompt, PROMPTS))) {
            *sum += f64::from(ask.prompt);
            *count += 1;
        }
    }
    sums.map(|(sum, count)| sum / f64::from(count.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scenario::load;
    use crate::config::{Env, NoFiles};
    use crate::simulate::players;
    use crate::simulate::world::GridTrace;
    use crate::units::GramsPerKwh;

    /// Four minutes, an hour of the grid each, of two regions with room for all: one at 100 and one at 300 g/kWh. `wrong` spoils what is
    /// told of them.
    fn best_of(wrong: impl Fn(&mut Course)) -> Best {
        let text = "hours: 4\nwarm_up: 0s\ncarbon_hour: 60s\nregions:\n  - { name: a, grid_zone: DE, rtt: 5ms, replicas: 9 }\n  - { \
                    name: b, grid_zone: FR, rtt: 5ms, replicas: 9 }\nclasses: [{ name: c, share: 1, first_token: 9s, \
                    per_output_token: 80ms }]\npolicies: [{ name: p }]\ntraffic: { per_second: 2, resident: 0 }\n";
        let scenario = load("s.yaml", text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}"));
        let mut world = World::read(&scenario, &NoFiles).unwrap();
        for (grid, intensity) in world.grids.iter_mut().zip([100.0, 300.0].map(GramsPerKwh::saturating)) {
            *grid = GridTrace { hourly: vec![intensity; 5], before: Vec::new(), mean: intensity, recorded: false };
        }
        let mut course = Course::draw(&scenario, &world, 1);
        wrong(&mut course);
        let players = players(&scenario, &world).unwrap_or_else(|errors| panic!("{errors}"));
        let told = Told::of(&scenario, &world, &course, &players[0]);
        best(&scenario, &world, &course, told.as_ref())
    }

    #[test]
    fn wrong_figures_that_leave_the_order_as_it_is_cost_nothing() {
        assert_eq!(best_of(|_| ()).told, None, "nothing is wrong");
        let best = best_of(|course| course.energy_factors = vec![2.0, 2.0]);
        assert_eq!(best.told, Some(Planned { grams: best.grams, movement_percent: best.movement_percent }));
    }

    #[test]
    fn who_is_told_of_each_region_what_is_so_of_the_other_goes_to_the_wrong_one() {
        let best = best_of(|course| course.readings.swap(0, 1));
        let told = best.told.unwrap();
        assert!((told.grams / best.grams - 3.0).abs() < 1e-9, "{told:?} of {best:?}");
        assert!(told.movement_percent < 1e-9 && best.movement_percent < 1e-9, "both stay where they are: {best:?}");
        let by_energy = best_of(|course| course.energy_factors = vec![6.0, 1.0]).told.unwrap();
        assert!(
            (by_energy.grams / best.grams - 6.0).abs() < 1e-9,
            "a region that is believed to be clean takes six times the energy"
        );
    }

    #[test]
    fn who_is_told_otherwise_every_other_hour_moves_with_it() {
        let best = best_of(|course| {
            for nth in [1, 3] {
                let [a, b] = &mut course.readings[..] else { panic!("two regions") };
                std::mem::swap(&mut a[nth], &mut b[nth]);
            }
        });
        let told = best.told.unwrap();
        assert!((told.movement_percent - 100.0).abs() < 1e-9 && best.movement_percent < 1e-9, "{best:?}");
        // Two hours of four there where it is three times as dirty.
        assert!((1.8..2.2).contains(&(told.grams / best.grams)), "{best:?}");
    }
}
