//! What no backend should ever see: each gets an error in the client's dialect with a stable code, and nothing is forwarded.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windward::clock::{Clock, SystemClock};
use windward::config::{Env, Files, LogTarget};
use windward::proxy::{Parts, Proxy};
use windward::state::{Snapshot, State};
use windward::telemetry::log::{AccessLog, Identity};
use windward::telemetry::metrics::Metrics;
use windward::upstream::{Names, Upstreams, system_roots, tcp};

use super::support::peer::{Then, wait_for_close};
use super::support::{Client, Harness, Peer};

/// Request line and fields, body, status, code.
const CASES: &[(&str, &str, u16, &str)] = &[
    ("POST /v1/chat/completions", "{\"model\":\"m\"", 400, "malformed_body"),
    ("POST /v1/chat/completions", "[1,2]", 400, "malformed_body"),
    ("POST /v1/chat/completions", "", 400, "malformed_body"),
    ("POST /v1/chat/completions", "{\"model\":\"m\"} trailing", 400, "malformed_body"),
    ("POST /v1/chat/completions", "{\"model\":7}", 400, "malformed_body"),
    ("POST /v1/chat/completions", "{\"model\":\"m\",\"model\":\"n\"}", 400, "malformed_body"),
    ("POST /v1/chat/completions", "{\"messages\":[]}", 400, "model_missing"),
    ("POST /v1/chat/completions", "{\"model\":\"unheard-of\"}", 404, "model_not_found"),
    ("POST /elsewhere", "{\"model\":\"m\"}", 404, "route_not_found"),
    ("POST /v12/chat/completions", "{\"model\":\"m\"}", 404, "route_not_found"),
    ("PUT /v1/chat/completions", "{\"model\":\"m\"}", 405, "method_not_allowed"),
    ("GET /v1/embeddings", "", 405, "method_not_allowed"),
    ("POST /v1/../admin", "{}", 400, "bad_target"),
    ("POST /v1/%2e%2e/admin", "{}", 400, "bad_target"),
];

/// Where there are no files.
struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

#[test]
fn every_fault_has_its_code_and_goes_nowhere() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "models: [m]")], "");
    for (line, body, status, code) in CASES {
        let mut client = Client::connect(proxy.address);
        client.send(format!("{line} HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{line} {body}");
        assert_eq!(answer.json()["error"]["code"], *code, "{line} {body}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().len() > 10);
        assert!(answer.field("x-request-id").is_some());
    }
    assert!(!peer.saw_more(), "nothing reached the backend");
}

#[test]
fn what_is_no_request_at_all_is_the_fault_of_who_sent_it() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for (sent, status, code) in [
        ("hello\r\n\r\n", 400, "bad_request_line"),
        ("HELLO\r\n\r\n", 400, "bad_request_line"),
        ("brew /v1/files HTTP/1.1\r\nhost: w\r\n\r\n", 501, "unknown_method"),
    ] {
        let mut client = Client::connect(proxy.address);
        client.send(sent.as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{sent}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::with("limits: { body: 1KiB }", &[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: 5000\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (413, Some("body_too_large")));
    assert_eq!(answer.field("connection"), Some("close"));

    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n800\r\n");
    client.send(&[b' '; 0x800]);
    assert_eq!(client.answer().status, 413);
    assert!(!peer.saw_more());
}

#[test]
fn what_a_head_is_refused_for_is_known_without_its_body_and_asking_leaves_no_trace() {
    let backend = "backends:\n- { name: a, url: 'http://127.0.0.1:9', region: aws/eu-north-1 }\n";
    let keys = "keys:\n- { name: k, secret: a-long-enough-secret }\n";
    let text = format!("{backend}{keys}routes: [{{ name: r, backends: [a] }}]\n");
    let plan = windward::config::load("c", &text, &Env::default(), &Nothing).map_err(|errors| errors.to_string()).unwrap().plan;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let folder = tempfile::tempdir().unwrap();
    let (log, _writer) = AccessLog::start(&LogTarget::File(folder.path().join("log")), Identity::new("asked", 0)).unwrap();
    let (tasks, metrics) = (TaskTracker::new(), Arc::new(Metrics::default()));
    let proxy = Proxy::new(Parts {
        state: Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic()))),
        upstreams: Upstreams::new(tcp(Names::of_this_system(), || Ok(())), system_roots, tasks.clone(), Arc::clone(&clock)),
        log: log.clone(),
        metrics: Arc::clone(&metrics),
        cut: CancellationToken::new(),
        run: 0,
        tasks,
        clock,
    });
    let good = ("authorization", "Bearer a-long-enough-secret");
    let chat = "/v1/chat/completions";
    for (method, path, fields, refused) in [
        ("POST", chat, &[good] as &[_], false),
        ("POST", "/v1/files", &[good], false),
        ("POST", chat, &[], true),
        ("POST", chat, &[("x-api-key", "wrong")], true),
        ("POST", "/elsewhere", &[good], true),
        ("POST", "/v1/../x", &[good], true),
        ("PUT", chat, &[good], true),
        ("TRACE", chat, &[good], true),
        ("POST", chat, &[good, ("content-encoding", "gzip")], true),
        ("POST", chat, &[good, ("x-windward-objective", "fame")], true),
    ] {
        let request = fields.iter().fold(http::Request::builder(), |request, (name, value)| request.header(*name, *value));
        let head = request.method(method).uri(path).header("host", "h").body(()).unwrap().into_parts().0.into();
        assert_eq!(proxy.refuses(&head), refused, "{method} {path} {fields:?}");
    }
    assert_eq!((metrics.in_flight.get(), metrics.keys_missing.get(), metrics.keys_wrong.get()), (0, 0, 0));
    assert_eq!(log.numbered(), 0);
}

#[test]
fn a_refusal_closes_the_connection_where_it_leaves_a_body_unread_and_keeps_it_elsewhere() {
    let peer = Peer::answering("200 OK", "{}");
    let gone = Peer::nobody();
    let proxy = Harness::start(&[("a", peer.address, "models: [m]")], "");
    let encoded = "content-encoding: gzip\r\n";
    for (line, fields, status) in
        [("POST /elsewhere", "", 404), ("PUT /v1/chat/completions", "", 405), ("POST /v1/chat/completions", encoded, 415)]
    {
        for (length, sent, expect, closes) in
            [(10, 10, "", false), (5_000_000, 10, "", true), (20, 10, "", true), (10, 0, "expect: 100-continue\r\n", true)]
        {
            let mut client = Client::connect(proxy.address);
            let head = format!("{line} HTTP/1.1\r\nhost: w\r\n{fields}{expect}content-length: {length}\r\n\r\n");
            client.send(&[head.as_bytes(), &vec![b' '; sent]].concat());
            let answer = client.answer();
            assert_eq!(answer.status, status, "{line}");
            let what = format!("{line} with {sent} of {length} bytes, {expect}");
            assert_eq!(answer.field("connection"), closes.then_some("close"), "{what}");
            if !closes {
                client.get("/v1/models", "");
                assert_eq!(client.answer().status, 200, "{what}");
            }
        }
    }
    let mut client = Client::connect(proxy.address);
    client.get("/v1/../x", "");
    assert_eq!(client.answer().field("connection"), Some("close"), "who writes such a target is not believed any further");
    // What went on to a backend that nobody reached is not known to be read.
    let proxy = Harness::start(&[("a", gone, "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 5000000\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (502, Some("close")));
    client.read_to_end();
    let mut client = Client::connect(proxy.address);
    client.get("/v1/files", "");
    assert_eq!(client.answer().field("connection"), None);
}

#[test]
fn a_refusal_without_a_place_closes_too() {
    let peer = Peer::start(|_, stream| {
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::with("limits: { in_flight: 1 }", &[("a", peer.address, "")], "");
    let mut first = Client::connect(proxy.address);
    first.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    peer.next();
    let mut second = Client::connect(proxy.address);
    second.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: 5000000\r\n\r\n{");
    let answer = second.answer();
    assert_eq!((answer.status, answer.field("connection")), (503, Some("close")));
}

#[test]
fn a_client_that_leaves_within_its_body_is_gone_and_was_not_refused() {
    let peer = Peer::start(|_, _| Then::Next);
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for (path, framing) in [
        ("chat/completions", "content-length: 100\r\n\r\n{\"model\""),
        ("chat/completions", "transfer-encoding: chunked\r\n\r\n100\r\n{\"model\""),
        ("chat/completions", "transfer-encoding: chunked\r\n\r\n2\r\n{\"\r\n"),
        ("files", "content-length: 100\r\n\r\n{"),
    ] {
        let mut client = Client::connect(proxy.address);
        client.send(format!("POST /v1/{path} HTTP/1.1\r\nhost: w\r\n{framing}").as_bytes());
        drop(client);
        let record = proxy.record();
        assert_eq!((&record["ended"], record.get("error")), (&"client_gone".into(), None), "{path} {framing}");
        assert_eq!(record.get("http.response.status_code"), None);
    }
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n");
    assert_eq!(client.answer().status, 400);
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["error"]), (&"rejected".into(), &"body_broken".into()));
}

#[test]
fn an_encoded_body_is_refused_because_its_model_cannot_be_known() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "content-encoding: gzip\r\n", "{}");
    let answer = client.answer();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (415, Some("encoded_body")));
}

#[test]
fn a_head_that_is_no_http_gets_a_short_answer_and_the_next_client_is_served() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::with("limits: { head: 16KiB }", &[("a", peer.address, "")], "");
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n".to_vec(), "400"),
        ([b"GET /v1/x HTTP/1.1\r\nhost: w\r\nx: ".as_slice(), &vec![b'a'; 64 << 10], b"\r\n\r\n"].concat(), "431"),
    ] {
        let mut client = Client::connect(proxy.address);
        let _ = std::io::Write::write_all(&mut client.stream, &bytes);
        let answer = client.read_to_end();
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    assert_eq!(client.answer().status, 200);
}
