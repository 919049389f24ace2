//! Keys of the gateway's own: who comes in, what each key opens, and that none of them, nor any other secret, gets out again.

use std::net::SocketAddr;

use super::support::peer::{Then, respond};
use super::support::{Answer, Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m"}"#;
const BLUE: &str = "sk-blue-0123456789abcdef";
const RED: &str = "sk-red-0123456789abcdef";
/// `printf %s sk-blue-0123456789abcdef | sha256sum`
const BLUE_SHA256: &str = "37d3be9b9a1c7fd180eda63ac5feb4dc65370ffe40b0d0010241b8dff85d6a31";

/// One backend, a route `chat` at `/v1`, and keys for blue and red.
fn guarded(peer: SocketAddr) -> Harness {
    Harness::with(&keys(), &[("a", peer, "auth: { bearer: backend-key }")], "")
}

fn keys() -> String {
    format!("keys:\n  - {{ name: blue, sha256: {BLUE_SHA256} }}\n  - {{ name: red, secret: {RED} }}")
}

fn ask(proxy: &Harness, fields: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", fields, BODY);
    client.answer()
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

#[test]
fn a_key_comes_in_by_every_way_of_an_official_client_and_goes_nowhere() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = guarded(peer.address);
    let ways = [
        ("blue", bearer(BLUE)),
        ("blue", format!("authorization: bearer {BLUE}\r\n")),
        ("red", format!("x-api-key: {RED}\r\n")),
        ("red", format!("api-key: {RED}\r\n")),
        ("blue", format!("authorization: Bearer placeholder\r\napi-key: {BLUE}\r\n")),
    ];
    for (name, fields) in ways {
        assert_eq!(ask(&proxy, &fields).status, 200, "{fields}");
        assert_eq!(proxy.record()["key"], name, "{fields}");
        let seen = peer.next();
        assert_eq!(seen.field("authorization"), Some("Bearer backend-key"));
        assert!(!seen.head.contains("sk-") && !seen.head.contains("placeholder"), "{}", seen.head);
    }
}

#[test]
fn who_has_no_key_is_turned_away_and_nobody_hears_of_it() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = guarded(peer.address);
    for (fields, code) in [
        (String::new(), "missing_api_key"),
        ("cookie: key=sk\r\n".to_owned(), "missing_api_key"),
        (bearer("sk-wrong"), "invalid_api_key"),
        (bearer(&BLUE[1..]), "invalid_api_key"),
        (bearer(BLUE_SHA256), "invalid_api_key"),
        (format!("x-api-key: {BLUE}x\r\n"), "invalid_api_key"),
    ] {
        let answer = ask(&proxy, &fields);
        assert_eq!((answer.status, answer.field("www-authenticate")), (401, Some("Bearer")), "{fields}");
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["type"]), (&code.into(), &"authentication_error".into()), "{fields}");
        assert!(answer.field("x-request-id").is_some());
        let record = proxy.record();
        assert_eq!(
            (&record["http.response.status_code"], &record["error"], &record["ended"]),
            (&401.into(), &code.into(), &"rejected".into())
        );
        assert!(record.get("key").is_none() && record["attempts"] == serde_json::json!([]), "{record}");
    }
    let mut client = Client::connect(proxy.address);
    for path in ["/v1/models", "/v1/files", "/elsewhere"] {
        client.get(path, "");
        assert_eq!(client.answer().status, 401, "{path}: neither models nor routes are told");
    }
    let preflight =
        "origin: https://app.example\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization";
    client.send(format!("OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: w\r\n{preflight}\r\n\r\n").as_bytes());
    assert_eq!(client.answer().status, 401, "a browser asks without a key, and is no exception");
    assert_eq!(peer.connections(), 0);
    let metrics = proxy.ask_admin("/metrics").text();
    for (reason, count) in [("missing", 6), ("wrong", 4), ("other_route", 0)] {
        assert!(metrics.contains(&format!("windward_keys_refused_total{{reason=\"{reason}\"}} {count}\n")), "{metrics}");
    }
}

#[test]
fn a_key_is_looked_at_before_the_body_is_sent() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = guarded(peer.address);
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n\r\n");
    let said = client.read_to_end();
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
}

#[test]
fn a_connection_outlives_the_refusal_of_a_key() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = guarded(peer.address);
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", &bearer("sk-wrong"), BODY);
    assert_eq!(client.answer().status, 401);
    client.post("/v1/chat/completions", &bearer(BLUE), BODY);
    assert_eq!(client.answer().status, 200);
}

/// Two routes with a policy of their own, and keys that are narrowed.
fn narrowed(here: SocketAddr, there: SocketAddr) -> Harness {
    Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nlog: {{ access: {log} }}
backends:
  - {{ name: here, url: 'http://{here}', region: aws/eu-north-1 }}
  - {{ name: there, url: 'http://{there}', region: aws/us-west-2 }}
routes:
  - {{ name: one, match: {{ path: /one }}, backends: [there, here], policy: in_order }}
  - {{ name: two, match: {{ path: /two }}, backends: [there], policy: in_order }}
policies:
  - {{ name: in_order, objective: listed_order }}
  - {{ name: european, objective: listed_order, residency: [eu] }}
  - {{ name: american, objective: listed_order, residency: [us] }}
keys:
  - {{ name: free, secret: {BLUE} }}
  - {{ name: bound, secret: {RED}, routes: [one], policy: european }}
  - {{ name: shut, secret: sk-shut-0123456789abcdef, policy: european }}
"
        )
    })
}

fn post(proxy: &Harness, path: &str, key: &str, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, &bearer(key), body);
    client.answer()
}

#[test]
fn a_key_opens_its_routes_and_no_others() {
    let (here, there) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = narrowed(here.address, there.address);
    assert_eq!(post(&proxy, "/two/chat/completions", BLUE, BODY).status, 200);
    there.next();
    proxy.record();
    let refused = post(&proxy, "/two/chat/completions", RED, BODY);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &"key_not_allowed".into()));
    let record = proxy.record();
    assert_eq!((&record["key"], &record["route"]), (&"bound".into(), &"two".into()));
    assert!(!there.saw_more() && here.connections() == 0);
}

#[test]
fn a_key_brings_its_policy_and_narrows_where_it_is_served() {
    let (here, there) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = narrowed(here.address, there.address);
    assert_eq!(post(&proxy, "/one/chat/completions", BLUE, BODY).field("x-windward-backend"), Some("there"));
    assert_eq!(proxy.record()["policy"], "in_order");
    assert_eq!(post(&proxy, "/one/chat/completions", RED, BODY).field("x-windward-backend"), Some("here"));
    let record = proxy.record();
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    let verdicts = candidates.iter().map(|candidate| candidate["verdict"].as_str().unwrap());
    assert_eq!(record["policy"], "european");
    assert_eq!(verdicts.collect::<Vec<_>>(), ["outside_residency", "chosen"]);
    there.next();
    // Neither is a call that lives at home, nor one that names a stored thing, served where its key does not go.
    for (path, body) in [
        ("/one/files", "{}"),
        ("/one/responses", r#"{"model":"m","previous_response_id":"resp_1"}"#),
        ("/two/chat/completions", BODY),
    ] {
        let refused = post(&proxy, path, "sk-shut-0123456789abcdef", body);
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &"no_candidate".into()), "{path}");
    }
    assert!(!there.saw_more());
}

#[test]
fn keys_come_and_go_with_the_file() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = guarded(peer.address);
    // On one connection: what counts is the request.
    let mut client = Client::connect(proxy.address);
    let mut status = |key: &str| {
        client.post("/v1/chat/completions", &bearer(key), BODY);
        client.answer().status
    };
    assert_eq!((status(BLUE), status("sk-green-0123456789abcdef")), (200, 401));
    proxy.rewrite(|text| {
        text.replace(BLUE_SHA256, "26abe1543826aa0d0d4c3eda8a6b3a8f9d681677eac75549c7fdf0749d902ef8").replace("blue", "green")
    });
    proxy.wait_for_status("the second generation", |status| status["generation"] == 2);
    assert_eq!((status(BLUE), status("sk-green-0123456789abcdef"), status(RED)), (401, 200, 200));
    // A slip does not open the gateway.
    proxy.rewrite(|text| text.replace("  - { name: green", "#  - { name: green").replace("  - { name: red", "#  - { name: red"));
    proxy.wait_for_status("the problem", |status| status["last_reload"]["ok"] == false);
    assert_eq!((status("sk-none"), status(RED)), (401, 200));
}

/// Eighteen ways to name a destination in a request: gateways have followed each of them.
const DESTINATIONS: [(&str, &str); 18] = [
    ("host: {evil}\r\n", ""),
    ("x-forwarded-host: {evil}\r\n", ""),
    ("forwarded: host={evil};proto=http\r\n", ""),
    ("x-original-host: {evil}\r\n", ""),
    ("x-host: {evil}\r\n", ""),
    ("x-original-url: http://{evil}/v1/chat/completions\r\n", ""),
    ("x-rewrite-url: http://{evil}/v1/chat/completions\r\n", ""),
    ("x-base-url: http://{evil}/v1\r\n", ""),
    ("x-portkey-custom-host: http://{evil}/v1\r\n", ""),
    ("x-portkey-config: {\"custom_host\":\"http://{evil}/v1\"}\r\n", ""),
    ("helicone-target-url: http://{evil}\r\n", ""),
    ("helicone-openai-api-base: http://{evil}/v1\r\n", ""),
    ("", r#","api_base":"http://{evil}/v1""#),
    ("", r#","base_url":"http://{evil}/v1""#),
    ("", r#","url":"http://{evil}/v1","endpoint":"http://{evil}/v1""#),
    ("", r#","custom_llm_provider":"openai","litellm_params":{"api_base":"http://{evil}/v1"}"#),
    ("", r#","user_config":{"model_list":[{"litellm_params":{"api_base":"http://{evil}/v1"}}]}"#),
    ("", r#","extra_body":{"base_url":"http://{evil}/v1"},"proxy":"http://{evil}""#),
];

#[test]
fn no_field_of_a_request_names_a_destination() {
    let (peer, evil) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = guarded(peer.address);
    let there = evil.address.to_string();
    for (fields, members) in DESTINATIONS {
        let body = format!(r#"{{"model":"m"{}}}"#, members.replace("{evil}", &there));
        let (host, fields) = if fields.starts_with("host:") { (fields, "") } else { ("host: windward.test\r\n", fields) };
        let head = format!("{host}{fields}{}content-length: {}\r\n\r\n{body}", bearer(BLUE), body.len());
        let mut client = Client::connect(proxy.address);
        client.send(format!("POST /v1/chat/completions HTTP/1.1\r\n{}", head.replace("{evil}", &there)).as_bytes());
        assert_eq!(client.answer().status, 200, "{fields}{members}");
        assert_eq!(peer.next().field("host"), Some(&*peer.address.to_string()), "{fields}{members}");
    }
    for target in [
        format!("http://{there}/v1/chat/completions"),
        format!("//{there}/v1/chat/completions"),
        format!("/v1/@{there}/x"),
        there.clone(),
    ] {
        for method in ["POST", "GET", "CONNECT"] {
            let mut client = Client::connect(proxy.address);
            client.send(
                format!("{method} {target} HTTP/1.1\r\nhost: {there}\r\n{}content-length: 13\r\n\r\n{BODY}", bearer(BLUE))
                    .as_bytes(),
            );
            client.try_answer();
        }
    }
    assert_eq!(evil.connections(), 0);
}

#[test]
fn a_redirect_is_the_clients_to_follow() {
    let evil = Peer::answering("200 OK", OK);
    let there = evil.address;
    let peer = Peer::start(move |_, stream| {
        respond(stream, "307 Temporary Redirect", &format!("location: http://{there}/v1/chat/completions\r\n"), b"");
        Then::Next
    });
    let proxy = guarded(peer.address);
    let answer = ask(&proxy, &bearer(BLUE));
    assert_eq!((answer.status, answer.field("location")), (307, Some(&*format!("http://{there}/v1/chat/completions"))));
    assert_eq!(evil.connections(), 0);
}
