//! What is over of a latency budget counts no more: at the decision, and again when somebody has failed. And that the line of a request
//! says by which numbers it was decided.
//!
//! The clock stands still but for what the test moves it on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use windward::clock::SimulatedClock;

use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const BODY: &str = r#"{"model":"m","stream":true,"max_tokens":100}"#;
const EVENTS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
const STREAM: &str = "content-type: text/event-stream\r\n";
/// What was never measured is taken for a fifth later than this: 600 ms, and 60.
const SLOW: &str = "expect: { first_token: 500ms, per_prompt_token: 1ns, tokens_per_second: 1000 }";
const QUICK: &str = "expect: { first_token: 50ms, per_prompt_token: 1ns, tokens_per_second: 1000 }";
const BUDGET: &str = "latency_budget: { first_token: 1s }";

fn standing_still() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

fn answering() -> Peer {
    Peer::start(|_, stream| {
        respond(stream, "200 OK", STREAM, EVENTS.as_bytes());
        Then::Close
    })
}

/// Backends with their zones and further keys under a policy with these keys.
fn proxy(clock: &Arc<SimulatedClock>, policy: &str, backends: &[(&str, SocketAddr, &str, &str)]) -> Harness {
    let more: Vec<String> = backends.iter().map(|(_, _, zone, more)| format!("grid_zone: {zone}\n    {more}")).collect();
    let backends: Vec<(&str, SocketAddr, &str)> =
        backends.iter().zip(&more).map(|((name, address, ..), more)| (*name, *address, more.as_str())).collect();
    Harness::run(Arc::<SimulatedClock>::clone(clock), |log| {
        let own = format!("  - {{ name: own, {policy} }}\nbackends:\n");
        super::support::text(log, "", &backends, "policy: own").replacen("backends:\n", &own, 1)
    })
}

fn served_by(client: &mut Client) -> String {
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    answer.field("x-windward-backend").unwrap().to_owned()
}

fn candidate<'r>(record: &'r Value, name: &str) -> &'r Value {
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    candidates.iter().find(|it| it["backend"] == name).unwrap()
}

#[test]
fn what_was_over_when_it_was_decided_is_no_part_of_the_budget_any_more() {
    let (clock, peer) = (standing_still(), answering());
    let backends = [("green", peer.address, "SE-SE3", SLOW), ("dirty", peer.address, "PL", QUICK)];
    for (policy, over, expected, reason) in [
        (BUDGET, 0, "green", "least_carbon"),
        (BUDGET, 300, "green", "least_carbon"),
        (BUDGET, 500, "dirty", "only"),
        (BUDGET, 5_000, "dirty", "fastest_over_budget"),
    ] {
        let proxy = proxy(&clock, policy, &backends);
        let mut client = Client::connect(proxy.address);
        // A body in chunks comes after the request has begun.
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n");
        proxy.wait_for_status("a request", |status| status["in_flight"] == 1);
        clock.advance(Duration::from_millis(over));
        client.send(format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len()).as_bytes());
        assert_eq!(served_by(&mut client), expected, "{over} ms");
        let record = proxy.record();
        let decision = &record["decision"];
        assert_eq!((&decision["spent_ms"], &decision["reason"]), (&(over as f64).into(), &reason.into()), "{record:#}");
        assert_eq!(record["budget_ms"], 1000.0);
        if over == 500 {
            let green = candidate(&record, "green");
            let late = (green["first_token_ms"].as_f64().unwrap() - 500.0) - green["by"].as_f64().unwrap();
            assert!(green["verdict"] == "over_budget" && late.abs() < 1e-6, "{green:#}");
        }
    }
}

#[test]
fn who_cannot_be_in_time_after_a_failure_is_passed_over_for_who_can() {
    for (refuses_after, expected) in [(0, "next"), (500, "dirty")] {
        let clock = standing_still();
        let moved = Arc::clone(&clock);
        let refusing = Peer::start(move |_, stream| {
            moved.advance(Duration::from_millis(refuses_after));
            respond(stream, "429 Too Many Requests", "", b"");
            Then::Close
        });
        let (next, dirty) = (answering(), answering());
        let backends = [
            ("first", refusing.address, "SE-SE3", SLOW),
            ("next", next.address, "DE", SLOW),
            ("dirty", dirty.address, "PL", QUICK),
        ];
        // Nobody is asked beyond the second one, and that one may be any of them.
        let proxy = proxy(&clock, &format!("{BUDGET}, attempts: {{ max: 2 }}"), &backends);
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", BODY);
        assert_eq!(served_by(&mut client), expected);
        let record = proxy.record();
        let tried: Vec<&str> = record["attempts"].as_array().unwrap().iter().map(|it| it["backend"].as_str().unwrap()).collect();
        assert_eq!(tried, ["first", expected]);
    }
}

/// Of each candidate's line: all that is weighed under `least_carbon`.
fn weighed(candidate: &Value) -> f64 {
    ["grams", "cost_grams", "waiting_grams", "price_grams"].iter().filter_map(|part| candidate[*part].as_f64()).sum()
}

#[test]
fn the_line_has_every_number_that_the_choice_was_made_by() {
    let (clock, peer) = (standing_still(), answering());
    // Each is the best by something: grams, dollars, time.
    let backends = [
        ("green", peer.address, "SE-SE3", &*format!("{SLOW}\n    price_usd_per_million_tokens: {{ input: 9, output: 90 }}")),
        ("cheap", peer.address, "FR", &*format!("{SLOW}\n    price_usd_per_million_tokens: {{ input: 1, output: 3 }}")),
        ("quick", peer.address, "DE", &*format!("{QUICK}\n    price_usd_per_million_tokens: {{ input: 2, output: 6 }}")),
    ];
    let mut chosen = std::collections::BTreeSet::new();
    for prices in ["", ", max_usd_per_kg: 1", ", max_usd_per_kg: 1, latency_price_mg_per_s: 100000"] {
        let proxy = proxy(&clock, &format!("{BUDGET}{prices}"), &backends);
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", BODY);
        let backend = served_by(&mut client);
        let record = proxy.record();
        let all = record["decision"]["candidates"].as_array().unwrap();
        let best = all.iter().min_by(|a, b| weighed(a).total_cmp(&weighed(b))).unwrap();
        assert_eq!(best["backend"], *backend, "{record:#}");
        assert_eq!(all.iter().all(|it| it["cost_grams"].is_f64()), !prices.is_empty(), "{record:#}");
        assert_eq!(all.iter().all(|it| it["waiting_grams"].is_f64()), prices.contains("latency"), "{record:#}");
        chosen.insert(backend);
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}

#[test]
fn the_line_says_what_was_ahead_and_how_large_a_share_was() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let peer = Peer::start(move |_, stream| {
        let _ = wait.lock().unwrap().recv();
        respond(stream, "200 OK", STREAM, EVENTS.as_bytes());
        Then::Close
    });
    let slow_reader = "expect: { first_token: 50ms, per_prompt_token: 1ms, tokens_per_second: 1000 }";
    let proxy = proxy(&standing_still(), &format!("{BUDGET}, objective: weighted"), &[("a", peer.address, "DE", slow_reader)]);
    let (mut first, mut second) = (Client::connect(proxy.address), Client::connect(proxy.address));
    first.post("/v1/chat/completions", "", BODY);
    peer.next();
    second.post("/v1/chat/completions", "", BODY);
    peer.next();
    (0..2).for_each(|_| release.send(()).unwrap());
    assert_eq!([served_by(&mut first), served_by(&mut second)], ["a", "a"]);
    let records = [proxy.record(), proxy.record()];
    let [ahead, alone] = [true, false].map(|is| records.iter().find(|it| candidate(it, "a")["queue_ms"].is_f64() == is).unwrap());
    let (queue, prompt) = (&candidate(ahead, "a")["queue_ms"], &alone["decision"]["input_tokens"]);
    assert_eq!(queue.as_f64(), prompt.as_f64(), "a millisecond for each token of the one before it");
    assert!(records.iter().all(|it| candidate(it, "a")["weight"] == 1), "{ahead:#}");
}
