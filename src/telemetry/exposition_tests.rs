use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::telemetry::log::Identity;
use crate::testing::plan;
use crate::units::Grams;

fn scrape(metrics: Metrics) -> Scrape {
    let snapshot = Arc::new(Snapshot::first(Arc::new(plan()), SystemClock.monotonic()));
    Scrape { metrics: Arc::new(metrics), snapshot, log: AccessLog::off(Identity::new("test", 0)), now: Timestamp::UNIX_EPOCH }
}

#[test]
fn a_scrape_has_every_metric_of_the_table_and_ends_as_it_should() {
    let text = render(scrape(Metrics::default()));
    for Row { name, unit, .. } in TABLE {
        let full = unit.map_or_else(|| (*name).to_owned(), |unit| format!("{name}_{unit}"));
        assert!(text.contains(&format!("# TYPE {full} ")), "{full} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_was_counted_is_shown() {
    let metrics = Metrics::default();
    metrics.answered(StatusCode::OK);
    metrics.answered(StatusCode::CREATED);
    metrics.answered(StatusCode::BAD_GATEWAY);
    metrics.emitted(Grams::saturating(0.25), Grams::saturating(0.05), Grams::saturating(0.1) - Grams::saturating(0.25));
    metrics.first_token(Duration::from_millis(15));
    metrics.first_token(Duration::from_mins(5));
    metrics.in_flight.add(2);
    let scrape = scrape(metrics);
    let _permit = scrape.snapshot.live.first().unwrap().admit(1);
    let text = render(scrape);
    for line in [
        "windward_requests_total{code_class=\"2xx\"} 2",
        "windward_requests_total{code_class=\"5xx\"} 1",
        "windward_emissions_grams_total 0.25",
        "windward_waste_grams_total 0.05",
        "windward_saved_grams -0.15",
        "windward_first_token_seconds_bucket{le=\"0.01\"} 0",
        "windward_first_token_seconds_bucket{le=\"0.02\"} 1",
        "windward_first_token_seconds_bucket{le=\"+Inf\"} 2",
        "windward_first_token_seconds_sum 300.015",
        "windward_backend_requests_total{backend=\"north\"} 1",
        "windward_backend_in_flight{backend=\"north\"} 1.0",
        "windward_config_generation 1.0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn every_time_falls_into_the_bucket_that_holds_it() {
    let metrics = Metrics::default();
    let (_, overhead) = metrics.histograms();
    for us in [0, 10, 11, 20, 81_920, 81_921, u64::MAX >> 1] {
        overhead.observe(Duration::from_micros(us));
    }
    let (buckets, _) = overhead.read();
    assert_eq!(buckets.iter().map(|(_, count)| *count).filter(|count| *count > 0).collect::<Vec<_>>(), [2, 2, 1, 2]);
}
