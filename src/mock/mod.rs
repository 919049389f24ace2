//! The simulated fleet behind real sockets: OpenAI-shaped endpoints whose latencies follow from their load.
//!
//! It is what the demonstration, the integration tests and the benchmarks put behind the proxy. Ready-made HTTP mocks control what
//! is answered but not when, cannot break a stream in its middle, and do not notice that a client has gone; all three are what a
//! proxy for streams is judged by. Each region keeps a ledger of what it really served, against which the proxy's log is checked.
//!
//! A region answers Bedrock's `/model/{id}/invoke`, `invoke-with-response-stream`, `converse`, `converse-stream` and `count-tokens`, and
//! holds requests to AWS's signature where it is told to; Gemini's `../models/{model}:{verb}`; and Azure's classic
//! `/openai/deployments/{deployment}/{operation}`. Besides, also below `/openai`, it answers `/v1/chat/completions`, `/v1/completions`,
//! `/v1/responses`, `/v1/embeddings`, Anthropic's `/v1/messages` and `/v1/messages/count_tokens` (also below `/anthropic`), `/v1/models`,
//! `/v1/files` and an echoing upgrade at `/v1/realtime`. Its operator has `/_ctl` (faults, see [`Patch`]) and `/_ledger` (see [`Row`]);
//! with `?region=NAME` they mean another region of the fleet. A region that is down cannot be asked itself, so the fleet has a port for
//! its operator alone, which answers the same and is always there ([`Handle::control_address`]).

mod anthropic;
mod api;
mod azure;
mod bedrock;
mod call;
mod files;
mod gemini;
mod generate;
mod ledger;
mod listen;
mod openai;
mod site;
mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

pub use ledger::Row;

use crate::clock::Clock;
use crate::config::fleet::FleetPlan;
use crate::fleet::{Faults, Patch};
use listen::{Desk, Door, Tasks};
use site::Site;

/// An address is taken or not this machine's.
#[derive(Debug, thiserror::Error)]
#[error("{who} cannot listen on {address}: {source}")]
pub struct StartError {
    /// Which region, or `control`.
    pub who: Arc<str>,
    /// Where it should listen.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// A running fleet. It ends when this is dropped; [`Handle::shutdown`] also waits for the end.
#[must_use = "the fleet ends when its handle is dropped"]
pub struct Handle {
    regions: Vec<(Arc<Site>, SocketAddr)>,
    control: SocketAddr,
    tasks: Tasks,
}

/// Starts every region of the plan on the runtime of the caller. `clock` has to be the one that the runtime's timers follow
/// ([`crate::clock::RuntimeClock`], or the system's where time is not paused); the same `seed` gives the same draws.
pub async fn start(plan: &FleetPlan, clock: Arc<dyn Clock>, seed: u64) -> Result<Handle, StartError> {
    let started = clock.monotonic();
    let models: Arc<[Arc<str>]> = plan.models.clone().into();
    let mut listeners = Vec::new();
    let mut regions = Vec::new();
    for (region, number) in plan.regions.iter().zip(0..) {
        let (listener, address) = bind(&region.spec.name, region.listen).await?;
        let own_seed = seed.wrapping_add(number);
        let site = Arc::new(Site::new(region, Arc::clone(&models), Arc::clone(&clock), started, own_seed));
        listeners.push(listener);
        regions.push((site, address));
    }
    let (desk, control) = bind("control", plan.control).await?;
    let tasks = Tasks::new();
    let fleet: Arc<[Arc<Site>]> = regions.iter().map(|(site, _)| Arc::clone(site)).collect();
    for (listener, (site, address)) in listeners.into_iter().zip(&regions) {
        let door = Door { site: Arc::clone(site), fleet: Arc::clone(&fleet), tasks: tasks.clone() };
        tasks.spawn(door.keep(listener, *address));
    }
    tasks.spawn(Desk { fleet, tasks: tasks.clone() }.keep(desk));
    Ok(Handle { regions, control, tasks })
}

async fn bind(who: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let fail = |source| StartError { who: Arc::from(who), address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let found = listener.local_addr().map_err(fail)?;
    Ok((listener, found))
}

impl Handle {
    /// The regions by name with their addresses, in the order of the plan.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.regions.iter().map(|(site, address)| (&*site.name, *address))
    }

    /// The address of that region.
    pub fn address(&self, region: &str) -> Option<SocketAddr> {
        self.addresses().find(|(name, _)| *name == region).map(|(_, address)| address)
    }

    /// Where the fleet is operated from, whatever its regions are.
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// What all regions served, ordered by the time at which it was over. Requests that are not over yet are not in it.
    pub fn ledger(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.regions.iter().flat_map(|(site, _)| site.rows()).collect();
        rows.sort_by(|a, b| a.end_ms.total_cmp(&b.end_ms));
        rows
    }

    /// Forgets what was served so far.
    pub fn clear_ledger(&self) {
        for (site, _) in &self.regions {
            site.clear_rows();
        }
    }

    /// Requests in slots and waiting in that region; `None` for a name that is not in the plan.
    pub fn in_flight(&self, region: &str) -> Option<usize> {
        self.site(region).map(|site| {
            let (resident, _, waiting) = site.load();
            resident + waiting
        })
    }

    /// Changes what is wrong with that region, and returns all that now is; `None` for a name that is not in the plan.
    pub fn control(&self, region: &str, patch: &Patch) -> Option<Faults> {
        self.site(region).map(|site| site.control(patch))
    }

    /// Breaks every connection and waits until no task is left.
    pub async fn shutdown(self) {
        self.tasks.stop();
        self.tasks.stopped().await;
    }

    fn site(&self, region: &str) -> Option<&Site> {
        self.regions.iter().map(|(site, _)| &**site).find(|site| &*site.name == region)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

#[cfg(test)]
mod tests;
