//! Responses of HTTP/1.1 as they come from a backend: the head, and the framing of what follows it.
//!
//! It reads what hyper's client would, and is for requests that are there as a whole, which is nearly all of them: without the two
//! channels and the second state machine between hyper's connection and its user an exchange takes 10,000 instructions less, a
//! tenth of the whole. What two readers could understand in two ways is refused: both framings at once, lengths that differ, a
//! coding that nobody asked for. Everything is bounded, since a backend may be broken, or not the one that it is taken for.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, response};
use httparse::{Header, ParserConfig, Status};
use memchr::memmem::Finder;

/// Bytes of a response head. Real ones have a few KiB; Envoy refuses above 60 KiB, nginx above 4 or 8. It bounds trailers as well.
pub const MAX_HEAD: usize = 256 << 10;
/// Fields of a head or of trailers; hyper's own limit is 100.
const MAX_FIELDS: usize = 128;
/// Bytes of the line before a chunk: sixteen digits and what extensions there may be. None are in use.
const MAX_CHUNK_LINE: usize = 512;

/// Why a response cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// A response head, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// Status and fields, hop-by-hop fields included; `Content-Length` stands once at most and never beside `Transfer-Encoding`.
    pub parts: response::Parts,
    /// The reason, where it is another than the usual one.
    pub reason: Option<Bytes>,
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
        None if input.len() < MAX_HEAD => Ok(None),
        _ => Err(Invalid("the head is too long")),
    }
}

static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

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
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| bytes.slice_ref(reason.as_bytes()));
    let said = read_fields(bytes, parsed.headers, &mut parts.headers)?;
    if said.chunked && parts.version == Version::HTTP_10 {
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
    let keeps_alive = parts.version == Version::HTTP_11 && !said.close && !body.ends_with_connection();
    Ok(Head { parts, reason, body, keeps_alive })
}

/// What the fields of a head say of its message.
#[derive(Default)]
struct Said {
    chunked: bool,
    length: Option<u64>,
    close: bool,
}

/// Every value is a part of the head, and shares it.
fn read_fields(head: &Bytes, fields: &[Header<'_>], into: &mut HeaderMap) -> Result<Said, Invalid> {
    let mut said = Said::default();
    into.reserve(fields.len() + ROOM_FOR_OURS);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a field's name is none"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| Invalid("a field's value has a control character"))?;
        if name == CONTENT_LENGTH {
            let length = one_length(field.value)?;
            if said.length.is_some_and(|other| other != length) {
                return Err(Invalid("the response has lengths that differ"));
            }
            if said.length.replace(length).is_none() {
                into.insert(name, HeaderValue::from(length));
            }
            continue;
        }
        if name == TRANSFER_ENCODING {
            if said.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Invalid("the response has a Transfer-Encoding other than chunked, which nobody asked for"));
            }
            said.chunked = true;
        } else if name == CONNECTION {
            let mut options = field.value.split(|byte| *byte == b',');
            said.close |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
        into.append(name, value);
    }
    if said.chunked && said.length.is_some() {
        return Err(Invalid("the response has both Transfer-Encoding and Content-Length"));
    }
    Ok(said)
}

/// Fields that the proxy adds to a response: with room for them the map is not built a second time.
const ROOM_FOR_OURS: usize = 8;

/// One number, be it written several times.
fn one_length(value: &[u8]) -> Result<u64, Invalid> {
    const NONE: Invalid = Invalid("the response has a Content-Length that is no number");
    let mut lengths = value.split(|byte| *byte == b',').map(|text| {
        let text = text.trim_ascii();
        // Not `parse`, which takes a plus sign.
        let digits = text.iter().all(u8::is_ascii_digit).then_some(text).and_then(|text| std::str::from_utf8(text).ok());
        digits.and_then(|text| text.parse::<u64>().ok()).ok_or(NONE)
    });
    let first = lengths.next().ok_or(NONE)??;
    if lengths.all(|length| length == Ok(first)) { Ok(first) } else { Err(Invalid("the response has lengths that differ")) }
}

/// Takes the framing off a body.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    /// So many bytes are left.
    Length(u64),
    /// All until the connection ends.
    UntilClose,
    /// The line before a chunk.
    ChunkLine,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The line's end after a chunk.
    ChunkEnd,
    /// The fields after the last chunk.
    Trailers,
    /// Nothing is left; these were the trailers.
    Done(Option<Box<HeaderMap>>),
}

impl Decoder {
    const fn length(length: u64) -> Self {
        Self(if length == 0 { State::Done(None) } else { State::Length(length) })
    }

    const fn chunked() -> Self {
        Self(State::ChunkLine)
    }

    const fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// Whether the end of the connection is the body's.
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Whether the data has ended.
    pub const fn is_done(&self) -> bool {
        matches!(self.0, State::Done(_))
    }

    /// Whether nothing comes any more, trailers included.
    pub const fn is_over(&self) -> bool {
        matches!(self.0, State::Done(None))
    }

    /// Bytes left, where that is known.
    pub const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done(_) => Some(0),
            _ => None,
        }
    }

    /// The trailers, once.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.0 {
            State::Done(trailers) => trailers.take().map(|trailers| *trailers),
            _ => None,
        }
    }

    /// The connection has ended: whether that is the body's end too.
    pub fn connection_ended(&mut self) -> Result<(), Invalid> {
        match self.0 {
            State::UntilClose => self.0 = State::Done(None),
            State::Done(_) => {}
            _ => return Err(Invalid("the connection ended within the body")),
        }
        Ok(())
    }

    /// Takes what there is of the body out of `input`, and leaves the beginning of a line that has not ended, or what comes after the
    /// end. Where nothing is to be taken off, nothing is copied.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Bytes, Invalid> {
        match &mut self.0 {
            State::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    self.0 = State::Done(None);
                }
                Ok(input.split_to(count).freeze())
            }
            State::UntilClose => Ok(input.split().freeze()),
            _ => {
                let mut data = BytesMut::with_capacity(input.len());
                let count = self.decode(input, &mut data)?;
                input.advance(count);
                Ok(data.freeze())
            }
        }
    }

    /// The same of bytes that stay where they are; what would be left goes into `rest`.
    pub fn take_from(&mut self, input: &[u8], rest: &mut BytesMut) -> Result<Bytes, Invalid> {
        let mut data = BytesMut::with_capacity(input.len());
        let count = self.decode(input, &mut data)?;
        rest.extend_from_slice(input.get(count..).unwrap_or_default());
        Ok(data.freeze())
    }

    /// Appends what of `input` is data to `data`, and says how many bytes of `input` were taken. What is left of it begins a line
    /// that has not ended, or comes after the end, or is wrong: that is said once what came before it was handed over.
    fn decode(&mut self, input: &[u8], data: &mut BytesMut) -> Result<usize, Invalid> {
        let mut rest = input;
        loop {
            match self.step(rest, data) {
                Ok(Some(taken)) => rest = rest.get(taken..).unwrap_or_default(),
                Err(why) if data.is_empty() => return Err(why),
                Ok(None) | Err(_) => return Ok(input.len() - rest.len()),
            }
        }
    }

    /// One step: how many bytes it took, or `None` when there is nothing more to be made of `input`.
    fn step(&mut self, input: &[u8], data: &mut BytesMut) -> Result<Option<usize>, Invalid> {
        match &mut self.0 {
            State::Done(_) => Ok(None),
            _ if input.is_empty() => Ok(None),
            State::Length(left) | State::Chunk(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                data.extend_from_slice(input.get(..count).unwrap_or_default());
                *left -= count as u64;
                match &self.0 {
                    State::Length(0) => self.0 = State::Done(None),
                    State::Chunk(0) => self.0 = State::ChunkEnd,
                    _ => {}
                }
                Ok(Some(count))
            }
            State::UntilClose => {
                data.extend_from_slice(input);
                Ok(Some(input.len()))
            }
            State::ChunkEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.0 = State::ChunkLine;
                    Ok(Some(2))
                }
                [b'\r'] => Ok(None),
                _ => Err(Invalid("a chunk is longer than it says")),
            },
            State::ChunkLine => Ok(chunk_line(input)?.map(|(size, length)| {
                self.0 = if size == 0 { State::Trailers } else { State::Chunk(size) };
                length
            })),
            State::Trailers => Ok(trailers(input)?.map(|(trailers, length)| {
                self.0 = State::Done(trailers);
                length
            })),
        }
    }
}

/// The size that a chunk's line says, and the line's own length; `None` when it has not ended. What a reader of extensions would see
/// in them ends here.
fn chunk_line(input: &[u8]) -> Result<Option<(u64, usize)>, Invalid> {
    const NONE: Invalid = Invalid("the size of a chunk is none");
    let Some(end) = memchr::memchr(b'\n', input.get(..MAX_CHUNK_LINE.min(input.len())).unwrap_or_default()) else {
        return if input.len() < MAX_CHUNK_LINE { Ok(None) } else { Err(Invalid("the line before a chunk is too long")) };
    };
    let line = input.get(..end).unwrap_or_default().strip_suffix(b"\r").ok_or(NONE)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, after) = line.split_at_checked(digits).ok_or(NONE)?;
    // Sixteen digits are 64 bits.
    if size.is_empty() || size.len() > 16 || !matches!(after.trim_ascii_start(), [] | [b';', ..]) || after.contains(&b'\r') {
        return Err(NONE);
    }
    let size = size.iter().fold(0_u64, |size, digit| size << 4 | u64::from(value_of(*digit)));
    Ok(Some((size, end + 1)))
}

const fn value_of(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a') + 10,
    }
}

/// Trailers, and the number of bytes they take; `None` when they have not ended. What must not come so late (framing, credentials)
/// is left out.
#[expect(clippy::type_complexity, reason = "two nested answers, used once")]
fn trailers(input: &[u8]) -> Result<Option<(Option<Box<HeaderMap>>, usize)>, Invalid> {
    if input.starts_with(b"\r\n") {
        return Ok(Some((None, 2)));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(input, &mut fields) {
        Ok(Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a trailer's name is none"))?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| Invalid("a trailer's value is none"))?;
                if !LATE.contains(&name) {
                    trailers.append(name, value);
                }
            }
            Ok(Some(((!trailers.is_empty()).then(|| Box::new(trailers)), length)))
        }
        Ok(Status::Partial) if input.len() < MAX_HEAD => Ok(None),
        Ok(Status::Partial) => Err(Invalid("the trailers are too long")),
        Err(_) => Err(Invalid("what comes after the last chunk is no trailer")),
    }
}

/// Fields that must not be trailers (RFC 9110, 6.5.1): those that frame, route or authorize.
static LATE: [HeaderName; 8] = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, AUTHORIZATION, COOKIE, SET_COOKIE, TE, TRAILER];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Head, Invalid> {
        let end = head_end(text.as_bytes(), 0)?.unwrap();
        head(&Bytes::copy_from_slice(&text.as_bytes()[..end]), false)
    }

    type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Data, trailers and what is left of a body that comes in pieces that end at `cuts`.
    fn decoded(mut decoder: Decoder, body: &[u8], cuts: &[usize]) -> Result<Decoded, Invalid> {
        let (mut data, mut input, mut from) = (Vec::new(), BytesMut::new(), 0);
        for to in cuts.iter().copied().chain([body.len()]) {
            let to = to.clamp(from, body.len());
            if input.is_empty() {
                data.extend_from_slice(&decoder.take_from(&body[from..to], &mut input)?);
            } else {
                input.extend_from_slice(&body[from..to]);
            }
            from = to;
            while !input.is_empty() {
                let more = decoder.take(&mut input)?;
                data.extend_from_slice(&more);
                if more.is_empty() {
                    break;
                }
            }
        }
        decoder.connection_ended()?;
        Ok((data, decoder.take_trailers(), input.to_vec()))
    }

    #[test]
    fn a_head_says_how_its_body_is_framed() {
        let framing = |fields: &str| {
            let head = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap();
            (head.body.left(), head.body.ends_with_connection(), head.keeps_alive)
        };
        assert_eq!(framing("content-length: 5\r\n"), (Some(5), false, true));
        assert_eq!(framing("Content-Length: 5, 5\r\ncontent-length: 5\r\n"), (Some(5), false, true));
        assert_eq!(framing("content-length: 0\r\n"), (Some(0), false, true));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), (None, false, true));
        assert_eq!(framing("transfer-encoding: chunked\r\nconnection: x, Close\r\n"), (None, false, false));
        assert_eq!(framing(""), (None, true, false));
        let bodyless = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(head(&bodyless, true).unwrap().body.left(), Some(0));
        assert_eq!(read("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n").unwrap().body.left(), Some(0));
        assert!(!read("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n").unwrap().keeps_alive);
    }

    #[test]
    fn a_head_that_two_could_read_in_two_ways_is_refused() {
        for fields in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: +5\r\n",
            "content-length: \r\n",
            "content-length: 5 5\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "folded: a\r\n b\r\n",
            "spaced : a\r\n",
            "nul: a\0b\r\n",
        ] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).is_err(), "{fields:?}");
        }
        for head in ["HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n"] {
            assert!(read(head).is_err(), "{head:?}");
        }
        assert!(head_end(b"HTTP/1.1 200 OK\r\n", 0).unwrap().is_none());
        assert!(head_end(&[b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'a'; MAX_HEAD]].concat(), 0).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert!(read(&many).is_err());
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        assert_eq!(read("HTTP/1.1 200 Fine By Me\r\n\r\n").unwrap().reason.unwrap(), "Fine By Me");
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap().reason, None);
    }

    #[test]
    fn chunks_are_put_together_and_bad_ones_refused() {
        let body = b"5;a=\"b\"\r\nhello\r\n1 \r\n!\r\n000\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\nsurplus";
        let (data, trailers, left) = decoded(Decoder::chunked(), body, &[]).unwrap();
        assert_eq!((&data[..], &left[..]), (&b"hello!"[..], &b"surplus"[..]));
        let trailers = trailers.unwrap();
        assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"1"[..]));
        for bad in [
            "5\nhello\r\n0\r\n\r\n",
            "\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "11111111111111111\r\n",
            "5\r\r\nhello\r\n0\r\n\r\n",
            "0\r\nno trailer\r\n\r\n",
            "5\r\nhello\r\n",
            "5\r\nhell",
        ] {
            assert!(decoded(Decoder::chunked(), bad.as_bytes(), &[]).is_err(), "{bad:?}");
        }
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(MAX_CHUNK_LINE));
        assert!(decoded(Decoder::chunked(), long.as_bytes(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), cuts in prop::collection::vec(0_usize..300, 0..12), trailers: bool) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(if trailers { b"0\r\na: b\r\n\r\n" } else { b"0\r\n\r\n" });
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (data, fields, left) = decoded(Decoder::chunked(), &body, &cuts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!((fields.is_some(), left.len()), (trailers, 0));
            let plain = chunks.concat();
            let whole = decoded(Decoder::length(plain.len() as u64), &plain, &cuts).unwrap();
            prop_assert_eq!(&whole.0, &plain);
            prop_assert_eq!(decoded(Decoder::until_close(), &plain, &cuts).unwrap().0, plain);
        }

        #[test]
        fn nothing_that_comes_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0_usize..200, 0..5), head_first: bool) {
            let bytes = if head_first { [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat() } else { bytes };
            if let Ok(Some(end)) = head_end(&bytes, 0) {
                let _ = head(&Bytes::copy_from_slice(&bytes[..end]), false);
            }
            let mut cuts = cuts;
            cuts.sort_unstable();
            let _ = decoded(Decoder::chunked(), &bytes, &cuts);
        }
    }
}
