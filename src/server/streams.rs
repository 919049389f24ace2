//! The tasks of a connection's HTTP/2 streams, ended when their client takes nothing.
//!
//! Under HTTP/1.1 a client that takes no byte blocks its socket, which the guard sees. A client of HTTP/2 blocks one stream by never
//! opening its window, while the socket takes all else; the response's body is not asked for more, so that nothing in it can notice,
//! and its backend would keep the place for ever. What can notice is the task that hyper runs for the stream: it is wrapped here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::guard::WRITE_STALL;
use super::tracked::{BodyPolled, ConnState};
use crate::upstream::LazyTimer;

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) Arc<ConnState>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(Stream {
            task,
            connection: Arc::clone(&self.0),
            stalled_since: None,
            until: None,
            timer: LazyTimer::default(),
        });
    }
}

pin_project! {
    /// One stream's task. A body that waits for its backend costs two stores and a load; a clock is read only when a chunk has to
    /// wait for the client's window.
    struct Stream<F> {
        #[pin]
        task: F,
        connection: Arc<ConnState>,
        stalled_since: Option<Instant>,
        // When its response has had its time, however little of it the client has taken.
        until: Option<Instant>,
        timer: LazyTimer,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.connection.body_polled(BodyPolled::Not);
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        *this.until = this.connection.take_body_until().or(*this.until);
        match this.connection.last_body() {
            BodyPolled::Not => {}
            BodyPolled::Waits => *this.stalled_since = None,
            // hyper keeps it until there is room for it, and asks for the next one only then.
            BodyPolled::Gave => *this.stalled_since = Some(Instant::now()),
        }
        let Some(since) = *this.stalled_since else { return Poll::Pending };
        let stalled = since + WRITE_STALL;
        ready!(this.timer.poll(this.until.map_or(stalled, |until| until.min(stalled)), cx));
        // Dropping the task resets the stream, and drops the body with the exchange in it.
        tracing::debug!("a stream's client took nothing for {WRITE_STALL:?}, or too little in the time of its exchange");
        Poll::Ready(())
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
