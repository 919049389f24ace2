//! What is known of a zone, as numbers that outlive the process: weeks of hours would otherwise have to be seen again after each start,
//! and a start while a feed is down would know nothing at all.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::usual::{DAYS, HOURS, Hour, Usual};
use super::{Basis, Grid, GridZone, Quality, Reading, Signal, ZoneId, age};
use crate::units::GramsPerKwh;

/// The longest name of a source that is taken from a file, in bytes: `file:` and the longest name of a file.
const LONGEST_SOURCE: usize = 260;
/// A label may lie so far ahead of now, in seconds: what sources are allowed, and an hour for a clock that was put back.
const MOST_AHEAD_S: i64 = 3 * 3600;

/// What is known of a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptZone {
    /// Its name.
    pub grid_zone: GridZone,
    intensity_g_per_kwh: f64,
    signal: Signal,
    basis: Basis,
    quality: Quality,
    measured_at: Timestamp,
    valid_until: Timestamp,
    source: String,
    /// By hour of the day, from midnight in UTC: the mean, and of how many days it is.
    hours: Vec<(f64, u32)>,
}

impl KeptZone {
    /// Of a zone; `None` where nothing was read, or what was is made up.
    pub fn of(grid: &Grid, zone: ZoneId, name: &GridZone) -> Option<Self> {
        let (usual, last) = grid.usual(zone).filter(|(_, last)| last.quality != Quality::Simulated)?;
        Some(Self {
            grid_zone: name.clone(),
            intensity_g_per_kwh: last.intensity.get(),
            signal: last.signal,
            basis: last.basis,
            quality: last.quality,
            measured_at: last.measured_at,
            valid_until: last.valid_until,
            source: last.source.to_string(),
            hours: usual.kept()?.iter().map(|hour| (hour.mean, hour.days)).collect(),
        })
    }

    /// Whether it is of that kind; one of another kind is never used.
    pub fn is_of(&self, signal: Signal, basis: Basis) -> bool {
        self.signal == signal && self.basis == basis
    }

    /// Puts it in force in a zone that no source has spoken of. Returns whether it can be true: no intensity above `most`, nothing of
    /// a time to come.
    pub fn restore(&self, grid: &mut Grid, zone: ZoneId, most: f64, now: Timestamp) -> bool {
        let plausible = |grams: f64| grams.is_finite() && (0.0..=most).contains(&grams);
        let hours = self.hours.iter().map(|(mean, days)| Hour { mean: *mean, days: (*days).min(DAYS) });
        let Ok(hours) = <[Hour; HOURS]>::try_from(hours.collect::<Vec<_>>()) else { return false };
        let observed = matches!(self.quality, Quality::Measured | Quality::Estimated | Quality::Forecast);
        let reading = Reading {
            intensity: GramsPerKwh::saturating(self.intensity_g_per_kwh),
            signal: self.signal,
            basis: self.basis,
            quality: self.quality,
            measured_at: self.measured_at,
            valid_until: self.valid_until,
            source: Arc::from(&*self.source),
        };
        let ahead = |at: Timestamp| at.as_second().saturating_sub(now.as_second());
        // What is valid for longer than a day would be believed for longer than any source is.
        let sound = observed
            && plausible(self.intensity_g_per_kwh)
            && hours.iter().all(|hour| plausible(hour.mean))
            && self.source.len() <= LONGEST_SOURCE
            && ahead(self.measured_at) <= MOST_AHEAD_S
            && age(&reading, self.valid_until).as_secs() <= 86_400;
        if sound && grid.latest(zone).is_none() {
            grid.set_known(zone, Usual::of(hours, &reading), reading);
        }
        sound
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn grid() -> Grid {
        Grid::new(vec![None], Duration::from_hours(24))
    }

    fn taught(quality: Quality) -> Grid {
        let mut grid = grid();
        for hour in 0..24 * 9 {
            let (measured_at, valid_until) = (at(3600 * hour), at(3600 * hour + 4500));
            let (intensity, source) = (GramsPerKwh::saturating(100.0 + (hour % 24) as f64), Arc::from("test"));
            let (signal, basis) = (Signal::Average, Basis::Lifecycle);
            grid.set(ZoneId(0), Reading { intensity, signal, basis, quality, measured_at, valid_until, source });
        }
        grid
    }

    fn kept() -> KeptZone {
        KeptZone::of(&taught(Quality::Measured), ZoneId(0), &GridZone::new("SE-SE1")).unwrap()
    }

    /// The moment after the last reading.
    const NOW: i64 = 3600 * 24 * 9;

    #[test]
    fn what_was_known_of_a_zone_is_known_again_and_as_old_as_it_is() {
        let (before, mut after) = (taught(Quality::Measured), grid());
        let text = serde_json::to_string(&kept()).unwrap();
        let read: KeptZone = serde_json::from_str(&text).unwrap();
        assert!(read.restore(&mut after, ZoneId(0), 2500.0, at(NOW)));
        for hours in [0, 1, 3, 12, 23, 24, 60] {
            let now = at(NOW + 3600 * hours);
            assert_eq!(before.at(ZoneId(0), now), after.at(ZoneId(0), now), "{hours} h later");
        }
        assert!(read.is_of(Signal::Average, Basis::Lifecycle) && !read.is_of(Signal::Marginal, Basis::Lifecycle));
        let spoken = before.latest(ZoneId(0)).unwrap().clone();
        let mut newer = grid();
        newer.set(ZoneId(0), Reading { measured_at: at(NOW), ..spoken.clone() });
        assert!(read.restore(&mut newer, ZoneId(0), 2500.0, at(NOW)));
        assert_eq!(newer.latest(ZoneId(0)).unwrap().measured_at, at(NOW), "a source has spoken");
    }

    #[test]
    fn what_is_made_up_is_not_kept() {
        assert_eq!(KeptZone::of(&taught(Quality::Simulated), ZoneId(0), &GridZone::new("SE-SE1")), None);
        assert_eq!(KeptZone::of(&grid(), ZoneId(0), &GridZone::new("SE-SE1")), None);
    }

    #[test]
    fn what_cannot_be_true_is_not_taken() {
        let good = kept();
        let mut bad = vec![
            KeptZone { intensity_g_per_kwh: 2501.0, ..good.clone() },
            KeptZone { intensity_g_per_kwh: f64::NAN, ..good.clone() },
            KeptZone { quality: Quality::Simulated, ..good.clone() },
            KeptZone { quality: Quality::Climatology, ..good.clone() },
            KeptZone { measured_at: at(NOW + 4 * 3600), ..good.clone() },
            KeptZone { valid_until: at(NOW + 30 * 86_400), ..good.clone() },
            KeptZone { source: "x".repeat(261), ..good.clone() },
            KeptZone { hours: good.hours[1..].to_vec(), ..good.clone() },
        ];
        let mut hours = good.hours.clone();
        hours[5].0 = -1.0;
        bad.push(KeptZone { hours, ..good });
        for kept in bad {
            let mut after = grid();
            assert!(!kept.restore(&mut after, ZoneId(0), 2500.0, at(NOW)), "{kept:?}");
            assert_eq!(after.latest(ZoneId(0)), None);
        }
    }
}
