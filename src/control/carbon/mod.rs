//! The carbon sources of a plan, each asked by a task of its own at its own pace.
//!
//! A source can only send readings. Whether it answers, how late and how wrong is seen in `/status` and in a metric; no request
//! ever waits for it.

mod electricity_maps;
mod file;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Message, Status};
use crate::carbon::SourceError;
use crate::carbon::chain::{LINK_MAX_AGE, Link, resolve};
use crate::carbon::file::Refusals;
use crate::clock::Clock;
use crate::config::{Plan, SourcePlan};
use crate::grid::{GridZone, Reading, ZoneId};
use crate::telemetry::metrics::Metrics;

/// What `/status` says of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `builtin`, `electricity-maps`, or the file's path.
    pub name: String,
    /// When it last gave readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ok: Option<Timestamp>,
    /// What went wrong since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Timestamp>,
    /// Rows of the file as it is that cannot be used: the first ones, and how many more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedRows>,
}

/// What `/status` says of rows that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedRows {
    /// The line of each of the first ones, and what is wrong with it.
    pub rows: Vec<String>,
    /// How many there are beside these.
    pub more: usize,
}

impl SourceStatus {
    pub(super) fn of(source: &SourcePlan) -> Self {
        let name = match source {
            SourcePlan::Builtin => "builtin".to_owned(),
            SourcePlan::File { path, .. } => path.display().to_string(),
            SourcePlan::ElectricityMaps { .. } => electricity_maps::NAME.to_owned(),
        };
        Self { name, last_ok: None, last_error: None, last_error_at: None, refused: None }
    }
}

/// What a plan's files say of `at`: for each zone the reading of the first file, in order, that is young enough, or else the youngest.
/// Also why a file says nothing. It reads from the disk, for whoever asks once and serves nobody.
pub fn readings_of_files(plan: &Plan, at: Timestamp) -> (Vec<(ZoneId, Reading)>, Vec<SourceError>) {
    let (mut said, mut errors): (Vec<HashMap<GridZone, Reading>>, _) = (Vec::new(), Vec::new());
    for source in &plan.carbon.sources {
        let SourcePlan::File { path, simulated } = source else { continue };
        match file::FileSource::new(path, *simulated, &plan.carbon).look(at) {
            Ok(readings) => said.push(readings.into_iter().collect()),
            Err(error) => errors.push(error),
        }
    }
    let in_force = |zone: &GridZone| {
        let max_age = LINK_MAX_AGE.min(plan.carbon.max_age);
        let chain: Vec<Link<'_>> = said.iter().map(|said| Link { last: said.get(zone), max_age }).collect();
        resolve(&chain, plan.carbon.signal, plan.carbon.basis, at).map(|chosen| chosen.reading.clone())
    };
    let zones = (0..).map(ZoneId).zip(&plan.zones);
    (zones.filter_map(|(id, zone)| Some((id, in_force(zone)?))).collect(), errors)
}

/// Where the sources report to.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

/// One source's line to the control task.
pub(super) struct Line {
    reporter: Reporter,
    epoch: u64,
    source: usize,
    jitter: fastrand::Rng,
}

impl Line {
    fn now(&self) -> Timestamp {
        self.reporter.clock.wall()
    }

    /// Passes on what an attempt came to. The text of an error has no credential in it.
    async fn report(&self, result: Result<Vec<(GridZone, Reading)>, SourceError>) {
        let now = self.now();
        match result {
            Ok(readings) => {
                self.reporter.metrics.carbon_ok.add_one();
                self.reporter.status.update_source(self.source, |status| {
                    (status.last_ok, status.last_error, status.last_error_at) = (Some(now), None, None);
                });
                if !readings.is_empty() {
                    let message = Message::Readings { epoch: self.epoch, source: self.source, readings };
                    // It fails when the process is at its end.
                    let _ = self.reporter.messages.send(message).await;
                }
            }
            Err(error) => {
                let text = error.to_string();
                self.reporter.metrics.carbon_failed.add_one();
                let mut before = None;
                self.reporter.status.update_source(self.source, |status| {
                    before = status.last_error.replace(text.clone());
                    status.last_error_at = Some(now);
                });
                if before.as_deref() != Some(&text) {
                    tracing::warn!(error = text, kind = error.kind().as_str(), "a carbon source gave no reading");
                }
            }
        }
    }

    /// Shows which rows of its file cannot be used.
    fn refused(&self, refused: Option<&Refusals>) {
        let shown = |all: &Refusals| RefusedRows { rows: all.first.iter().map(ToString::to_string).collect(), more: all.more() };
        self.reporter.status.update_source(self.source, |status| status.refused = refused.map(shown));
    }

    /// Rests for `span`, a tenth more or less, so that many proxies do not ask at the same moment.
    async fn rest(&mut self, span: Duration) {
        let span = self.reporter.clock.timer(span);
        tokio::time::sleep(span.mul_f64(0.9 + 0.2 * self.jitter.f64())).await;
    }
}

/// The running sources of one plan; dropped, they end.
#[derive(Debug)]
pub(super) struct Sources {
    _tasks: JoinSet<()>,
}

impl Sources {
    /// Starts what needs asking. The yearly figures are in the plan already.
    pub(super) fn start(plan: &Plan, epoch: u64, reporter: &Reporter) -> Self {
        let mut tasks = JoinSet::new();
        for (source, source_plan) in plan.carbon.sources.iter().enumerate() {
            let line = Line { reporter: reporter.clone(), epoch, source, jitter: fastrand::Rng::new() };
            match source_plan {
                SourcePlan::Builtin => {}
                SourcePlan::File { path, simulated } => {
                    tasks.spawn(file::run(file::FileSource::new(path, *simulated, &plan.carbon), line));
                }
                SourcePlan::ElectricityMaps { base_url, token, interval } => {
                    match electricity_maps::Service::new(base_url, token, plan.carbon.basis) {
                        Ok(service) => {
                            tasks.spawn(electricity_maps::run(service, plan.zones.clone(), *interval, line));
                        }
                        Err(error) => {
                            tasks.spawn(async move { line.report(Err(error)).await });
                        }
                    }
                }
            }
        }
        Self { _tasks: tasks }
    }
}
