//! The one task that publishes snapshots.
//!
//! A new plan and a new reading change the same thing, and each is made from the snapshot before it. So one task does both, in the
//! order in which they come, and nothing else ever publishes: no lock, no lost update. Requests only load.

#[cfg(feature = "aws")]
mod aws;
pub mod carbon;
mod credentials;
mod fetch;
pub mod health;
pub mod keep;
pub mod peers;
pub mod pricing;
pub mod probe;
mod program;
pub mod publisher;
pub mod regular;
pub mod reload;
pub mod tokens;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use self::carbon::{SourceStatus, Sources};
use self::peers::PeersStatus;
use self::pricing::Pricer;
use self::publisher::Publisher;
use self::reload::{Debounce, Outcome, Reloader, watch};
use crate::clock::Clock;
use crate::grid::{GridZone, Reading};
use crate::state::State;
use crate::telemetry::metrics::Metrics;

/// Messages that wait: readings of a few sources, and reloads that people ask for.
const MESSAGES: usize = 256;
/// The guarantee behind the watch, which misses network file systems and links that lead elsewhere.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// How often the chain of sources is looked at although no reading came: one that fell silent has to be passed over some time.
const RESOLVE_EVERY: Duration = Duration::from_mins(1);

/// What the task is sent.
#[derive(Debug)]
pub enum Message {
    /// Read the file again, even if its text is the same: secrets and environment may have changed.
    Reload(Option<oneshot::Sender<ReloadReport>>),
    /// What a carbon source said.
    Readings {
        /// The set of sources it belongs to; a source of an earlier plan is not heard.
        epoch: u64,
        /// Its place in the chain.
        source: usize,
        /// By zone.
        readings: Vec<(GridZone, Reading)>,
    },
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadReport {
    /// Published as this generation. The keys named only change with a restart.
    Published {
        /// Its number.
        generation: u64,
        /// Keys that were changed in vain.
        restart: Vec<&'static str>,
    },
    /// The file is as the plan in force.
    Unchanged,
    /// Refused; the plan before stays.
    Failed(String),
}

/// Makes a plan of a file's text, and prepares what it needs (certificates, clients); both may fail. The error is what a person
/// reads: every problem with line and column.
pub type Loader = Box<dyn Fn(&str) -> Result<crate::config::Plan, String> + Send>;

/// The configuration file that the plan in force was made of.
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text as loaded.
    pub text: String,
    /// How a plan is made of it.
    pub loader: Loader,
}

/// The last attempt to load the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastReload {
    /// When.
    pub at: Timestamp,
    /// Whether the file as it is now is in force.
    pub ok: bool,
    /// What is wrong with it, until it is mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
}

/// What `/status` shows of the task.
#[derive(Debug)]
pub struct Status {
    /// The file, if the plan came from one.
    pub config: Option<PathBuf>,
    last: Mutex<Option<LastReload>>,
    sources: Mutex<Vec<SourceStatus>>,
    peers: Mutex<Option<PeersStatus>>,
}

impl Status {
    /// The last attempt to load the file; `None` before the first.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The carbon sources in the order of the chain.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other replicas; `None` where it runs alone.
    pub fn peers(&self) -> Option<PeersStatus> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_peers(&self, peers: PeersStatus) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    fn update_source(&self, index: usize, update: impl FnOnce(&mut SourceStatus)) {
        if let Some(source) = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            update(source);
        }
    }
}

/// Sends to the task.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    messages: mpsc::Sender<Message>,
    status: Arc<Status>,
}

impl ControlHandle {
    /// Reads the file again and says what came of it; `None` when the task has ended.
    pub async fn reload(&self) -> Option<ReloadReport> {
        let (reply, report) = oneshot::channel();
        self.messages.send(Message::Reload(Some(reply))).await.ok()?;
        report.await.ok()
    }

    /// The task's status.
    pub const fn status(&self) -> &Arc<Status> {
        &self.status
    }
}

/// The task, not yet running.
pub struct Control {
    publisher: Publisher,
    reloader: Option<Reloader>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
}

impl Control {
    /// For a state that nobody else publishes to. Without a file there is nothing to reload.
    pub fn new(
        state: Arc<State>,
        config: Option<ConfigFile>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> (Self, ControlHandle) {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let status = Arc::new(Status {
            config: config.as_ref().map(|config| config.path.clone()),
            last: Mutex::new(None),
            sources: Mutex::new(Vec::new()),
            peers: Mutex::new(None),
        });
        let handle = ControlHandle { messages: sender.clone(), status: Arc::clone(&status) };
        let reloader = config.map(|config| Reloader::new(config, state.load().plan.boot.clone()));
        metrics.last_reload.set(clock.wall().as_second());
        let publisher = Publisher::new(state, Arc::clone(&clock));
        (Self { publisher, reloader, clock, metrics, status, sender, messages }, handle)
    }

    /// Publishes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut sources = self.start_sources();
        let (_watch, mut changes) = watch(self.status.config.as_deref());
        let (mut poll, mut resolve) = (interval(POLL_EVERY), interval(self.clock.timer(RESOLVE_EVERY)));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        resolve.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pricer, mut price) = (Pricer::new(&self.publisher.snapshot()), interval(self.clock.timer(pricing::EVERY)));
        price.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew = interval(credentials::EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tokens = interval(tokens::EVERY);
        tokens.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut debounce = Debounce::default();
        loop {
            let quiet = debounce.until();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(message) = self.messages.recv() => match message {
                    Message::Reload(reply) => {
                        let report = self.reload(true, &mut sources);
                        // Whoever asked may have gone.
                        reply.map(|reply| reply.send(report));
                    }
                    Message::Readings { epoch, source, readings } => self.publisher.take(epoch, source, readings),
                },
                Some(()) = changes.recv() => debounce.event(Instant::now()),
                () = sleep_until(quiet.unwrap_or_else(Instant::now)), if quiet.is_some() => {
                    debounce = Debounce::default();
                    self.reload(false, &mut sources);
                }
                _ = poll.tick() => { self.reload(false, &mut sources); }
                _ = resolve.tick() => self.publisher.resolve(),
                _ = tokens.tick() => tokens::look(&self.publisher.snapshot(), &self.clock),
                _ = renew.tick() => credentials::renew(&self.publisher.snapshot()),
                _ = price.tick() => self.price(&mut pricer),
            }
        }
    }

    /// Adapts limits and prices. A market that takes too long to clear leaves the prices as they are, which is counted.
    fn price(&self, pricer: &mut Pricer) {
        if !self.publisher.price(pricer) {
            self.metrics.prices_kept.add_one();
        }
    }

    fn reload(&mut self, forced: bool, sources: &mut Sources) -> ReloadReport {
        let Some(reloader) = &mut self.reloader else {
            return ReloadReport::Failed("the configuration did not come from a file".to_owned());
        };
        let (report, error, restart) = match reloader.poll(forced) {
            Outcome::Unchanged => return ReloadReport::Unchanged,
            Outcome::Mended => {
                tracing::info!("the configuration file is again as the plan in force");
                (ReloadReport::Unchanged, None, Vec::new())
            }
            Outcome::Failed(error) => {
                tracing::error!("the configuration file is refused and the plan before stays in force:\n{error}");
                self.metrics.reloads_failed.add_one();
                (ReloadReport::Failed(error.clone()), Some(error), Vec::new())
            }
            Outcome::Loaded { plan, restart } => {
                if !restart.is_empty() {
                    tracing::warn!(keys = restart.join(", "), "these keys of the configuration change only with a restart");
                }
                let again = self.publisher.plan(*plan);
                if again {
                    *sources = self.start_sources();
                }
                // Its backends cannot be asked before they have one.
                tokens::look(&self.publisher.snapshot(), &self.clock);
                let generation = self.publisher.generation();
                tracing::info!(generation, "a new configuration is in force");
                self.metrics.reloads_ok.add_one();
                self.metrics.last_reload.set(self.clock.wall().as_second());
                (ReloadReport::Published { generation, restart: restart.clone() }, None, restart)
            }
        };
        self.metrics.config_good.set(i64::from(error.is_none()));
        let last = LastReload { at: self.clock.wall(), ok: error.is_none(), error, restart_needed: restart };
        *self.status.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        report
    }

    /// Starts the sources of the plan in force; the ones before end when their set is dropped.
    fn start_sources(&self) -> Sources {
        let snapshot = self.publisher.snapshot();
        let kept = snapshot.plan.carbon.sources.iter().map(SourceStatus::of).collect();
        *self.status.sources.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Sources::start(&snapshot.plan, self.publisher.epoch(), &self.reporter())
    }

    fn reporter(&self) -> carbon::Reporter {
        carbon::Reporter {
            messages: self.sender.clone(),
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::clock::{FastClock, RuntimeClock, SimulatedClock};
    use crate::config::{self, Env, NoFiles};
    use crate::estimate::Size;
    use crate::state::Snapshot;

    /// How many snapshots are published in three seconds of the runtime's time.
    async fn published(clock: Arc<dyn Clock>) -> usize {
        let text = "backends: [{ name: a, url: http://127.0.0.1:1/v1, grid_zone: DE, models: [m] }]";
        let plan = config::load("t.yaml", text, &Env::default(), &NoFiles).unwrap().plan;
        let state = Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic())));
        let (control, _handle) = Control::new(Arc::clone(&state), None, clock, Arc::default());
        let counting = async {
            let snapshot = state.load();
            let flow = snapshot.flow(snapshot.plan.routes[0].candidates("m")[0].flow).unwrap();
            let mut seen = vec![state.load()];
            for step in 1..=3000 {
                // Longer and longer answers, so that no second is as the one before: what stays the same is not published anew.
                flow.asked(Size { prompt_tokens: 500, output_tokens: step }, true);
                tokio::time::sleep(Duration::from_millis(1)).await;
                let now = state.load();
                if seen.last().is_some_and(|last| !Arc::ptr_eq(last, &now)) {
                    seen.push(now);
                }
            }
            seen.len()
        };
        tokio::select! {
            () = control.run(CancellationToken::new()) => unreachable!("nobody stops it"),
            count = counting => count,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_fast_motion_prices_are_made_as_much_more_often() {
        let usual = published(Arc::new(RuntimeClock)).await;
        let fast = published(Arc::new(FastClock::new(RuntimeClock, 10.0, Timestamp::UNIX_EPOCH, 10.0))).await;
        // The first one is there before; at both ends a tick may fall on the last look.
        assert!((3..=5).contains(&usual) && (28..=33).contains(&fast), "{usual}, {fast}");
    }

    #[test]
    fn a_market_that_takes_too_long_leaves_the_prices_as_they_are_and_is_counted() {
        let text = "backends:
  - { name: clean, url: http://127.0.0.1:1/v1, grid_zone: SE-SE3, models: [m], max_in_flight: 4 }
  - { name: dirty, url: http://127.0.0.1:1/v1, grid_zone: PL, models: [m] }
routes: [{ name: all, backends: [clean, dirty] }]";
        let plan = config::load("t.yaml", text, &Env::default(), &NoFiles).unwrap().plan;
        let clock = Arc::new(SimulatedClock::new(Timestamp::UNIX_EPOCH));
        let state = Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic())));
        let metrics = Arc::<Metrics>::default();
        let (control, _handle) =
            Control::new(Arc::clone(&state), None, Arc::<SimulatedClock>::clone(&clock), Arc::clone(&metrics));
        let mut pricer = Pricer::new(&state.load());
        let snapshot = state.load();
        let flow = snapshot.flow(snapshot.plan.routes[0].candidates("m")[0].flow).unwrap();
        let second = |pricer: &mut Pricer, asked| {
            (0..asked).for_each(|_| flow.asked(Size { prompt_tokens: 500, output_tokens: 300 }, true));
            clock.advance(Duration::from_secs(1));
            control.price(pricer);
            state.load().prices.to_vec()
        };
        let before = (0..30).map(|_| second(&mut pricer, 20)).next_back().unwrap();
        assert!(before[0].get() > 0.0 && metrics.prices_kept.get() == 0, "{before:?}");
        pricer.steps_per_pair = 0;
        assert_eq!(second(&mut pricer, 900), before);
        assert_eq!((second(&mut pricer, 0), metrics.prices_kept.get()), (before.clone(), 2));
        pricer.steps_per_pair = crate::price::STEPS_PER_PAIR;
        assert!(second(&mut pricer, 900) != before && metrics.prices_kept.get() == 2);
    }
}
