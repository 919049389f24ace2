//! One thread that serves: a runtime of its own, a socket of its own for every listener, and the connections that came to it.
//!
//! A connection stays on the thread that serves it first. With many connections the kernel's spreading is even enough, and neither a
//! task nor a pooled upstream connection ever has to cross between cores.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::balance::Door;
use super::connection::{Answers, Peer, Setting, serve};
use super::descriptors::Descriptors;
use super::guard::Held;
use super::listener::{Entrance, Place};
use super::tracked::Connections;
use crate::state::State;
use crate::telemetry::log::{AccessLog, FLUSH_EVERY};
use crate::telemetry::metrics::Metrics;

/// Work that every worker does beside its connections, for as long as it lives.
pub type Background = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What all workers share.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) state: Arc<State>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: AccessLog,
    /// Connections open, over all workers.
    pub(super) open: Arc<AtomicUsize>,
    /// What clients are left of them.
    pub(super) descriptors: Descriptors,
    /// Stop accepting, and finish what is open.
    pub(super) stop: CancellationToken,
    /// End, whatever is open.
    pub(super) cut: CancellationToken,
}

/// What one worker is given.
pub(super) struct Worker<F> {
    pub(super) common: Common,
    pub(super) doors: Vec<Door>,
    pub(super) service: F,
    pub(super) background: Option<Background>,
}

impl<F, S> Worker<F>
where
    F: Fn(Peer) -> S + Clone + Send + Sync + 'static,
    S: Answers,
{
    /// Runs on this thread until told to stop and every connection has ended, or until cut.
    pub(super) fn run(self) -> std::io::Result<()> {
        // Dropped last: dropping the runtime drops what was cut, and with it every exchange that has a line to write.
        let _lines = self.common.log.own_buffer();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.work())
    }

    async fn work(self) -> std::io::Result<()> {
        let Self { common, doors, service, background } = self;
        let (connections, tracker) = (Arc::new(Connections::default()), TaskTracker::new());
        tokio::spawn(hand_over_lines(common.log.clone()));
        if let Some(background) = background {
            tokio::spawn(background());
        }
        let mut listening = tokio::task::JoinSet::new();
        for door in doors {
            let door = door.here()?;
            let (common, service) = (common.clone(), service.clone());
            let (connections, tracker) = (Arc::clone(&connections), tracker.clone());
            listening.spawn(async move {
                let entrance = door.entrance.clone();
                let take = |socket, peer| begin(&common, &connections, &tracker, &entrance, &service, socket, peer);
                door.open(common.stop.clone(), common.descriptors, &common.metrics, take).await;
            });
        }
        common.stop.cancelled().await;
        // Only when nobody accepts any more can no connection be forgotten.
        while listening.join_next().await.is_some() {}
        connections.dismiss_all();
        tracker.close();
        tokio::select! {
            () = tracker.wait() => {}
            () = common.cut.cancelled() => {}
        }
        Ok(())
    }
}

/// Sees to it that the line of a quiet worker does not wait for the buffer to be full.
async fn hand_over_lines(log: AccessLog) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        log.flush();
    }
}

fn begin<F, S>(
    common: &Common,
    connections: &Arc<Connections>,
    tracker: &TaskTracker,
    entrance: &Entrance,
    service: &F,
    socket: TcpStream,
    address: SocketAddr,
) where
    F: Fn(Peer) -> S,
    S: Answers,
{
    common.metrics.accepted.add_one();
    let limits = common.state.load().plan.limits;
    let Some(place) = Place::take(&common.open, limits.connections, &common.metrics) else {
        common.metrics.refused_connections.add_one();
        return;
    };
    let held = Held { entry: connections.enter(), _place: place, _tracked: tracker.token() };
    let setting = Setting { limits, metrics: Arc::clone(&common.metrics), tls: entrance.tls.clone(), held };
    // What it holds says when it has ended; an upgraded connection outlives this task.
    tokio::spawn(serve(socket, service(entrance.peer(address)), setting));
}
