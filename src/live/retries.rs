//! How often requests may be sent again, over all traffic.
//!
//! A limit for each request alone multiplies an outage: when every backend refuses, three attempts for each request are three times
//! the load. So what is sent again is bounded by what is asked: of any ten seconds at most a share of the requests, and a few more so
//! that a quiet proxy can still go around a backend that is down. Nothing is saved up for later: an hour of calm would otherwise pay
//! for a storm.

use std::time::Instant;

use super::millis_after;
use super::window::{SECONDS, Window};

/// How much may be sent again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryLimits {
    /// Attempts after a request's first, as a share of the requests.
    pub share: f64,
    /// So many a second may be made beyond the share.
    pub per_second: u32,
}

impl Default for RetryLimits {
    /// A fifth, as in Finagle and linkerd: the worst outage is then made worse by a fifth. One a second beyond it lets a proxy of a
    /// few requests a minute use all its backends, and is nothing to any of them.
    fn default() -> Self {
        Self { share: 0.2, per_second: 1 }
    }
}

/// Requests and what was sent again of them.
#[derive(Debug)]
pub struct RetryBudget {
    origin: Instant,
    requests: Window,
    retries: Window,
}

impl RetryBudget {
    /// Nothing was asked before `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, requests: Window::default(), retries: Window::default() }
    }

    /// A request is about to be sent for the first time.
    pub fn asked(&self, now: Instant) {
        self.requests.add(millis_after(self.origin, now));
    }

    /// Whether one may be sent again now; if so, that is counted.
    pub fn spend(&self, limits: RetryLimits, now: Instant) -> bool {
        let now_ms = millis_after(self.origin, now);
        // Counted first and looked at then: of two who ask for the last one at the same moment at most one gets it.
        self.retries.add(now_ms);
        let beyond = f64::from(limits.per_second) * SECONDS as f64;
        let most = limits.share * self.requests.sum(now_ms) as f64 + beyond;
        let granted = self.retries.sum(now_ms) as f64 <= most;
        if !granted {
            self.retries.take_back(now_ms);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    const WINDOW_MS: u64 = SECONDS as u64 * 1000;

    /// A budget and its moments, by their milliseconds.
    fn budget() -> (RetryBudget, impl Fn(u64) -> Instant) {
        let origin = SystemClock.monotonic();
        (RetryBudget::new(origin), move |ms| origin + Duration::from_millis(ms))
    }

    #[test]
    fn a_quiet_proxy_may_retry_and_an_outage_is_not_doubled() {
        let ((budget, at), limits) = (budget(), RetryLimits::default());
        budget.asked(at(0));
        assert!(budget.spend(limits, at(1)) && budget.spend(limits, at(2)), "both other backends of the first request ever");
        let granted = (20_000..30_000).map(at).map(|now| {
            budget.asked(now);
            (0..2).filter(|_| budget.spend(limits, now)).count()
        });
        assert_eq!(granted.sum::<usize>(), 2_000 + 10, "two more for each request were wanted");
    }

    #[test]
    fn calm_saves_nothing_up() {
        let ((budget, at), limits) = (budget(), RetryLimits { share: 0.5, per_second: 0 });
        (0..100).for_each(|n| budget.asked(at(n * 100)));
        assert_eq!((0..1000).filter(|_| budget.spend(limits, at(9_900))).count(), 50);
        assert!(!budget.spend(limits, at(60_000)));
    }

    #[test]
    fn none_is_none() {
        let ((budget, at), limits) = (budget(), RetryLimits { share: 0.0, per_second: 0 });
        (0..100).for_each(|_| budget.asked(at(0)));
        assert!(!budget.spend(limits, at(0)));
    }

    #[test]
    fn cores_that_spend_at_once_do_not_spend_twice() {
        let ((budget, at), limits) = (budget(), RetryLimits { share: 0.5, per_second: 1 });
        let now = at(5_000);
        let spent: usize = std::thread::scope(|scope| {
            let core = || (0..2_000).filter(|_| (budget.asked(now), budget.spend(limits, now)).1).count();
            let cores = [(); 4].map(|()| scope.spawn(core));
            cores.map(|core| core.join().unwrap()).into_iter().sum()
        });
        assert!(spent <= 4_000 + 10, "{spent} for 8000 requests");
        assert!(spent >= 3_000, "{spent}: who was refused gave back what it had counted");
    }

    proptest! {
        #[test]
        fn whatever_happens_no_ten_seconds_have_more_than_their_share(
            events in prop::collection::vec((0u64..1500, 0u8..4), 0..400),
            share in 0.0..1.0f64,
            per_second in 0u32..4,
        ) {
            let ((budget, at), limits) = (budget(), RetryLimits { share, per_second });
            let (mut now_ms, mut requests, mut retries) = (0, Vec::new(), Vec::new());
            let beyond = f64::from(per_second) * SECONDS as f64;
            for (later, what) in events {
                now_ms += later;
                if what == 0 {
                    budget.asked(at(now_ms));
                    requests.push(now_ms);
                } else if budget.spend(limits, at(now_ms)) {
                    retries.push(now_ms);
                    // Whole seconds, the running one included.
                    let first_ms = (now_ms / 1000 * 1000 + 1000).saturating_sub(WINDOW_MS);
                    let within = |times: &[u64]| times.iter().filter(|at| **at >= first_ms).count() as f64;
                    let most = share * within(&requests) + beyond;
                    prop_assert!(within(&retries) <= most + 1e-9, "{} of {most}", within(&retries));
                }
            }
            let most = share * requests.len() as f64 + beyond * (now_ms / WINDOW_MS + 1) as f64;
            prop_assert!(retries.len() as f64 <= most + 1e-9, "{} of {most} in all", retries.len());
        }
    }
}
