//! Whether a backend is to be left alone: ejected after failures, and then let back in slowly.
//!
//! Two things eject: failures in a row, which find a backend that is dead within three requests, and a share of failures over the
//! last seconds, which finds one that fails every other request and would never fail three in a row for sure. Each ejection is twice
//! as long as the one before, until the backend has come all the way back.
//!
//! A backend comes back by a share of the decisions and not by a limit on what it has in flight: the declared limit may be far above
//! what it ever has, and a share bounds how many requests can fail on it whatever the traffic is. The other decisions put it after all
//! that are ready, so that it is there when they fail or nobody is. A backend that fails while too many others are ejected
//! already is not ejected but sent back to that beginning: it keeps a tenth of its requests, which the retry budget can carry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::window::Window;

/// Failures in a row after which a backend is left alone for a while (Envoy's and linkerd's default is 5; an inference request is
/// dearer than most).
const FAILURES_TO_EJECT: u32 = 3;
/// Answers in the last ten seconds below which their share of failures says nothing.
const ANSWERS_TO_JUDGE: u64 = 10;
/// One failure in so many answers is too many: half of them, so that requests which no backend can answer do not eject all.
const FAILS_ONE_IN: u64 = 2;
/// The first time it is left alone; each further time in a row doubles it.
const FIRST_EJECTION_MS: u64 = 5_000;
/// Doublings, up to 80 seconds: a backend that came back is tried within a minute or so.
const MOST_DOUBLINGS: u32 = 4;
/// Of the candidates of a route one in so many may be ejected at a time. With more of them gone, it is more likely that the requests
/// are at fault, or what lies between, and those left would get all the load.
const EJECTS_ONE_IN: usize = 2;
/// How long a backend takes to come back to its full share.
const SLOW_START_MS: u64 = 30_000;
/// The share that it begins with, of 1024 decisions: a tenth (Envoy's least weight), enough to show how it does.
const FIRST_SHARE: u64 = 102;

/// What may be done about a backend that fails, considering the others. The later is the harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Nothing: nobody else could serve.
    Keep,
    /// It gets fewer requests, since as many others are ejected as may be.
    Restrain,
    /// It is left alone for a while.
    Eject,
}

impl Remedy {
    /// For one of `candidates`, of which `others_ejected` are ejected besides.
    pub fn of(candidates: usize, others_ejected: usize) -> Self {
        if candidates < 2 {
            Self::Keep
        } else if others_ejected < (candidates / EJECTS_ONE_IN).max(1) {
            Self::Eject
        } else {
            Self::Restrain
        }
    }
}

/// How a backend did lately. Times are in milliseconds after its start.
#[derive(Debug, Default)]
pub(super) struct Health {
    consecutive_failures: AtomicU32,
    /// In a row, without having come all the way back in between.
    ejections: AtomicU32,
    answers: Window,
    failures: Window,
    /// When the last ejection ends or ended, which is when it begins to come back; 0 means that there was none.
    shut_until_ms: AtomicU64,
    /// Until when it has no room, by its own word.
    full_until_ms: AtomicU64,
    checks: Checks,
}

/// What came of asking it beside its traffic.
#[derive(Debug, Default)]
struct Checks {
    passed: AtomicU64,
    failed: AtomicU64,
    passed_in_a_row: AtomicU32,
    failed_in_a_row: AtomicU32,
}

impl Health {
    /// It answered as it should.
    pub(super) fn succeeded(&self, now_ms: u64) {
        self.answers.add(now_ms);
        // Written only when it says something new: all cores read it.
        if self.consecutive_failures.load(Relaxed) != 0 {
            self.consecutive_failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 && self.share(now_ms).is_none() {
            self.ejections.store(0, Relaxed);
        }
    }

    /// It failed. What may be done about that is only asked when something has to be.
    pub(super) fn failed(&self, now_ms: u64, remedy: impl FnOnce() -> Remedy) {
        self.answers.add(now_ms);
        self.failures.add(now_ms);
        let in_a_row = self.consecutive_failures.fetch_add(1, Relaxed).saturating_add(1);
        if in_a_row < FAILURES_TO_EJECT && !self.fails_often(now_ms) {
            return;
        }
        match remedy() {
            Remedy::Keep => {}
            // No shorter than what it may have of an ejection before.
            Remedy::Restrain => {
                self.shut_until_ms.fetch_max(now_ms.max(1), Relaxed);
            }
            Remedy::Eject => self.eject(now_ms),
        }
    }

    fn fails_often(&self, now_ms: u64) -> bool {
        let answers = self.answers.sum(now_ms);
        answers >= ANSWERS_TO_JUDGE && self.failures.sum(now_ms) * FAILS_ONE_IN >= answers
    }

    fn eject(&self, now_ms: u64) {
        let before = self.shut_until_ms.load(Relaxed);
        let doublings = self.ejections.load(Relaxed).min(MOST_DOUBLINGS);
        let until = now_ms.saturating_add(FIRST_EJECTION_MS << doublings);
        // Of those who find it at the same moment one ejects it.
        if before > now_ms || self.shut_until_ms.compare_exchange(before, until, Relaxed, Relaxed).is_err() {
            return;
        }
        self.ejections.fetch_add(1, Relaxed);
        // What led to it is not held against it twice.
        self.consecutive_failures.store(0, Relaxed);
        self.answers.clear();
        self.failures.clear();
        // Only what is asked from now on can end it.
        self.checks.passed_in_a_row.store(0, Relaxed);
    }

    /// It failed a check; `most` in a row eject it. Until the next check, `next_ms` from now, an ejection does not end.
    pub(super) fn failed_check(&self, now_ms: u64, most: u32, next_ms: u64, remedy: impl FnOnce() -> Remedy) {
        self.checks.failed.fetch_add(1, Relaxed);
        self.checks.passed_in_a_row.store(0, Relaxed);
        if self.checks.failed_in_a_row.fetch_add(1, Relaxed).saturating_add(1) < most {
            return;
        }
        match remedy() {
            Remedy::Keep => {}
            Remedy::Restrain => {
                self.shut_until_ms.fetch_max(now_ms.max(1), Relaxed);
            }
            Remedy::Eject => {
                self.eject(now_ms);
                self.shut_until_ms.fetch_max(now_ms.saturating_add(next_ms), Relaxed);
            }
        }
    }

    /// It passed a check; `enough` in a row end an ejection, and it begins to come back.
    pub(super) fn passed_check(&self, now_ms: u64, enough: u32) {
        self.checks.passed.fetch_add(1, Relaxed);
        self.checks.failed_in_a_row.store(0, Relaxed);
        let in_a_row = self.checks.passed_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let until = self.shut_until_ms.load(Relaxed);
        if in_a_row >= enough && until > now_ms {
            // A new ejection at the same moment stays.
            let _ = self.shut_until_ms.compare_exchange(until, now_ms.max(1), Relaxed, Relaxed);
        }
    }

    /// Checks passed, failed, and failed since the last one that passed.
    pub(super) fn checks(&self) -> (u64, u64, u32) {
        let Checks { passed, failed, failed_in_a_row, .. } = &self.checks;
        (passed.load(Relaxed), failed.load(Relaxed), failed_in_a_row.load(Relaxed))
    }

    /// It has no room until then.
    pub(super) fn full_until(&self, until_ms: u64) {
        self.full_until_ms.fetch_max(until_ms, Relaxed);
    }

    /// How much longer it has none, in milliseconds.
    pub(super) fn full_for(&self, now_ms: u64) -> u64 {
        self.full_until_ms.load(Relaxed).saturating_sub(now_ms)
    }

    /// How much longer it is ejected, in milliseconds.
    pub(super) fn shut_for(&self, now_ms: u64) -> u64 {
        self.shut_until_ms.load(Relaxed).saturating_sub(now_ms)
    }

    /// How many of 1024 decisions it takes part in; `None` when in all.
    pub(super) fn share(&self, now_ms: u64) -> Option<u64> {
        let until = self.shut_until_ms.load(Relaxed);
        if until == 0 {
            return None;
        }
        let Some(back_for) = now_ms.checked_sub(until) else { return Some(0) };
        (back_for < SLOW_START_MS).then(|| FIRST_SHARE + (1024 - FIRST_SHARE) * back_for / SLOW_START_MS)
    }

    /// Whether the decision of that turn leaves it alone.
    pub(super) fn is_left_alone(&self, now_ms: u64, turn: u32) -> bool {
        self.share(now_ms).is_some_and(|share| u64::from(spread(turn)) >= share)
    }
}

/// The turn's place among 1024, such that any run of turns is spread over all of them evenly (multiples of the golden ratio's
/// fraction).
const fn spread(turn: u32) -> u32 {
    turn.wrapping_mul(0x9e37_79b9) >> 22
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fail(health: &Health, now_ms: u64) {
        health.failed(now_ms, || Remedy::Eject);
    }

    fn taken_in(health: &Health, now_ms: u64, turns: u32) -> usize {
        (0..turns).filter(|turn| !health.is_left_alone(now_ms, *turn)).count()
    }

    #[test]
    fn three_failures_in_a_row_eject_and_longer_each_time() {
        let health = Health::default();
        let mut now_ms = 1_000;
        for span in [5_000, 10_000, 20_000, 40_000, 80_000, 80_000] {
            fail(&health, now_ms);
            health.succeeded(now_ms);
            fail(&health, now_ms);
            fail(&health, now_ms);
            assert_eq!(health.shut_for(now_ms), 0);
            fail(&health, now_ms);
            assert_eq!((health.shut_for(now_ms), taken_in(&health, now_ms, 100)), (span, 0));
            now_ms += span + 1_000;
            assert_eq!(health.shut_for(now_ms), 0);
            health.succeeded(now_ms);
        }
        now_ms += SLOW_START_MS;
        health.succeeded(now_ms);
        (0..3).for_each(|_| fail(&health, now_ms));
        assert_eq!(health.shut_for(now_ms), 5_000, "it had come all the way back");
    }

    #[test]
    fn who_fails_every_other_request_is_ejected_and_who_fails_less_is_not() {
        for (every, ejected) in [(2, true), (3, false), (4, false)] {
            let health = Health::default();
            for n in 0..200 {
                let now_ms = 1_000 + n * 100;
                if n % every == 0 { fail(&health, now_ms) } else { health.succeeded(now_ms) }
            }
            assert_eq!(health.share(20_900).is_some(), ejected, "one in {every}");
        }
    }

    #[test]
    fn a_few_answers_or_old_ones_are_no_rate() {
        let health = Health::default();
        for now_ms in (0..8).map(|n| 1_000 + n * 3_000) {
            fail(&health, now_ms);
            health.succeeded(now_ms);
        }
        assert_eq!(health.share(30_000), None);
    }

    #[test]
    fn it_comes_back_slowly() {
        let health = Health::default();
        (0..3).for_each(|_| fail(&health, 1_000));
        let back = 6_000;
        assert_eq!(taken_in(&health, back - 1, 1024), 0);
        assert!((95..=110).contains(&taken_in(&health, back, 1024)));
        assert!((540..=590).contains(&taken_in(&health, back + SLOW_START_MS / 2, 1024)));
        assert_eq!(taken_in(&health, back + SLOW_START_MS, 1024), 1024);
        let waits: Vec<u32> = (0..1000).filter(|turn| !health.is_left_alone(back, *turn)).collect();
        assert!(waits.windows(2).all(|pair| pair[1] - pair[0] <= 21), "and is not left out for long: {waits:?}");
    }

    #[test]
    fn no_more_than_half_are_ejected_and_never_the_last() {
        assert_eq!(Remedy::of(1, 0), Remedy::Keep);
        for candidates in 2..20 {
            let ejected = (0..candidates).take_while(|others| Remedy::of(candidates, *others) == Remedy::Eject).count();
            assert!(ejected >= 1 && ejected <= candidates / 2, "{ejected} of {candidates}");
            assert!((ejected..candidates).all(|others| Remedy::of(candidates, others) == Remedy::Restrain));
        }
    }

    #[test]
    fn who_may_not_be_ejected_keeps_a_tenth_for_as_long_as_it_fails() {
        let health = Health::default();
        for now_ms in (1_000..60_000).step_by(100) {
            health.failed(now_ms, || Remedy::Restrain);
            assert_eq!(health.shut_for(now_ms), 0);
        }
        assert!((95..=110).contains(&taken_in(&health, 60_000, 1024)));
        (0..100).for_each(|_| health.failed(60_000, || Remedy::Keep));
        assert_eq!(taken_in(&health, 59_900 + SLOW_START_MS, 1024), 1024, "the last one is not even restrained");
    }

    #[test]
    fn checks_eject_keep_out_and_let_back_in() {
        let health = Health::default();
        let check = |now_ms, passes| {
            if passes { health.passed_check(now_ms, 2) } else { health.failed_check(now_ms, 3, 3_000, || Remedy::Eject) }
        };
        for (now_ms, passes, shut_for) in [
            (1_000, false, 0),
            (2_000, false, 0),
            (3_000, true, 0),
            (4_000, false, 0),
            (5_000, false, 0),
            (6_000, false, 5_000),
            (8_000, false, 3_000),
            (10_000, false, 3_000),
            (11_000, true, 2_000),
            (12_000, true, 0),
        ] {
            check(now_ms, passes);
            assert_eq!(health.shut_for(now_ms), shut_for, "at {now_ms} ms");
        }
        assert_eq!((health.checks(), health.share(12_000)), ((3, 7, 0), Some(FIRST_SHARE)));
        (0..3).for_each(|_| fail(&health, 13_000));
        check(14_000, true);
        assert_eq!(health.shut_for(14_000), 9_000, "what passed before the ejection does not end it");
        let last = Health::default();
        (0..9).for_each(|_| last.failed_check(1_000, 3, 3_000, || Remedy::Keep));
        assert_eq!(last.share(1_000), None);
    }

    proptest! {
        #[test]
        fn whatever_happens_it_is_let_back_in(events in prop::collection::vec((0u64..20_000, 0u8..4), 0..300)) {
            let health = Health::default();
            let mut now_ms = 0;
            for (later, what) in events {
                now_ms += later;
                match what {
                    0 => health.succeeded(now_ms),
                    1 => health.failed(now_ms, || Remedy::Restrain),
                    _ => fail(&health, now_ms),
                }
                prop_assert!(health.shut_for(now_ms) <= FIRST_EJECTION_MS << MOST_DOUBLINGS);
            }
            let later = now_ms + (FIRST_EJECTION_MS << MOST_DOUBLINGS) + SLOW_START_MS;
            prop_assert_eq!(health.share(later), None);
        }
    }
}
