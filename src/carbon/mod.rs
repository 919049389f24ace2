//! Formats that carbon intensity comes in: bytes in, readings out.
//!
//! Nothing here asks a network or a clock. What a source answered, and when, are arguments, so that every refusal below can be
//! tested with a few bytes, and a replay reads a day of answers as the proxy did. A source can be wrong in two ways that no
//! status code tells: by a value that no grid can have, and by a value for something else than was asked (another zone, another
//! basis). Both are errors here, since a wrong reading steers every request until the next one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::grid::{Basis, GridZone, Quality, Reading, Signal};
use crate::tables::{Regions, Zone};
use crate::units::GramsPerKwh;

pub mod chain;
pub mod electricity_maps;
pub mod file;

/// The largest intensity believed, in gCO2e/kWh. The highest lifecycle factor that Electricity Maps uses is coal's, 820 (IPCC
/// 2014); three times that leaves room for old plants, losses and a marginal signal. A value in grams per MWh, or in milligrams,
/// lies far above and is caught.
pub const MAX_PLAUSIBLE_G_PER_KWH: f64 = 2500.0;

/// The intensity of `value` in gCO2e/kWh; `None` unless it is finite and between 0 and [`MAX_PLAUSIBLE_G_PER_KWH`].
pub fn plausible(value: f64) -> Option<GramsPerKwh> {
    GramsPerKwh::new(value).filter(|intensity| intensity.get() <= MAX_PLAUSIBLE_G_PER_KWH)
}

/// The shipped yearly figure of a zone as a reading: what stands in for a zone of which no source has spoken. It is dated with
/// the end of its year and is not fresh for a moment, so that it can never pass for an observation. `None` for a zone that the
/// table does not have.
pub fn builtin(zone: &GridZone) -> Option<Reading> {
    let Zone { yearly, year, .. } = Regions::shipped().zone(zone)?;
    let (intensity, year) = (*yearly.as_ref()?, (*year)?);
    let measured_at = end_of(year)?;
    Some(Reading {
        intensity,
        signal: Signal::Average,
        basis: Basis::Lifecycle,
        quality: Quality::Yearly,
        measured_at,
        valid_until: measured_at,
        source: Arc::from(format!("builtin-{year}")),
    })
}

fn end_of(year: i16) -> Option<Timestamp> {
    let next = Date::new(year.checked_add(1)?, 1, 1).ok()?;
    Some(next.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Why a carbon source gave no reading. The message is for the operator's log: it has the status and the zone, never a body and
/// never a credential, which some services repeat in what they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    kind: SourceErrorKind,
    retry_after: Option<Duration>,
    message: String,
}

/// What went wrong, with a name for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceErrorKind {
    /// Nothing came back: no connection, no answer in time. The runtime says this one.
    Unreachable,
    /// The service does not know the credential (401).
    Credential,
    /// The credential does not cover the zone or the call (403).
    NotCovered,
    /// The service does not know the zone or the call (404).
    NotFound,
    /// Asked too often (429).
    TooManyRequests,
    /// The service has a fault of its own (5xx).
    Unavailable,
    /// Any other status than 200.
    Status,
    /// More bytes than an honest answer has.
    TooLarge,
    /// Not the expected JSON.
    Malformed,
    /// An answer to another question: another zone or another basis.
    NotWhatWasAsked,
    /// The service has no value at present.
    NoValue,
    /// A value that no grid can have, or a time that it cannot know of.
    Implausible,
}

impl SourceErrorKind {
    /// Its name for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Credential => "credential",
            Self::NotCovered => "not_covered",
            Self::NotFound => "not_found",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NotWhatWasAsked => "not_what_was_asked",
            Self::NoValue => "no_value",
            Self::Implausible => "implausible",
        }
    }

    /// Whether the operator has to mend the configuration before it can work: asking again will not.
    pub const fn needs_the_operator(self) -> bool {
        matches!(self, Self::Credential | Self::NotCovered | Self::NotFound)
    }
}

impl SourceError {
    /// An error with a message that holds no credential and no part of a body.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self { kind, retry_after: None, message: message.into() }
    }

    /// The same, with the time that the service asked to be left alone for.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// What went wrong.
    pub const fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// How long the service asked to be left alone, at most a day.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SourceError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{Freshness, Grid, ZoneId};

    #[test]
    fn believes_what_a_grid_can_have() {
        for good in [0.0, -0.0, 0.1, 2500.0] {
            assert!(plausible(good).is_some(), "{good}");
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 2500.1, f64::MAX] {
            assert_eq!(plausible(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_yearly_figure_stands_in_but_is_never_fresh() {
        let reading = builtin(&GridZone::new("FR")).unwrap();
        assert_eq!(reading.intensity, GramsPerKwh::saturating(31.0));
        assert_eq!((reading.quality, &*reading.source), (Quality::Yearly, "builtin-2025"));
        assert_eq!(reading.measured_at, "2026-01-01T00:00:00Z".parse().unwrap());
        let grid = Grid::new(vec![Some(reading)], Duration::MAX);
        let seen = grid.at(ZoneId(0), "2025-06-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(seen.freshness, Freshness::Assumed);
        assert_eq!(builtin(&GridZone::new("ATLANTIS")), None);
    }

    #[test]
    fn every_shipped_zone_has_a_plausible_stand_in() {
        for region in Regions::shipped().iter() {
            let reading = builtin(&region.grid_zone).unwrap();
            assert_eq!(plausible(reading.intensity.get()), Some(reading.intensity), "{}", region.name);
        }
    }
}
