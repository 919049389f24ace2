//! What a hosted service says in its answers of how much more it will take of a model before it refuses: a bucket that fills again in
//! time. Whoever knows it need not be refused first.
//!
//! An answer says what was left when its request came in, and since then others were sent. So what is sent is counted, each request knows
//! how much that was when it left, and what was sent after it is no longer there of what its answer says.

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

/// The buckets of one model, as the last answer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Requests.
    pub requests: Option<Allowance>,
    /// Tokens, of prompts and answers.
    pub tokens: Option<Allowance>,
    /// Tokens of prompts, where these have a bucket of their own.
    pub input_tokens: Option<Allowance>,
    /// Tokens of answers, likewise.
    pub output_tokens: Option<Allowance>,
}

/// What a request is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Those of them that no cache spares.
    pub to_read: u64,
    /// Tokens of its answer.
    pub output_tokens: u64,
}

/// How much had been sent when a request was, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent([u64; BUCKETS]);

/// Requests, tokens, tokens of prompts, tokens of answers.
const BUCKETS: usize = 4;

impl Allowances {
    const fn buckets(&self) -> [Option<Allowance>; BUCKETS] {
        [self.requests, self.tokens, self.input_tokens, self.output_tokens]
    }
}

impl Wanted {
    const fn of_buckets(&self) -> [u64; BUCKETS] {
        [1, self.prompt_tokens.saturating_add(self.output_tokens), self.to_read, self.output_tokens]
    }
}

/// A bucket as it was. Its numbers are not swapped as one: what is torn is mended by the next answer.
#[derive(Debug, Default)]
struct Bucket {
    left: AtomicU64,
    limit: AtomicU64,
    at_ms: AtomicU64,
    span_ms: AtomicU64,
    /// What was sent, since it was first heard of it ..
    sent: AtomicU64,
    /// .. and how much of that had been when the last answer was asked for.
    sent_then: AtomicU64,
}

impl Bucket {
    fn told(&self, now: Allowance, sent_then: u64, now_ms: u64, span: Duration) {
        self.left.store(now.left, Relaxed);
        self.limit.store(now.limit.unwrap_or(now.left), Relaxed);
        self.at_ms.store(now_ms, Relaxed);
        self.span_ms.store(span.as_millis() as u64, Relaxed);
        self.sent_then.store(sent_then, Relaxed);
    }

    /// Whether there is less in it than is wanted. No more than it holds can be wanted: the service itself has to say what then.
    fn lacks(&self, wanted: u64, now_ms: u64) -> bool {
        let (left, span) = (self.left.load(Relaxed), self.span_ms.load(Relaxed));
        let since = now_ms.saturating_sub(self.at_ms.load(Relaxed));
        if since >= span {
            return false;
        }
        let limit = self.limit.load(Relaxed).max(left);
        let spent = self.sent.load(Relaxed).saturating_sub(self.sent_then.load(Relaxed));
        let filled = left as f64 + (limit - left) as f64 * since as f64 / span as f64 - spent as f64;
        let wanted = if limit > left { wanted.min(limit) } else { wanted };
        filled < wanted as f64
    }
}

/// The buckets of a model at a backend.
#[derive(Debug, Default)]
pub(super) struct Told {
    buckets: [Bucket; BUCKETS],
    /// When the last of them is full, and nothing is known any more.
    until_ms: AtomicU64,
}

impl Told {
    /// Takes what the answer to a request says that was sent then.
    pub(super) fn told(&self, now: &Allowances, then: Sent, now_ms: u64, longest: Duration) {
        for ((bucket, said), sent_then) in self.buckets.iter().zip(now.buckets()).zip(then.0) {
            let Some(said) = said else { continue };
            let span = said.full_in.min(longest);
            bucket.told(said, sent_then, now_ms, span);
            // Of an empty span nothing follows, but that there is something to count.
            self.until_ms.fetch_max(now_ms.saturating_add((span.as_millis() as u64).max(1)), Relaxed);
        }
    }

    /// Counts a request that is sent. Where nothing was ever said there is nothing to count.
    pub(super) fn sends(&self, wanted: Wanted) -> Sent {
        if self.until_ms.load(Relaxed) == 0 {
            return Sent::default();
        }
        let mut sent = wanted.of_buckets();
        for (bucket, more) in self.buckets.iter().zip(&mut sent) {
            *more = more.wrapping_add(bucket.sent.fetch_add(*more, Relaxed));
        }
        Sent(sent)
    }

    /// Whether one more request of that size is likely to be refused.
    pub(super) fn lacks(&self, wanted: Wanted, now_ms: u64) -> bool {
        if now_ms >= self.until_ms.load(Relaxed) {
            return false;
        }
        self.buckets.iter().zip(wanted.of_buckets()).any(|(bucket, wanted)| bucket.lacks(wanted, now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_mins(2);

    fn bucket((left, limit, ms): (u64, Option<u64>, u64)) -> Allowance {
        Allowance { left, limit, full_in: Duration::from_millis(ms) }
    }

    fn told(requests: (u64, Option<u64>, u64), tokens: Option<(u64, Option<u64>, u64)>) -> Told {
        let told = Told::default();
        let said = Allowances { requests: Some(bucket(requests)), tokens: tokens.map(bucket), ..Allowances::default() };
        told.told(&said, Sent::default(), 1_000, LONGEST);
        told
    }

    fn of(prompt_tokens: u64) -> Wanted {
        Wanted { prompt_tokens, to_read: prompt_tokens, output_tokens: 0 }
    }

    #[test]
    fn nothing_said_lacks_nothing_and_counts_nothing() {
        let told = Told::default();
        assert!(!told.lacks(of(u64::MAX), 0));
        assert_eq!(told.sends(of(9)), Sent::default());
        assert_eq!(told.buckets[0].sent.load(Relaxed), 0);
    }

    #[test]
    fn an_empty_bucket_fills_in_its_time() {
        // A hundred a minute: the next one after 0.6 s.
        let told = told((0, Some(100), 60_000), None);
        assert_eq!([1_000, 1_599, 1_600, 70_000].map(|now_ms| told.lacks(of(9), now_ms)), [true, true, false, false]);
        // Nobody says what it holds: at the end, and no later than is believed.
        let told = self::told((0, None, 3_600_000), None);
        assert_eq!([1_000, 120_999, 121_000].map(|now_ms| told.lacks(of(9), now_ms)), [true, true, false]);
        assert!(!self::told((1, None, 5_000), None).lacks(of(9), 1_000));
    }

    #[test]
    fn a_large_request_waits_for_more_than_a_small_one() {
        let told = told((5, None, 1_000), Some((1_000, Some(10_000), 9_000)));
        assert_eq!(
            [1_000, 1_001, 2_000, 10_000, 50_000].map(|tokens| told.lacks(of(tokens), 1_000)),
            [false, true, true, true, true]
        );
        assert_eq!([2_000, 2_001].map(|tokens| told.lacks(of(tokens), 2_000)), [false, true], "a thousand a second");
        assert!(!told.lacks(of(50_000), 10_000), "what can never fit is for the service to say");
    }

    #[test]
    fn what_was_sent_after_the_request_that_was_answered_is_gone() {
        let told = told((3, None, 60_000), Some((1_000, None, 60_000)));
        let wanted = Wanted { prompt_tokens: 250, to_read: 50, output_tokens: 50 };
        let first = told.sends(wanted);
        told.sends(wanted);
        assert!(!told.lacks(wanted, 2_000), "two of three requests are on their way, and 600 of 1000 tokens");
        told.sends(wanted);
        assert!(told.lacks(wanted, 2_000), "all three");
        // The first one is answered: two were left after it, and two others have been sent since.
        let said = |left| Allowances { requests: Some(bucket((left, None, 60_000))), ..Allowances::default() };
        told.told(&said(2), first, 2_000, LONGEST);
        assert!(told.lacks(wanted, 2_000));
        told.told(&said(3), first, 2_000, LONGEST);
        assert_eq!((told.lacks(wanted, 2_000), told.lacks(of(101), 2_000)), (true, true), "of the tokens 900 are on their way");
        assert!(!told.lacks(of(100), 2_000));
    }

    #[test]
    fn prompts_and_answers_may_have_buckets_of_their_own() {
        let told = Told::default();
        let said = Allowances {
            input_tokens: Some(bucket((1_000, None, 60_000))),
            output_tokens: Some(bucket((100, None, 30_000))),
            ..Allowances::default()
        };
        told.told(&said, Sent::default(), 0, LONGEST);
        let wanted = |prompt_tokens, to_read, output_tokens| Wanted { prompt_tokens, to_read, output_tokens };
        assert!(!told.lacks(wanted(9_000, 1_000, 100), 1));
        assert!(told.lacks(wanted(9_000, 1_001, 100), 1) && told.lacks(wanted(10, 10, 101), 1));
        assert!(told.lacks(wanted(9_000, 1_001, 101), 30_000) && !told.lacks(wanted(10, 10, 101), 30_000));
    }
}
