//! The beginning of a JSON answer, kept until its end: whether it is an error after all, and which model it says answered.
//!
//! Nothing is parsed. An answer mostly comes in one piece, of which only a handle is kept; a search finds neither word in most
//! others, and the members of the object are walked over only up to the one that is wanted.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::events::{StreamError, members};

/// How much is looked at. What is wanted stands before the answer itself in every API that is known.
const MOST: usize = 4096;
/// The longest name of a model that is taken.
const LONGEST_NAME: usize = 128;

/// The beginning of one body.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    first: Bytes,
    /// All of it, when it came in pieces.
    joined: Vec<u8>,
}

impl Beginning {
    pub(super) fn feed(&mut self, chunk: &Bytes) {
        if self.first.is_empty() {
            self.first = chunk.clone();
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(self.first.get(..MOST).unwrap_or(&self.first));
        }
        let room = MOST - self.joined.len();
        self.joined.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
    }

    pub(super) fn text(&self) -> &[u8] {
        let text = if self.joined.is_empty() { &self.first[..] } else { &self.joined };
        text.get(..MOST).unwrap_or(text)
    }

    /// What the body says went wrong, if it is an error and no answer.
    pub(super) fn error(&self) -> Option<StreamError> {
        static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));
        let text = self.text();
        ERROR.find(text)?;
        StreamError::in_object(text)
    }

    /// The model as the backend names it.
    pub(super) fn model(&self) -> Option<Bytes> {
        let name = model_in(self.text())?;
        // A part of what is kept; where that came in pieces, a copy.
        Some(if self.joined.is_empty() { self.first.slice_ref(name) } else { Bytes::copy_from_slice(name) })
    }
}

/// The value of an object's own member `model`, or of that of the response or message which an event of the Responses API or of
/// Anthropic's is about. Only a plain name is one: printable, without escapes, and not too long.
pub(super) fn model_in(object: &[u8]) -> Option<&[u8]> {
    // Gemini's word for it is `modelVersion`.
    static MODEL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"model"));
    MODEL.find(object)?;
    let found = members(object).find_map(|(name, value)| match name {
        b"model" | b"modelVersion" => Some(value),
        b"response" | b"message" => members(value).find(|(name, _)| *name == b"model").map(|(_, value)| value),
        _ => None,
    })?;
    let name = found.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let plain = name.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\' && *byte != b'"');
    (plain && !name.is_empty() && name.len() <= LONGEST_NAME).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Option<StreamError>, Option<Bytes>) {
        let mut beginning = Beginning::default();
        for chunk in chunks {
            beginning.feed(&Bytes::copy_from_slice(chunk));
        }
        (beginning.error(), beginning.model())
    }

    #[test]
    fn an_answer_is_told_from_an_error_however_it_is_cut() {
        use StreamError::{Backend, Request};
        let long = format!(r#"{{"id":"{}","error":{{"code":500}}}}"#, "x".repeat(MOST));
        for (text, error, model) in [
            (
                r#"{"id":"c","object":"chat.completion","model":"m-1","choices":[{"message":{"content":"no \"error\""}}]}"#,
                None,
                "m-1",
            ),
            (r#" {"error" : {"message":"gone","type":"server_error"}}"#, Some(Backend), ""),
            (r#"{"error":{"message":"too long","type":"invalid_request_error"},"model":"m"}"#, Some(Request), "m"),
            (r#"{"object":"error","message":"gone","code":500}"#, Some(Backend), ""),
            (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, Some(StreamError::Full { whole: true }), ""),
            (r#"{"error":"gone"}"#, Some(Backend), ""),
            (r#"{"id":"resp_1","object":"response","error":null,"model":"m-2","output":[{"type":"error"}]}"#, None, "m-2"),
            (r#"{"error":{},"model":""}"#, None, ""),
            (r#"{"choices":[{"error":{"code":1},"model":"no"}],"model":"m\u0041"}"#, None, ""),
            (r#"{"choices":[],"metadata":{"model":"no"}}"#, None, ""),
            (r#"[{"error":1}]"#, None, ""),
            (r#""error""#, None, ""),
            ("", None, ""),
            (&long, None, ""),
        ] {
            let expected = (error, Some(Bytes::from(model.to_owned())).filter(|model| !model.is_empty()));
            assert_eq!(read(&[text.as_bytes()]), expected, "{text}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(read(&bytes), expected, "in pieces: {text}");
        }
        let name = "m".repeat(LONGEST_NAME + 1);
        assert_eq!(read(&[format!(r#"{{"model":"{name}"}}"#).as_bytes()]).1, None);
        assert_eq!(model_in(br#"{"type":"response.created","response":{"id":"r","model":"m-3"}}"#), Some(&b"m-3"[..]));
        assert_eq!(model_in(br#"{"type":"message_start","message":{"id":"msg","model":"m-4"}}"#), Some(&b"m-4"[..]));
    }

    proptest! {
        #[test]
        fn any_body_is_survived(text in r#"(\{|\}|\[|\]|"error"|"model"|"response"|:|,|"|\\|null|a| ){0,30}"#, cut in 0usize..40) {
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(read(&[one, two]), read(&[text.as_bytes()]));
        }
    }
}
