//! What the names of a plan are called in messages.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::BackendId;
use crate::config::Plan;
use crate::route::FlowId;

/// Flows that are spoken of: with more of them, the demand of some is counted by each replica for itself.
const MOST_FLOWS: usize = 4096;

/// A plan's names by their hashes. Two replicas whose plans differ understand each other where the same names stand for the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// By `BackendId`.
    pub(super) backends: Vec<u64>,
    /// In the order in which they are spoken of.
    pub(super) models: Vec<(u64, BackendId, Arc<str>)>,
    /// By `FlowId`.
    pub(super) flows: Vec<u64>,
    backend_ids: HashMap<u64, BackendId>,
    model_places: HashMap<u64, usize>,
    flow_ids: HashMap<u64, FlowId>,
}

impl Names {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut names = Self::default();
        for backend in &plan.backends {
            // By where it is as well: while a new configuration reaches the replicas, one name may stand for two endpoints, and what
            // was learned of the one is wrong of the other.
            // As `Origin::is_at` has it: one gateway may keep two endpoints below two paths.
            let origin = &backend.origin;
            let (port, scheme) = (origin.port.to_string(), if origin.tls { "https" } else { "http" });
            let place = [&*backend.name, scheme, &*origin.host, &*port, &*origin.base_path];
            let name = hash(place);
            names.backends.push(name);
            names.backend_ids.insert(name, backend.id);
            for (model, _) in plan.priors(backend.id) {
                let name = hash([place[0], place[1], place[2], place[3], place[4], &*model]);
                names.model_places.insert(name, names.models.len());
                names.models.push((name, backend.id, model));
            }
        }
        for (index, (route, model)) in plan.flows.iter().take(MOST_FLOWS).enumerate() {
            // Of another number of parts than a backend and its models, or one of the same names would be taken for it.
            let name = hash(["route", "", "", "", "", &**route, &**model]);
            names.flows.push(name);
            names.flow_ids.insert(name, FlowId(index as u32));
        }
        names
    }

    pub(super) fn backend(&self, name: u64) -> Option<BackendId> {
        self.backend_ids.get(&name).copied()
    }

    pub(super) fn model(&self, name: u64) -> Option<(BackendId, &str)> {
        let (_, backend, model) = self.models.get(*self.model_places.get(&name)?)?;
        Some((*backend, model))
    }

    pub(super) fn flow(&self, name: u64) -> Option<FlowId> {
        self.flow_ids.get(&name).copied()
    }
}

/// Of a site; 0 where it has no name.
pub(super) fn site(name: &str) -> u64 {
    if name.is_empty() { 0 } else { hash([name]) }
}

/// FNV-1a of the parts with an end to each: the same in every build and on every machine, which the standard library does not
/// promise. Whoever may choose names may also choose secrets, so nobody gains by a collision.
fn hash<const N: usize>(parts: [&str; N]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
