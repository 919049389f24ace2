//! The table of metrics, and how one scrape is written from it.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::log::AccessLog;
use super::metrics::{Histogram, Metrics};
use crate::grid::{Freshness, ZoneId, age};
use crate::state::{Snapshot, TokenState};

/// What one scrape sees.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) metrics: Arc<Metrics>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) log: AccessLog,
    pub(super) now: Timestamp,
}

/// Writes what a scrape sees.
pub(super) fn render(scrape: Scrape) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Writing to a `String` does not fail, and the table has no invalid name.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// A metric: its name without the unit's ending and without `_total`, its unit, what it says, and its values.
struct Row {
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
    values: fn(&Scrape) -> Values<'_>,
}

/// A metric's values, with the label where it has one.
enum Values<'a> {
    Counter(u64),
    CounterF64(f64),
    Gauge(f64),
    Counters(&'static str, Vec<(&'a str, u64)>),
    Gauges(&'static str, Vec<(&'a str, f64)>),
    Times(&'a Histogram),
}

use Values::{Counter, CounterF64, Counters, Gauge, Gauges, Times};

const fn row(name: &'static str, unit: Option<&'static str>, help: &'static str, values: fn(&Scrape) -> Values<'_>) -> Row {
    Row { name, unit, help, values }
}

const GRAMS: Option<&str> = Some("grams");
const SECONDS: Option<&str> = Some("seconds");

/// Every metric.
const TABLE: &[Row] = &[
    row("windward_requests", None, "Exchanges answered, by class of status", |s| {
        Counters("code_class", s.metrics.classes().collect())
    }),
    row("windward_in_flight", None, "Exchanges begun and not ended", |s| Gauge(s.metrics.in_flight.get() as f64)),
    row(
        "windward_shed",
        None,
        "Requests refused because there were too many for the limits, the file descriptors or the budget of their policy",
        |s| Counter(s.metrics.shed.get()),
    ),
    row("windward_keys_refused", None, "Requests refused for the key that they had or had not", |s| {
        let Metrics { keys_missing, keys_wrong, keys_elsewhere, .. } = &*s.metrics;
        Counters(
            "reason",
            vec![("missing", keys_missing.get()), ("wrong", keys_wrong.get()), ("other_route", keys_elsewhere.get())],
        )
    }),
    row("windward_retries", None, "Attempts after a request's first, made or withheld because the budget was spent", |s| {
        Counters("result", vec![("sent", s.metrics.retries.get()), ("withheld", s.metrics.retries_withheld.get())])
    }),
    row(
        "windward_hedges",
        None,
        "Second backends asked while the first was late, sent or withheld because the share was spent",
        |s| Counters("result", vec![("sent", s.metrics.hedges.get()), ("withheld", s.metrics.hedges_withheld.get())]),
    ),
    row("windward_hedges_won", None, "Hedges that answered before the backend that was asked first", |s| {
        Counter(s.metrics.hedges_won.get())
    }),
    row("windward_overhead", SECONDS, "Time from a request's head until it was sent on", |s| Times(s.metrics.histograms().1)),
    row("windward_first_token", SECONDS, "Time from a request's head to the first token of its response", |s| {
        Times(s.metrics.histograms().0)
    }),
    row("windward_emissions", GRAMS, "Estimated gCO2e emitted, waste included", |s| CounterF64(s.metrics.sums().0)),
    row("windward_waste", GRAMS, "Estimated gCO2e of failed, retried and abandoned work", |s| CounterF64(s.metrics.sums().1)),
    row("windward_saved", GRAMS, "Estimated gCO2e saved against the choice without carbon; falls when a choice cost more", |s| {
        Gauge(s.metrics.sums().2)
    }),
    row("windward_backend_requests", None, "Attempts sent to a backend", |s| {
        Counters("backend", backends(s, |live| live.totals().0).collect())
    }),
    row("windward_backend_failures", None, "Attempts that a backend failed", |s| {
        Counters("backend", backends(s, |live| live.totals().1).collect())
    }),
    row("windward_backend_credentials_refused", None, "Attempts at which a backend refused the gateway's own credential", |s| {
        Counters("backend", backends(s, crate::live::Live::credentials_refused).collect())
    }),
    row("windward_pins", None, "Things of which it is known which backend keeps them", |s| Gauge(s.snapshot.pins().len() as f64)),
    row("windward_backend_token_failures", None, "Times that a backend's token could not be renewed", |s| {
        Counters("backend", tokens(s).map(|(name, state)| (name, state.failed)).collect())
    }),
    row("windward_backend_token_valid", None, "Whether a backend's token has not ended", |s| {
        Gauges("backend", tokens(s).map(|(name, state)| (name, f64::from(u8::from(state.good)))).collect())
    }),
    row("windward_backend_health_checks_failed", None, "Health checks that a backend failed", |s| {
        Counters("backend", backends(s, |live| live.checks().1).collect())
    }),
    row("windward_backend_in_flight", None, "Requests that a backend has now", |s| {
        Gauges("backend", backends(s, |live| f64::from(live.in_flight())).collect())
    }),
    row("windward_backend_in_flight_elsewhere", None, "Requests that a backend has from other replicas of this gateway", |s| {
        Gauges("backend", backends(s, |live| f64::from(live.load().in_flight.saturating_sub(live.in_flight()))).collect())
    }),
    row("windward_state_writes", None, "Times that what was learned was written to its file, by result", |s| {
        Counters("result", vec![("ok", s.metrics.state_written.get()), ("error", s.metrics.state_failed.get())])
    }),
    row("windward_peers", None, "Other replicas of this gateway that are heard", |s| Gauge(s.metrics.peers.heard.get() as f64)),
    row("windward_peer_messages", None, "Messages to and from other replicas, by what became of them", |s| {
        Counters("result", s.metrics.peers.messages())
    }),
    row("windward_backend_price_grams_per_output_token", None, "What a backend's capacity is worth to all requests", |s| {
        let price = |id: crate::backend::BackendId| s.snapshot.prices.get(id.index()).map_or(0.0, |price| price.get());
        Gauges("backend", s.snapshot.plan.backends.iter().map(|backend| (&*backend.name, price(backend.id))).collect())
    }),
    row("windward_backend_limit", None, "Requests that a backend takes at once, as learned, the least of its models'", |s| {
        let limit = |backend: &crate::backend::Backend| {
            let live = s.snapshot.live(backend.id);
            let models = s.snapshot.plan.priors(backend.id).filter_map(|(name, _)| live.model(&name));
            models.map(|model| model.limit(backend.max_in_flight)).min().unwrap_or(backend.max_in_flight)
        };
        Gauges("backend", s.snapshot.plan.backends.iter().map(|it| (&*it.name, f64::from(limit(it)))).collect())
    }),
    row("windward_policy_margin", None, "What predictions of the first token are multiplied by under a policy", |s| {
        let margin = |id| s.snapshot.margin(id).map_or(1.0, |margin| margin.get());
        Gauges("policy", s.snapshot.plan.policies.iter().map(|it| (&*it.name, margin(it.id))).collect())
    }),
    row("windward_prices_kept", None, "Times that no new prices were found and the ones before stayed", |s| {
        Counter(s.metrics.prices_kept.get())
    }),
    row("windward_grid_intensity_grams_per_kwh", None, "Carbon intensity in use, in gCO2e/kWh", |s| {
        Gauges("grid_zone", zones(s, |intensity, _| intensity.value.get()).collect())
    }),
    row("windward_grid_age", SECONDS, "Age of the reading in use", |s| {
        Gauges("grid_zone", zones(s, |intensity, now| age(intensity.reading, now).as_secs_f64()).collect())
    }),
    row("windward_grid_fresh", None, "Whether the reading in use is within its validity", |s| {
        Gauges("grid_zone", zones(s, |intensity, _| f64::from(u8::from(intensity.freshness == Freshness::Fresh))).collect())
    }),
    row("windward_carbon_fetches", None, "Questions to carbon sources, by result", |s| {
        Counters("result", vec![("ok", s.metrics.carbon_ok.get()), ("error", s.metrics.carbon_failed.get())])
    }),
    row("windward_connections_open", None, "Connections open", |s| Gauge(s.metrics.connections.get() as f64)),
    row("windward_connections_accepted", None, "Connections accepted", |s| Counter(s.metrics.accepted.get())),
    row("windward_connections_refused", None, "Connections closed at once because there were too many", |s| {
        Counter(s.metrics.refused_connections.get())
    }),
    row("windward_accept_errors", None, "Attempts to accept a connection that failed", |s| {
        Counter(s.metrics.accept_errors.get())
    }),
    row("windward_tls_handshake_errors", None, "TLS handshakes that failed or took too long", |s| {
        Counter(s.metrics.handshake_errors.get())
    }),
    row("windward_bad_heads", None, "Connections that ended with a malformed or late request head", |s| {
        Counter(s.metrics.bad_heads.get())
    }),
    row("windward_http2_floods", None, "HTTP/2 connections closed for too many frames without progress", |s| {
        Counter(s.metrics.floods.get())
    }),
    row("windward_config_generation", None, "Number of the plan in force", |s| Gauge(s.snapshot.generation as f64)),
    row("windward_config_good", None, "1 while the file is in force, 0 while it is refused", |s| {
        Gauge(s.metrics.config_good.get() as f64)
    }),
    row("windward_reload", None, "Reloads, by result", |s| {
        Counters("result", vec![("ok", s.metrics.reloads_ok.get()), ("error", s.metrics.reloads_failed.get())])
    }),
    row("windward_reload_last_success_timestamp", SECONDS, "When a plan was last published", |s| {
        Gauge(s.metrics.last_reload.get() as f64)
    }),
    row("windward_log_lines", None, "Lines of the access log, by fate", |s| {
        Counters("fate", vec![("written", s.log.written()), ("lost", s.log.lost())])
    }),
    row("windward_log_errors", None, "Writes of the access log that failed and were tried again", |s| {
        Counter(s.log.write_errors())
    }),
];

fn backends<T>(scrape: &Scrape, value: impl Fn(&crate::live::Live) -> T) -> impl Iterator<Item = (&str, T)> {
    scrape.snapshot.plan.backends.iter().map(move |backend| (&*backend.name, value(scrape.snapshot.live(backend.id))))
}

fn tokens(scrape: &Scrape) -> impl Iterator<Item = (&str, TokenState)> {
    let backends = scrape.snapshot.plan.backends.iter();
    backends.filter_map(|backend| Some((&*backend.name, scrape.snapshot.token(backend.id)?.state(scrape.now))))
}

fn zones<T>(scrape: &Scrape, value: impl Fn(crate::grid::Intensity<'_>, Timestamp) -> T) -> impl Iterator<Item = (&str, T)> {
    scrape.snapshot.plan.zones.iter().enumerate().filter_map(move |(index, zone)| {
        let intensity = scrape.snapshot.grid.at(ZoneId(index as u16), scrape.now)?;
        Some((zone.as_str(), value(intensity, scrape.now)))
    })
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Row { name, unit, help, values } in TABLE {
            let values = (values)(self);
            let kind = match values {
                Counter(_) | CounterF64(_) | Counters(..) => MetricType::Counter,
                Gauge(_) | Gauges(..) => MetricType::Gauge,
                Times(_) => MetricType::Histogram,
            };
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            write(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?, &values)?;
        }
        Ok(())
    }
}

fn write(mut metric: MetricEncoder<'_>, values: &Values<'_>) -> fmt::Result {
    match values {
        Counter(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
        CounterF64(sum) => metric.encode_counter::<NoLabelSet, _, u64>(sum, None),
        Gauge(value) => metric.encode_gauge(value),
        Counters(label, counts) => counts.iter().try_for_each(|(name, count)| {
            metric.encode_family(&[(*label, *name)])?.encode_counter::<NoLabelSet, _, u64>(count, None)
        }),
        Gauges(label, values) => {
            values.iter().try_for_each(|(name, value)| metric.encode_family(&[(*label, *name)])?.encode_gauge(value))
        }
        Times(histogram) => {
            let (buckets, sum) = histogram.read();
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
