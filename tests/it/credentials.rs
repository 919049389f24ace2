//! Whose credential goes where: each backend its own, and none of a client's, whatever field or parameter it stands in.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::Value;

use super::process::{serve_by, windward};
use super::support::h2::{DATA, END_HEADERS, END_STREAM, End, H2Client, HEADERS, block, frame};
use super::support::peer::{Seen, Then, respond};
use super::support::{Answer, Client, Harness, Peer, patiently};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m"}"#;
/// What a client sends that is nobody's business, beside what is.
const FIELDS: &str = "x-tenant-pass: CLIENT\r\nauthorization: Bearer CLIENT\r\nx-forwarded-access-token: CLIENT\r\n\
    x-auth-request-access-token: CLIENT\r\nx-amzn-oidc-data: CLIENT\r\nx-pomerium-jwt-assertion: CLIENT\r\n\
    x-authentik-jwt: CLIENT\r\ncf-access-client-secret: CLIENT\r\nx-goog-iap-jwt-assertion: CLIENT\r\n\
    x-ms-token-aad-access-token: CLIENT\r\nx-acme-api-key: CLIENT\r\ncookie: s=CLIENT\r\nopenai-organization: org\r\n\
    x-api-key: CLIENT\r\napi-key: CLIENT\r\nx-goog-api-key: CLIENT\r\nproxy-authorization: Basic CLIENT\r\n\
    x-amz-security-token: CLIENT\r\nx-amz-date: CLIENT\r\nx-amz-content-sha256: CLIENT\r\nx-amz-target: CLIENT\r\n";

fn ask(proxy: &Harness, path: &str, fields: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, fields, BODY);
    client.answer()
}

fn bare(seen: &Seen) {
    assert!(!seen.head.contains("CLIENT"), "{}", seen.head);
    assert_eq!(seen.field("openai-organization"), Some("org"), "what is no credential passes");
}

#[test]
fn a_field_that_holds_one_backends_credential_passes_to_no_backend() {
    let peers = [Peer::answering("503 Busy", "{}"), Peer::answering("503 Busy", "{}"), Peer::answering("200 OK", OK)];
    let [none, passing, own] = &peers;
    let backends = [
        ("none", none.address, ""),
        ("passing", passing.address, "auth: pass_through"),
        ("own", own.address, "auth: { header: { name: x-tenant-pass, value: OWN } }"),
    ];
    let proxy = Harness::start(&backends, "policy: in_order");
    assert_eq!(ask(&proxy, "/v1/chat/completions", FIELDS).status, 200);
    bare(&none.next());
    let seen = passing.next();
    assert_eq!(seen.field("authorization"), Some("Bearer CLIENT"), "it asked for it");
    assert_eq!(seen.head.matches("CLIENT").count(), 1, "and for nothing else: {}", seen.head);
    let seen = own.next();
    assert_eq!((seen.fields("x-tenant-pass"), seen.field("authorization")), (vec!["OWN"], None));
    bare(&seen);
    // What streams to the route's home has to pass the same way.
    assert_eq!(ask(&proxy, "/v1/files", FIELDS).status, 503);
    bare(&none.next());
}

#[test]
fn a_credential_in_a_query_passes_only_where_it_is_asked_for() {
    let query = "?api-version=2&api_key=CLIENT&a=%41&%6Bey=CLIENT&X-Amz-Signature=CLIENT&b=";
    for (auth, url, passed) in [
        ("auth: { bearer: OWN }", "base", "?api-version=2&a=%41&b="),
        ("", "v1", "?api-version=2&a=%41&b="),
        ("auth: pass_through", "base", query),
        ("auth: pass_through", "v1", query),
    ] {
        let peer = Peer::answering("200 OK", OK);
        let proxy = Harness::of(|log| {
            let text = super::support::text(log, "", &[("a", peer.address, auth)], "");
            text.replace("/base", &format!("/{url}"))
        });
        for path in ["chat/completions", "files"] {
            ask(&proxy, &format!("/v1/{path}{query}"), "");
            assert_eq!(peer.next().target(), format!("/{url}/{path}{passed}"));
            ask(&proxy, &format!("/v1/{path}?key=CLIENT"), "");
            let rest = if auth == "auth: pass_through" { "?key=CLIENT" } else { "" };
            assert_eq!(peer.next().target(), format!("/{url}/{path}{rest}"));
        }
    }
}

#[test]
fn a_request_that_comes_back_is_refused_at_once() {
    let nobody = Peer::nobody();
    let proxy = Harness::start(&[("self", nobody, "")], "");
    let itself = format!("http://{}/v1", proxy.address);
    proxy.rewrite(|text| text.replace(&format!("http://{nobody}/base"), &itself));
    proxy.wait_for_status("the new plan", |status| status["generation"] == 2);
    for path in ["/v1/chat/completions", "/v1/files"] {
        let answer = ask(&proxy, path, "");
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (508, Some("loop_detected")), "{path}");
        let errors = [proxy.record(), proxy.record()].map(|record| record["error"].clone());
        assert!(errors.contains(&"loop_detected".into()) && errors.iter().any(Value::is_null), "{errors:?}");
    }
    let requests = proxy.ask_admin("/metrics").text();
    assert!(requests.contains(r#"windward_requests_total{code_class="5xx"} 4"#), "each came round once: {requests}");
}

const NO: &str = r#"{"error":{"message":"Incorrect API key provided: sk-OWN","code":"invalid_api_key"}}"#;

#[test]
fn a_backend_that_refuses_our_credential_is_passed_over_and_left_alone() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let (strict, good) = (Peer::answering(status, NO), Peer::answering("200 OK", OK));
        let proxy = Harness::start(
            &[("strict", strict.address, "auth: { bearer: OWN }"), ("good", good.address, "")],
            "policy: in_order",
        );
        assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, 200);
        let attempt = proxy.record()["attempts"][0].clone();
        assert_eq!((&attempt["outcome"], attempt["status"].as_u64()), (&"refused".into(), status[..3].parse().ok()));
        (0..3).for_each(|_| assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, 200));
        // Who does not know the key serves nobody. Who forbids something may have been asked for it by the client, who must not be able
        // to shut a backend for the others.
        let shut = status.starts_with("401");
        let (refused, failures) = if shut { (3, 3) } else { (4, 0) };
        let strict = proxy.backend("strict");
        assert_eq!((&strict["credentials_refused"], &strict["failures"]), (&refused.into(), &failures.into()), "{strict}");
        assert_eq!(strict["shut_for_ms"].is_u64(), shut, "{strict}");
        let metrics = proxy.ask_admin("/metrics").text();
        let wanted = format!(r#"windward_backend_credentials_refused_total{{backend="strict"}} {refused}"#);
        assert!(metrics.contains(&wanted), "{metrics}");
    }
}

#[test]
fn a_client_is_never_told_that_the_gateways_credential_is_wrong_as_if_it_were_its_own() {
    for (status, auth) in [("401 Unauthorized", "auth: { bearer: OWN }"), ("403 Forbidden", ""), ("401 Unauthorized", "")] {
        let peers = [Peer::answering(status, NO), Peer::answering(status, NO)];
        let proxy = Harness::start(&[("one", peers[0].address, auth), ("two", peers[1].address, auth)], "policy: in_order");
        for path in ["/v1/chat/completions", "/v1/files"] {
            let answer = ask(&proxy, path, "authorization: Bearer CLIENT\r\n");
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].as_str()),
                (502, Some("backend_credential_refused")),
                "{path}"
            );
            assert!(!answer.text().contains("sk-OWN"), "what the supplier says of its key is not the client's");
            let record = proxy.record();
            assert_eq!((&record["error"], &record["ended"]), (&"backend_credential_refused".into(), &"rejected".into()));
            assert!(record["emissions"]["grams"].as_f64().is_none_or(|grams| grams <= 0.0), "nothing ran: {record}");
        }
    }
}

#[test]
fn a_clients_own_credential_that_is_refused_is_the_clients_matter() {
    let (strict, good) = (Peer::answering("401 Unauthorized", NO), Peer::answering("200 OK", OK));
    let proxy =
        Harness::start(&[("strict", strict.address, "auth: pass_through"), ("good", good.address, "")], "policy: in_order");
    for path in ["/v1/chat/completions", "/v1/files"].repeat(3) {
        let answer = ask(&proxy, path, "authorization: Bearer CLIENT\r\n");
        assert_eq!((answer.status, answer.text().as_str()), (401, NO), "{path}");
    }
    assert!(!good.saw_more());
    let strict = proxy.backend("strict");
    assert_eq!(
        (&strict["credentials_refused"], &strict["failures"], &strict["shut_for_ms"]),
        (&0.into(), &0.into(), &Value::Null)
    );
}

#[test]
fn trailers_of_an_upload_bring_no_credential() {
    const NAMED: &str = "x-sum, x-acme-api-key, x-tenant-pass, authorization";
    let by_http1 = |address: SocketAddr| {
        let mut client = Client::connect(address);
        client.send(
            format!("POST /v1/files HTTP/1.1\r\nhost: w\r\ntrailer: {NAMED}\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
        );
        client.send(b"2\r\nhi\r\n0\r\nx-sum: 7\r\nx-acme-api-key: CLIENT\r\nx-tenant-pass: CLIENT\r\n\r\n");
        Box::new(move || client.answer().status) as Box<dyn FnOnce() -> u16>
    };
    // Over HTTP/2 nobody refuses those that may not come so late.
    let by_http2 = |address: SocketAddr| {
        let head =
            block(&[(":method", "POST"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "w"), ("trailer", NAMED)]);
        let late = ["x-sum", "content-length", "x-acme-api-key", "x-tenant-pass", "authorization", "cookie", "host"];
        let late = late.map(|name| (name, if matches!(name, "x-sum" | "content-length") { "7" } else { "CLIENT" }));
        let mut client = H2Client::connect(address);
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, 0, 1, b"hi"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&late)),
        ];
        assert!(client.send(&frames.concat()));
        Box::new(move || u16::from(client.end(1) == End::Answered(200)) * 200) as Box<dyn FnOnce() -> u16>
    };
    let ways: [&dyn Fn(SocketAddr) -> Box<dyn FnOnce() -> u16>; 2] = [&by_http1, &by_http2];
    for way in ways {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let backends = [
            ("a", listener.local_addr().unwrap(), ""),
            ("b", Peer::nobody(), "auth: { header: { name: x-tenant-pass, value: OWN } }"),
        ];
        let proxy = Harness::start(&backends, "home: a");
        let answered = way(proxy.address);
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        while !(seen.ends_with(b"\r\n\r\n") && String::from_utf8_lossy(&seen).contains("\r\n0\r\n")) {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
            seen.extend(byte);
        }
        respond(&mut stream, "200 OK", "", b"{}");
        assert_eq!(answered(), 200);
        let seen = String::from_utf8(seen).unwrap().to_ascii_lowercase();
        assert!(seen.ends_with("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n"), "{seen}");
    }
}

/// One backend, with that credential.
fn renewed(peer: &Peer, auth: &str) -> Harness {
    Harness::start(&[("own", peer.address, auth)], "")
}

#[test]
fn a_token_comes_from_a_program_or_a_file_and_is_renewed_beside_the_traffic() {
    let peer = Peer::answering("200 OK", OK);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    for (auth, field, value) in [
        (format!("auth: {{ bearer: {{ file: {path} }} }}"), "authorization", "Bearer FIRST"),
        (format!("auth: {{ bearer: {{ command: [cat, {path}] }} }}"), "authorization", "Bearer FIRST"),
        (format!("auth: {{ header: {{ name: api-key, value: {{ command: [cat, {path}] }} }} }}"), "api-key", "FIRST"),
    ] {
        std::fs::write(file.path(), "FIRST\n").unwrap();
        let proxy = renewed(&peer, &auth);
        for path in ["/v1/chat/completions", "/v1/files"] {
            assert_eq!(
                ask(&proxy, path, "authorization: Bearer CLIENT\r\napi-key: CLIENT\r\nopenai-organization: org\r\n").status,
                200
            );
            let seen = peer.next();
            assert_eq!(seen.fields(field), [value], "{auth} {path}");
            bare(&seen);
        }
        let own = proxy.backend("own");
        assert_eq!((&own["token"]["valid"], &own["token"]["error"]), (&true.into(), &Value::Null), "{own}");
        if auth.contains("command") {
            continue;
        }
        std::fs::write(file.path(), "SECOND\n").unwrap();
        // It is looked at every few seconds.
        patiently("the token that was written later", || {
            assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, 200);
            (peer.next().field("authorization") == Some("Bearer SECOND")).then_some(())
        });
    }
}

#[test]
fn a_backend_without_a_token_is_asked_last_and_says_why() {
    let (without, with) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let never = "auth: { bearer: { command: [sh, -c, \"echo SECRET; exit 3\"] } }";
    let proxy = Harness::start(&[("without", without.address, never), ("with", with.address, "")], "policy: in_order");
    assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, 200);
    assert_eq!(proxy.record()["backend"], "with");
    let token = proxy.backend("without")["token"].clone();
    assert_eq!((&token["valid"], &token["error"]), (&false.into(), &"it ended with exit status: 3".into()));
    let metrics = proxy.ask_admin("/metrics").text();
    for line in [r#"token_failures_total{backend="without"} 1"#, r#"token_valid{backend="without"} 0"#] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(!metrics.contains(r#"token_valid{backend="with"}"#), "its credential does not change");

    let alone = renewed(&without, never);
    for path in ["/v1/chat/completions", "/v1/files"] {
        let answer = ask(&alone, path, "");
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (502, Some("backend_token_missing")));
        assert_eq!(alone.record()["error"], "backend_token_missing");
    }
    assert!(!without.saw_more(), "nothing is sent without it");
}

#[test]
fn who_has_no_token_keeps_nobody_from_an_answer() {
    let never = "auth: { bearer: { command: [sh, -c, \"exit 3\"] } }";
    let without = Peer::answering("200 OK", OK);
    let busy = Peer::start(|_, stream| {
        respond(stream, "429 Too Many Requests", "retry-after: 60\r\n", b"{}");
        Then::Next
    });
    let proxy = Harness::start(&[("without", without.address, never), ("busy", busy.address, "")], "policy: in_order");
    let answer = ask(&proxy, "/v1/chat/completions", "");
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("60")), "who is busy says more");

    // The third breaks until it is ejected, and is well again then; the others ask to be left alone.
    let asked = AtomicU32::new(0);
    let ejected = Peer::start(move |_, stream| {
        let status = if asked.fetch_add(1, Relaxed) < 3 { "500 Broken" } else { "200 OK" };
        respond(stream, status, "", OK.as_bytes());
        Then::Next
    });
    let backends = [
        ("without", without.address, never),
        ("ejected", ejected.address, ""),
        ("one", busy.address, ""),
        ("two", busy.address, ""),
    ];
    let once = "  - { name: once, objective: listed_order, attempts: { max: 1 } }";
    let proxy = Harness::with(once, &backends, "policy: once");
    for status in [500, 500, 500, 429, 429] {
        assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, status);
    }
    let answer = ask(&proxy, "/v1/chat/completions", "");
    assert_eq!(
        (answer.status, answer.field("x-windward-backend")),
        (200, Some("ejected")),
        "it can be asked, and the first cannot"
    );
    assert!(!without.saw_more());
}

/// What a client is told: the failure of whom it was sent to, and not the want of whom it was not.
#[test]
fn who_could_not_be_asked_does_not_hide_who_failed() {
    let never = "auth: { bearer: { command: [sh, -c, \"exit 3\"] } }";
    let (cut, no) = (Peer::start(|_, _| Then::Close), Peer::answering("401 Unauthorized", NO));
    let failing = Peer::answering("500 Internal Server Error", "{}");
    let (busy, down) = (Peer::answering("429 Too Many Requests", "{}"), Peer::answering("503 Service Unavailable", "{}"));
    let nobody = Peer::nobody();
    for (first, second, more, told) in [
        (cut.address, nobody, never, (502, Some("bad_gateway"))),
        (cut.address, nobody, "", (502, Some("bad_gateway"))),
        (cut.address, no.address, "auth: { bearer: OWN }", (502, Some("bad_gateway"))),
        (cut.address, busy.address, "", (502, Some("bad_gateway"))),
        (cut.address, down.address, "", (502, Some("bad_gateway"))),
        (busy.address, cut.address, "", (502, Some("bad_gateway"))),
        (failing.address, busy.address, "", (502, Some("bad_gateway"))),
        (nobody, busy.address, "", (429, None)),
        (failing.address, nobody, never, (500, None)),
        (failing.address, nobody, "", (502, Some("bad_gateway"))),
        (nobody, nobody, never, (502, Some("backend_unreachable"))),
        (nobody, no.address, "auth: { bearer: OWN }", (502, Some("backend_credential_refused"))),
    ] {
        let proxy = Harness::start(&[("first", first, ""), ("second", second, more)], "policy: unsafe_in_order");
        // After three failures the first is as ejected as one without a token is.
        for nth in 0..if more == never { 5 } else { 1 } {
            let answer = ask(&proxy, "/v1/chat/completions", "");
            assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), told, "{nth} {more}");
            let attempts = proxy.record()["attempts"].as_array().unwrap().len();
            assert!(attempts == 1 || more != never, "nothing is spent on who cannot be asked");
        }
    }
}

#[test]
fn a_token_is_kept_when_it_is_only_asked_for_at_other_times() {
    let peer = Peer::answering("200 OK", OK);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "ONCE").unwrap();
    // It gives a token the first time and never again.
    let path = file.path().display();
    let auth = format!("auth: {{ bearer: {{ command: [sh, -c, \"cat {path} && true > {path}\"], every: 45m }} }}");
    let proxy = renewed(&peer, &auth);
    proxy.rewrite(|text| text.replace("45m", "30m"));
    proxy.wait_for_status("the second generation", |status| status["generation"] == 2);
    assert_eq!(ask(&proxy, "/v1/chat/completions", "").status, 200);
    assert_eq!(peer.next().field("authorization"), Some("Bearer ONCE"));
}

#[test]
fn a_machines_metadata_gives_a_token_of_googles() {
    let metadata = Peer::start(|seen, stream| {
        let asks_well = seen.field("metadata-flavor") == Some("Google");
        let (status, body) = if asks_well {
            ("200 OK", r#"{"access_token":"ya29.own","expires_in":3599,"token_type":"Bearer"}"#)
        } else {
            ("403 Forbidden", "{}")
        };
        respond(stream, status, "content-type: application/json\r\n", body.as_bytes());
        Then::Next
    });
    let backend = Peer::answering("200 OK", OK);
    let folder = tempfile::tempdir().unwrap();
    let configuration = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nlog: {{ access: access.jsonl }}\nlimits: {{ drain_delay: 1ms, drain_deadline: 5s }}\n\
         backends: [{{ name: vertex, url: \"http://{}/v1\", region: gcp/europe-north1, auth: {{ bearer: {{ metadata: google }} }} }}]\n",
        backend.address
    );
    let mut command = windward([""; 0]);
    command.env("GCE_METADATA_HOST", metadata.address.to_string());
    let (proxy, address) = serve_by(command, folder.path(), &configuration);
    let mut client = Client::connect(address);
    client.post("/v1/chat/completions", "authorization: Bearer CLIENT\r\n", r#"{"model":"m","messages":[]}"#);
    assert_eq!(client.answer().status, 200);
    assert_eq!(metadata.next().target(), "/computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!(backend.next().field("authorization"), Some("Bearer ya29.own"));
    let (status, said) = proxy.stop();
    assert!(status.success() && !said.iter().any(|line| line.contains("ya29")), "{said:#?}");
    assert!(!metadata.saw_more(), "a token that lasts is asked for once");
}
