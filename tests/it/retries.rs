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
