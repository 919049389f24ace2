//! The process around the proxy: listeners, worker threads, the control thread, the admin address, and the way out.
//!
//! Everything that can fail fails in [`start`], before a thread runs: files, certificates, addresses. From there on one thread
//! controls and the workers serve, and the only thing that ends them is to be told so. The service that answers requests is a
//! parameter, so that a test or a demonstration starts exactly this with something else inside.

mod accepted;
mod admin;
mod balance;
mod connection;
mod date;
mod descriptors;
mod detect;
mod direct;
mod drain;
mod feed;
mod gateway;
mod guard;
mod listener;
mod outgoing;
mod refuse;
mod respond;
mod stash;
mod status;
mod streams;
mod timers;
mod tls;
mod tracked;
mod worker;

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::connection::{Answers, Peer};
pub use self::gateway::start_proxy;
pub use self::listener::BindError;
pub use self::worker::Background;

use self::descriptors::Descriptors;
use self::drain::Supervisor;
use self::worker::{Common, Worker};
use crate::clock::Clock;
use crate::config::{PeersPlan, Plan};
use crate::control::peers::Link;
use crate::control::{self, ConfigFile, Control, ControlHandle, keep};
use crate::state::{Snapshot, State};
use crate::telemetry::log::{AccessLog, Identity, LogError};
use crate::telemetry::metrics::Metrics;

/// What to serve.
pub struct Serve {
    /// The plan to start with.
    pub plan: Plan,
    /// The file it came from, to be watched; `None` where there is none.
    pub config: Option<ConfigFile>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who we are in the access log; [`host_name`] says what a machine calls itself.
    pub identity: Identity,
    /// Whether SIGTERM, SIGINT, SIGHUP and SIGUSR1 are heard. They belong to the process, so a test leaves them alone.
    pub signals: bool,
    /// Work for every worker thread beside its connections.
    pub background: Option<Background>,
}

/// What a service is made of.
#[derive(Clone)]
pub struct Shared {
    /// The snapshot in force.
    pub state: Arc<State>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub log: AccessLog,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Cancelled before what is still open at the drain's deadline is dropped.
    pub cut: CancellationToken,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address or a certificate.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Certificates of a backend.
    #[error("{0}")]
    Backend(String),
    /// A thread, a runtime or a signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether every stream came to its end by itself.
    pub drained: bool,
    /// Whether every numbered line of the access log is written.
    pub log_complete: bool,
    /// Whether it ended because a worker failed, and not because it was told to.
    pub failed: bool,
}

/// A running server.
#[derive(Debug)]
pub struct Handle {
    /// The listeners' addresses, with the ports that were found.
    pub addresses: Vec<SocketAddr>,
    /// The admin address.
    pub admin: Option<SocketAddr>,
    shutdown: CancellationToken,
    again: CancellationToken,
    thread: JoinHandle<Ended>,
}

impl Handle {
    /// Begins to drain. Called again, it ends the drain at once, as a second signal does.
    pub fn shutdown(&self) {
        drain::ask(&self.shutdown, &self.again);
    }

    /// Waits for the end. Blocks the thread.
    pub fn join(self) -> Ended {
        // A panic of the control thread has been reported already; what is left is to say that it failed.
        self.thread.join().unwrap_or(Ended { drained: false, log_complete: false, failed: true })
    }
}

/// Starts a server. `make` is called once and gives the function that makes a service for each connection.
pub fn start<M, F, S>(serve: Serve, make: M) -> Result<Handle, StartError>
where
    M: FnOnce(&Shared) -> F,
    F: Fn(Peer) -> S + Clone + Send + Sync + 'static,
    S: Answers,
{
    let Serve { plan, config, clock, identity, signals, background } = serve;
    let boot = plan.boot.clone();
    let descriptors = Descriptors::of_this_process();
    descriptors.warn_of_too_few(plan.limits.connections);
    let workers = boot.workers.map_or_else(cores, usize::from).max(1);
    let mut first = Snapshot::first(Arc::new(plan), clock.monotonic());
    let keep = boot.state.filter(|path| keep::restore(path, &mut first, &*clock));
    let state = Arc::new(State::new(first));
    let bound = boot.listeners.iter().enumerate().map(|(index, one)| listener::bind(one, index, workers, &state));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    let admin = boot.admin.map(|address| listener::bind_alone(address, "admin.address")).transpose()?;
    let datagrams = boot.peers.as_ref().map(|peers| listener::bind_datagrams(peers.listen, "peers.listen")).transpose()?;
    let (log, writer) = AccessLog::start(&boot.access_log, identity)?;
    let metrics = Arc::new(Metrics::default());
    let shared = Shared { state, metrics, log, clock, cut: CancellationToken::new() };
    let service = make(&shared);
    let common = Common {
        state: Arc::clone(&shared.state),
        metrics: Arc::clone(&shared.metrics),
        log: shared.log.clone(),
        open: Arc::new(AtomicUsize::new(0)),
        descriptors,
        stop: CancellationToken::new(),
        cut: shared.cut.clone(),
    };
    let addresses = bound.iter().map(|bound| bound.address).collect();
    let admin_address = admin.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
    let (control, control_handle) =
        Control::new(Arc::clone(&shared.state), config, Arc::clone(&shared.clock), Arc::clone(&shared.metrics));
    let peers = boot.peers.zip(datagrams).map(|(plan, socket)| link(plan, socket, &shared, &control_handle));
    let (shutdown, again) = (CancellationToken::new(), CancellationToken::new());
    let ready = Arc::new(AtomicBool::new(true));
    let admin = admin.map(|socket| {
        let context = admin::Context { shared: shared.clone(), control: control_handle.clone(), ready: Arc::clone(&ready) };
        (socket, context)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    first_tokens(&runtime, &shared)?;
    let signals = if signals { Some(runtime.block_on(async { drain::Signals::install() })?) } else { None };
    let (threads, ended) = spawn_workers(workers, bound, &common, &service, background.as_ref())?;
    let supervisor = Supervisor {
        common,
        shared,
        control,
        control_handle,
        peers,
        keep,
        admin,
        signals,
        shutdown: shutdown.clone(),
        again: again.clone(),
        ready,
        ended,
        threads,
        writer,
        delay: boot.drain_delay,
        deadline: boot.drain_deadline,
    };
    let thread = named("windward-control").spawn(move || supervisor.run(&runtime))?;
    Ok(Handle { addresses, admin: admin_address, shutdown, again, thread })
}

/// Asks once for what backends are sent that has to be renewed, before the first request needs it. On a thread of its own: whoever
/// starts the server may stand within another runtime, and that must not be blocked on from inside.
fn first_tokens(runtime: &tokio::runtime::Runtime, shared: &Shared) -> std::io::Result<()> {
    let ask = || runtime.block_on(control::tokens::first(&shared.state.load(), &shared.clock));
    std::thread::scope(|threads| {
        let asking = named("windward-tokens").spawn_scoped(threads, ask)?;
        asking.join().map_err(|_| std::io::Error::other("asking for the first tokens failed"))
    })
}

/// The exchange with other replicas, over what was bound for it.
fn link(plan: PeersPlan, socket: UdpSocket, shared: &Shared, control: &ControlHandle) -> Link {
    Link {
        plan,
        socket,
        state: Arc::clone(&shared.state),
        clock: Arc::clone(&shared.clock),
        metrics: Arc::clone(&shared.metrics),
        status: Arc::clone(control.status()),
    }
}

/// Starts a server and waits for its end: the exit code is 0 when it ended because it was told to.
pub fn run<M, F, S>(serve: Serve, make: M) -> Result<ExitCode, StartError>
where
    M: FnOnce(&Shared) -> F,
    F: Fn(Peer) -> S + Clone + Send + Sync + 'static,
    S: Answers,
{
    Ok(wait(start(serve, make)?))
}

/// Says where a started server listens and waits for its end: the exit code is 0 when it ended because it was told to.
pub fn wait(handle: Handle) -> ExitCode {
    for address in &handle.addresses {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = handle.admin {
        tracing::info!(%address, "admin");
    }
    if handle.join().failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What this machine calls itself, or `unknown`.
pub fn host_name() -> String {
    let name = ["/proc/sys/kernel/hostname", "/etc/hostname"].iter().find_map(|path| std::fs::read_to_string(path).ok());
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty() && name.len() <= 253);
    name.unwrap_or("unknown").to_owned()
}

type Threads = (Vec<JoinHandle<()>>, mpsc::Receiver<std::io::Result<()>>);

fn spawn_workers<F, S>(
    workers: usize,
    bound: Vec<listener::Bound>,
    common: &Common,
    service: &F,
    background: Option<&Background>,
) -> Result<Threads, StartError>
where
    F: Fn(Peer) -> S + Clone + Send + Sync + 'static,
    S: Answers,
{
    let (end, ended) = mpsc::channel(workers);
    let mut threads = Vec::with_capacity(workers);
    for (index, doors) in balance::doors(bound, workers).into_iter().enumerate() {
        let worker = Worker { common: common.clone(), doors, service: service.clone(), background: background.cloned() };
        let farewell = Farewell { end: end.clone(), result: Err(std::io::Error::other("a worker panicked")) };
        let thread = named(&format!("windward-{index}")).spawn(move || farewell.say(worker.run()));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                common.stop.cancel();
                common.cut.cancel();
                return Err(error.into());
            }
        }
    }
    Ok((threads, ended))
}

/// Says how a worker ended, also when it panicked.
struct Farewell {
    end: mpsc::Sender<std::io::Result<()>>,
    result: std::io::Result<()>,
}

impl Farewell {
    fn say(mut self, result: std::io::Result<()>) {
        self.result = result;
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody hears it when the control thread is gone.
        let _ = self.end.try_send(std::mem::replace(&mut self.result, Ok(())));
    }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs `future` until `stop`, for tasks that have no end of their own.
async fn until(stop: CancellationToken, future: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = future => {}
    }
}

#[cfg(test)]
mod tests;
