//! One simulated region at work: the pure model behind a lock, and the exchanges that live by it.
//!
//! An [`Exchange`] leaves its slot and writes its row when it is dropped. The response's body owns it, so a client that hangs up
//! ends the generation at once and by the same path as one that stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use smallvec::SmallVec;
use tokio::sync::{oneshot, watch};

use super::files::Files;
use super::ledger::{Ledger, Row, millis};
use crate::backend::Secret;
use crate::clock::Clock;
use crate::config::fleet::{RegionPlan, Signed};
use crate::fleet::{Admission, Faults, Patch, Region, Start, Step, Ticket};

/// The connection breaks here: by an injected fault, or because the region is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated region broke the connection")]
pub(super) struct Cut;

/// Why an exchange is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Down,
    Full { answer_at: Duration, retry_after: Duration },
    Broken { answer_at: Duration },
}

/// One region, shared by its connections.
pub(super) struct Site {
    pub(super) name: Arc<str>,
    pub(super) models: Arc<[Arc<str>]>,
    pub(super) bearer: Option<Secret>,
    /// How requests have to be signed.
    pub(super) signed: Option<Signed>,
    pub(super) tokens_per_chunk: u32,
    pub(super) clock: Arc<dyn Clock>,
    started: Instant,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    region: Region,
    rng: Rng,
    ledger: Ledger,
    files: Files,
    queue: HashMap<Ticket, oneshot::Sender<Start>>,
    exchanges: u64,
}

impl State {
    /// Wakes those that got a slot. One whose client has just gone is on its way to depart by itself.
    fn wake(&mut self, started: SmallVec<[Start; 1]>) {
        for start in started {
            if let Some(waiting) = self.queue.remove(&start.ticket) {
                let _ = waiting.send(start);
            }
        }
    }
}

impl Site {
    pub(super) fn new(plan: &RegionPlan, models: Arc<[Arc<str>]>, clock: Arc<dyn Clock>, started: Instant, seed: u64) -> Self {
        Self {
            name: Arc::clone(&plan.spec.name),
            models,
            bearer: plan.bearer.clone(),
            signed: plan.signed.clone(),
            tokens_per_chunk: u32::from(plan.spec.tokens_per_chunk.get()),
            clock,
            started,
            state: Mutex::new(State {
                region: Region::new(plan.spec.clone()),
                rng: Rng::with_seed(seed),
                ledger: Ledger::default(),
                files: Files::new(plan.spec.name.replace('/', "-")),
                queue: HashMap::new(),
                exchanges: 0,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Since the fleet started.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic().saturating_duration_since(self.started)
    }

    /// Waits until `at` since the fleet started.
    pub(super) async fn sleep_until(&self, at: Duration) {
        // A time that the clock cannot express is as good as never.
        match self.started.checked_add(at) {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the region is up, or until it is not.
    pub(super) async fn until_up(&self, up: bool) {
        let mut changed = self.changed.subscribe();
        while self.faults().up != up {
            // The sender lives as long as this site.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn faults(&self) -> Faults {
        self.state().region.faults().clone()
    }

    pub(super) fn control(&self, patch: &Patch) -> Faults {
        let faults = self.faults().patched(patch);
        self.set_faults(faults.clone());
        faults
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        let now = self.now();
        let mut state = self.state();
        let started = state.region.set_faults(now, faults);
        state.wake(started);
        drop(state);
        self.changed.send_replace(());
    }

    /// Requests in slots, in the batch, and waiting.
    pub(super) fn load(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.region.resident(), state.region.decoding(), state.region.waiting())
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.state().ledger.rows()
    }

    pub(super) fn clear_rows(&self) {
        self.state().ledger.clear();
    }

    pub(super) fn with_files<T>(&self, action: impl FnOnce(&mut Files) -> T) -> T {
        action(&mut self.state().files)
    }

    pub(super) fn with_rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// Nothing that holds this lock waits or can leave the state half changed, so a poisoned one is as good as new.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request from its head to the end of its answer.
pub(super) struct Exchange {
    site: Arc<Site>,
    row: Row,
    ticket: Option<Ticket>,
    queued: Option<oneshot::Receiver<Start>>,
    first_token_at: Duration,
    due: Duration,
    changed: watch::Receiver<()>,
    over: bool,
}

impl Exchange {
    /// A request's head has been read. Without an id of the client's it gets one of the region's.
    pub(super) fn open(site: Arc<Site>, path: &str, id: Option<&str>) -> Self {
        let number = {
            let mut state = site.state();
            state.exchanges += 1;
            state.exchanges
        };
        let row = Row {
            id: id.map_or_else(|| format!("{}-{number}", site.name), str::to_owned),
            region: site.name.to_string(),
            path: path.to_owned(),
            arrival_ms: millis(site.now()),
            ..Row::default()
        };
        let changed = site.changed.subscribe();
        let due = Duration::ZERO;
        Self { site, row, ticket: None, queued: None, first_token_at: due, due, changed, over: false }
    }

    pub(super) fn id(&self) -> &str {
        &self.row.id
    }

    /// Asks the region for a slot; returns when the head of the answer reaches the client.
    pub(super) fn admit(&mut self, prompt_tokens: u32) -> Result<Duration, Refusal> {
        self.row.prompt_tokens = prompt_tokens;
        let now = self.site.now();
        let mut state = self.site.state();
        let State { region, rng, queue, .. } = &mut *state;
        match region.arrive(now, prompt_tokens, rng) {
            Admission::Down => Err(Refusal::Down),
            Admission::Refused { answer_at, retry_after } => Err(Refusal::Full { answer_at, retry_after }),
            Admission::Failed { answer_at } => Err(Refusal::Broken { answer_at }),
            Admission::Started { start, answer_at } => {
                self.ticket = Some(start.ticket);
                self.first_token_at = start.first_token_at;
                Ok(answer_at)
            }
            Admission::Queued { ticket, answer_at } => {
                let (waker, queued) = oneshot::channel();
                queue.insert(ticket, waker);
                self.ticket = Some(ticket);
                self.queued = Some(queued);
                Ok(answer_at)
            }
        }
    }

    /// The answer's status is on its way.
    pub(super) fn answered(&mut self, status: http::StatusCode) {
        self.row.status = Some(status.as_u16());
    }

    /// Waits for the first token, which joins the batch.
    pub(super) async fn first_token(&mut self) -> Result<(), Cut> {
        if let Some(mut queued) = self.queued.take() {
            let start = loop {
                tokio::select! {
                    start = &mut queued => break start.map_err(|_| Cut)?,
                    _ = self.changed.changed() => self.unless_cut()?,
                }
            };
            self.first_token_at = start.first_token_at;
        }
        self.due = self.first_token_at;
        self.wait_until_due().await?;
        while self.step(0)? == Step::Stalled {
            let _ = self.changed.changed().await;
        }
        let now = self.site.now();
        if let Some(ticket) = self.ticket {
            self.site.state().region.first_token(ticket);
        }
        self.due = self.due.max(now);
        self.row.first_byte_ms = Some(millis(now));
        self.row.output_tokens = 1;
        Ok(())
    }

    /// Waits for that many more tokens, at the pace of the present batch.
    pub(super) async fn more_tokens(&mut self, tokens: u32) -> Result<(), Cut> {
        loop {
            match self.step(tokens)? {
                // Counted from when the last were due rather than from when the timer fired, or its grain would add up.
                Step::After(pause) => {
                    self.due = self.due.saturating_add(pause);
                    break;
                }
                Step::Stalled | Step::Cut => {
                    let _ = self.changed.changed().await;
                    self.due = self.due.max(self.site.now());
                }
            }
        }
        self.wait_until_due().await?;
        self.row.output_tokens += tokens;
        Ok(())
    }

    /// All was generated and said; the row will say so.
    pub(super) fn finish(&mut self) {
        self.row.complete = true;
        self.over = true;
    }

    /// It ends without an answer, or with an error for one, by the region's own doing.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    async fn wait_until_due(&mut self) -> Result<(), Cut> {
        let Self { site, changed, due, row, .. } = self;
        let sleep = site.sleep_until(*due);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return Ok(()),
                _ = changed.changed() => {
                    let mut state = site.state();
                    let State { region, rng, .. } = &mut *state;
                    if region.step(row.output_tokens, 0, rng) == Step::Cut {
                        return Err(Cut);
                    }
                }
            }
        }
    }

    fn unless_cut(&self) -> Result<(), Cut> {
        self.step(0).map(|_| ())
    }

    fn step(&self, tokens: u32) -> Result<Step, Cut> {
        let mut state = self.site.state();
        let State { region, rng, .. } = &mut *state;
        match region.step(self.row.output_tokens, tokens, rng) {
            Step::Cut => Err(Cut),
            step => Ok(step),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = self.site.now();
        let mut row = std::mem::take(&mut self.row);
        row.end_ms = millis(now);
        row.cancelled = !self.over;
        let mut state = self.site.state();
        state.ledger.push(row);
        if let Some(ticket) = self.ticket {
            let State { region, queue, .. } = &mut *state;
            queue.remove(&ticket);
            let started = region.depart(now, ticket);
            state.wake(started);
        }
    }
}
