//! Whose credential goes where: each backend its own, and none of a client's, whatever field or parameter it stands in.

use super::support::peer::Seen;
use super::support::{Answer, Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m"}"#;
/// What a client sends that is nobody's business, beside what is.
const FIELDS: &str = "x-tenant-pass: CLIENT\r\nauthorization: Bearer CLIENT\r\nx-forwarded-access-token: CLIENT\r\n\
    x-auth-request-access-token: CLIENT\r\nx-amzn-oidc-data: CLIENT\r\nx-pomerium-jwt-assertion: CLIENT\r\n\
    x-authentik-jwt: CLIENT\r\ncf-access-client-secret: CLIENT\r\nx-goog-iap-jwt-assertion: CLIENT\r\n\
    x-ms-token-aad-access-token: CLIENT\r\nx-acme-api-key: CLIENT\r\ncookie: s=CLIENT\r\nopenai-organization: org\r\n";

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
        assert!(errors.contains(&"loop_detected".into()) && errors.iter().any(serde_json::Value::is_null), "{errors:?}");
    }
    let requests = proxy.ask_admin("/metrics").text();
    assert!(requests.contains(r#"windward_requests_total{code_class="5xx"} 4"#), "each came round once: {requests}");
}
