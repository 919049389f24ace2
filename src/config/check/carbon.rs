//! Carbon sources, and what is known of each grid zone before any of them has spoken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Check, url};
use crate::backend::Secret;
use crate::config::choices::SourceFile;
use crate::config::decode::{At, Filled, Table};
use crate::config::file::{CarbonFile, ElectricityMapsFile, ZoneFile};
use crate::config::plan::{CarbonPlan, SourcePlan};
use crate::grid::{Basis, GridZone, Quality, Reading, Signal, ZoneId};
use crate::tables::Regions;
use crate::units::GramsPerKwh;

/// After a day a reading that is drawn towards what is usual has 2 % of its weight left.
const MAX_AGE: Duration = Duration::from_hours(24);
/// What Electricity Maps refreshes in; asking more often learns nothing.
const INTERVAL: Duration = Duration::from_mins(5);
/// Its public address; the version is the last segment.
const ELECTRICITY_MAPS: &str = "https://api.electricitymaps.com/v4";
/// Above this no grid is believed: lignite in an old plant lies near 1200, and losses and a marginal signal need room.
const MAX_GRAMS: f64 = 2500.0;
/// The year of an operator's own figure for a zone that the shipped table does not have.
const USUAL_YEAR: i16 = 2025;

/// The grid zones that a plan's backends name, and their yearly figures.
pub(super) struct Zones {
    names: Vec<GridZone>,
    ids: HashMap<GridZone, ZoneId>,
    own: HashMap<GridZone, Reading>,
    /// Whether the shipped figures may be used: they are among the sources, and average and lifecycle is what is wanted.
    builtin: bool,
}

impl Zones {
    /// The number of a zone. A plan has at most 1024 backends of 32 zones each, so numbers suffice.
    pub(super) fn id(&mut self, name: &str) -> ZoneId {
        let zone = GridZone::new(name);
        let next = ZoneId(self.names.len() as u16);
        let id = *self.ids.entry(zone.clone()).or_insert(next);
        if id == next {
            self.names.push(zone);
        }
        id
    }

    /// Whether something is known of a zone before a source has spoken.
    pub(super) fn known(&self, name: &str) -> bool {
        self.reading(&GridZone::new(name)).is_some()
    }

    /// All zones by id.
    pub(super) fn names(&self) -> Vec<GridZone> {
        self.names.clone()
    }

    /// Their yearly figures by id.
    pub(super) fn yearly(&self) -> Vec<Option<Reading>> {
        self.names.iter().map(|zone| self.reading(zone)).collect()
    }

    fn reading(&self, zone: &GridZone) -> Option<Reading> {
        self.own.get(zone).cloned().or_else(|| if self.builtin { builtin_reading(zone) } else { None })
    }
}

impl Check<'_> {
    pub(super) fn carbon(&mut self, written: Option<CarbonFile>) -> (CarbonPlan, Zones) {
        let mut plan = CarbonPlan {
            signal: Signal::default(),
            basis: Basis::default(),
            max_age: MAX_AGE,
            sources: vec![SourcePlan::Builtin],
            yearly: Vec::new(),
        };
        let mut own = HashMap::new();
        if let Some(file) = written {
            plan.signal = file.signal.map_or(plan.signal, |signal| signal.value);
            plan.basis = file.basis.map_or(plan.basis, |basis| basis.value);
            plan.max_age = self.span(file.max_age, MAX_AGE);
            if let Some(sources) = file.sources {
                plan.sources = self.sources(sources);
            }
            own = self.own_zones(file.zones, plan.signal, plan.basis);
        }
        let builtin =
            plan.sources.contains(&SourcePlan::Builtin) && plan.signal == Signal::Average && plan.basis == Basis::Lifecycle;
        (plan, Zones { names: Vec::new(), ids: HashMap::new(), own, builtin })
    }

    fn sources(&mut self, written: Filled<At<SourceFile>>) -> Vec<SourcePlan> {
        let mut sources = Vec::new();
        for At { value, mark, .. } in written.0 {
            let source = match value {
                SourceFile::Builtin => SourcePlan::Builtin,
                SourceFile::File(file) => {
                    // Not read here: a grid file comes and goes while the proxy runs, and its absence must not fail a request.
                    SourcePlan::File { path: self.path(&file.path.value), simulated: file.simulated.unwrap_or(false) }
                }
                SourceFile::ElectricityMaps(file) => self.electricity_maps(&file),
            };
            if sources.contains(&source) {
                self.problems.add(mark, "this carbon source is here twice");
            }
            sources.push(source);
        }
        sources
    }

    fn electricity_maps(&mut self, file: &ElectricityMapsFile) -> SourcePlan {
        let base_url = match &file.base_url {
            Some(written) => {
                self.url(written);
                written.value.trim_end_matches('/')
            }
            None => ELECTRICITY_MAPS,
        };
        if let Some(written) = &file.base_url
            && url::sends_in_clear(&written.value)
        {
            self.warnings.add(written.mark, "the token is sent over http, in clear");
        }
        let token = self.secret(&file.token, "leave the source out to do without it").unwrap_or_else(|| Secret::new(""));
        if http::HeaderValue::from_str(token.expose()).is_err() {
            self.problems.add(file.token.mark, "the token holds characters that no header can carry");
        }
        SourcePlan::ElectricityMaps { base_url: Arc::from(base_url), token, interval: self.span(file.interval, INTERVAL) }
    }

    fn own_zones(&mut self, written: Option<Table<ZoneFile>>, signal: Signal, basis: Basis) -> HashMap<GridZone, Reading> {
        let mut own = HashMap::new();
        for (name, ZoneFile { yearly, year }) in written.map(|table| table.0).unwrap_or_default() {
            if !is_zone(&name.value) {
                self.problems.add(name.mark, format!("{} is no grid zone", name.shown()));
            }
            let zone = GridZone::new(&name.value);
            let grams = self.amount(&yearly, "an intensity");
            if grams > MAX_GRAMS {
                self.problems.add(yearly.mark, format!("no grid emits more than {MAX_GRAMS} gCO2e/kWh")).mend =
                    Some("the unit is grams for each kilowatt-hour".to_owned());
            }
            let usual = Regions::shipped().zone(&zone).and_then(|zone| zone.year).unwrap_or(USUAL_YEAR);
            let year = self.count(year.as_ref(), usual as u64, 1990..=2100) as i16;
            if let Some(reading) = over_year(GramsPerKwh::saturating(grams), year, signal, basis, format!("config-{year}")) {
                own.insert(zone, reading);
            }
        }
        own
    }
}

/// Whether a text can be a grid zone's name.
pub(super) fn is_zone(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// The shipped figure of a grid zone, of a whole year.
pub fn builtin_reading(zone: &GridZone) -> Option<Reading> {
    let known = Regions::shipped().zone(zone)?;
    let year = known.year?;
    over_year(known.yearly?, year, Signal::Average, Basis::Lifecycle, format!("builtin-{year}"))
}

/// A mean over a year, dated with its end and not fresh for a moment, so that it can never pass for an observation.
fn over_year(intensity: GramsPerKwh, year: i16, signal: Signal, basis: Basis, source: String) -> Option<Reading> {
    let measured_at: Timestamp = Date::new(year.checked_add(1)?, 1, 1).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let source = Arc::from(source);
    Some(Reading { intensity, signal, basis, quality: Quality::Yearly, measured_at, valid_until: measured_at, source })
}
