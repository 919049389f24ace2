use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue};
use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;

use super::super::event_frames::length_of;
use super::super::usage::Meter;
use super::*;

/// A frame as a file of the cases has it: an event or an exception with its payload, or a piece that goes into one in base64.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    event: Option<String>,
    exception: Option<String>,
    payload: Option<serde_json::Value>,
    inner: Option<serde_json::Value>,
}

impl Line {
    fn frame(self) -> Vec<u8> {
        let payload = match (self.payload, self.inner) {
            (Some(payload), None) => payload,
            (None, Some(inner)) => serde_json::json!({ "bytes": STANDARD.encode(inner.to_string()), "p": "abcdef" }),
            _ => panic!("a frame has one of both"),
        };
        let (kind, name, value) = match (self.event, self.exception) {
            (Some(event), None) => ("event", ":event-type", event),
            (None, Some(exception)) => ("exception", ":exception-type", exception),
            _ => panic!("a frame is one of both"),
        };
        let text = |text: String| HeaderValue::String(text.into());
        let message = Message::new(Bytes::from(payload.to_string()))
            .add_header(Header::new(name.to_owned(), text(value)))
            .add_header(Header::new(":content-type", text("application/json".to_owned())))
            .add_header(Header::new(":message-type", text(kind.to_owned())));
        let mut frame = Vec::new();
        write_message_to(&message, &mut frame).unwrap();
        frame
    }
}

/// The stream that a file of the cases describes, a frame in each line.
pub(in crate::wire) fn frames(lines: &str) -> Vec<u8> {
    lines.lines().flat_map(|line| serde_json::from_str::<Line>(line).expect("a frame").frame()).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    source: UsageSource,
    #[serde(default)]
    usage: Usage,
    error: Option<String>,
}

macro_rules! cases {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_str!(concat!("../../tests/cases/wire/", $name, ".events")),
            include_str!(concat!("../../tests/cases/wire/", $name, ".json")),
        )),*]
    };
}

fn cases() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let case =
        |(name, lines, expected): (&'static str, &str, &str)| (name, frames(lines), serde_json::from_str(expected).expect(name));
    cases![
        "converse",
        "converse-cached",
        "converse-exception",
        "converse-refused",
        "converse-throttled",
        "invoke-claude",
        "invoke-claude-cut",
        "invoke-gpt-oss",
    ]
    .into_iter()
    .map(case)
    .collect()
}

type Found = (Usage, UsageSource, Option<&'static str>, bool);

fn read_all(chunks: &[&[u8]]) -> Found {
    let mut meter = Meter::event_stream();
    for chunk in chunks {
        meter.feed(&Bytes::copy_from_slice(chunk));
    }
    let error = meter.error().map(|error| match error {
        StreamError::Backend => "backend",
        StreamError::Request => "request",
        StreamError::Full { whole: false } => "full of that model",
        StreamError::Full { whole: true } => "full",
    });
    let (usage, source) = meter.finish();
    (usage, source, error, meter.saw_first_data())
}

#[test]
fn streams_are_read_wherever_they_are_cut() {
    for (name, stream, expected) in cases() {
        let expected: Found = (
            expected.usage,
            expected.source,
            expected.error.as_deref().map(|word| {
                let words = ["request", "backend", "full of that model"];
                words.into_iter().find(|known| *known == word).expect(name)
            }),
            true,
        );
        assert_eq!(read_all(&[&stream]), expected, "{name}");
        assert_eq!(read_all(&stream.chunks(1).collect::<Vec<_>>()), expected, "{name} by bytes");
        for cut in 0..stream.len() {
            let (one, two) = stream.split_at(cut);
            assert_eq!(read_all(&[one, two]), expected, "{name} cut at {cut}");
        }
    }
}

#[test]
fn what_a_backend_says_of_its_own_time_is_read_wherever_it_is_cut() {
    for (name, first_byte_ms, whole_ms) in
        [("invoke-gpt-oss", Some(150), Some(420)), ("converse", None, Some(812)), ("converse-exception", None, None)]
    {
        let (_, stream, _) = cases().into_iter().find(|(other, ..)| *other == name).unwrap();
        for cut in 0..stream.len() {
            let mut meter = Meter::event_stream();
            let (one, two) = stream.split_at(cut);
            for chunk in [one, two] {
                meter.feed(&Bytes::copy_from_slice(chunk));
            }
            assert_eq!(meter.clocked(), Clocked { first_byte_ms, whole_ms }, "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_stream_that_breaks_off_has_what_was_said_until_then() {
    let (_, stream, _) = cases().remove(0);
    let frames = |count: usize| {
        let mut end = 0;
        for _ in 0..count {
            end += length_of(&stream[end..]).unwrap();
        }
        &stream[..end]
    };
    let counted =
        |output_tokens| (Usage { output_tokens: Some(output_tokens), ..Usage::default() }, UsageSource::Counted, None, true);
    assert_eq!(read_all(&[frames(1)]), (Usage::default(), UsageSource::Unknown, None, true));
    assert_eq!(read_all(&[frames(2)]), counted(1));
    assert_eq!(read_all(&[&frames(6)[..frames(6).len() - 1]]), counted(2), "its last frame is not whole");
    assert_eq!(read_all(&[]), (Usage::default(), UsageSource::Unknown, None, false));
}

fn event(name: &str, payload: serde_json::Value) -> Vec<u8> {
    Line { event: Some(name.to_owned()), exception: None, payload: Some(payload), inner: None }.frame()
}

#[test]
fn a_frame_beyond_the_limit_is_passed_over_and_the_next_one_read() {
    let large = event("contentBlockDelta", serde_json::json!({ "delta": { "image": "x".repeat(MOST) } }));
    let last = event("metadata", serde_json::json!({ "usage": { "inputTokens": 1, "outputTokens": 2 } }));
    let expected =
        (Usage { input_tokens: Some(1), output_tokens: Some(2), ..Usage::default() }, UsageSource::Reported, None, true);
    let stream = [large, last].concat();
    for size in [1, 7, 4096, stream.len()] {
        assert_eq!(read_all(&stream.chunks(size).collect::<Vec<_>>()), expected, "{size}");
    }
    let mut reader = EventStream::default();
    reader.feed(&stream[..MOST]);
    assert!(reader.frames.kept() < 1024, "nothing of it is kept");
}

#[test]
fn what_is_no_such_stream_is_unknown() {
    for text in [&b"data: {}\n\n"[..], b"\0\0\0\x01", b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0more", b"<html>"] {
        let (usage, source, error, _) = read_all(&[text]);
        assert_eq!((usage, source, error), (Usage::default(), UsageSource::Unknown, None));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_cut_anywhere(
        case in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        size in 1_usize..64,
    ) {
        let cases = cases();
        let mut stream = cases[case.index(cases.len())].1.clone();
        for (place, byte) in flips {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        let whole = read_all(&[&stream]);
        prop_assert_eq!(read_all(&stream.chunks(size).collect::<Vec<_>>()), whole);
    }
}
