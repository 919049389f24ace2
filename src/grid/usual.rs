//! What a grid usually has at an hour of the day: what stands beside a reading that grows old, and in its place once it is too old.
//!
//! Grids repeat themselves by the day: the sun, the evening's load, the night's surplus of wind. So the mean of an hour of the day over
//! the last weeks says more about an hour without a reading than the mean of the year does. It is learned from the readings that were
//! in force, takes 400 bytes for each zone however long that goes on, and needs no clock: readings say of which hour they are.

use super::{Quality, Reading};
use crate::units::GramsPerKwh;

/// Hours of a day, counted in UTC: what a local clock calls them does not matter where they are only compared with themselves.
pub const HOURS: usize = 24;
/// An hour remembers about so many days: weather and weekends even out in four weeks, and a season does not pass.
pub const DAYS: u32 = 28;
/// Less than that is the weather of a day or two, and the mean of the year is better.
const KNOWN: u32 = 3;
const SECONDS: i64 = 3600;

/// One hour of the day.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hour {
    /// Its mean, in gCO2e/kWh.
    pub mean: f64,
    /// Days that it is made of, at most [`DAYS`].
    pub days: u32,
}

impl Hour {
    fn with(self, value: f64) -> Self {
        let days = self.days.saturating_add(1).min(DAYS);
        Self { mean: self.mean + (value - self.mean) / f64::from(days), days }
    }
}

/// What a zone usually has, by the hour of the day.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usual {
    hours: [Hour; HOURS],
    /// The latest hour with a reading, counted from 1970, and what its hour of the day was before: a second reading of an hour corrects
    /// the first and is no second day.
    latest: Option<(i64, Hour)>,
    /// Whether it is made of readings that were made up; they are never mixed with others.
    simulated: bool,
}

impl Usual {
    /// A reading was in force. One that is itself a mean of a year teaches nothing, nor does one of an hour that is over.
    pub fn saw(&mut self, reading: &Reading) {
        if matches!(reading.quality, Quality::Yearly | Quality::Blended | Quality::Climatology) {
            return;
        }
        let simulated = reading.quality == Quality::Simulated;
        if simulated != self.simulated {
            *self = Self { simulated, ..Self::default() };
        }
        let hour = reading.measured_at.as_second().div_euclid(SECONDS);
        let Some(slot) = self.hours.get_mut(of_day(hour)) else { return };
        let before = match self.latest {
            Some((latest, _)) if hour < latest => return,
            Some((latest, before)) if hour == latest => before,
            _ => *slot,
        };
        *slot = before.with(reading.intensity.get());
        self.latest = Some((hour, before));
    }

    /// What the zone usually has at that second of 1970 and since, and of what quality that is; `None` where too few days are known.
    pub fn at(&self, second: i64) -> Option<(GramsPerKwh, Quality)> {
        let hour = self.hours.get(of_day(second.div_euclid(SECONDS))).filter(|hour| hour.days >= KNOWN)?;
        let quality = if self.simulated { Quality::Simulated } else { Quality::Climatology };
        Some((GramsPerKwh::saturating(hour.mean), quality))
    }

    /// The hours of the day, from midnight in UTC; `None` where they are not to be kept, because they are made up.
    pub fn kept(&self) -> Option<&[Hour; HOURS]> {
        (!self.simulated).then_some(&self.hours)
    }

    /// What was kept, with the reading that was the latest then.
    pub fn of(hours: [Hour; HOURS], last: &Reading) -> Self {
        let hour = last.measured_at.as_second().div_euclid(SECONDS);
        // What was there before that hour's reading is not kept; a correction of it counts as if there had been none.
        let before = hours.get(of_day(hour)).copied().unwrap_or_default();
        Self { hours, latest: Some((hour, before)), simulated: false }
    }
}

fn of_day(hour: i64) -> usize {
    hour.rem_euclid(24) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::grid::{Basis, Signal};

    fn reading(grams: f64, second: i64, quality: Quality) -> Reading {
        let measured_at = Timestamp::from_second(second).unwrap();
        Reading {
            intensity: GramsPerKwh::saturating(grams),
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality,
            measured_at,
            valid_until: measured_at,
            source: Arc::from("test"),
        }
    }

    fn grams(usual: &Usual, second: i64) -> Option<f64> {
        usual.at(second).map(|(value, _)| value.get())
    }

    #[test]
    fn an_hour_is_known_after_some_days_and_is_the_mean_of_the_last_weeks() {
        let mut usual = Usual::default();
        for day in 0..3 {
            assert_eq!(grams(&usual, 86_400 * day + 600), None, "two days say too little");
            usual.saw(&reading(100.0 + 10.0 * day as f64, 86_400 * day + 60, Quality::Measured));
        }
        assert_eq!(usual.at(86_400 * 9 + 3599), Some((GramsPerKwh::saturating(110.0), Quality::Climatology)));
        assert_eq!(grams(&usual, 3600), None, "of another hour nothing is known");
        (3..200).for_each(|day| usual.saw(&reading(500.0, 86_400 * day, Quality::Estimated)));
        let now = grams(&usual, 0).unwrap();
        assert!((498.0..500.0).contains(&now), "what was long ago is forgotten: {now}");
    }

    #[test]
    fn a_second_reading_of_an_hour_corrects_the_first_and_an_older_one_changes_nothing() {
        let mut usual = Usual::default();
        for day in 0..4 {
            for minute in 0..12 {
                usual.saw(&reading(f64::from(minute), 86_400 * day + 300 * i64::from(minute), Quality::Measured));
            }
        }
        assert_eq!((grams(&usual, 0), usual.hours[0].days), (Some(11.0), 4), "the last word of each day");
        let before = usual.clone();
        usual.saw(&reading(900.0, 0, Quality::Measured));
        usual.saw(&reading(900.0, 86_400 * 5, Quality::Yearly));
        assert_eq!(usual, before);
    }

    #[test]
    fn what_is_made_up_is_never_mixed_with_what_is_not() {
        let mut usual = Usual::default();
        (0..9).for_each(|day| usual.saw(&reading(100.0, 86_400 * day, Quality::Simulated)));
        assert_eq!(usual.at(0), Some((GramsPerKwh::saturating(100.0), Quality::Simulated)));
        assert_eq!(usual.kept(), None);
        (9..12).for_each(|day| usual.saw(&reading(300.0, 86_400 * day, Quality::Measured)));
        assert_eq!(usual.at(0), Some((GramsPerKwh::saturating(300.0), Quality::Climatology)));
        let last = reading(300.0, 86_400 * 11, Quality::Measured);
        let mut again = Usual::of(*usual.kept().unwrap(), &last);
        assert_eq!(again.at(0), usual.at(0));
        again.saw(&reading(900.0, 86_400 * 10, Quality::Measured));
        assert_eq!(again.at(0), usual.at(0), "it goes on after what was the latest");
    }

    #[test]
    fn an_hour_before_1970_is_an_hour_of_its_day() {
        let mut usual = Usual::default();
        (1..5).for_each(|day| usual.saw(&reading(7.0, 86_400 * (day - 9) - 1, Quality::Measured)));
        assert_eq!(grams(&usual, 86_399), Some(7.0));
    }
}
