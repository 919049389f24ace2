//! Sending again under load, and leaving a backend alone: what many requests see, where `failover` looks at one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use windward::clock::SimulatedClock;

use super::support::peer::{Then, respond, wait_for_close};
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
    assert!(proxy.backend("full")["full_for_ms"].as_u64().unwrap() > 60_000);
    assert_eq!(asked_of(&full), 1);
}

#[test]
fn a_quota_is_that_of_one_model_and_a_backend_that_is_full_is_full_for_all() {
    for (status, others) in [("429 Too Many Requests", "hosted"), ("503 Service Unavailable", "other")] {
        let hosted = Peer::start(move |seen, stream| {
            let spent = String::from_utf8_lossy(&seen.body).contains(r#""model":"spent""#);
            respond(stream, if spent { status } else { "200 OK" }, "retry-after: 60\r\n", b"{}");
            Then::Next
        });
        let other = Peer::answering("200 OK", "{}");
        let models = "models: [spent, fresh]";
        let proxy = Harness::start(&[("hosted", hosted.address, models), ("other", other.address, models)], IN_ORDER);
        let mut client = Client::connect(proxy.address);
        let mut served = |model: &str| {
            client.post("/v1/chat/completions", "", &format!(r#"{{"model":"{model}"}}"#));
            client.answer().field("x-windward-backend").unwrap().to_owned()
        };
        let went = ["spent", "spent", "fresh"].map(&mut served);
        assert_eq!(went, ["other", "other", others], "{status}");
        assert_eq!(asked_of(&hosted), if others == "hosted" { 2 } else { 1 }, "the second was not tried there");
    }
}

/// Files have a quota of their own.
#[test]
fn a_call_that_is_not_decided_takes_capacity_away_only_where_the_backend_takes_nothing() {
    for (status, path, others) in [
        ("429 Too Many Requests", "files", "home"),
        ("429 Too Many Requests", "batches", "home"),
        ("503 Service Unavailable", "files", "other"),
        ("529 Overloaded", "files", "other"),
    ] {
        let home = Peer::start(move |seen, stream| {
            let refused = !seen.target().ends_with("completions");
            respond(stream, if refused { status } else { "200 OK" }, "retry-after: 60\r\n", b"{}");
            Then::Next
        });
        let other = Peer::answering("200 OK", "{}");
        let route = "policy: in_order\n    home: home";
        let proxy = Harness::start(&[("home", home.address, ""), ("other", other.address, "")], route);
        let mut client = Client::connect(proxy.address);
        client.post(&format!("/v1/{path}"), "", "{}");
        let answer = client.answer();
        assert_eq!((answer.status.to_string().as_str(), answer.field("retry-after")), (&status[..3], Some("60")));
        assert_eq!(ask(&mut client).field("x-windward-backend"), Some(others), "{status} {path}");
        assert_eq!(proxy.backend("home")["full_for_ms"].is_null(), others == "home", "{status} {path}");
    }
}

#[test]
fn while_all_are_full_a_client_is_told_when_the_first_is_not() {
    let (one, two) =
        (always("429 Too Many Requests", "retry-after: 50\r\n"), always("429 Too Many Requests", "retry-after: 40\r\n"));
    let proxy = Harness::by(simulated(), &[("one", one.address, ""), ("two", two.address, "")], IN_ORDER);
    let mut client = Client::connect(proxy.address);
    assert_eq!(ask(&mut client).status, 429);
    let answer = ask(&mut client);
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("40")), "{}", answer.text());
    assert_eq!((asked_of(&one), asked_of(&two)), (1, 1), "nobody is asked before");
}

#[test]
fn calls_that_stream_through_eject_a_dead_backend_but_never_the_only_one() {
    for others in [0, 1] {
        let (dead, idle) = (Peer::start(|_, _| Then::Close), Peer::answering("200 OK", "{}"));
        let peers = [("dead", dead.address, ""), ("idle", idle.address, "")];
        let proxy = Harness::by(simulated(), &peers[..=others], IN_ORDER);
        for _ in 0..5 {
            let mut client = Client::connect(proxy.address);
            client.get("/v1/files", "");
            assert_eq!(client.answer().status, 502);
        }
        assert_eq!(proxy.backend("dead")["shut_for_ms"].is_null(), others == 0);
    }
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

/// What a backend does with a request.
type Script = Box<dyn Fn(&mut TcpStream) -> Then + Send + Sync>;

#[test]
fn what_was_not_refused_is_sent_again_only_if_the_policy_says_so() {
    let cut: fn(&mut TcpStream) -> Then = |_| Then::Close;
    let garbage: fn(&mut TcpStream) -> Then = |stream| {
        let _ = stream.write_all(b"HTTP/9 yes\r\n\r\n");
        Then::Close
    };
    let silent: fn(&mut TcpStream) -> Then = |stream| {
        wait_for_close(stream);
        Then::Close
    };
    let status = |status: &'static str| {
        move |stream: &mut TcpStream| {
            respond(stream, status, "", b"{}");
            Then::Next
        }
    };
    let cases: [(u16, Script, &str); 6] = [
        (500, Box::new(status("500 Internal Server Error")), ""),
        (502, Box::new(status("502 Bad Gateway")), ""),
        (504, Box::new(status("504 Gateway Timeout")), ""),
        (502, Box::new(cut), ""),
        (502, Box::new(garbage), ""),
        (504, Box::new(silent), "timeouts: { first_byte: 200ms }"),
    ];
    for (nth, (expected, script, more)) in cases.into_iter().enumerate() {
        let (bad, idle) = (Peer::start(move |_, stream| script(stream)), Peer::answering("200 OK", "{}"));
        let backends = [("bad", bad.address, more), ("idle", idle.address, "")];
        let proxy = Harness::start(&backends, IN_ORDER);
        assert_eq!(ask(&mut Client::connect(proxy.address)).status, expected, "case {nth}");
        assert_eq!((asked_of(&bad), asked_of(&idle)), (1, 0), "case {nth}");
        let proxy = Harness::start(&backends, "policy: unsafe_in_order");
        assert_eq!(ask(&mut Client::connect(proxy.address)).status, 200, "case {nth}");
        assert!(idle.next().body == BODY.as_bytes(), "the body is as the client sent it");
        assert_eq!((asked_of(&bad), asked_of(&idle)), (1, 0), "case {nth}");
    }
}

#[test]
fn no_more_are_asked_than_the_policy_says() {
    for (policy, most) in [("", 3), ("attempts: { max: 2 }, ", 2), ("attempts: { max: 1, retry_unsafe: true }, ", 1)] {
        let peers = [(); 4].map(|()| always("429 Too Many Requests", "retry-after: 9\r\n"));
        let names = ["a", "b", "c", "d"];
        let backends: Vec<_> = names.iter().zip(&peers).map(|(name, peer)| (*name, peer.address, "")).collect();
        let proxy = Harness::with(&format!("  - {{ name: own, {policy}objective: listed_order }}"), &backends, "policy: own");
        assert_eq!(ask(&mut Client::connect(proxy.address)).status, 429);
        let asked: Vec<usize> = peers.iter().map(asked_of).collect();
        assert_eq!(asked, (0..4).map(|nth| usize::from(nth < most)).collect::<Vec<_>>(), "{policy}");
    }
}

/// An address at which somebody takes connections and never says a word. TLS does not come about there in its time, nor at a backend
/// that speaks none.
#[test]
fn a_connection_that_does_not_come_about_costs_an_attempt_and_no_work() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = Peer::answering("200 OK", "{}");
    for (address, more) in [(silent.local_addr().unwrap(), "timeouts: { connect: 100ms }"), (plain.address, "")] {
        let idle = Peer::answering("200 OK", r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
        let proxy = Harness::of(|log| {
            let text = super::support::text(log, "", &[("no", address, more), ("idle", idle.address, "")], IN_ORDER);
            text.replace(&format!("http://{address}"), &format!("https://{address}"))
        });
        let answer = ask(&mut Client::connect(proxy.address));
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("idle")));
        assert!(idle.next().body == BODY.as_bytes());
        let record = proxy.record();
        assert_eq!(
            (&record["attempts"][0]["outcome"], &record["emissions"]["waste_grams"]),
            (&"unreachable".into(), &0.0.into())
        );
        // The second was chosen by what was left of the budget then.
        let of = |nth: usize, field: &str| record["attempts"][nth][field].as_f64().unwrap();
        assert!(of(1, "begun_ms") >= of(0, "begun_ms") + of(0, "ms") - 0.01, "{record:#}");
    }
}

/// Also under a policy that lets work be done twice.
#[test]
fn nothing_is_sent_again_once_a_byte_of_an_answer_was_passed_on() {
    for begun in [
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    ] {
        let breaks = Peer::start(move |_, stream| {
            stream.write_all(begun.as_bytes()).unwrap();
            Then::Close
        });
        let idle = Peer::answering("200 OK", "{}");
        let proxy = Harness::start(&[("breaks", breaks.address, ""), ("idle", idle.address, "")], "policy: unsafe_in_order");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", BODY);
        assert!(client.try_answer().is_none(), "what is cut is seen to be cut");
        let record = proxy.record();
        assert_eq!((record["attempts"].as_array().unwrap().len(), &record["ended"]), (1, &"upstream_broke".into()));
        assert!(!idle.saw_more(), "{begun}");
    }
}

fn simulated() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

#[test]
fn a_backend_that_fails_every_other_request_is_ejected_and_comes_back_slowly() {
    let (asked, mended) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let good = Arc::clone(&mended);
    let shaky = Peer::start(move |_, stream| {
        let works = asked.fetch_add(1, SeqCst) % 2 == 0 || good.load(SeqCst);
        respond(stream, if works { "200 OK" } else { "500 Internal Server Error" }, "", b"{}");
        Then::Next
    });
    let (idle, clock) = (Peer::answering("200 OK", "{}"), simulated());
    let backends = [("shaky", shaky.address, ""), ("idle", idle.address, "")];
    let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, IN_ORDER);
    clock.advance(Duration::from_secs(1));
    let mut client = Client::connect(proxy.address);
    // Ten answers are a rate; the books of the last one may be closed a moment after its answer is here.
    (0..12).for_each(|_| drop(ask(&mut client)));
    assert_eq!((&proxy.backend("shaky")["share"], &proxy.backend("shaky")["shut_for_ms"]), (&0.0.into(), &5_000.into()));
    assert!((10..=12).contains(&asked_of(&shaky)));
    (0..50).for_each(|_| assert_eq!(ask(&mut client).status, 200));
    assert_eq!(asked_of(&shaky), 0, "it is left alone");

    mended.store(true, SeqCst);
    clock.advance(Duration::from_secs(6));
    (0..100).for_each(|_| assert_eq!(ask(&mut client).status, 200));
    let share = asked_of(&shaky);
    assert!((5..=20).contains(&share), "{share} of 100 when it has just come back");
    clock.advance(Duration::from_secs(30));
    (0..20).for_each(|_| assert_eq!(ask(&mut client).status, 200));
    assert_eq!(asked_of(&shaky), 20, "it is all the way back");
}

#[test]
fn who_comes_back_is_there_when_the_other_one_dies() {
    let mended = Arc::new(AtomicBool::new(false));
    let good = Arc::clone(&mended);
    let back = Peer::start(move |_, stream| {
        let status = if good.load(SeqCst) { "200 OK" } else { "500 Internal Server Error" };
        respond(stream, status, "", b"{}");
        Then::Next
    });
    let dying = Arc::new(AtomicBool::new(false));
    let dead = Arc::clone(&dying);
    let dies = Peer::start(move |_, stream| {
        let refuses = dead.load(SeqCst);
        respond(stream, if refuses { "503 Service Unavailable" } else { "200 OK" }, "retry-after: 0\r\n", b"{}");
        Then::Next
    });
    let clock = simulated();
    let backends = [("back", back.address, ""), ("dies", dies.address, "")];
    let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, IN_ORDER);
    clock.advance(Duration::from_secs(1));
    let mut client = Client::connect(proxy.address);
    (0..3).for_each(|_| assert_eq!(ask(&mut client).status, 500));
    (0..10).for_each(|_| assert_eq!(ask(&mut client).status, 200, "the other one is there"));
    mended.store(true, SeqCst);
    dying.store(true, SeqCst);
    clock.advance(Duration::from_secs(5));
    asked_of(&back);
    // Nine of ten turns are the other one's. It refuses, and the budget of a quiet proxy lets ten of them go on.
    (0..11).for_each(|_| assert_eq!(ask(&mut client).status, 200));
    assert_eq!(asked_of(&back), 11);
    assert!(proxy.backend("back")["share"].as_f64().unwrap() < 0.2, "it was its turn only now and then");
}

#[test]
fn no_more_than_half_are_ejected_and_the_last_one_never() {
    let failing = || always("500 Internal Server Error", "");
    for (names, most) in [(&["a"][..], 0), (&["a", "b"], 1), (&["a", "b", "c", "d"], 2)] {
        let peers: Vec<Peer> = names.iter().map(|_| failing()).collect();
        let backends: Vec<_> = names.iter().zip(&peers).map(|(name, peer)| (*name, peer.address, "")).collect();
        let clock = simulated();
        let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, IN_ORDER);
        clock.advance(Duration::from_secs(1));
        let mut client = Client::connect(proxy.address);
        for _ in 0..100 {
            assert_eq!(ask(&mut client).status, 500, "somebody is always asked");
        }
        let ejected = names.iter().filter(|name| !proxy.backend(name)["shut_for_ms"].is_null()).count();
        assert_eq!(ejected, most, "of {names:?}");
        assert_eq!(peers.iter().map(asked_of).sum::<usize>(), 100);
        assert!(proxy.backend("a")["share"].is_null() || names.len() > 1, "the only one is not even restrained");
    }
}
