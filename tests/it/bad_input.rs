//! What no backend should ever see: each gets an error in the client's dialect with a stable code, and nothing is forwarded.

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
