//! The access log's line: an [`AccessRecord`] as JSON, as serde writes it and at a third of what that costs.
//!
//! The record's own `Serialize` goes through a generic serializer field by field: by `serde_json` a line of four candidates takes
//! 44,700 instructions, by this 13,541 (`benches/instructions` counts both). One writer beside one reader can
//! drift apart, so every struct is taken apart by name, that a new field does not compile until it is written, and the tests hold
//! the text against `serde_json`'s of the same record, byte for byte.

use std::cell::RefCell;

use super::json::Json;
use crate::backend::PlacementKind;
use crate::cost::{Costs, TokenPrices};
use crate::grid::{Basis, Freshness, Quality, Signal};
use crate::record::{
    AccessRecord, AttemptUsed, CandidateUsed, Carbon, CarbonUsed, DecisionUsed, Emissions, EnergyUsed, NarrowedBy, ShadowUsed,
    UsageSource,
};
use crate::units::{Grams, GramsPerKwh, Joules, Pue, Usd};

thread_local! {
    static JSON: RefCell<Json> = RefCell::default();
}

/// Appends the record's line, without a line break.
pub fn append(line: &mut Vec<u8>, record: &AccessRecord<'_>) {
    let written = JSON.try_with(|json| {
        let json = &mut *json.borrow_mut();
        json.clear();
        write_record(json, record);
        line.extend_from_slice(json.as_bytes());
    });
    if written.is_err() {
        // The thread is at its end, and what it kept is gone.
        let mut json = Json::default();
        write_record(&mut json, record);
        line.extend_from_slice(json.as_bytes());
    }
}

/// A constant text as an array, whose length the compiler then knows.
macro_rules! constant {
    ($($part:literal),+) => {{
        const TEXT: &str = concat!($($part),+);
        const BYTES: &[u8; TEXT.len()] = match TEXT.as_bytes().first_chunk() {
            Some(bytes) => bytes,
            None => &[0; TEXT.len()],
        };
        BYTES
    }};
}

/// Members behind the first of an object, each as `key, whether it may be none, how it is written, value`: `always`, or `left_out`
/// or `null` where there is none.
macro_rules! members {
    ($json:ident; $($key:literal $when:ident $how:path, $value:expr;)*) => {
        $(member!($json, $key, $when, $how, $value);)*
    };
}

macro_rules! member {
    ($json:ident, $key:literal, always, $how:path, $value:expr) => {
        $json.constant(constant!(",\"", $key, "\":"));
        $how($json, $value);
    };
    ($json:ident, $key:literal, left_out, $how:path, $value:expr) => {
        if let Some(value) = $value {
            member!($json, $key, always, $how, value);
        }
    };
    ($json:ident, $key:literal, null, $how:path, $value:expr) => {
        if let Some(value) = $value {
            member!($json, $key, always, $how, value);
        } else {
            $json.constant(constant!(",\"", $key, "\":null"));
        }
    };
}

fn write_record(json: &mut Json, record: &AccessRecord<'_>) {
    #[rustfmt::skip]
    let AccessRecord {
        time, instance, run, seq, generation, id, client_request_id, provider_request_id, route, policy, narrowed, key, method, path, status,
        request_bytes, response_bytes, operation, model, response_model, stream, backend, region, grid_zone, placement, decision,
        shadow, carbon, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, usage_source, input_tokens_source, energy,
        emissions, cost, attempts, first_token_ms, total_ms, budget_ms, within_budget, overhead_us, ended, error, simulated,
    } = record;
    json.constant(b"{\"time\":");
    json.time(*time);
    members! { json;
        "instance" always Json::text, instance;
        "run" always Json::text, run;
        "seq" always Json::integer, *seq;
        "generation" always Json::integer, *generation;
        "id" always Json::text, id;
        "client_request_id" left_out Json::text, client_request_id;
        "provider_request_id" left_out Json::text, provider_request_id;
        "route" left_out Json::text, route;
        "policy" left_out Json::text, policy;
        "narrowed" left_out write_narrowed, narrowed;
        "key" left_out Json::text, key;
        "http.request.method" always Json::text, method;
        "url.path" always Json::text, path;
        "http.response.status_code" left_out Json::integer, *status;
        "http.request.body.size" left_out Json::integer, *request_bytes;
        "http.response.body.size" left_out Json::integer, *response_bytes;
        "gen_ai.operation.name" left_out Json::text, operation;
        "gen_ai.request.model" left_out Json::text, model;
        "gen_ai.response.model" left_out Json::text, response_model;
        "stream" always Json::boolean, *stream;
        "backend" left_out Json::text, backend;
        "region" left_out Json::text, region;
        "grid_zone" left_out Json::text, grid_zone;
        "placement" left_out Json::word, placement.map(PlacementKind::as_str);
        "decision" left_out write_decision, decision;
        "shadow" left_out write_shadow, shadow;
        "carbon" left_out write_carbon, carbon;
        "gen_ai.usage.input_tokens" null Json::integer, *input_tokens;
        "gen_ai.usage.output_tokens" null Json::integer, *output_tokens;
        "cached_input_tokens" null Json::integer, *cached_input_tokens;
        "reasoning_tokens" null Json::integer, *reasoning_tokens;
        "usage_source" always Json::word, usage_source.as_str();
        "input_tokens_source" left_out Json::word, input_tokens_source.map(UsageSource::as_str);
        "energy" null write_energy, energy;
        "emissions" null write_emissions, emissions;
        "cost" left_out write_costs, cost;
        "attempts" always write_attempts, attempts;
        "first_token_ms" left_out Json::millis, *first_token_ms;
        "total_ms" always Json::millis, *total_ms;
        "budget_ms" left_out Json::millis, *budget_ms;
        "within_budget" left_out Json::boolean, *within_budget;
        "overhead_us" left_out Json::integer, *overhead_us;
        "ended" always Json::word, ended.as_str();
        "error" left_out Json::text, error;
        "simulated" left_out Json::boolean, simulated.then_some(true);
    }
    json.constant(b"}");
}

fn write_decision(json: &mut Json, decision: &DecisionUsed<'_>) {
    let DecisionUsed { reason, baseline, turn, candidates } = decision;
    json.constant(b"{\"reason\":");
    json.text(reason);
    members! { json;
        "baseline" left_out Json::text, baseline;
        "turn" left_out Json::integer, *turn;
        "candidates" always write_candidates, candidates;
    }
    json.constant(b"}");
}

fn write_candidates(json: &mut Json, candidates: &[CandidateUsed<'_>]) {
    json.list(candidates, |json, candidate| {
        #[rustfmt::skip]
        let CandidateUsed {
            backend, region, grid_zone, verdict, by, first_token_ms, total_ms, input_tokens, cached_input_tokens, output_tokens,
            coefficient, pue, intensity_g_per_kwh, grams, price_usd_per_million_tokens, cost_usd, price_grams, per_output_token_ms,
            in_flight, limit,
        } = candidate;
        json.constant(b"{\"backend\":");
        json.text(backend);
        members! { json;
            "region" left_out Json::text, region;
            "grid_zone" left_out Json::text, grid_zone;
            "verdict" always Json::text, verdict;
            "by" left_out Json::float, *by;
            "first_token_ms" left_out Json::millis, *first_token_ms;
            "total_ms" left_out Json::millis, *total_ms;
            "input_tokens" left_out Json::integer, *input_tokens;
            "cached_input_tokens" left_out Json::integer, *cached_input_tokens;
            "output_tokens" left_out Json::integer, *output_tokens;
            "coefficient" left_out Json::text, coefficient;
            "pue" left_out Json::float, pue.map(Pue::get);
            "intensity_g_per_kwh" null Json::float, intensity_g_per_kwh.map(GramsPerKwh::get);
            "grams" null Json::float, grams.map(Grams::get);
            "price_usd_per_million_tokens" left_out write_prices, price_usd_per_million_tokens;
            "cost_usd" left_out Json::float, cost_usd.map(Usd::get);
            "price_grams" left_out Json::float, price_grams.map(Grams::get);
            "per_output_token_ms" left_out Json::millis, *per_output_token_ms;
            "in_flight" always Json::integer, *in_flight;
            "limit" left_out Json::integer, *limit;
        }
        json.constant(b"}");
    });
}

/// Rare, and of any combination of fields: left to the library.
fn write_narrowed(json: &mut Json, narrowed: &NarrowedBy<'_>) {
    json.raw(&serde_json::to_vec(narrowed).unwrap_or_default());
}

fn write_shadow(json: &mut Json, shadow: &ShadowUsed<'_>) {
    let ShadowUsed { policy, reason, backend, grams, first_token_ms } = shadow;
    json.constant(b"{\"policy\":");
    json.text(policy);
    members! { json;
        "reason" always Json::text, reason;
        "backend" left_out Json::text, backend;
        "grams" null Json::float, grams.map(Grams::get);
        "first_token_ms" left_out Json::millis, *first_token_ms;
    }
    json.constant(b"}");
}

fn write_carbon(json: &mut Json, carbon: &Carbon<'_>) {
    let Carbon { chosen, baseline } = carbon;
    json.constant(b"{\"chosen\":");
    write_carbon_used(json, chosen);
    json.constant(b",\"baseline\":");
    write_carbon_used(json, baseline);
    json.constant(b"}");
}

fn write_carbon_used(json: &mut Json, used: &CarbonUsed<'_>) {
    let CarbonUsed { grid_zone, intensity_g_per_kwh, signal, basis, quality, freshness, source, measured_at, age_s, pue } = used;
    json.constant(b"{");
    if let Some(zone) = grid_zone {
        json.constant(b"\"grid_zone\":");
        json.text(zone);
        json.constant(b",");
    }
    match intensity_g_per_kwh {
        Some(intensity) => {
            json.constant(b"\"intensity_g_per_kwh\":");
            json.float(intensity.get());
        }
        None => json.constant(b"\"intensity_g_per_kwh\":null"),
    }
    members! { json;
        "signal" left_out Json::word, signal.map(Signal::as_str);
        "basis" left_out Json::word, basis.map(Basis::as_str);
        "quality" left_out Json::word, quality.map(Quality::as_str);
        "freshness" left_out Json::word, freshness.map(Freshness::as_str);
        "source" left_out Json::text, source;
        "measured_at" left_out Json::time, *measured_at;
        "age_s" left_out Json::integer, *age_s;
        "pue" left_out Json::float, pue.map(Pue::get);
    }
    json.constant(b"}");
}

fn write_energy(json: &mut Json, energy: &EnergyUsed<'_>) {
    let EnergyUsed { coefficient, quality, joules, joules_low, joules_high } = energy;
    json.constant(b"{\"coefficient\":");
    json.text(coefficient);
    members! { json;
        "quality" always Json::word, quality.as_str();
        "joules" always Json::float, joules.get();
        "joules_low" always Json::float, joules_low.get();
        "joules_high" always Json::float, joules_high.get();
    }
    json.constant(b"}");
}

fn write_emissions(json: &mut Json, emissions: &Emissions) {
    #[rustfmt::skip]
    let Emissions {
        grams, grams_low, grams_high, baseline_grams, baseline_grams_low, baseline_grams_high, saved_grams, waste_grams,
    } = emissions;
    json.constant(b"{\"grams\":");
    json.float(grams.get());
    members! { json;
        "grams_low" always Json::float, grams_low.get();
        "grams_high" always Json::float, grams_high.get();
        "baseline_grams" always Json::float, baseline_grams.get();
        "baseline_grams_low" always Json::float, baseline_grams_low.get();
        "baseline_grams_high" always Json::float, baseline_grams_high.get();
        "saved_grams" always Json::float, saved_grams.get();
        "waste_grams" always Json::float, waste_grams.get();
    }
    json.constant(b"}");
}

fn write_costs(json: &mut Json, costs: &Costs) {
    let Costs { usd, baseline_usd } = costs;
    json.constant(b"{\"usd\":");
    json.float(usd.get());
    members! { json;
        "baseline_usd" always Json::float, baseline_usd.get();
    }
    json.constant(b"}");
}

fn write_prices(json: &mut Json, prices: &TokenPrices) {
    let TokenPrices { input, cached_input, output } = prices;
    json.constant(b"{\"input\":");
    json.float(input.get());
    members! { json;
        "cached_input" always Json::float, cached_input.get();
        "output" always Json::float, output.get();
    }
    json.constant(b"}");
}

fn write_attempts(json: &mut Json, attempts: &[AttemptUsed<'_>]) {
    json.list(attempts, |json, attempt| {
        #[rustfmt::skip]
        let AttemptUsed {
            backend, outcome, status, ms, input_tokens, cached_input_tokens, output_tokens, coefficient, joules, pue,
            intensity_g_per_kwh, grams, cost_usd,
        } = attempt;
        json.constant(b"{\"backend\":");
        json.text(backend);
        members! { json;
            "outcome" always Json::text, outcome;
            "status" left_out Json::integer, *status;
            "ms" always Json::millis, *ms;
            "input_tokens" left_out Json::integer, *input_tokens;
            "cached_input_tokens" left_out Json::integer, *cached_input_tokens;
            "output_tokens" left_out Json::integer, *output_tokens;
            "coefficient" left_out Json::text, coefficient;
            "joules" left_out Json::float, joules.map(Joules::get);
            "pue" left_out Json::float, pue.map(Pue::get);
            "intensity_g_per_kwh" left_out Json::float, intensity_g_per_kwh.map(GramsPerKwh::get);
            "grams" left_out Json::float, grams.map(Grams::get);
            "cost_usd" left_out Json::float, cost_usd.map(Usd::get);
        }
        json.constant(b"}");
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Text;
    use crate::units::Millis;

    fn written(record: &AccessRecord<'_>) -> String {
        let mut line = b"before".to_vec();
        append(&mut line, record);
        String::from_utf8(line.split_off(6)).unwrap()
    }

    fn samples() -> impl Iterator<Item = AccessRecord<'static>> {
        include_str!("../../tests/cases/log/sample.jsonl").lines().filter_map(|line| serde_json::from_str(line).ok())
    }

    #[test]
    fn every_line_of_the_sample_is_written_as_serde_json_writes_it() {
        assert!(samples().count() > 3);
        for record in samples() {
            assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
        }
    }

    /// A record with every field there is.
    fn full() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/cases/log/full.json")).unwrap()
    }

    /// Every member of every object below, as a path.
    fn members(value: &serde_json::Value, path: &str, all: &mut Vec<(String, String)>) {
        for (name, member) in value.as_object().into_iter().flatten() {
            all.push((path.to_owned(), name.clone()));
            members(member, &format!("{path}/{name}"), all);
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            members(item, &format!("{path}/{index}"), all);
        }
    }

    #[test]
    fn every_field_is_written_as_serde_json_writes_it_and_left_out_where_it_does() {
        let line = full().to_string();
        let record: AccessRecord<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
        let mut all = Vec::new();
        members(&full(), "", &mut all);
        assert!(all.len() > 110);
        let mut left_out = 0;
        for (path, name) in all {
            let mut value = full();
            value.pointer_mut(&path).unwrap().as_object_mut().unwrap().remove(&name);
            let line = value.to_string();
            // What cannot be missing has no line without it.
            let Ok(record) = serde_json::from_str::<AccessRecord<'_>>(&line) else { continue };
            assert_eq!(written(&record), serde_json::to_string(&record).unwrap(), "without {path}/{name}");
            left_out += 1;
        }
        assert!(left_out > 80, "{left_out}");
    }

    proptest! {
        #[test]
        fn any_text_and_number_is_written_as_serde_json_writes_it(text: String, number: f64, count: u64, which in 0_usize..4) {
            let mut record = samples().nth(which).unwrap();
            record.model = Some(Text::from(&*text));
            record.seq = count;
            record.total_ms = Millis::saturating(number);
            prop_assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
        }
    }
}
