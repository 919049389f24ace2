//! How long an output token takes, by how full the backend is: a level that follows the backend, times a shape that is learned once.
//!
//! Engines differ in shape (flat until memory is busy, then steep; or a straight line from the start), and a straight line through all
//! of them puts the limit in the wrong place. The level moves with every response and carries a brown-out to every load at once; the
//! shape is learned for each of 24 shares of the declared capacity.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::kept::{KeptTokenRate, between, fewer};
use super::taught::{CELLS, Paced, Taught, micros};
use super::{AtomicF64, Prior};
use crate::units::Millis;

const BUCKETS: usize = CELLS;
/// Weight of a response in the level, once it is known ..
const LEVEL: f64 = 0.04;
/// .. and in the shape: at first ..
const SHAPE: f64 = 0.05;
/// .. and after so many responses in a bucket less, because a shape does not change.
const SETTLED: u32 = 50;
const SETTLED_SHAPE: f64 = 0.01;
/// Below so many responses a bucket goes on from the one below it, as the prior does.
const KNOWN: u32 = 5;
/// The prior: as declared up to a tenth of the capacity, then 1.6 times the declared time more over the whole of it. A batch twelve
/// times larger costs most engines between two and three times as much for each token.
const FLAT: f64 = 0.1;
const PRIOR_SLOPE: f64 = 1.6;
/// How many standard deviations a limit keeps from its budget. What strays is the single answer, and the budget is about all tokens of
/// one together: in `simulate` 0.5 lost half a point, and more where tokens slow down steeply, for a few late answers in ten thousand.
const CAUTION: f64 = 0.1;
/// What nothing confirms fades by this, down to so many times what was declared.
const FADES: f64 = 0.95;
const DOUBTED: f64 = 2.0;
/// So many first responses count at most for so many times what was expected, or for as little.
const FIRST: u32 = 8;
const STRAY: f64 = 4.0;
/// A response that took so many times what was expected says nothing of tokens.
const MOST: f64 = 50.0;

/// What is believed of the output tokens of one model at one backend.
#[derive(Debug)]
pub(super) struct TokenRate {
    /// Milliseconds for each token where the shape is 1.
    level: AtomicF64,
    samples: AtomicU32,
    /// How many of them there were when it was last looked at.
    samples_then: AtomicU32,
    /// What was declared.
    prior_level: f64,
    /// Squared milliseconds by which responses stray.
    variance: AtomicF64,
    shape: [AtomicF64; BUCKETS],
    seen: [AtomicU32; BUCKETS],
    /// The shape with its gaps filled, made anew now and then because every request reads it.
    filled: [AtomicF64; BUCKETS],
    /// Sums over this process's own responses, for other replicas: by bucket, and of the squares by which they strayed.
    own: [Paced; BUCKETS],
    own_squares: AtomicU64,
}

/// The middle of a bucket, as a share of the capacity.
fn middle(bucket: usize) -> f64 {
    (bucket as f64 + 0.5) / BUCKETS as f64
}

/// The weight of so many samples together, of which each has `weight`.
fn of_many(weight: f64, count: u64) -> f64 {
    1.0 - (1.0 - weight).powf(count as f64)
}

fn prior_shape(load: f64) -> f64 {
    1.0 + PRIOR_SLOPE * (load - FLAT).max(0.0)
}

impl TokenRate {
    pub(super) fn new(prior: Prior) -> Self {
        let shape = || std::array::from_fn(|bucket| AtomicF64::new(prior_shape(middle(bucket))));
        Self {
            level: AtomicF64::new(1e3 / prior.tokens_per_second.max(0.01)),
            samples: AtomicU32::new(0),
            samples_then: AtomicU32::new(0),
            prior_level: 1e3 / prior.tokens_per_second.max(0.01),
            variance: AtomicF64::new(0.0),
            shape: shape(),
            seen: std::array::from_fn(|_| AtomicU32::new(0)),
            filled: shape(),
            own: Default::default(),
            own_squares: AtomicU64::new(0),
        }
    }

    /// Milliseconds for each token at `load`, the share of the declared capacity in use; beyond 1 it goes on as it was.
    pub(super) fn at(&self, load: f64) -> Millis {
        let place = (load * BUCKETS as f64 - 0.5).max(0.0);
        // By way of 32 bits, which a processor makes of a number in one step.
        let below = (place as u32 as usize).min(BUCKETS - 1);
        let (low, high) = (self.filled(below), self.filled((below + 1).min(BUCKETS - 1)));
        let beyond = (load - middle(BUCKETS - 1)).max(0.0) * PRIOR_SLOPE;
        let shape = if beyond > 0.0 { high + beyond } else { low + (high - low) * (place - below as f64).min(1.0) };
        Millis::saturating(self.level.get() * shape)
    }

    /// A response took `per_token` for each token while the backend was so full.
    pub(super) fn saw(&self, per_token: Millis, load: f64) {
        let bucket = ((load * BUCKETS as f64) as usize).min(BUCKETS - 1);
        let (Some(shape), Some(seen), Some(filled)) = (self.shape.get(bucket), self.seen.get(bucket), self.filled.get(bucket))
        else {
            return;
        };
        let known = seen.fetch_add(1, Relaxed);
        if known < KNOWN {
            shape.set(filled.get().max(1e-3));
        }
        let (level, took) = (self.level.get(), per_token.get());
        let samples = self.samples.fetch_add(1, Relaxed);
        if !(took > 0.0 && took < level * MOST * shape.get()) {
            return;
        }
        // The first ones weigh so much that an accident among them must not count as it is.
        let expected = level * shape.get();
        let took = if samples < FIRST { took.clamp(expected / STRAY, expected * STRAY) } else { took };
        let stray = took - expected;
        if let Some(own) = self.own.get(bucket) {
            own.add(micros(took));
            self.own_squares.fetch_add(micros(stray.abs()).pow(2), Relaxed);
        }
        self.variance.set(self.variance.get() + LEVEL * (stray * stray - self.variance.get()));
        // The first ones count as much as they are a part of all.
        let weight = LEVEL.max(1.0 / (f64::from(samples) + 2.0));
        self.level.set(level + weight * (took / shape.get() - level));
        // While the level is still finding its place, the shape would take its error for its own.
        if samples >= SETTLED {
            let weight = if known < SETTLED { SHAPE } else { SETTLED_SHAPE };
            shape.set(shape.get() + weight * (took / self.level.get().max(1e-6) - shape.get()));
        }
        if samples < 64 || samples.is_multiple_of(8) {
            self.fill();
        }
    }

    /// Takes over what another replica's responses taught since it last said so: those of a bucket as so many of their mean.
    pub(super) fn hear(&self, heard: &Taught) {
        let all = heard.paces();
        if all == 0 {
            return;
        }
        let spread = heard.squares as f64 / all as f64 / 1e6;
        self.variance.set(self.variance.get() + of_many(LEVEL, all) * (spread - self.variance.get()));
        let buckets = self.shape.iter().zip(&self.seen).zip(&self.filled).zip(heard.paced.iter().zip(&heard.micros));
        for (((shape, seen), filled), (count, micros)) in buckets.filter(|(_, (count, _))| **count > 0) {
            let known = seen.fetch_add(*count, Relaxed);
            if known < KNOWN {
                shape.set(filled.get().max(1e-3));
            }
            let samples = self.samples.fetch_add(*count, Relaxed);
            let (level, took) = (self.level.get(), *micros as f64 / f64::from(*count) / 1e3);
            if !(took > 0.0 && took < level * MOST * shape.get()) {
                continue;
            }
            let expected = level * shape.get();
            let took = if samples < FIRST { took.clamp(expected / STRAY, expected * STRAY) } else { took };
            let share = f64::from(*count) / (f64::from(samples) + f64::from(*count) + 1.0);
            self.level.set(level + of_many(LEVEL, (*count).into()).max(share) * (took / shape.get() - level));
            if samples >= SETTLED {
                let weight = of_many(if known < SETTLED { SHAPE } else { SETTLED_SHAPE }, (*count).into());
                shape.set(shape.get() + weight * (took / self.level.get().max(1e-6) - shape.get()));
            }
        }
        self.fill();
    }

    /// What this process's own responses taught.
    pub(super) fn teach(&self, taught: &mut Taught) {
        for (own, (count, micros)) in self.own.iter().zip(taught.paced.iter_mut().zip(&mut taught.micros)) {
            (*count, *micros) = own.get();
        }
        taught.squares = self.own_squares.load(Relaxed);
    }

    /// The share of the capacity up to which a token takes no longer than `budget`, with some caution; `None` when all of it.
    pub(super) fn load_within(&self, budget: Millis) -> Option<f64> {
        let budget = budget.get() - CAUTION * self.variance.get().max(0.0).sqrt();
        let level = self.level.get();
        let over = (0..BUCKETS).find(|bucket| level * self.filled(*bucket) > budget)?;
        let high = level * self.filled(over);
        let Some(before) = over.checked_sub(1) else { return Some(middle(0) * (budget / high).max(0.0)) };
        let low = level * self.filled(before);
        let part = ((budget - low) / (high - low).max(1e-9)).clamp(0.0, 1.0);
        Some(middle(before) + part / BUCKETS as f64)
    }

    /// Whether any response has said how long its tokens took.
    pub(super) fn is_known(&self) -> bool {
        self.samples.load(Relaxed) > 0
    }

    /// Lets the level fade where no response was seen since the last time and it is more than twice what was declared.
    pub(super) fn doubt(&self) {
        let samples = self.samples.load(Relaxed);
        let confirmed = self.samples_then.swap(samples, Relaxed) != samples;
        if !confirmed && self.level.get() > DOUBTED * self.prior_level {
            self.level.set(self.level.get() * FADES);
        }
    }

    pub(super) fn learn_from(&self, old: &Self) {
        self.level.set(old.level.get());
        self.variance.set(old.variance.get());
        self.samples.store(old.samples.load(Relaxed), Relaxed);
        let arrays = self.shape.iter().zip(&old.shape).chain(self.filled.iter().zip(&old.filled));
        arrays.for_each(|(new, old)| new.set(old.get()));
        self.seen.iter().zip(&old.seen).for_each(|(new, old)| new.store(old.load(Relaxed), Relaxed));
    }

    pub(super) fn kept(&self) -> KeptTokenRate {
        KeptTokenRate {
            level: self.level.get(),
            variance: self.variance.get(),
            samples: self.samples.load(Relaxed),
            shape: std::array::from_fn(|bucket| self.shape.get(bucket).map_or(1.0, AtomicF64::get)),
            seen: std::array::from_fn(|bucket| self.seen.get(bucket).map_or(0, |seen| seen.load(Relaxed))),
        }
    }

    /// Takes over what was kept and is sound: the level goes towards the prior, and a shape stays what it is.
    pub(super) fn restore(&self, kept: &KeptTokenRate, counts: f64) {
        self.level.set(between(self.prior_level, kept.level, counts));
        self.variance.set(kept.variance * counts);
        self.samples.store(fewer(kept.samples, counts), Relaxed);
        for ((shape, seen), (kept, kept_seen)) in self.shape.iter().zip(&self.seen).zip(kept.shape.iter().zip(&kept.seen)) {
            shape.set(*kept);
            seen.store(fewer(*kept_seen, counts), Relaxed);
        }
        self.fill();
    }

    fn filled(&self, bucket: usize) -> f64 {
        self.filled.get(bucket).map_or(1.0, AtomicF64::get)
    }

    fn fill(&self) {
        let known = |bucket: &usize| self.seen.get(*bucket).is_some_and(|seen| seen.load(Relaxed) >= KNOWN);
        let mut last = (0..BUCKETS).find(known);
        for (bucket, (filled, shape)) in self.filled.iter().zip(&self.shape).enumerate() {
            if known(&bucket) {
                last = Some(bucket);
                filled.set(shape.get());
                continue;
            }
            let from = last.map_or_else(
                || prior_shape(middle(bucket)),
                |from| {
                    let value = self.shape.get(from).map_or(1.0, AtomicF64::get);
                    value + prior_shape(middle(bucket)) - prior_shape(middle(from))
                },
            );
            filled.set(from.max(1e-3));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior() -> Prior {
        Prior { tokens_per_second: 50.0, ..Prior::default() }
    }

    /// Teaches it an engine, over all loads up to `most`.
    fn taught(engine: impl Fn(f64) -> f64, most: f64) -> TokenRate {
        let rate = TokenRate::new(prior());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..8000 {
            let load = random.f64() * most;
            rate.saw(Millis::saturating(engine(load)), load);
        }
        rate
    }

    #[test]
    fn nothing_learned_is_the_prior() {
        let rate = TokenRate::new(prior());
        assert!((rate.at(0.0).get() - 20.0).abs() < 1e-9);
        assert!((rate.at(1.0).get() - 20.0 * (1.0 + PRIOR_SLOPE * 0.9)).abs() < 1.0, "{:?}", rate.at(1.0));
        let limit = rate.load_within(Millis::saturating(35.0)).unwrap();
        assert!((0.5..0.65).contains(&limit), "{limit}");
        assert_eq!(rate.load_within(Millis::saturating(100.0)), None);
    }

    #[test]
    fn a_straight_engine_is_found_and_so_is_its_limit() {
        let rate = taught(|load| 16.0 + 25.6 * load, 0.9);
        for load in [0.1, 0.4, 0.8] {
            assert!((rate.at(load).get() - 16.0 - 25.6 * load).abs() < 1.0, "{load}: {:?}", rate.at(load));
        }
        let limit = rate.load_within(Millis::saturating(35.0)).unwrap();
        assert!((0.68..0.77).contains(&limit), "{limit}");
    }

    #[test]
    fn an_engine_that_is_flat_and_then_steep_is_found() {
        let engine = |load: f64| if load < 0.5 { 20.0 } else { 20.0 + 80.0 * (load - 0.5) };
        let rate = taught(engine, 0.9);
        let limit = rate.load_within(Millis::saturating(36.0)).unwrap();
        assert!((0.62..0.73).contains(&limit), "{limit}");
        assert!((rate.at(0.3).get() - 20.0).abs() < 1.0);
    }

    #[test]
    fn a_slow_spell_is_seen_at_every_load() {
        let rate = taught(|load| 16.0 + 25.6 * load, 0.9);
        (0..150).for_each(|_| rate.saw(Millis::saturating(3.0 * (16.0 + 25.6 * 0.4)), 0.4));
        assert!(rate.at(0.8).get() > 70.0, "{:?}", rate.at(0.8));
        assert!(rate.load_within(Millis::saturating(35.0)).unwrap() < 0.1);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_seen_it_stays_a_time(
            seen in proptest::collection::vec((proptest::num::f64::ANY, proptest::num::f64::ANY), 0..200),
            load in proptest::num::f64::ANY, budget in proptest::num::f64::ANY,
        ) {
            let rate = TokenRate::new(prior());
            for (took, load) in seen {
                rate.saw(Millis::saturating(took), load);
            }
            proptest::prop_assert!(rate.at(load).get().is_finite());
            if let Some(limit) = rate.load_within(Millis::saturating(budget)) {
                proptest::prop_assert!((0.0..=1.0).contains(&limit), "{}", limit);
            }
        }
    }
}
