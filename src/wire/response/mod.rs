//! Responses of HTTP/1.1 as they come from a backend: the head, and the framing of what follows it.
//!
//! It reads what hyper's client would, and is for requests that are there as a whole, which is nearly all of them: without the two
//! channels and the second state machine between hyper's connection and its user an exchange takes a tenth fewer instructions.
//! What two readers could understand in two ways is refused: both framings at once, lengths that differ, a coding that nobody asked
//! for. Everything is bounded, since a backend may be broken, or not the one that it is taken for.

mod decoder;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use memchr::memmem::{self, Finder};

use super::fields::{Fields, Name};
use super::framing::end_of_value;
use super::message::ResponseHead;
pub use decoder::{Decoder, keep_trailers};

/// Bytes of a response head. Real ones have a few KiB; Envoy refuses above 60 KiB, nginx above 4 or 8. It bounds trailers as well.
pub const MAX_HEAD: usize = 256 << 10;
/// Fields of a head or of trailers; hyper's own limit is 100.
const MAX_FIELDS: usize = 128;

/// Bytes of a field's name: a longer one is none to `http`, and so to hyper, which may have to write it.
const MAX_NAME: usize = u16::MAX as usize;

/// Why a response cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// A response head, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// Status and fields, hop-by-hop fields included; `Content-Length` stands once at most and never beside `Transfer-Encoding`.
    pub head: ResponseHead,
    /// The rest.
    pub body: Decoder,
    /// Whether the connection may carry another exchange after the body's end.
    pub keeps_alive: bool,
}

/// Where the head ends that `input` begins with; `None` when it has not ended. `searched` bytes were looked through before.
pub fn head_end(input: &[u8], searched: usize) -> Result<Option<usize>, Invalid> {
    const BEGIN: &[u8] = b"HTTP/1.";
    if input.iter().zip(BEGIN).any(|(byte, wanted)| byte != wanted) {
        return Err(Invalid("what came is no response of HTTP/1.1"));
    }
    let from = searched.saturating_sub(3);
    match END.find(input.get(from..).unwrap_or_default()) {
        Some(at) if from + at + 4 <= MAX_HEAD => Ok(Some(from + at + 4)),
        None if input.len() < MAX_HEAD => still_open(input, from),
        _ => Err(Invalid("the head is too long")),
    }
}

static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// `None`, unless fields without an end have one all the same for who takes a bare LF for the end of a line: he would wait for
/// nothing more, and this would wait in vain, or take what follows for more fields.
fn still_open(input: &[u8], from: usize) -> Result<Option<usize>, Invalid> {
    let rest = input.get(from..).unwrap_or_default();
    let bare = memmem::find(rest, b"\n\n").or_else(|| memmem::find(rest, b"\n\r\n"));
    bare.map_or(Ok(None), |_| Err(Invalid("the empty line begins with a bare LF")))
}

/// Reads a head, its empty line included. `bodyless` says that the request was HEAD.
pub fn head(bytes: &Bytes, bodyless: bool) -> Result<Head, Invalid> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid("the head has too many fields")),
        _ => return Err(Invalid("what came is no response head")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Invalid("the status is none"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| bytes.slice_ref(reason.as_bytes()));
    let mut fields = Fields::of_received(bytes.clone(), parsed.headers.len());
    let said = read_fields(bytes, parsed.headers, &mut fields)?;
    if said.chunked && version == Version::HTTP_10 {
        // RFC 9112, 6.1: whoever put it there cannot have understood it.
        return Err(Invalid("a response of HTTP/1.0 has a Transfer-Encoding"));
    }
    let body = if bodyless || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || status.is_informational() {
        Decoder::length(0)
    } else {
        match (said.chunked, said.length) {
            (true, _) => Decoder::chunked(),
            (false, Some(length)) => Decoder::length(length),
            (false, None) => Decoder::until_close(),
        }
    };
    let keeps_alive = version == Version::HTTP_11 && !said.close && !body.ends_with_connection();
    Ok(Head { head: ResponseHead { status, version, reason, fields }, body, keeps_alive })
}

/// What the fields of a head say of its message.
#[derive(Default)]
struct Said {
    chunked: bool,
    length: Option<u64>,
    close: bool,
}

fn read_fields(head: &[u8], fields: &[Header<'_>], into: &mut Fields) -> Result<Said, Invalid> {
    let mut said = Said::default();
    for field in fields {
        let (name, value) = (field.name.as_bytes(), field.value);
        if name.len() > MAX_NAME {
            return Err(Invalid("a field's name is none"));
        }
        if end_of_value(value).is_some() {
            return Err(Invalid("a field's value has a control character"));
        }
        let known = Name::of(name);
        match known {
            Some(Name::ContentLength) => {
                let length = one_length(value)?;
                if said.length.is_some_and(|other| other != length) {
                    return Err(Invalid("the response has lengths that differ"));
                }
                if said.length.replace(length).is_some() {
                    continue;
                }
                if itoa::Buffer::new().format(length).as_bytes() != value {
                    into.set(Name::ContentLength, &HeaderValue::from(length));
                    continue;
                }
            }
            Some(Name::TransferEncoding) => {
                if said.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Invalid("the response has a Transfer-Encoding other than chunked, which nobody asked for"));
                }
                said.chunked = true;
            }
            Some(Name::Connection) => {
                let mut options = value.split(|byte| *byte == b',');
                said.close |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
            _ => {}
        }
        into.note(known, place(head, name), place(head, value));
    }
    if said.chunked && said.length.is_some() {
        return Err(Invalid("the response has both Transfer-Encoding and Content-Length"));
    }
    Ok(said)
}

/// Where a part of it is in a head.
fn place(head: &[u8], part: &[u8]) -> (usize, usize) {
    let from = part.as_ptr().addr() - head.as_ptr().addr();
    (from, from + part.len())
}

/// One number, be it written several times.
fn one_length(value: &[u8]) -> Result<u64, Invalid> {
    const NONE: Invalid = Invalid("the response has a Content-Length that is no number");
    // Mostly it is one, and of so few digits that it cannot be too large.
    if let [b'0'..=b'9', rest @ ..] = value
        && rest.len() < 18
        && rest.iter().all(u8::is_ascii_digit)
    {
        return Ok(value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')));
    }
    let mut lengths = value.split(|byte| *byte == b',').map(|text| {
        let text = text.trim_ascii();
        // Not `parse`, which takes a plus sign.
        let digits = text.iter().all(u8::is_ascii_digit).then_some(text).and_then(|text| std::str::from_utf8(text).ok());
        digits.and_then(|text| text.parse::<u64>().ok()).ok_or(NONE)
    });
    let first = lengths.next().ok_or(NONE)??;
    if lengths.all(|length| length == Ok(first)) { Ok(first) } else { Err(Invalid("the response has lengths that differ")) }
}
