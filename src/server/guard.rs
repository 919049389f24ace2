//! What stands between a socket and hyper: the place for anything that must see raw bytes.
//!
//! It gives back what was read to find out the protocol, notes that bytes arrived, and ends a connection whose peer takes none.
//! It also holds what a connection occupies, because an upgraded one lives on in other hands when hyper has done with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::detect::Prefix;
use super::listener::Place;
use super::timers::LazyTimer;
use super::tracked::Entry;

/// A peer that takes no byte of its response for that long is gone (nginx's `send_timeout` has the same value).
const WRITE_STALL: Duration = Duration::from_mins(1);
/// A peer that is still sending when it was refused is listened to this long ..
const LINGER: Duration = Duration::from_secs(2);
/// .. and for so many bytes: closing at once would reset the connection, and the reset can overtake the refusal.
const LINGER_BYTES: usize = 1 << 20;

/// What an open connection occupies.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) _place: Place,
    pub(super) _tracked: TaskTrackerToken,
}

/// A socket as hyper sees it.
#[derive(Debug)]
pub(super) struct Guard<S> {
    socket: S,
    /// What was read to find out the protocol.
    prefix: Prefix,
    held: Held,
    write_timer: LazyTimer,
    write_since: Option<Instant>,
    /// Whether the last read found something, so that there may be more.
    unread: bool,
    lingering: Option<Lingering>,
}

/// The end of a connection whose peer may still be sending.
#[derive(Debug)]
struct Lingering {
    until: Instant,
    bytes: usize,
}

impl<S> Guard<S> {
    pub(super) fn new(socket: S, prefix: Prefix, held: Held) -> Self {
        let write_timer = LazyTimer::default();
        Self { socket, prefix, held, write_timer, write_since: None, unread: false, lingering: None }
    }

    /// After a write or flush: is the peer still taking bytes?
    fn progress<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_since = None;
            return written;
        }
        let since = *self.write_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll(since + WRITE_STALL, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Reads what comes and forgets it, until the peer ends, or sent or took too much.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.lingering.get_or_insert_with(|| Lingering { until: Instant::now() + LINGER, bytes: LINGER_BYTES });
        loop {
            let mut scratch = [0; 4096];
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && left.bytes > 0 => {
                    left.bytes = left.bytes.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.write_timer.poll(left.until, cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        // What follows the prefix comes with it: given those few bytes alone, hyper doubles its buffer before it reads on.
        self.prefix.give(buffer);
        let mut read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if before < buffer.filled().len() {
            // Whatever ails the socket, the next read says it again.
            read = Poll::Ready(Ok(()));
        }
        self.unread = buffer.filled().len() > before;
        if self.unread {
            self.held.entry.state.received();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.progress(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.progress(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
            ready!(self.progress(shut, cx))?;
        }
        if self.unread {
            ready!(self.linger(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.progress(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::server::tracked::Connections;
    use crate::telemetry::metrics::Metrics;

    fn held() -> Held {
        Held {
            entry: Arc::new(Connections::default()).enter(),
            _place: Place::take(&Arc::default(), 1, &Arc::new(Metrics::default())).unwrap(),
            _tracked: tokio_util::task::TaskTracker::new().token(),
        }
    }

    /// Whether a peer can send `count` bytes to somebody who read the first of them, refused and closed.
    fn sends_all(count: usize) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut peer, socket) = tokio::io::duplex(1024);
            let refusing = tokio::spawn(async move {
                let mut guard = Guard::new(socket, Prefix::default(), held());
                guard.read_exact(&mut [0; 10]).await.unwrap();
                guard.shutdown().await.unwrap();
            });
            let sent = peer.write_all(&vec![b'x'; count]).await.is_ok();
            drop(peer);
            refusing.await.unwrap();
            sent
        })
    }

    #[test]
    fn what_follows_the_prefix_comes_with_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut peer, mut socket) = tokio::io::duplex(1024);
            let sent = [b'x'; 100];
            peer.write_all(&sent).await.unwrap();
            let mut prefix = Prefix::default();
            crate::server::detect::detect(&mut socket, &mut prefix).await.unwrap();
            let mut guard = Guard::new(socket, prefix, held());
            let mut received = [0; 200];
            assert_eq!(guard.read(&mut received).await.unwrap(), sent.len());
            peer.write_all(&sent).await.unwrap();
            assert_eq!(guard.read(&mut received).await.unwrap(), sent.len());
        });
    }

    #[test]
    fn a_peer_that_is_refused_may_finish_its_sentence_but_not_go_on_for_ever() {
        assert!(sends_all(LINGER_BYTES / 2));
        assert!(!sends_all(LINGER_BYTES * 2));
    }
}
