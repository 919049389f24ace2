//! How far single draws stray from the model: log-normal, because latencies are skewed and never negative.
//!
//! The generator is the caller's, so that one seed replays a whole run.

use std::f64::consts::TAU;

use fastrand::Rng;
use serde::Deserialize;

/// A spike multiplies a draw by something between these two.
const SPIKE: std::ops::Range<f64> = 2.0..6.0;

/// Spreads of the log-normal factors (standard deviations of the logarithm), and how often a draw is an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Noise {
    /// Of the network's round trip.
    pub rtt: Spread,
    /// Of reading a prompt.
    pub prefill: Spread,
    /// Of one decoding step.
    pub token: Spread,
    /// The share of round trips and prompts that take two to six times as long.
    pub spikes: super::Share,
}

impl Default for Noise {
    /// Mild: what a region shows on a quiet day.
    fn default() -> Self {
        Self {
            rtt: Spread(0.08),
            prefill: Spread(0.12),
            token: Spread(0.05),
            spikes: super::Share::new(0.001).unwrap_or_default(),
        }
    }
}

impl Noise {
    /// No noise at all, for exact tests and figures.
    pub const NONE: Self = Self { rtt: Spread(0.0), prefill: Spread(0.0), token: Spread(0.0), spikes: super::Share::ZERO };

    /// A factor around 1 for something that may also spike.
    pub fn spiky(&self, spread: Spread, rng: &mut Rng) -> f64 {
        let factor = spread.factor(rng);
        if rng.f64() < self.spikes.get() { factor * (SPIKE.start + (SPIKE.end - SPIKE.start) * rng.f64()) } else { factor }
    }
}

/// The standard deviation of a factor's logarithm, 0 to 2.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread(f64);

impl Spread {
    /// `None` unless the value lies in 0 to 2; beyond that single draws span a factor of a thousand.
    pub fn new(sigma: f64) -> Option<Self> {
        (0.0..=2.0).contains(&sigma).then_some(Self(sigma))
    }

    /// The standard deviation, without unit.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// A log-normal factor with median 1.
    pub fn factor(self, rng: &mut Rng) -> f64 {
        (self.0 * standard_normal(rng)).exp()
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).ok_or_else(|| serde::de::Error::custom("expected a spread between 0 and 2"))
    }
}

/// One draw by the method of Box and Muller. The pair's second half is thrown away: keeping it would need a state beside `rng`.
pub fn standard_normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_spread_that_was_asked_for() {
        let mut rng = Rng::with_seed(1);
        let spread = Spread::new(0.5).unwrap();
        let logs: Vec<f64> = (0..20_000).map(|_| spread.factor(&mut rng).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.02, "{variance}");
    }

    #[test]
    fn none_is_exactly_one() {
        let mut rng = Rng::with_seed(2);
        assert_eq!(Noise::NONE.spiky(Noise::NONE.rtt, &mut rng).to_bits(), 1.0_f64.to_bits());
    }
}
