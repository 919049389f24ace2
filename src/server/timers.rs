//! When a connection is cut.
//!
//! hyper has one timer for heads and starts it again while a connection is idle, so that an idle limit longer than the head limit
//! is impossible with it. Here the two are apart: an idle timer until the first byte of a head, a head timer from there on. A
//! timer is not armed again for each request; its deadline is noted, and it is moved when it goes off too early.

use std::time::Duration;

use tokio::time::Instant;

/// A peer that was told to go and stays is cut off after this long.
const GOODBYE: Duration = Duration::from_secs(5);

/// When a connection is cut, decided without touching one.
#[derive(Debug)]
pub(super) struct Timers {
    header: Duration,
    idle: Duration,
    multiplexed: bool,
    phase: Phase,
    since: Instant,
    seen: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was received yet.
    Fresh,
    /// Between two requests.
    Idle,
    /// The first byte of a head is there; nobody waited for the next one yet.
    FirstByte,
    /// Part of a head is there.
    Head,
    /// A request is being answered: its own limits apply.
    Busy,
    /// It was told to go.
    Leaving,
}

/// What to do when the deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// Say goodbye: nobody loses anything.
    Dismiss,
    /// End it as if the peer had.
    Close,
    /// Break it off: half a head is there.
    Abort,
}

impl Timers {
    /// A connection accepted at `now`. On a multiplexed one bytes say nothing, as pings can keep coming for ever: only streams count.
    pub(super) const fn new(header: Duration, idle: Duration, multiplexed: bool, now: Instant) -> Self {
        let phase = if multiplexed { Phase::Idle } else { Phase::Fresh };
        Self { header, idle, multiplexed, phase, since: now, seen: 0 }
    }

    /// Bytes arrived; `begun` and `ended` requests were there so far.
    pub(super) fn received(&mut self, begun: u32, ended: u32) {
        self.notice(begun, ended);
        if !self.multiplexed && begun == ended && matches!(self.phase, Phase::Fresh | Phase::Idle | Phase::Busy) {
            self.phase = Phase::FirstByte;
        }
    }

    /// There is nothing to read: until when may that last?
    pub(super) fn waiting(&mut self, begun: u32, ended: u32, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.notice(begun, ended);
        if begun != ended {
            return None;
        }
        match self.phase {
            Phase::Busy => (self.phase, self.since) = (Phase::Idle, now()),
            Phase::FirstByte => (self.phase, self.since) = (Phase::Head, now()),
            Phase::Fresh | Phase::Idle | Phase::Head | Phase::Leaving => {}
        }
        let limit = match self.phase {
            Phase::Fresh | Phase::Head | Phase::FirstByte => self.header,
            Phase::Idle | Phase::Busy => self.idle,
            Phase::Leaving => GOODBYE,
        };
        self.since.checked_add(limit)
    }

    /// The deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Expired {
        match self.phase {
            Phase::Fresh | Phase::Idle | Phase::Busy => {
                (self.phase, self.since) = (Phase::Leaving, now);
                Expired::Dismiss
            }
            Phase::Leaving => Expired::Close,
            Phase::FirstByte | Phase::Head => Expired::Abort,
        }
    }

    /// A request that came and went between two looks was a request too.
    fn notice(&mut self, begun: u32, ended: u32) {
        if self.seen != begun || begun != ended {
            self.seen = begun;
            self.phase = Phase::Busy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    struct Case {
        start: Instant,
        timers: Timers,
    }

    impl Case {
        fn new(multiplexed: bool) -> Self {
            let start = Instant::now();
            Self { start, timers: Timers::new(HEADER, IDLE, multiplexed, start) }
        }

        /// The deadline in seconds after the start, when nothing is to be read `at` seconds after it.
        fn until(&mut self, at: u64, begun: u32, ended: u32) -> Option<u64> {
            let now = self.start + Duration::from_secs(at);
            self.timers.waiting(begun, ended, || now).map(|deadline| deadline.duration_since(self.start).as_secs())
        }
    }

    #[test]
    fn a_connection_that_says_nothing_has_the_time_of_a_head() {
        let mut case = Case::new(false);
        assert_eq!(case.until(3, 0, 0), Some(10));
        assert_eq!(case.timers.expired(case.start + HEADER), Expired::Dismiss);
        assert_eq!(case.until(10, 0, 0), Some(15));
        assert_eq!(case.timers.expired(case.start + HEADER + GOODBYE), Expired::Close);
    }

    #[test]
    fn a_head_that_drips_gets_no_more_time() {
        let mut case = Case::new(false);
        case.timers.received(0, 0);
        assert_eq!(case.until(2, 0, 0), Some(12));
        case.timers.received(0, 0);
        assert_eq!(case.until(9, 0, 0), Some(12));
        assert_eq!(case.timers.expired(case.start + Duration::from_secs(12)), Expired::Abort);
    }

    #[test]
    fn a_request_in_progress_has_no_deadline_here_and_an_idle_one_follows() {
        let mut case = Case::new(false);
        case.timers.received(0, 0);
        assert_eq!(case.until(1, 1, 0), None);
        case.timers.received(1, 0);
        assert_eq!(case.until(500, 1, 0), None);
        assert_eq!(case.until(600, 1, 1), Some(675));
        assert_eq!(case.until(610, 1, 1), Some(675), "looking again does not prolong it");
        case.timers.received(1, 1);
        assert_eq!(case.until(670, 1, 1), Some(680), "the next head has its own time");
    }

    #[test]
    fn a_request_that_was_never_seen_in_progress_still_counts() {
        let mut case = Case::new(false);
        case.timers.received(0, 0);
        assert_eq!(case.until(1, 1, 1), Some(76));
        case.timers.received(1, 1);
        case.timers.received(2, 2);
        assert_eq!(case.until(30, 2, 2), Some(40), "what came after the last request is the next head");
    }

    #[test]
    fn pings_do_not_keep_a_multiplexed_connection() {
        let mut case = Case::new(true);
        case.timers.received(0, 0);
        assert_eq!(case.until(60, 0, 0), Some(75));
        assert_eq!(case.until(60, 2, 1), None);
        assert_eq!(case.until(90, 2, 2), Some(165));
        case.timers.received(2, 2);
        assert_eq!(case.until(160, 2, 2), Some(165));
        assert_eq!(case.timers.expired(case.start + Duration::from_secs(165)), Expired::Dismiss);
    }
}
