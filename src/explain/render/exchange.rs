//! What came of a request, below its decision.

use super::table::Table;
use super::{fact, grams, mass, ms, name, per_kwh, shown};
use crate::explain::{Asked, Exchange};
use crate::record::{BackendTime, CarbonUsed, Emissions, Text};

pub(super) fn write(out: &mut String, exchange: &Exchange<'_>, asked: &Asked<'_>) {
    fact(out, "arrived", &format!("{}, generation {} of the configuration", exchange.time, exchange.generation));
    let ids = [("the client's", &exchange.client_request_id), ("the backend's", &exchange.provider_request_id)];
    let ids: Vec<String> = ids.iter().filter_map(|(whose, id)| Some(format!("{whose} {}", shown(id.as_ref()?)))).collect();
    if !ids.is_empty() {
        fact(out, "other ids", &ids.join(", "));
    }
    fact(out, "ended", &ended(exchange));
    fact(out, "took", &took(exchange, asked));
    if let Some(time) = &exchange.backend_time {
        fact(out, "", &own_time(time));
    }
    let tokens = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    let (input, output) = (tokens(exchange.input_tokens), tokens(exchange.output_tokens));
    fact(out, "tokens", &format!("{input} in, {output} out, {}", exchange.usage_source.as_str()));
    match &exchange.emissions {
        Some(emissions) => emitted(out, emissions),
        None if exchange.attempts.is_empty() => fact(out, "emitted", "nothing: it was sent nowhere"),
        None => fact(out, "emitted", "unknown"),
    }
    if let Some(carbon) = &exchange.carbon {
        fact(out, "intensity", &intensity(&carbon.chosen));
        if let Some(baseline) = carbon.baseline.as_ref().filter(|baseline| **baseline != carbon.chosen) {
            fact(out, "", &format!("at the baseline {}", intensity(baseline)));
        }
    }
    if let Some(energy) = &exchange.energy {
        let quality = serde_json::to_value(energy.quality).ok();
        let quality = quality.as_ref().and_then(|word| word.as_str()).unwrap_or_default();
        let [low, joules, high] = energy.ends().map(|joules| format!("{:.0}", joules.get()));
        fact(out, "energy", &format!("{joules} J ({low} to {high}), by {}, of quality {quality}", shown(&energy.coefficient)));
    }
    if !exchange.attempts.is_empty() {
        out.push('\n');
        attempts(out, exchange);
    }
}

fn ended(exchange: &Exchange<'_>) -> String {
    let mut parts = vec![exchange.ended.as_str().to_owned()];
    parts.extend(exchange.status.map(|status| format!("status {status}")));
    parts.extend(exchange.error.as_ref().map(|code| format!("error {}", shown(code))));
    parts.extend(exchange.backend.as_ref().map(|_| format!("last with {}", name(exchange.backend.as_ref()))));
    parts.join(", ")
}

fn took(exchange: &Exchange<'_>, asked: &Asked<'_>) -> String {
    let first = exchange.first_token_ms.filter(|_| asked.stream).map(|first| format!("first token after {}, ", ms(first)));
    let budget = match (asked.budget_ms, exchange.within_budget) {
        (Some(budget), Some(true)) => format!(": within the budget of {}", ms(budget)),
        (Some(budget), Some(false)) => format!(": the budget of {} was missed", ms(budget)),
        _ => String::new(),
    };
    format!("{}{} in all{budget}", first.unwrap_or_default(), ms(exchange.total_ms))
}

/// By the backend's own clock, and what the way took besides.
fn own_time(time: &BackendTime) -> String {
    let BackendTime { first_token_ms, total_ms, network_ms } = time;
    let parts = [
        first_token_ms.map(|first| format!("first token after {first} ms")),
        total_ms.map(|total| format!("{total} ms in all")),
        network_ms.map(|network| format!("{} on the way", ms(network))),
    ];
    format!("by the backend itself: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn emitted(out: &mut String, emissions: &Emissions) {
    let ([low, mid, high], saved, waste) = (emissions.emitted(), emissions.saved_grams, emissions.waste_grams);
    let [baseline_low, baseline, baseline_high] = emissions.at_baseline();
    fact(out, "emitted", &format!("{} ({} to {}), {} of it wasted", grams(mid), grams(low), grams(high), grams(waste)));
    let loss = if saved.get() < 0.0 { " (a loss)" } else { "" };
    fact(
        out,
        "saved",
        &format!("{}{loss}, estimated, location-based, against the logged latency-only choice", mass(saved.get())),
    );
    let band = format!("{} to {}", grams(baseline_low), grams(baseline_high));
    fact(out, "", &format!("which would have emitted {} ({band})", grams(baseline)));
}

fn intensity(used: &CarbonUsed<'_>) -> String {
    #[rustfmt::skip]
    let CarbonUsed {
        grid_zone, intensity_g_per_kwh, intensity_low_g_per_kwh, signal, basis, quality, freshness, source, measured_at: _, age_s, pue,
    } = used;
    let value = intensity_g_per_kwh.map_or_else(|| "unknown".to_owned(), |value| format!("{} g/kWh", per_kwh(value)));
    let mut parts = vec![format!("{} in {}", value, name(grid_zone.as_ref()))];
    parts.extend(intensity_low_g_per_kwh.map(|low| format!("{} in the cleanest place where it may run", per_kwh(low))));
    parts.extend(signal.map(|word| word.as_str().to_owned()));
    parts.extend(basis.map(|word| word.as_str().to_owned()));
    parts.extend(quality.map(|word| word.as_str().to_owned()));
    parts.extend(freshness.map(|word| word.as_str().to_owned()));
    parts.extend(age_s.map(|age| format!("{age} s old")));
    parts.extend(source.as_ref().map(|source: &Text<'_>| format!("by {}", shown(source))));
    parts.extend(pue.map(|pue| format!("PUE {:.2}", pue.get())));
    parts.join(", ")
}

fn attempts(out: &mut String, exchange: &Exchange<'_>) {
    let mut table = Table::new(["<attempt", "<outcome", "status", "begun", "took", "in", "out", "g/kWh", "emitted"]);
    let count = |tokens: Option<u64>| tokens.map(|tokens| tokens.to_string()).unwrap_or_default();
    for it in &exchange.attempts {
        table.row([
            shown(&it.backend),
            shown(&it.outcome),
            it.status.map(|status| status.to_string()).unwrap_or_default(),
            it.begun_ms.map(ms).unwrap_or_default(),
            ms(it.ms),
            count(it.input_tokens),
            count(it.output_tokens),
            it.intensity_g_per_kwh.map(per_kwh).unwrap_or_default(),
            it.grams.map(grams).unwrap_or_default(),
        ]);
    }
    table.write(out, |_, row| row.to_owned());
}
