//! What a client may ask of its own request beyond the policy, and what another policy would have said.

use super::support::{Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m","stream":true}"#;

/// A dirty one that is fast, and a clean one that is slow, as far as was declared.
fn two(dirty: &Peer, clean: &Peer, top: &str, route: &str) -> Harness {
    let fast = "grid_zone: PL\n    expect: { first_token: 100ms }";
    let slow = "grid_zone: SE-SE3\n    expect: { first_token: 900ms }";
    Harness::with(top, &[("dirty", dirty.address, fast), ("clean", clean.address, slow)], route)
}

fn served(proxy: &Harness, fields: &str) -> (u16, serde_json::Value) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", fields, BODY);
    let status = client.answer().status;
    (status, proxy.record())
}

#[test]
fn a_request_narrows_its_policy_by_header_and_the_record_says_so() {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = two(&dirty, &clean, "", "");
    for (fields, backend, narrowed) in [
        ("", "clean", None),
        ("x-windward-latency-budget: 500ms\r\n", "dirty", Some(r#"{"latency_budget_ms":500.0}"#)),
        ("x-windward-objective: least_latency\r\n", "dirty", Some(r#"{"objective":"least_latency"}"#)),
        ("x-windward-residency: PL, DE\r\n", "dirty", Some(r#"{"residency":"PL, DE"}"#)),
        // Longer than the policy's own two seconds: nothing becomes possible that was not.
        ("x-windward-latency-budget: 1h\r\n", "clean", Some(r#"{"latency_budget_ms":3600000.0}"#)),
    ] {
        let (status, record) = served(&proxy, fields);
        assert_eq!((status, &record["backend"]), (200, &backend.into()), "{fields}{record}");
        let wanted: Option<serde_json::Value> = narrowed.map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(record.get("narrowed"), wanted.as_ref(), "{fields}");
    }
    for peer in [&dirty, &clean] {
        assert!(!peer.next().head.contains("x-windward"), "the fields are for this proxy");
    }
    let (_, record) = served(&proxy, "x-windward-latency-budget: 1h\r\n");
    assert_eq!(record["budget_ms"], 2000.0);
}

#[test]
fn where_nobody_may_serve_what_was_asked_nobody_is_asked() {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = two(&dirty, &clean, "", "");
    let (status, record) = served(&proxy, "x-windward-residency: JP\r\n");
    assert_eq!((status, &record["error"]), (400, &"bad_narrowing".into()), "its client can mend it");
    assert_eq!(record["decision"]["candidates"][0]["verdict"], "outside_residency");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/files/f", "x-windward-residency: JP\r\n");
    let answer = client.answer();
    let said = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, answer.field("retry-after")), (400, None));
    assert_eq!(said, "x-windward-residency leaves out every backend that could serve this request");
    proxy.record();
    for bad in [
        "x-windward-latency-budget: 500\r\n",
        "x-windward-latency-budget: 0s\r\n",
        "x-windward-objective: cheapest\r\n",
        "x-windward-residency: eu;us\r\n",
        "x-windward-residency: eu\r\nx-windward-residency: us\r\n",
    ] {
        let (status, record) = served(&proxy, bad);
        assert_eq!((status, &record["error"]), (400, &"bad_narrowing".into()), "{bad}");
    }
    assert_eq!(dirty.connections() + clean.connections(), 0);
}

#[test]
fn what_the_policy_leaves_out_is_no_fault_of_the_client() {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = Harness::of(|log| {
        let text = super::support::text(log, "", &[("a", dirty.address, ""), ("b", clean.address, "")], "policy: standard");
        text.replace("{ name: in_order,", "{ name: far, residency: [JP] }\n  - { name: in_order,")
            .replace("policy: standard", "policy: far")
    });
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "x-windward-residency: US\r\n", BODY);
    let answer = client.answer();
    let said = answer.json()["error"].clone();
    assert_eq!((answer.status, &said["code"], answer.field("retry-after")), (503, &"no_candidate".into(), None));
    assert_eq!(said["message"], "no backend may serve this request: 0 without capacity, 2 outside the residency");
}

#[test]
fn a_shadow_policy_is_decided_and_logged_and_sends_nothing() {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = two(&dirty, &clean, "", "shadow: in_order");
    let (_, record) = served(&proxy, "");
    assert_eq!(record["backend"], "clean");
    let (shadow, candidates) = (&record["shadow"], &record["decision"]["candidates"]);
    assert_eq!((&shadow["policy"], &shadow["reason"]), (&"in_order".into(), &"listed_order".into()));
    assert_eq!((&shadow["backend"], &shadow["grams"]), (&"dirty".into(), &candidates[0]["grams"]));
    assert!(shadow["grams"].as_f64() > candidates[1]["grams"].as_f64());
    assert_eq!(dirty.connections(), 0);
}

/// With this as the route's shadow, what the log says of it: whom it would have chosen, and why.
fn shadowed(policies: &str, fields: &str) -> (Option<String>, String) {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = two(&dirty, &clean, policies, "shadow: next");
    let (status, record) = served(&proxy, fields);
    assert_eq!((status, &record["shadow"]["policy"]), (200, &"next".into()), "{record}");
    let shadow = &record["shadow"];
    (shadow["backend"].as_str().map(str::to_owned), shadow["reason"].as_str().unwrap().to_owned())
}

#[test]
fn a_shadow_is_asked_for_what_the_request_itself_asks_for() {
    for (policy, fields, backend, reason) in [
        ("latency_budget: { first_token: 10s }", "", Some("clean"), "least_carbon"),
        ("latency_budget: { first_token: 10s }", "x-windward-latency-budget: 500ms\r\n", Some("dirty"), "only"),
        ("objective: listed_order", "x-windward-objective: least_carbon\r\n", Some("clean"), "least_carbon"),
        ("objective: listed_order", "x-windward-residency: SE\r\n", Some("clean"), "only"),
        ("residency: [PL]", "x-windward-residency: SE\r\n", None, "no_candidate"),
        ("objective: least_cost", "x-windward-objective: least_latency\r\n", None, "no_candidate"),
    ] {
        let got = shadowed(&format!("  - {{ name: next, {policy} }}"), fields);
        assert_eq!(got, (backend.map(str::to_owned), reason.to_owned()), "{policy} and {fields}");
    }
}

#[test]
fn a_shadow_that_would_hold_or_shed_a_request_says_so() {
    // A little more than a second is expected of the only one, of which it can wait for half, and only while it is busy.
    for (first_token, alone, behind) in [("1s", "fastest_over_budget", "held"), ("50ms", "fastest_over_budget", "shed")] {
        let policy = format!(
            "  - {{ name: next, residency: [SE], latency_budget: {{ first_token: {first_token} }}, overload: hold_then_shed }}"
        );
        assert_eq!(shadowed(&policy, "x-windward-objective: least_latency\r\n"), (Some("clean".to_owned()), alone.to_owned()));
        let (dirty, (release, clean)) = (Peer::answering("200 OK", OK), Peer::when_told(OK));
        let proxy = two(&dirty, &clean, &policy, "shadow: next");
        let mut first = Client::connect(proxy.address);
        first.post("/v1/chat/completions", "", BODY);
        clean.next();
        let (_, record) = served(&proxy, "x-windward-objective: least_latency\r\n");
        assert_eq!((&record["backend"], &record["shadow"]["reason"]), (&"dirty".into(), &behind.into()), "{record}");
        assert_eq!(record["shadow"].get("backend"), None);
        release.send(()).unwrap();
        assert_eq!(first.answer().status, 200);
    }
}

/// It would be in time when the request comes, and late when this is refused: what the route's own policy has waited away is no part of it.
#[test]
fn a_shadow_is_asked_when_a_request_comes_and_not_each_time_it_was_held_back() {
    let (dirty, (release, clean)) = (Peer::answering("200 OK", OK), Peer::when_told(OK));
    // 1.08 seconds are expected of the only one, and half of one are waited for it.
    let policy = |name: &str, span: &str, more: &str| {
        format!("  - {{ name: {name}, residency: [SE], latency_budget: {{ first_token: {span} }}{more} }}")
    };
    let top = format!("{}\n{}", policy("own", "1s", ", overload: hold_then_shed"), policy("next", "1400ms", ""));
    let proxy = two(&dirty, &clean, &top, "policy: own\n    shadow: next");
    let mut first = Client::connect(proxy.address);
    first.post("/v1/chat/completions", "", BODY);
    clean.next();
    let (status, record) = served(&proxy, "");
    assert_eq!((status, &record["error"], &record["decision"]["reason"]), (429, &"shed".into(), &"shed".into()));
    assert!(record["decision"]["spent_ms"].as_f64() > Some(400.0), "{record:#}");
    assert_eq!((&record["shadow"]["backend"], &record["shadow"]["reason"]), (&"clean".into(), &"only".into()), "{record:#}");
    release.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
}

#[test]
fn a_shadow_of_the_route_does_not_stand_for_the_policy_that_a_key_brings() {
    let (dirty, clean) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let top = "  - { name: swedish, objective: listed_order, residency: [SE] }\nkeys:\n  \
               - { name: blue, secret: sk-blue-0123456789abcdef, policy: swedish }\n  \
               - { name: green, secret: sk-green-0123456789abcdef, policy: standard }\n  \
               - { name: red, secret: sk-red-0123456789abcdef }";
    let proxy = two(&dirty, &clean, top, "shadow: in_order");
    for (key, backend) in [("red", "dirty"), ("blue", "clean"), ("green", "clean")] {
        let (status, record) = served(&proxy, &format!("authorization: Bearer sk-{key}-0123456789abcdef\r\n"));
        assert_eq!((status, &record["shadow"]["backend"]), (200, &backend.into()), "{key}: {record}");
    }
}
