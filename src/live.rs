//! What is known about a backend from its own traffic: the few numbers that change with every request.
//!
//! They are relaxed atomics outside the snapshot, shared by all cores and kept across reloads by name. Two cores that learn at the
//! same moment may lose one of the two updates; for averages over hundreds of requests that costs nothing, and a lock would cost
//! every request. Counts that must balance (requests in flight) are only changed by read-modify-write and released by a guard, on
//! every path, because a leak would be a permanent loss of capacity.

mod health;
mod retries;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use health::Health;
pub use health::Remedy;
pub use retries::{RetryBudget, RetryLimits};

use crate::units::Millis;

/// An `f64` behind an atomic word.
#[derive(Debug)]
struct AtomicF64(AtomicU64);

impl AtomicF64 {
    const fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

/// A backend's counters and standing.
#[derive(Debug)]
pub struct Live {
    origin: Instant,
    counts: Arc<Counts>,
    /// Shared at a reload like the counts.
    health: Arc<Health>,
    /// Ordered by name. Most backends have a few, and comparing these is less work than a keyed hash of the name.
    models: Box<[(Arc<str>, ModelLive)]>,
}

/// What a backend has before it and behind it, whatever models it serves: shared with what replaces it at a reload, because what is
/// in flight then still takes its place.
#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicU32,
    pending_prompt_tokens: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
}

/// A supplier's `Retry-After` is believed up to here; an hour would take a region away on one bad header.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(2);

impl Live {
    /// A backend never used, serving `models`, each with what was declared about it.
    pub fn new(origin: Instant, models: impl IntoIterator<Item = (Arc<str>, Prior)>) -> Self {
        let mut models: Vec<_> = models.into_iter().map(|(name, prior)| (name, ModelLive::new(prior))).collect();
        models.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { origin, counts: Arc::default(), health: Arc::default(), models: models.into_boxed_slice() }
    }

    /// This backend's statistics carried over to a plan in which it serves `models`: what was learned stays for the models that stay.
    #[must_use]
    pub fn carried_over(&self, models: impl IntoIterator<Item = (Arc<str>, Prior)>) -> Self {
        let (counts, health) = (Arc::clone(&self.counts), Arc::clone(&self.health));
        let next = Self { counts, health, ..Self::new(self.origin, models) };
        for (name, model) in &next.models {
            if let Some(old) = self.model(name) {
                model.learn_from(old);
            }
        }
        next
    }

    /// Whether it serves exactly these models, so that it can be kept as it is.
    pub fn serves_exactly<'a>(&self, mut models: impl ExactSizeIterator<Item = &'a Arc<str>>) -> bool {
        models.len() == self.models.len() && models.all(|name| self.model(name).is_some())
    }

    /// What is known of one of its models.
    pub fn model(&self, name: &str) -> Option<&ModelLive> {
        let index = self.models.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.models.get(index).map(|(_, model)| model)
    }

    /// Requests sent and not yet finished.
    pub fn in_flight(&self) -> u32 {
        self.counts.in_flight.load(Relaxed)
    }

    /// Prompt tokens sent and not yet answered with a first byte.
    pub fn pending_prompt_tokens(&self) -> u64 {
        self.counts.pending_prompt_tokens.load(Relaxed)
    }

    /// Attempts since the start, and how many of them failed.
    pub fn totals(&self) -> (u64, u64) {
        (self.counts.requests.load(Relaxed), self.counts.failures.load(Relaxed))
    }

    /// How much longer it is ejected after failures; `None` when it is not.
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        Some(self.health.shut_for(self.millis(now))).filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// How much longer it has, by its own word, no room; `None` when it has.
    pub fn full_for(&self, now: Instant) -> Option<Duration> {
        Some(self.health.full_for(self.millis(now))).filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// The share of decisions that it takes part in, in [0, 1): 0 while it is ejected, less than 1 while it comes back; `None` when
    /// in all of them.
    pub fn share(&self, now: Instant) -> Option<f64> {
        self.health.share(self.millis(now)).map(|share| share as f64 / 1024.0)
    }

    /// Whether a decision leaves it alone, so many milliseconds after the start ([`Self::millis`]): all of them while it is ejected,
    /// and while it comes back all but a growing share of the turns.
    pub fn is_left_alone(&self, now_ms: u64, turn: u32) -> bool {
        self.health.is_left_alone(now_ms, turn)
    }

    /// Whether it is ejected, so many milliseconds after the start.
    pub fn is_shut(&self, now_ms: u64) -> bool {
        self.health.shut_for(now_ms) > 0
    }

    /// Whether it has, by its own word, no room, so many milliseconds after the start.
    pub fn is_full(&self, now_ms: u64) -> bool {
        self.health.full_for(now_ms) > 0
    }

    /// Counts one request in, until the permit is dropped.
    pub fn admit(self: &Arc<Self>, prompt_tokens: u32) -> Permit {
        self.counts.in_flight.fetch_add(1, Relaxed);
        self.counts.pending_prompt_tokens.fetch_add(u64::from(prompt_tokens), Relaxed);
        self.counts.requests.fetch_add(1, Relaxed);
        Permit { live: Arc::clone(self), pending: prompt_tokens }
    }

    /// The backend answered as it should.
    pub fn succeeded(&self, now: Instant) {
        self.health.succeeded(self.millis(now));
    }

    /// The backend failed. `remedy` is asked for when that is one failure too many.
    pub fn failed(&self, now: Instant, remedy: impl FnOnce() -> Remedy) {
        self.counts.failures.fetch_add(1, Relaxed);
        self.health.failed(self.millis(now), remedy);
    }

    /// It failed a health check, as it did `most` times in a row at least when something is to be done about it. The next check comes
    /// before `next` from now.
    pub fn failed_check(&self, now: Instant, most: u32, next: Duration, remedy: impl FnOnce() -> Remedy) {
        let next_ms = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
        self.health.failed_check(self.millis(now), most, next_ms, remedy);
    }

    /// It passed a health check; `enough` in a row end an ejection.
    pub fn passed_check(&self, now: Instant, enough: u32) {
        self.health.passed_check(self.millis(now), enough);
    }

    /// Health checks passed, failed, and failed since the last one that passed.
    pub fn checks(&self) -> (u64, u64, u32) {
        self.health.checks()
    }

    /// The backend said that it has no room: it is left alone as long as it asked for, or one second.
    pub fn refused(&self, now: Instant, retry_after: Option<Duration>) {
        self.counts.failures.fetch_add(1, Relaxed);
        let span = retry_after.unwrap_or(Duration::from_secs(1)).min(LONGEST_RETRY_AFTER);
        self.health.full_until(self.millis(now).saturating_add(span.as_millis() as u64));
    }

    /// Milliseconds since the statistics began.
    pub fn millis(&self, now: Instant) -> u64 {
        millis_after(self.origin, now)
    }
}

/// Milliseconds from `origin` to `now`.
fn millis_after(origin: Instant, now: Instant) -> u64 {
    let since = now.saturating_duration_since(origin);
    // Not `as_millis`, whose 128 bits are several times dearer.
    since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
}

/// One request counted in at a backend.
#[derive(Debug)]
pub struct Permit {
    live: Arc<Live>,
    pending: u32,
}

impl Permit {
    /// The first byte of the response is there: the prompt has been read.
    pub fn answered(&mut self) {
        self.live.counts.pending_prompt_tokens.fetch_sub(u64::from(self.pending), Relaxed);
        self.pending = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.answered();
        self.live.counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What is believed of a backend's model before it was ever used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Time to the first token of a short prompt.
    pub first_token: Millis,
    /// What each further prompt token adds.
    pub per_prompt_token: Millis,
    /// Output tokens per second of one stream.
    pub tokens_per_second: f64,
}

impl Default for Prior {
    /// Neither best nor never tried: a middling hosted model (0.6 s, 16,000 prompt tokens a second, 50 output tokens a second).
    fn default() -> Self {
        Self { first_token: Millis::saturating(600.0), per_prompt_token: Millis::saturating(1.0 / 16.0), tokens_per_second: 50.0 }
    }
}

/// What was learned about one model at one backend.
#[derive(Debug)]
pub struct ModelLive {
    prior: Prior,
    /// Observed first-token time over the prior's, at the tracked quantile.
    ratio: AtomicF64,
    /// Milliseconds per output token, smoothed.
    per_output_token_ms: AtomicF64,
    /// Output tokens per response, smoothed.
    output_tokens: AtomicF64,
    /// Request bytes per prompt token, smoothed.
    bytes_per_token: AtomicF64,
    samples: AtomicU64,
    /// When it was last looked at whether the belief still has reasons, in milliseconds after the start ..
    looked_ms: AtomicU64,
    /// .. and how many samples there were then.
    samples_then: AtomicU64,
}

/// A belief that a backend is slow, and that no response confirms, is halved this often. Without it a backend that was crowded once
/// would be over budget, and so untried, for ever; each try costs at most one late answer in this time.
const DOUBT_EVERY_MS: u64 = 5_000;
/// Step of the multiplicative quantile tracker: one miss at the 95th percentile moves the estimate by 5.9 %, one hit by 0.3 %.
const QUANTILE_STEP: f64 = 0.0625;
/// First samples move faster, so that a wrong prior is gone after a dozen requests instead of a hundred.
const EARLY_SAMPLES: u64 = 16;
/// The ratio stays within what a prior can be wrong by; beyond it a sample is an accident.
const RATIO_RANGE: (f64, f64) = (0.01, 1000.0);
/// Weight of a new sample in the smoothed means: a memory of about thirty requests.
const SMOOTHING: f64 = 0.05;
/// Bytes of request JSON per prompt token until usage reports teach better (English text is about 4, JSON around it adds some).
const BYTES_PER_TOKEN: f64 = 4.5;
/// Output tokens expected until responses teach better.
const OUTPUT_TOKENS: f64 = 250.0;

impl ModelLive {
    fn new(prior: Prior) -> Self {
        Self {
            prior,
            ratio: AtomicF64::new(1.0),
            per_output_token_ms: AtomicF64::new(1e3 / prior.tokens_per_second.max(0.01)),
            output_tokens: AtomicF64::new(OUTPUT_TOKENS),
            bytes_per_token: AtomicF64::new(BYTES_PER_TOKEN),
            samples: AtomicU64::new(0),
            looked_ms: AtomicU64::new(0),
            samples_then: AtomicU64::new(0),
        }
    }

    fn learn_from(&self, old: &Self) {
        let scale = self.base(0).get() / old.base(0).get().max(1e-6);
        self.ratio.set((old.ratio.get() / scale.max(1e-6)).clamp(RATIO_RANGE.0, RATIO_RANGE.1));
        self.per_output_token_ms.set(old.per_output_token_ms.get());
        self.output_tokens.set(old.output_tokens.get());
        self.bytes_per_token.set(old.bytes_per_token.get());
        self.samples.store(old.samples.load(Relaxed), Relaxed);
    }

    fn base(&self, prompt_tokens: u32) -> Millis {
        self.prior.first_token + self.prior.per_prompt_token * f64::from(prompt_tokens)
    }

    /// First-token time at the tracked quantile for a prompt of that length behind `pending` prompt tokens not yet answered.
    pub fn first_token(&self, prompt_tokens: u32, pending: u64) -> Millis {
        let queue = self.prior.per_prompt_token * (pending as f64);
        (self.base(prompt_tokens) + queue) * self.ratio.get()
    }

    /// Lets a belief that it is slower than declared fade while no response confirms it. `now_ms` is [`Live::millis`].
    pub fn doubt(&self, now_ms: u64) {
        let looked = self.looked_ms.load(Relaxed);
        if now_ms.saturating_sub(looked) < DOUBT_EVERY_MS
            || self.looked_ms.compare_exchange(looked, now_ms, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let samples = self.samples();
        let ratio = self.ratio.get();
        if self.samples_then.swap(samples, Relaxed) == samples && ratio > 1.0 {
            self.ratio.set(ratio.sqrt());
        }
    }

    /// Time per output token.
    pub fn per_output_token(&self) -> Millis {
        Millis::saturating(self.per_output_token_ms.get())
    }

    /// Output tokens to expect, at most `limit` where the client set one.
    pub fn output_tokens(&self, limit: Option<u32>) -> u32 {
        let expected = self.output_tokens.get().max(1.0) as u32;
        limit.map_or(expected, |limit| expected.min(limit))
    }

    /// Prompt tokens to expect of a request body of that many bytes.
    pub fn prompt_tokens(&self, body_bytes: usize) -> u32 {
        (body_bytes as f64 / self.bytes_per_token.get().max(0.1)) as u32
    }

    /// Responses it has learned from.
    pub fn samples(&self) -> u64 {
        self.samples.load(Relaxed)
    }

    /// A response began after `took`; `expected` is what [`ModelLive::first_token`] said, and `quantile` the share that should not
    /// be later.
    pub fn saw_first_token(&self, took: Millis, expected: Millis, quantile: f64) {
        let early = self.samples.fetch_add(1, Relaxed) < EARLY_SAMPLES;
        let step = if early { QUANTILE_STEP * 4.0 } else { QUANTILE_STEP };
        let factor = if took > expected { (step * quantile).exp() } else { (-step * (1.0 - quantile).max(0.002)).exp() };
        // While nothing is known the prior may be far too slow, and waiting for 5 % steps down would keep a good backend unused.
        let observed = took.get() / expected.get().max(1e-6);
        let factor = if early && observed < 0.5 { 0.8 } else { factor };
        self.ratio.set((self.ratio.get() * factor).clamp(RATIO_RANGE.0, RATIO_RANGE.1));
    }

    /// A response ended: `output_tokens` came in `streaming` after the first one.
    pub fn saw_output(&self, output_tokens: u64, streaming: Option<Millis>) {
        smooth(&self.output_tokens, output_tokens as f64);
        if let Some(streaming) = streaming.filter(|_| output_tokens > 1) {
            smooth(&self.per_output_token_ms, streaming.get() / (output_tokens - 1) as f64);
        }
    }

    /// The backend reported how many prompt tokens a body of that many bytes was.
    pub fn saw_prompt(&self, body_bytes: usize, prompt_tokens: u64) {
        if prompt_tokens > 0 {
            smooth(&self.bytes_per_token, body_bytes as f64 / prompt_tokens as f64);
        }
    }
}

fn smooth(mean: &AtomicF64, sample: f64) {
    if sample.is_finite() {
        mean.set(mean.get() + SMOOTHING * (sample - mean.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn live() -> (Arc<Live>, Instant) {
        let now = SystemClock.monotonic();
        (Arc::new(Live::new(now, [(Arc::from("m"), Prior::default())])), now)
    }

    #[test]
    fn permits_balance_on_every_path() {
        let (live, _) = live();
        let mut first = live.admit(100);
        let second = live.admit(50);
        assert_eq!((live.in_flight(), live.pending_prompt_tokens()), (2, 150));
        first.answered();
        assert_eq!((live.in_flight(), live.pending_prompt_tokens()), (2, 50));
        drop(first);
        drop(second);
        assert_eq!((live.in_flight(), live.pending_prompt_tokens()), (0, 0));
    }

    #[test]
    fn a_refusal_is_respected_within_reason() {
        let (live, now) = live();
        live.refused(now, Some(Duration::from_secs(7)));
        let now_ms = live.millis(now);
        assert!(live.is_full(now_ms + 6_999) && !live.is_full(now_ms + 7_000) && !live.is_left_alone(now_ms, 0));
        live.refused(now, Some(Duration::from_hours(24)));
        let longest = LONGEST_RETRY_AFTER.as_millis() as u64;
        assert!(live.is_full(now_ms + longest - 1) && !live.is_full(now_ms + longest));
    }

    #[test]
    fn the_quantile_is_tracked() {
        let (live, _) = live();
        let model = live.model("m").unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut late = 0;
        for round in 0..4000 {
            let expected = model.first_token(0, 0);
            let took = Millis::saturating(50.0 + 100.0 * random.f64());
            model.saw_first_token(took, expected, 0.95);
            late += u32::from(round >= 1000 && took > expected);
        }
        let share = f64::from(late) / 3000.0;
        assert!((0.03..0.07).contains(&share), "{share} of the responses were later than predicted");
    }

    #[test]
    fn a_belief_that_nothing_confirms_fades_and_a_confirmed_one_stays() {
        let (live, _) = live();
        let model = live.model("m").unwrap();
        let (prior, slow) = (model.first_token(0, 0), Millis::saturating(60_000.0));
        (0..40).for_each(|_| model.saw_first_token(slow, model.first_token(0, 0), 0.95));
        let learned = model.first_token(0, 0);
        assert!(learned.get() > prior.get() * 10.0);
        model.doubt(DOUBT_EVERY_MS);
        assert_eq!(model.first_token(0, 0), learned, "there were samples since the last look");
        (2..9).for_each(|round| model.doubt(round * DOUBT_EVERY_MS));
        assert!(model.first_token(0, 0).get() < prior.get() * 1.05);
    }

    #[test]
    fn what_was_learned_survives_a_reload() {
        let (live, now) = live();
        (0..3).for_each(|_| live.failed(now, || Remedy::Eject));
        live.model("m").unwrap().saw_first_token(Millis::saturating(6000.0), Millis::saturating(600.0), 0.95);
        let before = live.model("m").unwrap().first_token(10, 0);
        let next = live.carried_over([(Arc::from("m"), Prior { first_token: Millis::saturating(300.0), ..Prior::default() })]);
        let after = next.model("m").unwrap().first_token(0, 0);
        assert!((after.get() - before.get()).abs() < 5.0, "{before:?} became {after:?}");
        assert_eq!(next.shut_for(now), Some(Duration::from_secs(5)), "an ejection survives, too");
    }
}
