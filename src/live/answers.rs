//! How long an answer will be, by how long its prompt is.
//!
//! Requests of one route differ: a question of two lines is answered otherwise than a document to be shortened. In a recorded trace of
//! conversations (Azure, 2023) prompts of 900 to 1,200 tokens were answered with 400 tokens, both shorter and longer ones with 100; a
//! single mean tells neither what a request will emit nor how long it will keep its place.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::AtomicF64;

/// Classes of prompts: four to each doubling, up to 2^17 tokens and beyond. With two, prompts of 1,024 and of 1,500 tokens were one class in
/// that trace, of which the longer half is answered with 180 tokens.
pub(super) const CLASSES: usize = 64;
/// Weight of an answer in its class: a memory of about fifty, once there were as many.
const SMOOTHING: f64 = 0.02;
/// The mean of all prompts counts beside a class's own as so many answers.
const PRIOR_WEIGHT: f64 = 8.0;
/// More answers than these say no more of how well a class is known.
const MOST_SEEN: u32 = 1000;

/// Mean lengths of answers, by class of prompts.
#[derive(Debug)]
pub(super) struct Answers {
    mean: [AtomicF64; CLASSES],
    seen: [AtomicU32; CLASSES],
}

impl Default for Answers {
    fn default() -> Self {
        Self { mean: std::array::from_fn(|_| AtomicF64::new(0.0)), seen: std::array::from_fn(|_| AtomicU32::new(0)) }
    }
}

/// The class of a prompt: by the leading bit and the two after it.
const fn class(prompt_tokens: u32) -> usize {
    let tokens = if prompt_tokens < 4 { 4 } else { prompt_tokens };
    let bits = tokens.ilog2();
    let class = 4 * (bits as usize - 2) + (tokens >> (bits - 2) & 3) as usize;
    if class < CLASSES { class } else { CLASSES - 1 }
}

impl Answers {
    /// The mean after a prompt of that length, when that after all prompts is `of_all`.
    pub(super) fn mean(&self, prompt_tokens: u32, of_all: f64) -> f64 {
        let class = class(prompt_tokens);
        let (Some(mean), Some(seen)) = (self.mean.get(class), self.seen.get(class)) else { return of_all };
        let seen = f64::from(seen.load(Relaxed));
        (mean.get() * seen + of_all * PRIOR_WEIGHT) / (seen + PRIOR_WEIGHT)
    }

    /// An answer to a prompt of that length had so many tokens.
    pub(super) fn saw(&self, prompt_tokens: u32, tokens: f64) {
        let class = class(prompt_tokens);
        let (Some(mean), Some(seen)) = (self.mean.get(class), self.seen.get(class)) else { return };
        let before = seen.load(Relaxed);
        if before < MOST_SEEN {
            seen.store(before + 1, Relaxed);
        }
        let weight = SMOOTHING.max(1.0 / (f64::from(before) + 1.0));
        mean.set(mean.get() + weight * (tokens - mean.get()));
    }

    /// Means and how many answers they are made of, as numbers that outlive the process.
    pub(super) fn kept(&self) -> Vec<(f64, u32)> {
        self.mean.iter().zip(&self.seen).map(|(mean, seen)| (mean.get(), seen.load(Relaxed))).collect()
    }

    /// Takes over what was kept and is sound, of which the share `counts` still does. What was kept by other classes says nothing of these.
    pub(super) fn set(&self, kept: &[(f64, u32)], counts: f64) {
        if kept.len() != CLASSES {
            return;
        }
        for ((mean, seen), (kept_mean, kept_seen)) in self.mean.iter().zip(&self.seen).zip(kept) {
            mean.set(*kept_mean);
            seen.store((f64::from((*kept_seen).min(MOST_SEEN)) * counts) as u32, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_quarters_of_a_doubling_and_bounded() {
        let of = |tokens: &[u32]| tokens.iter().map(|tokens| class(*tokens)).collect::<Vec<_>>();
        assert_eq!(of(&[0, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16]), [0, 0, 0, 1, 2, 3, 4, 4, 5, 7, 8]);
        assert_eq!(of(&[1023, 1024, 1279, 1280, 1535, 1536]), [31, 32, 32, 33, 33, 34]);
        assert_eq!(of(&[(1 << 18) - 1, 1 << 18, u32::MAX]), [63, 63, 63]);
    }

    #[test]
    fn what_was_kept_by_other_classes_is_not_taken_over() {
        let answers = Answers::default();
        answers.set(&[(9.0, 1000); 36], 1.0);
        assert!((answers.mean(3, 240.0) - 240.0).abs() < 1e-9);
        answers.set(&[(9.0, 1000); CLASSES], 1.0);
        assert!(answers.mean(3, 240.0) < 20.0);
    }

    #[test]
    fn each_class_has_its_own_mean_and_an_unknown_one_that_of_all() {
        let answers = Answers::default();
        for _ in 0..200 {
            answers.saw(1000, 400.0);
            answers.saw(5000, 80.0);
        }
        let near = |prompt, tokens: f64| (answers.mean(prompt, 240.0) - tokens).abs() < 0.1 * tokens;
        assert!(near(900, 400.0) && near(5100, 80.0) && near(20, 240.0));
        answers.saw(20, 10_000.0);
        assert!(answers.mean(20, 240.0) < 1500.0, "one answer is no rule");
    }
}
