//! An accepted socket, whose end says whether the last response was whole.
//!
//! A client of HTTP/1.0 is sent a body of unknown length until the connection ends (RFC 9112, 6.3), so that an end in good order is
//! all that tells it that it has the whole. Where the body was cut, the connection is reset instead. The client may lose what it has
//! not read yet, which is why every other client, who sees by the framing that something is missing, gets the ordinary end.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::tracked::ConnState;

/// A socket that is reset when it is dropped within a body whose end is the connection's.
#[derive(Debug)]
pub(super) struct Accepted {
    socket: TcpStream,
    connection: Arc<ConnState>,
}

impl Accepted {
    pub(super) fn new(socket: TcpStream, connection: &Arc<ConnState>) -> Self {
        // Small chunks of a stream must not wait for the peer's acknowledgement; a socket that refuses is as good as closed.
        let _ = socket.set_nodelay(true);
        Self { socket, connection: Arc::clone(connection) }
    }
}

/// A connection whose end can be seen although something was said before it that nobody has read.
pub(super) trait SeesEnd {
    /// Whether its peer has ended it, as far as the kernel has told.
    fn has_ended(&self) -> bool;
}

impl SeesEnd for Accepted {
    fn has_ended(&self) -> bool {
        // It is asked and not waited for: as long as something is unread it is ready.
        let ready = pin!(self.socket.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

impl SeesEnd for TlsStream<Accepted> {
    fn has_ended(&self) -> bool {
        self.get_ref().0.has_ended()
    }
}

#[cfg(test)]
impl SeesEnd for tokio::io::DuplexStream {
    fn has_ended(&self) -> bool {
        false
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.connection.is_within_open_end() {
            // A socket that refuses is closed already.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
