//! What a request sees of the world: one immutable snapshot, loaded once and kept for the whole exchange.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::backend::{Backend, BackendId};
use crate::config::Plan;
use crate::decide::{Candidate, Standing};
use crate::estimate::{Demand, estimate};
use crate::grid::{Grid, Intensity};
use crate::live::{Live, Remedy};
use crate::route::Deployment;

/// Plan and grid as of one generation, with the live statistics of its backends.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts published plans: 1 is the one at start. A new grid does not change it.
    pub generation: u64,
    /// The configuration.
    pub plan: Arc<Plan>,
    /// The latest readings.
    pub grid: Arc<Grid>,
    /// Statistics of the plan's backends, by `BackendId`; the same objects as before a reload for backends that stay.
    pub live: Vec<Arc<Live>>,
}

impl Snapshot {
    /// The first snapshot of a plan: nothing is known but the yearly figures.
    pub fn first(plan: Arc<Plan>, now: Instant) -> Self {
        let live = plan.backends.iter().map(|backend| Arc::new(Live::new(now, plan.priors(backend.id)))).collect();
        let grid = Arc::new(Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age));
        Self { generation: 1, plan, grid, live }
    }

    /// This snapshot with another plan: readings stay for zones that stay, statistics for backends that stay, both by name.
    #[must_use]
    pub fn with_plan(&self, plan: Arc<Plan>, now: Instant) -> Self {
        let mut grid = Grid::new(plan.carbon.yearly.clone(), plan.carbon.max_age);
        for (index, zone) in plan.zones.iter().enumerate() {
            let old =
                self.plan.zones.iter().position(|z| z == zone).and_then(|i| self.grid.latest(crate::grid::ZoneId(i as u16)));
            if let Some(reading) = old.filter(|r| r.signal == plan.carbon.signal && r.basis == plan.carbon.basis) {
                grid = grid.with(crate::grid::ZoneId(index as u16), reading.clone());
            }
        }
        let live = plan
            .backends
            .iter()
            .map(|backend| {
                let old = self.plan.backends.iter().position(|old| old.name == backend.name && old.origin.is_at(&backend.origin));
                match old.and_then(|index| self.live.get(index).map(|live| (live, index))) {
                    Some((live, index)) if self.plan.priors(BackendId(index as u16)).eq(plan.priors(backend.id)) => {
                        Arc::clone(live)
                    }
                    Some((live, _)) => Arc::new(live.carried_over(plan.priors(backend.id))),
                    None => Arc::new(Live::new(now, plan.priors(backend.id))),
                }
            })
            .collect();
        Self { generation: self.generation + 1, plan, grid: Arc::new(grid), live }
    }

    /// This snapshot with other readings.
    #[must_use]
    pub fn with_grid(&self, grid: Arc<Grid>) -> Self {
        Self { generation: self.generation, plan: Arc::clone(&self.plan), grid, live: self.live.clone() }
    }

    /// The live statistics of a backend.
    pub fn live(&self, id: BackendId) -> &Arc<Live> {
        #[expect(clippy::indexing_slicing, reason = "built with one entry for each backend of the plan")]
        &self.live[id.index()]
    }

    /// What may be done about a failing backend where no decision says who else could serve: the hardest that one of its routes
    /// allows, because on a route that has nobody else it is tried as a last resort.
    pub fn remedy(&self, id: BackendId, now: Instant) -> Remedy {
        let lists = self.plan.routes.iter().flat_map(|route| {
            let lists = route.models.values().chain([&route.any_model]);
            lists.map(|list| list.iter().map(|deployment| deployment.backend).filter(|other| !route.outside.contains(other)))
        });
        let remedies = lists.filter(|list| list.clone().any(|other| other == id)).map(|list| {
            let ejected = list.clone().filter(|other| *other != id && self.live(*other).shut_for(now).is_some()).count();
            Remedy::of(list.count(), ejected)
        });
        remedies.max().unwrap_or(Remedy::Keep)
    }

    /// One that may serve, as it stands at this moment; `None` when nothing is known of the model there. `inside` says whether it
    /// may be used where it is.
    pub fn candidate(&self, deployment: &Deployment, inside: bool, question: &Question<'_>) -> Option<Candidate> {
        let Question { model, demand, now, wall, turn } = question;
        let backend = self.plan.backend(deployment.backend);
        let live = self.live(deployment.backend);
        let learned = live.model(&deployment.model)?;
        let now_ms = live.millis(*now);
        learned.doubt(now_ms);
        let table = deployment.coefficients.as_deref().unwrap_or_else(|| self.plan.energy.find(model));
        let intensity = self.intensity(backend, *wall).map(|intensity| intensity.reading.intensity);
        let estimate = estimate(demand, backend, learned, live, table, intensity);
        let in_flight = if live.is_full(now_ms) { u32::MAX } else { estimate.in_flight };
        // Two that come back at once are not let in by the same turns.
        let own_turn = turn.wrapping_add(deployment.backend.0.into());
        let by_health = if !live.is_left_alone(now_ms, own_turn) {
            Standing::Ready
        } else if live.is_shut(now_ms) {
            Standing::Ejected
        } else {
            Standing::Returning
        };
        let standing = Standing::of(inside, by_health, in_flight, estimate.limit);
        Some(Candidate { backend: deployment.backend, estimate, standing, weight: deployment.weight })
    }

    /// The intensity that counts for a backend: of the zones it may run in, the dirtiest; `None` when a zone is unknown or nobody
    /// knows where it runs.
    pub fn intensity(&self, backend: &Backend, now: Timestamp) -> Option<Intensity<'_>> {
        let mut worst: Option<Intensity<'_>> = None;
        for zone in &backend.placement.zones {
            let here = self.grid.at(*zone, now)?;
            if worst.is_none_or(|w| here.reading.intensity > w.reading.intensity) {
                worst = Some(here);
            }
        }
        worst
    }
}

/// What is asked of every candidate of one request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model as the client names it.
    pub model: &'a str,
    /// What the request asks for.
    pub demand: &'a Demand,
    /// Now, for what backends did lately.
    pub now: Instant,
    /// Now, for how old a reading is.
    pub wall: Timestamp,
    /// The rotation's state.
    pub turn: u32,
}

/// The snapshot in force. Only `control` publishes; a request loads once (about 25 ns uncontended, 90 ns contended; a lock would
/// cost as much and could block).
#[derive(Debug)]
pub struct State(ArcSwap<Snapshot>);

impl State {
    /// Starts with a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn publish(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }
}
