//! What is learned, as a file that outlives the process: text in JSON, a version first, everything under its name.
//!
//! Nothing in it is needed: a gateway without the file learns anew, as it did the first time. So whatever is wrong with a file, its only
//! effect is that some of it is not taken, and that this is said.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::backend::Backend;
use crate::carbon::MAX_PLAUSIBLE_G_PER_KWH;
use crate::grid::kept::KeptZone;
use crate::grid::{Grid, ZoneId};
use crate::live::{KeptFlow, KeptModel};
use crate::pins::KeptPins;

/// How a file of ours begins; another one is nobody's to write over.
const BEGINNING: &str = "{\"windward_state\":";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes: about sixteen thousand models.
pub const MOST_BYTES: u64 = 32 << 20;
/// What was learned counts half after so long: a provider's fleet is another one next week.
const HALF_LIFE: Duration = Duration::from_hours(24);
/// Older, it is not taken at all.
const MOST_AGE: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    windward_state: u32,
    saved_at: Timestamp,
    backends: Vec<KeptBackend>,
    flows: Vec<(String, String, KeptFlow)>,
    margins: Vec<(String, f64)>,
    /// What grids have at each hour; no file of before has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    zones: Vec<KeptZone>,
    /// Where what clients have left with backends is; no file of before has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pins: Option<KeptPins>,
}

/// What every version begins with.
#[derive(Deserialize)]
struct Versioned {
    windward_state: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptBackend {
    name: String,
    /// Host and port: what was learned there is of no use for another machine of the same name.
    at: String,
    models: Vec<(String, KeptModel)>,
}

/// Why a file was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is something else, and is left as it is.
    #[error("it was not written by Windward, so it is left as it is and nothing is kept")]
    Foreign,
    /// It cannot be read.
    #[error("it cannot be read ({0})")]
    Unread(String),
    /// Of another version.
    #[error("it is of version {0}, and this one reads version {VERSION}")]
    Version(u32),
    /// Of long ago, or of a time to come.
    #[error("it was written {0}")]
    Age(&'static str),
}

/// What was taken from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Restored {
    /// Things that are known again: models, flows, margins, grid zones.
    pub taken: usize,
    /// Those that this plan does not have.
    pub unknown: usize,
    /// Those that cannot be true.
    pub unsound: usize,
    /// Things of which it is known again where they are.
    pub pins: usize,
    /// How long ago it was written.
    pub age: Duration,
}

fn place(backend: &Backend) -> String {
    format!("{}:{}", backend.origin.host, backend.origin.port)
}

impl Snapshot {
    /// What is known now, to be kept.
    pub fn kept(&self, now: Timestamp) -> String {
        let backend = |backend: &Arc<Backend>| {
            let live = self.live(backend.id);
            let models = self.plan.priors(backend.id);
            let models = models.filter_map(|(name, _)| Some((name.to_string(), live.model(&name)?.kept()?))).collect();
            KeptBackend { name: backend.name.to_string(), at: place(backend), models }
        };
        let flows = self.plan.flows.iter().zip(&self.flows);
        let document = Document {
            windward_state: VERSION,
            saved_at: now,
            backends: self.plan.backends.iter().map(backend).collect(),
            flows: flows.map(|((route, model), flow)| (route.to_string(), model.to_string(), flow.kept())).collect(),
            margins: self
                .plan
                .policies
                .iter()
                .zip(&self.margins)
                .map(|(policy, it)| (policy.name.to_string(), it.get()))
                .collect(),
            zones: (0..).map(ZoneId).zip(&self.plan.zones).filter_map(|(id, name)| KeptZone::of(&self.grid, id, name)).collect(),
            pins: self.pins.kept(),
        };
        // Every number in it is finite and every key a text, so it can be written.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// Takes over what was kept, for what it is about and as far as it can be true.
    pub fn restore(&mut self, bytes: &[u8], now: Timestamp) -> Result<Restored, Broken> {
        if !bytes.starts_with(BEGINNING.as_bytes()) {
            return Err(Broken::Foreign);
        }
        let unread = |error: serde_json::Error| Broken::Unread(error.to_string());
        let version = serde_json::from_slice::<Versioned>(bytes).map_err(unread)?.windward_state;
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(unread)?;
        let age = now.duration_since(document.saved_at);
        // A clock that was put back an hour is no reason to learn anew.
        let age = Duration::try_from(age).unwrap_or_else(|_| age.unsigned_abs().saturating_sub(Duration::from_hours(1)));
        if document.saved_at > now && age > Duration::ZERO {
            return Err(Broken::Age("in a time to come"));
        }
        if age > MOST_AGE {
            return Err(Broken::Age("too long ago"));
        }
        let counts = 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let mut restored = self.take(&document, counts, age);
        self.take_zones(&document.zones, now, &mut restored);
        let minute = u64::try_from(now.as_second() / 60).unwrap_or_default();
        restored.pins = document.pins.map_or(0, |pins| self.pins.restore(&pins, minute));
        Ok(restored)
    }

    fn take(&self, document: &Document, counts: f64, age: Duration) -> Restored {
        let mut restored = Restored { age, ..Restored::default() };
        let mut count = |sound: Option<bool>| match sound {
            Some(true) => restored.taken += 1,
            Some(false) => restored.unsound += 1,
            None => restored.unknown += 1,
        };
        for kept in &document.backends {
            let known = self.plan.backends.iter().find(|backend| *backend.name == *kept.name && place(backend) == kept.at);
            let live = known.map(|backend| self.live(backend.id));
            for (name, model) in &kept.models {
                count(live.and_then(|live| live.model(name)).map(|known| known.restore(model, counts)));
            }
        }
        for (route, model, kept) in &document.flows {
            let place = self.plan.flows.iter().position(|(r, m)| **r == **route && **m == **model);
            count(place.and_then(|index| self.flows.get(index)).map(|flow| flow.restore(kept, counts)));
        }
        for (name, kept) in &document.margins {
            let place = self.plan.policies.iter().position(|policy| *policy.name == **name);
            count(place.and_then(|index| self.margins.get(index)).map(|margin| margin.restore(*kept, counts)));
        }
        restored
    }

    /// A grid's day is as it was however long ago that was written, so nothing fades here but by the age of the last reading itself.
    fn take_zones(&mut self, kept: &[KeptZone], now: Timestamp, restored: &mut Restored) {
        let mut grid = Grid::clone(&self.grid);
        for kept in kept {
            let place = self.plan.zones.iter().position(|zone| *zone == kept.grid_zone);
            let known = place.filter(|_| kept.is_of(self.plan.carbon.signal, self.plan.carbon.basis));
            match known.map(|index| kept.restore(&mut grid, ZoneId(index as u16), MAX_PLAUSIBLE_G_PER_KWH, now)) {
                Some(true) => restored.taken += 1,
                Some(false) => restored.unsound += 1,
                None => restored.unknown += 1,
            }
        }
        self.grid = Arc::new(grid);
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
