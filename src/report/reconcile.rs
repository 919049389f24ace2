//! The access log held against AWS's own books: where a request through a profile of many regions ran stands in CloudTrail alone
//! (`additionalEventData.inferenceRegion`), hours later, under the request id that the log has as `provider_request_id`.
//!
//! The trail is read first and kept as two numbers for each call, then the logs go by, so that memory is bounded by the trail's calls
//! alone. Only the answer's own attempt is restated: an attempt before it has no id in the log.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::io::{self, BufRead, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::lines::{self, Line};
use crate::config::builtin_reading;
use crate::grid::{Basis, Signal};
use crate::record::AccessRecord;
use crate::tables::{Region, Regions};
use crate::units::GramsPerKwh;

/// Calls that are kept of the trails, of about 50 bytes each.
const MOST_CALLS: usize = 2_000_000;
/// Joules of a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// Calls of a model by their request ids, and where they ran.
#[derive(Debug, Default)]
pub struct Trail {
    calls: HashMap<u128, u16>,
    regions: Vec<Box<str>>,
    /// Events of the trail that were read.
    pub events: u64,
    /// Those that are past what is kept.
    pub left_out: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default, rename = "eventSource")]
    source: String,
    #[serde(default, rename = "requestID")]
    request_id: Option<String>,
    #[serde(default)]
    aws_region: Option<String>,
    #[serde(default)]
    additional_event_data: Option<Additional>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Additional {
    #[serde(default)]
    inference_region: Option<String>,
}

impl Trail {
    /// Reads one file as CloudTrail writes it (`{"Records": [..]}`), event by event.
    pub fn read(&mut self, reader: impl Read) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_reader(reader);
        json.deserialize_map(File(self))?;
        json.end()
    }

    /// Where a call ran.
    pub fn region(&self, request_id: &str) -> Option<&str> {
        let index = self.calls.get(&uuid(request_id)?)?;
        self.regions.get(usize::from(*index)).map(|region| &**region)
    }

    fn take(&mut self, event: Event) {
        self.events += 1;
        let Event { source, request_id, aws_region, additional_event_data } = event;
        let region = additional_event_data.and_then(|data| data.inference_region).or(aws_region);
        let id = request_id.and_then(|id| uuid(&id));
        let (Some(id), Some(region), true) = (id, region, source.starts_with("bedrock")) else { return };
        if self.calls.len() >= MOST_CALLS {
            self.left_out += 1;
            return;
        }
        let known = self.regions.iter().position(|known| **known == *region);
        let index = known.unwrap_or_else(|| {
            self.regions.push(region.into());
            self.regions.len() - 1
        });
        // Regions are few; a trail that names more of them is none.
        if let Ok(index) = u16::try_from(index) {
            self.calls.insert(id, index);
        }
    }
}

/// The number that an id of AWS's is; `None` for one that is another kind.
fn uuid(text: &str) -> Option<u128> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    let read = |number: u128, byte: u8| Some(number << 4 | u128::from(char::from(byte).to_digit(16)?));
    let number = digits.by_ref().take(32).try_fold(0, read)?;
    (text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4 && digits.next().is_none()).then_some(number)
}

struct File<'t>(&'t mut Trail);

impl<'de> Visitor<'de> for File<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file of CloudTrail, with `Records`")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "Records" {
                found = true;
                map.next_value_seed(Events(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(serde::de::Error::missing_field("Records")) }
    }
}

struct Events<'t>(&'t mut Trail);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        while let Some(event) = events.next_element()? {
            self.0.take(event);
        }
        Ok(())
    }
}

/// What the logs said live, and what the trail makes of it. Grams are those of the answers' attempts.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Reconciled {
    /// Records of answers with an id of AWS's kind.
    pub records: u64,
    /// Those of them that a trail knows.
    pub joined: u64,
    /// Joined records that ran in a region which the shipped table lacks, or whose energy or grid is unknown: not restated.
    pub not_restated: u64,
    /// Restated with a yearly figure, since the line has no reading of that grid.
    pub by_yearly_figure: u64,
    /// Lines that are no records.
    pub bad_lines: u64,
    /// Restated records with grams of their own: what these said ..
    pub live_grams: f64,
    /// .. and what they are by the trail.
    pub restated_grams: f64,
    /// Sum of how far each of them was off, in whichever direction.
    pub off_grams: f64,
    /// Restated records that had no grams, because nobody knew where they would run.
    pub unknown_live: u64,
    /// What these emitted by the trail.
    pub unknown_live_grams: f64,
    /// By the region where it ran.
    pub regions: BTreeMap<String, Ran>,
}

/// What ran in one region.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Ran {
    /// Restated records.
    pub requests: u64,
    /// Of those, what the log thought to be in another grid.
    pub elsewhere: u64,
    /// Grams by the trail.
    pub grams: f64,
}

impl Reconciled {
    /// Adds every line of a log.
    pub fn add_log(&mut self, trail: &Trail, mut reader: impl BufRead) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            match lines::next(&mut reader, &mut buffer)? {
                Line::End => return Ok(()),
                Line::Blank => {}
                Line::TooLong => self.bad_lines += 1,
                Line::Text => match serde_json::from_slice::<AccessRecord<'_>>(&buffer) {
                    Ok(record) if record.is_simulated() => {}
                    Ok(record) => self.add(trail, &record),
                    Err(_) => self.bad_lines += 1,
                },
            }
        }
    }

    fn add(&mut self, trail: &Trail, record: &AccessRecord<'_>) {
        let Some(id) = record.provider_request_id.as_deref().filter(|id| uuid(id).is_some()) else { return };
        self.records += 1;
        let Some(name) = trail.region(id) else { return };
        self.joined += 1;
        let attempt = record.attempts.last();
        let restated = Regions::shipped().lookup(&format!("aws/{name}")).and_then(|region| {
            let (intensity, yearly) = intensity(record, region)?;
            let joules = attempt?.joules?.get();
            Some((region, joules / JOULES_PER_KWH * region.pue.get() * intensity.get(), yearly))
        });
        let Some((region, grams, yearly)) = restated else {
            self.not_restated += 1;
            return;
        };
        self.by_yearly_figure += u64::from(yearly);
        let ran = self.regions.entry(region.name.to_string()).or_default();
        ran.requests += 1;
        ran.grams += grams;
        ran.elsewhere += u64::from(record.grid_zone.as_deref() != Some(region.grid_zone.as_str()));
        if let Some(live) = attempt.and_then(|attempt| attempt.grams) {
            self.live_grams += live.get();
            self.restated_grams += grams;
            self.off_grams += (live.get() - grams).abs();
        } else {
            self.unknown_live += 1;
            self.unknown_live_grams += grams;
        }
    }

    /// For eyes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let percent = |part: f64| if self.restated_grams > 0.0 { 100.0 * part / self.restated_grams } else { 0.0 };
        let _ = writeln!(text, "{} answers with an AWS request id, {} of them in the trail", self.records, self.joined);
        let (live, restated) = (self.live_grams, self.restated_grams);
        let _ = writeln!(text, "live      {live:.3} g\nrestated  {restated:.3} g");
        let _ = writeln!(
            text,
            "the live figure was off by {:+.1} % in all, and by {:.1} % request by request",
            percent(live - restated),
            percent(self.off_grams)
        );
        for (count, what) in [
            (self.unknown_live, format!("had no live figure and emitted {:.3} g", self.unknown_live_grams)),
            (self.by_yearly_figure, "are restated with a yearly figure, as their line has no reading of that grid".to_owned()),
            (self.not_restated, "are not restated: their region, grid or energy is unknown".to_owned()),
            (self.bad_lines, "lines are no records".to_owned()),
        ] {
            if count > 0 {
                let _ = writeln!(text, "{count} {what}");
            }
        }
        let _ = writeln!(text, "\n{:<24} {:>9} {:>16} {:>14}", "ran in", "requests", "thought elsewhere", "grams");
        for (region, Ran { requests, elsewhere, grams }) in &self.regions {
            let _ = writeln!(text, "{region:<24} {requests:>9} {elsewhere:>17} {grams:>14.3}");
        }
        text
    }
}

/// The intensity of a region's grid at the decision, and whether that is a yearly figure: by the line itself where it has that grid.
fn intensity(record: &AccessRecord<'_>, region: &'static Region) -> Option<(GramsPerKwh, bool)> {
    let zone = region.grid_zone.as_str();
    let carbon = record.carbon.as_ref()?;
    let used = [&carbon.chosen, &carbon.baseline].into_iter().find(|used| used.grid_zone.as_deref() == Some(zone));
    let candidates = record.decision.iter().flat_map(|decision| &decision.candidates);
    let of_candidate = || candidates.clone().find(|it| it.grid_zone.as_deref() == Some(zone))?.intensity_g_per_kwh;
    if let Some(known) = used.and_then(|used| used.intensity_g_per_kwh).or_else(of_candidate) {
        return Some((known, false));
    }
    // One signal is never mixed with another.
    let fits = carbon.chosen.signal.is_none_or(|signal| signal == Signal::Average)
        && carbon.chosen.basis.is_none_or(|basis| basis == Basis::Lifecycle);
    builtin_reading(&region.grid_zone).filter(|_| fits).map(|reading| (reading.intensity, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers() {
        assert_eq!(uuid("00000000-0000-0000-0000-0000000000ff"), Some(255));
        for other in ["", "req_011", "00000000-0000-0000-0000-0000000000fg", "000000000000-0000-0000-0000000000ff0"] {
            assert_eq!(uuid(other), None, "{other}");
        }
    }

    #[test]
    fn a_trail_is_read_event_by_event() {
        let mut trail = Trail::default();
        let text = r#"{"version":1,"Records":[
            {"eventSource":"bedrock.amazonaws.com","requestID":"00000000-0000-0000-0000-000000000001","awsRegion":"us-east-1","additionalEventData":{"inferenceRegion":"us-west-2"}},
            {"eventSource":"bedrock-mantle.amazonaws.com","requestID":"00000000-0000-0000-0000-000000000002","awsRegion":"us-east-1","additionalEventData":null},
            {"eventSource":"s3.amazonaws.com","requestID":"00000000-0000-0000-0000-000000000003","awsRegion":"us-east-1"},
            {"eventSource":"bedrock.amazonaws.com","requestID":null}]}"#;
        trail.read(text.as_bytes()).unwrap();
        let of = |n: u8| trail.region(&format!("00000000-0000-0000-0000-00000000000{n}"));
        assert_eq!([of(1), of(2), of(3)], [Some("us-west-2"), Some("us-east-1"), None]);
        assert_eq!(trail.events, 4);
        for bad in ["{}", "[]", r#"{"Records":{}}"#, r#"{"Records":[]} more"#, "{"] {
            assert!(Trail::default().read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
