//! Backends that are asked beside their traffic whether they work.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use windward::clock::SimulatedClock;

use super::support::peer::{Seen, Then, respond};
use super::support::{Client, Harness, Peer};

const CHECK: &str = "health: { path: /health?deep=1, every: 100ms, timeout: 20s, failures: 2, passes: 2 }";
const IN_ORDER: &str = "policy: in_order";

/// A backend that serves everything, and passes its checks only while `well`.
fn peer(well: &Arc<AtomicBool>) -> Peer {
    let well = Arc::clone(well);
    Peer::start(move |seen: &Seen, stream: &mut TcpStream| {
        let fails = seen.target().starts_with("/health") && !well.load(SeqCst);
        respond(stream, if fails { "500 Internal Server Error" } else { "200 OK" }, "", b"{}");
        Then::Next
    })
}

/// With a clock that stands still an ejection ends only when something ends it.
fn clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

fn served_by(proxy: &Harness) -> String {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    client.answer().field("x-windward-backend").unwrap().to_owned()
}

fn backend<'s>(status: &'s serde_json::Value, name: &str) -> &'s serde_json::Value {
    status["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name).unwrap()
}

#[test]
fn who_fails_its_checks_is_left_alone_until_it_passes_them() {
    let well = Arc::new(AtomicBool::new(true));
    let (ill, other) = (peer(&well), Peer::answering("200 OK", "{}"));
    let more = format!("auth: {{ bearer: own }}\n    {CHECK}");
    let backends = [("ill", ill.address, &*more), ("other", other.address, "")];
    let clock = clock();
    let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, IN_ORDER);
    clock.advance(Duration::from_secs(1));
    proxy.wait_for_status("a passing check", |status| backend(status, "ill")["health_checks"]["passed"] != 0);
    let asked = ill.next();
    assert!(asked.head.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.field("host"), Some(&*ill.address.to_string()));
    assert_eq!((asked.field("authorization"), asked.body.len()), (Some("Bearer own"), 0));
    assert_eq!(served_by(&proxy), "ill");

    well.store(false, SeqCst);
    let status = proxy.wait_for_status("an ejection", |status| backend(status, "ill")["share"] == 0.0);
    assert!(backend(&status, "ill")["health_checks"]["failed_in_a_row"].as_u64().unwrap() >= 2);
    assert!(backend(&status, "other")["health_checks"].is_null());
    assert_eq!(served_by(&proxy), "other");
    assert!(proxy.ask_admin("/metrics").text().contains("windward_backend_health_checks_failed_total{backend=\"ill\"}"));

    well.store(true, SeqCst);
    let status = proxy.wait_for_status("the end of it", |status| backend(status, "ill")["shut_for_ms"].is_null());
    let share = backend(&status, "ill")["share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 0.2, "it comes back slowly: {share}");

    for expected in ["ill", "other"] {
        assert_eq!(proxy.record()["attempts"][0]["backend"], expected, "a check leaves no record");
    }
}

#[test]
fn the_only_backend_is_used_whatever_its_checks_say() {
    let ill = peer(&Arc::new(AtomicBool::new(false)));
    let proxy = Harness::by(clock(), &[("ill", ill.address, CHECK)], "");
    let many = |status: &serde_json::Value| backend(status, "ill")["health_checks"]["failed_in_a_row"].as_u64() >= Some(4);
    let status = proxy.wait_for_status("many failing checks", many);
    assert!(backend(&status, "ill")["share"].is_null());
    assert_eq!(served_by(&proxy), "ill");
}

#[test]
fn a_backend_that_does_not_answer_its_checks_fails_them() {
    let silent = Peer::start(|_, stream| {
        super::support::peer::wait_for_close(stream);
        Then::Close
    });
    let other = Peer::answering("200 OK", "{}");
    for address in [silent.address, Peer::nobody()] {
        let hasty = CHECK.replace("20s", "50ms");
        let proxy = Harness::by(clock(), &[("ill", address, &hasty), ("other", other.address, "")], IN_ORDER);
        proxy.wait_for_status("an ejection", |status| backend(status, "ill")["share"] == 0.0);
        assert_eq!(served_by(&proxy), "other");
    }
}

#[test]
fn checks_begin_and_end_with_a_reload() {
    let peer = peer(&Arc::new(AtomicBool::new(true)));
    let proxy = Harness::start(&[("a", peer.address, "simulated: false")], "");
    assert!(backend(&proxy.ask_admin("/status").json(), "a")["health_checks"].is_null());
    proxy.rewrite(|text| text.replace("simulated: false", CHECK));
    assert_eq!(peer.next().target(), "/health?deep=1");
    proxy.rewrite(|text| text.replace(CHECK, "simulated: false"));
    proxy.wait_for_status("no checks", |status| backend(status, "a")["health_checks"].is_null());
}
