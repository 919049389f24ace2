//! JSON in the forms that people have at hand:
//!
//! * a list of rows, `[{"zone": "DE", "datetime": "2026-03-02T10:00:00Z", "carbonIntensity": 398}, ..]`, whose fields may also
//!   have the names of the CSV columns, and with `isEstimated` in place of a quality;
//! * by zone, `{"DE": 398, "FR": [{"datetime": .., "carbonIntensity": ..}, ..]}`: a number alone is as old as the file.
//!
//! Programs write `NaN` and `Infinity` into JSON although it has no such words (Python's does); the row is refused, and not the file.
//!
//! A document that is not JSON otherwise is refused as a whole. Its rows are first split without being understood, so that a row of the
//! wrong shape costs only itself, and its line is known from where it lies in the file.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Collector, FileError, MAX_FILE_BYTES, MAX_ROWS, Time, Why, Written};

pub(super) fn collect(bytes: &[u8], collector: &mut Collector<'_>) -> Result<(), FileError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(FileError::TooLarge);
    }
    let words_for_numbers = without_words_for_numbers(bytes);
    let bytes = &*words_for_numbers;
    let parts: Parts<'_> =
        serde_json::from_slice(bytes).map_err(|fault| FileError::NotJson { line: fault.line(), column: fault.column() })?;
    let mut walk = Walk { lines: Lines { bytes, upto: 0, line: 1 }, rows: 0, collector };
    for (zone, part) in &parts.0 {
        // A list under a zone's name. It was split out of sound JSON, so it is sound.
        let inner = zone.as_ref().filter(|_| part.get().starts_with('[')).and_then(|_| serde_json::from_str(part.get()).ok());
        let Parts(rows) = inner.unwrap_or_else(|| Parts(vec![(None, part)]));
        for (_, row) in rows {
            if !walk.row(zone.as_deref(), row) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The document with an empty text in the place of each `NaN`, `Infinity` and `-Infinity`, so that every byte stays on its line. Most
/// documents have none.
fn without_words_for_numbers(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut mended = Cow::Borrowed(bytes);
    let mut at = 0;
    while let Some(found) = memchr::memchr3(b'"', b'N', b'I', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            let Some(after) = after_text(bytes, at + 1) else { break };
            at = after;
            continue;
        }
        let begin = at - usize::from(at > 0 && bytes[at] == b'I' && bytes[at - 1] == b'-');
        let Some(word) = WORDS.iter().find(|word| bytes[begin..].starts_with(word)) else {
            at += 1;
            continue;
        };
        at = begin + word.len();
        let place = &mut mended.to_mut()[begin..at];
        place.fill(b' ');
        place[..2].fill(b'"');
    }
    mended
}

/// Where a text that was begun has ended, past what is escaped in it.
fn after_text(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The members of a list, or those of an object with their names: at most one more than the rows that are used.
struct Parts<'a>(Vec<(Option<String>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Split;
        impl<'de> Visitor<'de> for Split {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rows, or an object of zones")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while parts.len() <= MAX_ROWS {
                    let Some(part) = list.next_element()? else { return Ok(Parts(parts)) };
                    parts.push((None, part));
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Parts(parts))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while parts.len() <= MAX_ROWS {
                    let Some((name, part)) = map.next_entry::<String, _>()? else { return Ok(Parts(parts)) };
                    parts.push((Some(name), part));
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Parts(parts))
            }
        }
        deserializer.deserialize_any(Split)
    }
}

/// A row's fields. What else is there is ignored.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(alias = "grid_zone")]
    zone: Option<String>,
    datetime: Option<String>,
    datetime_utc: Option<String>,
    #[serde(borrow, alias = "carbonIntensity", alias = "carbon_intensity_g_per_kwh")]
    carbon_intensity: Option<&'a RawValue>,
    signal: Option<String>,
    quality: Option<String>,
    #[serde(alias = "isEstimated")]
    is_estimated: Option<bool>,
}

/// A walk through the rows in the order of the file.
struct Walk<'a, 'c, 'o> {
    lines: Lines<'a>,
    rows: usize,
    collector: &'c mut Collector<'o>,
}

impl Walk<'_, '_, '_> {
    /// Takes one row; `false` when it is one too many.
    fn row(&mut self, listed_under: Option<&str>, part: &RawValue) -> bool {
        let line = self.lines.of(part);
        self.rows += 1;
        if self.rows > MAX_ROWS {
            self.collector.refuse(line, Why::TooManyRows);
            return false;
        }
        match (part.get().as_bytes().first(), listed_under) {
            (Some(b'{'), _) => match serde_json::from_str::<Row<'_>>(part.get()) {
                Ok(row) => self.collector.take(line, row.written(listed_under)),
                Err(_) => self.collector.refuse(line, Why::NotARow),
            },
            (_, Some(zone)) => {
                let written = number(Some(part)).map(|value| Written { zone: Some(zone), value, ..Written::default() });
                self.collector.take(line, written);
            }
            _ => self.collector.refuse(line, Why::NotARow),
        }
        true
    }
}

impl Row<'_> {
    fn written<'b>(&'b self, listed_under: Option<&'b str>) -> Result<Written<'b>, Why> {
        let zone = match (self.zone.as_deref(), listed_under) {
            (Some(own), Some(listed)) if own != listed => return Err(Why::TwoZones),
            (own, listed) => own.or(listed),
        };
        let time = match (&self.datetime, &self.datetime_utc) {
            (Some(text), _) => Some(Time { text, utc: false }),
            (None, Some(text)) => Some(Time { text, utc: true }),
            (None, None) => None,
        };
        let from_flag = self.is_estimated.map(|estimated| if estimated { "estimated" } else { "measured" });
        Ok(Written {
            zone,
            time,
            value: number(self.carbon_intensity)?,
            signal: self.signal.as_deref(),
            quality: self.quality.as_deref().or(from_flag),
        })
    }
}

/// A number, `None` for null or nothing.
fn number(part: Option<&RawValue>) -> Result<Option<f64>, Why> {
    part.map_or(Ok(None), |part| serde_json::from_str(part.get()).map_err(|_| Why::NotANumber))
}

/// Counts lines up to places that come in the order of the file.
struct Lines<'a> {
    bytes: &'a [u8],
    upto: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line on which a part of these very bytes begins.
    fn of(&mut self, part: &RawValue) -> u64 {
        let offset = part.get().as_ptr().addr().saturating_sub(self.bytes.as_ptr().addr());
        if let Some(passed) = self.bytes.get(self.upto..offset) {
            self.line += memchr::memchr_iter(b'\n', passed).count() as u64;
            self.upto = offset;
        }
        self.line
    }
}
