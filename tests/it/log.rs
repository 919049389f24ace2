//! The access log of a disk that gives out.

use super::support::{Client, Harness, Peer, patiently, text};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// The value of a metric without labels.
fn metric(proxy: &Harness, name: &str) -> f64 {
    let metrics = proxy.ask_admin("/metrics").text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}")).parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_no_request_and_is_counted() {
    let peer = Peer::answering("200 OK", OK);
    // The kernel's own file that is always full.
    let proxy = Harness::of(|log| {
        std::fs::write(log, "").unwrap();
        text("/dev/full", "limits: { drain_delay: 1ms, drain_deadline: 20s }", &[("a", peer.address, "")], "")
    });
    let mut client = Client::connect(proxy.address);
    let mut ask = || {
        client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        assert_eq!(client.answer().status, 200);
    };
    (0..50).for_each(|_| ask());
    patiently("a failed write", || (metric(&proxy, "windward_log_errors_total") > 0.0).then_some(()));
    (0..50).for_each(|_| ask());
    let status = proxy.ask_admin("/status").json();
    assert!(status["log"]["write_errors"].as_u64() > Some(0), "{status}");
    drop(client);
    let ended = proxy.stop();
    assert!(ended.drained && !ended.failed && !ended.log_complete, "{ended:?}");
}
