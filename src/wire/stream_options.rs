//! The `stream_options` member of a request: whether it asks for usage, and if not, which bytes would make it ask.
//!
//! It is the only nested member that Windward ever changes, and it is small; so it alone is read by serde, and only where it is
//! present, which official SDKs rarely make it.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What the request says of usage on its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StreamOptions {
    /// There is no such member.
    #[default]
    Absent,
    /// `include_usage` is true.
    Asked,
    /// Usage is not asked for; it would be if these bytes stood in that place.
    NotAsked {
        /// Byte offsets in the body; empty where something is inserted.
        at: Range<usize>,
        /// What has to stand there.
        with: &'static str,
    },
    /// The member is no object, or not one that could be read: left for the backend to judge.
    Unreadable,
}

impl StreamOptions {
    /// Reads the member's value, which begins at byte `start` of the body.
    pub(super) fn read(value: &[u8], start: usize) -> Self {
        if value == b"null" {
            return Self::NotAsked { at: start..start + value.len(), with: r#"{"include_usage":true}"# };
        }
        // serde would take an array for the struct as well.
        if value.first() != Some(&b'{') {
            return Self::Unreadable;
        }
        let Ok(members) = serde_json::from_slice::<Members<'_>>(value) else {
            return Self::Unreadable;
        };
        let inside = super::json::skip_space(value, 1);
        match members.include_usage {
            Some(usage) if usage.get() == "true" => Self::Asked,
            Some(usage) if matches!(usage.get(), "false" | "null") => {
                // Borrowed from `value`, so the distance between the two beginnings is the offset within it.
                let offset = start + (usage.get().as_ptr().addr() - value.as_ptr().addr());
                Self::NotAsked { at: offset..offset + usage.get().len(), with: "true" }
            }
            Some(_) => Self::Unreadable,
            None if value.get(inside) == Some(&b'}') => {
                Self::NotAsked { at: start + 1..start + 1, with: r#""include_usage":true"# }
            }
            None => Self::NotAsked { at: start + 1..start + 1, with: r#""include_usage":true,"# },
        }
    }
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    include_usage: Option<&'a RawValue>,
}

/// An `Option` would take `null` for absence, and then the member would be written twice.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let insert = |with| StreamOptions::NotAsked { at: 101..101, with };
        let table = [
            ("null", StreamOptions::NotAsked { at: 100..104, with: r#"{"include_usage":true}"# }),
            ("{}", insert(r#""include_usage":true"#)),
            ("{ \n }", insert(r#""include_usage":true"#)),
            (r#"{"a":1}"#, insert(r#""include_usage":true,"#)),
            (r#"{"include_usage":true}"#, StreamOptions::Asked),
            (r#"{"a":[1],"include\u005fusage" : true }"#, StreamOptions::Asked),
            (r#"{"include_usage": false}"#, StreamOptions::NotAsked { at: 118..123, with: "true" }),
            (r#"{"include_usage":null,"a":{}}"#, StreamOptions::NotAsked { at: 117..121, with: "true" }),
            (r#"{"include_usage":"yes"}"#, StreamOptions::Unreadable),
            (r#"{"include_usage":true,"include_usage":false}"#, StreamOptions::Unreadable),
            ("[]", StreamOptions::Unreadable),
            ("17", StreamOptions::Unreadable),
            ("{", StreamOptions::Unreadable),
        ];
        for (text, expected) in table {
            assert_eq!(StreamOptions::read(text.as_bytes(), 100), expected, "{text}");
        }
    }
}
