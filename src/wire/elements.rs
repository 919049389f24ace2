//! A stream in the form of one JSON array, as Gemini writes it where no event stream is asked for: what its elements carry.
//!
//! They are to this what events are to an event stream, and are read by the same searches.

use super::Operation;
use super::events::{StreamError, has_output};
use super::json::Depth;

/// How much of an element is looked at, in bytes, as of an event.
const ELEMENT_BYTES: usize = 4096;

/// Counts the elements that carry output, and keeps the first error. Of a body that is no array there are none.
#[derive(Debug, Default)]
pub(super) struct Elements {
    depth: Depth,
    /// The beginning of the present element, up to [`ELEMENT_BYTES`].
    held: Vec<u8>,
    pub(super) with_output: u64,
    pub(super) error: Option<StreamError>,
}

impl Elements {
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let (mut from, mut at) = (0, 0);
        while let Some((byte, next)) = self.depth.step(chunk, at) {
            at = next;
            // Also an array, which is no element as it should be: what stands before it is none of it.
            if matches!(byte, b'{' | b'[') && self.depth.is_in_element() && self.depth.is_own() {
                from = next - 1;
                self.held.clear();
            } else if byte == b'}' && self.depth.is_between_elements() {
                self.hold(&chunk[from..next]);
                self.element();
            }
        }
        if self.depth.is_in_element() {
            self.hold(&chunk[from..]);
        }
    }

    fn hold(&mut self, part: &[u8]) {
        let room = ELEMENT_BYTES - self.held.len();
        self.held.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn element(&mut self) {
        if let Some(error) = StreamError::in_object(&self.held) {
            self.error.get_or_insert(error);
        } else if has_output(Operation::GenerateContent, &self.held) {
            self.with_output += 1;
        }
    }

    /// Whether the array has begun and not ended.
    pub(super) const fn is_unfinished(&self) -> bool {
        self.depth.is_in_array()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (u64, Option<StreamError>, bool) {
        let mut elements = Elements::default();
        for chunk in chunks {
            elements.feed(chunk);
        }
        (elements.with_output, elements.error, elements.is_unfinished())
    }

    #[test]
    fn elements_are_told_apart_however_they_are_cut() {
        let text = r#"{"candidates": [{"content": {"parts": [{"text": "]}{"}]}}]}"#;
        let long = format!(r#"[{{"x":"{}"}},{{"error":{{"code":503}}}}]"#, "y".repeat(2 * ELEMENT_BYTES));
        for (body, expected) in [
            (format!("[{text},\r\n{text}]"), (2, None, false)),
            (format!("[{text},{text}"), (2, None, true)),
            (format!("[{text},{}", &text[..50]), (1, None, true)),
            (
                format!(r#"[{text},{{"error":{{"code":503,"details":[{{"text":"x"}}]}}}}]"#),
                (1, Some(StreamError::Full { whole: true }), false),
            ),
            (r#"[{"error":{"code":400}}]"#.to_owned(), (0, Some(StreamError::Request), false)),
            (r#"[{"candidates":[{"content":{"error":{"code":503}}}]}]"#.to_owned(), (0, None, false)),
            (long, (0, Some(StreamError::Full { whole: true }), false)),
            (text.to_owned(), (0, None, false)),
            (r#""text":"x"[[{]}]"#.to_owned(), (0, None, false)),
            (String::new(), (0, None, false)),
        ] {
            assert_eq!(read(&[body.as_bytes()]), expected, "{body}");
            assert_eq!(read(&body.as_bytes().chunks(1).collect::<Vec<_>>()), expected, "by bytes: {body}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_cut_anywhere(text in r#"(\[|\]|\{|\}|"|\\|"text"|"error"|:|,|1| ){0,40}"#) {
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            prop_assert_eq!(read(&bytes), read(&[text.as_bytes()]));
        }
    }
}
