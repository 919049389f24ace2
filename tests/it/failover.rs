//! Sending again: when nothing was sent or the work was refused, to another backend, and never otherwise.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::support::peer::{PATIENCE, Then, respond, wait_for_close};
use super::support::{Client, Harness, Peer, in_the_middle};

const BODY: &str = r#"{"model":"m","messages":[]}"#;
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const IN_ORDER: &str = "policy: in_order";

fn ask(proxy: &Harness) -> super::support::Answer {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    client.answer()
}

fn attempts(record: &serde_json::Value) -> Vec<(String, String)> {
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    record["attempts"].as_array().unwrap().iter().map(|a| (word(&a["backend"]), word(&a["outcome"]))).collect()
}

#[test]
fn a_backend_that_cannot_be_reached_is_passed_over() {
    let good = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("gone", Peer::nobody(), ""), ("good", good.address, "")], IN_ORDER);
    let answer = ask(&proxy);
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("good")));
    assert_eq!(good.next().body, BODY.as_bytes());
    let record = proxy.record();
    assert_eq!(attempts(&record), [("gone".into(), "unreachable".into()), ("good".into(), "answered".into())]);
    assert_eq!(record["emissions"]["waste_grams"], 0.0, "nothing was sent, nothing was burned");
}

#[test]
fn a_refusal_goes_to_the_next_and_is_respected() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let full = Peer::start(move |_, stream| {
            respond(stream, status, "retry-after: 60\r\n", b"{}");
            Then::Next
        });
        let good = Peer::answering("200 OK", OK);
        let proxy = Harness::start(&[("full", full.address, ""), ("good", good.address, "")], IN_ORDER);
        assert_eq!(ask(&proxy).status, 200);
        assert_eq!((full.next().body, good.next().body), (BODY.as_bytes().to_vec(), BODY.as_bytes().to_vec()));
        assert_eq!(attempts(&proxy.record()), [("full".into(), "refused".into()), ("good".into(), "answered".into())]);
        assert_eq!(ask(&proxy).status, 200);
        assert!(!full.saw_more(), "it asked to be left alone for a minute");
        let record = proxy.record();
        assert_eq!(record["decision"]["candidates"][0]["verdict"], "no_capacity");
    }
}

#[test]
fn when_all_refuse_the_last_refusal_is_passed_on() {
    let full = || {
        Peer::start(|_, stream| {
            respond(stream, "429 Too Many Requests", "retry-after: 7\r\ncontent-type: application/json\r\n", b"{\"error\":1}");
            Then::Next
        })
    };
    let (one, two) = (full(), full());
    let proxy = Harness::start(&[("one", one.address, ""), ("two", two.address, "")], IN_ORDER);
    let answer = ask(&proxy);
    assert_eq!((answer.status, answer.field("retry-after"), answer.text().as_str()), (429, Some("7"), "{\"error\":1}"));
}

#[test]
fn a_refusal_says_more_than_a_backend_that_is_gone() {
    let full = Peer::start(|_, stream| {
        respond(stream, "429 Too Many Requests", "retry-after: 7\r\n", b"{}");
        Then::Next
    });
    let proxy = Harness::start(&[("full", full.address, ""), ("gone", Peer::nobody(), "")], IN_ORDER);
    let answer = ask(&proxy);
    assert_eq!((answer.status, answer.field("retry-after"), answer.field("x-windward-backend")), (429, Some("7"), Some("full")));
    assert_eq!(attempts(&proxy.record()), [("full".into(), "refused".into()), ("gone".into(), "unreachable".into())]);
}

#[test]
fn work_that_was_not_refused_is_never_done_twice() {
    let broken = Peer::start(|_, _| Then::Close);
    let failing = Peer::answering("500 Internal Server Error", "{}");
    for (peer, status, outcome) in [(&broken, 502, "broken"), (&failing, 500, "answered")] {
        let good = Peer::answering("200 OK", OK);
        let proxy = Harness::start(&[("bad", peer.address, ""), ("good", good.address, "")], IN_ORDER);
        assert_eq!(ask(&proxy).status, status);
        assert!(!good.saw_more());
        let record = proxy.record();
        assert_eq!(attempts(&record), [("bad".into(), outcome.into())]);
        assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0, "{record}");
    }
}

#[test]
fn unless_the_policy_says_so() {
    let broken = Peer::start(|_, _| Then::Close);
    let good = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("bad", broken.address, ""), ("good", good.address, "")], "policy: unsafe_in_order");
    assert_eq!(ask(&proxy).status, 200);
    let record = proxy.record();
    assert_eq!(attempts(&record), [("bad".into(), "broken".into()), ("good".into(), "answered".into())]);
    assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_backend_that_never_answers_is_given_up() {
    let (left, was_left) = channel();
    let left = Mutex::new(left);
    let silent = Peer::start(move |_, stream| {
        wait_for_close(stream);
        left.lock().unwrap().send(()).unwrap();
        Then::Close
    });
    let proxy = Harness::start(&[("silent", silent.address, "timeouts: { first_byte: 50ms }")], "");
    let took = (0..5).map(|_| {
        let asked = Instant::now();
        let answer = ask(&proxy);
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("backend_timeout")));
        assert_eq!(proxy.record()["attempts"][0]["outcome"], "timed_out");
        was_left.recv_timeout(PATIENCE).expect("nobody waits for its answer any more");
        asked.elapsed()
    });
    assert!(in_the_middle(took.collect()) < Duration::from_millis(50 + 1000));
}

#[test]
fn nobody_reachable_is_a_clear_error() {
    let proxy = Harness::start(&[("gone", Peer::nobody(), "")], "");
    let answer = ask(&proxy);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (502, Some("backend_unreachable")));
}

#[test]
fn one_clients_exhausted_key_does_not_shut_a_backend_for_the_others() {
    let peer = Peer::start(|seen, stream| {
        let spent = seen.field("authorization") == Some("Bearer spent");
        respond(stream, if spent { "429 Too Many Requests" } else { "200 OK" }, "retry-after: 60\r\n", b"{}");
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "auth: pass_through")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "authorization: Bearer spent\r\n", BODY);
    assert_eq!(client.answer().status, 429);
    client.post("/v1/chat/completions", "authorization: Bearer good\r\n", BODY);
    assert_eq!(client.answer().status, 200);
}
