//! The proxy as it is served: [`start`](super::start) with [`Proxy`] inside, and what every worker does for it beside its
//! connections.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::connection::Lean;
use super::descriptors::Descriptors;
use super::{Background, Handle, Serve, StartError, start};
use crate::clock::Clock;
use crate::config::Plan;
use crate::control::{health, probe};
use crate::proxy::{Client, Parts, Proxy};
use crate::state::State;
use crate::telemetry::log::AccessLog;
use crate::upstream::{Names, Upstreams, system_roots, tcp};

/// How often a worker closes upstream connections that were idle too long. The shortest default is four seconds.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Starts the proxy. [`Serve::background`] is set here.
pub fn start_proxy(mut serve: Serve) -> Result<Handle, StartError> {
    let tasks = TaskTracker::new();
    let descriptors = Descriptors::of_this_process();
    let names = Names::of_this_system();
    let connector = tcp(names.clone(), move || descriptors.left_for_backends());
    let upstreams = Upstreams::new(connector, system_roots, tasks.clone(), Arc::clone(&serve.clock));
    prepare(&upstreams, &serve.plan).map_err(StartError::Backend)?;
    if let Some(config) = &mut serve.config {
        let (upstreams, load) = (upstreams.clone(), std::mem::replace(&mut config.loader, Box::new(|_| Err(String::new()))));
        config.loader = Box::new(move |text| {
            let plan = load(text)?;
            prepare(&upstreams, &plan)?;
            Ok(plan)
        });
    }
    let state = Arc::new(OnceLock::new());
    serve.background = Some(background(&upstreams, names, &serve, &state));
    start(serve, move |shared| {
        // It is set before any worker runs.
        let _ = state.set(Arc::clone(&shared.state));
        let proxy = Proxy::new(Parts {
            state: Arc::clone(&shared.state),
            clock: Arc::clone(&shared.clock),
            upstreams,
            tasks,
            log: AccessLog::clone(&shared.log),
            metrics: Arc::clone(&shared.metrics),
            cut: shared.cut.clone(),
            run: fastrand::u32(1..),
        });
        move |peer| Lean(proxy.serving(Client { address: peer.address, tls: peer.tls, trusted: peer.trusted }))
    })
}

/// What can fail about a plan's backends fails before the plan is published.
fn prepare(upstreams: &Upstreams, plan: &Plan) -> Result<(), String> {
    let failed: Vec<String> = plan
        .backends
        .iter()
        .filter_map(|backend| Some(format!("backend `{}`: {}", backend.name, upstreams.prepare(backend).err()?)))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// What the workers do: each closes its own idle connections, and the first one asks backends whether they work. That takes a few
/// requests a second of one worker, and finds its connections swept and its end told as every other's.
fn background(upstreams: &Upstreams, names: Names, serve: &Serve, state: &Arc<OnceLock<Arc<State>>>) -> Background {
    let (upstreams, clock, state) = (upstreams.clone(), Arc::clone(&serve.clock), Arc::clone(state));
    let is_first = AtomicBool::new(true);
    Arc::new(move || {
        let state = state.get().filter(|_| is_first.swap(false, Relaxed)).cloned();
        let (upstreams, names, clock) = (upstreams.clone(), names.clone(), Arc::clone(&clock));
        Box::pin(async move {
            let checks = state.map(|state| {
                let probes = probe::run(Arc::clone(&state), names);
                (health::run(state, upstreams.clone(), Arc::clone(&clock)), probes)
            });
            let sweeping = sweep(upstreams, clock);
            match checks {
                Some((checks, probes)) => drop(tokio::join!(checks, probes, sweeping)),
                None => sweeping.await,
            }
        })
    })
}

async fn sweep(upstreams: Upstreams, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        upstreams.sweep(clock.monotonic());
    }
}
