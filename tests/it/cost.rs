//! What a request costs is weighed where a policy says so, and booked wherever it is known.

use serde_json::Value;

use super::audit::audit;
use super::support::{Client, Harness, Peer};

const ANSWER: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":500,"prompt_tokens_details":{"cached_tokens":200}}}"#;
const BODY: &str = r#"{"model":"m"}"#;
const POLICIES: &str = "  - { name: cheap, objective: least_cost }
  - { name: generous, max_usd_per_kg: 1000000 }
  - { name: stingy, max_usd_per_kg: 0.01 }";
const CHEAP: &str = "grid_zone: PL\n    price_usd_per_million_tokens: { input: 1, output: 4 }";
const CLEAN: &str = "grid_zone: SE-SE3\n    price_usd_per_million_tokens: { input: 2, cached_input: 0.5, output: 10 }";

fn two(policy: &str) -> Harness {
    let [cheap, clean] = [(); 2].map(|()| Peer::answering("200 OK", ANSWER).address);
    Harness::with(POLICIES, &[("cheap", cheap, CHEAP), ("clean", clean, CLEAN)], &format!("policy: {policy}"))
}

fn ask(proxy: &Harness, fields: &str) -> (u16, Value) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", fields, BODY);
    (client.answer().status, proxy.record())
}

#[test]
fn a_policy_pays_for_carbon_what_it_says() {
    for (policy, backend) in [("standard", "clean"), ("generous", "clean"), ("stingy", "cheap"), ("cheap", "cheap")] {
        let (status, record) = ask(&two(policy), "");
        assert_eq!((status, &record["backend"]), (200, &backend.into()), "{policy}: {record}");
        audit(&record);
        let other = usize::from(backend != "clean");
        let verdict = &record["decision"]["candidates"][other]["verdict"];
        assert_eq!(verdict, if backend == "clean" { "dirtier" } else { "dearer" }, "{policy}");
    }
}

#[test]
fn dollars_are_booked_with_what_the_baseline_would_have_cost() {
    let (_, record) = ask(&two("standard"), "");
    audit(&record);
    // 800 x 2 + 200 x 0.5 + 500 x 10 millionths of a dollar.
    assert!((record["cost"]["usd"].as_f64().unwrap() - 0.0067).abs() < 1e-12, "{}", record["cost"]);
    let [cheap, clean] = [(); 2].map(|()| Peer::answering("200 OK", ANSWER).address);
    let free = Harness::start(&[("cheap", cheap, CHEAP), ("clean", clean, "grid_zone: SE-SE3")], "");
    let (_, record) = ask(&free, "");
    assert_eq!((&record["backend"], record.get("cost")), (&"clean".into(), None), "unknown is not nothing");
}

#[test]
fn a_request_cannot_ask_for_what_its_policy_would_not_pay() {
    let stingy = two("stingy");
    for (objective, status) in [("least_cost", 200), ("least_carbon", 200), ("least_latency", 400), ("round_robin", 400)] {
        let (got, record) = ask(&stingy, &format!("x-windward-objective: {objective}\r\n"));
        assert_eq!(got, status, "{objective}");
        assert!(status == 400 || record["backend"] == "cheap", "{record}");
    }
    let (status, record) = ask(&two("standard"), "x-windward-objective: least_cost\r\n");
    assert_eq!((status, &record["backend"]), (200, &"cheap".into()));
}
