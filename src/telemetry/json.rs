//! A serde serializer for the lines of the access log: JSON like `serde_json`'s, byte for byte, written faster.
//!
//! A line is some 3 KB of eighty short fields, written once per request, and the whole proxy has a few microseconds of its own per
//! request. `serde_json` needs 44,600 instructions for one with four candidates, because it looks at every byte of every key for
//! something to escape. Keys here are Rust's own names and most values are names from the plan, so one quick look over a text decides,
//! and only a text that does need an escape goes to `serde_json`: 25,800 (`benches/instructions` counts both). It knows what a record
//! is made of (structs, sequences, text, numbers) and refuses the rest.

use std::fmt::{self, Display, Write as _};

use serde::ser::{Error as _, Impossible, Serialize, SerializeSeq, SerializeStruct, Serializer};

/// Something that no record is made of.
#[derive(Debug)]
pub struct Unsupported(String);

impl Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

impl serde::ser::Error for Unsupported {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Appends `value` to `line` as JSON. On an error what was appended so far stays; the caller cuts it off.
pub fn append<T: Serialize>(line: &mut Vec<u8>, value: &T) -> Result<(), Unsupported> {
    value.serialize(Line(line))
}

struct Line<'a>(&'a mut Vec<u8>);

/// An object or an array that was begun.
///
/// Every member is written with a comma behind it, and the last comma becomes the bracket, so that nothing has to be asked between
/// members.
struct Open<'a> {
    line: &'a mut Vec<u8>,
    close: u8,
}

impl<'a> Line<'a> {
    fn open(self, brackets: [u8; 2]) -> Open<'a> {
        let [open, close] = brackets;
        self.0.push(open);
        Open { line: self.0, close }
    }

    fn integer(self, value: impl itoa::Integer) {
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// Whether a text stands in JSON as it is. Looks at every byte without stopping, which the compiler does many at a time.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |found, byte| found || (byte < 0x20) || (byte == b'"') || (byte == b'\\'))
}

fn refuse<T>(what: &str) -> Result<T, Unsupported> {
    Err(Unsupported::custom(format_args!("a record holds no {what}")))
}

impl<'a> Serializer for Line<'a> {
    type Ok = ();
    type Error = Unsupported;
    type SerializeSeq = Open<'a>;
    type SerializeStruct = Open<'a>;
    type SerializeTuple = Impossible<(), Unsupported>;
    type SerializeTupleStruct = Impossible<(), Unsupported>;
    type SerializeTupleVariant = Impossible<(), Unsupported>;
    type SerializeMap = Impossible<(), Unsupported>;
    type SerializeStructVariant = Impossible<(), Unsupported>;

    fn serialize_bool(self, value: bool) -> Result<(), Unsupported> {
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Unsupported> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Unsupported> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Unsupported> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Unsupported> {
        self.integer(value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Unsupported> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Unsupported> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Unsupported> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Unsupported> {
        self.integer(value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Unsupported> {
        self.serialize_f64(value.into())
    }

    /// Shortest digits that read back as the same number; what is no number is `null`, as in `serde_json`.
    fn serialize_f64(self, value: f64) -> Result<(), Unsupported> {
        if value.is_finite() {
            self.0.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
            Ok(())
        } else {
            self.serialize_none()
        }
    }

    fn serialize_char(self, value: char) -> Result<(), Unsupported> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), Unsupported> {
        if !is_plain(text) {
            return serde_json::to_writer(self.0, text).map_err(Unsupported::custom);
        }
        self.0.reserve(text.len() + 2);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unsupported> {
        refuse("bytes")
    }

    fn serialize_none(self) -> Result<(), Unsupported> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    #[inline]
    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Unsupported> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unsupported> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unsupported> {
        self.serialize_none()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Unsupported> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<(), Unsupported> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unsupported> {
        refuse("variant with a value")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Open<'a>, Unsupported> {
        Ok(self.open(*b"[]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Impossible<(), Unsupported>, Unsupported> {
        refuse("tuple")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Impossible<(), Unsupported>, Unsupported> {
        refuse("tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), Unsupported>, Unsupported> {
        refuse("tuple")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Impossible<(), Unsupported>, Unsupported> {
        refuse("map")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Open<'a>, Unsupported> {
        Ok(self.open(*b"{}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), Unsupported>, Unsupported> {
        refuse("variant with fields")
    }

    /// For what prints itself, such as a time.
    fn collect_str<T: ?Sized + Display>(self, value: &T) -> Result<(), Unsupported> {
        let begin = self.0.len();
        self.0.push(b'"');
        write!(Text(self.0), "{value}").map_err(Unsupported::custom)?;
        let text = std::str::from_utf8(self.0.get(begin + 1..).unwrap_or_default()).map_err(Unsupported::custom)?;
        if is_plain(text) {
            self.0.push(b'"');
            return Ok(());
        }
        let text = text.to_owned();
        self.0.truncate(begin);
        self.serialize_str(&text)
    }
}

/// Formatted text at the end of a line.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Open<'_> {
    fn close(self) {
        if self.line.last() == Some(&b',') {
            self.line.pop();
        }
        self.line.push(self.close);
    }
}

impl SerializeSeq for Open<'_> {
    type Ok = ();
    type Error = Unsupported;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Unsupported> {
        value.serialize(Line(self.line))?;
        self.line.push(b',');
        Ok(())
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close();
        Ok(())
    }
}

impl SerializeStruct for Open<'_> {
    type Ok = ();
    type Error = Unsupported;

    #[expect(clippy::inline_always, reason = "where the key is a constant it is written by a few moves and not by a call")]
    #[inline(always)]
    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Unsupported> {
        // Keys are the names of our own fields; none needs an escape.
        self.line.push(b'"');
        self.line.extend_from_slice(key.as_bytes());
        self.line.extend_from_slice(b"\":");
        value.serialize(Line(self.line))?;
        self.line.push(b',');
        Ok(())
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{AccessRecord, Text};

    #[test]
    fn every_line_of_the_sample_is_written_as_serde_json_writes_it() {
        for line in include_str!("../../tests/cases/log/sample.jsonl").lines() {
            let Ok(record) = serde_json::from_str::<AccessRecord<'_>>(line) else { continue };
            let mut written = Vec::new();
            append(&mut written, &record).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&record).unwrap());
        }
    }

    proptest! {
        #[test]
        fn any_text_and_number_is_written_as_serde_json_writes_it(text: String, number: f64, count: u64) {
            let line = include_str!("../../tests/cases/log/sample.jsonl").lines().next().unwrap();
            let mut record: AccessRecord<'_> = serde_json::from_str(line).unwrap();
            record.model = Some(Text::from(&*text));
            record.seq = count;
            record.total_ms = crate::units::Millis::saturating(number);
            let mut written = Vec::new();
            append(&mut written, &record).unwrap();
            prop_assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&record).unwrap());
        }
    }
}
