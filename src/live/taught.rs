//! What responses taught of a model at a backend, as counts and sums that only grow, so that replicas can learn from each other's.
//!
//! A replica is told the sums of another one and takes what they have grown by; a message that is lost is made up for by the next.
//! All of them wrap, and only their differences mean anything.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Cells of the first token's factors, and buckets of the token rate's shape.
pub const CELLS: usize = 24;
/// No more responses are believed to have come between two messages; ten thousand a second for ten seconds.
const MOST_RESPONSES: u64 = 100_000;
/// A prompt counts in the sums up to here, in tokens ..
pub(super) const MOST_PROMPT: u32 = 1 << 20;
/// .. and a time up to here, so that a sum cannot wrap between two messages: ten minutes in microseconds.
pub(super) const MOST_MICROS: u64 = 600_000_000;

/// Sums of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taught {
    /// By cell: responses that began.
    pub begun: [u32; CELLS],
    /// By cell: those of them that were later than the cell said.
    pub late: [u32; CELLS],
    /// Of the responses that began: prompt tokens, microseconds, squared prompt tokens, and the product of both.
    pub line: [u64; 4],
    /// By bucket: responses whose tokens' pace was seen.
    pub paced: [u32; CELLS],
    /// By bucket: microseconds for each token, summed.
    pub micros: [u64; CELLS],
    /// Squares of the microseconds by which they strayed.
    pub squares: u64,
}

impl Taught {
    /// What it has grown by; `None` when that cannot be, because its process began anew or counts wrong.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let count = |now: &[u32; CELLS], then: &[u32; CELLS]| -> [u32; CELLS] {
            std::array::from_fn(|cell| at(now, cell).wrapping_sub(at(then, cell)))
        };
        let grown = Self {
            begun: count(&self.begun, &before.begun),
            late: count(&self.late, &before.late),
            line: std::array::from_fn(|sum| at(&self.line, sum).wrapping_sub(at(&before.line, sum))),
            paced: count(&self.paced, &before.paced),
            micros: std::array::from_fn(|bucket| at(&self.micros, bucket).wrapping_sub(at(&before.micros, bucket))),
            squares: self.squares.wrapping_sub(before.squares),
        };
        grown.is_plausible().then_some(grown)
    }

    /// What is left of it where first tokens are of another place, from which the way to the backend is another: how fast tokens come.
    #[must_use]
    pub fn without_first_tokens(self) -> Self {
        Self { begun: [0; CELLS], late: [0; CELLS], line: [0; 4], ..self }
    }

    /// Responses that began.
    pub fn responses(&self) -> u64 {
        self.begun.iter().map(|count| u64::from(*count)).sum()
    }

    /// Responses whose tokens' pace was seen.
    pub(super) fn paces(&self) -> u64 {
        self.paced.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether responses can have summed up to this.
    fn is_plausible(&self) -> bool {
        let (begun, paced) = (self.responses(), self.paces());
        let [prompts, micros, squares, products] = self.line;
        begun <= MOST_RESPONSES
            && paced <= MOST_RESPONSES
            && self.late.iter().zip(&self.begun).all(|(late, begun)| late <= begun)
            && prompts <= begun * u64::from(MOST_PROMPT)
            && micros <= begun * MOST_MICROS
            && squares <= prompts.saturating_mul(MOST_PROMPT.into())
            // Of no numbers is the mean square below the square of the mean.
            && u128::from(prompts).pow(2) <= u128::from(squares) * u128::from(begun)
            && products <= micros.saturating_mul(MOST_PROMPT.into())
            && self.micros.iter().zip(&self.paced).all(|(micros, paced)| *micros <= u64::from(*paced) * MOST_MICROS)
            && u128::from(self.squares) <= u128::from(paced) * u128::from(MOST_MICROS).pow(2)
    }
}

fn at<T: Copy + Default>(values: &[T], index: usize) -> T {
    values.get(index).copied().unwrap_or_default()
}

/// Counts of one cell of the first token.
#[derive(Debug, Default)]
pub(super) struct Begun(AtomicU64);

impl Begun {
    /// Both counts in one word: the lower half is responses, the upper half the late ones.
    pub(super) fn add(&self, late: bool) {
        self.0.fetch_add(1 | u64::from(late) << 32, Relaxed);
    }

    pub(super) fn get(&self) -> (u32, u32) {
        let both = self.0.load(Relaxed);
        (both as u32, (both >> 32) as u32)
    }
}

/// Sums of one bucket of the token rate.
#[derive(Debug, Default)]
pub(super) struct Paced {
    count: AtomicU32,
    micros: AtomicU64,
}

impl Paced {
    pub(super) fn add(&self, micros: u64) {
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn get(&self) -> (u32, u64) {
        (self.count.load(Relaxed), self.micros.load(Relaxed))
    }
}

/// Milliseconds as a sum takes them.
pub(super) fn micros(millis: f64) -> u64 {
    ((millis.max(0.0) * 1e3) as u64).min(MOST_MICROS)
}
