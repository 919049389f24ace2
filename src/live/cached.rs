//! How much of what a backend was sent before it still has: the share that its reports say, of the prompts that it should know.
//!
//! Caches have minimum lengths and blocks, evict, or are not there at all, and none of that can be seen from outside; but most backends
//! report what they took from theirs. The share is one of sums and not a mean of shares, so that a long prompt, which is what it is
//! about, counts as one. It is a share of the backend and not of a conversation: one that was evicted is believed to be there until its
//! next turn, whose report says so, and after which it is there again.

use super::AtomicF64;

/// Weight of the past when one more response is counted in: it remembers about a hundred.
const KEPT: f64 = 0.99;
/// What is believed before a backend has reported anything: half, since some keep nothing and others all.
const PRIOR: f64 = 0.5;
/// The prior counts as one prompt of so many tokens.
const PRIOR_TOKENS: f64 = 1000.0;
/// More than all is possible: the answer is kept as well, and comes back as a part of the next prompt. Of one report no more is believed
/// either, or a single wrong one would outweigh all others for as long as the process runs.
const MOST: f64 = 2.0;

/// Tokens that were taken from a cache, and those that might have been.
#[derive(Debug)]
pub(super) struct CachedShare([AtomicF64; 2]);

impl Default for CachedShare {
    fn default() -> Self {
        Self([AtomicF64::new(PRIOR * PRIOR_TOKENS), AtomicF64::new(PRIOR_TOKENS)])
    }
}

impl CachedShare {
    pub(super) fn get(&self) -> f64 {
        let [cached, known] = [0, 1].map(|index: usize| self.0[index].get());
        (cached / known.max(1.0)).clamp(0.0, MOST)
    }

    /// A prompt of which `known` tokens had been sent there before took `cached` of its tokens from a cache.
    pub(super) fn saw(&self, known: f64, cached: f64) {
        for (sum, add) in self.0.iter().zip([cached.min(known * MOST), known]) {
            sum.set(sum.get() * KEPT + add);
        }
    }

    /// Both sums, as numbers that outlive the process.
    pub(super) fn kept(&self) -> [f64; 2] {
        [0, 1].map(|index: usize| self.0[index].get())
    }

    /// Takes over sums that were kept and are sound; the less they count, the nearer to what a new one believes.
    pub(super) fn restore(&self, kept: [f64; 2], counts: f64) {
        self.0.iter().zip(kept).for_each(|(own, kept)| own.set(own.get() + counts * (kept - own.get())));
    }

    pub(super) fn learn_from(&self, old: &Self) {
        self.0.iter().zip(&old.0).for_each(|(new, old)| new.set(old.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_to_what_is_reported() {
        let share = CachedShare::default();
        assert!((share.get() - PRIOR).abs() < 1e-9);
        share.saw(4000.0, 4000.0);
        assert!(share.get() > 0.85, "one long prompt says much: {}", share.get());
        (0..500).for_each(|_| share.saw(4000.0, 1000.0));
        assert!((share.get() - 0.25).abs() < 0.01);
        (0..3000).for_each(|_| share.saw(100.0, 1000.0));
        assert!((share.get() - MOST).abs() < 1e-9);
        share.saw(4000.0, 1e18);
        (0..1000).for_each(|_| share.saw(4000.0, 1000.0));
        assert!((share.get() - 0.25).abs() < 0.01, "one report is soon outweighed: {}", share.get());
    }
}
