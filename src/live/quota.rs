//! What refusals say of how much of one model a backend gives: hosted services limit each model apart, so that one whose quota is spent
//! says nothing of the others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::AtomicF64;

/// In the place of a time.
const NEVER: u64 = u64::MAX;
/// What one refusal leaves of the capacity ..
const CUT: f64 = 0.85;
/// .. at most this often: a full backend refuses many at once, and all of them say the same.
const CUT_EVERY_MS: u64 = 2_000;
/// The least that refusals leave: two requests of a hundred still find out when it is over.
const LEAST_CUT: f64 = 0.02;
/// What comes back of the capacity in a second without a refusal.
const HEALS: f64 = 0.01;

/// What refusals have left of a model's capacity at a backend. Times are in milliseconds after the start.
#[derive(Debug)]
pub(super) struct Quota {
    share: AtomicF64,
    /// When it was last cut.
    cut_ms: AtomicU64,
    /// Until when there is no room, by the backend's own word.
    full_until_ms: AtomicU64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { share: AtomicF64::new(1.0), cut_ms: AtomicU64::new(NEVER), full_until_ms: AtomicU64::new(0) }
    }
}

impl Quota {
    /// The share that is left, in (0, 1].
    pub(super) fn share(&self) -> f64 {
        self.share.get()
    }

    /// How much longer there is no room.
    pub(super) fn full_for(&self, now_ms: u64) -> u64 {
        self.full_until_ms.load(Relaxed).saturating_sub(now_ms)
    }

    /// There is no room until then.
    pub(super) fn refused(&self, now_ms: u64, until_ms: u64) {
        self.full_until_ms.fetch_max(until_ms, Relaxed);
        let last = self.cut_ms.load(Relaxed);
        if (last == NEVER || now_ms >= last.saturating_add(CUT_EVERY_MS))
            && self.cut_ms.compare_exchange(last, now_ms, Relaxed, Relaxed).is_ok()
        {
            self.share.set((self.share.get() * CUT).max(LEAST_CUT));
        }
    }

    /// Lets what was cut off come back, and says what there is then.
    pub(super) fn heal(&self, seconds: f64) -> f64 {
        self.share.set((self.share.get() + HEALS * seconds).min(1.0));
        self.share.get()
    }

    /// Whether such a share can be left.
    pub(super) fn is_share(value: f64) -> bool {
        (LEAST_CUT..=1.0).contains(&value)
    }

    /// Takes over a share that was kept, of whose cut the part `counts` still counts.
    pub(super) fn restore(&self, share: f64, counts: f64) {
        self.share.set(1.0 - (1.0 - share) * counts);
    }

    pub(super) fn learn_from(&self, old: &Self) {
        self.share.set(old.share.get());
        self.cut_ms.store(old.cut_ms.load(Relaxed), Relaxed);
        self.full_until_ms.store(old.full_until_ms.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_cut_once_for_many_and_it_comes_back() {
        let quota = Quota::default();
        (0..50).for_each(|_| quota.refused(1_000, 8_000));
        assert!((quota.share() - CUT).abs() < 1e-9);
        assert_eq!([1_000, 7_999, 8_000].map(|now_ms| quota.full_for(now_ms)), [7_000, 1, 0]);
        quota.refused(3_000, 4_000);
        assert!((quota.share() - CUT * CUT).abs() < 1e-9 && quota.full_for(5_000) == 3_000, "the longer one stands");
        (0..40).for_each(|_| assert!(quota.heal(1.0) > 0.7));
        assert!((quota.share() - 1.0).abs() < 1e-9);
        (0..1000).for_each(|second| quota.refused(10_000 + second * 2_000, 0));
        assert!((quota.share() - LEAST_CUT).abs() < 1e-9);
    }
}
