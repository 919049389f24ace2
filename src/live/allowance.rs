//! What a hosted service says in its answers of how much more it will take of a model before it refuses: a bucket that fills again in
//! time. Whoever knows it need not be refused first.
//!
//! An answer says what was left when its request came in, and since then others were sent, and the bucket went on filling. So what is sent
//! is counted, each request knows how much that was when it left, and what was sent after it is no longer there of what its answer says;
//! and what it says is of the moment when its request was sent, however long the answer took. A request that was sent counts also where
//! nobody waited for its answer: the service took it. In its bucket's time, two minutes at the most, it has filled up again.

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
    /// 0 when nobody says.
    limit: AtomicU64,
    /// When the request was sent whose answer says so.
    at_ms: AtomicU64,
    span_ms: AtomicU64,
    /// What was sent, since it was first heard of it ..
    sent: AtomicU64,
    /// .. and how much of that had been when the last answer was asked for.
    sent_then: AtomicU64,
}

impl Bucket {
    fn told(&self, said: Allowance, sent_then: u64, begun_ms: u64, span: Duration) {
        // What was given back since is not there to be taken off a second time.
        let sent_then = sent_then.min(self.sent.load(Relaxed));
        // Of two answers the one to the later request knows more, whichever comes first.
        if (begun_ms, sent_then) < (self.at_ms.load(Relaxed), self.sent_then.load(Relaxed)) {
            return;
        }
        self.left.store(said.left, Relaxed);
        self.limit.store(said.limit.unwrap_or(0), Relaxed);
        self.at_ms.store(begun_ms, Relaxed);
        self.span_ms.store(span.as_millis() as u64, Relaxed);
        self.sent_then.store(sent_then, Relaxed);
    }

    /// What of a request counts: no more than the bucket holds, or one that wants more than can ever be granted would empty it for others.
    fn counted(&self, wanted: u64) -> u64 {
        match self.limit.load(Relaxed) {
            0 => wanted,
            limit => wanted.min(limit.max(self.left.load(Relaxed))),
        }
    }

    fn give_back(&self, wanted: u64, sent: u64) {
        let told = self.sent_then.load(Relaxed);
        // What had been sent before is not held against what is left.
        if sent > told {
            let less = |now: u64| Some(now.saturating_sub(self.counted(wanted)).max(told.min(now)));
            let _ = self.sent.fetch_update(Relaxed, Relaxed, less);
        }
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
    /// Takes what the answer to a request says that was sent at `begun_ms`.
    pub(super) fn told(&self, said: &Allowances, then: Sent, begun_ms: u64, longest: Duration) {
        for ((bucket, said), sent_then) in self.buckets.iter().zip(said.buckets()).zip(then.0) {
            let Some(said) = said else { continue };
            let span = said.full_in.min(longest);
            bucket.told(said, sent_then, begun_ms, span);
            // Of an empty span nothing follows, but that there is something to count.
            self.until_ms.fetch_max(begun_ms.saturating_add((span.as_millis() as u64).max(1)), Relaxed);
        }
    }

    /// Takes over what was said to another.
    pub(super) fn learn_from(&self, old: &Self) {
        let of = |bucket: &Bucket| -> [u64; 6] {
            let Bucket { left, limit, at_ms, span_ms, sent, sent_then } = bucket;
            [left, limit, at_ms, span_ms, sent, sent_then].map(|number| number.load(Relaxed))
        };
        for (bucket, old) in self.buckets.iter().zip(&old.buckets) {
            let Bucket { left, limit, at_ms, span_ms, sent, sent_then } = bucket;
            let numbers = [left, limit, at_ms, span_ms, sent, sent_then];
            numbers.into_iter().zip(of(old)).for_each(|(number, old)| number.store(old, Relaxed));
        }
        self.until_ms.store(old.until_ms.load(Relaxed), Relaxed);
    }

    /// Counts a request that is sent. Where nothing was ever said there is nothing to count.
    pub(super) fn sends(&self, wanted: Wanted) -> Sent {
        if self.until_ms.load(Relaxed) == 0 {
            return Sent::default();
        }
        let mut sent = wanted.of_buckets();
        for (bucket, more) in self.buckets.iter().zip(&mut sent) {
            let counted = bucket.counted(*more);
            *more = counted.wrapping_add(bucket.sent.fetch_add(counted, Relaxed));
        }
        Sent(sent)
    }

    /// Takes back what was counted of a request that the service never took.
    pub(super) fn give_back(&self, wanted: Wanted, sent: Sent) {
        for ((bucket, wanted), sent) in self.buckets.iter().zip(wanted.of_buckets()).zip(sent.0) {
            bucket.give_back(wanted, sent);
        }
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
    fn what_the_service_never_took_is_given_back() {
        let told = told((3, Some(3), 60_000), Some((1_000, Some(1_000), 60_000)));
        let huge = Wanted { prompt_tokens: 10, to_read: 10, output_tokens: u64::from(u32::MAX) };
        let sent = told.sends(huge);
        assert!(told.lacks(of(1), 1_000), "all the tokens there are");
        told.give_back(huge, sent);
        assert!(!told.lacks(of(1_000), 1_000));
        assert_eq!(told.buckets[1].sent.load(Relaxed), 0);
        let [before, after] = [told.sends(huge), told.sends(of(0))];
        assert_eq!(told.buckets[1].sent.load(Relaxed), 1_000, "no more than there can be");
        let said = Allowances { tokens: Some(bucket((500, Some(1_000), 30_000))), ..Allowances::default() };
        told.told(&said, after, 2_000, LONGEST);
        told.give_back(huge, before);
        told.sends(of(500));
        assert!(told.lacks(of(1), 2_000), "who was asked later never had to do without it");
    }

    #[test]
    fn an_answer_speaks_of_the_moment_when_its_request_was_sent() {
        let told = told((0, Some(100), 60_000), None);
        let [early, late] = [told.sends(of(1)), told.sends(of(1))];
        let say = |left, sent, begun_ms| {
            let said = Allowances { requests: Some(bucket((left, Some(100), 60_000))), ..Allowances::default() };
            told.told(&said, sent, begun_ms, LONGEST);
        };
        // One request each 0.6 s has come back while it was waited for.
        say(0, early, 10_000);
        assert_eq!([10_600, 11_200].map(|now_ms| told.lacks(of(1), now_ms)), [true, false], "the other one is on its way");
        say(90, late, 11_000);
        say(0, early, 10_000);
        assert!(!told.lacks(of(1), 11_000), "an answer that was long in coming knows less than one to a later request");
    }

    /// A bucket of 500 a minute of which 100 are left, asked `per_second` times each second: how many are held back, and how many of
    /// these would have been granted.
    fn held_back(per_second: u64, latency_ms: u64) -> (usize, usize) {
        let (told, per_ms, limit) = (Told::default(), 500.0 / 60_000.0, 500.0_f64);
        let (mut left, mut filled_ms, mut held_back, mut granted) = (100.0_f64, 0, 0, 0);
        let mut answers = std::collections::VecDeque::new();
        for now_ms in (0..400).flat_map(|second| (0..per_second).map(move |nth| second * 1_000 + nth * 1_000 / per_second)) {
            while let Some(&(said, sent, begun_ms)) = answers.front().filter(|(_, _, begun_ms)| begun_ms + latency_ms <= now_ms) {
                told.told(&said, sent, begun_ms, LONGEST);
                answers.pop_front();
            }
            left = limit.min(left + (now_ms - filled_ms) as f64 * per_ms);
            filled_ms = now_ms;
            if told.lacks(of(0), now_ms) {
                held_back += 1;
                granted += usize::from(left >= 2.0);
                continue;
            }
            let sent = told.sends(of(0));
            left = (left - 1.0).max(0.0);
            let full_in = ((limit - left) / per_ms) as u64;
            let requests = Some(bucket((left as u64, Some(500), full_in)));
            answers.push_back((Allowances { requests, ..Allowances::default() }, sent, now_ms));
        }
        (held_back, granted)
    }

    #[test]
    fn what_fills_again_while_an_answer_is_awaited_is_there() {
        for (per_second, latency_ms) in [(7, 30_000), (7, 60_000), (8, 60_000)] {
            assert_eq!(held_back(per_second, latency_ms), (0, 0), "{per_second} a second, {latency_ms} ms each");
        }
        let (held_back, granted) = held_back(12, 5_000);
        assert!(held_back > 100 && granted * 20 < held_back, "of {held_back} {granted} would have been granted");
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
