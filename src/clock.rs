//! The only place that reads time.
//!
//! Everything else is handed the time, so that a test, a simulation and a replay decide exactly as the proxy did. The guard test
//! in `tests/it/layering.rs` and `.clippy.toml` keep it so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A source of time: monotonic for durations, wall for the log and the age of readings.
pub trait Clock: Send + Sync + 'static {
    /// Never goes back; meaningful only as a difference.
    fn monotonic(&self) -> Instant;
    /// Civil time in UTC.
    fn wall(&self) -> Timestamp;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The clock by which the runtime's timers run: the machine's, except under a paused runtime, where time jumps to the next timer.
/// It is for parts that pace themselves with timers and then read how far they have come; call it within a runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeClock;

impl Clock for RuntimeClock {
    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> Timestamp {
        SystemClock.wall()
    }
}

/// A clock that moves when it is told to, and whose wall time may run at another pace than the monotonic one (a grid day in a
/// minute).
#[derive(Debug)]
pub struct SimulatedClock {
    started: Instant,
    wall_origin: Timestamp,
    elapsed_us: AtomicU64,
}

impl SimulatedClock {
    /// Starts at `wall_origin` and stands still.
    pub fn new(wall_origin: Timestamp) -> Self {
        Self { started: SystemClock.monotonic(), wall_origin, elapsed_us: AtomicU64::new(0) }
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        self.elapsed_us.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us.load(Ordering::Relaxed))
    }
}

impl Clock for SimulatedClock {
    fn monotonic(&self) -> Instant {
        self.started + self.elapsed()
    }

    fn wall(&self) -> Timestamp {
        self.wall_origin.checked_add(self.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_moves_only_when_told() {
        let clock = SimulatedClock::new(Timestamp::UNIX_EPOCH);
        let before = clock.monotonic();
        assert_eq!(clock.monotonic(), before);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.monotonic() - before, Duration::from_millis(1500));
        assert_eq!(clock.wall().as_millisecond(), 1500);
    }
}
