//! What answers say of how much more a service will take, and where requests go then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;

use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

fn ask(proxy: &Harness, model: &str) -> String {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", &format!(r#"{{"model":"{model}","messages":[]}}"#));
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    answer.field("x-windward-backend").unwrap().to_owned()
}

#[test]
fn who_says_that_nothing_is_left_of_a_model_is_not_asked_for_it() {
    let spent = "x-ratelimit-limit-requests: 1\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m30s\r\n";
    let few = "x-ratelimit-limit-tokens: 100000\r\nx-ratelimit-remaining-tokens: 1\r\nx-ratelimit-reset-tokens: 1m30s\r\n";
    let models = "models: [a, b]";
    for said in [spent, few] {
        let peer = Peer::start(move |seen, stream| {
            respond(stream, "200 OK", if seen.json()["model"] == "a" { said } else { "" }, OK.as_bytes());
            Then::Next
        });
        let spare = Peer::answering("200 OK", OK);
        let proxy = Harness::start(&[("first", peer.address, models), ("spare", spare.address, models)], "policy: in_order");
        assert_eq!(
            [ask(&proxy, "a"), ask(&proxy, "a"), ask(&proxy, "b"), ask(&proxy, "b")],
            ["first", "spare", "first", "first"]
        );
        let second = (0..4).map(|_| proxy.record()).find(|record| record["backend"] == "spare").unwrap();
        assert_eq!(second["decision"]["candidates"][0]["verdict"], "no_capacity", "{second}");
        assert_eq!(second["attempts"].as_array().map(Vec::len), Some(1), "nobody had to refuse it first");
    }
    // Whose credential the client brings, of that nothing follows for others.
    let own = "models: [a, b]\n    auth: pass_through";
    let peer = Peer::start(move |_, stream| {
        respond(stream, "200 OK", spent, OK.as_bytes());
        Then::Next
    });
    let spare = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("first", peer.address, own), ("spare", spare.address, models)], "policy: in_order");
    assert_eq!([ask(&proxy, "a"), ask(&proxy, "a")], ["first", "first"]);
}

#[test]
fn what_is_on_its_way_counts_against_what_is_left() {
    let two = "x-ratelimit-remaining-requests: 2\r\nx-ratelimit-reset-requests: 1m30s\r\n";
    let also_two = "anthropic-ratelimit-requests-remaining: 2\r\nanthropic-ratelimit-requests-reset: 2100-01-01T00:00:00Z\r\n";
    for (said, dialect, path) in [(two, "openai", "/v1/chat/completions"), (also_two, "anthropic", "/v1/messages")] {
        let ((release, held), first) = (channel::<()>(), AtomicBool::new(true));
        let held = Mutex::new(held);
        let peer = Peer::start(move |_, stream| {
            let is_first = first.swap(false, SeqCst);
            if !is_first {
                held.lock().unwrap().recv().unwrap();
            }
            respond(stream, "200 OK", if is_first { said } else { "" }, OK.as_bytes());
            Then::Next
        });
        let spare = Peer::answering("200 OK", OK);
        let backend = format!("dialect: {dialect}\n    models: [m]");
        let backends = [("first", peer.address, &*backend), ("spare", spare.address, &*backend)];
        let proxy = Harness::start(&backends, "policy: in_order");
        let body = r#"{"model":"m","max_tokens":300,"messages":[]}"#;
        let begin = || {
            let mut client = Client::connect(proxy.address);
            client.post(path, "", body);
            client
        };
        let backend = |mut client: Client| client.answer().field("x-windward-backend").map(str::to_owned);
        assert_eq!(backend(begin()).as_deref(), Some("first"));
        peer.next();
        let on_their_way = [begin(), begin()];
        for _ in 0..2 {
            peer.next();
        }
        assert_eq!(backend(begin()).as_deref(), Some("spare"), "two were left, and two are on their way");
        (0..2).for_each(|_| release.send(()).unwrap());
        assert_eq!(on_their_way.map(backend), [(); 2].map(|()| Some("first".to_owned())));
    }
}

/// What a service says is of the moment when it was asked, so that an answer which was long in coming does not undo what a later request
/// was told.
#[test]
fn an_answer_that_was_long_in_coming_knows_less_than_one_to_a_later_request() {
    let says = |left| {
        format!(
            "x-ratelimit-limit-requests: 9\r\nx-ratelimit-remaining-requests: {left}\r\nx-ratelimit-reset-requests: 1m30s\r\n"
        )
    };
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let peer = Peer::start(move |seen, stream| {
        let slow = seen.field("x-slow").is_some();
        if slow {
            held.lock().unwrap().recv().unwrap();
        }
        respond(stream, "200 OK", &says(if slow { 9 } else { 0 }), OK.as_bytes());
        Then::Next
    });
    let spare = Peer::answering("200 OK", OK);
    let proxy =
        Harness::start(&[("first", peer.address, "models: [m]"), ("spare", spare.address, "models: [m]")], "policy: in_order");
    let mut slow = Client::connect(proxy.address);
    slow.post("/v1/chat/completions", "x-slow: 1\r\n", r#"{"model":"m","messages":[]}"#);
    peer.next();
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 2 {
        std::hint::spin_loop();
    }
    assert_eq!([ask(&proxy, "m"), ask(&proxy, "m")], ["first", "spare"]);
    release.send(()).unwrap();
    assert_eq!(slow.answer().field("x-windward-backend"), Some("first"));
    assert_eq!(ask(&proxy, "m"), "spare", "nine were left, and then none");
}

#[test]
fn what_was_not_taken_counts_against_nothing() {
    let one = "anthropic-ratelimit-requests-remaining: 1\r\nanthropic-ratelimit-requests-reset: 2100-01-01T00:00:00Z\r\n";
    let none = "anthropic-ratelimit-requests-remaining: 0\r\nanthropic-ratelimit-requests-reset: 2100-01-01T00:00:00Z\r\n";
    let first = AtomicBool::new(true);
    let peer = Peer::start(move |seen, stream| {
        let (status, says) = match seen.field("x-want") {
            Some("fault") => ("400 Bad Request", ""),
            _ if seen.target().ends_with("/count_tokens") => ("200 OK", none),
            _ => ("200 OK", if first.swap(false, SeqCst) { one } else { "" }),
        };
        respond(stream, status, says, br#"{"type":"message","usage":{"input_tokens":1,"output_tokens":1}}"#);
        Then::Next
    });
    let spare = Peer::answering("200 OK", OK);
    let backend = "dialect: anthropic\n    models: [m]";
    let proxy = Harness::start(&[("first", peer.address, backend), ("spare", spare.address, backend)], "policy: in_order");
    let ask = |path: &str, fields: &str| {
        let mut client = Client::connect(proxy.address);
        client.post(path, fields, r#"{"model":"m","max_tokens":300,"messages":[]}"#);
        client.answer().field("x-windward-backend").unwrap().to_owned()
    };
    assert_eq!(ask("/v1/messages", ""), "first", "one is left");
    (0..3).for_each(|_| assert_eq!(ask("/v1/messages/count_tokens", ""), "first", "which has a limit of its own"));
    (0..3).for_each(|_| assert_eq!(ask("/v1/messages", "x-want: fault\r\n"), "first", "which is not taken"));
    assert_eq!([ask("/v1/messages", ""), ask("/v1/messages", "")], ["first", "spare"]);
}

/// The status had long been 200, and a model is full all the same.
#[test]
fn who_says_within_an_answer_that_it_is_full_is_left_alone_as_if_it_had_refused() {
    let throttled = r#"data: {"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    let overloaded = "data: {\"choices\":[],\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}";
    let failed = r#"data: {"error":{"message":"gone","type":"server_error"}}"#;
    for (said, same_model, other_model) in
        [(throttled, "spare", "first"), (overloaded, "spare", "spare"), (failed, "first", "first")]
    {
        let first = AtomicBool::new(true);
        let peer = Peer::start(move |_, stream| {
            if first.swap(false, SeqCst) {
                respond(stream, "200 OK", "content-type: text/event-stream\r\n", format!("{said}\n\n").as_bytes());
            } else {
                respond(stream, "200 OK", "", OK.as_bytes());
            }
            Then::Next
        });
        let (spare, models) = (Peer::answering("200 OK", OK), "models: [a, b]");
        let proxy = Harness::start(&[("first", peer.address, models), ("spare", spare.address, models)], "policy: in_order");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", r#"{"model":"a","messages":[],"stream":true}"#);
        assert_eq!(client.answer().field("x-windward-backend"), Some("first"));
        assert_eq!(proxy.record()["error"], "backend_error_event");
        assert_eq!([ask(&proxy, "a"), ask(&proxy, "b")], [same_model, other_model], "{said}");
    }
}
