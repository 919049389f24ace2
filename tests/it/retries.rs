//! Sending again under load, and leaving a backend alone: what many requests see, where `failover` looks at one.

use std::time::Instant;

use super::support::peer::{Then, respond};
use super::support::{Answer, Client, Harness, Peer};

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"caf\u00e9  \ud83d\ude00"}], "x" : 1.0e-0 }"#;
const IN_ORDER: &str = "policy: in_order";

/// A backend that gives every request this status and these fields.
fn always(status: &'static str, fields: &'static str) -> Peer {
    Peer::start(move |_, stream| {
        respond(stream, status, fields, b"{}");
        Then::Next
    })
}

fn asked_of(peer: &Peer) -> usize {
    std::iter::from_fn(|| peer.saw_more().then_some(())).count()
}

fn ask(client: &mut Client) -> Answer {
    client.post("/v1/chat/completions", "", BODY);
    client.answer()
}

#[test]
fn retries_never_double_an_outage() {
    const REQUESTS: usize = 200;
    // A client's own key that is spent says nothing of the backend, so that each of them is a candidate for every request.
    let own_key = "auth: pass_through";
    for (status, more, policy) in [
        ("429 Too Many Requests", own_key, IN_ORDER),
        ("503 Service Unavailable", "", IN_ORDER),
        ("500 Internal Server Error", "", "policy: unsafe_in_order"),
    ] {
        let peers = [(); 3].map(|()| always(status, "retry-after: 0\r\n"));
        let [one, two, three] = &peers;
        let proxy =
            Harness::start(&[("one", one.address, more), ("two", two.address, more), ("three", three.address, more)], policy);
        let (begun, mut client) = (Instant::now(), Client::connect(proxy.address));
        for _ in 0..REQUESTS {
            assert_eq!(ask(&mut client).status, status[..3].parse::<u16>().unwrap());
        }
        let attempts: usize = peers.iter().map(asked_of).sum();
        // One a second beyond the share, for each ten seconds that the requests fell in.
        let beyond = 10 * (begun.elapsed().as_secs() / 10 + 2) as usize;
        assert!(attempts >= REQUESTS + 10, "{status}: a few are sent again");
        assert!(attempts <= REQUESTS + REQUESTS / 5 + beyond, "{status}: {attempts} attempts");
        let retries = &proxy.ask_admin("/status").json()["retries"];
        assert_eq!(retries["sent"], attempts - REQUESTS);
        assert!(retries["withheld"].as_u64().unwrap() > 0, "{retries}");
        assert!(proxy.ask_admin("/metrics").text().contains("windward_retries_total{result=\"withheld\"}"));
    }
}

#[test]
fn without_a_budget_nothing_is_sent_again() {
    let (full, idle) = (always("429 Too Many Requests", "retry-after: 3\r\n"), Peer::answering("200 OK", "{}"));
    let top = "limits: { retries: { share: 0, per_second: 0 } }";
    let proxy = Harness::with(top, &[("full", full.address, ""), ("idle", idle.address, "")], IN_ORDER);
    let answer = ask(&mut Client::connect(proxy.address));
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("3")));
    assert!(!idle.saw_more());
}

#[test]
fn of_all_refusals_the_last_429_is_passed_on() {
    const FULL: &str = "429 Too Many Requests";
    const DOWN: &str = "503 Service Unavailable";
    for (said, expected) in [
        ([FULL, FULL, FULL], ("429", "12", "three")),
        ([FULL, FULL, DOWN], ("429", "11", "two")),
        ([FULL, DOWN, DOWN], ("429", "10", "one")),
        ([DOWN, FULL, DOWN], ("429", "11", "two")),
        ([DOWN, DOWN, DOWN], ("503", "12", "three")),
    ] {
        let [one, two, three] = std::array::from_fn(|n| {
            let fields: [&str; 3] = ["retry-after: 10\r\n", "retry-after: 11\r\n", "retry-after: 12\r\n"];
            always(said[n], fields[n])
        });
        let proxy = Harness::start(&[("one", one.address, ""), ("two", two.address, ""), ("three", three.address, "")], IN_ORDER);
        let answer = ask(&mut Client::connect(proxy.address));
        let status = answer.status.to_string();
        let seen = (&*status, answer.field("retry-after").unwrap(), answer.field("x-windward-backend").unwrap());
        assert_eq!(seen, expected, "{said:?}");
        let attempts = proxy.record()["attempts"].as_array().unwrap().len();
        assert_eq!((attempts, asked_of(&one), asked_of(&two), asked_of(&three)), (3, 1, 1, 1), "never the same one twice");
    }
}

#[test]
fn a_date_is_respected_by_the_backends_own_clock() {
    let year = "date: Sun, 06 Nov 1994 08:00:00 GMT\r\nretry-after: Sun, 06 Nov 1994 09:00:00 GMT\r\n";
    let (full, idle) = (always("503 Service Unavailable", year), Peer::answering("200 OK", "{}"));
    let proxy = Harness::start(&[("full", full.address, ""), ("idle", idle.address, "")], IN_ORDER);
    let mut client = Client::connect(proxy.address);
    (0..3).for_each(|_| assert_eq!(ask(&mut client).status, 200));
    // Of a date that could not be read a second would be left, and an hour is cut to two minutes.
    assert!(full_for_ms(&proxy, "full") > 60_000);
    assert_eq!(asked_of(&full), 1);
}

/// How much longer a backend is believed to have no room.
fn full_for_ms(proxy: &Harness, backend: &str) -> u64 {
    let status = proxy.ask_admin("/status").json();
    let backends = status["backends"].as_array().unwrap();
    backends.iter().find(|b| b["name"] == backend).unwrap()["full_for_ms"].as_u64().unwrap()
}

#[test]
fn a_second_attempt_has_the_same_bytes_and_its_own_credential() {
    let (full, idle) = (always("429 Too Many Requests", "retry-after: 0\r\n"), Peer::answering("200 OK", "{}"));
    let backends = [("full", full.address, "auth: { bearer: one }"), ("idle", idle.address, "auth: { bearer: two }")];
    let proxy = Harness::start(&backends, IN_ORDER);
    let mut client = Client::connect(proxy.address);
    let long = BODY.replace("caf", &"caf".repeat(100_000));
    for body in [BODY, &long] {
        client.post("/v1/chat/completions", "authorization: Bearer mine\r\n", body);
        assert_eq!(client.answer().status, 200);
        for (attempt, credential) in [(full.next(), "Bearer one"), (idle.next(), "Bearer two")] {
            assert!(attempt.body == body.as_bytes(), "the body is as the client sent it");
            assert_eq!(attempt.field("authorization"), Some(credential));
        }
    }
}
