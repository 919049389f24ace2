//! When the first token comes: a straight line in the prompt's length, times a learned quantile of how far off the line is.
//!
//! The line says what an unhurried backend takes, `a + s * prompt tokens`. What a crowd adds is not a line: it depends on how much
//! prompt was sent there and is not answered yet, and on how the backend schedules it. So the factor is learned apart for eight
//! amounts of work ahead and three lengths of prompt, each as a quantile that moves a small step up when a response is later than
//! predicted and a much smaller one down when it is not. Predicting from the count of requests in flight instead took 5 to 12 points
//! of the possible saving in simulation: a prompt of 8,000 tokens and one of 20 are one request each.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::kept::{KeptFirstToken, between, fewer};
use super::taught::{Begun, CELLS, MOST_PROMPT, Taught, micros};
use super::{AtomicF64, Prior};
use crate::units::Millis;

/// The share of responses that come no later than the factor says; a policy's own share is met by its margin ([`super::Margin`]).
const QUANTILE: f64 = 0.99;
/// Step of a factor: one response that is late moves it by 5.9 %, one that is not by 0.06 %.
const STEP: f64 = 0.06;
/// A factor's first steps up are longer, or a slow backend would be trusted for a hundred requests.
const EARLY_STEP: f64 = 0.24;
/// Below so many responses a cell knows less than its neighbour with less work ahead.
const KNOWN: u32 = 15;
/// Weight of the past when one more response is counted into the line: it remembers about 500.
const KEPT: f64 = 0.998;
/// The prior counts as so many responses, half of them short and half long.
const PRIOR_WEIGHT: f64 = 8.0;
/// Prompt tokens of the prior's short and long ones.
const PRIOR_PROMPTS: [f64; 2] = [200.0, 2000.0];
/// Where nothing was learned the 99th percentile is taken for so much more than the usual.
const UNKNOWN: f64 = 1.2;
/// A factor stays within what a line can be wrong by; beyond it a response is an accident.
const RANGE: (f64, f64) = (0.002, 200.0);
/// What nothing confirms fades by this ..
const FADES: f64 = 0.95;
/// .. down to so many times what was declared.
const DOUBTED: f64 = 2.0;
/// A prompt of each class.
const TYPICAL_PROMPTS: [u32; PROMPT_CLASSES] = [256, 1024, 4096];
/// Upper ends of the classes of work ahead, in milliseconds.
const QUEUES: [f64; QUEUE_CLASSES - 1] = [1.0, 40.0, 80.0, 140.0, 220.0, 350.0, 600.0];
const QUEUE_CLASSES: usize = 8;
/// Upper ends of the classes of prompts, in tokens.
const PROMPTS: [u32; PROMPT_CLASSES - 1] = [512, 2048];
const PROMPT_CLASSES: usize = 3;

#[derive(Debug)]
struct Cell {
    factor: AtomicF64,
    /// Those of other replicas included.
    samples: AtomicU32,
    own: Begun,
    /// How many of them there were when it was last looked at.
    samples_then: AtomicU32,
}

/// What a response, or that none came, does to a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    Up,
    /// It is as was expected, and that is all.
    Not,
    Down,
}

/// What is believed of the first token of one model at one backend.
#[derive(Debug)]
pub(super) struct FirstToken {
    prior: Prior,
    /// Weighted sums over the responses: weight, prompt tokens, milliseconds, and the two products that a line takes.
    sums: [AtomicF64; 5],
    /// Milliseconds of a prompt without tokens, and of each token.
    line: [AtomicF64; 2],
    /// Sums over this process's own responses, for other replicas.
    own: [AtomicU64; 4],
    cells: [[Cell; PROMPT_CLASSES]; QUEUE_CLASSES],
}

/// The time that the prompts ahead will take, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstTokenEstimate {
    /// Until the first token, at the 99th percentile.
    pub late: Millis,
    /// Of it: until the prompts that were sent before are read.
    pub queue: Millis,
}

impl FirstToken {
    pub(super) fn new(prior: Prior) -> Self {
        let cell = || Cell {
            factor: AtomicF64::new(1.0),
            samples: AtomicU32::new(0),
            own: Begun::default(),
            samples_then: AtomicU32::new(0),
        };
        Self {
            prior,
            sums: sums_of(prior).map(AtomicF64::new),
            line: [prior.first_token, prior.per_prompt_token].map(|value| AtomicF64::new(value.get())),
            own: Default::default(),
            cells: std::array::from_fn(|_| std::array::from_fn(|_| cell())),
        }
    }

    /// Begins with a first token that comes so much later than was declared; only as long as there was no response.
    pub(super) fn begin_after(&self, round_trip: Millis) {
        let prior = Prior { first_token: self.prior.first_token + round_trip, ..self.prior };
        self.sums.iter().zip(sums_of(prior)).for_each(|(sum, value)| sum.set(value));
        self.line.iter().zip([prior.first_token, prior.per_prompt_token]).for_each(|(part, value)| part.set(value.get()));
    }

    /// For a prompt of `prompt` tokens behind `pending` tokens of other prompts.
    pub(super) fn predict(&self, prompt: u32, pending: u64) -> FirstTokenEstimate {
        let queue = self.line[1].get() * pending as f64;
        let base = self.base(prompt);
        let late = base * self.factor(base, queue, prompt);
        FirstTokenEstimate { late: Millis::saturating(late), queue: Millis::saturating(queue) }
    }

    /// What was declared of such a prompt with nothing ahead.
    pub(super) fn declared(&self, prompt: u32) -> Millis {
        self.prior.first_token + self.prior.per_prompt_token * f64::from(prompt)
    }

    /// A response began after `took`, with `queue` ahead of it as predicted when it was sent.
    pub(super) fn saw(&self, prompt: u32, queue: Millis, took: Millis) {
        let cell = self.cell(queue.get(), prompt);
        self.step(prompt, queue, |expected| {
            let late = took.get() > expected;
            // Others are told of responses only: what they count here they also count into their line.
            if let Some(cell) = cell {
                cell.own.add(late);
            }
            if late { Moves::Up } else { Moves::Down }
        });
        let (tokens, span) = (u64::from(prompt.min(MOST_PROMPT)), micros(took.get()));
        for (sum, add) in self.own.iter().zip([tokens, span, tokens * tokens, tokens * span]) {
            sum.fetch_add(add, Relaxed);
        }
        let (prompt, took) = (f64::from(prompt), took.get());
        self.bend(KEPT, [1.0, prompt, took, prompt * prompt, prompt * took]);
    }

    /// No response came within `waited`, and nobody waited any longer: it would have been late, or else nothing is known.
    pub(super) fn saw_none(&self, prompt: u32, queue: Millis, waited: Millis) {
        let base = self.base(prompt);
        if waited.get() > base * self.factor(base, queue.get(), prompt) {
            self.step(prompt, queue, |expected| if waited.get() > expected { Moves::Up } else { Moves::Not });
        }
    }

    /// Moves a factor by what `moves` says of the time that its cell expects.
    fn step(&self, prompt: u32, queue: Millis, moves: impl FnOnce(f64) -> Moves) {
        let base = self.base(prompt);
        let Some(cell) = self.cell(queue.get(), prompt) else { return };
        let before = cell.samples.load(Relaxed);
        // It begins where its neighbour is.
        let factor = if before == 0 { self.factor(base, queue.get(), prompt) } else { cell.factor.get() };
        let step = match moves(factor * base) {
            Moves::Down => -STEP * (1.0 - QUANTILE),
            Moves::Not => 0.0,
            Moves::Up if before < KNOWN => EARLY_STEP * QUANTILE,
            Moves::Up => STEP * QUANTILE,
        };
        cell.samples.fetch_add(1, Relaxed);
        // The steps are small, and the exponential that they are short for would cost more than all the rest here.
        cell.factor.set((factor * (1.0 + step)).clamp(RANGE.0, RANGE.1));
    }

    /// Takes over what another replica's responses taught since it last said so.
    pub(super) fn hear(&self, heard: &Taught) {
        let responses = heard.responses();
        if responses == 0 {
            return;
        }
        let cells = self.cells.iter().flatten().zip(heard.begun.iter().zip(&heard.late));
        for (index, (cell, (begun, late))) in cells.enumerate().filter(|(_, (_, (begun, _)))| **begun > 0) {
            let (class, prompt) = (index / PROMPT_CLASSES, TYPICAL_PROMPTS[index % PROMPT_CLASSES]);
            let base = self.base(prompt);
            let neighbour = self.factor(base, queue_of(class), prompt);
            let before = cell.samples.fetch_add(*begun, Relaxed);
            let factor = if before == 0 { neighbour } else { cell.factor.get() };
            let early = (*late).min(KNOWN.saturating_sub(before));
            let steps = [
                (early, 1.0 + EARLY_STEP * QUANTILE),
                (late - early, 1.0 + STEP * QUANTILE),
                (begun - late, 1.0 - STEP * (1.0 - QUANTILE)),
            ];
            let growth: f64 = steps.iter().map(|(count, step)| f64::from(*count) * step.ln()).sum();
            cell.factor.set((factor * growth.exp()).clamp(RANGE.0, RANGE.1));
        }
        let [prompts, micros, squares, products] = heard.line.map(|sum| sum as f64);
        let kept = KEPT.powf(responses as f64);
        self.bend(kept, [responses as f64, prompts, micros / 1e3, squares, products / 1e3]);
    }

    /// What this process's own responses taught.
    pub(super) fn teach(&self, taught: &mut Taught) {
        for (cell, (begun, late)) in self.cells.iter().flatten().zip(taught.begun.iter_mut().zip(&mut taught.late)) {
            (*begun, *late) = cell.own.get();
        }
        taught.line = std::array::from_fn(|sum| self.own.get(sum).map_or(0, |own| own.load(Relaxed)));
    }

    /// Counts responses into the line, of which `kept` of the past is left.
    fn bend(&self, kept: f64, sample: [f64; 5]) {
        for (sum, add) in self.sums.iter().zip(sample) {
            sum.set(sum.get() * kept + add);
        }
        let [w, x, y, xx, xy] = [0, 1, 2, 3, 4].map(|index: usize| self.sums[index].get());
        let spread = w * xx - x * x;
        // Where all prompts are alike the slope cannot be seen, and stays.
        let seen = if spread > 1e-3 * w * w { (w * xy - x * y) / spread } else { self.line[1].get() };
        // A prompt costs something: a crowd of short prompts must not make the queue behind it look free.
        let least = self.prior.per_prompt_token.get() * 0.02;
        let slope = seen.max(least);
        let intercept = ((y - slope * x) / w.max(1e-9)).max(0.1);
        if slope.is_finite() && intercept.is_finite() {
            self.line[0].set(intercept);
            self.line[1].set(slope);
        }
    }

    /// Lets the factors of which no response was seen since the last time fade, as long as they say that it takes more than twice as long
    /// as was declared.
    pub(super) fn doubt(&self) {
        for (class, cells) in self.cells.iter().enumerate() {
            for (cell, prompt) in cells.iter().zip(TYPICAL_PROMPTS) {
                let samples = cell.samples.load(Relaxed);
                if samples == 0 || cell.samples_then.swap(samples, Relaxed) != samples {
                    continue;
                }
                let believed = self.base(prompt) * cell.factor.get();
                if believed > DOUBTED * (self.declared(prompt).get() + queue_of(class)) {
                    cell.factor.set((cell.factor.get() * FADES).max(RANGE.0));
                }
            }
        }
    }

    /// Takes over what another learned, line and factors.
    pub(super) fn learn_from(&self, old: &Self) {
        let pairs = self.sums.iter().zip(&old.sums).chain(self.line.iter().zip(&old.line));
        pairs.for_each(|(new, old)| new.set(old.get()));
        for (new, old) in self.cells.iter().flatten().zip(old.cells.iter().flatten()) {
            new.factor.set(old.factor.get());
            new.samples.store(old.samples.load(Relaxed), Relaxed);
        }
    }

    /// Whether a factor can be one.
    pub(super) fn is_factor(factor: f64) -> bool {
        (RANGE.0..=RANGE.1).contains(&factor)
    }

    pub(super) fn kept(&self) -> KeptFirstToken {
        let cell = |index: usize| self.cells.as_flattened().get(index);
        KeptFirstToken {
            sums: std::array::from_fn(|sum| self.sums.get(sum).map_or(0.0, AtomicF64::get)),
            factors: std::array::from_fn(|index| cell(index).map_or(1.0, |cell| cell.factor.get())),
            samples: std::array::from_fn(|index| cell(index).map_or(0, |cell| cell.samples.load(Relaxed))),
        }
    }

    /// Takes over what was kept and is sound: the line goes towards the prior, which is what it is now, and factors towards 1.
    pub(super) fn restore(&self, kept: &KeptFirstToken, counts: f64) {
        self.bend(1.0 - counts, kept.sums.map(|sum| sum * counts));
        for (cell, (factor, samples)) in self.cells.iter().flatten().zip(kept.factors.iter().zip(&kept.samples)) {
            cell.factor.set(between(1.0, *factor, counts));
            cell.samples.store(fewer(*samples, counts), Relaxed);
        }
    }

    fn base(&self, prompt: u32) -> f64 {
        self.line[0].get() + self.line[1].get() * f64::from(prompt)
    }

    fn cell(&self, queue: f64, prompt: u32) -> Option<&Cell> {
        self.cells.get(queue_class(queue))?.get(prompt_class(prompt))
    }

    /// What the line is multiplied by. A cell that knows too little is judged by the next one with less work ahead that knows enough,
    /// but waits at least for the work ahead of it.
    fn factor(&self, base: f64, queue: f64, prompt: u32) -> f64 {
        let (own, class) = (queue_class(queue), prompt_class(prompt));
        let known = |queue_class: usize| {
            let cell = self.cells.get(queue_class)?.get(class)?;
            (cell.samples.load(Relaxed) >= KNOWN).then(|| cell.factor.get())
        };
        if let Some(factor) = known(own) {
            return factor;
        }
        let waiting = if queue > 0.0 { 1.0 + queue / base.max(0.1) } else { 1.0 };
        (0..own).rev().find_map(known).map_or(UNKNOWN * waiting, |lower| lower.max(waiting))
    }
}

const _: () = assert!(QUEUE_CLASSES * PROMPT_CLASSES == CELLS, "replicas tell each other of as many");

/// What a prior is as sums over responses.
fn sums_of(prior: Prior) -> [f64; 5] {
    let at = |prompt: f64| prior.first_token.get() + prior.per_prompt_token.get() * prompt;
    let sum = |of: &dyn Fn(f64) -> f64| PRIOR_PROMPTS.iter().map(|prompt| of(*prompt) * PRIOR_WEIGHT / 2.0).sum();
    [sum(&|_| 1.0), sum(&|p| p), sum(&at), sum(&|p| p * p), sum(&|p| p * at(p))]
}

/// The least work ahead in a class of it.
fn queue_of(class: usize) -> f64 {
    class.checked_sub(1).and_then(|below| QUEUES.get(below)).copied().unwrap_or_default()
}

fn queue_class(queue: f64) -> usize {
    QUEUES.iter().take_while(|end| queue >= **end).count()
}

/// Which of the three lengths of prompt it is.
pub(super) fn prompt_class(prompt: u32) -> usize {
    PROMPTS.iter().take_while(|end| prompt >= **end).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior() -> Prior {
        Prior { first_token: Millis::saturating(100.0), per_prompt_token: Millis::saturating(0.05), tokens_per_second: 50.0 }
    }

    #[test]
    fn nothing_learned_is_the_prior_and_some_more() {
        let believed = FirstToken::new(prior());
        let idle = believed.predict(1000, 0);
        assert!((idle.late.get() - 150.0 * UNKNOWN).abs() < 1e-9 && idle.queue == Millis::ZERO);
        let busy = believed.predict(1000, 2000);
        assert!((busy.queue.get() - 100.0).abs() < 1e-9);
        assert!((busy.late.get() - 250.0 * UNKNOWN).abs() < 1e-9, "{busy:?}");
    }

    #[test]
    fn the_line_is_found() {
        let believed = FirstToken::new(prior());
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let prompt = random.u32(1..6000);
            believed.saw(prompt, Millis::ZERO, Millis::saturating(40.0 + 0.02 * f64::from(prompt)));
        }
        assert!((believed.line[0].get() - 40.0).abs() < 1.0, "{:?}", believed.line);
        assert!((believed.line[1].get() - 0.02).abs() < 0.001, "{:?}", believed.line);
    }

    #[test]
    fn about_one_response_in_a_hundred_is_later_than_predicted() {
        let believed = FirstToken::new(prior());
        let mut random = fastrand::Rng::with_seed(7);
        let mut late = 0;
        for round in 0..40_000 {
            let took = 50.0 + 100.0 * random.f64() * random.f64();
            late += u32::from(round >= 10_000 && took > believed.predict(300, 0).late.get());
            believed.saw(300, Millis::ZERO, Millis::saturating(took));
        }
        let share = f64::from(late) / 30_000.0;
        assert!((0.005..0.015).contains(&share), "{share} of the responses were later than predicted");
    }

    #[test]
    fn an_unknown_crowd_waits_for_what_is_ahead_of_it() {
        let believed = FirstToken::new(prior());
        (0..200).for_each(|_| believed.saw(300, Millis::ZERO, Millis::saturating(115.0)));
        let idle = believed.predict(300, 0).late.get();
        let crowd = believed.predict(300, 10_000).late.get();
        let ahead = believed.line[1].get() * 10_000.0;
        assert!(crowd >= ahead + 100.0 && crowd > idle, "{crowd} behind {ahead} and {idle} with nothing ahead");
    }

    #[test]
    fn a_prompt_never_costs_nothing() {
        let believed = FirstToken::new(prior());
        (0..500).for_each(|round| {
            let prompt = if round % 2 == 0 { 4000 } else { 10 };
            believed.saw(prompt, Millis::ZERO, Millis::saturating(if round % 2 == 0 { 50.0 } else { 90.0 }));
        });
        assert!(believed.predict(10, 1_000_000).queue > Millis::ZERO);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_seen_it_stays_a_time(
            seen in proptest::collection::vec((proptest::num::u32::ANY, proptest::num::f64::ANY, proptest::num::f64::ANY), 0..60),
            prompt in proptest::num::u32::ANY, pending in proptest::num::u64::ANY,
        ) {
            let believed = FirstToken::new(prior());
            for (prompt, queue, took) in seen {
                believed.saw(prompt, Millis::saturating(queue), Millis::saturating(took));
            }
            let got = believed.predict(prompt, pending);
            proptest::prop_assert!(got.late.get().is_finite() && got.queue.get().is_finite());
        }
    }
}
