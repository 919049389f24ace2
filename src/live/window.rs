//! A count of what happened in the last seconds, without a lock and without anybody who tidies up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Seconds that a [`Window`] looks back, the one that is running included. Long enough for a rate over a backend that answers once
/// a second, and short enough that what is over is soon forgotten.
pub(super) const SECONDS: usize = 10;

/// Events by the second in which they happened. Each second has a slot that it shares with the one ten seconds before: the slot says
/// whose it is, and whoever comes first in a new second takes it over.
#[derive(Debug, Default)]
pub(super) struct Window([AtomicU64; SECONDS]);

/// The bits of a slot that count; those above them are its second. No second has 4 billion events.
const COUNT_BITS: u32 = 32;

impl Window {
    /// Counts one more, so many milliseconds after the start.
    pub(super) fn add(&self, now_ms: u64) {
        let (slot, second) = self.slot(now_ms);
        let held = slot.load(Relaxed);
        let fresh = second << COUNT_BITS | 1;
        // Who loses the race for a new second finds it taken over, and counts there; so does who is late.
        if held >> COUNT_BITS >= second || slot.compare_exchange(held, fresh, Relaxed, Relaxed).is_err() {
            slot.fetch_add(1, Relaxed);
        }
    }

    /// Takes one back that was counted at that moment.
    pub(super) fn take_back(&self, counted_ms: u64) {
        let (slot, second) = self.slot(counted_ms);
        let same = |held: u64| (held >> COUNT_BITS == second && count(held) > 0).then(|| held - 1);
        // When the second is long past there is nothing left to take it from.
        let _ = slot.fetch_update(Relaxed, Relaxed, same);
    }

    /// How many there were in the last seconds.
    pub(super) fn sum(&self, now_ms: u64) -> u64 {
        let (_, now) = self.slot(now_ms);
        let recent = |held: &u64| now.saturating_sub(held >> COUNT_BITS) < SECONDS as u64;
        self.0.iter().map(|slot| slot.load(Relaxed)).filter(recent).map(count).sum()
    }

    /// Forgets all of it.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|slot| slot.store(0, Relaxed));
    }

    fn slot(&self, now_ms: u64) -> (&AtomicU64, u64) {
        let second = now_ms / 1000;
        #[expect(clippy::indexing_slicing, reason = "a remainder of the length is within it")]
        (&self.0[second as usize % SECONDS], second)
    }
}

const fn count(held: u64) -> u64 {
    held & ((1 << COUNT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ten_seconds_old_is_forgotten() {
        let window = Window::default();
        (0..3).for_each(|_| window.add(500));
        window.add(4_000);
        assert_eq!((window.sum(0), window.sum(9_999), window.sum(10_000), window.sum(14_000)), (4, 4, 1, 0));
        window.add(10_001);
        assert_eq!(window.sum(10_500), 2, "a second begins its slot anew");
        window.take_back(10_001);
        window.take_back(10_001);
        assert_eq!(window.sum(10_500), 1, "no more is taken back than was counted");
        window.clear();
        assert_eq!(window.sum(10_500), 0);
    }
}
