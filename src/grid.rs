//! How clean every grid zone is right now, and how much that knowledge is worth.
//!
//! A [`Grid`] is immutable; each accepted reading makes a new one, which is published with the plan as one snapshot. It is indexed
//! by the dense [`ZoneId`] that the plan gave each zone, because every request asks it once for each candidate.
//!
//! Knowledge degrades and never fails a request. A reading is *fresh* until its `valid_until`, and counts as it is. Then it is *stale* until
//! the grid's age limit, and drawn from its own value towards what the zone usually has at this hour of the day ([`usual`]), or has over
//! the year where too few days are known. After that what is usual is *assumed* without it. A zone about which nothing is known has no
//! intensity, and [`crate::decide`] never lets it win as green.

pub mod kept;
pub mod usual;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::usual::Usual;
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
    /// A reading past its validity, drawn towards what the zone usually has.
    Blended,
    /// What the zone had at this hour of the day in the last weeks.
    Climatology,
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
            Self::Blended => "blended",
            Self::Climatology => "climatology",
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
    /// Too old or never had: what the zone usually has at this hour, or over a year, stands in.
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
    /// The value that counts.
    pub value: GramsPerKwh,
    /// How that value came to be.
    pub quality: Quality,
    /// The reading that it is, or is drawn from; of climatology the last one that taught it.
    pub reading: &'a Reading,
}

impl<'a> Intensity<'a> {
    /// A reading as it is.
    const fn of(zone: ZoneId, freshness: Freshness, reading: &'a Reading) -> Self {
        Self { zone, freshness, value: reading.intensity, quality: reading.quality, reading }
    }
}

/// What is past its validity loses half of its weight in 4.2 hours: most weather lasts longer than that, most evenings do not.
const FADES_MINUTES: f64 = 360.0;

#[derive(Clone, Debug, Default)]
struct Zone {
    latest: Option<Reading>,
    usual: Usual,
    yearly: Option<Reading>,
}

impl Zone {
    /// What it usually has at this hour, or else over the year.
    fn usual(&self, now: Timestamp) -> Option<(GramsPerKwh, Quality)> {
        self.usual.at(now.as_second()).or_else(|| self.yearly.as_ref().map(|yearly| (yearly.intensity, yearly.quality)))
    }

    /// A reading past its validity. Not on the way of a request as long as a feed works.
    #[cold]
    fn blended<'a>(&self, zone: ZoneId, reading: &'a Reading, now: Timestamp) -> Intensity<'a> {
        let as_it_is = Intensity::of(zone, Freshness::Stale, reading);
        let Some((usual, quality)) = self.usual(now) else { return as_it_is };
        // In whole minutes, and rounded: one value for all requests of a minute, and a number that a person can read.
        let minutes = now.duration_since(reading.valid_until).as_mins().max(0);
        let weight = (-(minutes as f64) / FADES_MINUTES).exp();
        let (last, usual) = (reading.intensity.get(), usual.get());
        let value = GramsPerKwh::saturating((10.0 * (usual + weight * (last - usual))).round() / 10.0);
        let made_up = [quality, reading.quality].contains(&Quality::Simulated);
        Intensity { value, quality: if made_up { Quality::Simulated } else { Quality::Blended }, ..as_it_is }
    }

    /// Without a reading that is young enough.
    #[cold]
    fn assumed(&self, zone: ZoneId, now: Timestamp) -> Option<Intensity<'_>> {
        let of_hour = self.latest.as_ref().zip(self.usual.at(now.as_second()));
        of_hour.map_or_else(
            || self.of_year(zone),
            |(last, (value, quality))| Some(Intensity { value, quality, ..Intensity::of(zone, Freshness::Assumed, last) }),
        )
    }

    /// Without a reading that is young enough, or a mean of them.
    fn of_year(&self, zone: ZoneId) -> Option<Intensity<'_>> {
        self.yearly.as_ref().map(|yearly| Intensity::of(zone, Freshness::Assumed, yearly))
    }
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
        Self { zones: yearly.into_iter().map(|yearly| Zone { yearly, ..Zone::default() }).collect(), max_age }
    }

    /// What is known of `zone` at `now`; `None` when nothing is.
    pub fn at(&self, zone: ZoneId, now: Timestamp) -> Option<Intensity<'_>> {
        let known = self.zones.get(usize::from(zone.0))?;
        match &known.latest {
            Some(reading) if now <= reading.valid_until => Some(Intensity::of(zone, Freshness::Fresh, reading)),
            Some(reading) if age(reading, now) <= self.max_age => Some(known.blended(zone, reading, now)),
            Some(_) => known.assumed(zone, now),
            None => known.of_year(zone),
        }
    }

    /// The latest reading of `zone`, whatever its age.
    pub fn latest(&self, zone: ZoneId) -> Option<&Reading> {
        self.zones.get(usize::from(zone.0))?.latest.as_ref()
    }

    /// What is usual in `zone`, with the latest reading that taught it.
    pub fn usual(&self, zone: ZoneId) -> Option<(&Usual, &Reading)> {
        let known = self.zones.get(usize::from(zone.0))?;
        known.latest.as_ref().map(|latest| (&known.usual, latest))
    }

    /// This grid with one more reading. A reading that is older than the one at hand changes nothing, so that a slow answer cannot
    /// undo a newer one.
    #[must_use]
    pub fn with(&self, zone: ZoneId, reading: Reading) -> Self {
        let mut next = self.clone();
        if self.latest(zone).is_none_or(|old| old.measured_at <= reading.measured_at) {
            next.set(zone, reading);
        }
        next
    }

    /// Puts a reading in force, whatever was before.
    pub fn set(&mut self, zone: ZoneId, reading: Reading) {
        if let Some(slot) = self.zones.get_mut(usize::from(zone.0)) {
            slot.usual.saw(&reading);
            slot.latest = Some(reading);
        }
    }

    /// Takes over what was known under another plan, or before a restart.
    pub fn set_known(&mut self, zone: ZoneId, usual: Usual, latest: Reading) {
        if let Some(slot) = self.zones.get_mut(usize::from(zone.0)) {
            (slot.usual, slot.latest) = (usual, Some(latest));
        }
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

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn knowledge_degrades_from_fresh_to_stale_to_assumed() {
        let zone = ZoneId(0);
        let yearly = Reading { quality: Quality::Yearly, ..reading(400.0, 0, 0) };
        let grid = Grid::new(vec![Some(yearly)], Duration::from_hours(24)).with(zone, reading(50.0, 10_000, 3600));
        let seen = |second| {
            let intensity = grid.at(zone, at(second)).unwrap();
            (intensity.freshness, intensity.quality, intensity.value.get())
        };
        assert_eq!(seen(9_000), (Freshness::Fresh, Quality::Measured, 50.0));
        assert_eq!(seen(13_600), (Freshness::Fresh, Quality::Measured, 50.0));
        assert_eq!(seen(13_601), (Freshness::Stale, Quality::Blended, 50.0));
        // Six hours later 1/e of the difference is left: 400 - 350 / e.
        assert_eq!(seen(13_600 + 6 * 3600), (Freshness::Stale, Quality::Blended, 271.2));
        assert_eq!(seen(13_600 + 6 * 3600 + 59), seen(13_600 + 6 * 3600), "one value for a minute");
        assert_eq!(seen(10_000 + 24 * 3600), (Freshness::Stale, Quality::Blended, 392.4));
        assert_eq!(seen(10_001 + 24 * 3600), (Freshness::Assumed, Quality::Yearly, 400.0));
        assert_eq!(grid.at(zone, at(20_000)).unwrap().reading.measured_at, at(10_000), "it names what it is drawn from");
    }

    #[test]
    fn an_old_reading_is_drawn_towards_what_the_hour_usually_has() {
        let (zone, yearly) = (ZoneId(0), Reading { quality: Quality::Yearly, ..reading(400.0, 0, 0) });
        let mut grid = Grid::new(vec![Some(yearly)], Duration::from_hours(12));
        // Nights of 300 and noons of 100, four days long; the last day breaks off at five with 200.
        let usually = |hour: i64| if (6..18).contains(&hour) { 100.0 } else { 300.0 };
        (0..96).for_each(|hour| grid.set(zone, reading(usually(hour % 24), 3600 * hour, 3600)));
        grid.set(zone, reading(200.0, 3600 * 101, 3600));
        let seen = |hour: i64| grid.at(zone, at(3600 * hour)).map(|it| (it.freshness, it.quality, it.value.get())).unwrap();
        assert_eq!(seen(102), (Freshness::Fresh, Quality::Measured, 200.0));
        assert_eq!(seen(108), (Freshness::Stale, Quality::Blended, 136.8), "100 + 100 / e at noon");
        assert_eq!(seen(113), (Freshness::Stale, Quality::Blended, 116.0));
        assert_eq!(seen(114), (Freshness::Assumed, Quality::Climatology, 300.0));
        assert_eq!(grid.at(zone, at(3600 * 114)).unwrap().reading.measured_at, at(3600 * 101));
    }

    #[test]
    fn without_anything_usual_the_last_value_stays_for_its_time() {
        let grid = Grid::new(vec![None], Duration::from_hours(2)).with(ZoneId(0), reading(50.0, 0, 60));
        let seen = grid.at(ZoneId(0), at(7200)).unwrap();
        assert_eq!((seen.freshness, seen.quality, seen.value.get()), (Freshness::Stale, Quality::Measured, 50.0));
        assert_eq!(grid.at(ZoneId(0), at(7201)), None);
    }

    #[test]
    fn what_is_drawn_from_something_made_up_is_made_up() {
        let made_up = |grams, second| Reading { quality: Quality::Simulated, ..reading(grams, second, 60) };
        let grid = Grid::new(vec![Some(reading(400.0, 0, 0))], Duration::from_hours(2)).with(ZoneId(0), made_up(50.0, 0));
        assert_eq!(grid.at(ZoneId(0), at(7200)).unwrap().quality, Quality::Simulated);
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
