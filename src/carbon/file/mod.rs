//! Carbon intensities out of a file that somebody else keeps: a cron job, an exporter, an operator with an editor.
//!
//! A file is written by hand often enough that one bad row must not cost the others, so each row stands or falls by itself and is
//! refused with its line. A file may hold a whole day, with the hours to come: a row holds from its time on, until a later row of
//! its zone does, and [`FileReadings::at`] says which ones are in force.
//!
//! The format is seen from the first character: `[` and `{` begin JSON (see `document.rs`), anything else is CSV (see
//! `table.rs`).

mod document;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::plausible;
use crate::grid::{Basis, GridZone, Quality, Reading, Signal};

/// The largest file used, in bytes: [`MAX_ROWS`] rows of 160, four times what a row of zone, time and value takes.
pub const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// The most rows used: a year of hours for eleven zones, or a week of five-minute rows for nearly fifty.
pub const MAX_ROWS: usize = 100_000;

/// How many refused rows are kept with their line. An operator mends the first ones and looks again; the others are counted.
pub const MAX_REFUSED_SHOWN: usize = 20;

/// How far ahead of now a row may lie. The forecasts on offer reach three or four days (Electricity Maps 72 hours, the British
/// grid's 96), so a row beyond a week has a wrong date.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The longest name of a zone, in bytes; the longest that is known has a dozen.
const MAX_ZONE_LEN: usize = 64;

/// What the rows of a file do not say themselves.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The name that the readings' source is to have.
    pub source: Arc<str>,
    /// The signal that is wanted. A row that names another is refused, since the two never mix.
    pub signal: Signal,
    /// What the file counts; files have no column for it.
    pub basis: Basis,
    /// The zone of rows that name none, for a file that is about one zone only.
    pub zone: Option<GridZone>,
    /// The time of rows that have none: when the file was written, so that one which is no longer written grows old.
    pub written_at: Timestamp,
    /// How long a row is fresh from its time on.
    pub valid_for: Duration,
}

impl FileOptions {
    /// How long a row is fresh unless the configuration says otherwise: an hour, the step in which most grids publish, and a
    /// quarter for the file to be late.
    pub const DEFAULT_VALID_FOR: Duration = Duration::from_mins(75);
}

/// The rows of a file that can be used, and what was wrong with the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileReadings {
    /// By zone and time; of two rows for the same zone and time, the later one in the file.
    readings: Vec<(GridZone, Reading)>,
    refused: Refusals,
}

impl FileReadings {
    /// The reading in force at `now` for every zone that has one: the newest row that is not after now.
    pub fn at(&self, now: Timestamp) -> impl Iterator<Item = &(GridZone, Reading)> {
        self.readings.chunk_by(|(a, _), (b, _)| a == b).filter_map(move |rows| {
            let begun = rows.partition_point(|(_, reading)| reading.measured_at <= now);
            rows[..begun].last()
        })
    }

    /// Every usable row, by zone and time.
    pub fn readings(&self) -> &[(GridZone, Reading)] {
        &self.readings
    }

    /// What could not be used.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }
}

/// The rows that could not be used: the first of them, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The first ones, at most [`MAX_REFUSED_SHOWN`].
    pub first: Vec<Refused>,
    /// How many rows were refused. What lies behind a bound is one of them, however much it is.
    pub count: usize,
}

/// Each of the first ones, and how many more there are.
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, row) in self.first.iter().enumerate() {
            write!(f, "{}{row}", if index > 0 { "; " } else { "" })?;
        }
        match self.more() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Refusals {
    /// How many there are beside the first ones.
    pub fn more(&self) -> usize {
        self.count.saturating_sub(self.first.len())
    }
}

/// A row that could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Refused {
    /// The line on which the row begins, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is no row at all.
    #[error("this is not a row of zone, time and carbon intensity")]
    NotARow,
    /// No zone in it, and none that is meant for the whole file.
    #[error("no grid zone is named")]
    NoZone,
    /// A name that no zone can have.
    #[error("a grid zone's name has letters, digits, '-' and '_', at most {MAX_ZONE_LEN}")]
    BadZone,
    /// Listed under one zone, and naming another.
    #[error("the row names another grid zone than the list it stands in")]
    TwoZones,
    /// No value, as for an hour that is not known yet.
    #[error("the carbon intensity is missing")]
    NoValue,
    /// Text, or a number too large to be one.
    #[error("the carbon intensity is not a number")]
    NotANumber,
    /// NaN, infinite, negative or beyond belief.
    #[error("a carbon intensity lies between 0 and 2500 gCO2e/kWh")]
    Implausible,
    /// No time that can be read.
    #[error("the time is not of the form 2026-03-02T10:00:00Z")]
    BadTime,
    /// A time that could be anywhere.
    #[error("the time has no offset from UTC (end it with Z, or call the column datetime_utc)")]
    NoOffset,
    /// A time that no forecast reaches.
    #[error("the time lies more than 7 days ahead")]
    TooFarAhead,
    /// The other signal, or an unknown one.
    #[error("the signal is not the one that this source is configured for")]
    OtherSignal,
    /// An unknown word for the quality.
    #[error("the quality is not one of measured, estimated, forecast, yearly, simulated")]
    BadQuality,
    /// Behind the last row that is used.
    #[error("a file is used up to {MAX_ROWS} rows; this row and what follows are not")]
    TooManyRows,
    /// Behind the last byte that is used.
    #[error("a file is used up to 16 MiB; this row and what follows are not")]
    TooManyBytes,
}

/// A file of which no row can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Nothing in it but blanks.
    #[error("the file is empty")]
    Empty,
    /// A CSV file whose first row lacks a column.
    #[error("line {line}: the header names no column for {what}")]
    NoColumn {
        /// The header's line.
        line: u64,
        /// What is missing, with the names it may have.
        what: &'static str,
    },
    /// A JSON file that is none, or that holds something else.
    #[error("line {line}, column {column}: not JSON of a form that is known")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A JSON file beyond [`MAX_FILE_BYTES`]: half a document cannot be read.
    #[error("a JSON file is used up to 16 MiB only")]
    TooLarge,
}

/// Reads a file as it stands at `now`. Give it at most one byte more than [`MAX_FILE_BYTES`]; it looks no further.
pub fn parse(bytes: &[u8], now: Timestamp, options: &FileOptions) -> Result<FileReadings, FileError> {
    // Some editors begin every file with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut collector = Collector { options, now, zones: HashMap::new(), found: FileReadings::default() };
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(FileError::Empty),
        Some(b'[' | b'{') => document::collect(bytes, &mut collector)?,
        Some(_) => table::collect(bytes, &mut collector)?,
    }
    Ok(collector.finish())
}

/// A row as written.
#[derive(Clone, Copy, Debug, Default)]
struct Written<'a> {
    zone: Option<&'a str>,
    time: Option<Time<'a>>,
    value: Option<f64>,
    signal: Option<&'a str>,
    quality: Option<&'a str>,
}

/// A time as written, and whether its column says that it is UTC.
#[derive(Clone, Copy, Debug)]
struct Time<'a> {
    text: &'a str,
    utc: bool,
}

/// Gathers rows and refusals.
struct Collector<'a> {
    options: &'a FileOptions,
    now: Timestamp,
    /// One allocation for each zone's name instead of one for each row.
    zones: HashMap<String, GridZone>,
    found: FileReadings,
}

impl Collector<'_> {
    fn take(&mut self, line: u64, row: Result<Written<'_>, Why>) {
        match row.and_then(|row| self.reading(row)) {
            Ok(reading) => self.found.readings.push(reading),
            Err(why) => self.refuse(line, why),
        }
    }

    fn refuse(&mut self, line: u64, why: Why) {
        let refused = &mut self.found.refused;
        refused.count += 1;
        if refused.first.len() < MAX_REFUSED_SHOWN {
            refused.first.push(Refused { line, why });
        }
    }

    fn reading(&mut self, row: Written<'_>) -> Result<(GridZone, Reading), Why> {
        let options = self.options;
        let intensity = plausible(row.value.ok_or(Why::NoValue)?).ok_or(Why::Implausible)?;
        let measured_at = row.time.map_or(Ok(options.written_at), timestamp)?;
        if measured_at.duration_since(self.now) > MAX_AHEAD {
            return Err(Why::TooFarAhead);
        }
        if row.signal.is_some_and(|signal| !signal.eq_ignore_ascii_case(name(options.signal))) {
            return Err(Why::OtherSignal);
        }
        // Nobody says that a value without this word was metered.
        let stated = row.quality.map_or(Ok(Quality::Estimated), quality)?;
        let zone = row.zone.map_or_else(|| options.zone.clone().ok_or(Why::NoZone), |zone| self.zone(zone))?;
        let reading = Reading {
            intensity,
            signal: options.signal,
            basis: options.basis,
            // What is still to come is foretold, whatever the file calls it.
            quality: if measured_at > self.now { stated.max(Quality::Forecast) } else { stated },
            measured_at,
            valid_until: measured_at.checked_add(options.valid_for).unwrap_or(Timestamp::MAX),
            source: Arc::clone(&options.source),
        };
        Ok((zone, reading))
    }

    fn zone(&mut self, name: &str) -> Result<GridZone, Why> {
        if let Some(zone) = self.zones.get(name) {
            return Ok(zone.clone());
        }
        if name.is_empty() {
            return Err(Why::NoZone);
        }
        if name.len() > MAX_ZONE_LEN || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Why::BadZone);
        }
        let zone = GridZone::new(name);
        self.zones.insert(name.to_owned(), zone.clone());
        Ok(zone)
    }

    fn finish(self) -> FileReadings {
        let Self { found: FileReadings { mut readings, refused }, .. } = self;
        let place = |(zone, reading): &(GridZone, Reading)| (zone.clone(), reading.measured_at);
        // Sorting keeps equals in the file's order; from the back, the first of equals is the last one written.
        readings.sort_by_cached_key(place);
        readings.reverse();
        readings.dedup_by_key(|row| place(row));
        readings.reverse();
        FileReadings { readings, refused }
    }
}

fn timestamp(time: Time<'_>) -> Result<Timestamp, Why> {
    if let Ok(timestamp) = time.text.parse() {
        return Ok(timestamp);
    }
    let civil: jiff::civil::DateTime = time.text.parse().map_err(|_| Why::BadTime)?;
    if !time.utc {
        return Err(Why::NoOffset);
    }
    civil.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|_| Why::BadTime)
}

const fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::Average => "average",
        Signal::Marginal => "marginal",
    }
}

fn quality(word: &str) -> Result<Quality, Why> {
    match word.to_ascii_lowercase().as_str() {
        "measured" => Ok(Quality::Measured),
        "estimated" => Ok(Quality::Estimated),
        "forecast" => Ok(Quality::Forecast),
        "yearly" => Ok(Quality::Yearly),
        "simulated" => Ok(Quality::Simulated),
        _ => Err(Why::BadQuality),
    }
}

#[cfg(test)]
mod tests;
