//! What one seed brings: requests, other tenants, wrong figures. It is drawn once for a seed and shared by all policies, so that a
//! difference between two of them is never a difference of luck.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;
use std::time::Duration;

use fastrand::Rng;

use super::world::{Arrival, World, hour_of_day};
use crate::config::scenario::{Scenario, Sessions, Tenants};
use crate::fleet::{Spread, standard_normal};
use crate::units::GramsPerKwh;

/// How often the load of other tenants moves.
pub const TENANTS_STEP: Duration = Duration::from_secs(5);
/// The most requests of one run: their list takes 40 bytes each.
const MAX_REQUESTS: usize = 50_000_000;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// When, since the start.
    pub at: Duration,
    /// Which class, as an index.
    pub class: u8,
    /// Whether it has a rule of residency.
    pub resident: bool,
    /// The conversation that it is a turn of.
    pub session: Option<u32>,
    /// Prompt tokens.
    pub prompt: u32,
    /// Tokens of the answer.
    pub output: u32,
    /// Bytes of its body.
    pub bytes: u32,
}

/// Everything that one seed draws.
#[derive(Clone, Debug)]
pub struct Course {
    /// The seed.
    pub seed: u64,
    /// By time.
    pub asks: Vec<Ask>,
    /// By region: what a token costs in truth over what the router is told.
    pub energy_factors: Vec<f64>,
    /// By region and hour: the reading that the feed has.
    pub readings: Vec<Vec<GramsPerKwh>>,
    /// By region, every [`TENANTS_STEP`]: the share of the slots that others take.
    pub tenants: Vec<Vec<f32>>,
}

/// Streams of chance that are kept apart, so that a change of one leaves the others as they were.
#[derive(Clone, Copy)]
enum Stream {
    Arrivals = 1,
    Kinds,
    Energy,
    Readings,
    Tenants,
}

fn stream(seed: u64, which: Stream, nth: usize) -> Rng {
    Rng::with_seed(mixed(mixed(seed) ^ ((which as u64) << 32 | nth as u64)))
}

/// What one attempt of one request draws of noise, whoever is tried: the same under every policy.
pub fn noise_of(seed: u64, ask: u32, attempt: u8) -> Rng {
    Rng::with_seed(mixed(mixed(seed ^ 0x6e6f_6973_6500_0000) ^ (u64::from(ask) << 8 | u64::from(attempt))))
}

/// The finaliser of SplitMix64: neighbouring seeds come out unrelated.
const fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Course {
    /// What that seed draws for the scenario.
    pub fn draw(scenario: &Scenario, world: &World, seed: u64) -> Self {
        let factor = |spread: Spread, rng: &mut Rng| spread.factor(rng);
        let energy_factors = (0..scenario.regions.len())
            .map(|region| factor(scenario.errors.energy, &mut stream(seed, Stream::Energy, region)))
            .collect();
        let readings = world
            .grids
            .iter()
            .enumerate()
            .map(|(region, grid)| {
                let mut rng = stream(seed, Stream::Readings, region);
                grid.hourly.iter().map(|truth| *truth * factor(scenario.errors.carbon, &mut rng)).collect()
            })
            .collect();
        let steps = (scenario.duration().as_secs_f64() / TENANTS_STEP.as_secs_f64()).ceil() as usize + 1;
        let tenants = (0..scenario.regions.len())
            .map(|region| {
                scenario
                    .tenants
                    .map_or_else(Vec::new, |wander| tenants(wander, steps, &mut stream(seed, Stream::Tenants, region)))
            })
            .collect();
        Self { seed, asks: asks(scenario, world, seed), energy_factors, readings, tenants }
    }

    /// The share of a region's slots that others take.
    pub fn tenants_at(&self, region: usize, at: Duration) -> f64 {
        let step = (at.as_secs_f64() / TENANTS_STEP.as_secs_f64()) as usize;
        self.tenants.get(region).and_then(|path| path.get(step).or(path.last())).map_or(0.0, |share| f64::from(*share))
    }
}

/// A wandering share: an autoregressive process of the first order, never below zero.
fn tenants(wander: Tenants, steps: usize, rng: &mut Rng) -> Vec<f32> {
    let keep = (-TENANTS_STEP.as_secs_f64() / wander.correlation.as_secs_f64()).exp();
    let mut z = standard_normal(rng);
    (0..steps)
        .map(|_| {
            z = keep * z + (1.0 - keep * keep).sqrt() * standard_normal(rng);
            (wander.mean + wander.spread * z).clamp(0.0, 1.0) as f32
        })
        .collect()
}

/// The rate over the mean at `at`, by the hour of the day.
fn wave(scenario: &Scenario, at: f64) -> f64 {
    let traffic = &scenario.traffic;
    let hours = at / scenario.carbon_hour.as_secs_f64().max(1e-9);
    let hour = f64::from(hour_of_day(scenario.from)) + hours + traffic.utc_offset_hours;
    let daily = traffic.wave * (TAU * (hour - 8.5) / 24.0).sin();
    let twice = traffic.half_day_wave * (2.0 * TAU * (hour - 8.5) / 24.0).sin();
    (1.0 + daily + twice).max(0.0)
}

/// How many requests of the table are taken: those before the end, and no more than can be held.
fn taken(scenario: &Scenario, world: &World) -> usize {
    world.arrivals.partition_point(|arrival| arrival.at < scenario.duration()).min(MAX_REQUESTS)
}

/// How many requests of the table are not taken.
pub(super) fn left_out(scenario: &Scenario, world: &World) -> usize {
    world.arrivals.len() - taken(scenario, world)
}

/// The arrivals of a table, or second by second: Poisson with a rate that waves, bursts and crowds make.
fn asks(scenario: &Scenario, world: &World, seed: u64) -> Vec<Ask> {
    let (mut rng, mut kinds) = (stream(seed, Stream::Arrivals, 0), Kinds::new(scenario, world, seed));
    if scenario.traffic.arrivals.is_some() {
        let those = world.arrivals.iter().take(taken(scenario, world));
        return those.map(|arrival| kinds.next(arrival.at, Some(arrival))).collect();
    }
    let end = scenario.duration().as_secs_f64();
    let mut burst = scenario.traffic.bursts.map(|(spread, correlation)| {
        let keep = (-1.0 / correlation.as_secs_f64().max(1e-3)).exp();
        (spread, keep, standard_normal(&mut rng))
    });
    let mut asks = Vec::with_capacity((end * scenario.traffic.per_second * 1.1) as usize % MAX_REQUESTS);
    let mut second = 0.0;
    while second < end && asks.len() < MAX_REQUESTS {
        let mut rate = scenario.traffic.per_second * wave(scenario, second);
        if let Some((spread, keep, z)) = &mut burst {
            *z = *keep * *z + (1.0 - *keep * *keep).sqrt() * standard_normal(&mut rng);
            // The mean of a log-normal is above its median; what is asked for is the mean.
            rate *= (*spread * *z - *spread * *spread / 2.0).exp();
        }
        let here = Duration::from_secs_f64(second);
        let crowds = scenario.events.iter().filter(|event| event.from <= here && here < event.until);
        rate *= crowds.map(|event| event.change.crowd).product::<f64>();
        let until = (second + 1.0).min(end);
        let gap = |rng: &mut Rng| -(1.0 - rng.f64()).ln() / rate;
        let mut at = second + gap(&mut rng);
        while at < until {
            asks.push(kinds.next(Duration::from_secs_f64(at), None));
            at += gap(&mut rng);
        }
        second += 1.0;
    }
    asks
}

/// What requests are like.
struct Kinds<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    rng: Rng,
    /// Turns to come: when, of which conversation, how many with it.
    turns: BinaryHeap<Reverse<(Duration, u32, u8, bool)>>,
    sessions: u32,
}

impl<'a> Kinds<'a> {
    fn new(scenario: &'a Scenario, world: &'a World, seed: u64) -> Self {
        Self { scenario, world, rng: stream(seed, Stream::Kinds, 0), turns: BinaryHeap::new(), sessions: 0 }
    }

    /// The request that comes at that time: what is `known` of it, and the rest drawn.
    fn next(&mut self, at: Duration, known: Option<&Arrival>) -> Ask {
        let traffic = &self.scenario.traffic;
        let (prompt, output) = match (known, self.world.lengths.len()) {
            (Some(known), _) => known.lengths,
            (None, 0) => (traffic.prompt.draw(&mut self.rng), traffic.output.draw(&mut self.rng)),
            (None, many) => self.world.lengths.get(self.rng.usize(..many)).copied().unwrap_or((1, 1)),
        };
        let bytes = f64::from(prompt) * traffic.bytes_per_token * traffic.bytes_spread.factor(&mut self.rng);
        let class = known.and_then(|known| known.class).unwrap_or_else(|| self.class());
        let resident = known.and_then(|known| known.resident).unwrap_or_else(|| self.rng.f64() < traffic.resident.get());
        let turn = traffic
            .sessions
            .filter(|sessions| self.rng.f64() < sessions.share.get())
            .map(|sessions| self.turn(sessions, at, (class, resident)));
        let (session, class, resident) =
            turn.map_or((None, class, resident), |(session, class, resident)| (Some(session), class, resident));
        Ask { at, class, resident, session, prompt, output, bytes: bytes.max(1.0) as u32 }
    }

    fn class(&mut self) -> u8 {
        let mut left = self.rng.f64();
        for (index, class) in self.scenario.classes.iter().enumerate() {
            left -= class.share;
            if left < 0.0 {
                return index as u8;
            }
        }
        0
    }

    /// The next turn of the conversation that waits longest, or the first of a new one. Conversations end after each turn with the
    /// same chance, so their lengths are geometric.
    fn turn(&mut self, sessions: Sessions, at: Duration, (class, resident): (u8, bool)) -> (u32, u8, bool) {
        let waiting = self.turns.peek().is_some_and(|Reverse((ready, ..))| *ready <= at);
        let turn = match self.turns.pop() {
            Some(Reverse((_, session, class, resident))) if waiting => (session, class, resident),
            other => {
                self.turns.extend(other);
                self.sessions += 1;
                (self.sessions, class, resident)
            }
        };
        if self.rng.f64() < 1.0 - 1.0 / sessions.turns.max(1.0) {
            let pause = sessions.pause.mul_f64(-(1.0 - self.rng.f64()).ln());
            self.turns.push(Reverse((at + pause, turn.0, turn.1, turn.2)));
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scenario::load;
    use crate::config::{Env, NoFiles};

    fn read(more: &str) -> Scenario {
        let text = format!(
            "hours: 24\ncarbon_hour: 150s\nregions:\n  - {{ name: here, grid_zone: DE, rtt: 5ms, replicas: 1 }}\nclasses:\n  - {{ name: \
             a, share: 3, first_token: 1s, per_output_token: 35ms }}\n  - {{ name: b, share: 1, first_token: 1s, per_output_token: 35ms \
             }}\npolicies: [{{ name: p }}]\n{more}\n"
        );
        load("s.yaml", &text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn drawn(more: &str, seed: u64) -> (Scenario, Course) {
        let scenario = read(more);
        let world = World::read(&scenario, &NoFiles).unwrap();
        let course = Course::draw(&scenario, &world, seed);
        (scenario, course)
    }

    fn within(asks: &[Ask], from: u64, until: u64) -> usize {
        asks.iter().filter(|ask| ask.at >= Duration::from_secs(from) && ask.at < Duration::from_secs(until)).count()
    }

    #[test]
    fn a_day_has_its_mean_its_wave_and_its_kinds() {
        let (_, course) = drawn("traffic: { per_second: 10, resident: 0.3 }", 1);
        let asks = &course.asks;
        assert!((33_000..39_000).contains(&asks.len()), "{} in an hour", asks.len());
        assert!(asks.windows(2).all(|pair| pair[0].at <= pair[1].at));
        // The wave is highest in the early afternoon and lowest before dawn.
        assert!(within(asks, 11 * 150, 14 * 150) > 2 * within(asks, 3 * 150, 6 * 150));
        let share = |of: &dyn Fn(&Ask) -> bool| asks.iter().filter(|ask| of(ask)).count() as f64 / asks.len() as f64;
        assert!((share(&|ask| ask.class == 0) - 0.75).abs() < 0.02);
        assert!((share(&|ask| ask.resident) - 0.3).abs() < 0.02);
        let ratio = asks.iter().map(|ask| f64::from(ask.bytes) / f64::from(ask.prompt)).sum::<f64>() / asks.len() as f64;
        assert!((4.3..4.8).contains(&ratio), "{ratio} bytes a token");
    }

    #[test]
    fn a_crowd_comes_when_it_is_said_and_nowhere_else() {
        let (_, calm) = drawn("traffic: { per_second: 10 }", 1);
        let (_, crowded) = drawn("traffic: { per_second: 10 }\nevents: [{ at: 600s, for: 300s, crowd: 3 }]", 1);
        let factor = within(&crowded.asks, 600, 900) as f64 / within(&calm.asks, 600, 900) as f64;
        assert!((2.7..3.3).contains(&factor), "{factor}");
        assert_eq!(within(&crowded.asks, 0, 600), within(&calm.asks, 0, 600));
    }

    #[test]
    fn recorded_requests_come_when_they_came_and_miss_nothing() {
        let scenario = read("traffic: { arrivals: a.csv, resident: 1 }");
        let recorded =
            |second, class| Arrival { at: Duration::from_secs(second), lengths: (90, 7), class, resident: Some(false) };
        let (grids, lengths) = (Vec::new(), vec![(1, 1)]);
        let after = scenario.duration().as_secs();
        let arrivals = vec![recorded(3, Some(1)), Arrival { resident: None, ..recorded(5, None) }, recorded(after, None)];
        let world = World { grids, lengths, arrivals };
        assert_eq!(left_out(&scenario, &world), 1);
        let asks = asks(&scenario, &world, 1);
        assert_eq!(
            asks.iter().map(|ask| ask.at.as_secs()).collect::<Vec<_>>(),
            [3, 5],
            "what comes after the end does not count"
        );
        assert_eq!((asks[0].class, asks[0].resident, asks[0].prompt, asks[0].output), (1, false, 90, 7));
        assert!(asks[1].resident && asks[1].bytes > 300, "what is not recorded is drawn");
    }

    #[test]
    fn conversations_have_turns_in_order_and_keep_their_kind() {
        let (_, course) = drawn("traffic: { per_second: 10, sessions: { share: 0.6, turns: 6, skipped: 0.8 } }", 2);
        let mut turns: std::collections::HashMap<u32, Vec<&Ask>> = std::collections::HashMap::new();
        for ask in &course.asks {
            if let Some(session) = ask.session {
                turns.entry(session).or_default().push(ask);
            }
        }
        let asked: usize = turns.values().map(Vec::len).sum();
        assert!((asked as f64 / course.asks.len() as f64 - 0.6).abs() < 0.02);
        let mean = asked as f64 / turns.len() as f64;
        assert!((4.5..7.0).contains(&mean), "{mean} turns");
        assert!(
            turns
                .values()
                .all(|turns| turns.iter().all(|turn| turn.class == turns[0].class && turn.resident == turns[0].resident))
        );
    }

    #[test]
    fn others_wander_about_their_mean_and_errors_are_one_for_each_region() {
        let (scenario, course) =
            drawn("tenants: { mean: 0.3, spread: 0.05, correlation: 30s }\nerrors: { energy: 0.3, carbon: 0.1 }", 3);
        let path = &course.tenants[0];
        let mean = path.iter().map(|share| f64::from(*share)).sum::<f64>() / path.len() as f64;
        assert!((mean - 0.3).abs() < 0.03, "{mean}");
        assert!(path.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 0.2), "it does not jump");
        assert!((course.tenants_at(0, scenario.duration() * 2) - f64::from(*path.last().unwrap())).abs() < 1e-9);
        assert!((course.energy_factors[0] - 1.0).abs() > 1e-6);
        let (_, other) = drawn("errors: { energy: 0.3 }", 4);
        assert_ne!(course.energy_factors, other.energy_factors);
    }

    #[test]
    fn noise_is_of_the_request_and_not_of_who_asks() {
        let draw = |seed, ask, attempt| noise_of(seed, ask, attempt).u64(..);
        assert_eq!(draw(1, 5, 0), draw(1, 5, 0));
        let all = [draw(1, 5, 0), draw(1, 5, 1), draw(1, 6, 0), draw(2, 5, 0)];
        assert!((1..4).all(|nth| !all[..nth].contains(&all[nth])));
    }
}
