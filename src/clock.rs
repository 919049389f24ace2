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
    /// How long one of the runtime's timers has to run for so much of this clock's time to pass.
    fn timer(&self, span: Duration) -> Duration {
        span
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn monotonic(&self) -> Instant {
        (**self).monotonic()
    }

    fn wall(&self) -> Timestamp {
        (**self).wall()
    }

    fn timer(&self, span: Duration) -> Duration {
        (**self).timer(span)
    }
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

/// Another clock in fast motion: for a proxy in front of a fleet that is as much faster than life, so that whatever the proxy does every
/// so often, and for so long, shrinks with the rest. The day may pass faster still: what needs days of a grid is seen in minutes.
///
/// How long a client may take to send its request, and all that the system's own sockets time, stays as it is; and so do checks of health,
/// the probe of a backend that nobody has asked yet, calls that are passed on as they come, and what renews tokens and credentials.
#[derive(Debug)]
pub struct FastClock<C> {
    inner: C,
    started: Instant,
    times: f64,
    wall_origin: Timestamp,
    wall_times: f64,
}

impl<C: Clock> FastClock<C> {
    /// The runtime's timers count milliseconds, so of a second no less than a thousandth can be told.
    pub const MOST_TIMES: f64 = 1000.0;

    /// From now on `times` as fast as `inner`, 1 to [`Self::MOST_TIMES`]; the wall time `wall_times` as fast, from `wall_origin` on.
    pub fn new(inner: C, times: f64, wall_origin: Timestamp, wall_times: f64) -> Self {
        Self { started: inner.monotonic(), inner, times: times.clamp(1.0, Self::MOST_TIMES), wall_origin, wall_times }
    }

    fn elapsed(&self, times: f64) -> Duration {
        let span = self.inner.monotonic().saturating_duration_since(self.started);
        Duration::try_from_secs_f64(span.as_secs_f64() * times).unwrap_or(Duration::MAX)
    }
}

impl<C: Clock> Clock for FastClock<C> {
    fn monotonic(&self) -> Instant {
        self.started.checked_add(self.elapsed(self.times)).unwrap_or(self.started)
    }

    fn wall(&self) -> Timestamp {
        self.wall_origin.checked_add(self.elapsed(self.wall_times)).unwrap_or(Timestamp::MAX)
    }

    fn timer(&self, span: Duration) -> Duration {
        self.inner.timer(Duration::try_from_secs_f64(span.as_secs_f64() / self.times).unwrap_or(span))
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

    #[test]
    fn in_fast_motion_spans_shrink_and_the_day_has_a_pace_of_its_own() {
        let inner = std::sync::Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        let clock = FastClock::new(std::sync::Arc::clone(&inner), 10.0, "2022-05-03T08:00:00Z".parse().unwrap(), 240.0);
        let before = clock.monotonic();
        inner.advance(Duration::from_secs(15));
        assert_eq!(clock.monotonic() - before, Duration::from_secs(150));
        assert_eq!(clock.wall().to_string(), "2022-05-03T09:00:00Z");
        assert_eq!(
            (clock.timer(Duration::from_secs(1)), inner.timer(Duration::from_secs(1))),
            (Duration::from_millis(100), Duration::from_secs(1))
        );
        let wild = FastClock::new(inner, f64::INFINITY, Timestamp::UNIX_EPOCH, f64::INFINITY);
        assert_eq!(wild.timer(Duration::from_secs(1)), Duration::from_millis(1), "a timer of no time at all would spin");
    }
}
