//! The proxy as it is served: [`start`](super::start) with [`Proxy`] inside, and what every worker does for it beside its
//! connections.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::{Background, Handle, Serve, StartError, start};
use crate::config::Plan;
use crate::proxy::{Parts, Proxy};
use crate::telemetry::log::AccessLog;
use crate::upstream::{Upstreams, system_roots, tcp};

/// How often a worker closes upstream connections that were idle too long. The shortest default is four seconds.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Starts the proxy. [`Serve::background`] is set here.
pub fn start_proxy(mut serve: Serve) -> Result<Handle, StartError> {
    let tasks = TaskTracker::new();
    let upstreams = Upstreams::new(tcp(), system_roots, tasks.clone(), Arc::clone(&serve.clock));
    prepare(&upstreams, &serve.plan).map_err(StartError::Backend)?;
    if let Some(config) = &mut serve.config {
        let (upstreams, load) = (upstreams.clone(), std::mem::replace(&mut config.loader, Box::new(|_| Err(String::new()))));
        config.loader = Box::new(move |text| {
            let plan = load(text)?;
            prepare(&upstreams, &plan)?;
            Ok(plan)
        });
    }
    serve.background = Some(sweeping(&upstreams, &serve));
    start(serve, move |shared| {
        let proxy = Proxy::new(Parts {
            state: Arc::clone(&shared.state),
            clock: Arc::clone(&shared.clock),
            upstreams,
            tasks,
            log: AccessLog::clone(&shared.log),
            metrics: Arc::clone(&shared.metrics),
            run: fastrand::u32(..),
        });
        move |_peer| proxy.clone()
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

fn sweeping(upstreams: &Upstreams, serve: &Serve) -> Background {
    let (upstreams, clock) = (upstreams.clone(), Arc::clone(&serve.clock));
    Arc::new(move || {
        let (upstreams, clock) = (upstreams.clone(), Arc::clone(&clock));
        Box::pin(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                upstreams.sweep(clock.monotonic());
            }
        })
    })
}
