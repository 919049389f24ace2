//! CloudTrail's files, read event by event: of each call of a model its id and where it ran.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Calls that are kept of the trails, of about 50 bytes each.
const MOST_CALLS: usize = 2_000_000;

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
pub(super) fn uuid(text: &str) -> Option<u128> {
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
