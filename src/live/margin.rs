//! How much of a latency budget is believed: one number for each policy, tracked so that the share of late answers is the one that the
//! policy allows.
//!
//! A prediction may be wrong in ways that its own quantile does not show: a backend that is not as the model of it, a choice that
//! prefers whoever was underestimated. What counts in the end is the share of requests that were late, and that is a thing one can
//! steer by (adaptive conformal inference, Gibbs and Candès, 2021): every late answer widens the margin, every punctual one narrows
//! it, in the proportion that balances at the wanted share.

use super::AtomicF64;

/// What one late answer moves, as a share of the margin. With twice as much the margin itself strays so far that the greenest backends drop
/// out now and then where latencies stray, and more so where each of several replicas sees few answers: in `simulate`, four under noise in
/// `us`, seeds 101 and 102, that was 95.2 % of the possible saving, with this 95.5 %.
const STEP: f64 = 0.01;
/// The margin stays within these, or one bad hour would close a route for good, and a good one would open it to anything.
const MOST: f64 = 1.4;
/// Least for a policy that allows at most one late answer in a hundred, and for others: the prediction is a 99th percentile, and what
/// nine in ten keep may be half of it.
const LEAST: (f64, f64) = (0.6, 0.4);
const STRICT: f64 = 0.99;

/// What predictions are multiplied by before they are held against a budget.
#[derive(Debug)]
pub struct Margin(AtomicF64);

impl Default for Margin {
    fn default() -> Self {
        Self(AtomicF64::new(1.0))
    }
}

impl Margin {
    /// The factor.
    pub fn get(&self) -> f64 {
        self.0.get()
    }

    /// One of its own that starts from this, but forgives nothing.
    #[must_use]
    pub fn at_least_as_predicted(&self) -> Self {
        Self(AtomicF64::new(self.get().max(1.0)))
    }

    /// Whether a factor can be one.
    pub(super) fn is_margin(factor: f64) -> bool {
        (LEAST.1..=MOST).contains(&factor)
    }

    pub(super) fn set(&self, factor: f64) {
        self.0.set(factor);
    }

    /// An answer was late or not, under a policy by which the share `quantile` of them must not be.
    pub fn saw(&self, late: bool, quantile: f64) {
        let change = if late { STEP * quantile } else { -STEP * (1.0 - quantile) };
        let least = if quantile >= STRICT { LEAST.0 } else { LEAST.1 };
        // Small enough that the exponential it is short for is not worth its price.
        self.0.set((self.get() * (1.0 + change)).clamp(least, MOST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_settles_where_the_share_of_late_answers_is_the_one_allowed() {
        let (margin, mut random) = (Margin::default(), fastrand::Rng::with_seed(5));
        let (mut late, mut all) = (0, 0);
        for round in 0..200_000 {
            // An answer takes up to 1, the budget is 1, and a candidate is taken when it seems to fit: below 1 / margin.
            let load = random.f64() * 1.6;
            if load * margin.get() > 1.0 {
                continue;
            }
            let is_late = load * (0.8 + 0.5 * random.f64()) > 1.0;
            margin.saw(is_late, 0.95);
            if round > 20_000 {
                late += u32::from(is_late);
                all += 1;
            }
        }
        let share = f64::from(late) / f64::from(all);
        assert!((0.03..0.07).contains(&share), "{share}");
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let margin = Margin::default();
        (0..1000).for_each(|_| margin.saw(true, 0.95));
        assert!(margin.get() <= MOST);
        (0..100_000).for_each(|_| margin.saw(false, 0.999));
        assert!(margin.get() >= LEAST.0);
    }
}
