//! The rest of a long body, read while its request is answered, and as it is asked for.
//!
//! hyper, behind its guard, reads 64 KiB of a body and lets others go before the next. Of several long bodies that come at once each read
//! pushes the others out of the core's second cache (1 to 2 MiB), so that all of them come from memory when they are sent. Here what has
//! arrived is read at once, into memory of which each piece has its own, and up to 1 MiB sent before anybody else has a turn. Beside the
//! build before it, with its profile, 512 KB take 0.78 of the processor's time and 32 KB 0.95, medians of six rounds
//! (`benches/peers/compare.py --proxies windward,windward=OLD --base windward=OLD --workloads mid,big`).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::accepted::SeesEnd;
use super::direct::Link;
use crate::proxy::{Appetite, Feeder};

/// Bytes of a piece at most: what a second cache has room for twice over, read and to be sent.
const PIECE: usize = 256 << 10;
/// Pieces of one body in one turn. A client that sends as fast as it is read lets the other connections of its thread have theirs.
pub(super) const IN_A_TURN: usize = 4;

/// So many bytes more are asked for than belong to the body. A read that finds less than it asked for has found all there is, and with
/// the body alone it would take another to find that out; of 32 KB requests that is one call in six.
const BEYOND: u64 = 1;

/// Whether a piece is worth the memory that it was read into. Else it is copied out of that: what is counted is bytes, and a client that
/// sends a little now and then would hold much more than it has sent.
const fn is_worth(bytes: usize, memory: usize) -> bool {
    bytes >= memory / 4 * 3
}

thread_local! {
    /// What the next piece is read into: a connection that waits for one holds no memory for it.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// The rest of a body.
pub(super) struct Rest {
    feeder: Feeder,
    /// Bytes that were not read yet.
    unread: u64,
    /// Whether the client ended before they came.
    broken: bool,
}

/// What a client does that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It sent more of its body, or ended within it: whoever reads that has something to see.
    Sent,
    /// It left.
    Left,
}

impl Rest {
    /// Of a body of which so many bytes are to come.
    pub(super) const fn new(feeder: Feeder, unread: u64) -> Self {
        Self { feeder, unread, broken: false }
    }
}

impl<IO: AsyncRead + SeesEnd + Unpin> Link<IO> {
    /// Watches a client that waits for its answer, and reads the rest of its body as that is asked for.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Doing> {
        let Some(rest) = &mut self.rest else { return self.poll_ahead(cx).map(|()| Doing::Left) };
        if rest.broken {
            // Whoever answers has been told, and is heard to the end: what he did is booked.
            return Poll::Pending;
        }
        if rest.feeder.appetite(cx) != Appetite::Hungry {
            return self.poll_end(cx).map(|()| Doing::Left);
        }
        let piece = match ready!(read_piece(&mut self.socket, cx, rest.unread.saturating_add(BEYOND))) {
            Ok(piece) if piece.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(mut piece) if piece.len() as u64 > rest.unread => {
                self.input.extend_from_slice(&piece.split_off(rest.unread as usize));
                Ok(piece)
            }
            piece => piece,
        };
        rest.unread -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        rest.broken = piece.is_err();
        rest.feeder.give(piece, cx);
        if rest.unread == 0 {
            self.rest = None;
        }
        Poll::Ready(Doing::Sent)
    }
}

/// Reads what has come, `most` bytes at most; none at the end.
fn read_piece<IO: AsyncRead + Unpin>(socket: &mut IO, cx: &mut Context<'_>, most: u64) -> Poll<io::Result<Bytes>> {
    let room = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
    let mut spare = SPARE.take();
    if spare.capacity() < room {
        spare = BytesMut::with_capacity(room);
    }
    let mut ended = None;
    while spare.len() < room && ended.is_none() {
        let left = room - spare.len();
        ended = match poll_read_buf(Pin::new(&mut *socket), cx, &mut (&mut spare).limit(left)) {
            Poll::Ready(Ok(count)) if count > 0 => None,
            end => Some(end),
        };
    }
    if spare.is_empty() {
        SPARE.set(spare);
        return ended.map_or(Poll::Pending, |ended| ended.map_ok(|_| Bytes::new()));
    }
    // An end or an error comes again.
    if is_worth(spare.len(), spare.capacity()) {
        return Poll::Ready(Ok(spare.freeze()));
    }
    let piece = Bytes::copy_from_slice(&spare);
    spare.clear();
    SPARE.set(spare);
    Poll::Ready(Ok(piece))
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
