//! The grid in fast motion: how clean a made-up zone is at each hour of its day.
//!
//! A recorded day would be truer, but recordings come with licences and gaps, and a demonstration needs a day whose shape can be
//! seen at once. Each shape is a mean and two waves (one a day, two a day), so it is smooth, has that mean exactly, and joins
//! midnight to midnight. Readings made of it are labelled [`Quality::Simulated`], which keeps them out of every claim.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::grid::{Basis, Quality, Reading, Signal};
use crate::units::GramsPerKwh;

/// What carries a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Gas by night, sun by day: very clean at noon, dirtiest when the sun sets on the evening's demand.
    Solar,
    /// Wind over gas: cleaner by night, when the wind blows against little demand.
    Wind,
    /// Nuclear with a little gas at the peaks of demand.
    Nuclear,
    /// Dams, level all day.
    Hydro,
    /// Coal and gas, with a shallow dip about noon.
    Coal,
}

/// A wave: its height as a share of the mean, and the hour at which it is highest.
struct Wave {
    height: f64,
    peak_hour: f64,
}

impl Shape {
    /// Its name in files and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Solar => "solar",
            Self::Wind => "wind",
            Self::Nuclear => "nuclear",
            Self::Hydro => "hydro",
            Self::Coal => "coal",
        }
    }

    /// The mean over the day, in the neighbourhood of what such zones have over a year.
    pub fn usual_mean(self) -> GramsPerKwh {
        GramsPerKwh::saturating(match self {
            Self::Solar => 210.0,
            Self::Wind => 200.0,
            Self::Nuclear => 32.0,
            Self::Hydro => 21.0,
            Self::Coal => 620.0,
        })
    }

    /// One wave a day and one twice a day. Their heights sum to less than 1, so the sum stays above zero.
    fn waves(self) -> [Wave; 2] {
        let (daily, twice) = match self {
            Self::Solar => ((0.45, 0.5), (0.22, 19.5)),
            Self::Wind => ((0.35, 15.0), (0.10, 19.0)),
            Self::Nuclear => ((0.12, 18.0), (0.10, 19.5)),
            Self::Hydro => ((0.10, 17.0), (0.05, 19.0)),
            Self::Coal => ((0.07, 0.0), (0.04, 20.0)),
        };
        [daily, twice].map(|(height, peak_hour)| Wave { height, peak_hour })
    }
}

/// One zone's day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Day {
    /// Its shape.
    pub shape: Shape,
    /// Its mean.
    pub mean: GramsPerKwh,
    /// Hours that the zone's clocks are ahead of UTC, -12 to 14.
    pub utc_offset_hours: f64,
}

impl Day {
    /// The intensity at an hour of the day in UTC, simulated. Any number is an hour of some day; what is not finite counts as 0.
    pub fn intensity(&self, utc_hour: f64) -> GramsPerKwh {
        let hour = if utc_hour.is_finite() { utc_hour } else { 0.0 } + self.utc_offset_hours;
        let [daily, twice] = self.shape.waves();
        let swing = daily.height * (TAU * (hour - daily.peak_hour) / 24.0).cos()
            + twice.height * (TAU * (hour - twice.peak_hour) / 12.0).cos();
        self.mean * (1.0 + swing)
    }

    /// The same as a reading that says of itself that it is simulated: measured at `at`, good for `validity`.
    pub fn reading(&self, utc_hour: f64, at: Timestamp, validity: Duration) -> Reading {
        Reading {
            intensity: self.intensity(utc_hour),
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality: Quality::Simulated,
            measured_at: at,
            valid_until: at.checked_add(validity).unwrap_or(Timestamp::MAX),
            source: Arc::from("simulated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Shape; 5] = [Shape::Solar, Shape::Wind, Shape::Nuclear, Shape::Hydro, Shape::Coal];

    fn day(shape: Shape) -> Day {
        Day { shape, mean: shape.usual_mean(), utc_offset_hours: 0.0 }
    }

    #[test]
    fn every_day_is_positive_smooth_and_has_its_mean() {
        for shape in ALL {
            let values: Vec<f64> = (0..=1440).map(|minute| day(shape).intensity(f64::from(minute) / 60.0).get()).collect();
            let mean = values[..1440].iter().sum::<f64>() / 1440.0;
            assert!((mean - shape.usual_mean().get()).abs() < 1e-6, "{shape:?} {mean}");
            assert!(values.iter().all(|&v| v > 0.0), "{shape:?}");
            assert!((values[0] - values[1440]).abs() < 1e-9, "midnight joins midnight: {shape:?}");
            let steepest = values.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f64::max);
            assert!(steepest < 0.01 * mean, "{shape:?} jumps by {steepest}");
        }
    }

    #[test]
    fn the_sun_shines_at_noon_where_it_is_noon() {
        let here = day(Shape::Solar);
        assert!(here.intensity(12.5).get() < 0.5 * here.intensity(19.5).get());
        let pacific = Day { utc_offset_hours: -8.0, ..here };
        assert_eq!(pacific.intensity(20.5), here.intensity(12.5));
        assert!(here.intensity(f64::NAN).get() > 0.0);
    }

    #[test]
    fn a_reading_says_that_it_is_simulated() {
        let reading = day(Shape::Coal).reading(3.0, Timestamp::UNIX_EPOCH, Duration::from_mins(5));
        assert_eq!(reading.quality, Quality::Simulated);
        assert_eq!(reading.valid_until.as_second(), 300);
    }
}
