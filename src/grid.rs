//! How clean every grid zone is right now, and how much that knowledge is worth.
//!
//! A [`Grid`] is immutable; each accepted reading makes a new one, which is published with the plan as one snapshot. It is indexed
//! by the dense [`ZoneId`] that the plan gave each zone, because every request asks it once for each candidate.
//!
//! Knowledge degrades in steps and never fails a request: a reading is *fresh* until its `valid_until`, then *stale* until the
//! grid's age limit, and after that the zone's yearly figure is *assumed*. A zone about which nothing is known has no intensity,
//! and [`crate::decide`] never lets it win as green.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::units::GramsPerKwh;

/// The grid's word for a zone, spelled as Electricity Maps spells it (`US-NW-PACW`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GridZone(pub Arc<str>);

impl GridZone {
    /// The zone of that name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A grid zone's place in the plan's list of zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ZoneId(pub u16);

/// What an intensity says: the mix consumed, or the plant that answers to one more kilowatt-hour. Never mixed in one candidate set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Grams of the average kilowatt-hour consumed in the zone.
    #[default]
    Average,
    /// Grams of the marginal kilowatt-hour.
    Marginal,
}

impl Signal {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Marginal => "marginal",
        }
    }
}

/// What is counted in a gram. Never mixed in one candidate set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// With construction, fuel supply and decommissioning of the plants.
    #[default]
    Lifecycle,
    /// What leaves the chimney.
    Direct,
}

impl Basis {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Direct => "direct",
        }
    }
}

/// How a value came to be; a smaller one is better evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// From metered generation.
    Measured,
    /// Filled in by the source's model.
    Estimated,
    /// Foretold for this hour at an earlier one.
    Forecast,
    /// A mean over a year.
    Yearly,
    /// Made up for a demonstration; excluded from claims.
    Simulated,
}

impl Quality {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Forecast => "forecast",
            Self::Yearly => "yearly",
            Self::Simulated => "simulated",
        }
    }
}

/// One value from one carbon source.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The value.
    pub intensity: GramsPerKwh,
    /// Average or marginal.
    pub signal: Signal,
    /// What is counted.
    pub basis: Basis,
    /// How it came to be.
    pub quality: Quality,
    /// The moment the value is about, as the source labels it (it may lie a little ahead: an hour carries its end's label).
    pub measured_at: Timestamp,
    /// Until when it is fresh.
    pub valid_until: Timestamp,
    /// Which source said so.
    pub source: Arc<str>,
}

/// How much a reading is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Within its own validity.
    Fresh,
    /// Past it, but younger than the age limit.
    Stale,
    /// Too old or never had: the zone's yearly figure stands in.
    Assumed,
}

impl Freshness {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Assumed => "assumed",
        }
    }
}

/// What is known of a zone at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intensity<'a> {
    /// The zone that it is about.
    pub zone: ZoneId,
    /// How much it is worth.
    pub freshness: Freshness,
    /// The reading behind it.
    pub reading: &'a Reading,
}

#[derive(Clone, Debug, Default)]
struct Zone {
    latest: Option<Reading>,
    yearly: Option<Reading>,
}

/// The latest reading of every zone of a plan.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    zones: Vec<Zone>,
    max_age: Duration,
}

impl Grid {
    /// A grid of the plan's zones in their order, each with its yearly figure where one is known. Readings older than `max_age`
    /// are not used.
    pub fn new(yearly: Vec<Option<Reading>>, max_age: Duration) -> Self {
        Self { zones: yearly.into_iter().map(|yearly| Zone { latest: None, yearly }).collect(), max_age }
    }

    /// What is known of `zone` at `now`; `None` when nothing is.
    pub fn at(&self, zone: ZoneId, now: Timestamp) -> Option<Intensity<'_>> {
        let Zone { latest, yearly } = self.zones.get(usize::from(zone.0))?;
        if let Some(reading) = latest {
            if now <= reading.valid_until {
                return Some(Intensity { zone, freshness: Freshness::Fresh, reading });
            }
            if age(reading, now) <= self.max_age {
                return Some(Intensity { zone, freshness: Freshness::Stale, reading });
            }
        }
        yearly.as_ref().map(|reading| Intensity { zone, freshness: Freshness::Assumed, reading })
    }

    /// The latest reading of `zone`, whatever its age.
    pub fn latest(&self, zone: ZoneId) -> Option<&Reading> {
        self.zones.get(usize::from(zone.0))?.latest.as_ref()
    }

    /// This grid with one more reading. A reading that is older than the one at hand changes nothing, so that a slow answer cannot
    /// undo a newer one.
    #[must_use]
    pub fn with(&self, zone: ZoneId, reading: Reading) -> Self {
        let mut next = self.clone();
        if let Some(slot) = next.zones.get_mut(usize::from(zone.0))
            && slot.latest.as_ref().is_none_or(|old| old.measured_at <= reading.measured_at)
        {
            slot.latest = Some(reading);
        }
        next
    }
}

/// How old a reading is: zero for one that is labelled with a moment still to come.
pub fn age(reading: &Reading, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(reading.measured_at)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    fn reading(grams: f64, measured_at: i64, valid_for: i64) -> Reading {
        Reading {
            intensity: GramsPerKwh::saturating(grams),
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality: Quality::Measured,
            measured_at: Timestamp::from_second(measured_at).unwrap(),
            valid_until: Timestamp::from_second(measured_at + valid_for).unwrap(),
            source: Arc::from("test"),
        }
    }

    #[test]
    fn knowledge_degrades_from_fresh_to_stale_to_assumed() {
        let zone = ZoneId(0);
        let grid = Grid::new(vec![Some(reading(400.0, 0, 0))], Duration::from_hours(2)).with(zone, reading(50.0, 10_000, 3600));
        let seen = |second| {
            let now = Timestamp::from_second(second).unwrap();
            let intensity = grid.at(zone, now).unwrap();
            (intensity.freshness, intensity.reading.intensity.get())
        };
        assert_eq!(seen(9_000), (Freshness::Fresh, 50.0));
        assert_eq!(seen(13_600), (Freshness::Fresh, 50.0));
        assert_eq!(seen(13_601), (Freshness::Stale, 50.0));
        assert_eq!(seen(17_200), (Freshness::Stale, 50.0));
        assert_eq!(seen(17_201), (Freshness::Assumed, 400.0));
    }

    #[test]
    fn an_older_reading_changes_nothing() {
        let grid = Grid::new(vec![None], Duration::from_mins(1))
            .with(ZoneId(0), reading(1.0, 100, 60))
            .with(ZoneId(0), reading(2.0, 99, 60));
        assert_eq!(grid.latest(ZoneId(0)).unwrap().intensity.get(), 1.0);
    }

    #[test]
    fn an_unknown_zone_has_no_intensity() {
        let grid = Grid::new(vec![None], Duration::ZERO);
        assert_eq!(grid.at(ZoneId(0), Timestamp::UNIX_EPOCH), None);
        assert_eq!(grid.at(ZoneId(7), Timestamp::UNIX_EPOCH), None);
    }
}
