//! What a backend says of its own time, held against what passed here.

use std::time::{Duration, Instant};

use super::exchange::Exchange;
use crate::record::BackendTime;
use crate::units::Millis;
use crate::wire::usage::Clocked;

/// A claim is in whole milliseconds, and may have been rounded up.
const ROUNDING: Duration = Duration::from_millis(1);

/// What the backend says of its own time, and what the way there and back took besides.
pub(super) fn backend_time(x: &Exchange, now: Instant) -> Option<BackendTime> {
    let attempt = x.attempts.last()?;
    let took = |until: Instant| until.saturating_duration_since(attempt.begun);
    judged(x.clocked, x.first_token.map(took), took(now), |time| x.was_held_up(time))
}

/// A claim of more time than passed says nothing, and one that leaves nothing for the way says nothing of that.
fn judged(
    claimed: Clocked,
    first_data: Option<Duration>,
    whole: Duration,
    was_held_up: impl Fn(Duration) -> bool,
) -> Option<BackendTime> {
    let possible = |ms: Option<u64>| ms.filter(|ms| Duration::from_millis(*ms) <= whole + ROUNDING);
    let (first_byte_ms, whole_ms) = (possible(claimed.first_byte_ms), possible(claimed.whole_ms));
    first_byte_ms.or(whole_ms)?;
    let (took, own) = match first_byte_ms.zip(first_data) {
        Some((own, took)) => (took, Some(own)),
        None => (whole, whole_ms),
    };
    let rest = own.filter(|_| !was_held_up(took)).and_then(|own| took.checked_sub(Duration::from_millis(own)));
    Some(BackendTime { first_token_ms: first_byte_ms, total_ms: whole_ms, network_ms: rest.map(Millis::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_took_what_the_backend_does_not_account_for() {
        let ms = Duration::from_millis;
        let found = |first_byte_ms, whole_ms, held_up: bool| {
            let time = judged(Clocked { first_byte_ms, whole_ms }, Some(ms(200)), ms(1_000), |_| held_up)?;
            Some((time.first_token_ms, time.total_ms, time.network_ms.map(Millis::get)))
        };
        assert_eq!(found(Some(150), Some(900), false), Some((Some(150), Some(900), Some(50.0))));
        assert_eq!(found(None, Some(900), false), Some((None, Some(900), Some(100.0))));
        assert_eq!(found(Some(150), None, true), Some((Some(150), None, None)), "the client was slow");
        assert_eq!(found(Some(150), Some(u64::MAX), false), Some((Some(150), None, Some(50.0))), "an absurd total");
        assert_eq!(found(Some(1_002), Some(900), false), Some((None, Some(900), Some(100.0))));
        assert_eq!(found(Some(300), None, false), Some((Some(300), None, None)), "longer than its first data took");
        assert_eq!(found(None, Some(1_001), false), Some((None, Some(1_001), None)), "rounded up");
        assert_eq!(found(None, Some(1_002), false), None);
        assert_eq!(found(None, None, false), None);
    }
}
