//! The framing of a body: what is data, what is not, and where it ends.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::{END, Invalid, MAX_FIELDS, MAX_HEAD};

/// Bytes of the line before a chunk: sixteen digits and what extensions there may be. None are in use.
pub(super) const MAX_CHUNK_LINE: usize = 512;

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
    /// The fields after the last chunk, of which so many bytes were searched for their end: who sends them one byte at a time must
    /// not have all of them read again for each.
    Trailers(usize),
    /// Nothing is left; these were the trailers.
    Done(Option<Box<HeaderMap>>),
}

impl Decoder {
    pub(super) const fn length(length: u64) -> Self {
        Self(if length == 0 { State::Done(None) } else { State::Length(length) })
    }

    pub(super) const fn chunked() -> Self {
        Self(State::ChunkLine)
    }

    pub(super) const fn until_close() -> Self {
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
                self.0 = if size == 0 { State::Trailers(0) } else { State::Chunk(size) };
                length
            })),
            State::Trailers(searched) => Ok(trailers(input, searched)?.map(|(trailers, length)| {
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

/// Trailers, and the number of bytes they take; `None` when they have not ended. What must not come so late is left out.
#[expect(clippy::type_complexity, reason = "two nested answers, used once")]
fn trailers(input: &[u8], searched: &mut usize) -> Result<Option<(Option<Box<HeaderMap>>, usize)>, Invalid> {
    const NONE: Invalid = Invalid("what comes after the last chunk is no trailer");
    if input.starts_with(b"\r\n") {
        return Ok(Some((None, 2)));
    }
    let from = searched.saturating_sub(3);
    let Some(at) = END.find(input.get(from..).unwrap_or_default()) else {
        // What is wrong may be asked for once more, and has to be found again.
        if has_bare_line_feed(input, *searched) {
            return Err(NONE);
        }
        *searched = input.len();
        return if input.len() < MAX_HEAD { Ok(None) } else { Err(Invalid("the trailers are too long")) };
    };
    let length = from + at + 4;
    if has_bare_line_feed(input.get(..length).unwrap_or_default(), *searched) {
        return Err(NONE);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(Status::Complete((read, fields))) = httparse::parse_headers(input.get(..length).unwrap_or_default(), &mut fields)
    else {
        return Err(NONE);
    };
    if read != length {
        return Err(NONE);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a trailer's name is none"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Invalid("a trailer's value is none"))?;
        trailers.append(name, value);
    }
    keep_trailers(&mut trailers);
    Ok(Some(((!trailers.is_empty()).then(|| Box::new(trailers)), length)))
}

/// Whether a line behind `from` ends with LF alone. Unlike in a head, nobody has ever sent that; hyper refuses it as well.
fn has_bare_line_feed(input: &[u8], from: usize) -> bool {
    let mut ends = memchr::memchr_iter(b'\n', input.get(from..).unwrap_or_default()).map(|at| from + at);
    ends.any(|end| end.checked_sub(1).and_then(|before| input.get(before)) != Some(&b'\r'))
}

/// Takes out the fields that must not be trailers (RFC 9110, 6.5.1): those that frame, route, authorize, or say how the content that
/// has passed was to be read; and those about a connection, which may be none of the next one's.
pub fn keep_trailers(fields: &mut HeaderMap) {
    for late in &LATE {
        fields.remove(late);
    }
}

static LATE: [HeaderName; 15] = [
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    HOST,
    AUTHORIZATION,
    COOKIE,
    SET_COOKIE,
    TE,
    TRAILER,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
