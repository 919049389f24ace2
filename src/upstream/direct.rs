//! One HTTP/1.1 connection without hyper, for a request that is there as a whole and asks for no upgrade.
//!
//! Nearly every request of an inference API is one: its body was collected before anybody was chosen. Then there is nothing to
//! coordinate. The request leaves in one vectored write, the head is read by [`wire::response`](crate::wire::response), and the
//! response body reads from the socket itself. Against hyper's connection, polled from the same place, that took 9,000 of
//! 83,700 user instructions off a chat request (`benches/peers/instr.py`, each build in turn), and off a stream's memory a read buffer,
//! a write buffer and two channels. A request whose body is still coming has to be written and answered at once; that stays hyper's (`h1`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, Uri};
use http_body::Frame;
use smallvec::SmallVec;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;

use super::body::SendBody;
use super::connect::BoxIo;
use super::error::{BodyError, SendError, SendErrorKind};
use super::timer::LazyTimer;
use super::turn::others_first;
use crate::wire::fields::{Fields, Name, Names};
use crate::wire::response::{self, Decoder, Head, Invalid};

/// Read at once at most, into a buffer that all connections of a thread share. What was read is copied out of it: a stream that
/// waits holds no buffer, and a copy of the usual kilobyte is cheaper than the allocation it would take to keep one ready.
const READ: usize = 64 << 10;
/// Informational responses before the final one. Real backends send none or one; each costs a look.
pub(super) const MAX_INFORMATIONAL: usize = 16;
/// Bytes of a buffer that an idle connection may keep from the response before; it saves the allocation for the next head.
const KEPT: usize = 8 << 10;
/// Pieces of one vectored write; Linux takes 1,024, and the more of them the fewer of these are made.
const PIECES: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection, idle or with one exchange on it. Dropping it closes the socket.
pub(super) struct Direct {
    io: BoxIo,
    /// Read and not yet made sense of: part of a head or of a chunk's line, mostly nothing.
    input: BytesMut,
    /// How much of it was searched for the end of a head: one that comes byte by byte must not be searched from its beginning for each.
    searched: usize,
    /// What is still to be sent.
    output: Output,
    /// Whether a byte of the request may have left.
    touched: bool,
    /// Whether it cannot carry another exchange: an error, an end, or a word out of turn.
    spent: bool,
    /// For an answer that does not come. It stays set from one exchange to the next: to put a timer in and to take it out again for each
    /// took hundreds of instructions, and a lock twice.
    timer: LazyTimer,
}

/// A request that is there as a whole and asks for no upgrade.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    pub(super) method: &'a Method,
    pub(super) target: &'a Uri,
    pub(super) fields: &'a Fields,
    pub(super) body: &'a SendBody,
}

/// A longer request waits for no others: a few like it, read one after another, would push each other out of the core's cache (of 1 to
/// 2 MiB) before they are written.
const WAITS: usize = 64 << 10;

/// Why there is no response head.
pub(super) enum Failed {
    /// Nothing was sent.
    Unsent(io::Error),
    /// Something may have been.
    Sent(SendError),
    /// There was none in time.
    TimedOut,
}

enum Lost {
    Io(io::Error),
    Invalid(Invalid),
}

/// What is known of a response that has not begun.
struct Waiting {
    /// Whether it has no body whatever it says.
    bodyless: bool,
    /// Informational ones before it.
    informational: usize,
    /// Why the request was not sent to its end.
    broken: Option<io::Error>,
}

impl Direct {
    pub(super) fn new(io: BoxIo) -> Box<Self> {
        Box::new(Self {
            io,
            input: BytesMut::new(),
            searched: 0,
            output: Output::default(),
            touched: false,
            spent: false,
            timer: LazyTimer::default(),
        })
    }

    /// The byte stream of an idle connection, for who speaks on it in another way.
    pub(super) fn into_io(self) -> BoxIo {
        self.io
    }

    /// Sends a request and waits for its head, until then if that is given. `reused` is for the error only.
    pub(super) async fn exchange(&mut self, request: Whole<'_>, reused: bool, until: Option<Instant>) -> Result<Head, Failed> {
        // Requests that were read in one turn leave one behind the other: beside the build without it, in eight rounds each, that took 6 %
        // off the processor time of a chat request at saturation.
        let length: usize = request.body.pieces().iter().map(Bytes::len).sum();
        if length <= WAITS {
            others_first().await;
        }
        // A peer that has closed meanwhile is found here, before anything is sent.
        if let Err(error) = poll_fn(|cx| Poll::Ready(self.look_idle(cx))).await {
            return Err(Failed::Unsent(error));
        }
        (self.output, self.touched) = (Output::of(request), false);
        let mut waiting = Waiting { bodyless: request.method == Method::HEAD, informational: 0, broken: None };
        let head = poll_fn(|cx| match (self.poll_exchange(&mut waiting, cx), until) {
            (Poll::Ready(head), _) => Poll::Ready(Some(head)),
            (Poll::Pending, Some(until)) => self.timer.poll(until, cx).map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
        });
        let Some(head) = head.await else { return Err(Failed::TimedOut) };
        head.map_err(|lost| match lost {
            Lost::Io(error) if !self.touched => Failed::Unsent(error),
            Lost::Io(error) => Failed::Sent(SendError { reused, ..SendError::lost(SendErrorKind::Broken, error) }),
            Lost::Invalid(why) => Failed::Sent(SendError { reused, ..SendError::lost(SendErrorKind::InvalidHead, why) }),
        })
    }

    fn poll_exchange(&mut self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<Result<Head, Lost>> {
        loop {
            if waiting.broken.is_none()
                && let Poll::Ready(Err(error)) = self.poll_send(cx)
            {
                if !self.touched {
                    return Poll::Ready(Err(Lost::Io(error)));
                }
                // What cannot be sent may still be answered: a backend that has seen enough says so and closes. The answer is here,
                // but this thread may not have heard of it yet; if there is none, reading ends at once.
                (self.output, self.spent, waiting.broken) = (Output::default(), true, Some(error));
            }
            let head = match ready!(self.poll_head(waiting.bodyless, cx)) {
                Err(Lost::Io(error)) => return Poll::Ready(Err(Lost::Io(waiting.broken.take().unwrap_or(error)))),
                head => head?,
            };
            if head.head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Lost::Invalid(Invalid("the backend switched protocols unasked"))));
            }
            if !head.head.status.is_informational() {
                return Poll::Ready(Ok(head));
            }
            waiting.informational += 1;
            if waiting.informational > MAX_INFORMATIONAL {
                return Poll::Ready(Err(Lost::Invalid(Invalid("there is no end of informational responses"))));
            }
        }
    }

    /// Writes what is left of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output.has_more() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.output.pieces(&mut pieces);
            let pieces = pieces.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.touched = true;
            self.output.advance(written);
        }
        if self.output.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.output = Output::default();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, bodyless: bool, cx: &mut Context<'_>) -> Poll<Result<Head, Lost>> {
        loop {
            if !self.input.is_empty() {
                if let Some(end) = response::head_end(&self.input, self.searched).map_err(Lost::Invalid)? {
                    self.searched = 0;
                    let head = self.input.split_to(end).freeze();
                    return Poll::Ready(response::head(&head, bodyless).map_err(Lost::Invalid));
                }
                self.searched = self.input.len();
            }
            let input = &mut self.input;
            if ready!(read(&mut self.io, cx, |bytes| input.extend_from_slice(bytes))).map_err(Lost::Io)? == 0 {
                return Poll::Ready(Err(Lost::Io(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// The next frame of the response whose framing `body` takes off.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Decoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.output.is_due() && matches!(self.poll_send(cx), Poll::Ready(Err(_))) {
            // The backend answers without having read it all; that is its business, and the connection's end.
            (self.output, self.spent) = (Output::default(), true);
        }
        loop {
            if !self.input.is_empty() {
                let data = body.take(&mut self.input)?;
                if self.input.is_empty() && data.len() > KEPT {
                    self.input = BytesMut::new();
                }
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
            if body.is_done() {
                return Poll::Ready(body.take_trailers().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let (input, mut data) = (&mut self.input, Ok(Bytes::new()));
            let count = ready!(read(&mut self.io, cx, |bytes| {
                if input.is_empty() {
                    data = body.take_from(bytes, input);
                } else {
                    input.extend_from_slice(bytes);
                }
            }))?;
            if count == 0 {
                self.spent = true;
                body.connection_ended()?;
            }
            let data = data?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    /// After the end of a response: whether the next request may be sent here. It may not after surplus bytes, or before this one
    /// is sent.
    pub(super) fn is_reusable(&self) -> bool {
        !self.spent && self.input.is_empty() && !self.output.is_due()
    }

    /// While idle: an error when the peer has closed or spoken out of turn.
    pub(super) fn look_idle(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut byte = [0; 1];
        match Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => return Ok(()),
            Poll::Ready(read) => {
                self.spent = true;
                read?;
            }
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the idle connection was closed, or spoken on out of turn"))
    }

    /// As of the last look.
    pub(super) const fn is_open(&self) -> bool {
        !self.spent
    }
}

/// Reads once and gives what came to `take`.
fn read(io: &mut BoxIo, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(READ, 0);
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// A request as bytes.
#[derive(Default)]
struct Output {
    head: Vec<u8>,
    /// How much of the head is sent.
    sent: usize,
    body: SmallVec<[Bytes; 2]>,
    /// The first piece of the body that is not sent.
    next: usize,
    unflushed: bool,
}

impl Output {
    /// Framed by what the body is, whatever the fields say.
    fn of(request: Whole<'_>) -> Self {
        const FRAMING: Names = Names::of(&[Name::ContentLength, Name::TransferEncoding]);
        /// Room for the usual head.
        const ROOM: usize = 1 << 10;
        let mut head = Vec::with_capacity(ROOM);
        let target = request.target.path_and_query().map_or("/", |target| target.as_str());
        for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        request.fields.write(&mut head, FRAMING);
        let body: SmallVec<[Bytes; 2]> = request.body.pieces().iter().cloned().collect();
        let length: usize = body.iter().map(Bytes::len).sum();
        // RFC 9110, 8.6: a length of 0 is said where a body could have been expected, and nowhere else.
        if length > 0 || matches!(*request.method, Method::POST | Method::PUT | Method::PATCH) {
            head.extend_from_slice(b"content-length: ");
            head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        Self { head, sent: 0, body, next: 0, unflushed: true }
    }

    fn has_more(&self) -> bool {
        self.sent < self.head.len() || self.next < self.body.len()
    }

    /// Whether there is something to do.
    fn is_due(&self) -> bool {
        self.unflushed
    }

    /// Fills `into` with what is to be written next, and says how many pieces that are.
    fn pieces<'a>(&'a self, into: &mut [IoSlice<'a>; PIECES]) -> usize {
        let head = self.head.get(self.sent..).filter(|head| !head.is_empty());
        let body = self.body.get(self.next..).unwrap_or_default().iter().map(|piece| &piece[..]);
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(head.into_iter().chain(body)) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// So many bytes were written.
    fn advance(&mut self, mut written: usize) {
        let of_head = written.min(self.head.len() - self.sent);
        self.sent += of_head;
        written -= of_head;
        while let Some(piece) = self.body.get_mut(self.next) {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.next += 1;
        }
    }
}
