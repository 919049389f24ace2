//! The admin address, and the way out.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks};
use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

#[test]
fn the_admin_address_tells_what_an_operator_asks() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("a", peer.address, "models: [m]")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    client.answer();
    proxy.record();
    assert_eq!(proxy.ask_admin("/healthz").status, 200);
    assert_eq!(proxy.ask_admin("/readyz").status, 200);
    assert_eq!(proxy.ask_admin("/nothing").status, 404);
    let status = proxy.ask_admin("/status").json();
    assert_eq!((&status["generation"], &status["backends"][0]["requests"]), (&1.into(), &1.into()));
    assert_eq!(status["backends"][0]["models"][0]["model"], "m");
    assert!(status["grid"][0]["reading"]["intensity_g_per_kwh"].as_f64().is_some());
    let metrics = proxy.ask_admin("/metrics").text();
    for name in
        ["windward_requests_total", "windward_backend_in_flight", "windward_config_generation", "windward_emissions_grams_total"]
    {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
}

/// All that a choice rests on can be read while it is being made, and again from the line of a request.
#[test]
fn what_is_known_of_each_backend_is_shown_and_so_is_what_a_request_was_decided_on() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}\n\
             policies:\n  - {{ name: standard, latency_budget: {{ first_token: 9s, per_output_token: 50ms }} }}\nbackends:\n  \
             - {{ name: a, url: \"http://{0}/v1\", grid_zone: FR, models: [m] }}\n  \
             - {{ name: b, url: \"http://{0}/v1\", grid_zone: PL, models: [m] }}\n",
            peer.address
        )
    });
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
    client.answer();
    let record = proxy.record();
    for name in ["a", "b"] {
        let shown = proxy.backend(name);
        for number in ["price_grams_per_output_token", "in_flight", "max_in_flight", "pending_prompt_tokens", "cut"] {
            assert!(shown[number].is_number(), "{number} in {shown:#}");
        }
        for number in ["first_token_ms", "queue_ms", "per_output_token_ms", "limit", "samples"] {
            assert!(shown["models"][0][number].is_number(), "{number} in {shown:#}");
        }
        for number in ["intensity_g_per_kwh", "age_s"] {
            assert!(shown["reading"][number].is_number(), "{number} in {shown:#}");
        }
        assert_eq!(shown["reading"]["freshness"], "assumed");
        let candidates = record["decision"]["candidates"].as_array().unwrap();
        let weighed = candidates.iter().find(|it| it["backend"] == name).unwrap();
        for number in ["first_token_ms", "total_ms", "per_output_token_ms", "limit", "in_flight", "intensity_g_per_kwh", "grams"]
        {
            assert!(weighed[number].is_number(), "{number} in {weighed:#}");
        }
    }
    // Of the baseline it is said where that is another.
    let same = record["decision"]["baseline"] == record["backend"];
    assert_eq!(record["carbon"].get("baseline").is_none(), same, "{record:#}");
    assert!(record["carbon"].as_object().unwrap().values().all(|used| used["age_s"].is_number()), "{record:#}");
}

#[test]
fn the_admin_paths_are_not_on_the_data_port() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for path in ["/healthz", "/status", "/metrics", "/reload"] {
        let mut client = Client::connect(proxy.address);
        client.get(path, "");
        assert_eq!(client.answer().status, 404, "{path}");
    }
}

#[test]
fn a_drain_lets_streams_end_and_loses_no_line() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        chunk(stream, b"data: [DONE]\n\n");
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::with("limits: { drain_delay: 1ms, drain_deadline: 20s }", &[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
    client.read_until("\"a\"");
    let stopping = std::thread::spawn(move || proxy.stop());
    go.send(()).unwrap();
    assert!(client.answer().text().ends_with("data: [DONE]\n\n"));
    let ended = stopping.join().unwrap();
    assert!(ended.drained && ended.log_complete && !ended.failed, "{ended:?}");
}
