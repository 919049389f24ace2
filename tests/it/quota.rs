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
