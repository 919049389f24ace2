//! How far a backend may be filled beyond the point at which a token takes all of its budget.
//!
//! What a client is promised is the time of the whole answer: that to its first token, and that of all tokens after it. A backend that is
//! full only now and then, and whose first tokens come early, keeps that promise with a few requests more at once. How many more cannot be
//! predicted: it depends on lengths, bursts and the engine, and where tokens slow down steeply 2 % of their time are the difference between
//! one late answer in a thousand and one in twenty. So it is learned from what came of it: every answer that was late as a whole takes
//! some of it back, and every one in time gives a little.

use super::AtomicF64;

/// What one late answer takes back.
const STEP: f64 = 0.01;
/// Of the answers that a policy allows to be late, this share may be so at their end; the rest is for first tokens. In `simulate` it gained
/// half a point on average, up to a whole one where capacity is scarce and tokens slow down steeply, for 2 more late ones in ten thousand;
/// with twice the share noise cost one in a thousand.
const SHARE: f64 = 0.125;
/// Never below the budget itself, so that a bad hour leaves nothing behind: within it a limit follows the time of tokens, and at once.
const LEAST: f64 = 1.0;
const MOST: f64 = 1.1;

/// What a budget for tokens is multiplied by before a limit is made of it.
#[derive(Debug)]
pub(super) struct Pace(AtomicF64);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicF64::new(LEAST))
    }
}

impl Pace {
    /// The factor.
    pub(super) fn get(&self) -> f64 {
        self.0.get()
    }

    /// A whole answer was late or not, under a policy by which the share `quantile` must not be.
    pub(super) fn saw(&self, late: bool, quantile: f64) {
        let allowed = SHARE * (1.0 - quantile);
        let change = if late { -STEP * (1.0 - allowed) } else { STEP * allowed };
        self.0.set((self.get() * (1.0 + change)).clamp(LEAST, MOST));
    }

    /// Whether a factor can be one.
    pub(super) fn is_pace(factor: f64) -> bool {
        (LEAST..=MOST).contains(&factor)
    }

    /// Takes over a factor that was kept and is sound; the less it counts, the nearer to the budget itself.
    pub(super) fn restore(&self, kept: f64, counts: f64) {
        self.0.set(self.get() + counts * (kept - self.get()));
    }

    pub(super) fn learn_from(&self, old: &Self) {
        self.0.set(old.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_settles_where_the_share_of_late_answers_is_the_one_allowed() {
        let (pace, mut random) = (Pace::default(), fastrand::Rng::with_seed(3));
        // The fuller, the later: one in a hundred at 1.04, and a tenth of that for each hundredth less.
        let mut late = 0;
        for nth in 0..400_000 {
            let is_late = random.f64() < 0.01 * 10_f64.powf((pace.get() - 1.04) * 100.0);
            pace.saw(is_late, 0.992);
            late += u32::from(is_late && nth >= 100_000);
        }
        let share = f64::from(late) / 300_000.0;
        assert!((0.0005..0.0020).contains(&share), "{share} of which 0.001 are allowed");
        assert!((1.01..1.05).contains(&pace.get()), "{}", pace.get());
    }

    #[test]
    fn it_stays_between_the_budget_and_a_tenth_more() {
        let pace = Pace::default();
        (0..1000).for_each(|_| pace.saw(true, 0.95));
        assert!((pace.get() - LEAST).abs() < 1e-12);
        (0..100_000).for_each(|_| pace.saw(false, 0.95));
        assert!((pace.get() - MOST).abs() < 1e-12);
        (0..11).for_each(|_| pace.saw(true, 0.95));
        assert!((pace.get() - LEAST).abs() < 1e-12, "eleven late answers are enough to be back at the budget");
    }
}
