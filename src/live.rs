//! What is known about a backend from its own traffic: the few numbers that change with every request.
//!
//! They are relaxed atomics outside the snapshot, shared by all cores and kept across reloads by name. Two cores that learn at the
//! same moment may lose one of the two updates; for averages over hundreds of requests that costs nothing, and a lock would cost
//! every request. Counts that must balance (requests in flight) are only changed by read-modify-write and released by a guard, on
//! every path, because a leak would be a permanent loss of capacity.

mod allowance;
mod answers;
mod cached;
mod first_token;
mod flow;
mod health;
mod hedges;
mod kept;
mod margin;
mod model;
mod now;
mod others;
mod pace;
mod quota;
mod retries;
mod taught;
mod token_rate;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use allowance::{Allowance, Allowances, Sent, Wanted};
pub use first_token::FirstTokenEstimate;
pub use flow::{Asked, Flow, PROMPT_CLASSES};
use health::Health;
pub use health::Remedy;
pub use hedges::HedgeBudget;
pub use kept::{KeptFlow, KeptModel};
pub use margin::Margin;
pub use model::{Capacity, ModelLive, Prior};
pub use now::Now;
use now::millis_after;
pub use others::Heard;
use others::Others;
pub use retries::{RetryBudget, RetryLimits};
pub use taught::{CELLS, Taught};

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
    credentials_refused: AtomicU64,
    /// The least round trip that connecting took, in microseconds and one more; 0 while it was never measured.
    round_trip_us: AtomicU64,
    others: Others,
    /// Whether its answers say how much more it will take.
    says_allowances: AtomicBool,
}

/// What a backend has before it, from all replicas of this gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests sent and not yet finished.
    pub in_flight: u32,
    /// Prompt tokens sent and not yet answered with a first byte.
    pub pending_prompt_tokens: u64,
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

    /// The same, where it is known which of them it is in the order of their names. Letters are compared only where the two names are not
    /// one, as after a reload that has kept these statistics.
    pub fn model_at(&self, place: u16, name: &Arc<str>) -> Option<&ModelLive> {
        match self.models.get(usize::from(place)) {
            Some((own, model)) if Arc::ptr_eq(own, name) || own == name => Some(model),
            _ => self.model(name),
        }
    }

    /// Requests that this process sent and that have not yet finished.
    pub fn in_flight(&self) -> u32 {
        self.counts.in_flight.load(Relaxed)
    }

    /// Prompt tokens that this process sent and that are not yet answered with a first byte.
    pub fn pending_prompt_tokens(&self) -> u64 {
        self.counts.pending_prompt_tokens.load(Relaxed)
    }

    /// What is ahead of the next request: what this process sent, and what other replicas said that they did.
    pub fn load(&self) -> Load {
        let (own, others) = (self.in_flight(), &self.counts.others);
        Load {
            in_flight: own.saturating_add(others.in_flight(own)),
            pending_prompt_tokens: self.pending_prompt_tokens().saturating_add(others.pending_prompt_tokens()),
        }
    }

    /// Other replicas said what they have there.
    pub fn hear(&self, heard: Heard) {
        self.counts.others.hear(heard);
    }

    /// Attempts since the start, and how many of them failed.
    pub fn totals(&self) -> (u64, u64) {
        (self.counts.requests.load(Relaxed), self.counts.failures.load(Relaxed))
    }

    /// How much longer it is ejected after failures; `None` when it is not.
    pub fn shut_for(&self, now: Instant) -> Option<Duration> {
        Some(self.health.shut_for(self.millis(now))).filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// How much longer it has, by its own word, no room for anything; `None` when it has.
    pub fn full_for(&self, now: Instant) -> Option<Duration> {
        Some(self.full_for_ms(self.millis(now))).filter(|left| *left > 0).map(Duration::from_millis)
    }

    fn full_for_ms(&self, now_ms: u64) -> u64 {
        let of_models = self.models.iter().map(|(_, model)| model.full_for_ms(now_ms)).min();
        self.health.full_for(now_ms).max(of_models.unwrap_or_default())
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

    /// Whether it has, by its own word, no room for that model, so many milliseconds after the start.
    pub fn is_full_for(&self, model: &ModelLive, now_ms: u64) -> bool {
        self.health.full_for(now_ms).max(model.full_for_ms(now_ms)) > 0
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

    /// The backend refused the gateway's own credential: counted apart, because only the operator can mend it.
    pub fn refused_credential(&self) {
        self.counts.credentials_refused.fetch_add(1, Relaxed);
    }

    /// How often it did.
    pub fn credentials_refused(&self) -> u64 {
        self.counts.credentials_refused.load(Relaxed)
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

    /// Connecting to it took so long. The least of all is believed: what is above it was waiting, and not the way.
    pub fn connected_in(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let before = self.counts.round_trip_us.load(Relaxed);
        let least = if before == 0 { us } else { us.min(before) };
        self.counts.round_trip_us.store(least, Relaxed);
        self.models.iter().for_each(|(_, model)| model.is_so_far(Millis::saturating((least - 1) as f64 / 1e3)));
    }

    /// How long connecting to it takes; `None` while it was not measured.
    pub fn round_trip(&self) -> Option<Millis> {
        let us = self.counts.round_trip_us.load(Relaxed).checked_sub(1)?;
        Some(Millis::saturating(us as f64 / 1e3))
    }

    /// Whether no response of any of its models has been seen.
    pub fn is_cold(&self) -> bool {
        self.models.iter().all(|(_, model)| model.samples() == 0)
    }

    /// The backend said that it has no room for a model (one that lists none has one quota for all): it gets no more of that as long as
    /// it asked for, or one second, and fewer afterwards. `whole` says that it spoke of itself and not of a quota, so that it has none for any other either.
    pub fn refused(&self, model: &str, whole: bool, now: Instant, retry_after: Option<Duration>) {
        if whole {
            self.full(now, retry_after);
        } else {
            self.counts.failures.fetch_add(1, Relaxed);
        }
        if let Some(model) = self.model(model) {
            let now_ms = self.millis(now);
            model.refused(now_ms, now_ms.saturating_add(left_alone_ms(retry_after)));
        }
    }

    /// The answer to a request that was sent at `begun` said how much more it would take of a model then.
    pub fn told(&self, model: &str, allowances: &Allowances, then: Sent, begun: Instant) {
        if let Some(model) = self.model(model) {
            self.counts.says_allowances.store(true, Relaxed);
            model.told(allowances, then, self.millis(begun), LONGEST_RETRY_AFTER);
        }
    }

    /// Counts a request against what is left of a model, for a backend that says that. One that wants nothing of it is not counted.
    pub fn sends(&self, model: &str, wanted: impl FnOnce() -> Option<Wanted>) -> Sent {
        if !self.counts.says_allowances.load(Relaxed) {
            return Sent::default();
        }
        wanted().and_then(|wanted| Some(self.model(model)?.sends(wanted))).unwrap_or_default()
    }

    /// Takes back what was counted of a request that it never took.
    pub fn give_back(&self, model: &str, wanted: Wanted, sent: Sent) {
        if let Some(model) = self.model(model).filter(|_| sent != Sent::default()) {
            model.give_back(wanted, sent);
        }
    }

    /// It has no room for anything: what it takes of the calls that say so tells nothing of how many requests it bears.
    pub fn full(&self, now: Instant, retry_after: Option<Duration>) {
        self.counts.failures.fetch_add(1, Relaxed);
        self.health.full_until(self.millis(now).saturating_add(left_alone_ms(retry_after)));
    }

    /// The share of its capacity that its refusals have left, in (0, 1]: that of the model of which they left least.
    pub fn cut(&self) -> f64 {
        self.models.iter().map(|(_, model)| model.cut()).fold(1.0, f64::min)
    }

    /// Moves the limits of its models to where they should be, `seconds` after the last time, and lets what refusals cut off come back.
    /// `per_output_token` says the strictest budget of each model.
    pub fn adapt(&self, declared: u32, seconds: f64, per_output_token: impl Fn(&str) -> Option<Millis>) {
        let in_flight = self.load().in_flight;
        for (name, model) in &self.models {
            let cut = model.heal(seconds);
            let capacity = Capacity { declared, in_flight, per_output_token: per_output_token(name), cut };
            model.adapt_limit(capacity, seconds);
        }
    }

    /// Milliseconds since the statistics began.
    pub fn millis(&self, now: Instant) -> u64 {
        millis_after(self.origin, now)
    }

    /// A moment as this backend's statistics count it, and all others that began with them.
    pub fn now(&self, at: Instant) -> Now {
        Now::new(at, self.origin)
    }

    /// Milliseconds since the statistics began.
    pub fn millis_at(&self, now: &Now) -> u64 {
        now.since(self.origin)
    }
}

/// How long a supplier is left alone that says so, or one second.
fn left_alone_ms(retry_after: Option<Duration>) -> u64 {
    retry_after.unwrap_or(Duration::from_secs(1)).min(LONGEST_RETRY_AFTER).as_millis() as u64
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

    /// Requests that the backend has in flight, this one included, and those of other replicas.
    pub fn in_flight(&self) -> u32 {
        self.live.load().in_flight
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.answered();
        self.live.counts.in_flight.fetch_sub(1, Relaxed);
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
    fn a_model_is_found_by_its_place_or_else_by_its_name() {
        let names: [Arc<str>; 3] = ["b", "c", "a"].map(Arc::from);
        let live = Live::new(SystemClock.monotonic(), names.clone().map(|name| (name, Prior::default())));
        for (name, place) in names.iter().zip([1, 2, 0]) {
            let (known, anew) = (live.model(name).unwrap(), Arc::from(&**name));
            assert!(Arc::ptr_eq(&live.models[usize::from(place)].0, name));
            for place in [place, 0, 2, 9] {
                assert!([name, &anew].into_iter().all(|name| std::ptr::eq(live.model_at(place, name).unwrap(), known)));
            }
        }
        assert!(live.model_at(0, &Arc::from("d")).is_none());
    }

    #[test]
    fn a_refusal_is_respected_within_reason() {
        let (live, now) = live();
        let full = |now_ms| live.is_full_for(live.model("m").unwrap(), now_ms);
        live.refused("m", true, now, Some(Duration::from_secs(7)));
        let now_ms = live.millis(now);
        assert!(full(now_ms + 6_999) && !full(now_ms + 7_000) && !live.is_left_alone(now_ms, 0));
        live.refused("m", false, now, Some(Duration::from_hours(24)));
        let longest = LONGEST_RETRY_AFTER.as_millis() as u64;
        assert!(full(now_ms + longest - 1) && !full(now_ms + longest));
    }

    #[test]
    fn a_quota_is_one_models_and_a_full_backend_is_full_for_all() {
        let now = SystemClock.monotonic();
        let live = Live::new(now, ["a", "b"].map(|name| (Arc::from(name), Prior::default())));
        let now_ms = live.millis(now);
        let full = || ["a", "b"].map(|name| live.is_full_for(live.model(name).unwrap(), now_ms));
        live.refused("a", false, now, Some(Duration::from_secs(30)));
        assert_eq!((full(), live.full_for(now)), ([true, false], None));
        live.adapt(100, 1.0, |_| None);
        assert_eq!(["a", "b"].map(|name| live.model(name).unwrap().limit(100)), [86, 100]);
        live.refused("b", false, now, Some(Duration::from_secs(9)));
        assert_eq!((full(), live.full_for(now)), ([true, true], Some(Duration::from_secs(9))));
        live.refused("b", true, now, Some(Duration::from_secs(40)));
        assert_eq!(live.full_for(now), Some(Duration::from_secs(40)));
    }

    #[test]
    fn what_was_learned_survives_a_reload() {
        let (live, now) = live();
        (0..3).for_each(|_| live.failed(now, || Remedy::Eject));
        live.model("m").unwrap().saw_first_token(10, Millis::ZERO, Millis::saturating(6000.0));
        let before = live.model("m").unwrap().first_token(10, 0);
        let next = live.carried_over([(Arc::from("m"), Prior { first_token: Millis::saturating(300.0), ..Prior::default() })]);
        let after = next.model("m").unwrap().first_token(10, 0);
        assert_eq!(after, before);
        assert_eq!(next.shut_for(now), Some(Duration::from_secs(5)), "an ejection survives, too");
    }

    #[test]
    fn what_a_service_said_that_it_would_take_is_not_forgotten_at_a_reload() {
        let (live, now) = live();
        let one = Allowance { left: 1, limit: None, full_in: Duration::from_mins(1) };
        live.told("m", &Allowances { requests: Some(one), ..Allowances::default() }, Sent::default(), now);
        live.sends("m", || Some(Wanted::default()));
        let lacks = |live: &Live| live.model("m").unwrap().lacks(Wanted::default(), live.millis(now) + 1);
        assert!(lacks(&live), "the only one is on its way");
        let next = live.carried_over([(Arc::from("m"), Prior { tokens_per_second: 99.0, ..Prior::default() })]);
        assert!(lacks(&next));
    }
}
