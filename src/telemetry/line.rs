//! The access log's line: an [`AccessRecord`] as JSON, as serde writes it and at a third of what that costs.
//!
//! The record's own `Serialize` goes through a generic serializer field by field: by `serde_json` a line of four candidates takes three
//! times the instructions (`benches/instructions` counts both), even before what comes again was kept. That, digits all at once and lists
//! that are written as they are made took 18,400 instructions of a chat request to 13,100 (`benches/peers/instr.py`, its profile, without
//! LTO). One writer beside one reader can drift apart, so every struct is taken apart by name, that a new field does not compile until
//! it is written, and the tests hold the text against `serde_json`'s of the same record, byte for byte.

use std::borrow::Borrow;
use std::cell::RefCell;

use super::json::Json;
use super::kept::Kept;
use crate::backend::PlacementKind;
use crate::cost::{Costs, TokenPrices};
use crate::grid::{Basis, Freshness, Quality, Signal};
use crate::record::{
    AccessRecord, AttemptUsed, BackendTime, CandidateUsed, Carbon, CarbonUsed, DecisionUsed, Emissions, EnergyUsed, NarrowedBy,
    ShadowUsed, Text, UsageSource,
};
use crate::units::{Grams, GramsPerKwh, Joules, Pue, Usd};

thread_local! {
    static PEN: RefCell<Pen> = RefCell::default();
}

/// What a thread writes with.
#[derive(Default)]
struct Pen {
    json: Json,
    candidates: Kept<KeptCandidate>,
    carbon: Kept<KeptCarbon>,
}

/// Appends the record's line, without a line break.
pub fn append(line: &mut Vec<u8>, record: &AccessRecord<'_>) {
    let candidates = record.decision.iter().flat_map(|decision| &decision.candidates);
    append_with(line, record, candidates, record.attempts.iter());
}

/// The same with lists that are made while they are written, instead of the record's own: a candidate is 350 bytes.
pub fn append_with<'a>(
    line: &mut Vec<u8>,
    record: &AccessRecord<'_>,
    candidates: impl Iterator<Item: Borrow<CandidateUsed<'a>>>,
    attempts: impl Iterator<Item: Borrow<AttemptUsed<'a>>>,
) {
    // Given to whichever pen there is.
    let mut lists = Some((candidates, attempts));
    let written = PEN.try_with(|pen| lists.take().map(|lists| pen.borrow_mut().append(line, record, lists)));
    if let (Err(_), Some(lists)) = (written, lists) {
        // The thread is at its end, and what it kept is gone.
        Pen::default().append(line, record, lists);
    }
}

impl Pen {
    fn append<'a>(
        &mut self,
        line: &mut Vec<u8>,
        record: &AccessRecord<'_>,
        (candidates, attempts): (impl Iterator<Item: Borrow<CandidateUsed<'a>>>, impl Iterator<Item: Borrow<AttemptUsed<'a>>>),
    ) {
        let Self { json, candidates: kept_candidates, carbon } = self;
        json.clear();
        write_record(json, record, (candidates, kept_candidates), attempts, carbon);
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

fn write_record<'a>(
    json: &mut Json,
    record: &AccessRecord<'_>,
    candidates: (impl Iterator<Item: Borrow<CandidateUsed<'a>>>, &mut Kept<KeptCandidate>),
    attempts_used: impl Iterator<Item: Borrow<AttemptUsed<'a>>>,
    kept_carbon: &mut Kept<KeptCarbon>,
) {
    #[rustfmt::skip]
    let AccessRecord {
        time, instance, run, seq, generation, id, client_request_id, provider_request_id, route, policy, narrowed, key, method, path, status,
        request_bytes, response_bytes, operation, model, response_model, stream, backend, region, grid_zone, placement, placement_evidence, decision,
        shadow, carbon, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, usage_source, input_tokens_source, energy,
        emissions, cost, attempts: _, first_token_ms, total_ms, backend_time, budget_ms, within_budget, overhead_us, ended, error, simulated,
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
        "placement_evidence" left_out Json::text, placement_evidence;
        "decision" left_out write_decision, decision.as_ref().map(|decision| (decision, candidates));
        "shadow" left_out write_shadow, shadow;
        "carbon" left_out write_carbon, carbon.as_ref().map(|carbon| (carbon, kept_carbon));
        "gen_ai.usage.input_tokens" null Json::integer, *input_tokens;
        "gen_ai.usage.output_tokens" null Json::integer, *output_tokens;
        "cached_input_tokens" null Json::integer, *cached_input_tokens;
        "reasoning_tokens" null Json::integer, *reasoning_tokens;
        "usage_source" always Json::word, usage_source.as_str();
        "input_tokens_source" left_out Json::word, input_tokens_source.map(UsageSource::as_str);
        "energy" null write_energy, energy;
        "emissions" null write_emissions, emissions;
        "cost" left_out write_costs, cost;
        "attempts" always write_attempts, attempts_used;
        "first_token_ms" left_out Json::millis, *first_token_ms;
        "total_ms" always Json::millis, *total_ms;
        "backend_time" left_out write_backend_time, backend_time;
        "budget_ms" left_out Json::millis, *budget_ms;
        "within_budget" left_out Json::boolean, *within_budget;
        "overhead_us" left_out Json::integer, *overhead_us;
        "ended" always Json::word, ended.as_str();
        "error" left_out Json::text, error;
        "simulated" left_out Json::boolean, simulated.then_some(true);
    }
    json.constant(b"}");
}

fn write_decision<'a, C: Iterator<Item: Borrow<CandidateUsed<'a>>>>(
    json: &mut Json,
    (decision, candidates): (&DecisionUsed<'_>, (C, &mut Kept<KeptCandidate>)),
) {
    let DecisionUsed {
        reason,
        baseline,
        turn,
        spent_ms,
        reserve,
        strain,
        input_tokens,
        output_tokens,
        coefficient,
        candidates: _,
    } = decision;
    json.constant(b"{\"reason\":");
    json.text(reason);
    members! { json;
        "baseline" left_out Json::text, baseline;
        "turn" left_out Json::integer, *turn;
        "spent_ms" left_out Json::millis, *spent_ms;
        "reserve" left_out Json::float, *reserve;
        "strain" left_out Json::float, *strain;
        "input_tokens" left_out Json::integer, *input_tokens;
        "output_tokens" left_out Json::integer, *output_tokens;
        "coefficient" left_out Json::text, coefficient;
        "candidates" always write_candidates, candidates;
    }
    json.constant(b"}");
}

/// What of a candidate only another plan or another reading changes.
struct KeptCandidate {
    backend: Box<str>,
    region: Option<Box<str>>,
    grid_zone: Option<Box<str>>,
    coefficient: Option<Box<str>>,
    pue: Option<Pue>,
    intensity_g_per_kwh: Option<GramsPerKwh>,
    /// The first three and the last three as they are written.
    place: Box<[u8]>,
    rates: Box<[u8]>,
}

/// Whether a text that was kept is that one.
#[inline]
fn same(kept: Option<&str>, text: Option<&Text<'_>>) -> bool {
    match (kept, text) {
        (Some(kept), Some(text)) => *kept == **text,
        (kept, text) => kept.is_none() && text.is_none(),
    }
}

fn owned(text: Option<&Text<'_>>) -> Option<Box<str>> {
    text.map(|text| Box::from(&**text))
}

fn write_candidates<'a, C: Iterator<Item: Borrow<CandidateUsed<'a>>>>(
    json: &mut Json,
    (candidates, kept): (C, &mut Kept<KeptCandidate>),
) {
    json.list(candidates, |json, candidate: &CandidateUsed<'a>| {
        #[rustfmt::skip]
        let CandidateUsed {
            backend, region, grid_zone, verdict, by, first_token_ms, queue_ms, total_ms, input_tokens, cached_input_tokens,
            output_tokens, coefficient, pue, intensity_g_per_kwh, intensity_age_s, freshness, grams, price_usd_per_million_tokens, cost_usd,
            cost_grams, waiting_grams, price_grams, per_output_token_ms, in_flight, limit, weight,
        } = candidate;
        let is = |kept: &KeptCandidate| {
            *kept.backend == **backend
                && same(kept.grid_zone.as_deref(), grid_zone.as_ref())
                && same(kept.coefficient.as_deref(), coefficient.as_ref())
                && same(kept.region.as_deref(), region.as_ref())
                && kept.pue == *pue
                && kept.intensity_g_per_kwh == *intensity_g_per_kwh
        };
        let kept = kept.get(backend, is, || {
            let place = json.apart(|json| {
                json.constant(b"{\"backend\":");
                json.text(backend);
                members! { json;
                    "region" left_out Json::text, region;
                    "grid_zone" left_out Json::text, grid_zone;
                }
            });
            let rates = json.apart(|json| {
                members! { json;
                    "coefficient" left_out Json::text, coefficient;
                    "pue" left_out Json::float, pue.map(Pue::get);
                    "intensity_g_per_kwh" null Json::float, intensity_g_per_kwh.map(GramsPerKwh::get);
                }
            });
            let [region, grid_zone, coefficient] = [region, grid_zone, coefficient].map(|text| owned(text.as_ref()));
            let (backend, pue, intensity_g_per_kwh) = (Box::from(&**backend), *pue, *intensity_g_per_kwh);
            KeptCandidate { backend, region, grid_zone, coefficient, pue, intensity_g_per_kwh, place, rates }
        });
        json.raw(&kept.place);
        members! { json;
            "verdict" always Json::text, verdict;
            "by" left_out Json::float, *by;
            "first_token_ms" left_out Json::millis, *first_token_ms;
            "queue_ms" left_out Json::millis, *queue_ms;
            "total_ms" left_out Json::millis, *total_ms;
            "input_tokens" left_out Json::integer, *input_tokens;
            "cached_input_tokens" left_out Json::integer, *cached_input_tokens;
            "output_tokens" left_out Json::integer, *output_tokens;
        }
        json.raw(&kept.rates);
        members! { json;
            "intensity_age_s" left_out Json::integer, *intensity_age_s;
            "freshness" left_out Json::word, freshness.map(Freshness::as_str);
            "grams" null Json::float, grams.map(Grams::get);
            "price_usd_per_million_tokens" left_out write_prices, price_usd_per_million_tokens;
            "cost_usd" left_out Json::float, cost_usd.map(Usd::get);
            "cost_grams" left_out Json::float, cost_grams.map(Grams::get);
            "waiting_grams" left_out Json::float, waiting_grams.map(Grams::get);
            "price_grams" left_out Json::float, price_grams.map(Grams::get);
            "per_output_token_ms" left_out Json::millis, *per_output_token_ms;
            "in_flight" always Json::integer, *in_flight;
            "limit" left_out Json::integer, *limit;
            "weight" left_out Json::integer, *weight;
        }
        json.constant(b"}");
    });
}

/// Rare, and of any combination of fields: left to the library, as the next one.
fn write_narrowed(json: &mut Json, narrowed: &NarrowedBy<'_>) {
    json.raw(&serde_json::to_vec(narrowed).unwrap_or_default());
}

fn write_backend_time(json: &mut Json, time: &BackendTime) {
    json.raw(&serde_json::to_vec(time).unwrap_or_default());
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

fn write_carbon(json: &mut Json, (carbon, kept): (&Carbon<'_>, &mut Kept<KeptCarbon>)) {
    let Carbon { chosen, baseline } = carbon;
    json.constant(b"{\"chosen\":");
    write_carbon_used(json, chosen, kept);
    if let Some(baseline) = baseline {
        json.constant(b",\"baseline\":");
        write_carbon_used(json, baseline, kept);
    }
    json.constant(b"}");
}

/// An intensity with all but its age.
struct KeptCarbon {
    used: CarbonUsed<'static>,
    /// What stands before the age and behind it.
    before: Box<[u8]>,
    behind: Box<[u8]>,
}

fn write_carbon_used(json: &mut Json, used: &CarbonUsed<'_>, kept: &mut Kept<KeptCarbon>) {
    #[rustfmt::skip]
    let CarbonUsed {
        grid_zone, intensity_g_per_kwh, intensity_low_g_per_kwh, signal, basis, quality, freshness, source, measured_at, age_s, pue,
    } = used;
    let is = |kept: &KeptCarbon| {
        let it = &kept.used;
        it.measured_at == *measured_at
            && it.intensity_g_per_kwh == *intensity_g_per_kwh
            && it.intensity_low_g_per_kwh == *intensity_low_g_per_kwh
            && (it.signal, it.basis, it.quality, it.freshness) == (*signal, *basis, *quality, *freshness)
            && it.pue == *pue
            && it.grid_zone == *grid_zone
            && it.source == *source
    };
    let kept = kept.get(grid_zone.as_deref().unwrap_or_default(), is, || {
        let before = json.apart(|json| write_reading(json, used));
        let behind = json.apart(|json| {
            members! { json;
                "pue" left_out Json::float, pue.map(Pue::get);
            }
            json.constant(b"}");
        });
        let [grid_zone, source] = [grid_zone, source].map(|text| text.as_ref().map(|text| Text::from(text.to_string())));
        KeptCarbon { used: CarbonUsed { grid_zone, source, ..*used }, before, behind }
    });
    json.raw(&kept.before);
    members! { json;
        "age_s" left_out Json::integer, *age_s;
    }
    json.raw(&kept.behind);
}

/// An intensity up to its age.
fn write_reading(json: &mut Json, used: &CarbonUsed<'_>) {
    #[rustfmt::skip]
    let CarbonUsed {
        grid_zone, intensity_g_per_kwh, intensity_low_g_per_kwh, signal, basis, quality, freshness, source, measured_at, age_s: _, pue: _,
    } = used;
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
        "intensity_low_g_per_kwh" left_out Json::float, intensity_low_g_per_kwh.map(GramsPerKwh::get);
        "signal" left_out Json::word, signal.map(Signal::as_str);
        "basis" left_out Json::word, basis.map(Basis::as_str);
        "quality" left_out Json::word, quality.map(Quality::as_str);
        "freshness" left_out Json::word, freshness.map(Freshness::as_str);
        "source" left_out Json::text, source;
        "measured_at" left_out Json::time, *measured_at;
    }
}

fn write_energy(json: &mut Json, energy: &EnergyUsed<'_>) {
    let EnergyUsed { coefficient, quality, joules, joules_low, joules_high } = energy;
    json.constant(b"{\"coefficient\":");
    json.text(coefficient);
    members! { json;
        "quality" always Json::word, quality.as_str();
        "joules" always Json::float, joules.get();
        "joules_low" left_out Json::float, joules_low.map(Joules::get);
        "joules_high" left_out Json::float, joules_high.map(Joules::get);
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
        "grams_low" left_out Json::float, grams_low.map(Grams::get);
        "grams_high" left_out Json::float, grams_high.map(Grams::get);
        "baseline_grams" always Json::float, baseline_grams.get();
        "baseline_grams_low" left_out Json::float, baseline_grams_low.map(Grams::get);
        "baseline_grams_high" left_out Json::float, baseline_grams_high.map(Grams::get);
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

fn write_attempts<'a>(json: &mut Json, attempts: impl Iterator<Item: Borrow<AttemptUsed<'a>>>) {
    json.list(attempts, |json, attempt: &AttemptUsed<'a>| {
        #[rustfmt::skip]
        let AttemptUsed {
            backend, outcome, status, provider_request_id, begun_ms, ms, input_tokens, cached_input_tokens, output_tokens, coefficient, joules, pue,
            intensity_g_per_kwh, grams, cost_usd,
        } = attempt;
        json.constant(b"{\"backend\":");
        json.text(backend);
        members! { json;
            "outcome" always Json::text, outcome;
            "status" left_out Json::integer, *status;
            "provider_request_id" left_out Json::text, provider_request_id;
            "begun_ms" left_out Json::millis, *begun_ms;
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
#[path = "line_tests.rs"]
mod tests;
