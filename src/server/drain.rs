//! The control thread's life, most of which is waiting for the signal to end.
//!
//! The way out is one sequence, whoever asked for it: readiness goes, so that load balancers send nobody new; after a pause the
//! listeners close; what is open may end until the deadline; then the log is written. Being asked again skips what is left.

use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::worker::Common;
use super::{Ended, Shared, admin, until};
use crate::control::peers::Link;
use crate::control::{Control, ControlHandle};
use crate::telemetry::log::LogWriter;

/// How long a worker may take to drop what it had when it was cut off.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// How long the disk may take for the end of the access log.
const LOG_WITHIN: Duration = Duration::from_secs(5);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Stop,
    Reload,
    Reopen,
}

/// The signals that are heard.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    user1: Stream,
}

impl Signals {
    /// Takes them over; to be called within a runtime.
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(()) = self.terminate.recv() => Asked::Stop,
            Some(()) = self.interrupt.recv() => Asked::Stop,
            Some(()) = self.hangup.recv() => Asked::Reload,
            Some(()) = self.user1.recv() => Asked::Reopen,
            else => std::future::pending().await,
        }
    }
}

/// Everything that the control thread holds.
pub(super) struct Supervisor {
    pub(super) common: Common,
    pub(super) shared: Shared,
    pub(super) control: Control,
    pub(super) control_handle: ControlHandle,
    pub(super) peers: Option<Link>,
    /// The file in which what was learned is kept.
    pub(super) keep: Option<PathBuf>,
    pub(super) admin: Option<(StdListener, admin::Context)>,
    pub(super) signals: Option<Signals>,
    /// Cancelled when the end is asked for ..
    pub(super) shutdown: CancellationToken,
    /// .. and when it is asked for again.
    pub(super) again: CancellationToken,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) ended: mpsc::Receiver<std::io::Result<()>>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) writer: LogWriter,
    pub(super) delay: Duration,
    pub(super) deadline: Duration,
}

impl Supervisor {
    /// Runs until the end.
    pub(super) fn run(self, runtime: &Runtime) -> Ended {
        runtime.block_on(self.supervise())
    }

    async fn supervise(self) -> Ended {
        let Self {
            common,
            shared,
            control,
            control_handle,
            peers,
            keep,
            admin,
            signals,
            shutdown,
            again,
            ready,
            mut ended,
            threads,
            writer,
            ..
        } = self;
        let over = CancellationToken::new();
        let control = tokio::spawn(control.run(over.clone()));
        let peers = peers.map(|link| tokio::spawn(crate::control::peers::run(link, over.clone())));
        let keeping = keep.map(|path| {
            let Shared { state, clock, metrics, .. } = shared.clone();
            tokio::spawn(crate::control::keep::run(path, state, clock, metrics, over.clone()))
        });
        if let Some((socket, context)) = admin {
            tokio::spawn(until(over.clone(), admin::serve(socket, context)));
        }
        tokio::spawn(until(over.clone(), obey(signals, shutdown.clone(), again.clone(), control_handle, shared.clone())));

        let failed = tokio::select! {
            () = shutdown.cancelled() => false,
            result = ended.recv() => {
                tracing::error!(?result, "a worker ended although nobody asked it to; shutting down");
                true
            }
        };
        ready.store(false, SeqCst);
        tracing::info!(delay = ?self.delay, deadline = ?self.deadline, "draining");
        unless(&again, tokio::time::sleep(self.delay)).await;
        common.stop.cancel();
        let (drained, gone) = drain(&mut ended, &again, self.deadline, &common.cut).await;
        if gone {
            // They are at their ends; what is waited for is that each lets go of its buffer of the access log.
            for thread in threads {
                // A panic there has been reported by the runtime.
                let _ = thread.join();
            }
        }
        over.cancel();
        // It only publishes; a panic there has been reported.
        let _ = control.await;
        for last_word in peers.into_iter().chain(keeping) {
            // Leave is taken of the others, and what was learned is written; likewise.
            let _ = last_word.await;
        }
        let log_complete = writer.close(LOG_WITHIN);
        if !log_complete {
            tracing::error!(lost = shared.log.lost(), "the access log is not complete; its gaps show where");
        }
        tracing::info!(drained, "ended");
        Ended { drained, log_complete, failed: failed || !gone }
    }
}

/// Waits for the workers to end by themselves, up to the deadline or until told again, and cuts them off then. Returns whether they did
/// so, and whether they ended at all.
async fn drain<T>(
    ended: &mut mpsc::Receiver<T>,
    again: &CancellationToken,
    deadline: Duration,
    cut: &CancellationToken,
) -> (bool, bool) {
    let all = async { while ended.recv().await.is_some() {} };
    tokio::pin!(all);
    let drained = tokio::select! {
        () = &mut all => true,
        () = again.cancelled() => false,
        () = tokio::time::sleep(deadline) => false,
    };
    if !drained {
        tracing::warn!("cutting off the streams that are still open");
        cut.cancel();
    }
    (drained, drained || tokio::time::timeout(CUT_WITHIN, all).await.is_ok())
}

/// Does what signals ask for; without any it waits with the others.
async fn obey(
    signals: Option<Signals>,
    shutdown: CancellationToken,
    again: CancellationToken,
    control: ControlHandle,
    shared: Shared,
) {
    let Some(mut signals) = signals else { return std::future::pending().await };
    loop {
        match signals.next().await {
            Asked::Stop => ask(&shutdown, &again),
            Asked::Reload => {
                // What comes of it is in the log.
                let _ = control.reload().await;
            }
            Asked::Reopen => shared.log.reopen(),
        }
    }
}

/// Asks for the end, and for a quick one when it was asked for before.
pub(super) fn ask(shutdown: &CancellationToken, again: &CancellationToken) {
    if shutdown.is_cancelled() {
        again.cancel();
    }
    shutdown.cancel();
}

async fn unless(token: &CancellationToken, future: impl Future<Output = ()>) {
    tokio::select! {
        () = token.cancelled() => {}
        () = future => {}
    }
}
