//! What a backend is told of where a request comes from, and what the client is told of where its answer does.

use std::net::SocketAddr;

use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const SAID: &str = "x-forwarded-for: 198.51.100.1\r\nx-forwarded-for: 198.51.100.2\r\nx-forwarded-proto: https\r\n\
    x-forwarded-host: outer.example\r\nforwarded: for=198.51.100.1\r\nx-real-ip: 198.51.100.1\r\nvia: 1.1 inner.example\r\n";

/// Two backends in the order of the file, of which the second is told; the listener trusts `trusted`.
fn proxy(hidden: SocketAddr, told: SocketAddr, trusted: &str) -> Harness {
    Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0, trusted_proxies: [{trusted}] }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}
backends:
  - {{ name: hidden, url: 'http://{hidden}', region: aws/eu-north-1 }}
  - {{ name: told, url: 'http://{told}', region: aws/eu-north-1, forward_client: true }}
routes:
  - {{ name: both, match: {{ path: /both }}, backends: [hidden, told], policy: in_order }}
  - {{ name: told, match: {{ path: /told }}, backends: [told, hidden], policy: in_order }}
policies:
  - {{ name: in_order, objective: listed_order }}
"
        )
    })
}

fn ask(proxy: &Harness, path: &str, fields: &str) -> super::support::Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, fields, r#"{"model":"m"}"#);
    client.answer()
}

#[test]
fn who_the_client_is_reaches_only_a_backend_that_is_to_know_it() {
    let (hidden, told) = (Peer::answering("503 Service Unavailable", "{}"), Peer::answering("200 OK", OK));
    let proxy = proxy(hidden.address, told.address, "");
    for path in ["/both/chat/completions", "/told/files"] {
        assert_eq!(ask(&proxy, path, SAID).status, 200, "{path}");
        let seen = told.next();
        assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"), "{path}: not what anybody may write");
        assert_eq!((seen.field("x-forwarded-proto"), seen.field("x-forwarded-host")), (Some("http"), Some("windward.test")));
        assert!(!seen.head.contains("198.51.100") && !seen.head.contains("example"), "{}", seen.head);
    }
    let seen = hidden.next();
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert!(!seen.head.contains("198.51.100") && !seen.head.contains("127.0.0.1\r\n"), "{}", seen.head);
}

#[test]
fn the_word_of_a_trusted_proxy_is_kept_and_added_to() {
    let (hidden, told) = (Peer::answering("200 OK", OK), Peer::answering("503 Service Unavailable", "{}"));
    let proxy = proxy(hidden.address, told.address, "10.0.0.0/8, 127.0.0.0/8");
    assert_eq!(ask(&proxy, "/told/chat/completions", SAID).status, 200);
    let seen = told.next();
    assert_eq!(seen.field("x-forwarded-for"), Some("198.51.100.1, 198.51.100.2, 127.0.0.1"));
    assert_eq!((seen.field("x-forwarded-proto"), seen.field("x-forwarded-host")), (Some("https"), Some("outer.example")));
    let seen = hidden.next();
    assert!(!seen.head.contains("x-forwarded"), "what the one before was told is taken back: {}", seen.head);
}

#[test]
fn a_message_says_through_whom_it_came() {
    let peer = Peer::start(|_, stream| {
        super::support::peer::respond(stream, "200 OK", "via: 1.1 edge.example\r\n", OK.as_bytes());
        super::support::peer::Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for path in ["/v1/chat/completions", "/v1/files"] {
        let answer = ask(&proxy, path, SAID);
        assert_eq!(answer.fields("via"), ["1.1 edge.example", "1.1 windward"], "{path}");
        let seen = peer.next();
        let [through] = seen.fields("via")[..] else { panic!("{}", seen.head) };
        assert!(
            through.starts_with("1.1 windward-") && !through.contains("inner"),
            "{path}: the client's own network stays its own"
        );
    }
}

#[test]
fn a_trace_goes_on_or_begins_with_the_record_s_id() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    for path in ["/v1/chat/completions", "/v1/files"] {
        ask(&proxy, path, &format!("traceparent: {given}\r\ntracestate: a=1\r\nx-request-id: mine\r\n"));
        let seen = peer.next();
        assert_eq!((seen.field("traceparent"), seen.field("tracestate")), (Some(given), Some("a=1")), "{path}");
        assert_eq!(seen.field("x-request-id"), Some("mine"));
        proxy.record();

        let answer = ask(&proxy, path, "traceparent: 00-no-trace\r\ntracestate: a=1\r\n");
        let (seen, record) = (peer.next(), proxy.record());
        let id = record["id"].as_str().unwrap();
        assert_eq!((seen.field("x-request-id"), answer.field("x-request-id")), (Some(id), Some(id)));
        let trace = seen.field("traceparent").unwrap();
        assert!(trace.starts_with("00-") && trace.ends_with(&format!("-{id}-01")) && trace.len() == given.len(), "{trace}");
        assert_eq!(seen.field("tracestate"), None);
    }
}
