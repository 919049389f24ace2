//! One HTTP/2 connection: shared by the exchanges of one core, driven by a tracked task.
//!
//! A shared connection cannot be polled by one of its users, so here the task is not avoidable. What hyper leaves to its user is to
//! open another connection before the peer's limit on streams makes requests queue behind hour-long streams: that limit is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::body::{SendBody, Tracked, Upload};
use super::connect::BoxIo;
use super::frames::Counted;
use crate::backend::Origin;

/// Bytes of one response that may wait here for a client that reads slowly; a few seconds of any model's output.
const STREAM_WINDOW: u32 = 256 << 10;
/// 128 such clients at once do not hold up the others on the connection.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// Bytes of one request that wait for the backend's window.
const SEND_BUFFER: usize = 256 << 10;
/// Bytes of a response head, unpacked; as for HTTP/1.1.
const MAX_HEAD: u32 = 256 << 10;
/// Streams until the peer has told its limit: the least that RFC 9113 (6.5.2) recommends it to allow.
const STREAMS_AT_FIRST: usize = 100;
/// A connection with open streams that is silent for this long is asked whether it still lives; an answer may take as long.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A connection in the pool.
pub(super) struct Handle {
    sender: http2::SendRequest<Tracked>,
    load: Arc<Load>,
    authority: Authority,
    last_used: Instant,
}

/// What pool, users and driver of a connection know in common.
struct Load {
    /// Exchanges on it.
    streams: AtomicUsize,
    /// How many the peer allows.
    limit: AtomicUsize,
}

/// The right to one stream, counted until it is dropped.
pub(super) struct Lease {
    sender: http2::SendRequest<Tracked>,
    load: Arc<Load>,
    authority: Authority,
    upload: Arc<Upload>,
}

impl Handle {
    /// Begins HTTP/2 on a stream; the driver runs until all handles and streams are gone, or the connection breaks.
    pub(super) async fn open(io: BoxIo, origin: &Origin, tasks: &TaskTracker, now: Instant) -> Result<Self, super::BoxError> {
        let authority = Authority::try_from(origin.authority.as_bytes())?;
        let (sender, mut connection) = http2::Builder::new(Tasks(tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .max_header_list_size(MAX_HEAD)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .handshake(TokioIo::new(Counted::new(io, STREAMS_AT_FIRST as u32)))
            .await?;
        let load = Arc::new(Load { streams: AtomicUsize::new(0), limit: AtomicUsize::new(STREAMS_AT_FIRST) });
        let seen = Arc::clone(&load);
        tasks.spawn(async move {
            let ended = std::future::poll_fn(|cx| {
                let polled = std::pin::Pin::new(&mut connection).poll(cx);
                if polled.is_pending() {
                    seen.limit.store(connection.current_max_send_streams(), Relaxed);
                }
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Self { sender, load, authority, last_used: now })
    }

    /// Takes the right to a stream, also beyond the limit: then the stream waits for its turn.
    pub(super) fn lease(&mut self, now: Instant) -> Lease {
        self.last_used = now;
        self.load.streams.fetch_add(1, Relaxed);
        let (sender, load, authority) = (self.sender.clone(), Arc::clone(&self.load), self.authority.clone());
        Lease { sender, load, authority, upload: Arc::default() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn streams(&self) -> usize {
        self.load.streams.load(Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams() < self.load.limit.load(Relaxed)
    }

    /// Time since the sweep, or a lease, last saw it in use.
    pub(super) fn idle_for(&mut self, now: Instant) -> Duration {
        if self.streams() > 0 {
            self.last_used = now;
        }
        now.saturating_duration_since(self.last_used)
    }
}

/// What a stream that got its head hands to the response body.
pub(super) type Reply = (Response<Incoming>, Option<oneshot::Sender<()>>);

impl Lease {
    /// Sends a request and waits for its head. The error gives the request back if nothing was sent. Dropping the future resets the
    /// stream.
    pub(super) async fn exchange(&mut self, request: Request<SendBody>) -> Result<Reply, TrySendError<Request<Tracked>>> {
        // A body that is already here ends by itself; one that is coming must not outlive the response.
        let (cancel, cancelled) = if request.body().is_stream() { Some(oneshot::channel()).unzip() } else { (None, None) };
        let request = request.map(|body| Tracked::new(&self.upload, cancelled, body));
        let response = self.sender.try_send_request(request).await?;
        Ok((response, cancel))
    }

    /// How far the request body has come.
    pub(super) fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Makes an origin-form request one of HTTP/2: scheme and authority in the target, no `Host`, lengths that are true.
    pub(super) fn frame(&self, request: &mut Request<SendBody>, tls: bool) {
        *request.version_mut() = Version::HTTP_2;
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        set_target(request.uri_mut(), Some((scheme, self.authority.clone())));
        let exact = request.body().size_hint().exact();
        let headers = request.headers_mut();
        headers.remove(HOST);
        headers.remove(TRANSFER_ENCODING);
        match exact {
            Some(0) => {
                headers.remove(CONTENT_LENGTH);
            }
            Some(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            None => {}
        }
    }
}

/// Back to origin form, so that a request that was not sent can be prepared for another backend.
pub(super) fn unframe(request: &mut Request<SendBody>, origin: &Origin) {
    set_target(request.uri_mut(), None);
    request.headers_mut().insert(HOST, origin.authority.clone());
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.streams.fetch_sub(1, Relaxed);
    }
}

fn set_target(target: &mut Uri, origin: Option<(Scheme, Authority)>) {
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(target.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    (parts.scheme, parts.authority) = origin.unzip();
    // A path with scheme and authority, or with neither, always makes a URI; should it not, the old one stays and hyper refuses it.
    if let Ok(uri) = Uri::from_parts(parts) {
        *target = uri;
    }
}

/// Spawns hyper's own tasks where shutdown waits for them.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_goes_there_and_back() {
        for path in ["/v1/chat?key=a%2Fb", "/", "/model/arn%3Aaws/converse"] {
            let mut target = Uri::try_from(path).unwrap();
            set_target(&mut target, Some((Scheme::HTTPS, Authority::from_static("peer:8443"))));
            assert_eq!(target.to_string(), format!("https://peer:8443{path}"));
            set_target(&mut target, None);
            assert_eq!(target.to_string(), path);
        }
    }
}
