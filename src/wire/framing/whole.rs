//! Requests that say how long they are, made into what the proxy works with in the pass that checks them.
//!
//! [`Framing`](super::Framing) says where a message ends and leaves it to another to read it. For the plain call, which nearly all
//! are, that was two readers and a state machine between them. Here the same pass notes where the fields are; whatever it does not
//! take, be it refused or only unusual, is left to the longer way, which looks at the same bytes again and by the same rules.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};
use smallvec::SmallVec;

use super::chars::trimmed;
use super::head::{Extent, Head, Most, Notes};
use super::refusal::Refusal;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::{Message, RequestHead};

/// Bytes of a body that is waited for.
pub const MAX_WHOLE: usize = 16 << 10;
/// Bytes of the longest body that is not left to the longer way: what can be counted, with its head, on any machine.
const MAX_LONG: u64 = (u32::MAX / 2) as u64;
/// Fields for which there is room without an allocation; the official SDKs send about 20.
const INLINE_FIELDS: usize = 24;

/// Reads the requests of one connection. Between two of them it holds no memory.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    /// The message that comes in pieces. Boxed, because most come in one.
    kept: Option<Box<Whole>>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    head: Most,
    body: usize,
}

/// What begins the bytes that were looked at.
#[derive(Clone, Copy, Debug)]
pub enum Look<'r> {
    /// Part of a head; or, if `head`, a whole one without all of its body.
    More {
        /// Whether the head is there.
        head: bool,
    },
    /// A request.
    Whole(&'r Whole),
    /// The head of a request, and as much of its body as there is: it is too long to be waited for.
    Long(&'r Whole),
    /// What is none of these: a refused head, or an unusual framing.
    Other,
}

/// A message of which all is there, or of a long one all but the end of its body, and where its parts are.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    head: Head,
    fields: Places,
    /// Length of the head, once that is known.
    head_length: usize,
    length: usize,
}

/// A request and what it says of its connection.
#[derive(Debug)]
pub struct Plain<B> {
    /// The request. Its fields and its body are slices of the message. Boxed, because it goes through many hands.
    pub request: Box<Message<RequestHead, B>>,
    /// Whether another may follow.
    pub keeps_alive: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Field {
    at: u32,
    name: u32,
    value: u32,
}

#[derive(Clone, Debug, Default)]
struct Places(SmallVec<[Field; INLINE_FIELDS]>);

impl Notes for Places {
    fn field(&mut self, at: usize, name: usize, value: usize) {
        // Below the limit of a head, which is one of 32 bits.
        self.0.push(Field { at: at as u32, name: name as u32, value: value as u32 });
    }
}

impl Reader {
    /// For a connection whose heads have at most so many bytes, and whose bodies so many: a longer one is not waited for.
    pub fn new(head: usize, body: usize) -> Self {
        let head = Most { bytes: head.min(u32::MAX as usize), fields: super::USUAL_FIELDS };
        Self { limits: Limits { head, body: body.min(MAX_WHOLE) }, kept: None }
    }

    /// The same, and whose heads have at most so many fields.
    #[must_use]
    pub fn with_fields(mut self, fields: u32) -> Self {
        self.limits.head.fields = fields;
        self
    }

    /// Looks at bytes that begin with a message: all that came of it, and at every call more than at the one before. A request is noted
    /// in `room`, an empty one.
    pub fn look<'r>(&mut self, bytes: &[u8], room: &'r mut Whole) -> Look<'r> {
        let Some(kept) = &mut self.kept else {
            return match room.advance(bytes, self.limits) {
                Err(Unfit) => Look::Other,
                Ok(true) => room.seen(self.limits),
                Ok(false) => {
                    let head = room.head_length > 0;
                    self.kept = Some(Box::new(std::mem::take(room)));
                    Look::More { head }
                }
            };
        };
        match kept.advance(bytes, self.limits) {
            Ok(false) => Look::More { head: kept.head_length > 0 },
            Ok(true) => match self.kept.take() {
                Some(whole) => {
                    *room = *whole;
                    room.seen(self.limits)
                }
                None => Look::Other,
            },
            Err(Unfit) => Look::Other,
        }
    }

    /// The head of a request whose body is waited for, of the bytes that were looked at; `None` where its end is not there, or where
    /// it is left to the longer way.
    pub fn head(&self, bytes: &[u8]) -> Option<RequestHead> {
        let whole = self.kept.as_ref().filter(|whole| whole.head_length > 0)?;
        Some(whole.read_head(&Bytes::copy_from_slice(bytes.get(..whole.head_length)?))?.0)
    }
}

/// Why a message is left to the longer way.
struct Unfit;

impl From<Refusal> for Unfit {
    fn from(_: Refusal) -> Self {
        Self
    }
}

impl Whole {
    const fn seen(&self, limits: Limits) -> Look<'_> {
        if self.is_long(limits) { Look::Long(self) } else { Look::Whole(self) }
    }

    const fn is_long(&self, limits: Limits) -> bool {
        self.length - self.head_length > limits.body
    }

    /// Reads on in the head, if there is more of it to read; whether there is as much of the message as is waited for.
    fn advance(&mut self, bytes: &[u8], limits: Limits) -> Result<bool, Unfit> {
        if self.head_length == 0 {
            let Some(head_length) = self.head.scan(bytes, limits.head, &mut self.fields)? else { return Ok(false) };
            match self.head.extent(bytes)? {
                Extent::Length(body) if body <= MAX_LONG && !self.head.http10 && !self.head.waits => {
                    self.head_length = head_length;
                    self.length = head_length + body as usize;
                }
                Extent::Length(_) | Extent::Chunked => return Err(Unfit),
            }
        }
        Ok(bytes.len() >= self.length || self.is_long(limits))
    }

    /// Bytes of the message, whether they are there or not.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The request, of the bytes that were looked at; `None` for one that is left to the longer way after all: it asks for another
    /// protocol, or has a target that is no path. `body` makes its body of what there is of it.
    pub fn request<B>(&self, message: &Bytes, body: impl FnOnce(Bytes) -> B) -> Option<Plain<B>> {
        let there = self.head_length..self.length.min(message.len());
        let there = message.get(there.clone()).map(|_| message.slice(there))?;
        let (head, keeps_alive) = self.read_head(message)?;
        Some(Plain { request: Box::new(Message { head, body: body(there) }), keeps_alive })
    }

    /// Bytes of its body, whether they are there or not.
    pub fn body_length(&self) -> usize {
        self.length - self.head_length
    }

    /// The head, as slices of the message, and whether another message may follow.
    fn read_head(&self, message: &Bytes) -> Option<(RequestHead, bool)> {
        let part = |(from, to): (usize, usize)| message.get(from..to).map(|_| message.slice(from..to));
        let target = part(self.head.line.target).filter(|target| target.starts_with(b"/"))?;
        let target = Uri::from(PathAndQuery::from_maybe_shared(target).ok()?);
        let (from, to) = self.head.line.method;
        let method = Method::from_bytes(message.get(from..to)?).ok()?;
        let mut fields = Fields::of_received(message.clone(), self.fields.0.len());
        let mut keeps_alive = true;
        for field in &self.fields.0 {
            let (at, name_end) = (field.at as usize, (field.at + field.name) as usize);
            let from = name_end + 1;
            let sent = message.get(from..from + field.value as usize)?;
            let value = sent.trim_ascii_start();
            let from = from + sent.len() - value.len();
            let value = value.trim_ascii_end();
            let known = Name::of(message.get(at..name_end)?);
            match known {
                Some(Name::Connection) => {
                    let mut options = value.split(|byte| *byte == b',');
                    keeps_alive &= !options.any(|option| trimmed(option).eq_ignore_ascii_case(b"close"));
                }
                Some(Name::Upgrade) => return None,
                _ => {}
            }
            fields.note(known, (at, name_end), (from, from + value.len()));
        }
        Some((RequestHead { method, target, version: Version::HTTP_11, fields }, keeps_alive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request, with the bytes that are left of those that come in `pieces`.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Plain<Bytes>, Vec<u8>), &'static str> {
        let (mut reader, mut kept) = (Reader::new(1 << 10, usize::MAX), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            match reader.look(&kept, &mut Whole::default()) {
                Look::More { .. } => {}
                Look::Other => return Err("other"),
                Look::Long(_) => return Err("long"),
                Look::Whole(whole) => {
                    let rest = kept.split_off(whole.length());
                    return Ok((whole.request(&kept.into(), |body| body).ok_or("other after all")?, rest));
                }
            }
        }
        Err("more")
    }

    const POST: &str = "POST /v1/x?y=z HTTP/1.1\r\nHost: h\r\nX-Custom: \t a b \r\nContent-Length: 5\r\nx-custom:\r\n\r\nhello";

    #[test]
    fn a_request_is_what_was_sent_wherever_it_was_cut() {
        for size in 1..=POST.len() {
            let (plain, rest) = read(format!("\r\n{POST}GET").as_bytes().chunks(size)).unwrap();
            let Message { head, body } = *plain.request;
            assert_eq!(
                (head.method.as_str(), head.target.to_string().as_str(), &body[..]),
                ("POST", "/v1/x?y=z", b"hello".as_slice())
            );
            let custom = http::HeaderName::from_static("x-custom");
            assert_eq!(head.fields.texts(&custom).collect::<Vec<_>>(), ["a b", ""]);
            assert_eq!((head.fields.len(), head.fields.get_text(Name::ContentLength), plain.keeps_alive), (4, Some("5"), true));
            assert!(b"GET".starts_with(&rest));
        }
    }

    #[test]
    fn nothing_is_copied() {
        let bytes = Bytes::copy_from_slice(POST.as_bytes());
        let mut room = Whole::default();
        let Look::Whole(whole) = Reader::new(1 << 10, usize::MAX).look(&bytes, &mut room) else { panic!("it is whole") };
        let request = whole.request(&bytes, |body| body).unwrap().request;
        let range = bytes.as_ptr_range();
        assert!(range.contains(&request.body.as_ptr()) && range.contains(&request.head.fields.get(Name::Host).unwrap().as_ptr()));
        assert!(range.contains(&request.head.target.path().as_ptr()));
    }

    #[test]
    fn a_client_says_whether_another_request_follows() {
        for (fields, keeps_alive) in [
            ("", true),
            ("Connection: keep-alive\r\n", true),
            ("Connection: x, Close\r\n", false),
            ("Connection: x\r\nConnection: close \r\n", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            assert_eq!(read([text.as_bytes()]).unwrap().0.keeps_alive, keeps_alive, "{fields}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_longer_way() {
        let with = |line: &str, fields: &str| read([format!("{line}\r\nHost: h\r\n{fields}\r\n").as_bytes()]).map(drop);
        assert_eq!(with("GET / HTTP/1.1", ""), Ok(()));
        for (line, fields) in [
            ("GET / HTTP/1.0", ""),
            ("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n"),
            ("POST / HTTP/1.1", &*format!("Content-Length: {}\r\n", MAX_LONG + 1)),
            ("GET / HTTP/1.1", "Content-Length: x\r\n"),
            ("POST / HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 5\r\n"),
            ("GET /\0 HTTP/1.1", ""),
            ("GET / HTTP/1.1", "Host: h\r\n"),
        ] {
            assert_eq!(with(line, fields), Err("other"), "{line} {fields}");
        }
        for (line, fields) in [
            ("GET / HTTP/1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
            ("GET http://h/ HTTP/1.1", ""),
            ("OPTIONS * HTTP/1.1", ""),
        ] {
            assert_eq!(with(line, fields), Err("other after all"), "{line} {fields}");
        }
    }

    #[test]
    fn a_head_without_its_body_says_so() {
        let head = POST.len() - 5;
        let mut reader = Reader::new(1 << 10, usize::MAX);
        assert!(matches!(reader.look(&POST.as_bytes()[..head - 1], &mut Whole::default()), Look::More { head: false }));
        assert!(matches!(reader.look(&POST.as_bytes()[..head], &mut Whole::default()), Look::More { head: true }));
        assert!(matches!(reader.look(&POST.as_bytes()[..head + 4], &mut Whole::default()), Look::More { head: true }));
        assert!(matches!(reader.look(POST.as_bytes(), &mut Whole::default()), Look::Whole(_)));
        assert!(reader.kept.is_none(), "between two requests nothing is held");
    }

    #[test]
    fn a_long_body_is_not_waited_for() {
        let head = POST.len() - 5;
        let mut reader = Reader::new(1 << 10, 4);
        let mut room = Whole::default();
        assert!(matches!(reader.look(&POST.as_bytes()[..head - 1], &mut room), Look::More { head: false }));
        let message = Bytes::copy_from_slice(&POST.as_bytes()[..head + 2]);
        let Look::Long(long) = reader.look(&message, &mut room) else { panic!("its head is there") };
        let plain = long.request(&message, |body| body).unwrap();
        assert_eq!((&plain.request.body[..], long.body_length(), long.length()), (b"he".as_slice(), 5, POST.len()));
        assert!(reader.kept.is_none());
    }
}
