//! What is known of the requests for one model on one route, wherever they are served: how long they are, and how many there are.
//!
//! It is kept apart from the backends, because all candidates of a request must be judged for the same request: a backend that was
//! never used would otherwise be thought to get a shorter prompt.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::AtomicF64;
use super::answers::Answers;
use super::first_token::prompt_class;
use super::kept::KeptFlow;
use crate::demand::{Demand, Size};

/// Classes of prompts that demand is counted by.
pub const PROMPT_CLASSES: usize = 3;
/// Weight of a response in the mean: a memory of about thirty.
const SMOOTHING: f64 = 0.03;
/// Bytes of request JSON for each prompt token until usage reports teach better (English text is about 4, JSON around it adds some).
const BYTES_PER_TOKEN: f64 = 4.5;
/// What text can be.
const BYTES_RANGE: (f64, f64) = (1.0, 16.0);
/// Output tokens expected until responses teach better.
const OUTPUT_TOKENS: f64 = 250.0;
/// Classes of lengths of responses, each twice as long as the one before: up to 2^20 tokens.
const LENGTHS: usize = 20;
/// The longest answer that is believed, in tokens; no model's limit is near it. A single report beyond would spoil the means for long.
const LONGEST_ANSWER: u64 = 1 << LENGTHS;
/// The middle of each class, three quarters of its upper end: every request with a limit goes through all of them.
const MIDDLES: [f64; LENGTHS] = {
    let mut middles = [1.0; LENGTHS];
    let mut class = 1;
    while class < LENGTHS {
        middles[class] = 0.75 * (1_u32 << class) as f64;
        class += 1;
    }
    middles
};
/// Each response weighs so much more than the one before, so that the distribution of lengths remembers about a thousand ..
const GROWTH: f64 = 1.001;
/// .. and what has become too large to be exact is made small again.
const MOST_WEIGHT: f64 = 1e9;
/// The prior of the distribution counts as so many responses.
const PRIOR_WEIGHT: f64 = 4.0;

/// No more requests are believed to have come to another replica between two messages ..
const MOST_REQUESTS: u64 = 1_000_000;
/// .. nor more tokens in the mean of them.
const MOST_TOKENS: u64 = 1 << 22;

/// What was asked for so far, in one class of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Requests.
    pub requests: u64,
    /// Of these, those that asked for a stream.
    pub streamed: u64,
    /// Prompt tokens, as estimated.
    pub prompt_tokens: u64,
    /// Output tokens, as expected.
    pub output_tokens: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    streamed: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
}

/// What is known of the requests for one model on one route.
#[derive(Debug)]
pub struct Flow {
    bytes_per_token: AtomicF64,
    output_tokens: AtomicF64,
    /// The same by the length of the prompt.
    answers: Answers,
    /// Weight of responses with at most 1, 2, 4, .. tokens, in units that a later response has more of.
    lengths: [AtomicF64; LENGTHS],
    /// What the next response weighs: more than the last one, which is the same as all before it weighing less.
    weight: AtomicF64,
    asked: [Counters; PROMPT_CLASSES],
    /// What other replicas were asked for.
    elsewhere: [Counters; PROMPT_CLASSES],
}

impl Counters {
    fn add(&self, more: Asked) {
        self.requests.fetch_add(more.requests, Relaxed);
        self.streamed.fetch_add(more.streamed, Relaxed);
        self.prompt_tokens.fetch_add(more.prompt_tokens, Relaxed);
        self.output_tokens.fetch_add(more.output_tokens, Relaxed);
    }

    fn get(&self) -> Asked {
        Asked {
            requests: self.requests.load(Relaxed),
            streamed: self.streamed.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
        }
    }
}

impl Asked {
    /// What it has grown by; `None` when that cannot be.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let grown = Self {
            requests: self.requests.checked_sub(before.requests)?,
            streamed: self.streamed.checked_sub(before.streamed)?,
            prompt_tokens: self.prompt_tokens.checked_sub(before.prompt_tokens)?,
            output_tokens: self.output_tokens.checked_sub(before.output_tokens)?,
        };
        let tokens = grown.requests.checked_mul(MOST_TOKENS)?;
        (grown.requests <= MOST_REQUESTS
            && grown.streamed <= grown.requests
            && grown.prompt_tokens <= tokens
            && grown.output_tokens <= tokens)
            .then_some(grown)
    }
}

impl Asked {
    fn each(of: impl Fn(fn(&Self) -> u64) -> u64) -> Self {
        Self {
            requests: of(|asked| asked.requests),
            streamed: of(|asked| asked.streamed),
            prompt_tokens: of(|asked| asked.prompt_tokens),
            output_tokens: of(|asked| asked.output_tokens),
        }
    }

    /// With so much more; it wraps, as the counters do.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self::each(|of| of(self).wrapping_add(of(more)))
    }

    /// With so much less, which may be less than nothing: it wraps, and is taken off again where it is added.
    #[must_use]
    pub fn minus(&self, less: &Self) -> Self {
        Self::each(|of| of(self).wrapping_sub(of(less)))
    }

    /// So many times as much.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self::each(|of| (of(self) as f64 * factor).round() as u64)
    }
}

impl Default for Flow {
    fn default() -> Self {
        let usual = length_class(OUTPUT_TOKENS);
        let weight = |class: usize| if class.abs_diff(usual) <= 1 { PRIOR_WEIGHT / 3.0 } else { 0.0 };
        Self {
            bytes_per_token: AtomicF64::new(BYTES_PER_TOKEN),
            output_tokens: AtomicF64::new(OUTPUT_TOKENS),
            answers: Answers::default(),
            lengths: std::array::from_fn(|class| AtomicF64::new(weight(class))),
            weight: AtomicF64::new(1.0),
            asked: Default::default(),
            elsewhere: Default::default(),
        }
    }
}

fn length_class(tokens: f64) -> usize {
    (tokens.max(1.0).log2().ceil() as usize).min(LENGTHS - 1)
}

impl Flow {
    /// How large a request is expected to be.
    pub fn size(&self, demand: &Demand) -> Size {
        self.size_of((demand.body_bytes as f64 / self.bytes_per_token.get().max(0.1)) as u32, demand)
    }

    /// The same where the length of the prompt is known.
    pub fn size_of(&self, prompt_tokens: u32, demand: &Demand) -> Size {
        let output_tokens = if demand.embeddings { 0 } else { self.output_tokens(prompt_tokens, demand.max_output_tokens) };
        Size { prompt_tokens, output_tokens }
    }

    /// Output tokens to expect after a prompt of that length, at least 1. A limit cuts the long responses off, and the mean by what
    /// was cut.
    pub fn output_tokens(&self, prompt_tokens: u32, limit: Option<u32>) -> u32 {
        let mean = self.answers.mean(prompt_tokens, self.output_tokens.get()).max(1.0);
        let Some(limit) = limit else { return mean as u32 };
        let limit = f64::from(limit);
        let (mut sum, mut whole) = (0.0, 0.0);
        let seen = self.lengths.iter().zip(&MIDDLES).map(|(seen, tokens)| (seen.get(), *tokens));
        // Most responses of a flow are of a few lengths.
        for (weight, tokens) in seen.filter(|(weight, _)| *weight > 0.0) {
            whole += weight * tokens;
            sum += weight * tokens.min(limit);
        }
        let kept = if whole > 0.0 { sum / whole } else { 1.0 };
        (mean * kept).min(limit).max(1.0) as u32
    }

    /// A request of that size was decided.
    pub fn asked(&self, size: Size, streamed: bool) {
        let Some(counters) = self.asked.get(prompt_class(size.prompt_tokens)) else { return };
        counters.add(Asked {
            requests: 1,
            streamed: streamed.into(),
            prompt_tokens: size.prompt_tokens.into(),
            output_tokens: size.output_tokens.into(),
        });
    }

    /// Another replica was asked for so much since it last said so, or so much less than was guessed.
    pub fn asked_elsewhere(&self, more: &[Asked; PROMPT_CLASSES]) {
        self.elsewhere.iter().zip(more).for_each(|(counters, more)| counters.add(*more));
    }

    /// What this process was asked for since the start, by class of prompts.
    pub fn own_totals(&self) -> [Asked; PROMPT_CLASSES] {
        std::array::from_fn(|class| self.asked.get(class).map_or_else(Asked::default, Counters::get))
    }

    /// The same with what other replicas said that they were.
    pub fn totals(&self) -> [Asked; PROMPT_CLASSES] {
        let own = self.own_totals();
        std::array::from_fn(|class| {
            let there = self.elsewhere.get(class).map_or_else(Asked::default, Counters::get);
            own.get(class).copied().unwrap_or_default().plus(&there)
        })
    }

    /// Classes of lengths.
    pub(super) const fn classes() -> usize {
        LENGTHS
    }

    /// What was learned of sizes, as numbers that outlive the process.
    pub fn kept(&self) -> KeptFlow {
        KeptFlow {
            bytes_per_token: self.bytes_per_token.get(),
            output_tokens: self.output_tokens.get(),
            answers: self.answers.kept(),
            lengths: self.lengths.iter().map(AtomicF64::get).collect(),
            weight: self.weight.get(),
        }
    }

    /// Takes over what was kept and is sound; the less it counts, the nearer to what a new one believes.
    pub(super) fn set(&self, kept: &KeptFlow, counts: f64) {
        let towards = |own: &AtomicF64, kept: f64| own.set(own.get() + counts * (kept - own.get()));
        towards(&self.bytes_per_token, kept.bytes_per_token.clamp(BYTES_RANGE.0, BYTES_RANGE.1));
        towards(&self.output_tokens, kept.output_tokens.clamp(1.0, f64::from(1_u32 << LENGTHS)));
        self.answers.set(&kept.answers, counts);
        // In units of the new weight, so that both kinds of lengths weigh what they are worth.
        for (own, kept_length) in self.lengths.iter().zip(&kept.lengths) {
            own.set(own.get() * (1.0 - counts) + kept_length / kept.weight.max(1e-9) * counts);
        }
    }

    /// A response to a prompt of so many tokens, as they were estimated, had so many output tokens.
    pub fn saw_output(&self, prompt_tokens: u32, tokens: u64) {
        let tokens = tokens.min(LONGEST_ANSWER) as f64;
        self.answers.saw(prompt_tokens, tokens);
        smooth(&self.output_tokens, tokens);
        let weight = self.weight.get();
        if let Some(own) = self.lengths.get(length_class(tokens)) {
            own.set(own.get() + weight);
        }
        self.weight.set(weight * GROWTH);
        if weight > MOST_WEIGHT {
            self.lengths.iter().chain([&self.weight]).for_each(|sum| sum.set(sum.get() / MOST_WEIGHT));
        }
    }

    /// A backend reported how many prompt tokens a body of that many bytes was.
    pub fn saw_prompt(&self, body_bytes: usize, prompt_tokens: u64) {
        if prompt_tokens > 0 {
            // An image is many bytes and few tokens, and says nothing of text.
            let sample = (body_bytes as f64 / prompt_tokens as f64).clamp(BYTES_RANGE.0, BYTES_RANGE.1);
            smooth(&self.bytes_per_token, sample);
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

    #[test]
    fn sizes_are_learned() {
        let flow = Flow::default();
        let demand = Demand { body_bytes: 4500, streamed: true, ..Demand::default() };
        assert_eq!(flow.size(&demand), Size { prompt_tokens: 1000, output_tokens: 250 });
        for _ in 0..500 {
            flow.saw_prompt(9000, 1000);
            flow.saw_output(1000, 40);
        }
        assert_eq!(flow.size(&demand), Size { prompt_tokens: 500, output_tokens: 40 });
        let vectors = Demand { embeddings: true, ..demand };
        assert_eq!(flow.size(&vectors).output_tokens, 0);
    }

    #[test]
    fn no_report_is_believed_beyond_all_limits() {
        let flow = Flow::default();
        flow.saw_output(1000, u64::MAX);
        (0..1000).for_each(|_| flow.saw_output(1000, 40));
        assert_eq!(flow.output_tokens(1000, None), 40);
    }

    #[test]
    fn a_limit_cuts_only_what_is_longer() {
        let flow = Flow::default();
        for _ in 0..3000 {
            flow.saw_output(1000, 50);
            flow.saw_output(1000, 950);
        }
        let free = flow.output_tokens(1000, None);
        assert!((450..550).contains(&free), "{free}");
        assert_eq!(flow.output_tokens(1000, Some(100_000)), free);
        let cut = flow.output_tokens(1000, Some(100));
        assert!((50..=100).contains(&cut), "{cut}");
        assert_eq!(flow.output_tokens(1000, Some(1)), 1);
    }

    #[test]
    fn demand_is_counted_by_class() {
        let flow = Flow::default();
        flow.asked(Size { prompt_tokens: 100, output_tokens: 10 }, true);
        flow.asked(Size { prompt_tokens: 511, output_tokens: 10 }, false);
        flow.asked(Size { prompt_tokens: 5000, output_tokens: 30 }, true);
        let [short, middle, long] = flow.totals();
        assert_eq!(short, Asked { requests: 2, streamed: 1, prompt_tokens: 611, output_tokens: 20 });
        assert_eq!((middle, long.output_tokens), (Asked::default(), 30));
    }
}
