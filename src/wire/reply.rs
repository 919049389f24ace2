//! Responses of HTTP/1.1 as bytes: the head, and the framing of what follows it.
//!
//! The counterpart of [`response`](super::response), for requests that were read by [`framing`](super::framing). What frames a
//! message is decided here by what its body is, and what a service said about it is passed over.

use http::{HeaderMap, Method, StatusCode};

use super::fields::{Name, Names, line};
use super::message::ResponseHead;
use super::response::keep_trailers;

/// Most bytes of a chunk that have to be copied behind its size; longer ones are written from where they are. A copy of this many
/// costs less than another piece of a vectored write.
pub const COPIED: usize = 4 << 10;

/// What a response answers, and how its connection goes on.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// Whether another request may follow, as far as is known without the response.
    pub keeps_alive: bool,
    /// The time, as `Date` has it.
    pub date: &'a [u8],
}

/// What is known of a body before any of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// The framing of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Framed {
    coding: Coding,
    /// Whether another request may follow.
    pub keeps_alive: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks, and after them whatever trailers there are.
    Chunks,
}

/// What a head says of framing is written anew.
const FRAMING: Names = Names::of(&[Name::ContentLength, Name::TransferEncoding]);
/// A message without a body has no trailers either.
const FRAMING_AND_TRAILER: Names = Names::of(&[Name::ContentLength, Name::TransferEncoding, Name::Trailer]);

/// Writes a head.
pub fn head(
    into: &mut Vec<u8>,
    ResponseHead { status, reason, fields, .. }: &ResponseHead,
    size: Size,
    occasion: Occasion<'_>,
) -> Framed {
    let status = *status;
    status_line(into, status, reason.as_deref());
    let bodyless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || status.is_informational();
    let to_head = *occasion.method == Method::HEAD;
    // Of a body that says its own length, it is that; of an answer to HEAD, it is that of the body it would have had.
    let length = fields.all(Name::ContentLength).find_map(number);
    let says_close = fields.all(Name::Connection).any(|value| has_option(value, b"close"));
    let keeps_alive = occasion.keeps_alive && !says_close;
    fields.write(into, if bodyless || to_head { FRAMING_AND_TRAILER } else { FRAMING });
    if !keeps_alive && !says_close {
        into.extend_from_slice(b"connection: close\r\n");
    }
    let (coding, said) = match size {
        _ if bodyless => (Coding::Length(0), None),
        Size::None | Size::Unknown if to_head => (Coding::Length(0), length),
        Size::None => (Coding::Length(0), Some(0)),
        Size::Known(length) => (Coding::Length(length), Some(length)),
        Size::Unknown if let Some(length) = length => (Coding::Length(length), Some(length)),
        Size::Unknown => {
            into.extend_from_slice(b"transfer-encoding: chunked\r\n");
            (Coding::Chunks, None)
        }
    };
    if let Some(length) = said {
        line(into, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    if !fields.has(Name::Date) {
        line(into, b"date", occasion.date);
    }
    into.extend_from_slice(b"\r\n");
    let coding = if to_head { Coding::Length(0) } else { coding };
    Framed { coding, keeps_alive }
}

fn status_line(into: &mut Vec<u8>, status: StatusCode, reason: Option<&[u8]>) {
    if status == StatusCode::OK && reason.is_none() {
        return into.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    let reason = reason.or_else(|| status.canonical_reason().map(str::as_bytes)).unwrap_or_default();
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    // Not `parse` alone, which takes a plus sign.
    let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))?;
    text.parse().ok()
}

fn has_option(value: &[u8], wanted: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
}

impl Framed {
    /// Whether nothing of the body is wanted any more.
    pub const fn is_full(&self) -> bool {
        matches!(self.coding, Coding::Length(0))
    }

    /// Writes what comes before so many bytes of data, and says how many of them are to follow: no more than was announced.
    pub fn before(&mut self, into: &mut Vec<u8>, count: usize) -> usize {
        match &mut self.coding {
            Coding::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
                *left -= count as u64;
                count
            }
            // An empty chunk would be the end.
            Coding::Chunks if count == 0 => 0,
            Coding::Chunks => {
                chunk_size(into, count);
                count
            }
        }
    }

    /// What comes after these bytes.
    pub const fn after(&self) -> &'static [u8] {
        match self.coding {
            Coding::Length(_) => b"",
            Coding::Chunks => b"\r\n",
        }
    }

    /// Writes the end of the body; false when it is not the end that was announced, so that the connection has to be. Trailers are
    /// for a client that has asked for them, which its service knows; the head need not have named them (RFC 9110, 6.6.2).
    pub fn end(&mut self, into: &mut Vec<u8>, trailers: Option<HeaderMap>) -> bool {
        match &self.coding {
            Coding::Length(left) => *left == 0,
            Coding::Chunks => {
                into.extend_from_slice(b"0\r\n");
                if let Some(mut trailers) = trailers {
                    keep_trailers(&mut trailers);
                    for (name, value) in &trailers {
                        line(into, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                into.extend_from_slice(b"\r\n");
                self.coding = Coding::Length(0);
                true
            }
        }
    }
}

/// The line before a chunk.
fn chunk_size(into: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        into.push(DIGITS[size >> (4 * place) & 15]);
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::wire::fields::Fields;

    const DATE: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

    fn written(method: &Method, status: u16, fields: &[(&'static str, &'static str)], size: Size) -> (String, Framed) {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        let said = ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            fields: Fields::of_map(&fields),
            ..ResponseHead::default()
        };
        let occasion = Occasion { method, keeps_alive: true, date: DATE.as_bytes() };
        let mut bytes = Vec::new();
        let framed = head(&mut bytes, &said, size, occasion);
        let text = String::from_utf8(bytes).unwrap();
        let head = text.strip_suffix("\r\n\r\n").unwrap().replace(&format!("\r\ndate: {DATE}"), "");
        (head.strip_prefix("HTTP/1.1 ").unwrap().replace("\r\n", "|"), framed)
    }

    #[test]
    fn a_response_is_framed_by_what_its_body_is() {
        let said = &[("content-length", "7"), ("transfer-encoding", "gzip")];
        for (method, status, fields, size, head, coding) in [
            (Method::GET, 200, &[][..], Size::Known(5), "200 OK|content-length: 5", Coding::Length(5)),
            (Method::GET, 200, &[], Size::None, "200 OK|content-length: 0", Coding::Length(0)),
            (Method::GET, 200, &[], Size::Unknown, "200 OK|transfer-encoding: chunked", Coding::Chunks),
            (Method::GET, 200, said, Size::Known(5), "200 OK|content-length: 5", Coding::Length(5)),
            (Method::GET, 200, said, Size::None, "200 OK|content-length: 0", Coding::Length(0)),
            (Method::GET, 200, said, Size::Unknown, "200 OK|content-length: 7", Coding::Length(7)),
            (Method::GET, 404, said, Size::Unknown, "404 Not Found|content-length: 7", Coding::Length(7)),
            (Method::HEAD, 200, said, Size::None, "200 OK|content-length: 7", Coding::Length(0)),
            (Method::HEAD, 200, &[], Size::None, "200 OK", Coding::Length(0)),
            (Method::HEAD, 200, &[], Size::Unknown, "200 OK", Coding::Length(0)),
            (Method::HEAD, 200, &[], Size::Known(5), "200 OK|content-length: 5", Coding::Length(0)),
            (Method::GET, 204, said, Size::Unknown, "204 No Content", Coding::Length(0)),
            (Method::GET, 304, said, Size::Known(5), "304 Not Modified", Coding::Length(0)),
        ] {
            assert_eq!(written(&method, status, fields, size), (head.to_owned(), Framed { coding, keeps_alive: true }));
        }
    }

    #[test]
    fn the_last_response_says_so_once() {
        let (head, framed) = written(&Method::GET, 200, &[("connection", "Close")], Size::None);
        assert_eq!((head.as_str(), framed.keeps_alive), ("200 OK|connection: Close|content-length: 0", false));
        let occasion = Occasion { method: &Method::GET, keeps_alive: false, date: b"D" };
        let mut bytes = Vec::new();
        let said = ResponseHead { reason: Some("Fine".into()), ..ResponseHead::default() };
        let framed = super::head(&mut bytes, &said, Size::None, occasion);
        let wanted = "HTTP/1.1 200 Fine\r\nconnection: close\r\ncontent-length: 0\r\ndate: D\r\n\r\n";
        assert_eq!((String::from_utf8(bytes).unwrap().as_str(), framed.keeps_alive), (wanted, false));
        assert!(written(&Method::GET, 200, &[("date", "then")], Size::None).0.contains("date: then"));
    }

    #[test]
    fn chunks_have_their_sizes_and_an_end() {
        let (_, mut framed) = written(&Method::GET, 200, &[], Size::Unknown);
        let mut bytes = Vec::new();
        for size in [1, 0x0f, 0x10, 0xabcd, 0] {
            assert_eq!(framed.before(&mut bytes, size), size);
        }
        assert_eq!(
            (String::from_utf8(bytes).unwrap().as_str(), framed.after()),
            ("1\r\nf\r\n10\r\nabcd\r\n", b"\r\n".as_slice())
        );
        let mut bytes = Vec::new();
        assert!(framed.end(&mut bytes, None) && framed.is_full());
        assert_eq!(bytes, b"0\r\n\r\n");
    }

    #[test]
    fn no_more_is_written_than_was_announced_and_less_is_no_end() {
        let (_, mut framed) = written(&Method::GET, 200, &[], Size::Known(5));
        let mut bytes = Vec::new();
        assert_eq!((framed.before(&mut bytes, 3), framed.is_full(), framed.after()), (3, false, b"".as_slice()));
        assert!(!framed.end(&mut bytes, None));
        assert_eq!((framed.before(&mut bytes, 9), framed.is_full()), (2, true));
        assert!(framed.end(&mut bytes, None) && bytes.is_empty());
    }

    #[test]
    fn trailers_that_may_be_late_are_written_named_or_not() {
        let (_, mut framed) = written(&Method::GET, 200, &[("trailer", "x-sum, Host")], Size::Unknown);
        let trailers =
            ["x-sum", "host", "x-other", "x-more"].map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let mut bytes = Vec::new();
        assert!(framed.end(&mut bytes, Some(trailers.into_iter().collect())));
        assert_eq!(String::from_utf8(bytes).unwrap(), "0\r\nx-sum: 1\r\nx-more: 1\r\nx-other: 1\r\n\r\n");
    }
}
