//! What was learned about one model at one backend.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::AtomicF64;
use super::allowance::{Allowances, Sent, Told, Wanted};
use super::cached::CachedShare;
use super::first_token::{FirstToken, FirstTokenEstimate};
use super::pace::Pace;
use super::quota::Quota;
use super::taught::Taught;
use super::token_rate::TokenRate;
use crate::units::Millis;

/// What is believed of a backend's model before it was ever used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Time to the first token of a short prompt.
    pub first_token: Millis,
    /// What each further prompt token adds.
    pub per_prompt_token: Millis,
    /// Output tokens per second of one stream, at a light load.
    pub tokens_per_second: f64,
}

impl Default for Prior {
    /// Neither best nor never tried: a middling hosted model (0.6 s, 16,000 prompt tokens a second, 50 output tokens a second).
    fn default() -> Self {
        Self { first_token: Millis::saturating(600.0), per_prompt_token: Millis::saturating(1.0 / 16.0), tokens_per_second: 50.0 }
    }
}

impl Prior {
    /// What is predicted of the first token of the shortest prompt as long as nothing was measured: somewhat more than was declared.
    pub fn unproven(self) -> Millis {
        FirstToken::new(self).predict(0, 0).late.rounded()
    }
}

/// A belief that a backend is much slower than declared, and that no response confirms, is looked at this often and then fades a little
/// (`first_token`, `token_rate`). Without it a backend that was crowded once would be over budget, and so untried, for ever; each try
/// costs at most one late answer.
const DOUBT_EVERY_MS: u64 = 5_000;

/// A limit grows by so much in a second at most, and only while it is used: what lies beyond it is untried ..
const GROWTH: f64 = 0.05;
/// .. where "used" is this share of it ..
const USED: f64 = 0.7;
/// .. and shrinks by so much at most: a few slow answers are no reason to empty a region.
const SHRINKING: f64 = 0.2;
/// After so many responses of which none had tokens none is expected to.
const TOKENLESS: u64 = 50;
/// The least limit: with fewer in flight nothing would be learned any more.
const LEAST_LIMIT: f64 = 3.0;

/// What was learned about one model at one backend.
#[derive(Debug)]
pub struct ModelLive {
    pub(super) first_token: FirstToken,
    pub(super) token_rate: TokenRate,
    pub(super) cached: CachedShare,
    pub(super) quota: Quota,
    allowance: Told,
    /// Requests at once, of whatever model, up to which its tokens are within the strictest budget; infinite until something says so.
    pub(super) limit: AtomicF64,
    /// What the strictest budget is multiplied by for it, and that budget in milliseconds; 0 before it was asked for.
    pub(super) pace: Pace,
    strictest_ms: AtomicF64,
    pub(super) samples: AtomicU64,
    /// When it was last looked at whether the belief still has reasons, in milliseconds after the start.
    looked_ms: AtomicU64,
}

/// A number that is not negative to the nearest whole one, of two the larger: what `round` gives, which is a call into a library. A half
/// itself would take the number just below it for 1.
const fn rounded(value: f64) -> u32 {
    (value + 0.5_f64.next_down()) as u32
}

/// What a limit is made of, beside what was learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Requests that the backend was declared to take at once.
    pub declared: u32,
    /// Requests that it has now.
    pub in_flight: u32,
    /// The strictest budget for an output token, of all policies that send to it; without one only refusals limit it.
    pub per_output_token: Option<Millis>,
    /// The share of its capacity that its refusals have left, in (0, 1].
    pub cut: f64,
}

impl ModelLive {
    pub(super) fn new(prior: Prior) -> Self {
        Self {
            first_token: FirstToken::new(prior),
            token_rate: TokenRate::new(prior),
            cached: CachedShare::default(),
            quota: Quota::default(),
            allowance: Told::default(),
            limit: AtomicF64::new(f64::INFINITY),
            pace: Pace::default(),
            strictest_ms: AtomicF64::new(0.0),
            samples: AtomicU64::new(0),
            looked_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn learn_from(&self, old: &Self) {
        self.quota.learn_from(&old.quota);
        self.allowance.learn_from(&old.allowance);
        if old.samples() == 0 && !old.token_rate.is_known() {
            return;
        }
        self.first_token.learn_from(&old.first_token);
        self.token_rate.learn_from(&old.token_rate);
        self.cached.learn_from(&old.cached);
        self.limit.set(old.limit.get());
        self.pace.learn_from(&old.pace);
        self.samples.store(old.samples(), Relaxed);
    }

    /// First-token time at the 99th percentile for a prompt of that length behind `pending` prompt tokens not yet answered.
    pub fn first_token(&self, prompt_tokens: u32, pending: u64) -> FirstTokenEstimate {
        self.first_token.predict(prompt_tokens, pending)
    }

    /// Connecting to it took so long: as long as no response has said more, its first token is expected so much later than declared.
    pub(super) fn is_so_far(&self, round_trip: Millis) {
        if self.samples() == 0 {
            self.first_token.begin_after(round_trip);
        }
    }

    /// Lets a belief that it is slower than declared fade while no response confirms it. `now_ms` is [`super::Live::millis`].
    pub fn doubt(&self, now_ms: u64) {
        let looked = self.looked_ms.load(Relaxed);
        if now_ms.saturating_sub(looked) < DOUBT_EVERY_MS
            || self.looked_ms.compare_exchange(looked, now_ms, Relaxed, Relaxed).is_err()
        {
            return;
        }
        self.first_token.doubt();
        self.token_rate.doubt();
    }

    /// Takes every belief for confirmed just now, so that none fades within the next five seconds.
    pub fn believe(&self, now_ms: u64) {
        self.looked_ms.store(now_ms, Relaxed);
    }

    /// The share of what it was sent before that it need not read again; more than 1 where it keeps its answers, too.
    pub fn cached_share(&self) -> f64 {
        self.cached.get()
    }

    /// It reported that it took `cached` tokens of a prompt from its cache, of which about `known` had been sent there before.
    pub fn saw_cached(&self, known: f64, cached: u64) {
        self.cached.saw(known, cached as f64);
    }

    /// The share of its capacity that refusals have left, in (0, 1].
    pub fn cut(&self) -> f64 {
        self.quota.share()
    }

    /// How much longer there is no room for it, by the backend's own word; 0 when there is.
    pub fn full_for_ms(&self, now_ms: u64) -> u64 {
        self.quota.full_for(now_ms)
    }

    /// Whether one more request of that size is likely to be refused, by what answers said of what is left.
    pub fn lacks(&self, wanted: Wanted, now_ms: u64) -> bool {
        self.allowance.lacks(wanted, now_ms)
    }

    pub(super) fn told(&self, allowances: &Allowances, then: Sent, begun_ms: u64, longest: std::time::Duration) {
        self.allowance.told(allowances, then, begun_ms, longest);
    }

    pub(super) fn sends(&self, wanted: Wanted) -> Sent {
        self.allowance.sends(wanted)
    }

    pub(super) fn give_back(&self, wanted: Wanted, sent: Sent) {
        self.allowance.give_back(wanted, sent);
    }

    pub(super) fn refused(&self, now_ms: u64, until_ms: u64) {
        self.quota.refused(now_ms, until_ms);
    }

    pub(super) fn heal(&self, seconds: f64) -> f64 {
        self.quota.heal(seconds)
    }

    /// Whether it has shown how fast its tokens come.
    pub fn knows_token_rate(&self) -> bool {
        self.token_rate.is_known()
    }

    /// Time per output token with `in_flight` requests of `declared` at the backend.
    pub fn per_output_token(&self, in_flight: u32, declared: u32) -> Millis {
        self.token_rate.at(f64::from(in_flight) / f64::from(declared.max(1)))
    }

    /// Requests that it takes at once, of `declared`, before its tokens come too slowly or it refuses.
    pub fn limit(&self, declared: u32) -> u32 {
        let limit = self.limit.get();
        // At least one, or it could never show that it has become better.
        if limit < f64::from(declared) { rounded(limit).max(1).min(declared) } else { declared }
    }

    /// Moves the limit to where it should be by now, `seconds` after the last time: up slowly and only where it is used, down fast.
    pub fn adapt_limit(&self, capacity: Capacity, seconds: f64) {
        let declared = f64::from(capacity.declared);
        // A model that gives no tokens, as one for embeddings, is not held to what tokens may take.
        let budget = capacity.per_output_token.filter(|_| self.token_rate.is_known() || self.samples() < TOKENLESS);
        self.strictest_ms.set(budget.map_or(0.0, Millis::get));
        let within = budget.and_then(|budget| self.token_rate.load_within(budget * self.pace.get()));
        let target = (within.unwrap_or(1.0) * declared * capacity.cut).min(declared).max(LEAST_LIMIT.min(declared));
        let now = self.limit.get();
        let next = if !now.is_finite() || now > declared {
            target
        } else if target > now {
            let used = f64::from(capacity.in_flight) >= USED * now;
            if used { target.min(now * (1.0 + GROWTH).powf(seconds)) } else { now }
        } else {
            target.max(now * (1.0 - SHRINKING).powf(seconds))
        };
        self.limit.set(next);
    }

    /// An answer that was held to `per_output_token` came to its end, late as a whole or not, under a policy by which the share `quantile`
    /// must not be. Those of the strictest budget count: the limit is made for them.
    pub fn saw_end(&self, late: bool, per_output_token: Millis, quantile: f64) {
        if per_output_token.get() <= self.strictest_ms.get() {
            self.pace.saw(late, quantile);
        }
    }

    /// Responses it has learned from.
    pub fn samples(&self) -> u64 {
        self.samples.load(Relaxed)
    }

    /// A response to a prompt of `prompt_tokens` began after `took`; `queue` is what [`Self::first_token`] said when it was sent.
    pub fn saw_first_token(&self, prompt_tokens: u32, queue: Millis, took: Millis) {
        self.samples.fetch_add(1, Relaxed);
        self.first_token.saw(prompt_tokens, queue, took);
    }

    /// No response had begun after `waited`, when it was given up for another's. That can make the backend slower and never quicker.
    pub fn saw_no_first_token(&self, prompt_tokens: u32, queue: Millis, waited: Millis) {
        self.first_token.saw_none(prompt_tokens, queue, waited);
    }

    /// What this process's own responses taught of it.
    pub fn taught(&self) -> Taught {
        let mut taught = Taught::default();
        self.first_token.teach(&mut taught);
        self.token_rate.teach(&mut taught);
        taught
    }

    /// What another replica's responses taught it since it last said so.
    pub fn hear(&self, heard: &Taught) {
        self.samples.fetch_add(heard.responses(), Relaxed);
        self.first_token.hear(heard);
        self.token_rate.hear(heard);
    }

    /// A response ended: `output_tokens` came in `streaming` after the first one, while the backend had about `in_flight` requests of
    /// the `declared` it takes.
    pub fn saw_output(&self, output_tokens: u64, streaming: Millis, in_flight: f64, declared: u32) {
        if output_tokens > 1 {
            let per_token = Millis::saturating(streaming.get() / (output_tokens - 1) as f64);
            self.token_rate.saw(per_token, in_flight / f64::from(declared.max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(in_flight: u32) -> Capacity {
        Capacity { declared: 100, in_flight, per_output_token: Some(Millis::saturating(35.0)), cut: 1.0 }
    }

    fn look(model: &ModelLive, looks: std::ops::Range<u64>) {
        looks.for_each(|look| model.doubt(look * DOUBT_EVERY_MS));
    }

    #[test]
    fn a_belief_that_nothing_confirms_fades_and_a_confirmed_one_stays() {
        let model = ModelLive::new(Prior::default());
        let slow = Millis::saturating(60_000.0);
        let declared = model.first_token(10, 0).late.get();
        (0..400).for_each(|_| model.saw_first_token(10, Millis::ZERO, slow));
        let learned = model.first_token(10, 0);
        assert!(learned.late.get() > declared * 10.0);
        look(&model, 1..2);
        assert_eq!(model.first_token(10, 0), learned, "there were samples since the last look");
        look(&model, 2..200);
        assert!(model.first_token(10, 0).late.get() <= declared * 2.1);
        let sure = ModelLive::new(Prior::default());
        (0..400).for_each(|_| sure.saw_first_token(10, Millis::ZERO, slow));
        for look in 1..200 {
            sure.believe(look * DOUBT_EVERY_MS);
            sure.doubt(look * DOUBT_EVERY_MS + DOUBT_EVERY_MS / 2);
        }
        assert_eq!(sure.first_token(10, 0), learned, "nothing fades that is taken for confirmed");
        model.saw_first_token(10, Millis::ZERO, Millis::saturating(600.0));
        assert!(model.first_token(10, 0).late.get() <= declared * 2.1, "a punctual answer does not bring the belief back");
    }

    #[test]
    fn a_round_trip_counts_until_a_response_has_come() {
        let (near, far) = (ModelLive::new(Prior::default()), ModelLive::new(Prior::default()));
        near.is_so_far(Millis::saturating(5.0));
        far.is_so_far(Millis::saturating(400.0));
        far.is_so_far(Millis::saturating(200.0));
        let expected = |model: &ModelLive| model.first_token(0, 0).late.get() / 1.2;
        assert!((expected(&near) - 605.0).abs() < 1e-9 && (expected(&far) - 800.0).abs() < 1e-9, "neither best nor never tried");
        near.saw_first_token(10, Millis::ZERO, Millis::saturating(100.0));
        let learned = near.first_token(0, 0);
        near.is_so_far(Millis::saturating(900.0));
        assert_eq!(near.first_token(0, 0), learned);
    }

    #[test]
    fn who_was_given_up_was_late_and_is_never_rewarded() {
        let model = ModelLive::new(Prior::default());
        let before = model.first_token(10, 0);
        (0..100).for_each(|_| model.saw_no_first_token(10, Millis::ZERO, Millis::saturating(500.0)));
        assert_eq!(model.first_token(10, 0), before, "it had more time than that");
        (0..15).for_each(|_| model.saw_no_first_token(10, Millis::ZERO, Millis::saturating(5_000.0)));
        let after = model.first_token(10, 0).late.get();
        assert!(after > 2.0 * before.late.get() && after < 6_500.0, "{before:?} became {after}");
        assert_eq!(model.samples(), 0, "it is no response");
    }

    #[test]
    fn long_prompts_are_tried_again_although_short_ones_keep_coming() {
        let model = ModelLive::new(Prior::default());
        (0..400).for_each(|_| model.saw_first_token(4000, Millis::ZERO, Millis::saturating(30_000.0)));
        let (slow, declared) = (model.first_token(4000, 0).late.get(), 850.0);
        for round in 1..300 {
            (0..20).for_each(|_| model.saw_first_token(10, Millis::ZERO, Millis::saturating(600.0)));
            model.doubt(round * DOUBT_EVERY_MS);
        }
        let after = model.first_token(4000, 0).late.get();
        assert!(after < slow / 5.0 && after <= declared * 2.1, "{slow} became {after}");
    }

    #[test]
    fn one_slow_answer_does_not_shut_out_a_model_that_is_never_streamed() {
        let model = ModelLive::new(Prior::default());
        model.saw_output(200, Millis::saturating(60_000.0), 1.0, 64);
        assert!(model.per_output_token(1, 64).get() < 60.0);
        (0..40).for_each(|_| model.saw_output(200, Millis::saturating(60_000.0), 1.0, 64));
        assert!(model.per_output_token(1, 64).get() > 200.0, "many of them do");
        look(&model, 1..200);
        assert!(model.per_output_token(1, 64).get() < 45.0, "until nobody says so any more");
    }

    #[test]
    fn a_model_without_tokens_has_no_limit_for_them() {
        let model = ModelLive::new(Prior::default());
        (0..60).for_each(|_| model.saw_first_token(10, Millis::ZERO, Millis::saturating(100.0)));
        (0..60).for_each(|_| model.adapt_limit(capacity(100), 1.0));
        assert_eq!(model.limit(100), 100);
    }

    #[test]
    fn a_limit_shrinks_at_once_and_grows_only_where_it_is_used() {
        let model = ModelLive::new(Prior::default());
        assert_eq!(model.limit(100), 100);
        model.adapt_limit(capacity(0), 1.0);
        let cold = model.limit(100);
        assert!((45..70).contains(&cold), "{cold}");
        (0..3000).for_each(|_| model.saw_output(101, Millis::saturating(100.0 * 15.0), 50.0, 100));
        model.adapt_limit(capacity(10), 1.0);
        assert_eq!(model.limit(100), cold, "nobody needs more");
        model.adapt_limit(capacity(cold), 1.0);
        let grown = model.limit(100);
        assert!(grown > cold && f64::from(grown) <= f64::from(cold + 1) * 1.05, "{cold} became {grown}");
        (0..500).for_each(|_| model.saw_output(101, Millis::saturating(100.0 * 90.0), 50.0, 100));
        model.adapt_limit(capacity(grown), 1.0);
        assert!(f64::from(model.limit(100)) >= f64::from(grown) * 0.8 - 1.0);
        (0..60).for_each(|_| model.adapt_limit(capacity(50), 1.0));
        assert_eq!(model.limit(100), 3);
    }

    #[test]
    fn a_limit_is_rounded_as_the_library_does() {
        let halves = (0..400).map(|n| f64::from(n) / 2.0);
        let near = [0.5, 2.5, 1e6 + 0.5].into_iter().flat_map(|n: f64| [n.next_down(), n.next_up()]);
        for value in halves.chain(near).chain([f64::from(u32::MAX) - 0.5, f64::INFINITY, f64::NAN]) {
            assert_eq!(rounded(value), value.round() as u32, "{value}");
        }
        let model = ModelLive::new(Prior::default());
        for (limit, requests) in [(0.2, 1), (7.5, 8), (99.6, 100), (1e9, 100), (f64::NAN, 100)] {
            model.limit.set(limit);
            assert_eq!((model.limit(100), model.limit(0)), (requests, 0), "{limit}");
        }
    }

    #[test]
    fn without_a_budget_only_refusals_limit_it() {
        let model = ModelLive::new(Prior::default());
        let free = Capacity { per_output_token: None, ..capacity(0) };
        model.adapt_limit(free, 1.0);
        assert_eq!(model.limit(100), 100);
        model.adapt_limit(Capacity { cut: 0.85, ..free }, 1.0);
        assert_eq!(model.limit(100), 85);
    }
}
