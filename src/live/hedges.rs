//! How often a second backend may be asked beside the first, as a share of the requests.
//!
//! The retry budget's ten seconds are too short a memory here: of two in a hundred requests a proxy of a few a second would never be
//! allowed one. So each request earns its share of a hedge, and what is earned is kept, but not for ever: a quiet night does not pay
//! for a storm.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Parts in which a hedge is earned.
const WHOLE: u64 = 1_000_000;
/// The most that is kept: so many may come at once beyond the share, when many requests are late together. A backend hardly notices
/// ten requests.
const MOST_KEPT: u64 = 10 * WHOLE;

/// What was earned and not yet spent. Begins with nothing, so that at no moment more than the share of all requests was hedged.
#[derive(Debug, Default)]
pub struct HedgeBudget(AtomicU64);

impl HedgeBudget {
    /// A request was sent that might be hedged; at most this share of them may be.
    pub fn asked(&self, at_most: f64) {
        let earned = (at_most.clamp(0.0, 1.0) * WHOLE as f64) as u64;
        let _ = self.0.fetch_update(Relaxed, Relaxed, |kept| Some((kept + earned).min(MOST_KEPT)));
    }

    /// Whether one may be hedged now; if so, that is counted.
    pub fn spend(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |kept| kept.checked_sub(WHOLE)).is_ok()
    }

    /// What was spent on one that was not sent after all.
    pub fn give_back(&self) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |kept| Some((kept + WHOLE).min(MOST_KEPT)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_of_few_requests_is_one_now_and_then() {
        let budget = HedgeBudget::default();
        let granted = (1..=200).filter(|_| {
            budget.asked(0.02);
            budget.spend()
        });
        assert_eq!(granted.collect::<Vec<_>>(), [50, 100, 150, 200]);
    }

    #[test]
    fn what_was_not_sent_is_not_paid_for() {
        let budget = HedgeBudget::default();
        budget.asked(1.0);
        assert!(budget.spend() && !budget.spend());
        budget.give_back();
        assert!(budget.spend() && !budget.spend());
    }

    #[test]
    fn calm_pays_for_ten_and_no_storm() {
        let budget = HedgeBudget::default();
        (0..1_000_000).for_each(|_| budget.asked(0.02));
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }

    #[test]
    fn cores_that_spend_at_once_do_not_spend_twice() {
        let budget = HedgeBudget::default();
        let spent: usize = std::thread::scope(|scope| {
            let core = || (0..2_000).filter(|_| (budget.asked(0.5), budget.spend()).1).count();
            let cores = [(); 4].map(|()| scope.spawn(core));
            cores.map(|core| core.join().unwrap()).into_iter().sum()
        });
        assert!((3_980..=4_000).contains(&spent), "{spent} of 8000");
    }

    proptest! {
        #[test]
        fn whatever_happens_no_more_than_the_share_is_hedged(events in prop::collection::vec(any::<bool>(), 0..400), share in 0.0..1.5f64) {
            let budget = HedgeBudget::default();
            let (mut asked, mut spent) = (0.0, 0.0);
            for is_request in events {
                if is_request {
                    budget.asked(share);
                    asked += 1.0;
                } else {
                    spent += f64::from(u8::from(budget.spend()));
                }
                prop_assert!(spent <= share.min(1.0) * asked + 1e-9, "{spent} of {asked}");
            }
        }
    }
}
