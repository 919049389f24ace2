//! A second backend asked beside one that is late: who wins, what becomes of the other, and what keeps it rare.
//!
//! The clock of the budget stands still, so that only the timer of the hedge decides when it is made; a backend that is to be late
//! waits for something that the test does.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use windward::clock::SimulatedClock;

use super::audit::audit;
use super::support::peer::{Seen, Then, begin_events, chunk, end_chunks, respond, wait_for_close};
use super::support::{Answer, Client, Harness, Peer, patiently};

const BODY: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"How are you today, my good machine?"}]}"#;
const STREAM: &str = r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"How are you today?"}]}"#;
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;
const JSON: &str = "content-type: application/json\r\n";
const ALWAYS: &str = "hedge: { at_most: 1, extra_mg_at_most: 100000 }";
/// Late after 50 ms, so that the second is asked after 100 of the budget's 150.
const QUICK: &str = "expect: { first_token: 50ms, per_prompt_token: 1us, tokens_per_second: 1000000 }";

fn standing_still() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

/// Backends in this order under a policy with these further keys.
fn hedging(policy: &str, backends: &[(&str, SocketAddr, &str)]) -> Harness {
    hedging_by(standing_still(), policy, backends)
}

fn hedging_by(clock: Arc<SimulatedClock>, policy: &str, backends: &[(&str, SocketAddr, &str)]) -> Harness {
    let quick = |more: &str| if more.contains("expect:") { more.to_owned() } else { format!("{QUICK}\n    {more}") };
    let backends: Vec<(&str, SocketAddr, String)> =
        backends.iter().map(|(name, address, more)| (*name, *address, quick(more))).collect();
    let backends: Vec<(&str, SocketAddr, &str)> = backends.iter().map(|(name, at, more)| (*name, *at, more.as_str())).collect();
    Harness::run(clock, |log| {
        let budget =
            if policy.contains("latency_budget:") { "" } else { "latency_budget: { first_token: 150ms, total: 150ms }, " };
        let hedged = format!("  - {{ name: hedged, objective: listed_order, {budget}{policy} }}\nbackends:\n");
        super::support::text(log, "", &backends, "policy: hedged").replacen("backends:\n", &hedged, 1)
    })
}

fn ask(proxy: &Harness, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "authorization: Bearer CLIENT\r\n", body);
    client.answer()
}

/// Begins an answer, never ends its head, and tells when its connection is closed.
fn stalled() -> (Peer, Receiver<()>) {
    let (closed, seen) = channel();
    let closed = Mutex::new(closed);
    let peer = Peer::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-loser: LOSER\r\n");
        wait_for_close(stream);
        let _ = closed.lock().unwrap().send(());
        Then::Close
    });
    (peer, seen)
}

/// Does what it is to do once the test lets it.
fn held(answer: impl Fn(&Seen, &mut std::net::TcpStream) -> Then + Send + Sync + 'static) -> (Peer, Sender<()>) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let peer = Peer::start(move |seen, stream| {
        let _ = wait.lock().unwrap().recv_timeout(super::support::peer::PATIENCE);
        answer(seen, stream)
    });
    (peer, go)
}

fn outcomes(record: &Value) -> Vec<(&str, &str)> {
    let attempts = record["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| (attempt["backend"].as_str().unwrap(), attempt["outcome"].as_str().unwrap())).collect()
}

#[test]
fn the_second_answers_and_the_first_is_broken_off_and_booked_as_waste() {
    let events = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":100}}\n\ndata: [DONE]\n\n";
    let (late, closed) = stalled();
    let good = Peer::start(move |seen, stream| {
        if seen.json()["stream"] == true {
            begin_events(stream);
            chunk(stream, events.as_bytes());
            end_chunks(stream);
        } else {
            respond(stream, "200 OK", JSON, OK.as_bytes());
        }
        Then::Next
    });
    let backends = [("late", late.address, "auth: { bearer: ONE }"), ("good", good.address, "auth: { bearer: TWO }")];
    let proxy = hedging(ALWAYS, &backends);
    for (body, hedges) in [(BODY, 1), (STREAM, 2)] {
        let answer = ask(&proxy, body);
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("good")));
        assert!(answer.field("x-loser").is_none() && !answer.text().contains("LOSER"), "no byte of it");
        closed.recv_timeout(super::support::peer::PATIENCE).expect("the connection of the one that lost is closed");
        let (one, two) = (late.next(), good.next());
        assert_eq!((one.field("authorization"), two.field("authorization")), (Some("Bearer ONE"), Some("Bearer TWO")));
        assert_eq!(one.json()["messages"], two.json()["messages"]);
        let record = proxy.record();
        assert_eq!(outcomes(&record), [("late", "hedged"), ("good", "answered")]);
        audit(&record);
        assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0, "{record}");
        assert_eq!(record["attempts"][0]["input_tokens"], 1000, "it may have read all of the prompt");
        let metrics = proxy.ask_admin("/metrics").text();
        assert!(metrics.contains(&format!("windward_hedges_total{{result=\"sent\"}} {hedges}\n")), "{metrics}");
        assert!(metrics.contains(&format!("windward_hedges_won_total {hedges}\n")), "{metrics}");
    }
    let late = patiently("the end of the exchange", || Some(proxy.backend("late")).filter(|late| late["in_flight"] == 0));
    assert_eq!((&late["failures"], &late["shut_for_ms"], &late["models"][0]["samples"]), (&0.into(), &Value::Null, &0.into()));
    assert_eq!(proxy.backend("good")["models"][0]["samples"], 1, "the stream that it answered");
}

/// One that is slow but expected in time leaves no moment for a second that is in time as well; nobody waits for its timeout for that.
#[test]
fn a_slow_backend_that_hangs_is_hedged_when_the_budget_is_over() {
    let slow =
        "expect: { first_token: 110ms, per_prompt_token: 1us, tokens_per_second: 1000000 }\n    timeouts: { first_byte: 20s }";
    let ((late, closed), good) = (stalled(), Peer::answering("200 OK", OK));
    let proxy = hedging(ALWAYS, &[("late", late.address, slow), ("good", good.address, "")]);
    for body in [BODY, STREAM] {
        let begun = std::time::Instant::now();
        let answer = ask(&proxy, body);
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("good")));
        assert!(begun.elapsed() >= std::time::Duration::from_millis(150), "until then the first has every chance");
        closed.recv_timeout(super::support::peer::PATIENCE).expect("the connection of the one that lost is closed");
        let record = proxy.record();
        assert_eq!(outcomes(&record), [("late", "hedged"), ("good", "answered")]);
        audit(&record);
        assert!(record["emissions"]["waste_grams"].as_f64().unwrap() > 0.0, "{record}");
    }
    let late = proxy.backend("late");
    assert_eq!((&late["failures"], &late["models"][0]["samples"]), (&0.into(), &0.into()), "{late}");
}

/// Each of its answers comes from the other, so that it teaches nothing but that it was late.
#[test]
fn a_backend_that_hangs_is_not_asked_first_for_ever() {
    let clock = standing_still();
    let moving = Arc::clone(&clock);
    let late = Peer::start(move |_, stream| {
        moving.advance(std::time::Duration::from_millis(400));
        wait_for_close(stream);
        Then::Close
    });
    let good = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n");
        end_chunks(stream);
        Then::Next
    });
    let proxy =
        hedging_by(clock, ALWAYS, &[("late", late.address, "models: [gpt-4o]"), ("good", good.address, "models: [gpt-4o]")]);
    let first = |record: &Value| outcomes(record)[0].0.to_owned();
    let asked_first: Vec<String> = (0..20)
        .map(|_| {
            assert_eq!(ask(&proxy, STREAM).status, 200);
            first(&proxy.record())
        })
        .take_while(|first| first == "late")
        .collect();
    assert!((1..20).contains(&asked_first.len()), "{} times", asked_first.len());
    let late = proxy.backend("late");
    assert_eq!((&late["failures"], &late["models"][0]["samples"]), (&0.into(), &0.into()), "{late}");
}

#[test]
fn the_first_may_still_win_and_then_the_second_is_broken_off() {
    let (first, go) = held(|_, stream| {
        respond(stream, "200 OK", JSON, OK.as_bytes());
        Then::Next
    });
    let (second, closed) = stalled();
    let proxy = hedging(ALWAYS, &[("first", first.address, ""), ("second", second.address, "")]);
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    second.next();
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("x-windward-backend"), answer.text().as_str()), (200, Some("first"), OK));
    closed.recv_timeout(super::support::peer::PATIENCE).expect("its connection is closed");
    let record = proxy.record();
    assert_eq!(outcomes(&record), [("second", "hedged"), ("first", "answered")]);
    audit(&record);
    assert!(proxy.ask_admin("/metrics").text().contains("windward_hedges_won_total 0\n"));
    let second = patiently("the end", || Some(proxy.backend("second")).filter(|second| second["in_flight"] == 0));
    assert_eq!((&second["failures"], &second["models"][0]["samples"]), (&0.into(), &0.into()));
}

#[test]
fn one_that_fails_is_no_winner_and_is_booked_as_what_it_is() {
    for (status, outcome, failures) in [
        ("429 Too Many Requests", "refused", 1),
        ("500 Internal Server Error", "answered", 1),
        ("401 Unauthorized", "refused", 1),
    ] {
        let (first, go) = held(|_, stream| {
            respond(stream, "200 OK", JSON, OK.as_bytes());
            Then::Next
        });
        let second = Peer::answering(status, r#"{"error":"LOSER"}"#);
        let proxy = hedging(ALWAYS, &[("first", first.address, ""), ("second", second.address, "")]);
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", BODY);
        patiently("the failure", || (proxy.backend("second")["failures"] == failures).then_some(()));
        go.send(()).unwrap();
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.field("x-windward-backend"), answer.text().as_str()),
            (200, Some("first"), OK),
            "{status}"
        );
        let record = proxy.record();
        assert_eq!(outcomes(&record), [("second", outcome), ("first", "answered")]);
        audit(&record);
    }
}

#[test]
fn a_first_that_breaks_leaves_it_to_the_second_and_to_nobody_else() {
    for (status, expected) in [("200 OK", 200), ("429 Too Many Requests", 502), ("500 Internal Server Error", 500)] {
        let (first, go) = held(|_, _| Then::Close);
        let (second, answer) = held(move |_, stream| {
            respond(stream, status, JSON, OK.as_bytes());
            Then::Next
        });
        let third = Peer::answering("200 OK", OK);
        let proxy =
            hedging(ALWAYS, &[("first", first.address, ""), ("second", second.address, ""), ("third", third.address, "")]);
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", BODY);
        second.next();
        go.send(()).unwrap();
        patiently("the failure", || (proxy.backend("first")["failures"] == 1).then_some(()));
        answer.send(()).unwrap();
        assert_eq!(client.answer().status, expected);
        let record = proxy.record();
        let last = if expected == 502 { "refused" } else { "answered" };
        assert_eq!(outcomes(&record), [("first", "broken"), ("second", last)]);
        assert!(!third.saw_more(), "the first may have done the work");
        audit(&record);
    }
}

#[test]
fn a_client_that_leaves_ends_both() {
    let ((one, one_closed), (two, two_closed)) = (stalled(), stalled());
    let proxy = hedging(ALWAYS, &[("one", one.address, ""), ("two", two.address, "")]);
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    two.next();
    drop(client);
    for closed in [one_closed, two_closed] {
        closed.recv_timeout(super::support::peer::PATIENCE).expect("its connection is closed");
    }
    let record = proxy.record();
    assert_eq!(outcomes(&record), [("one", "abandoned"), ("two", "abandoned")]);
    audit(&record);
    assert_eq!(record["emissions"]["waste_grams"], record["emissions"]["grams"]);
}

/// Two backends of which the first does not answer within its time; says what became of one request, and whether it reached the second.
fn of_one_request(policy: &str, more: &str, time: &str) -> (u16, bool) {
    let ((late, _closed), good) = (stalled(), Peer::answering("200 OK", OK));
    let first = format!("grid_zone: FR\n    timeouts: {{ first_byte: {time} }}");
    let proxy = hedging(policy, &[("late", late.address, &first), ("good", good.address, more)]);
    (ask(&proxy, BODY).status, good.saw_more())
}

#[test]
fn nothing_is_hedged_unless_the_policy_says_so_and_its_limits_allow_it() {
    assert_eq!(of_one_request(ALWAYS, "", "20s"), (200, true), "the case that the others differ from");
    for (policy, more, why) in [
        ("on_no_candidate: fastest", "", "it is off when left out"),
        ("hedge: { at_most: 1, extra_mg_at_most: 0.0001 }", "", "it would emit too much"),
        ("hedge: { at_most: 0.9, extra_mg_at_most: 100000 }", "", "a share of one request is none"),
        ("residency: [FR], hedge: { at_most: 1, extra_mg_at_most: 100000 }", "grid_zone: DE", "the second lies outside"),
        ("attempts: { max: 1 }, hedge: { at_most: 1, extra_mg_at_most: 100000 }", "", "one backend may see a request"),
        (ALWAYS, "placement: unknown", "nobody knows what it would emit"),
    ] {
        assert_eq!(of_one_request(policy, more, "300ms"), (504, false), "{why}");
    }
}

#[test]
fn hedges_stay_the_share_of_the_requests_that_the_policy_allows() {
    let late = Arc::new(AtomicBool::new(false));
    let is_late = Arc::clone(&late);
    let first = Peer::start(move |_, stream| {
        if is_late.load(SeqCst) {
            wait_for_close(stream);
            return Then::Close;
        }
        respond(stream, "200 OK", JSON, OK.as_bytes());
        Then::Next
    });
    let good = Peer::answering("200 OK", OK);
    // A second is enough for who is not late, also on a slow machine.
    let hedge = "latency_budget: { first_token: 1s, total: 1s }, hedge: { at_most: 0.25, extra_mg_at_most: 100000 }";
    let proxy = hedging(hedge, &[("first", first.address, "timeouts: { first_byte: 3s }"), ("good", good.address, "")]);
    (0..9).for_each(|_| assert_eq!(ask(&proxy, BODY).status, 200));
    late.store(true, SeqCst);
    assert_eq!([(); 3].map(|()| ask(&proxy, BODY).status), [200; 3], "twelve requests have earned three");
    assert_eq!(ask(&proxy, BODY).status, 504, "the thirteenth finds a quarter");
    let metrics = proxy.ask_admin("/metrics").text();
    assert!(metrics.contains("windward_hedges_total{result=\"withheld\"} 1\n"), "{metrics}");
    assert_eq!(std::iter::from_fn(|| good.saw_more().then_some(())).count(), 3);
}

#[test]
fn a_hedge_that_does_not_begin_costs_none_of_the_share() {
    let clock = standing_still();
    let (ages, until) = (Arc::clone(&clock), Arc::new(AtomicBool::new(true)));
    let late = Arc::clone(&until);
    // While the first has it, the time that the exchange may take goes by.
    let first = Peer::start(move |_, stream| {
        if late.load(SeqCst) {
            ages.advance(std::time::Duration::from_mins(1));
        }
        wait_for_close(stream);
        Then::Close
    });
    let good = Peer::answering("200 OK", OK);
    let (patient, short) = ("timeouts: { first_byte: 500ms }", "timeouts: { total: 30s }");
    let hedge = "hedge: { at_most: 0.5, extra_mg_at_most: 100000 }";
    let proxy = hedging_by(clock, hedge, &[("first", first.address, patient), ("good", good.address, short)]);
    assert_eq!([(); 2].map(|()| ask(&proxy, BODY).status), [504; 2], "two have earned one, and it is too late for it");
    assert!(!good.saw_more());
    until.store(false, SeqCst);
    assert_eq!(ask(&proxy, BODY).status, 200, "it is still there for the third");
}
