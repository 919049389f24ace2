//! What `/status` shows: everything that decides where the next request goes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::admin::Context;
use crate::control::LastReload;
use crate::control::carbon::SourceStatus;
use crate::control::peers::PeersStatus;
use crate::grid::{Basis, Freshness, GridZone, Intensity, Quality, Signal, ZoneId, age};
use crate::state::{Snapshot, TokenState};
use crate::units::{Grams, GramsPerKwh, Millis};

/// Prompt tokens of the request for which a model's first token is shown.
const TYPICAL_PROMPT: u32 = 1000;

#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    instance: Arc<str>,
    run: Arc<str>,
    now: Timestamp,
    ready: bool,
    generation: u64,
    config: Option<String>,
    last_reload: Option<LastReload>,
    in_flight: i64,
    connections: i64,
    retries: RetryStatus,
    backends: Vec<BackendStatus>,
    grid: Vec<ZoneStatus>,
    carbon_sources: Vec<SourceStatus>,
    /// Null where it runs alone.
    peers: Option<PeersStatus>,
    log: LogStatus,
}

#[derive(Debug, Serialize)]
struct RetryStatus {
    sent: u64,
    /// Not made because the budget for them was spent.
    withheld: u64,
}

#[derive(Debug, Serialize)]
struct BackendStatus {
    name: Arc<str>,
    region: Arc<str>,
    in_flight: u32,
    /// From other replicas of this gateway.
    in_flight_elsewhere: u32,
    max_in_flight: u32,
    /// What its grams are reckoned with: of the dirtiest zone in which a request may run there. Null when one of them is unknown.
    reading: Option<ReadingStatus>,
    /// What its capacity is worth to all, in grams for each output token; zero where there is room.
    price_grams_per_output_token: Grams,
    /// The share of its capacity that its refusals have left: of the model of which they left least.
    cut: f64,
    pending_prompt_tokens: u64,
    /// How long connecting to it takes; null where that was not measured.
    round_trip_ms: Option<Millis>,
    /// How much longer it is left alone after failures; null when it is used.
    shut_for_ms: Option<u64>,
    /// How much longer it has no room for anything, by its own word; null when it did not say so.
    full_for_ms: Option<u64>,
    /// The share of decisions that it takes part in while it comes back, 0 while it is shut; null when in all.
    share: Option<f64>,
    /// Null where it is not asked beside its traffic.
    health_checks: Option<CheckStatus>,
    requests: u64,
    failures: u64,
    /// Of these, refusals of the credential that it is sent: its `auth` has to be mended.
    credentials_refused: u64,
    /// Null where its credential does not change.
    token: Option<TokenStatus>,
    models: Vec<ModelStatus>,
}

#[derive(Debug, Serialize)]
struct TokenStatus {
    /// Whether there is one that has not ended: without one it is asked last of all.
    valid: bool,
    renewed_at: Option<Timestamp>,
    /// Null where nobody says.
    expires_at: Option<Timestamp>,
    failures: u64,
    /// Why it could not be renewed the last time; null when it was.
    error: Option<String>,
}

impl TokenStatus {
    fn of(state: TokenState) -> Self {
        let TokenState { good, renewed_at, expires_at, failed, failing, .. } = state;
        Self { valid: good, renewed_at, expires_at, failures: failed, error: failing }
    }
}

#[derive(Debug, Serialize)]
struct CheckStatus {
    passed: u64,
    failed: u64,
    /// Since the last one that passed.
    failed_in_a_row: u32,
}

#[derive(Debug, Serialize)]
struct ModelStatus {
    model: Arc<str>,
    /// For a prompt of 1000 tokens behind what is pending now, at the 99th percentile.
    first_token_ms: Millis,
    /// Of it, what is pending.
    queue_ms: Millis,
    /// With one request more than now.
    per_output_token_ms: Millis,
    /// Requests that it takes at once, as learned.
    limit: u32,
    /// The share of its capacity that refusals have left.
    cut: f64,
    samples: u64,
}

#[derive(Debug, Serialize)]
struct ZoneStatus {
    grid_zone: GridZone,
    /// Null when nothing is known of it.
    reading: Option<ReadingStatus>,
}

#[derive(Debug, Serialize)]
struct ReadingStatus {
    intensity_g_per_kwh: GramsPerKwh,
    signal: Signal,
    basis: Basis,
    quality: Quality,
    freshness: Freshness,
    source: Arc<str>,
    measured_at: Timestamp,
    age_s: u64,
}

impl ReadingStatus {
    fn of(known: Intensity<'_>, now: Timestamp) -> Self {
        let Intensity { zone: _, freshness, value, quality, reading } = known;
        Self {
            intensity_g_per_kwh: value,
            signal: reading.signal,
            basis: reading.basis,
            quality,
            freshness,
            source: Arc::clone(&reading.source),
            measured_at: reading.measured_at,
            age_s: age(reading, now).as_secs(),
        }
    }
}

#[derive(Debug, Serialize)]
struct LogStatus {
    lines: u64,
    written: u64,
    lost: u64,
    write_errors: u64,
}

/// The status now.
pub(super) fn status(context: &Context) -> Status {
    let shared = &context.shared;
    let (snapshot, now) = (shared.state.load(), shared.clock.wall());
    let control = context.control.status();
    let identity = shared.log.identity();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        instance: Arc::clone(&identity.instance),
        run: Arc::clone(&identity.run),
        now,
        ready: context.ready.load(std::sync::atomic::Ordering::SeqCst),
        generation: snapshot.generation,
        config: control.config.as_ref().map(|path| path.display().to_string()),
        last_reload: control.last_reload(),
        in_flight: shared.metrics.in_flight.get(),
        connections: shared.metrics.connections.get(),
        retries: RetryStatus { sent: shared.metrics.retries.get(), withheld: shared.metrics.retries_withheld.get() },
        backends: backends(&snapshot, shared.clock.monotonic(), now),
        grid: zones(&snapshot, now),
        carbon_sources: control.sources(),
        peers: control.peers(),
        log: LogStatus {
            lines: shared.log.numbered(),
            written: shared.log.written(),
            lost: shared.log.lost(),
            write_errors: shared.log.write_errors(),
        },
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn backends(snapshot: &Snapshot, now: std::time::Instant, wall: Timestamp) -> Vec<BackendStatus> {
    let one = |backend: &Arc<crate::backend::Backend>| {
        let live = snapshot.live(backend.id);
        let (requests, failures) = live.totals();
        let (passed, failed, failed_in_a_row) = live.checks();
        let load = live.load();
        let models = snapshot.plan.priors(backend.id).filter_map(|(model, _)| {
            let known = live.model(&model)?;
            let first_token = known.first_token(TYPICAL_PROMPT, load.pending_prompt_tokens);
            Some(ModelStatus {
                first_token_ms: first_token.late.rounded(),
                queue_ms: first_token.queue.rounded(),
                per_output_token_ms: known.per_output_token(load.in_flight.saturating_add(1), backend.max_in_flight).rounded(),
                limit: known.limit(backend.max_in_flight),
                cut: known.cut(),
                samples: known.samples(),
                model,
            })
        });
        BackendStatus {
            name: Arc::clone(&backend.name),
            region: Arc::clone(&backend.region),
            in_flight: live.in_flight(),
            in_flight_elsewhere: load.in_flight.saturating_sub(live.in_flight()),
            max_in_flight: backend.max_in_flight,
            reading: snapshot.intensity(backend, wall).map(|known| ReadingStatus::of(known, wall)),
            price_grams_per_output_token: snapshot.prices.get(backend.id.index()).copied().unwrap_or(Grams::ZERO),
            cut: live.cut(),
            pending_prompt_tokens: live.pending_prompt_tokens(),
            round_trip_ms: live.round_trip().map(Millis::rounded),
            shut_for_ms: live.shut_for(now).map(millis),
            full_for_ms: live.full_for(now).map(millis),
            share: live.share(now),
            health_checks: backend.health.as_ref().map(|_| CheckStatus { passed, failed, failed_in_a_row }),
            requests,
            failures,
            credentials_refused: live.credentials_refused(),
            token: snapshot.token(backend.id).map(|token| TokenStatus::of(token.state(wall))),
            models: models.collect(),
        }
    };
    snapshot.plan.backends.iter().map(one).collect()
}

fn zones(snapshot: &Snapshot, now: Timestamp) -> Vec<ZoneStatus> {
    let one = |(index, zone): (usize, &GridZone)| {
        let known = snapshot.grid.at(ZoneId(index as u16), now);
        ZoneStatus { grid_zone: zone.clone(), reading: known.map(|known| ReadingStatus::of(known, now)) }
    };
    snapshot.plan.zones.iter().enumerate().map(one).collect()
}
