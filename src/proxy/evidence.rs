//! What an answer says of where it ran, held against where its backend is declared to be.
//!
//! The decision was made by the declaration, and stays as it was; the grams of what ran are made with what is known now. A supplier's
//! own word on one request says more than a line of configuration that may be wrong or be about more places than one.

use jiff::Timestamp;

use super::exchange::Exchange;
use crate::backend::{Backend, PlacementKind};
use crate::config::builtin_reading;
use crate::grid::{Basis, Freshness, GridZone, Intensity, Quality, Reading, Signal, ZoneId};
use crate::ledger;
use crate::record::{CarbonUsed, Text};
use crate::state::Snapshot;
use crate::tables::{Place, Region, Regions};
use crate::units::{GramsPerKwh, Pue};

/// The longest name of a place that is believed, in bytes.
const MOST: usize = 64;
/// In the place of a zone that the plan does not have.
const NOT_IN_PLAN: ZoneId = ZoneId(u16::MAX);

/// The field in which Azure names its region, as evidence in a record.
pub(super) fn of_azure(value: &str) -> Option<Box<str>> {
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (plain && (1..=MOST).contains(&value.len())).then(|| format!("x-ms-region={value}").into())
}

/// Where a request ran, by what its answer says, where that is elsewhere than declared or says more.
pub(super) struct Ran {
    /// How sure that is.
    pub(super) kind: PlacementKind,
    /// The grid that counts, and what is known of it.
    judged: Option<Judged>,
    /// The other end, where it is in more than one.
    low: Option<GramsPerKwh>,
    pub(super) pue: Pue,
}

struct Judged {
    zone: &'static GridZone,
    id: ZoneId,
    freshness: Freshness,
    value: GramsPerKwh,
    quality: Quality,
    reading: Reading,
}

impl Ran {
    /// Of an exchange that a backend answered.
    pub(super) fn of(x: &Exchange) -> Option<Self> {
        let (name, place) = x.evidence.as_deref()?.split_once('=')?;
        let (backend, _) = x.serving.as_ref()?;
        let at = (&*x.snapshot, x.wall);
        match name {
            "x-ms-region" => Self::in_region(azure_region(place)?, backend, at),
            "inference_geo" => {
                let geography = x.snapshot.plan.geographies.iter().find(|geography| *geography.name == *place)?;
                Self::in_geography(geography, backend, at)
            }
            _ => None,
        }
    }

    fn in_geography(geography: &Place, backend: &Backend, at: (&Snapshot, Timestamp)) -> Option<Self> {
        match (geography.countries.is_empty(), backend.placement.kind) {
            (true, PlacementKind::Geo) => Some(Self { kind: PlacementKind::Global, judged: None, low: None, pue: backend.pue }),
            (false, PlacementKind::Global | PlacementKind::Unknown) => {
                let inside = Regions::shipped().iter().filter(|region| geography.may_be_in(region.grid_zone.as_str()));
                let judged: Option<Vec<Judged>> = inside.map(|region| judged(&region.grid_zone, at)).collect();
                let judged = judged?;
                let low = judged.iter().map(|judged| judged.value).min_by(|a, b| a.get().total_cmp(&b.get()));
                let dirtiest = judged.into_iter().max_by(|a, b| a.value.get().total_cmp(&b.value.get()));
                Some(Self { kind: PlacementKind::Geo, judged: dirtiest, low, pue: backend.pue })
            }
            // It says no more than is declared; and an endpoint that is pinned says more than a workspace's setting.
            _ => None,
        }
    }

    fn in_region(region: &'static Region, backend: &Backend, at: (&Snapshot, Timestamp)) -> Option<Self> {
        let as_declared = backend.placement.kind == PlacementKind::Pinned && backend.region == region.name;
        (!as_declared).then(|| Self {
            kind: PlacementKind::Pinned,
            judged: judged(&region.grid_zone, at),
            low: None,
            pue: region.pue,
        })
    }

    /// What its grams are made with.
    pub(super) fn intensity(&self) -> Option<Intensity<'_>> {
        let Judged { zone: _, id, freshness, value, quality, reading } = self.judged.as_ref()?;
        Some(Intensity { zone: *id, freshness: *freshness, value: *value, quality: *quality, reading })
    }

    /// The grid that counts.
    pub(super) fn grid_zone(&self) -> Option<&'static str> {
        self.judged.as_ref().map(|judged| judged.zone.as_str())
    }
}

/// A backend, and what was known of its grid at the decision; or of the one where the request ran, where its answer says so.
#[derive(Clone, Copy)]
pub(super) struct At<'x> {
    pub(super) backend: &'x Backend,
    pub(super) intensity: Option<Intensity<'x>>,
    pub(super) ran: Option<&'x Ran>,
}

impl<'x> At<'x> {
    pub(super) fn pue(&self) -> Pue {
        self.ran.map_or(self.backend.pue, |ran| ran.pue)
    }

    pub(super) fn place(&self) -> ledger::Place {
        ledger::Place { pue: self.pue(), intensity: self.intensity.map(|intensity| intensity.value) }
    }

    pub(super) fn grid_zone(&self, x: &'x Exchange) -> Option<Text<'x>> {
        match self.ran {
            Some(ran) => ran.grid_zone().map(Text::from),
            None => x.snapshot.zone_used(self.backend, self.intensity),
        }
    }

    pub(super) fn carbon_used(&self, x: &'x Exchange) -> CarbonUsed<'x> {
        let used = x.snapshot.carbon_used(self.backend, self.intensity, x.wall);
        let low = self.ran.map_or(used.intensity_low_g_per_kwh, |ran| ran.low);
        CarbonUsed { grid_zone: self.grid_zone(x), pue: Some(self.pue()), intensity_low_g_per_kwh: low, ..used }
    }
}

/// `Sweden Central`, or `swedencentral`.
fn azure_region(place: &str) -> Option<&'static Region> {
    let short: String = place.chars().filter(|c| !c.is_ascii_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    Regions::shipped().lookup(&format!("azure/{short}"))
}

/// What is known of a grid: by the plan's sources where it has that zone, else by the shipped figure, unless that is of another kind than
/// the plan's readings, which are never mixed.
fn judged(zone: &'static GridZone, (snapshot, wall): (&Snapshot, Timestamp)) -> Option<Judged> {
    let carbon = &snapshot.plan.carbon;
    if let Some(index) = snapshot.plan.zones.iter().position(|other| other == zone) {
        let id = ZoneId(index as u16);
        let Intensity { zone: _, freshness, value, quality, reading } = snapshot.grid.at(id, wall)?;
        return Some(Judged { zone, id, freshness, value, quality, reading: reading.clone() });
    }
    let fits = carbon.signal == Signal::Average && carbon.basis == Basis::Lifecycle;
    let reading = builtin_reading(zone).filter(|_| fits)?;
    let (value, quality) = (reading.intensity, reading.quality);
    Some(Judged { zone, id: NOT_IN_PLAN, freshness: Freshness::Assumed, value, quality, reading })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_regions_are_known_by_either_name() {
        for name in ["Sweden Central", "swedencentral", "SwedenCentral"] {
            assert_eq!(azure_region(name).map(|region| &*region.name), Some("azure/swedencentral"), "{name}");
        }
        assert!(azure_region("Atlantis").is_none());
        assert_eq!(of_azure("Sweden Central").as_deref(), Some("x-ms-region=Sweden Central"));
        for odd in ["", "a\tb", "é", &"x".repeat(65)] {
            assert_eq!(of_azure(odd), None, "{odd:?}");
        }
    }
}
