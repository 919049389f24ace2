//! Which source is believed when several speak of one zone.
//!
//! The order is the operator's, and a later source is heard only when every earlier one is silent or too old: averaging two
//! sources would mix methods, and taking the newest would let a coarse source overrule a good one by being a minute quicker.

use std::time::Duration;

use jiff::Timestamp;

use crate::grid::{Basis, Reading, Signal, age};

/// How old a source's reading may be before the next source of the chain is heard: grids publish hourly, some of them late.
pub const LINK_MAX_AGE: Duration = Duration::from_hours(2);

/// What one source last said of the zone.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Its last reading that was not refused.
    pub last: Option<&'a Reading>,
    /// How old that may be before the next source is asked instead. A source that speaks hourly wants about two hours.
    pub max_age: Duration,
}

/// The reading that is published for a zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen<'a> {
    /// The place of its source in the chain.
    pub link: usize,
    /// The reading.
    pub reading: &'a Reading,
    /// How it was come by.
    pub standing: Standing,
}

/// How a reading came to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is younger than its source's limit.
    Current,
    /// Every source is over its limit, and this is the youngest of what they said.
    LastKnown,
}

/// The reading to publish at `now`: that of the first source, in order, which is within its limit; else the youngest of all, the
/// earlier source winning a tie. Readings of another signal or basis than wanted are passed over, as one candidate set never
/// mixes them. `None` when nothing is left; then the zone's yearly figure stands in, which is the grid's business.
pub fn resolve<'a>(chain: &[Link<'a>], signal: Signal, basis: Basis, now: Timestamp) -> Option<Chosen<'a>> {
    let mut youngest: Option<Chosen<'a>> = None;
    for (link, Link { last, max_age }) in chain.iter().enumerate() {
        let Some(reading) = last.filter(|reading| reading.signal == signal && reading.basis == basis) else { continue };
        if age(reading, now) <= *max_age {
            return Some(Chosen { link, reading, standing: Standing::Current });
        }
        if youngest.is_none_or(|best| best.reading.measured_at < reading.measured_at) {
            youngest = Some(Chosen { link, reading, standing: Standing::LastKnown });
        }
    }
    youngest
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::grid::Quality;
    use crate::units::GramsPerKwh;

    const NOW: i64 = 100_000;

    fn said(seconds_ago: i64) -> Reading {
        let measured_at = Timestamp::from_second(NOW - seconds_ago).unwrap();
        Reading {
            intensity: GramsPerKwh::saturating(100.0),
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality: Quality::Measured,
            measured_at,
            valid_until: measured_at,
            source: Arc::from("test"),
        }
    }

    fn chosen(chain: &[(Option<Reading>, u64)]) -> Option<(usize, Standing)> {
        let links: Vec<Link<'_>> =
            chain.iter().map(|(last, limit)| Link { last: last.as_ref(), max_age: Duration::from_secs(*limit) }).collect();
        let now = Timestamp::from_second(NOW).unwrap();
        resolve(&links, Signal::Average, Basis::Lifecycle, now).map(|chosen| (chosen.link, chosen.standing))
    }

    #[test]
    fn the_first_source_within_its_limit_wins() {
        let current = |link| Some((link, Standing::Current));
        assert_eq!(chosen(&[(Some(said(50)), 60), (Some(said(1)), 60)]), current(0), "order outranks age");
        assert_eq!(chosen(&[(Some(said(61)), 60), (Some(said(50)), 60)]), current(1));
        assert_eq!(chosen(&[(None, 60), (Some(said(60)), 60)]), current(1), "the limit itself is within");
        assert_eq!(chosen(&[(Some(said(500)), 60), (None, 60), (Some(said(3000)), 7200)]), current(2));
    }

    #[test]
    fn when_all_are_too_old_the_youngest_is_the_last_known() {
        let last_known = |link| Some((link, Standing::LastKnown));
        assert_eq!(chosen(&[(Some(said(900)), 60), (Some(said(800)), 60)]), last_known(1));
        assert_eq!(chosen(&[(Some(said(800)), 60), (Some(said(800)), 60)]), last_known(0));
        assert_eq!(chosen(&[(None, 60)]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a_label_ahead_of_now_has_no_age() {
        assert_eq!(chosen(&[(Some(said(-700)), 0)]), Some((0, Standing::Current)));
    }

    #[test]
    fn never_mixes_signals_or_bases() {
        let marginal = Reading { signal: Signal::Marginal, ..said(1) };
        let direct = Reading { basis: Basis::Direct, ..said(1) };
        assert_eq!(
            chosen(&[(Some(marginal.clone()), 60), (Some(direct), 60), (Some(said(9)), 60)]),
            Some((2, Standing::Current))
        );
        assert_eq!(chosen(&[(Some(marginal), 60)]), None);
    }

    proptest! {
        #[test]
        fn nothing_earlier_was_good_enough(chain in prop::collection::vec((prop::option::of(0_i64..200), 0_u64..200), 0..6)) {
            let chain: Vec<_> = chain.into_iter().map(|(ago, limit)| (ago.map(said), limit)).collect();
            let within = |(last, limit): &(Option<Reading>, u64)| {
                last.as_ref().is_some_and(|reading| u64::try_from(NOW - reading.measured_at.as_second()).unwrap() <= *limit)
            };
            match chosen(&chain) {
                Some((link, Standing::Current)) => {
                    prop_assert!(within(&chain[link]) && !chain[..link].iter().any(within));
                }
                Some((_, Standing::LastKnown)) => prop_assert!(!chain.iter().any(within)),
                None => prop_assert!(chain.iter().all(|(last, _)| last.is_none())),
            }
        }
    }
}
