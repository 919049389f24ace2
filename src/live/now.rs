//! A moment that many backends are asked about.

use std::time::Instant;

/// A moment, and what has passed until it since the statistics of a backend began. Those of most backends began together, so that this is
/// found once for all of them: to subtract two times is a call of 38 instructions, of the 809 that an estimate took with it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    at: Instant,
    origin: Instant,
    since_ms: u64,
}

impl Now {
    /// The moment `at`, for statistics most of which began at `origin`.
    pub fn new(at: Instant, origin: Instant) -> Self {
        Self { at, origin, since_ms: millis_after(origin, at) }
    }

    /// The moment itself.
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// Milliseconds from `origin` to it.
    pub(super) fn since(&self, origin: Instant) -> u64 {
        if self.origin == origin { self.since_ms } else { millis_after(origin, self.at) }
    }
}

/// Milliseconds from `origin` to `now`.
pub(super) fn millis_after(origin: Instant, now: Instant) -> u64 {
    let since = now.saturating_duration_since(origin);
    // Not `as_millis`, whose 128 bits are several times dearer.
    since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn a_moment_is_the_same_for_all_whenever_their_statistics_began() {
        let begun = SystemClock.monotonic();
        let later = begun + Duration::from_micros(2_500_300);
        for us in [0, 2_500_299, 2_500_300, 2_501_299, 9_000_000] {
            let at = begun + Duration::from_micros(us);
            let expected = [us / 1000, us.saturating_sub(2_500_300) / 1000];
            for now in [begun, later].map(|origin| Now::new(at, origin)) {
                assert_eq!((now.at(), [begun, later].map(|origin| now.since(origin))), (at, expected), "{us}");
            }
        }
    }
}
