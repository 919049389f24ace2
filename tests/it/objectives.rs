//! What a policy asks for, member by member, and what a request then meets: every objective, every part of a budget, the price of
//! waiting, and what is done where nobody is in time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use serde_json::Value;

use super::support::peer::{Then, respond};
use super::support::{Answer, Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":10}}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;
const WHOLE: &str = r#"{"model":"m"}"#;

/// A proxy whose route has the policy that is written so.
fn under(policy: &str, backends: &[(&str, &Peer, &str)]) -> Harness {
    let backends: Vec<_> = backends.iter().map(|(name, peer, more)| (*name, peer.address, *more)).collect();
    Harness::with(&format!("  - {{ name: tested, {policy} }}"), &backends, "policy: tested")
}

fn ask(proxy: &Harness, body: &str) -> (Answer, Value) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", body);
    (client.answer(), proxy.record())
}

fn peers<const N: usize>() -> [Peer; N] {
    [(); N].map(|()| Peer::answering("200 OK", OK))
}

/// A dirty one that is quick and a clean one that is slow, each as far as it was declared; and who of them serves the first request.
fn serves(policy: &str, slow: &str, body: &str) -> (String, Value) {
    let [dirty, clean] = peers();
    let slow = format!("grid_zone: SE-SE3\n    expect: {{ {slow} }}");
    let quick = "grid_zone: PL\n    expect: { first_token: 10ms, per_prompt_token: 1us, tokens_per_second: 1000 }";
    let proxy = under(policy, &[("dirty", &dirty, quick), ("clean", &clean, &slow)]);
    let (answer, record) = ask(&proxy, body);
    assert_eq!(answer.status, 200, "{record}");
    (record["backend"].as_str().unwrap().to_owned(), record)
}

fn verdict(record: &Value, backend: &str) -> String {
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    let of_it = candidates.iter().find(|candidate| candidate["backend"] == backend).unwrap();
    of_it["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn each_objective_chooses_whom_it_says() {
    let of = |zone: &str, first_token: &str, price: u32| {
        format!(
            "grid_zone: {zone}\n    expect: {{ first_token: {first_token} }}\n    price_usd_per_million_tokens: {{ input: {price}, output: {price} }}"
        )
    };
    let said = [of("GB", "600ms", 4), of("PL", "500ms", 1), of("DE", "100ms", 5), of("SE-SE3", "900ms", 3)];
    for (objective, backend) in
        [("listed_order", "first"), ("least_cost", "cheap"), ("least_latency", "quick"), ("least_carbon", "clean")]
    {
        let peers: [Peer; 4] = peers();
        let names = ["first", "cheap", "quick", "clean"];
        let all: Vec<_> = (0..4).map(|nth| (names[nth], &peers[nth], &*said[nth])).collect();
        let (answer, record) = ask(&under(&format!("objective: {objective}"), &all), STREAM);
        assert_eq!((answer.status, &record["backend"]), (200, &backend.into()), "{objective}: {record}");
        assert_eq!(answer.field("x-windward-decision"), Some(objective));
        let (decision, carbon) = (&record["decision"], objective == "least_carbon");
        assert_eq!(decision["reason"], objective);
        assert_eq!(decision["baseline"], if carbon { "quick" } else { backend }, "only carbon can be left out of account");
    }
}

/// Who served each of so many requests.
fn served(proxy: &Harness, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(proxy.address);
    let mut served = BTreeMap::new();
    for _ in 0..requests {
        client.post("/v1/chat/completions", "", WHOLE);
        let answer = client.answer();
        *served.entry(answer.field("x-windward-backend").unwrap().to_owned()).or_default() += 1;
    }
    served
}

#[test]
fn in_turn_each_gets_as_many_and_by_weight_its_share() {
    let [a, b, c] = &peers();
    let all = [("a", a, "grid_zone: PL"), ("b", b, "grid_zone: FR"), ("c", c, "grid_zone: SE-SE3")];
    let turns = served(&under("objective: round_robin, latency_budget: none", &all), 12);
    assert_eq!(turns.values().collect::<Vec<_>>(), [&4, &4, &4], "{turns:?}");

    let weighted = |gone: bool| {
        let nobody = Peer::nobody();
        Harness::of(|log| {
            let top = "  - { name: tested, objective: weighted, latency_budget: none }";
            let at = |peer: &Peer| if gone { nobody } else { peer.address };
            let backends = [("a", at(a), "grid_zone: PL"), ("b", at(b), "grid_zone: FR"), ("c", c.address, "grid_zone: SE-SE3")];
            let text = super::support::text(log, top, &backends, "policy: tested");
            text.replace(
                "backends: [a, b, c]",
                "backends: [{ name: a, weight: 3 }, { name: b, weight: 1 }, { name: c, weight: 0 }]",
            )
        })
    };
    let shares = served(&weighted(false), 200);
    assert_eq!(shares.get("c"), None, "it is there for when the others are not");
    assert!((130..170).contains(&shares["a"]) && shares["a"] + shares["b"] == 200, "{shares:?}");
    assert_eq!(served(&weighted(true), 2)["c"], 2);
}

#[test]
fn each_member_of_a_budget_counts() {
    let long = format!(r#"{{"model":"m","stream":true,"messages":[{{"content":"{}"}}]}}"#, "word ".repeat(9000));
    let late = "first_token: 900ms";
    let reads_slowly = "first_token: 10ms, per_prompt_token: 1ms";
    let writes_slowly = "first_token: 10ms, per_prompt_token: 1us, tokens_per_second: 10";
    for (budget, slow, body, backend) in [
        ("first_token: 2s", late, STREAM, "clean"),
        ("first_token: 500ms", late, STREAM, "dirty"),
        // Ten thousand tokens.
        ("first_token: 2s", reads_slowly, &*long, "dirty"),
        ("first_token: 2s, per_prompt_token: 2ms", reads_slowly, &*long, "clean"),
        // 250 tokens until more is known.
        ("first_token: 2s", writes_slowly, WHOLE, "clean"),
        ("first_token: 2s, total: 60s", writes_slowly, WHOLE, "clean"),
        ("first_token: 2s, total: 5s", writes_slowly, WHOLE, "dirty"),
        ("first_token: 2s, total: 5s", writes_slowly, STREAM, "clean"),
    ] {
        let (served, record) = serves(&format!("latency_budget: {{ {budget} }}"), slow, body);
        assert_eq!(served, backend, "{budget} with {slow}: {record}");
        let other = if backend == "clean" { ("dirty", "dirtier") } else { ("clean", "over_budget") };
        assert_eq!(verdict(&record, other.0), other.1, "{budget} with {slow}");
    }
    let (served, _) = serves("latency_budget: none", "first_token: 30s, per_prompt_token: 1ms", &long);
    assert_eq!(served, "clean", "without a budget any latency will do");
}

/// A backend is filled as far as its tokens come in the time that they have.
#[test]
fn the_budget_of_a_token_keeps_a_backend_from_being_filled() {
    for (budget, backend) in [("first_token: 9s", "clean"), ("first_token: 9s, per_output_token: 35ms", "dirty")] {
        let (release, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let clean = Peer::start(move |_, socket| {
            let _ = wait.lock().unwrap().recv();
            respond(socket, "200 OK", "content-type: application/json\r\n", OK.as_bytes());
            Then::Close
        });
        let [dirty] = peers();
        // Alone a stream has a token each 33 ms, and with eight of them each takes longer than the budget says.
        let slow =
            "grid_zone: SE-SE3\n    max_in_flight: 8\n    models: [m]\n    expect: { first_token: 10ms, tokens_per_second: 30 }";
        let quick = "grid_zone: PL\n    models: [m]\n    expect: { first_token: 10ms, tokens_per_second: 1000 }";
        let proxy = under(&format!("latency_budget: {{ {budget} }}"), &[("dirty", &dirty, quick), ("clean", &clean, slow)]);
        let limit = |status: &Value| status["backends"][1]["models"][0]["limit"].as_u64();
        let limited = backend == "dirty";
        proxy.wait_for_status("its limit", |status| limit(status) == Some(if limited { 3 } else { 8 }));
        let mut held: Vec<Client> = (0..3).map(|_| Client::connect(proxy.address)).collect();
        for client in &mut held {
            client.post("/v1/chat/completions", "", STREAM);
            clean.next();
        }
        let mut other = Client::connect(proxy.address);
        other.post("/v1/chat/completions", "", STREAM);
        if limited { &dirty } else { &clean }.next();
        (0..4).for_each(|_| release.send(()).unwrap());
        assert_eq!(other.answer().field("x-windward-backend"), Some(backend), "{budget}");
        for client in &mut held {
            assert_eq!(client.answer().status, 200);
        }
        let records: Vec<Value> = (0..4).map(|_| proxy.record()).collect();
        let crowded = records.iter().filter(|record| verdict(record, "clean") == "crowded").count();
        assert_eq!(crowded, usize::from(limited), "{budget}");
    }
}

#[test]
fn waiting_is_weighed_by_what_the_policy_says_it_is_worth() {
    for (price, backend) in [("0", "clean"), ("0.001", "clean"), ("1000000", "dirty")] {
        let (served, record) = serves(&format!("latency_price_mg_per_s: {price}"), "first_token: 900ms", STREAM);
        assert_eq!(served, backend, "{price}: {record}");
        let other = if backend == "clean" { ("dirty", "dirtier") } else { ("clean", "slower") };
        assert_eq!(verdict(&record, other.0), other.1, "{price}");
    }
}

#[test]
fn where_nobody_is_in_time_the_fastest_serves_or_nobody() {
    let late = |zone: &str, first_token: &str| format!("grid_zone: {zone}\n    expect: {{ first_token: {first_token} }}");
    for (rest, status) in [("", 200), ("on_no_candidate: fastest, ", 200), ("on_no_candidate: reject, ", 503)] {
        let [clean, quick] = peers();
        let backends = [("clean", &clean, &*late("SE-SE3", "5s")), ("quick", &quick, &*late("PL", "2s"))];
        let proxy = under(&format!("{rest}latency_budget: {{ first_token: 200ms }}"), &backends);
        let (answer, record) = ask(&proxy, STREAM);
        assert_eq!(answer.status, status, "{record}");
        assert_eq!(verdict(&record, "clean"), "over_budget");
        assert_eq!(clean.connections(), 0);
        if status == 200 {
            assert_eq!((&record["backend"], &record["decision"]["reason"]), (&"quick".into(), &"fastest_over_budget".into()));
        } else {
            assert_eq!((&answer.json()["error"]["code"], quick.connections()), (&"no_candidate".into(), 0));
            assert_eq!((&record["error"], verdict(&record, "quick")), (&"no_candidate".into(), "over_budget".to_owned()));
        }
    }
}
