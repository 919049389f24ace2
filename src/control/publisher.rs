//! What is published: the snapshot after a plan, the snapshot after a reading.

use std::sync::Arc;

use super::pricing::{Pricer, Ticked};
use crate::carbon::chain::{LINK_MAX_AGE, Link, resolve};
use crate::clock::Clock;
use crate::config::Plan;
use crate::grid::{Grid, GridZone, Reading, ZoneId, age};
use crate::state::{Snapshot, State};

/// Makes each snapshot from the one before.
pub struct Publisher {
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    /// By source and zone, the last reading.
    said: Vec<Vec<Option<Reading>>>,
    epoch: u64,
}

impl Publisher {
    /// The one publisher of a state.
    pub fn new(state: Arc<State>, clock: Arc<dyn Clock>) -> Self {
        let mut publisher = Self { state, clock, said: Vec::new(), epoch: 0 };
        publisher.forget();
        publisher
    }

    /// The set of sources whose readings are taken.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.state.load()
    }

    pub(super) fn generation(&self) -> u64 {
        self.state.load().generation
    }

    /// Publishes a plan. Returns whether it has other carbon sources or zones, so that the sources must be started again.
    pub fn plan(&mut self, plan: Plan) -> bool {
        let before = self.state.load();
        let again = before.plan.carbon != plan.carbon || before.plan.zones != plan.zones;
        self.state.publish(before.with_plan(Arc::new(plan), self.clock.monotonic()));
        if again {
            self.forget();
        }
        again
    }

    /// Adapts limits and prices. Returns whether new prices were found.
    pub fn price(&self, pricer: &mut Pricer) -> bool {
        let snapshot = self.state.load();
        let Ticked { prices: found, usual, .. } = pricer.tick(&snapshot, self.clock.monotonic(), self.clock.wall());
        let prices = found.as_ref().unwrap_or(&snapshot.prices);
        // What the usual request is counts also where there is room everywhere, or where no policy knows a price.
        let is_news = usual != snapshot.usual && (usual.answer > 0.0 || snapshot.usual.hurried > 0.0);
        if is_news || *prices != snapshot.prices {
            self.state.publish(snapshot.with_prices(Arc::clone(prices), usual));
        }
        found.is_some()
    }

    /// Takes what a source said, and publishes it if it changes what counts.
    pub fn take(&mut self, epoch: u64, source: usize, readings: Vec<(GridZone, Reading)>) {
        if epoch != self.epoch {
            return;
        }
        let snapshot = self.state.load();
        let (limit, now) = (LINK_MAX_AGE.min(snapshot.plan.carbon.max_age), self.clock.wall());
        let Some(said) = self.said.get_mut(source) else { return };
        for (zone, reading) in readings {
            let index = snapshot.plan.zones.iter().position(|known| *known == zone);
            let Some(slot) = index.and_then(|index| said.get_mut(index)) else { continue };
            // A source that answers with a value of long ago must not undo what it last said of today. One that corrects itself
            // within its limit may, or a label too far ahead would hold until its hour.
            if age(&reading, now) <= limit || slot.as_ref().is_none_or(|last| last.measured_at <= reading.measured_at) {
                *slot = Some(reading);
            }
        }
        self.resolve();
    }

    /// Asks the chain anew for every zone. A zone of which no source has spoken keeps what it had under an earlier plan.
    pub fn resolve(&mut self) {
        let snapshot = self.state.load();
        let (carbon, now) = (&snapshot.plan.carbon, self.clock.wall());
        let mut grid = Grid::clone(&snapshot.grid);
        let mut changed = false;
        for index in 0..snapshot.plan.zones.len() {
            let zone = ZoneId(index as u16);
            let links: Vec<Link<'_>> = self
                .said
                .iter()
                .map(|said| Link { last: said.get(index).and_then(Option::as_ref), max_age: LINK_MAX_AGE.min(carbon.max_age) })
                .collect();
            let chosen = resolve(&links, carbon.signal, carbon.basis, now).map(|chosen| chosen.reading);
            if let Some(reading) = chosen.filter(|chosen| Some(*chosen) != snapshot.grid.latest(zone)) {
                grid.set(zone, reading.clone());
                changed = true;
            }
        }
        if changed {
            self.state.publish(snapshot.with_grid(Arc::new(grid)));
        }
    }

    fn forget(&mut self) {
        let plan = &self.state.load().plan;
        self.said = vec![vec![None; plan.zones.len()]; plan.carbon.sources.len()];
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::clock::SimulatedClock;
    use crate::config::{Env, NoFiles, SourcePlan};
    use crate::demand::Usual;
    use crate::estimate::Size;
    use crate::grid::{Basis, Quality, Signal};
    use crate::testing::plan;
    use crate::units::GramsPerKwh;

    const NOW: i64 = 1_000_000;

    fn publisher() -> (Publisher, Arc<State>, Arc<SimulatedClock>) {
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_second(NOW).unwrap()));
        let mut plan = plan();
        plan.carbon.sources = vec![SourcePlan::Builtin, SourcePlan::Builtin];
        let state = Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic())));
        (Publisher::new(Arc::clone(&state), Arc::<SimulatedClock>::clone(&clock)), state, clock)
    }

    fn reading(grams: f64, measured_at: i64) -> Vec<(GridZone, Reading)> {
        let measured_at = Timestamp::from_second(measured_at).unwrap();
        let reading = Reading {
            intensity: GramsPerKwh::saturating(grams),
            signal: Signal::Average,
            basis: Basis::Lifecycle,
            quality: Quality::Measured,
            measured_at,
            valid_until: measured_at,
            source: Arc::from("test"),
        };
        vec![(GridZone::new("SE-SE1"), reading.clone()), (GridZone::new("XX"), reading)]
    }

    fn grams(state: &State) -> Option<f64> {
        state.load().grid.latest(ZoneId(0)).map(|reading| reading.intensity.get())
    }

    #[test]
    fn the_first_source_counts_until_it_is_too_old() {
        let (mut publisher, state, clock) = publisher();
        let epoch = publisher.epoch();
        publisher.take(epoch, 1, reading(90.0, NOW));
        assert_eq!(grams(&state), Some(90.0));
        publisher.take(epoch, 0, reading(20.0, NOW - 600));
        assert_eq!(grams(&state), Some(20.0), "an earlier source is heard although its value is older");
        clock.advance(Duration::from_mins(115));
        publisher.resolve();
        assert_eq!(grams(&state), Some(90.0), "it fell silent");
    }

    #[test]
    fn a_value_of_long_ago_does_not_undo_the_last_good_one() {
        let (mut publisher, state, _) = publisher();
        let epoch = publisher.epoch();
        publisher.take(epoch, 0, reading(20.0, NOW));
        publisher.take(epoch, 0, reading(70.0, 0));
        assert_eq!(grams(&state), Some(20.0));
        publisher.take(epoch, 0, reading(30.0, NOW + 3600));
        publisher.take(epoch, 0, reading(40.0, NOW - 60));
        assert_eq!(grams(&state), Some(40.0), "a correction within the limit counts");
    }

    #[test]
    fn a_plan_counts_up_and_keeps_readings_and_statistics() {
        let (mut publisher, state, _) = publisher();
        publisher.take(publisher.epoch(), 0, reading(20.0, NOW));
        let (before, epoch) = (state.load(), publisher.epoch());
        let mut next = (*before.plan).clone();
        next.limits.streams = 7;
        assert!(!publisher.plan(next.clone()));
        assert_eq!((publisher.generation(), grams(&state)), (2, Some(20.0)));
        assert!(Arc::ptr_eq(&before.live[0], &state.load().live[0]));
        next.carbon.sources.pop();
        assert!(publisher.plan(next));
        publisher.take(epoch, 0, reading(55.0, NOW));
        assert_eq!(grams(&state), Some(20.0), "a source of an earlier plan is not heard");
    }

    /// What is usual a second after so many were asked for, time after time, under a policy that says so.
    fn ticks(policy: &str) -> impl FnMut(u32) -> Usual + use<> {
        let text = format!(
            "backends: [{{ name: a, url: http://127.0.0.1:1/v1, grid_zone: SE-SE3, models: [m] }}]
policies: [{{ name: p, {policy} }}]
routes: [{{ name: all, backends: [a], policy: p }}]"
        );
        let plan = crate::config::load("t.yaml", &text, &Env::default(), &NoFiles).unwrap().plan;
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_second(NOW).unwrap()));
        let state = Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic())));
        let publisher = Publisher::new(Arc::clone(&state), Arc::<SimulatedClock>::clone(&clock));
        let mut pricer = Pricer::new(&state.load());
        move |asked| {
            let snapshot = state.load();
            let flow = snapshot.flow(snapshot.plan.routes[0].candidates("m")[0].flow).unwrap();
            (0..asked).for_each(|_| flow.asked(Size { prompt_tokens: 500, output_tokens: 300 }, true));
            clock.advance(Duration::from_secs(1));
            publisher.price(&mut pricer);
            state.load().usual
        }
    }

    #[test]
    fn the_usual_answer_is_published_also_where_nothing_is_scarce() {
        for objective in ["least_carbon", "least_latency"] {
            let mut tick = ticks(&format!("objective: {objective}"));
            tick(0);
            assert!((tick(20).answer - 300.0).abs() < 1.0, "{objective}");
            (0..1000).for_each(|_| assert!((tick(0).answer - 300.0).abs() < 1.0, "it stays what it was"));
        }
    }

    #[test]
    fn the_share_of_those_in_a_hurry_follows_what_they_ask_for() {
        let after = |budget: &str, asked: u32| {
            let mut tick = ticks(&format!("objective: least_carbon, latency_budget: {{ first_token: {budget} }}"));
            (0..60).map(|_| tick(asked)).last().unwrap().hurried
        };
        let (few, many) = (after("300ms", 2), after("300ms", 20));
        assert!(few > 0.0 && (many / few - 10.0).abs() < 0.1, "{few} {many}");
        assert!(after("1s", 20) <= 0.0 && after("300ms", 0) <= 0.0);
        let mut tick = ticks("objective: least_carbon, latency_budget: { first_token: 300ms }");
        (0..60).for_each(|_| _ = tick(20));
        assert!((0..60).map(|_| tick(0)).last().unwrap().hurried < 0.01 * many, "and falls when they stop");
    }

    #[test]
    fn what_changes_nothing_is_not_published() {
        let (mut publisher, state, _) = publisher();
        publisher.take(publisher.epoch(), 0, reading(20.0, NOW));
        let before = state.load();
        publisher.take(publisher.epoch(), 0, reading(20.0, NOW));
        publisher.resolve();
        assert!(Arc::ptr_eq(&before, &state.load()));
    }
}
