//! Streams in AWS's frames, as a backend of Bedrock's sends them.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A frame of a kind (`event`, `exception`) and a name.
pub(crate) fn frame(kind: &str, name: &str, payload: &Value) -> Vec<u8> {
    let text = |text: &str| HeaderValue::String(text.to_owned().into());
    let header = if kind == "event" { ":event-type" } else { ":exception-type" };
    let message = Message::new(payload.to_string())
        .add_header(Header::new(header, text(name)))
        .add_header(Header::new(":message-type", text(kind)));
    let mut frame = Vec::new();
    write_message_to(&message, &mut frame).unwrap();
    frame
}

/// The stream that a file of `tests/cases` describes, a frame in each line: an event or an exception with its payload, or a piece that
/// goes into one in base64.
pub(crate) fn frames(lines: &[u8]) -> Vec<u8> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let kind = if line.get("event").is_some() { "event" } else { "exception" };
        let inner = line.get("inner").map(|inner| json!({"bytes": STANDARD.encode(inner.to_string()), "p": "abcdef"}));
        frame(kind, line[kind].as_str().unwrap(), inner.as_ref().unwrap_or(&line["payload"]))
    };
    lines.flat_map(read).collect()
}
