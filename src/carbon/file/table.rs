//! CSV with a header: `grid_zone,datetime,carbon_intensity_g_per_kwh[,signal,quality]`, in any order, with other columns ignored.
//!
//! The names that exports of other tools use are taken too: `zone`; `datetime_utc`, whose times need no offset;
//! `carbon_intensity` and `carbonIntensity`. A file without a zone column is about the one zone of its options, a file without a
//! time column is as old as the file. Lines that begin with `#` are comments.

use super::{Collector, FileError, MAX_FILE_BYTES, MAX_ROWS, Time, Why, Written};

/// Where each column stands.
struct Columns {
    zone: Option<usize>,
    /// And whether it is UTC by name.
    time: Option<(usize, bool)>,
    value: usize,
    signal: Option<usize>,
    quality: Option<usize>,
}

pub(super) fn collect(bytes: &[u8], collector: &mut Collector<'_>) -> Result<(), FileError> {
    let whole = &bytes[..whole_lines(bytes)];
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).comment(Some(b'#')).trim(csv::Trim::All).from_reader(whole);
    let mut record = csv::ByteRecord::new();
    let mut columns: Option<Columns> = None;
    let mut rows = 0;
    // Reading from memory cannot fail, and a flexible reader takes records of any length.
    while matches!(reader.read_byte_record(&mut record), Ok(true)) {
        let line = record.position().map_or(0, |position| line_of(position, whole));
        let Some(columns) = &columns else {
            columns = Some(Columns::find(&record, line, collector.options.zone.is_some())?);
            continue;
        };
        rows += 1;
        if rows > MAX_ROWS {
            collector.refuse(line, Why::TooManyRows);
            return Ok(());
        }
        collector.take(line, columns.row(&record));
    }
    if columns.is_none() {
        return Err(FileError::Empty);
    }
    if whole.len() < bytes.len() {
        let lines = memchr::memchr_iter(b'\n', whole).count() as u64;
        collector.refuse(lines + 1, Why::TooManyBytes);
    }
    Ok(())
}

/// The line on which a record begins. The reader gives the place where it began to look, which is before the blank lines and
/// comments that it passed over.
fn line_of(position: &csv::Position, whole: &[u8]) -> u64 {
    let (mut at, mut line) = (position.byte() as usize, position.line());
    loop {
        let rest = whole.get(at..).unwrap_or_default();
        let passed = match rest.first() {
            Some(b'\n' | b'\r') => 1,
            Some(b'#') => memchr::memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1),
            _ => return line,
        };
        line += u64::from(rest[passed - 1] == b'\n');
        at += passed;
    }
}

/// How many bytes are read: all of them, or up to the last line that ends within the bound.
fn whole_lines(bytes: &[u8]) -> usize {
    if bytes.len() <= MAX_FILE_BYTES {
        return bytes.len();
    }
    memchr::memrchr(b'\n', &bytes[..MAX_FILE_BYTES]).map_or(0, |newline| newline + 1)
}

impl Columns {
    fn find(header: &csv::ByteRecord, line: u64, zone_is_known: bool) -> Result<Self, FileError> {
        let place =
            |names: &[&str]| header.iter().position(|field| names.iter().any(|name| field.eq_ignore_ascii_case(name.as_bytes())));
        let columns = Self {
            zone: place(&["grid_zone", "zone"]),
            time: place(&["datetime"]).map(|at| (at, false)).or_else(|| place(&["datetime_utc"]).map(|at| (at, true))),
            value: place(&["carbon_intensity_g_per_kwh", "carbon_intensity", "carbonIntensity"]).ok_or(FileError::NoColumn {
                line,
                what: "the value (carbon_intensity_g_per_kwh, carbon_intensity or carbonIntensity)",
            })?,
            signal: place(&["signal"]),
            quality: place(&["quality"]),
        };
        if columns.zone.is_none() && !zone_is_known {
            return Err(FileError::NoColumn { line, what: "the zone (grid_zone or zone)" });
        }
        Ok(columns)
    }

    fn row<'a>(&self, record: &'a csv::ByteRecord) -> Result<Written<'a>, Why> {
        let optional = |at: Option<usize>| match at.and_then(|at| record.get(at)) {
            None | Some(b"") => Ok(None),
            Some(field) => std::str::from_utf8(field).map(Some).map_err(|_| Why::NotARow),
        };
        // A row that ends early is cut off, not empty.
        let value = std::str::from_utf8(record.get(self.value).ok_or(Why::NotARow)?).map_err(|_| Why::NotANumber)?;
        let value = if value.is_empty() { None } else { Some(value.parse().map_err(|_| Why::NotANumber)?) };
        let time = match self.time {
            None => None,
            Some((at, utc)) => Some(Time { text: optional(Some(at))?.ok_or(Why::BadTime)?, utc }),
        };
        let zone = match self.zone {
            None => None,
            at => Some(optional(at)?.ok_or(Why::NoZone)?),
        };
        Ok(Written { zone, time, value, signal: optional(self.signal)?, quality: optional(self.quality)? })
    }
}
