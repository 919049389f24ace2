//! Requests and frames that no client should send, and some that are only unusual.
//!
//! The cases are data, in `tests/cases/http2`. A case is a block of lines:
//!
//! ```text
//! name path twice
//! rule the section of an RFC, or the policy, that it rests on
//! want reset        `answered STATUS`, `reset` (the stream alone), or `ended` (the connection is given up, with a code of an error)
//! forbidden yes     the rule asks for a refusal, and it is answered all the same; left out of all others
//! stream 3          whose end it is; 1 when left out
//! > HEADERS END_HEADERS+END_STREAM 1 \{GET}\{:path=/}     a frame: type, flags or `-`, stream, payload
//! | bytes           what is no frame
//! wait 1            what follows is sent when this stream has ended
//! ```
//!
//! Types and flags have the names of RFC 9113, or are numbers. The escapes are in `support/cases.rs`; `\{GET}` and `\{POST}` are the heads
//! of a good request and a good call. That a fault of a stream is taken for one of the connection is allowed (RFC 9113, 5.4.2), and so the
//! code is left to whoever reads the frames. A case that is answered with 200 reaches the backend, no other.
//!
//! All that h2spec 2.6 sends is among them, but for what depends on what comes back: windows are in `windows.rs`, more streams than are
//! allowed in `floods.rs`. `tests/framing_peers.py` reads the same files and sends them to other proxies.

use super::super::support::cases::{blocks, unescaped};
use super::super::support::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};

/// RFC 9113, 6: names of types ..
const TYPES: [(&str, u8); 10] = [
    ("DATA", DATA),
    ("HEADERS", HEADERS),
    ("PRIORITY", 2),
    ("RST_STREAM", RST_STREAM),
    ("SETTINGS", SETTINGS),
    ("PUSH_PROMISE", 5),
    ("PING", PING),
    ("GOAWAY", GOAWAY),
    ("WINDOW_UPDATE", WINDOW_UPDATE),
    ("CONTINUATION", CONTINUATION),
];
/// .. and of flags.
const FLAGS: [(&str, u8); 6] =
    [("-", 0), ("ACK", ACK), ("END_STREAM", END_STREAM), ("END_HEADERS", END_HEADERS), ("PADDED", 8), ("PRIORITY", 0x20)];

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A response with this status.
    Answered(u16),
    /// The stream alone is reset.
    Reset,
    /// The connection is given up, with a code of an error.
    Ended,
}

/// What is done after the settings.
pub(super) enum Step {
    Send(Vec<u8>),
    /// Until this stream has ended.
    Wait(u32),
}

/// One case.
pub(super) struct Case {
    pub name: String,
    pub rule: String,
    pub want: Want,
    /// It should not be answered, and is.
    pub forbidden: bool,
    pub steps: Vec<Step>,
    /// Whose end it is.
    pub stream: u32,
}

/// All cases.
pub(super) fn all() -> Vec<Case> {
    blocks("http2").iter().map(|lines| case(lines)).collect()
}

fn case(lines: &[(String, String)]) -> Case {
    let (mut name, mut rule, mut want, mut forbidden, mut steps, mut stream) = ("", "", None, false, Vec::new(), 1);
    for (key, text) in lines {
        match &**key {
            "name" => name = text,
            "rule" => rule = text,
            "want" => want = wanted(text),
            "forbidden" => forbidden = text == "yes",
            "stream" => stream = text.parse().unwrap(),
            "wait" => steps.push(Step::Wait(text.parse().unwrap())),
            ">" => steps.push(Step::Send(frame_of(text))),
            "|" => steps.push(Step::Send(unescaped(text))),
            _ => panic!("{name}: what is {key:?}?"),
        }
    }
    assert!(!rule.is_empty() && !steps.is_empty(), "{name} is not whole");
    let want = want.unwrap_or_else(|| panic!("{name} does not say how it ends"));
    Case { name: name.to_owned(), rule: rule.to_owned(), want, forbidden, steps, stream }
}

fn wanted(text: &str) -> Option<Want> {
    match (text, text.strip_prefix("answered ")) {
        ("reset", _) => Some(Want::Reset),
        ("ended", _) => Some(Want::Ended),
        (_, Some(status)) => Some(Want::Answered(status.parse().ok()?)),
        _ => None,
    }
}

/// A frame of `TYPE FLAGS STREAM PAYLOAD`.
fn frame_of(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.splitn(4, ' ').collect();
    let kind = number(words[0], &TYPES);
    let flags = words[1].split('+').fold(0, |flags, flag| flags | number(flag, &FLAGS));
    let stream = words[2].strip_prefix("0x").map_or_else(|| words[2].parse(), |hex| u32::from_str_radix(hex, 16));
    frame(kind as u8, flags as u8, stream.unwrap(), &unescaped(words.get(3).unwrap_or(&"")))
}

/// What a name stands for, or `0xNN`.
fn number(word: &str, names: &[(&str, u8)]) -> u32 {
    let named = names.iter().find(|(name, _)| *name == word).map(|(_, number)| u32::from(*number));
    named
        .unwrap_or_else(|| u32::from_str_radix(word.strip_prefix("0x").unwrap_or_else(|| panic!("what is {word}?")), 16).unwrap())
}
