//! The byte stream of an HTTP/2 connection, ended when its backend floods it.
//!
//! What reads the frames passes over informational responses without end, and answers each PING and SETTINGS, however fast they come.
//! Nothing would grow, but a thread would have little time for anything else until the first byte is overdue, minutes later.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connect::BoxIo;
use super::direct::MAX_INFORMATIONAL;
use crate::wire::frames::Frames;

/// A connection whose frames are counted.
pub(super) struct Counted {
    io: BoxIo,
    frames: Frames,
}

impl Counted {
    /// Before its first byte. All of the `streams` that may be open at once may also be reset at once.
    pub(super) fn new(io: BoxIo, streams: u32) -> Self {
        Self { io, frames: Frames::of_server(streams, MAX_INFORMATIONAL as u8, Instant::now().into_std()) }
    }

    const fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.frames.sent(*count);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if self.frames.feed(read, || Instant::now().into_std()) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "there is no end of frames that bring nothing forward")))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.sent(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
