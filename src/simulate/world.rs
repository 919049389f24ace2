//! The world that a scenario is played in: each region's carbon intensity hour by hour, and the lengths that requests have.
//!
//! Both are read from recordings where the scenario has a directory of them, and made up where it has none; which it was is said in
//! the output, because a saving on a made-up day is an example and not a result.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use jiff::Timestamp;

use crate::config::Files;
use crate::config::scenario::{RegionPlan, Scenario};
use crate::units::GramsPerKwh;

/// The largest file after it was unpacked, in bytes: a year of hours takes a third of a megabyte.
const MAX_UNPACKED: u64 = 64 << 20;
/// The least hours of a recording that are of use: a day.
const MIN_HOURS: usize = 24;

/// What is the same in all runs.
#[derive(Clone, Debug)]
pub struct World {
    /// By region.
    pub grids: Vec<GridTrace>,
    /// Prompt and output tokens of recorded requests; empty where lengths are drawn.
    pub lengths: Vec<(u32, u32)>,
}

/// A region's carbon intensity.
#[derive(Clone, Debug)]
pub struct GridTrace {
    /// Hour by hour from the scenario's first one.
    pub hourly: Vec<GramsPerKwh>,
    /// The mean of all that is known of the zone: what an operator would have as its yearly figure.
    pub mean: GramsPerKwh,
    /// Whether it was recorded.
    pub recorded: bool,
}

impl GridTrace {
    /// The intensity of an hour, counted from the scenario's first; the last one known goes on.
    pub fn at(&self, hour: usize) -> GramsPerKwh {
        self.hourly.get(hour).or(self.hourly.last()).copied().unwrap_or(GramsPerKwh::ZERO)
    }
}

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct WorldError {
    path: PathBuf,
    what: String,
}

impl World {
    /// The world of a scenario. A recording that is named and cannot be used is an error; one that is not there is not, where there
    /// is something made up to stand for it.
    pub fn read(scenario: &Scenario, files: &dyn Files) -> Result<Self, WorldError> {
        let grids = scenario.regions.iter().map(|region| grid(scenario, region, files)).collect::<Result<_, _>>()?;
        let lengths = match (&scenario.data, &scenario.traffic.trace) {
            (Some(data), Some(trace)) => lengths(&data.join(trace), files)?,
            _ => Vec::new(),
        };
        Ok(Self { grids, lengths })
    }
}

fn grid(scenario: &Scenario, region: &RegionPlan, files: &dyn Files) -> Result<GridTrace, WorldError> {
    let hours = scenario.hours.ceil() as usize + 1;
    let Some(data) = &scenario.data else {
        let first = f64::from(hour_of_day(scenario.from));
        let hourly = (0..hours).map(|hour| region.day.intensity(first + hour as f64)).collect();
        return Ok(GridTrace { hourly, mean: region.day.mean, recorded: false });
    };
    let path = data.join("carbon").join(format!("{}.csv.gz", region.zone.as_str()));
    let rows: Vec<(Timestamp, f64)> = rows(&path, files, |row| Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?)))?;
    let mean = rows.iter().map(|(_, value)| value).sum::<f64>() / rows.len().max(1) as f64;
    let hourly: Vec<GramsPerKwh> = rows
        .iter()
        .skip_while(|(at, _)| *at < scenario.from)
        .take(hours)
        .map(|(_, value)| GramsPerKwh::saturating(*value))
        .collect();
    if hourly.len() < hours.min(MIN_HOURS) {
        let what = format!("it has no {hours} hours from {} on", scenario.from);
        return Err(WorldError { path, what });
    }
    Ok(GridTrace { hourly, mean: GramsPerKwh::saturating(mean), recorded: true })
}

fn lengths(path: &Path, files: &dyn Files) -> Result<Vec<(u32, u32)>, WorldError> {
    let rows = rows(path, files, |row| Some((row.get(1)?.parse().ok()?, row.get(2)?.parse().ok()?)))?;
    Ok(rows.into_iter().map(|(prompt, output): (u32, u32)| (prompt.max(1), output.max(1))).collect())
}

/// The rows of a table under its head.
fn rows<T>(path: &Path, files: &dyn Files, read: impl Fn(&csv::StringRecord) -> Option<T>) -> Result<Vec<T>, WorldError> {
    let error = |what: String| WorldError { path: path.to_owned(), what };
    let bytes = files.read(path).map_err(|problem| error(problem.to_string()))?;
    let mut text = Vec::new();
    GzDecoder::new(&*bytes).take(MAX_UNPACKED).read_to_end(&mut text).map_err(|problem| error(problem.to_string()))?;
    let mut found = Vec::new();
    for (number, row) in csv::Reader::from_reader(&*text).records().enumerate() {
        let row = row.map_err(|problem| error(problem.to_string()))?;
        found.push(read(&row).ok_or_else(|| error(format!("row {} is not of the expected form", number + 1)))?);
    }
    Ok(found)
}

/// The hour of the day in UTC.
pub fn hour_of_day(at: Timestamp) -> u8 {
    (at.as_second().rem_euclid(86_400) / 3600) as u8
}
