//! A crowd: what a patient request does while nobody can answer it in time.

use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m","stream":true}"#;
const PATIENT: &str = "latency_budget: { first_token: 400ms }, overload: hold_then_shed";

/// One backend that is thought to take so long, with so many places.
fn one(peer: &Peer, expected: &str, places: u32, policy: &str) -> Harness {
    Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}\n\
             policies:\n  - {{ name: standard, {policy} }}\n\
             backends:\n  - {{ name: a, url: \"http://{}/v1\", grid_zone: DE, expect: {{ first_token: {expected} }}, max_in_flight: {places} }}\n",
            peer.address
        )
    })
}

#[test]
fn a_request_that_could_only_come_too_late_is_shed_and_sent_nowhere() {
    let (release, peer) = Peer::when_told(OK);
    let proxy = one(&peer, "5s", 10, PATIENT);
    let (mut first, mut client) = (Client::connect(proxy.address), Client::connect(proxy.address));
    first.post("/v1/chat/completions", "", BODY);
    peer.next();
    client.post("/v1/chat/completions", "", BODY);
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("1")));
    assert_eq!(answer.json()["error"]["code"], "shed");
    let record = proxy.record();
    assert_eq!((&record["error"], &record["ended"]), (&"shed".into(), &"rejected".into()));
    assert_eq!(record["decision"]["candidates"][0]["verdict"], "over_budget");
    assert!(record["total_ms"].as_f64() >= Some(150.0), "it waited for a better moment first");
    // Why, by its line alone: so much of the budget was over, and by so much it would have missed the rest.
    let (budget, spent) = (record["budget_ms"].as_f64().unwrap(), record["decision"]["spent_ms"].as_f64().unwrap());
    let candidate = &record["decision"]["candidates"][0];
    let (first_token, by) = (candidate["first_token_ms"].as_f64().unwrap(), candidate["by"].as_f64().unwrap());
    assert!(spent >= 150.0 && (first_token - (budget - spent) - by).abs() < 0.01, "{record:#}");
    assert_eq!((peer.connections(), proxy.in_flight("a")), (1, 1));
    // The other one is tried all the same, as it found nobody there: else nothing would ever be learned of that backend.
    release.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    let record = proxy.record();
    assert_eq!((&record["decision"]["reason"], record["decision"].get("reserve")), (&"fastest_over_budget".into(), None));
    assert!(record["decision"]["spent_ms"].as_f64() < Some(50.0), "it was not held back");
    assert_eq!(record["attempts"][0].get("begun_ms"), None, "it was the only one, and began when that was decided");
}

#[test]
fn without_that_policy_it_is_sent_to_whoever_is_least_late() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = one(&peer, "5s", 1, "latency_budget: { first_token: 400ms }");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    assert_eq!(client.answer().status, 200);
    assert_eq!(proxy.record()["decision"]["reason"], "fastest_over_budget");
}

#[test]
fn a_request_that_was_held_is_served_once_there_is_room() {
    let (release, peer) = Peer::when_told(OK);
    let proxy = one(&peer, "10ms", 1, "latency_budget: { first_token: 1h }, overload: hold_then_shed");
    let (mut first, mut second) = (Client::connect(proxy.address), Client::connect(proxy.address));
    first.post("/v1/chat/completions", "", BODY);
    peer.next();
    second.post("/v1/chat/completions", "", BODY);
    proxy.wait_for_status("both requests", |status| status["in_flight"] == 2);
    assert_eq!(proxy.in_flight("a"), 1, "the only place is taken");
    release.send(()).unwrap();
    release.send(()).unwrap();
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
    assert_eq!((peer.connections(), proxy.in_flight("a")), (2, 0));
    // The only place was taken: nothing of what was free was kept for others.
    for record in [proxy.record(), proxy.record()] {
        assert_eq!((record["decision"].get("reserve"), record["decision"].get("strain")), (None, None), "{record:#}");
    }
}

#[test]
fn who_has_room_and_is_kept_for_others_is_said_to_be_so() {
    let (release, peer) = Peer::when_told(OK);
    // Nothing is known of what is usual: 2.1 % are left free, which is the last of 48.
    let proxy = one(&peer, "10ms", 48, "latency_budget: { first_token: 1s }, overload: hold_then_shed");
    let mut clients: Vec<Client> = (0..48).map(|_| Client::connect(proxy.address)).collect();
    let mut last = clients.pop().unwrap();
    for client in &mut clients {
        client.post("/v1/chat/completions", "", BODY);
    }
    proxy.wait_for_status("all but one", |status| status["in_flight"] == 47);
    assert_eq!(proxy.in_flight("a"), 47);
    last.post("/v1/chat/completions", "", BODY);
    assert_eq!(last.answer().status, 429);
    let record = proxy.record();
    let decision = &record["decision"];
    assert_eq!((&decision["reason"], &decision["candidates"][0]["verdict"]), (&"shed".into(), &"kept_free".into()), "{record:#}");
    assert_eq!((&decision["reserve"], &decision["candidates"][0]["in_flight"]), (&0.021.into(), &47.into()));
    (0..clients.len()).for_each(|_| release.send(()).unwrap());
    assert!(clients.iter_mut().all(|client| client.answer().status == 200));
}

/// There is no queue: while one is held, whoever comes is told so at once.
#[test]
fn who_finds_no_place_is_told_at_once_when_to_come_again() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let peer = Peer::start(move |_, socket| {
        let _ = wait.lock().unwrap().recv();
        respond(socket, "200 OK", "content-type: application/json\r\n", OK.as_bytes());
        Then::Next
    });
    // Of requests, and of the bytes of their bodies.
    for (limits, long) in [("in_flight: 1", 0), ("body: 1KiB, buffered: 1KiB", 600)] {
        let proxy = Harness::with(&format!("limits: {{ {limits} }}"), &[("a", peer.address, "")], "");
        let body = format!("{}{}", r#"{"model":"m"}"#, " ".repeat(long));
        let mut first = Client::connect(proxy.address);
        first.post("/v1/chat/completions", "", &body);
        peer.next();
        for _ in 0..20 {
            let mut other = Client::connect(proxy.address);
            other.post("/v1/chat/completions", "", &body);
            let answer = other.answer();
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{limits}");
            assert_eq!(answer.json()["error"]["code"], "overloaded", "{limits}");
        }
        release.send(()).unwrap();
        assert_eq!(first.answer().status, 200);
        assert!(!peer.saw_more(), "{limits}");
        release.send(()).unwrap();
        first.post("/v1/chat/completions", "", &body);
        assert_eq!(first.answer().status, 200, "there is a place again");
        peer.next();
    }
}
