//! What a hosted service says in its answers of how much more it will take of a model before it refuses: a bucket that fills again in
//! time. Whoever knows it need not be refused first.
//!
//! What is sent between two answers is not counted in: the next answer says it, and a refusal does where that comes too late.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One bucket, as an answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// What is left in it.
    pub left: u64,
    /// What it holds; `None` when nobody says, and then it is taken to fill at its end alone.
    pub limit: Option<u64>,
    /// Until it is full again.
    pub full_in: Duration,
}

/// Requests and tokens of one model, as the last answer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Requests.
    pub requests: Option<Allowance>,
    /// Tokens, of prompts and answers.
    pub tokens: Option<Allowance>,
}

/// A bucket as it was. Its four numbers are not swapped as one: what is torn is mended by the next answer.
#[derive(Debug, Default)]
struct Bucket {
    left: AtomicU64,
    limit: AtomicU64,
    at_ms: AtomicU64,
    span_ms: AtomicU64,
}

impl Bucket {
    fn told(&self, now: Allowance, now_ms: u64, longest: Duration) {
        self.left.store(now.left, Relaxed);
        self.limit.store(now.limit.unwrap_or(now.left), Relaxed);
        self.at_ms.store(now_ms, Relaxed);
        self.span_ms.store(now.full_in.min(longest).as_millis() as u64, Relaxed);
    }

    /// Whether there is less in it than is wanted. No more than it holds can be wanted: the service itself has to say what then.
    fn lacks(&self, wanted: u64, now_ms: u64) -> bool {
        let (left, span) = (self.left.load(Relaxed), self.span_ms.load(Relaxed));
        let since = now_ms.saturating_sub(self.at_ms.load(Relaxed));
        if since >= span {
            return false;
        }
        let limit = self.limit.load(Relaxed).max(left);
        let filled = left as f64 + (limit - left) as f64 * since as f64 / span as f64;
        let wanted = if limit > left { wanted.min(limit) } else { wanted };
        filled < wanted as f64
    }
}

/// Both buckets of a model at a backend.
#[derive(Debug, Default)]
pub(super) struct Told {
    requests: Bucket,
    tokens: Bucket,
}

impl Told {
    /// Takes what an answer says.
    pub(super) fn told(&self, now: &Allowances, now_ms: u64, longest: Duration) {
        if let Some(requests) = now.requests {
            self.requests.told(requests, now_ms, longest);
        }
        if let Some(tokens) = now.tokens {
            self.tokens.told(tokens, now_ms, longest);
        }
    }

    /// Whether one more request of so many tokens is likely to be refused.
    pub(super) fn lacks(&self, tokens: u64, now_ms: u64) -> bool {
        self.requests.lacks(1, now_ms) || self.tokens.lacks(tokens, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_mins(2);

    fn told(requests: (u64, Option<u64>, u64), tokens: Option<(u64, Option<u64>, u64)>) -> Told {
        let of = |(left, limit, ms)| Allowance { left, limit, full_in: Duration::from_millis(ms) };
        let told = Told::default();
        told.told(&Allowances { requests: Some(of(requests)), tokens: tokens.map(of) }, 1_000, LONGEST);
        told
    }

    #[test]
    fn nothing_said_lacks_nothing() {
        assert!(!Told::default().lacks(u64::MAX, 0));
    }

    #[test]
    fn an_empty_bucket_fills_in_its_time() {
        // A hundred a minute: the next one after 0.6 s.
        let told = told((0, Some(100), 60_000), None);
        assert_eq!([1_000, 1_599, 1_600, 70_000].map(|now_ms| told.lacks(9, now_ms)), [true, true, false, false]);
        // Nobody says what it holds: at the end, and no later than is believed.
        let told = self::told((0, None, 3_600_000), None);
        assert_eq!([1_000, 120_999, 121_000].map(|now_ms| told.lacks(9, now_ms)), [true, true, false]);
        assert!(!self::told((1, None, 5_000), None).lacks(9, 1_000));
    }

    #[test]
    fn a_large_request_waits_for_more_than_a_small_one() {
        let told = told((5, None, 1_000), Some((1_000, Some(10_000), 9_000)));
        assert_eq!(
            [1_000, 1_001, 2_000, 10_000, 50_000].map(|tokens| told.lacks(tokens, 1_000)),
            [false, true, true, true, true]
        );
        assert_eq!([2_000, 2_001].map(|tokens| told.lacks(tokens, 2_000)), [false, true], "a thousand a second");
        assert!(!told.lacks(50_000, 10_000), "what can never fit is for the service to say");
    }
}
