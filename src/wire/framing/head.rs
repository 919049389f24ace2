//! One pass over a head: every byte is looked at once, and what decides where the body ends is noted on the way.
//!
//! Nothing is made lenient that RFC 9112 lets a recipient be lenient about, because each leniency is a byte that the next reader
//! may see otherwise: a bare LF, a blank before a colon, a folded line. The only one kept is a single empty line before a request,
//! which old clients send after a body.

use super::chars::{HOST, METHOD, TARGET, TOKEN, end_of, end_of_name, end_of_value, hex_pair, is, trimmed};
use super::refusal::Refusal;

/// Longest method: the longest registered one has 17 bytes.
const MAX_METHOD: usize = 32;
/// Longest target. RFC 9112, 3 asks for 8,000 bytes of request line at least.
const MAX_TARGET: usize = 16 << 10;
/// Longest name of a field; the longest registered one has about 50 bytes.
const MAX_NAME: usize = 1 << 10;

/// The most that a head may have, or a trailer section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) bytes: usize,
    pub(super) fields: u32,
}

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// So many bytes, or none.
    Length(u64),
    /// By the chunked coding.
    Chunked,
}

/// A place in the head.
type Span = (usize, usize);

/// Who wants to know where the fields of a head are.
pub(super) trait Notes {
    /// A field begins at `at`; its name has so many bytes, and its value, which begins one byte behind that, so many.
    fn field(&mut self, at: usize, name: usize, value: usize);
}

/// Nobody: to know where a message ends it does not take that.
impl Notes for () {
    fn field(&mut self, _: usize, _: usize, _: usize) {}
}

/// The parts of a request line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) method: Span,
    pub(super) target: Span,
}

/// What is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    RequestLine,
    Fields,
    Trailers,
}

/// Where in a line the bytes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In a part that is short and is read again with what follows it.
    #[default]
    Short,
    /// In a target or a value, which can be long: the end of it is looked for in what is new.
    Target,
    Value,
}

/// A head that is being read, or a trailer section.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    section: Section,
    pub(super) line: Line,
    /// Where the line begins that is being read.
    at: usize,
    place: Place,
    /// Up to where the target or value is known to go on.
    clean: usize,
    fields: u32,
    pub(super) http10: bool,
    /// Whether the sender waits for leave to send the body.
    pub(super) waits: bool,
    chunked: bool,
    length: Option<u64>,
    host: Option<Span>,
    /// The authority of a target in absolute form, and its default port.
    authority: Option<(Span, &'static [u8])>,
}

impl Head {
    /// A trailer section.
    pub(super) fn trailers() -> Self {
        Self { section: Section::Trailers, ..Self::default() }
    }

    /// Reads on in `bytes`, which begin where the head does and go further than at the call before. When all is there, its length.
    /// Every field is told to `notes` once.
    pub(super) fn scan<N: Notes>(&mut self, bytes: &[u8], most: Most, notes: &mut N) -> Result<Option<usize>, Refusal> {
        let limit = most.bytes;
        if self.goes_on(bytes) {
            return self.wait(bytes, limit);
        }
        if self.at == 0 && self.section == Section::RequestLine {
            match bytes {
                [b'\r', b'\n', ..] => self.at = 2,
                [b'\r'] => return self.wait(bytes, limit),
                _ => {}
            }
        }
        if self.section == Section::RequestLine {
            let line = bytes.get(self.at..).unwrap_or_default();
            let Some(length) = self.request_line(line)? else { return self.wait(bytes, limit) };
            self.at += length;
            self.section = Section::Fields;
        }
        if !self.fields(bytes, most.fields, notes)? {
            return self.wait(bytes, limit);
        }
        if self.at > limit { Err(Refusal::HeadTooLarge) } else { Ok(Some(self.at)) }
    }

    /// Whether the bytes still end within the same target or value, so that reading the line again would find nothing new.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        let more = bytes.get(self.clean..).unwrap_or_default();
        let end = match std::mem::take(&mut self.place) {
            Place::Short => return false,
            // An escape may be half there: it is read again.
            place @ Place::Target => end_of(TARGET, more).map_or(Some((place, 2)), |_| None),
            place @ Place::Value => end_of_value(more).map_or(Some((place, 0)), |_| None),
        };
        let Some((place, again)) = end else { return false };
        self.place = place;
        self.clean = bytes.len().saturating_sub(again).max(self.clean);
        true
    }

    /// There is more to come, unless there is too much already.
    fn wait(&self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Refusal> {
        if bytes.len() >= limit {
            return Err(if self.section == Section::RequestLine { Refusal::TargetTooLong } else { Refusal::HeadTooLarge });
        }
        Ok(None)
    }

    /// The length of the request line, if all of it is there.
    fn request_line(&mut self, line: &[u8]) -> Result<Option<usize>, Refusal> {
        let method_end = end_of(METHOD, line).unwrap_or(line.len());
        let (method, rest) = line.split_at(method_end);
        if method.len() > MAX_METHOD {
            return Err(Refusal::Method);
        }
        let target = match rest {
            [] => return Ok(None),
            [b' ', target @ ..] if !method.is_empty() => target,
            // A token it may be, but none that anybody registered; without a space behind it, this is not even a request.
            [other, ..] if is(*other, TOKEN) => {
                return match end_of(TOKEN, line).and_then(|end| line.get(end)) {
                    None if line.len() <= MAX_METHOD => Ok(None),
                    None | Some(b' ') => Err(Refusal::Method),
                    Some(_) => Err(Refusal::RequestLine),
                };
            }
            _ => return Err(Refusal::RequestLine),
        };
        if matches!(method, b"CONNECT" | b"TRACE") {
            return Err(Refusal::MethodNotAllowed);
        }
        let Some(target_end) = end_of_target(target)? else {
            (self.place, self.clean) = (Place::Target, self.at + line.len().saturating_sub(2));
            return Ok(None);
        };
        let Some(http10) = version(target.get(target_end + 1..).unwrap_or_default())? else { return Ok(None) };
        if method == b"PRI" {
            return Err(Refusal::Method);
        }
        let start = self.at + method_end + 1;
        self.authority = authority(method, target.get(..target_end).unwrap_or_default())?
            .map(|((from, to), port)| ((start + from, start + to), port));
        self.http10 = http10;
        self.line = Line { method: (self.at, self.at + method_end), target: (start, start + target_end) };
        Ok(Some(method_end + 1 + target_end + 1 + b"HTTP/1.1\r\n".len()))
    }

    /// Reads fields up to the empty line; false when that is not there yet.
    fn fields<N: Notes>(&mut self, bytes: &[u8], most: u32, notes: &mut N) -> Result<bool, Refusal> {
        let wrong = if self.section == Section::Trailers { Refusal::Trailer } else { Refusal::Field };
        let mut at = self.at;
        loop {
            let line = bytes.get(at..).unwrap_or_default();
            let name_end = end_of_name(line).unwrap_or(line.len());
            match line.get(name_end) {
                _ if name_end > MAX_NAME => return Err(Refusal::HeadTooLarge),
                Some(b':') if name_end > 0 => {}
                Some(b'\r') if name_end == 0 => match line.get(1) {
                    Some(b'\n') => {
                        self.at = at + 2;
                        return Ok(true);
                    }
                    Some(_) => return Err(wrong),
                    None => break,
                },
                Some(_) => return Err(wrong),
                None => break,
            }
            let rest = line.get(name_end + 1..).unwrap_or_default();
            let Some(value_end) = end_of_value(rest) else {
                (self.place, self.clean) = (Place::Value, bytes.len());
                break;
            };
            match rest.get(value_end..value_end + 2) {
                Some(b"\r\n") => {}
                None if rest.get(value_end) == Some(&b'\r') => break,
                _ => return Err(wrong),
            }
            self.fields += 1;
            if self.fields > most {
                return Err(Refusal::HeadTooLarge);
            }
            if matches!(name_end, 4 | 6 | 14 | 17) || self.section == Section::Trailers {
                let (name, value) = (line.get(..name_end).unwrap_or_default(), rest.get(..value_end).unwrap_or_default());
                self.note(name, value, at + name_end + 1)?;
            }
            notes.field(at, name_end, value_end);
            at += name_end + 1 + value_end + 2;
        }
        self.at = at;
        Ok(false)
    }

    /// Notes a field that says how the message is framed or for whom it is. Its value begins at `from`.
    fn note(&mut self, name: &[u8], value: &[u8], from: usize) -> Result<(), Refusal> {
        if self.section == Section::Trailers {
            return if not_for_trailers(name) { Err(Refusal::Trailer) } else { Ok(()) };
        }
        let bare = || trimmed(value);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                // A second one, even the same, is a request that two readers may route to two places.
                if self.host.is_some() || !valid_host(bare()) {
                    return Err(Refusal::Host);
                }
                self.host = Some((from, from + value.len()));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() || self.chunked {
                    return Err(Refusal::ContentLength);
                }
                self.length = Some(content_length(bare())?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || self.http10 {
                    return Err(Refusal::TransferEncoding);
                }
                if self.length.is_some() {
                    return Err(Refusal::ContentLength);
                }
                if !bare().eq_ignore_ascii_case(b"chunked") {
                    return Err(if ends_chunked(bare()) { Refusal::Coding } else { Refusal::TransferEncoding });
                }
                self.chunked = true;
            }
            14 | 17 if is_disguised(name) => return Err(Refusal::Field),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if !bare().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.waits = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// With all of the head there: where the body ends.
    pub(super) fn extent(&self, bytes: &[u8]) -> Result<Extent, Refusal> {
        let at = |(from, to)| trimmed(bytes.get(from..to).unwrap_or_default());
        match (self.host, self.authority) {
            (None, _) if !self.http10 => return Err(Refusal::Host),
            (Some(host), Some((authority, port))) if !same_host(at(host), at(authority), port) => return Err(Refusal::Host),
            _ => {}
        }
        Ok(if self.chunked { Extent::Chunked } else { Extent::Length(self.length.unwrap_or(0)) })
    }
}

/// Where the target ends, if its end is there.
fn end_of_target(target: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut end = 0;
    loop {
        let rest = target.get(end..).unwrap_or_default();
        end += end_of(TARGET, rest).unwrap_or(rest.len());
        if end > MAX_TARGET {
            return Err(Refusal::TargetTooLong);
        }
        match target.get(end..).unwrap_or_default() {
            [] | [b'%'] | [b'%', b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F'] => return Ok(None),
            // An escaped NUL ends a string for some readers, and is part of no name.
            [b'%', code @ ..] if hex_pair(code).is_some_and(|code| code != 0) => end += 3,
            [b' ', ..] if end > 0 => return Ok(Some(end)),
            // `GET /` and an end of line is all of a request of HTTP/0.9.
            [b' ' | b'\r' | b'\n', ..] => return Err(Refusal::RequestLine),
            _ => return Err(Refusal::Target),
        }
    }
}

/// Whether it is HTTP/1.0, if the end of the line is there.
fn version(rest: &[u8]) -> Result<Option<bool>, Refusal> {
    match rest {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b'\r', b'\n', ..] => Ok(Some(*minor == b'0')),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r' | b'\n', ..]
            if major.is_ascii_digit() && minor.is_ascii_digit() && (*major != b'1' || *minor > b'1') =>
        {
            Err(Refusal::Version)
        }
        _ if rest.len() >= 10 || end_of_value(rest).is_some_and(|end| rest.get(end..) != Some(b"\r")) => {
            Err(Refusal::RequestLine)
        }
        _ => Ok(None),
    }
}

/// The authority of a target in absolute form and its default port, `None` for the other forms. RFC 9112, 3.2.
fn authority(method: &[u8], target: &[u8]) -> Result<Option<(Span, &'static [u8])>, Refusal> {
    if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
        return Ok(None);
    }
    for (scheme, port) in [(b"http://".as_slice(), b"80".as_slice()), (b"https://", b"443")] {
        if target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
            let rest = target.get(scheme.len()..).unwrap_or_default();
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            return match rest.get(..end) {
                Some(authority) if valid_host(authority) => Ok(Some(((scheme.len(), scheme.len() + end), port))),
                _ => Err(Refusal::Target),
            };
        }
    }
    Err(Refusal::Target)
}

/// `uri-host [ ":" port ]` with a host that is not empty, and without user information.
pub(super) fn valid_host(value: &[u8]) -> bool {
    let (host, rest) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|byte| *byte == b']') else { return false };
        let (address, rest) = value.split_at(end + 1);
        let inner = address.get(1..end).unwrap_or_default();
        let valid = std::str::from_utf8(inner).is_ok_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        (valid, rest)
    } else {
        let mut end = 0;
        loop {
            let rest = value.get(end..).unwrap_or_default();
            end += end_of(HOST, rest).unwrap_or(rest.len());
            match value.get(end..).unwrap_or_default() {
                [b'%', code @ ..] if hex_pair(code).is_some_and(|code| code != 0) => end += 3,
                rest => break (end > 0, rest),
            }
        }
    };
    let port = match rest {
        [] => true,
        [b':', port @ ..] => port.is_empty() || port_number(port).is_some(),
        _ => false,
    };
    host && port
}

fn port_number(port: &[u8]) -> Option<u16> {
    port.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(port).ok()?.parse().ok())?
}

/// Whether two authorities name the same, the scheme's default port being said or not.
pub(super) fn same_host(one: &[u8], other: &[u8], default_port: &[u8]) -> bool {
    let plain = |value: &[u8]| {
        let value = value.strip_suffix(default_port).filter(|rest| rest.ends_with(b":")).unwrap_or(value);
        value.strip_suffix(b":").unwrap_or(value).to_ascii_lowercase()
    };
    plain(one) == plain(other)
}

fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::ContentLength);
    }
    let length = value.iter().try_fold(0_u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    // Half of the range is room enough for whoever adds to it.
    length.filter(|length| *length <= u64::MAX / 2).ok_or(Refusal::BodyTooLong)
}

/// Whether a name is that of a field that frames, but for underscores where that one has hyphens: servers that make variables of fields take one for the
/// other.
fn is_disguised(name: &[u8]) -> bool {
    let plain = name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
    plain.clone().eq(*b"content-length") || plain.eq(*b"transfer-encoding")
}

/// Whether a list of codings ends with `chunked` and is otherwise one of known codings, which a server may do without.
fn ends_chunked(value: &[u8]) -> bool {
    let mut codings = value.split(|byte| *byte == b',').map(trimmed).rev();
    let known: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
        && codings.all(|coding| known.iter().any(|known| coding.eq_ignore_ascii_case(known)))
}

/// RFC 9110, 6.5.1: fields that frame, route, authenticate or say what the content is. Whoever merged one of these into the head
/// would have been told something else than everybody before.
fn not_for_trailers(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 21] = [
        b"host",
        b"te",
        b"expect",
        b"range",
        b"cookie",
        b"set-cookie",
        b"trailer",
        b"upgrade",
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"max-forwards",
        b"cache-control",
        b"authorization",
        b"www-authenticate",
        b"api-key",
        b"x-api-key",
        b"x-goog-api-key",
        b"x-request-id",
        b"forwarded",
        b"pragma",
    ];
    const PREFIXES: [&[u8]; 6] = [b"content-", b"proxy-", b"if-", b"x-amz-", b"x-forwarded-", b"x-windward-"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
        || PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}
