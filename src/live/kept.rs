//! What was learned, as numbers that outlive the process.
//!
//! They come back from a disk, where anybody may have been at them, so each is looked at before any of a model is taken over. What is
//! old counts less: it goes towards what was declared, by half in a day.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::first_token::FirstToken;
use super::flow::Flow;
use super::margin::Margin;
use super::model::ModelLive;
use super::pace::Pace;
use super::quota::Quota;
use super::taught::CELLS;

/// A sum or count beyond this is none: no process lives so long.
const MOST: f64 = 1e18;

/// What was learned of a model at a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptModel {
    first_token: KeptFirstToken,
    token_rate: KeptTokenRate,
    /// `None` until something limited it.
    limit: Option<f64>,
    /// The share that refusals have left of its capacity.
    cut: f64,
    samples: u64,
    /// Of the prompts that it had been sent before: tokens that came out of a cache, and all; none in what an earlier version kept.
    #[serde(default)]
    cached: Option<[f64; 2]>,
    /// How far beyond the budget of a token it may be filled; likewise.
    #[serde(default)]
    pace: Option<f64>,
}

/// What was learned of its first token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptFirstToken {
    pub(super) sums: [f64; 5],
    pub(super) factors: [f64; CELLS],
    pub(super) samples: [u32; CELLS],
}

/// What was learned of its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptTokenRate {
    pub(super) level: f64,
    pub(super) variance: f64,
    pub(super) samples: u32,
    pub(super) shape: [f64; CELLS],
    pub(super) seen: [u32; CELLS],
}

/// What was learned of a flow's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptFlow {
    pub(super) bytes_per_token: f64,
    pub(super) output_tokens: f64,
    /// By class of prompts; none in what an earlier version kept.
    #[serde(default)]
    pub(super) answers: Vec<(f64, u32)>,
    pub(super) lengths: Vec<f64>,
    pub(super) weight: f64,
}

impl KeptFirstToken {
    fn is_sound(&self) -> bool {
        let [weight, x, _, xx, _] = self.sums;
        self.sums.iter().all(|sum| is_amount(*sum))
            && weight > 0.0
            // Of no numbers is the mean square below the square of the mean, but for what rounding does.
            && x * x <= weight * xx * (1.0 + 1e-6) + 1e-6
            && self.factors.iter().all(|factor| FirstToken::is_factor(*factor))
    }
}

impl KeptTokenRate {
    fn is_sound(&self) -> bool {
        let some = |value: f64| value > 1e-6 && value < 1e9;
        some(self.level) && is_amount(self.variance) && self.shape.iter().all(|shape| some(*shape))
    }
}

impl KeptFlow {
    fn is_sound(&self) -> bool {
        let ours = self.lengths.len() == Flow::classes();
        let numbers = self.lengths.iter().chain([&self.bytes_per_token, &self.output_tokens, &self.weight]);
        ours && self.answers.iter().all(|(mean, _)| is_amount(*mean))
            && numbers.into_iter().all(|number| is_amount(*number))
            && self.weight > 0.0
    }
}

fn is_amount(value: f64) -> bool {
    (0.0..=MOST).contains(&value)
}

/// Between `declared` and `learned`, by how much of it still counts. Both are positive.
pub(super) fn between(declared: f64, learned: f64, counts: f64) -> f64 {
    (declared.ln() * (1.0 - counts) + learned.ln() * counts).exp()
}

/// A number of samples of which a part still counts.
pub(super) fn fewer(samples: u32, counts: f64) -> u32 {
    (f64::from(samples) * counts) as u32
}

impl ModelLive {
    /// What was learned; `None` when that is nothing.
    pub fn kept(&self) -> Option<KeptModel> {
        // Of answers that come in one piece only the pace of the tokens is seen.
        (self.samples() > 0 || self.token_rate.is_known()).then(|| KeptModel {
            first_token: self.first_token.kept(),
            token_rate: self.token_rate.kept(),
            cut: self.quota.share(),
            limit: Some(self.limit.get()).filter(|limit| limit.is_finite()),
            samples: self.samples(),
            cached: Some(self.cached.kept()),
            pace: Some(self.pace.get()),
        })
    }

    /// Takes over what was kept, of which the share `counts` still does. Returns whether it could be true; if not, nothing has changed.
    pub fn restore(&self, kept: &KeptModel, counts: f64) -> bool {
        let limit = kept.limit.unwrap_or(f64::INFINITY);
        let sound = kept.first_token.is_sound()
            && kept.token_rate.is_sound()
            && (1.0..).contains(&limit)
            && Quota::is_share(kept.cut)
            && kept.cached.is_none_or(|sums| sums.into_iter().all(is_amount))
            && kept.pace.is_none_or(Pace::is_pace);
        if sound {
            let counts = counts.clamp(0.0, 1.0);
            self.first_token.restore(&kept.first_token, counts);
            self.token_rate.restore(&kept.token_rate, counts);
            self.quota.restore(kept.cut, counts);
            if let Some(cached) = kept.cached {
                self.cached.restore(cached, counts);
            }
            if let Some(pace) = kept.pace {
                self.pace.restore(pace, counts);
            }
            // One that is old is found anew from the pace of its tokens.
            self.limit.set(if counts >= 0.5 { limit } else { f64::INFINITY });
            self.samples.store((kept.samples.min(1 << 50) as f64 * counts) as u64, Relaxed);
        }
        sound
    }
}

impl Flow {
    /// Takes over what was kept; likewise.
    pub fn restore(&self, kept: &KeptFlow, counts: f64) -> bool {
        let sound = kept.is_sound();
        if sound {
            self.set(kept, counts.clamp(0.0, 1.0));
        }
        sound
    }
}

impl Margin {
    /// Takes over a margin that was kept; likewise.
    pub fn restore(&self, kept: f64, counts: f64) -> bool {
        let sound = Self::is_margin(kept);
        if sound {
            self.set(between(1.0, kept, counts.clamp(0.0, 1.0)));
        }
        sound
    }
}
