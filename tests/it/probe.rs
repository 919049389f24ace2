//! How far away a backend is, before it has answered anything: seen by connecting, without a request.

use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// A backend with and one without.
fn two(peer: &Peer) -> Harness {
    Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}\nbackends:\n  \
             - {{ name: a, url: \"http://{0}/v1\", grid_zone: DE, probe: true }}\n  \
             - {{ name: b, url: \"http://{0}/v1\", grid_zone: FR }}\n",
            peer.address
        )
    })
}

#[test]
fn a_cold_backend_is_measured_and_sent_nothing() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = two(&peer);
    proxy.wait_for_status("a round trip", |status| status["backends"][0]["round_trip_ms"].is_number());
    let (probed, declared) = (proxy.backend("a"), proxy.backend("b"));
    let span = probed["round_trip_ms"].as_f64().unwrap();
    assert!((0.0..2000.0).contains(&span), "{probed:#}");
    assert_eq!(declared["round_trip_ms"], serde_json::Value::Null, "this machine is no distance, unless one asks");
    let first_token = |backend: &serde_json::Value| backend["models"][0]["first_token_ms"].as_f64().unwrap();
    // Of an unknown backend it is taken for a fifth more than it should be.
    let more = first_token(&probed) - first_token(&declared);
    assert!((more - 1.2 * span).abs() < 0.01, "{more} for {span}");
    assert_eq!((&probed["requests"], &probed["in_flight"]), (&0.into(), &0.into()));
    assert!(peer.connections() > 0 && !peer.saw_more(), "it was connected to, and that is all");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    assert_eq!(client.answer().status, 200, "it is served as if nobody had looked");
}
