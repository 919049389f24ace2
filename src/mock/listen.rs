//! The sockets of a simulated region: HTTP/1.1 and HTTP/2 without TLS on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api;
use super::site::Site;

/// Connections of one region at a time; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// How HTTP/2 with prior knowledge begins. No method of HTTP/1 begins so.
const H2_PREFACE: &[u8] = b"PRI";
/// The pause after a failed accept, which most often means that the process has no descriptors left, and between attempts to get a
/// port back.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// One region's place on the network.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) site: Arc<Site>,
    /// All regions, so that one that is down can be mended through another.
    pub(super) fleet: Arc<[Arc<Site>]>,
    pub(super) tasks: Tasks,
}

impl Door {
    /// Accepts until told to stop. While the region is down its port is closed, so that clients are refused as by a dead machine:
    /// whether a request was sent at all decides what a proxy may do next.
    pub(super) async fn keep(self, listener: TcpListener, address: SocketAddr) {
        let mut open = Some(listener);
        loop {
            self.site.until_up(true).await;
            if open.is_none() {
                open = TcpListener::bind(address).await.ok();
            }
            let Some(listener) = open.take() else {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            tokio::select! {
                () = accept(&listener, &self.tasks, |stream| self.clone().serve(stream)) => return,
                () = self.site.until_up(false) => drop(listener),
            }
        }
    }

    /// Serves one connection. No timeout ends an idle one: the clients are the proxy under test and a person's `curl`, and under a
    /// paused runtime an idle timer would fire at once.
    async fn serve(self, stream: TcpStream) {
        // Tokens go out one by one; a failure costs only that.
        let _ = stream.set_nodelay(true);
        let mut start = [0; H2_PREFACE.len()];
        // A client that sends its preface byte by byte is taken for HTTP/1 and refused, which a mock can afford.
        let Ok(seen) = stream.peek(&mut start).await else { return };
        let (site, tasks) = (Arc::clone(&self.site), self.tasks.clone());
        let service = service_fn(move |request| api::answer(self.clone(), request));
        // Errors are the client's hanging up or an injected cut; the ledger has both.
        if &start[..seen] == H2_PREFACE {
            let connection = hyper::server::conn::http2::Builder::new(tasks).serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                () = site.until_up(false) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        } else {
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let connection = connection.with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                () = site.until_up(false) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }
}

/// Where the fleet is operated from: a place that is there whatever its regions are.
pub(super) struct Desk {
    pub(super) fleet: Arc<[Arc<Site>]>,
    pub(super) tasks: Tasks,
}

impl Desk {
    /// Accepts for ever.
    pub(super) async fn keep(self, listener: TcpListener) {
        accept(&listener, &self.tasks, |stream| serve_operator(Arc::clone(&self.fleet), stream)).await;
    }
}

async fn serve_operator(fleet: Arc<[Arc<Site>]>, stream: TcpStream) {
    let service = service_fn(move |request| api::answer_operator(Arc::clone(&fleet), request));
    // An error is the operator's hanging up.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Accepts for ever, and serves each connection in a task of its own.
async fn accept<F>(listener: &TcpListener, tasks: &Tasks, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve(stream);
                tasks.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// Where every task of the fleet is started, so that none outlives it.
#[derive(Clone)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Runs until it ends or the fleet does.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let _ = stop.run_until_cancelled_owned(task).await;
        });
    }

    /// Tells all of them to stop.
    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Waits until all of them have.
    pub(super) async fn stopped(&self) {
        self.tracker.wait().await;
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(async move {
            let _ = task.await;
        });
    }
}
