//! The whole loop on sockets: clients, the proxy, and a simulated fleet that keeps books of its own. What the proxy's log says has to
//! be what the fleet served, whatever went wrong meanwhile, and in the end nothing counts as under way. `benches/closed_loop.py` does
//! this for minutes and measures; here nothing depends on how fast anything is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use serde_json::Value;
use windward::clock::RuntimeClock;
use windward::config::fleet::FleetPlan;
use windward::mock;
use windward::simulate::render::COLUMNS;

use super::support::{Client, Harness, patiently};

const FLEET: &str = "\
models: [m]
regions:
  - { region: aws/eu-north-1, rtt_ms: 1, replicas: 1, slots_per_replica: 3, queue_per_replica: 1, token_ms: 0.1, prefill_tokens_per_second: 1000000 }
  - { region: aws/eu-west-3, rtt_ms: 1, replicas: 1, token_ms: 0.1, prefill_tokens_per_second: 1000000 }
";
const JOULES: (f64, f64) = (0.396, 1.28);
const CLIENTS: usize = 6;
const EACH: usize = 12;

/// A fleet on a thread of its own; it lives until the test process ends.
fn fleet() -> Vec<SocketAddr> {
    let (say, started) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fleet = mock::start(&FleetPlan::parse(FLEET).unwrap(), Arc::new(RuntimeClock), 7).await.unwrap();
            say.send(fleet.addresses().map(|(_, address)| address).collect()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    started.recv().unwrap()
}

fn ledger(region: SocketAddr) -> Vec<Value> {
    let mut client = Client::connect(region);
    client.get("/_ledger", "connection: close\r\n");
    client.answer().text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn resident(region: SocketAddr) -> u64 {
    let mut client = Client::connect(region);
    client.get("/_ctl", "connection: close\r\n");
    let load = client.answer().json()["load"].clone();
    load["resident"].as_u64().unwrap() + load["waiting"].as_u64().unwrap()
}

fn control(region: SocketAddr, patch: &str) {
    let mut client = Client::connect(region);
    client.post("/_ctl", "connection: close\r\n", patch);
    assert_eq!(client.answer().status, 200);
}

/// One client's requests, streamed and whole by turns; every sixth leaves before the end.
fn crowd(proxy: SocketAddr, nth: usize) {
    for step in 0..EACH {
        let mut client = Client::connect(proxy);
        let stream = (step + nth).is_multiple_of(2);
        let content = "word ".repeat(5 + 7 * step);
        let body = format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"{content}"}}]}}"#);
        let leaves = stream && (step + nth).is_multiple_of(6);
        let tokens = if leaves { 5000 } else { 5 + 3 * step };
        client.post("/v1/chat/completions", &format!("x-mock-output-tokens: {tokens}\r\n"), &body);
        if leaves {
            client.read_until("\r\n\r\n");
        } else {
            // What was refused or cut is in the books as well.
            drop(client.try_answer());
        }
    }
}

#[test]
fn the_bench_prints_the_table_of_simulate() {
    let bench = include_str!("../../benches/closed_loop.py");
    // A list of names is written alike in both languages.
    assert!(bench.contains(&format!("\nCOLUMNS = {COLUMNS:?}\n")), "{COLUMNS:?}");
}

#[test]
fn the_log_says_what_the_fleet_served_and_nothing_stays_under_way() {
    let regions = fleet();
    let proxy = Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 2\nlog: {{ access: {log} }}\n\
             energy: [{{ model: m, input_joules_per_token: {}, output_joules_per_token: {} }}]\nbackends:\n  \
             - {{ name: a, url: \"http://{}/v1\", grid_zone: SE-SE3, pue: 1.2 }}\n  \
             - {{ name: b, url: \"http://{}/v1\", grid_zone: FR, pue: 1.1 }}\n",
            JOULES.0, JOULES.1, regions[0], regions[1]
        )
    });
    let address = proxy.address;
    let play = |patch: &str| {
        control(regions[0], patch);
        let crowd: Vec<_> = (0..CLIENTS).map(|nth| std::thread::spawn(move || crowd(address, nth))).collect();
        for client in crowd {
            client.join().unwrap();
        }
    };
    play("{}");
    play(r#"{"error_rate": 0.3, "slow": 3}"#);
    play(r#"{"error_rate": 0, "slow": 1, "cut_after_tokens": 9}"#);

    let records: Vec<Value> = (0..3 * CLIENTS * EACH).map(|_| proxy.record()).collect();
    proxy.wait_for_status("no request", |status| status["in_flight"] == 0);
    for name in ["a", "b"] {
        let backend = proxy.backend(name);
        assert_eq!((&backend["in_flight"], &backend["pending_prompt_tokens"]), (&0.into(), &0.into()), "{name}");
    }
    patiently("an idle fleet", || regions.iter().all(|region| resident(*region) == 0).then_some(()));

    let rows: HashMap<String, Value> =
        regions.iter().flat_map(|region| ledger(*region)).map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect();
    let (mut logged, mut served, mut answers) = (0.0, 0.0, 0);
    for record in records.iter().filter(|record| record["ended"] == "complete" && record["http.response.status_code"] == 200) {
        let row = &rows[record["provider_request_id"].as_str().unwrap()];
        assert_eq!(row["complete"], true, "{record:#}");
        for (ours, theirs) in [("gen_ai.usage.input_tokens", "prompt_tokens"), ("gen_ai.usage.output_tokens", "output_tokens")] {
            assert_eq!(record[ours], row[theirs], "{record:#}");
        }
        let place = &record["carbon"]["chosen"];
        let joules = JOULES.0 * row["prompt_tokens"].as_f64().unwrap() + JOULES.1 * row["output_tokens"].as_f64().unwrap();
        served += joules * place["pue"].as_f64().unwrap() * place["intensity_g_per_kwh"].as_f64().unwrap() / 3.6e6;
        let emissions = &record["emissions"];
        logged += emissions["grams"].as_f64().unwrap() - emissions["waste_grams"].as_f64().unwrap();
        answers += 1;
    }
    assert!(answers > CLIENTS * EACH, "{answers}");
    assert!((logged / served - 1.0).abs() < 0.01, "{logged} g logged, {served} g served");
}
