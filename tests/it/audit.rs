//! An auditor's view: every gram of a line follows from the line itself and the shipped coefficients, however the exchange went.

use serde_json::Value;
use windward::cost::TokenPrices;
use windward::tables::{Coefficients, EnergyTable, TokenCounts};

use super::support::peer::{Then, begin_events, chunk, respond, wait_for_close};
use super::support::{Client, Harness, Peer};

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"How are you today, my good machine?"}]}"#;
const STREAM: &str = r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"How are you today?"}]}"#;
const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":200}}}"#;
const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n";

fn near(what: &str, stated: &Value, expected: f64, line: &Value) {
    let stated = stated.as_f64().unwrap_or_else(|| panic!("{what} is no number: {line:#}"));
    let tolerance = 1e-9 * stated.abs().max(expected.abs()).max(1e-12);
    assert!((stated - expected).abs() <= tolerance, "{what} is {stated}, recomputed {expected}: {line:#}");
}

fn coefficients(holder: &Value) -> &'static Coefficients {
    EnergyTable::shipped().by_id(holder["coefficient"].as_str().unwrap()).unwrap()
}

fn counts(holder: &Value) -> Option<TokenCounts> {
    Some(TokenCounts {
        input: holder["input_tokens"].as_u64()?,
        cached: holder["cached_input_tokens"].as_u64().unwrap_or(0),
        output: holder["output_tokens"].as_u64()?,
    })
}

/// Joules at the low end, in the middle and at the high end.
fn joules(table: &Coefficients, tokens: TokenCounts) -> [f64; 3] {
    let energy = table.energy(tokens);
    [energy.low().get(), energy.mid().get(), energy.high().get()]
}

fn grams(joules: f64, place: &Value) -> f64 {
    joules * place["pue"].as_f64().unwrap() * place["intensity_g_per_kwh"].as_f64().unwrap() / 3.6e6
}

/// Dollars by the prices of a candidate.
fn dollars(candidate: &Value, tokens: TokenCounts) -> f64 {
    let prices: TokenPrices = serde_json::from_value(candidate["price_usd_per_million_tokens"].clone()).unwrap();
    let cached = tokens.cached.min(tokens.input);
    let [input, cached, output] = [tokens.input - cached, cached, tokens.output].map(|count| count as f64 / 1e6);
    input * prices.input.get() + cached * prices.cached_input.get() + output * prices.output.get()
}

/// Recomputes the dollars of a line that states them; `answer` is what the answer would have taken at the baseline.
fn audit_costs(line: &Value, answer: Option<TokenCounts>) {
    let named =
        |name: &Value| line["decision"]["candidates"].as_array().unwrap().iter().find(|it| it["backend"] == *name).unwrap();
    let mut total = 0.0;
    for attempt in line["attempts"].as_array().unwrap() {
        let cost = counts(attempt).map_or(0.0, |tokens| dollars(named(&attempt["backend"]), tokens));
        near("an attempt's cost", &attempt["cost_usd"], cost, line);
        total += cost;
    }
    near("cost", &line["cost"]["usd"], total, line);
    let baseline = answer.map_or(0.0, |tokens| dollars(named(&line["decision"]["baseline"]), tokens));
    near("the baseline's cost", &line["cost"]["baseline_usd"], baseline, line);
}

/// A line with what it says once put where it holds: the decision's for every candidate that says no other, and its own books for the
/// only attempt, if that gave the answer.
pub(crate) fn spelled(line: &Value) -> Value {
    let mut spelled = line.clone();
    for candidate in spelled["decision"]["candidates"].as_array_mut().unwrap() {
        for name in ["input_tokens", "output_tokens", "coefficient"] {
            if candidate.get(name).is_none() {
                candidate[name] = line["decision"][name].clone();
            }
        }
    }
    let attempt = &line["attempts"][0];
    if line["attempts"].as_array().unwrap().len() == 1 && attempt["outcome"] == "answered" && attempt.get("pue").is_none() {
        let output = line["gen_ai.usage.output_tokens"].as_u64().unwrap_or(0);
        let (energy, place) = (&line["energy"], &line["carbon"]["chosen"]);
        let books = [
            ("input_tokens", line["gen_ai.usage.input_tokens"].clone()),
            ("cached_input_tokens", line["cached_input_tokens"].clone()),
            ("output_tokens", output.into()),
            ("coefficient", energy["coefficient"].clone()),
            ("joules", energy["joules"].clone()),
            ("pue", place["pue"].clone()),
            ("intensity_g_per_kwh", place["intensity_g_per_kwh"].clone()),
            ("grams", line["emissions"]["grams"].clone()),
            ("cost_usd", line["cost"]["usd"].clone()),
        ];
        for (name, value) in books {
            spelled["attempts"][0][name] = value;
        }
    }
    spelled
}

/// Recomputes a line that states grams.
pub(crate) fn audit(line: &Value) {
    let line = &spelled(line);
    for candidate in line["decision"]["candidates"].as_array().unwrap() {
        let [_, mid, _] = joules(coefficients(candidate), counts(candidate).unwrap());
        near("a candidate's grams", &candidate["grams"], grams(mid, candidate), line);
    }
    let attempts = line["attempts"].as_array().unwrap();
    let answered = line["ended"] == "complete" && (200..300).contains(&line["http.response.status_code"].as_u64().unwrap_or(0));
    let mut total = [0.0; 3];
    let mut waste = 0.0;
    let mut baseline = [0.0; 3];
    let mut answer_there = None;
    for (nth, attempt) in attempts.iter().enumerate() {
        let tokens = counts(attempt);
        let burned = tokens.map_or([0.0; 3], |tokens| joules(coefficients(attempt), tokens));
        near("an attempt's joules", &attempt["joules"], burned[1], line);
        near("an attempt's grams", &attempt["grams"], grams(burned[1], attempt), line);
        for (sum, joules) in total.iter_mut().zip(burned) {
            *sum += grams(joules, attempt);
        }
        if nth + 1 == attempts.len() && answered {
            let named = &line["decision"]["baseline"];
            let there = line["decision"]["candidates"].as_array().unwrap().iter().find(|c| c["backend"] == *named).unwrap();
            let believed = there["cached_input_tokens"].as_u64().unwrap_or(0);
            let answer = tokens.unwrap();
            let cached = answer.cached.max(believed).min(answer.input);
            answer_there = Some(TokenCounts { cached, ..answer });
            let shadow = joules(coefficients(there), answer_there.unwrap());
            // Left out where it is the same.
            let carbon = &line["carbon"];
            let at_baseline = carbon.get("baseline").unwrap_or(&carbon["chosen"]);
            baseline = shadow.map(|joules| grams(joules, at_baseline));
            assert_eq!(line["gen_ai.usage.input_tokens"].as_u64(), Some(tokens.unwrap().input));
            assert_eq!(line["gen_ai.usage.output_tokens"].as_u64(), Some(tokens.unwrap().output));
        } else {
            waste += grams(burned[1], attempt);
        }
        if nth + 1 == attempts.len() {
            for (name, joules) in ["joules_low", "joules", "joules_high"].into_iter().zip(burned) {
                near(name, end_of(&line["energy"], name, "joules"), joules, line);
            }
            assert_eq!((&line["backend"], &line["carbon"]["chosen"]["pue"]), (&attempt["backend"], &attempt["pue"]));
        }
    }
    if !line["cost"].is_null() {
        audit_costs(line, answer_there);
    }
    let stated = &line["emissions"];
    for (end, name) in ["_low", "", "_high"].into_iter().enumerate() {
        near("grams", end_of(stated, &format!("grams{name}"), "grams"), total[end], line);
        near("baseline", end_of(stated, &format!("baseline_grams{name}"), "baseline_grams"), baseline[end], line);
    }
    near("waste", &stated["waste_grams"], waste, line);
    near("saved", &stated["saved_grams"], baseline[1] - total[1], line);
}

/// One end of a band, which is left out where it is no other than its middle.
fn end_of<'l>(stated: &'l Value, name: &str, middle: &str) -> &'l Value {
    stated.get(name).unwrap_or(&stated[middle])
}

fn closing() -> Peer {
    Peer::start(|_, _| Then::Close)
}

fn refusing() -> Peer {
    Peer::start(|_, stream| {
        respond(stream, "429 Too Many Requests", "", b"{}");
        Then::Next
    })
}

fn ask(proxy: &Harness, path: &str, body: &str) -> (u16, Value) {
    let mut client = Client::connect(proxy.address);
    client.post(path, "", body);
    (client.answer().status, proxy.record())
}

#[test]
fn an_answer_after_a_failover_adds_up() {
    let (full, good) = (refusing(), Peer::answering("200 OK", USAGE));
    let backends = [
        ("gone", Peer::nobody(), "grid_zone: FR"),
        ("full", full.address, "grid_zone: DE"),
        ("good", good.address, "grid_zone: PL"),
    ];
    let proxy = Harness::start(&backends, "");
    let (status, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    assert_eq!((status, line["attempts"].as_array().unwrap().len()), (200, 3));
    audit(&line);
    assert!(line["decision"]["turn"].is_u64(), "without it the rotation cannot be repeated");
    assert!(line["decision"]["input_tokens"].is_u64() && line["decision"]["output_tokens"].is_u64(), "{line}");
    for candidate in line["decision"]["candidates"].as_array().unwrap() {
        assert_eq!(candidate.get("input_tokens").or(candidate.get("coefficient")), None, "said once: {line}");
    }
    assert_eq!(line["usage_source"], "reported");
}

#[test]
fn a_retry_in_a_third_place_adds_up() {
    let (bad, good) = (closing(), Peer::answering("200 OK", USAGE));
    let backends = [("bad", bad.address, "grid_zone: DE"), ("good", good.address, "grid_zone: FR")];
    let proxy = Harness::start(&backends, "policy: unsafe_in_order");
    let (_, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    audit(&line);
    assert!(line["emissions"]["waste_grams"].as_f64().unwrap() > line["emissions"]["baseline_grams"].as_f64().unwrap() / 2.0);
}

#[test]
fn failures_of_every_kind_add_up_and_save_nothing() {
    let failing = Peer::answering("500 Internal Server Error", "{}");
    let finicky = Peer::answering("400 Bad Request", "{}");
    for (peer, status, burned) in [(failing.address, 500, true), (finicky.address, 400, false), (closing().address, 502, true)] {
        let proxy =
            Harness::start(&[("one", peer, "grid_zone: PL"), ("two", Peer::nobody(), "grid_zone: FR")], "policy: in_order");
        let (got, line) = ask(&proxy, "/v1/chat/completions", CHAT);
        assert_eq!(got, status);
        audit(&line);
        assert_eq!(line["emissions"]["grams"].as_f64().unwrap() > 0.0, burned, "{line:#}");
        assert_eq!(line["emissions"]["grams"], line["emissions"]["waste_grams"]);
        let source = if burned { "estimated" } else { "unknown" };
        assert_eq!((&line["usage_source"], line["gen_ai.usage.input_tokens"].is_null()), (&source.into(), !burned), "{line:#}");
    }
}

#[test]
fn waste_of_an_exchange_that_nobody_answered_is_attributed() {
    let (one, two) = (closing(), closing());
    let backends = [("one", one.address, "grid_zone: PL"), ("two", two.address, "grid_zone: FR")];
    let proxy = Harness::start(&backends, "policy: unsafe_in_order");
    let (status, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    assert_eq!(status, 502);
    audit(&line);
    assert_eq!((&line["backend"], &line["carbon"]["chosen"]["signal"]), (&"two".into(), &"average".into()));
    assert!(line["emissions"]["waste_grams"].as_f64().unwrap() > 0.0);
    assert_eq!(line["usage_source"], "estimated");
}

#[test]
fn a_broken_stream_and_a_client_that_left_add_up() {
    let broken = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, [DELTA, DELTA].concat().as_bytes());
        Then::Close
    });
    let waiting = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, DELTA.as_bytes());
        wait_for_close(stream);
        Then::Close
    });
    for (peer, ended) in [(&broken, "upstream_broke"), (&waiting, "client_gone")] {
        let proxy = Harness::start(&[("a", peer.address, "grid_zone: PL")], "");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", STREAM);
        client.read_until("Hel");
        if ended == "client_gone" {
            drop(client);
        } else {
            client.read_to_end();
        }
        let line = proxy.record();
        assert_eq!(line["ended"], ended);
        audit(&line);
        assert_eq!((&line["usage_source"], &line["input_tokens_source"]), (&"counted".into(), &"estimated".into()));
        assert_eq!(line["emissions"]["baseline_grams"], 0.0);
    }
}

#[test]
fn embeddings_add_up() {
    let good = Peer::answering("200 OK", r#"{"data":[],"usage":{"prompt_tokens":700,"total_tokens":700}}"#);
    let proxy = Harness::start(&[("a", good.address, "grid_zone: PL"), ("b", good.address, "grid_zone: FR")], "");
    let (_, line) = ask(&proxy, "/v1/embeddings", r#"{"model":"text-embedding-3-small","input":"words"}"#);
    audit(&line);
    assert_eq!((&line["backend"], &line["energy"]["coefficient"]), (&"b".into(), &"embedding@1".into()));
}

#[test]
fn what_is_unknown_is_null() {
    let silent = Peer::answering("200 OK", r#"{"choices":[]}"#);
    let proxy = Harness::start(&[("a", silent.address, "grid_zone: PL")], "");
    let (_, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    for name in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "energy", "emissions"] {
        assert_eq!(line.get(name), Some(&Value::Null), "{name}");
    }
    assert_eq!(line["usage_source"], "unknown");
    let attempt = &line["attempts"][0];
    assert!(attempt.get("joules").is_none() && attempt.get("grams").is_none() && attempt.get("input_tokens").is_none());
}

#[test]
fn one_name_for_two_models_is_charged_for_each_where_it_runs() {
    let good = Peer::answering("200 OK", USAGE);
    let backends = [
        ("large", good.address, "grid_zone: DE\n    models: { best: gpt-4o }"),
        ("small", good.address, "grid_zone: DE\n    models: { best: gpt-4o-mini }"),
    ];
    let proxy = Harness::start(&backends, "");
    let (_, line) = ask(&proxy, "/v1/chat/completions", r#"{"model":"best"}"#);
    assert_eq!(line["backend"], "small");
    audit(&line);
}

#[test]
fn a_zone_that_is_judged_is_the_one_that_is_named() {
    let good = Peer::answering("200 OK", USAGE);
    let proxy = Harness::start(&[("geo", good.address, "grid_zone: [FR, PL]")], "");
    let (_, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    audit(&line);
    assert_eq!((&line["carbon"]["chosen"]["grid_zone"], &line["grid_zone"]), (&"PL".into(), &"PL".into()));
}

#[test]
fn two_models_in_turn_do_not_spoil_the_rotation() {
    let good = Peer::answering("200 OK", USAGE);
    let policy = "policies: [ { name: turns, objective: round_robin } ]";
    let proxy = Harness::of(|log| {
        let address = good.address;
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}\n{policy}\nbackends:\n  - {{ name: a, url: 'http://{address}', region: aws/eu-north-1 }}\n  - {{ name: b, url: 'http://{address}', region: aws/eu-north-1 }}\nroutes: [ {{ name: chat, backends: [a, b], policy: turns }} ]\n"
        )
    });
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let (_, line) = ask(&proxy, "/v1/chat/completions", CHAT);
        seen.insert(line["backend"].to_string());
        ask(&proxy, "/v1/embeddings", r#"{"model":"text-embedding-3-small","input":"words"}"#);
    }
    assert_eq!(seen.len(), 2, "each in turn");
}

#[test]
fn a_request_that_nobody_may_take_is_logged_with_every_verdict() {
    let full = refusing();
    let proxy = Harness::start(&[("full", full.address, "grid_zone: PL")], "");
    ask(&proxy, "/v1/chat/completions", CHAT);
    let (status, line) = ask(&proxy, "/v1/chat/completions", CHAT);
    assert_eq!((status, &line["error"]), (503, &"no_candidate".into()));
    assert_eq!(line["decision"]["candidates"][0]["verdict"], "no_capacity");
    assert_eq!(line["decision"]["reason"], "no_candidate");
    assert!(line["decision"].get("baseline").is_none());
}
