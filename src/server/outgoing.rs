//! What is to be written next of a response: everything small put together, and at most one large piece written from where it is.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::wire::reply::COPIED;

/// So much is put together before it is written. A socket takes about as much at once, and a body that always has more must not be
/// gathered for ever.
const GATHERED: usize = 16 << 10;
/// A buffer that grew larger, for a response head, is not kept for the next one.
const KEPT: usize = 64 << 10;
/// Buffers that are kept: as many responses as are put together in one turn before the first of them is written. With one, the others
/// of a turn each began with none and grew to the length of a head and a body, at 2,300 of 72,100 user instructions of a chat request.
const SPARES: usize = 32;

thread_local! {
    /// The buffers of whoever writes next: for all connections of a thread, and none for those that wait. The last one that was written
    /// is the first to be taken, being nearest at hand.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes on their way out. Empty, it has no memory.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    small: Vec<u8>,
    /// A piece that was not copied ..
    large: Bytes,
    /// .. and its place among the others.
    at: usize,
    sent: usize,
}

impl Outgoing {
    /// Where more can be added.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        if self.small.capacity() == 0 {
            self.small = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.small
    }

    /// Adds bytes, of which a long row is not copied. None is to be added while it [`Self::is_full`].
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED || !self.large.is_empty() {
            self.end().extend_from_slice(&bytes);
        } else {
            (self.large, self.at) = (bytes, self.small.len());
        }
    }

    /// Whether it is time to write.
    pub(super) fn is_full(&self) -> bool {
        !self.large.is_empty() || self.small.len() >= GATHERED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Writes all of it; `progress` is told of every write that was not in vain.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        mut progress: impl FnMut(),
    ) -> Poll<io::Result<()>> {
        while self.sent < self.small.len() + self.large.len() {
            let written = if self.large.is_empty() {
                Pin::new(&mut *socket).poll_write(cx, self.small.get(self.sent..).unwrap_or_default())
            } else {
                Pin::new(&mut *socket).poll_write_vectored(cx, &self.pieces())
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            progress();
            self.sent += written;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn pieces(&self) -> [IoSlice<'_>; 3] {
        let (before, after) = self.small.split_at(self.at.min(self.small.len()));
        let mut sent = self.sent;
        [before, &self.large[..], after].map(|piece| {
            let gone = sent.min(piece.len());
            sent -= gone;
            IoSlice::new(piece.get(gone..).unwrap_or_default())
        })
    }

    fn clear(&mut self) {
        let mut small = std::mem::take(self).small;
        if (1..=KEPT).contains(&small.capacity()) {
            small.clear();
            SPARE.with_borrow_mut(|spares| {
                if spares.len() < SPARES {
                    spares.push(small);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at once, and nothing every other time.
    struct Narrow {
        width: usize,
        open: bool,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.open = !self.open;
            if !self.open {
                return Poll::Pending;
            }
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let count = all.len().min(self.width);
            self.taken.extend_from_slice(&all[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn everything_leaves_once_and_in_order(
            sizes in prop::collection::vec(prop_oneof![4 => 0_usize..50, 1 => COPIED..3 * COPIED], 1..12),
            width in 1_usize..20_000,
        ) {
            let mut socket = Narrow { width, open: false, taken: Vec::new() };
            let (mut outgoing, mut all, mut progress) = (Outgoing::default(), Vec::new(), 0);
            let mut cx = Context::from_waker(Waker::noop());
            for (nth, size) in sizes.into_iter().enumerate() {
                let piece = vec![nth as u8; size];
                all.extend_from_slice(&piece);
                outgoing.push(piece.into());
                outgoing.end().push(b'|');
                all.push(b'|');
                while outgoing.is_full() {
                    let _ = outgoing.poll_write(&mut socket, &mut cx, || progress += 1);
                }
            }
            while !outgoing.is_empty() {
                let _ = outgoing.poll_write(&mut socket, &mut cx, || progress += 1);
            }
            prop_assert_eq!(progress, all.len().div_ceil(width).max(progress));
            prop_assert_eq!(socket.taken, all);
        }
    }
}
