//! Single values that carry a unit: durations and sizes.
//!
//! A bare number is refused. `timeout: 30` means seconds to one reader and milliseconds to the next, and the file is read more often
//! than it is written.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Problems, quoted};
use super::node::{Mark, Node, Value};

/// A span of time: `250ms`, `1.5s`, `5m`. At most a year.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span(pub(super) Duration);

/// A number of bytes: `64KiB`, `4MiB`. At most what this machine can address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size(pub(super) usize);

/// Units of time in seconds.
const TIMES: [(&str, f64); 7] = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// Units of size in bytes.
const SIZES: [(&str, f64); 7] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("GiB", 1024.0 * 1024.0 * 1024.0),
];
/// No wait in a proxy is longer than a year.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;
/// 2^53: up to here an `f64` counts bytes exactly.
const LARGEST_BYTES: f64 = 9_007_199_254_740_992.0;

/// A span of time as the configuration writes it (`250ms`, `5m`), from elsewhere; `None` for anything else, and for none at all.
pub fn span(text: &str) -> Option<Duration> {
    let node = Node { mark: Mark::default(), value: Value::Text(text.to_owned()) };
    Span::decode(&node, &mut Problems::default()).map(|span| span.0).filter(|span| !span.is_zero())
}

/// An IP address with a port, as text. A port alone is taken for text too: whoever checks it says what is missing, where a number would
/// only be told to be put between quotes, and then be wrong again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Address(String);

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Decode for Address {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Int(port) => Some(Self(port.to_string())),
            _ => String::decode(node, problems).map(Self),
        }
    }
}

impl JsonSchema for Address {
    fn inline_schema() -> bool {
        String::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl Decode for Span {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let seconds = quantity(node, "a duration", &TIMES, "s", LONGEST_SECONDS, problems)?;
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }
}

impl Decode for Size {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let bytes = quantity(node, "a size", &SIZES, "MiB", LARGEST_BYTES, problems)?;
        Some(Self(usize::try_from(bytes as u64).unwrap_or(usize::MAX)))
    }
}

/// A number and its unit, in the base unit; reports anything else.
fn quantity(node: &Node, what: &str, units: &[(&str, f64)], usual: &str, largest: f64, problems: &mut Problems) -> Option<f64> {
    let example = format!("a number and a unit, as in `30{usual}`; units are {}", names(units));
    let text = match &node.value {
        Value::Text(text) | Value::Expanded(text) => text.trim(),
        Value::Int(number) => {
            problems.add(node.mark, format!("{what} needs a unit")).mend =
                Some(format!("write `{number}{usual}`, if that is what it means; units are {}", names(units)));
            return None;
        }
        Value::Float(_) => {
            problems.add(node.mark, format!("{what} needs a unit")).mend = Some(format!("write {example}"));
            return None;
        }
        _ => return problems.expected(node, what),
    };
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let Some((number, factor)) = number.parse::<f64>().ok().zip(factor) else {
        let sloppy = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit) && !number.is_empty());
        let found = if matches!(node.value, Value::Text(_)) { quoted(text) } else { "the value of the variable".to_owned() };
        let mend = match sloppy {
            Some((name, _)) => format!("write `{number}{name}`"),
            None => format!("write {example}"),
        };
        problems.add(node.mark, format!("{found} is not {what}")).mend = Some(mend);
        return None;
    };
    let value = number * factor;
    if value <= largest {
        return Some(value);
    }
    problems.add(node.mark, format!("{what} as long as this is not believed"));
    None
}

fn names(units: &[(&str, f64)]) -> String {
    units.iter().map(|(name, _)| *name).filter(|name| name.is_ascii()).collect::<Vec<_>>().join(", ")
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number and a unit: 250ms, 1.5s, 5m, 1h; or a variable",
            "type": "string",
            "pattern": "^[0-9]+(\\.[0-9]+)? ?(ns|us|µs|ms|s|m|h)$|\\$\\{",
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number and a unit: 64KiB, 4MiB, 1GiB; or a variable",
            "type": "string",
            "pattern": "^[0-9]+(\\.[0-9]+)? ?(B|kB|MB|GB|KiB|MiB|GiB)$|\\$\\{",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<T: Decode>(value: Value) -> Result<T, String> {
        let mut problems = Problems::default();
        let read = T::decode(&Node { mark: Mark::default(), value }, &mut problems);
        assert_eq!(read.is_none(), !problems.faults.is_empty());
        read.ok_or_else(|| {
            let fault = problems.faults.remove(0);
            format!("{}; {}", fault.message, fault.mend.unwrap_or_default())
        })
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn durations() {
        for (written, micros) in [
            ("250ms", 250_000),
            ("62us", 62),
            ("62µs", 62),
            ("1.5s", 1_500_000),
            ("5m", 300_000_000),
            ("0s", 0),
            ("1 h", 3_600_000_000),
        ] {
            assert_eq!(read(text(written)), Ok(Span(Duration::from_micros(micros))), "{written}");
        }
        for bad in ["", "s", "5", "5 parsecs", "-5s", "1.2.3s", "1e3s", "inf", "NaNs", "9999999h", "5s5"] {
            assert!(read::<Span>(text(bad)).is_err(), "{bad}");
        }
        assert!(read::<Span>(Value::Int(30)).unwrap_err().contains("write `30s`"));
        assert!(read::<Span>(text("30S")).unwrap_err().contains("write `30s`"));
    }

    #[test]
    fn sizes() {
        for (written, bytes) in [("4MiB", 4 << 20), ("64KiB", 65_536), ("1.5kB", 1500), ("0B", 0), ("2GiB", 2 << 30)] {
            assert_eq!(read(text(written)), Ok(Size(bytes)), "{written}");
        }
        for bad in ["4M", "4", "-1B", "99999999GiB"] {
            assert!(read::<Size>(text(bad)).is_err(), "{bad}");
        }
        assert!(read::<Size>(text("4mib")).unwrap_err().contains("write `4MiB`"));
    }

    #[test]
    fn a_variables_value_is_not_repeated() {
        assert!(!read::<Span>(Value::Expanded("sk-secret".to_owned())).unwrap_err().contains("sk-secret"));
        assert_eq!(read(Value::Expanded("3s".to_owned())), Ok(Span(Duration::from_secs(3))));
    }

    proptest! {
        #[test]
        fn never_panics(written in "[0-9.]{0,30}\\PC{0,4}") {
            let _ = read::<Span>(text(&written));
            let _ = read::<Size>(text(&written));
        }
    }
}
