//! Anthropic's API end to end: its clients, Windward, and simulated regions or peers that misbehave.

use serde_json::{Value, json};
use windward::fleet::Patch;

use super::support::peer::{Then, begin_events, chunk, end_chunks, respond};
use super::support::{Answer, Client, Fleet, Harness, Peer};

const FLEET: &str = r"
models: [claude-there]
regions:
  - { region: aws/eu-north-1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_bearer: own-key }
  - { region: aws/us-east-1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_bearer: own-key }
";

/// A proxy before both regions, the first by a key in Anthropic's own field, the second by a bearer's.
fn proxy(fleet: &Fleet, top: &str) -> Harness {
    let (stockholm, virginia) = (fleet.url("aws/eu-north-1"), fleet.url("aws/us-east-1"));
    Harness::of(|log| {
        format!(
            r"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
{top}
backends:
  - name: stockholm
    url: {stockholm}/v1
    dialect: anthropic
    region: aws/eu-north-1
    auth: {{ header: {{ name: x-api-key, value: own-key }} }}
    models: {{ claude: claude-there }}
  - name: virginia
    url: {virginia}/anthropic/v1
    dialect: anthropic
    region: aws/us-east-1
    auth: {{ bearer: own-key }}
    models: {{ claude: claude-there }}
routes: [{{ name: claude, backends: [stockholm, virginia], policy: in_order }}]
policies: [{{ name: in_order, objective: listed_order }}]
"
        )
    })
}

const VERSION: &str = "anthropic-version: 2023-06-01\r\n";

fn ask(proxy: &Harness, path: &str, fields: &str, body: &Value) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, &format!("{VERSION}x-mock-output-tokens: 7\r\n{fields}"), &body.to_string());
    client.answer()
}

fn hello(stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "Which way does the wind blow?"}]);
    json!({"model": "claude", "max_tokens": 64, "system": "Be brief.", "messages": messages, "stream": stream})
}

fn tokens(record: &Value) -> (Option<u64>, Option<u64>, &str) {
    let count = |name: &str| record[name].as_u64();
    (count("gen_ai.usage.input_tokens"), count("gen_ai.usage.output_tokens"), record["usage_source"].as_str().unwrap())
}

#[test]
fn messages_are_routed_renamed_and_metered() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "");
    for stream in [false, true] {
        let answer =
            ask(&proxy, "/v1/messages", "authorization: Bearer the-clients\r\nx-api-key: the-clients\r\n", &hello(stream));
        let record = proxy.record();
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("stockholm")), "{}", answer.text());
        assert_eq!(tokens(&record), (Some(10), Some(7), "reported"), "{record}");
        assert_eq!((&record["gen_ai.operation.name"], &record["stream"]), (&"chat".into(), &stream.into()));
        assert_eq!(
            (&record["gen_ai.request.model"], &record["gen_ai.response.model"]),
            (&"claude".into(), &"claude-there".into())
        );
        assert_eq!((&record["ended"], &record["placement_evidence"]), (&"complete".into(), &"inference_geo=global".into()));
        assert_eq!(record["provider_request_id"], answer.field("request-id").unwrap(), "{record}");
        assert!(record["first_token_ms"].as_f64().is_some());
        if stream {
            assert!(answer.text().ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{}", answer.text());
        } else {
            assert_eq!(answer.json()["usage"]["output_tokens"], 7);
        }
    }
}

#[test]
fn tokens_are_counted_where_it_was_decided_and_nothing_is_booked_for_it() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "");
    let answer = ask(&proxy, "/v1/messages/count_tokens", "", &hello(false));
    let record = proxy.record();
    assert_eq!((answer.status, &answer.json()["input_tokens"]), (200, &10.into()), "{}", answer.text());
    assert_eq!((&record["gen_ai.operation.name"], &record["backend"]), (&"count_tokens".into(), &"stockholm".into()));
    assert_eq!(record["emissions"]["grams"].as_f64(), Some(0.0), "{record}");
    assert!(
        record["attempts"][0].get("joules").is_none_or(|joules| joules.as_f64().is_none_or(|joules| joules == 0.0)),
        "{record}"
    );
}

#[test]
fn a_count_that_breaks_off_has_read_no_prompt() {
    let broken = Peer::start(|_, _| Then::Close);
    let speaks = "dialect: anthropic\n    models: [claude]";
    let proxy = Harness::start(&[("broken", broken.address, speaks)], "policy: in_order");
    for (path, expected) in [("/v1/messages/count_tokens", "unknown"), ("/v1/messages", "estimated")] {
        assert_eq!(ask(&proxy, path, "", &hello(false)).status, 502);
        let record = proxy.record();
        let (input, output, source) = tokens(&record);
        assert_eq!((input.is_some(), output, source), (expected == "estimated", None, expected), "{path}: {record}");
    }
}

#[test]
fn a_limit_on_counting_tokens_is_none_on_messages() {
    let limited = Peer::start(|seen, stream| {
        if seen.head.contains("/count_tokens ") {
            respond(stream, "429 Too Many Requests", "retry-after: 60\r\n", b"{}");
        } else {
            respond(stream, "200 OK", "", br#"{"usage":{"input_tokens":3,"output_tokens":1}}"#);
        }
        Then::Next
    });
    let other = Peer::answering("200 OK", r#"{"input_tokens":10}"#);
    let speaks = "dialect: anthropic\n    models: [claude]";
    let proxy = Harness::start(&[("limited", limited.address, speaks), ("other", other.address, speaks)], "policy: in_order");
    for _ in 0..2 {
        assert_eq!(ask(&proxy, "/v1/messages/count_tokens", "", &hello(false)).status, 200);
        assert_eq!(proxy.record()["backend"], "other", "it goes to somebody else");
        assert_eq!(ask(&proxy, "/v1/messages", "", &hello(false)).status, 200);
        assert_eq!(proxy.record()["backend"], "limited", "whose model has room as before");
    }
}

#[test]
fn who_is_overloaded_is_passed_over_and_says_for_how_long() {
    let overloaded = || {
        Peer::start(|_, stream| {
            let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
            respond(stream, "529 Overloaded", "content-type: application/json\r\nretry-after: 7\r\n", body);
            Then::Next
        })
    };
    let (first, second) = (overloaded(), overloaded());
    let speaks = "dialect: anthropic\n    models: [claude]";
    let proxy = Harness::start(&[("first", first.address, speaks), ("second", second.address, speaks)], "policy: in_order");
    let answer = ask(&proxy, "/v1/messages", "", &hello(false));
    let record = proxy.record();
    assert_eq!((answer.status, answer.field("retry-after")), (529, Some("7")), "{}", answer.text());
    let outcomes: Vec<_> =
        record["attempts"].as_array().unwrap().iter().map(|it| (it["outcome"].clone(), it["status"].clone())).collect();
    assert_eq!(outcomes, vec![("refused".into(), 529.into()); 2]);
    let answer = ask(&proxy, "/v1/messages", "", &hello(false));
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].as_str()),
        (503, Some("overloaded_error")),
        "both wait, and are left alone"
    );
    assert!(answer.field("retry-after").is_some_and(|seconds| (1..=7).contains(&seconds.parse::<u64>().unwrap())));
    for peer in [&first, &second] {
        peer.next();
        assert!(!peer.saw_more());
    }
}

#[test]
fn what_breaks_within_a_stream_keeps_what_was_said_of_its_prompt() {
    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-there\",\"usage\":{\"input_tokens\":40,\"cache_read_input_tokens\":1000,\"output_tokens\":1,\"inference_geo\":\"us\"}}}\n\n";
    const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"The\"}}\n\n";
    const ERROR: &str =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    for (last, error) in [(ERROR, Some("backend_error_event")), ("", None)] {
        let peer = Peer::start(move |_, stream| {
            begin_events(stream);
            [START, DELTA, DELTA, last]
                .iter()
                .filter(|event| !event.is_empty())
                .for_each(|event| chunk(stream, event.as_bytes()));
            if !last.is_empty() {
                end_chunks(stream);
            }
            Then::Close
        });
        let proxy = Harness::start(&[("peer", peer.address, "dialect: anthropic\n    models: [claude]")], "");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/messages", &format!("{VERSION}connection: close\r\n"), &hello(true).to_string());
        let _ = client.read_to_end();
        let record = proxy.record();
        assert_eq!((record["ended"].as_str(), record["error"].as_str()), (Some("upstream_broke"), error), "{record}");
        assert_eq!(tokens(&record), (Some(1040), Some(2), "counted"), "{record}");
        assert_eq!(
            (&record["cached_input_tokens"], &record["input_tokens_source"]),
            (&1000.into(), &"reported".into()),
            "{record}"
        );
        assert_eq!(record["placement_evidence"], "inference_geo=us");
    }
}

#[test]
fn errors_and_lists_are_in_the_words_of_this_api() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "keys: [{ name: team, secret: a-key-of-the-gateway }]");
    for (key, status, kind) in [
        ("", 401, "authentication_error"),
        ("x-api-key: a-key-of-nobody\r\n", 401, "authentication_error"),
        ("x-api-key: a-key-of-the-gateway\r\n", 200, ""),
        ("authorization: Bearer a-key-of-the-gateway\r\n", 200, ""),
    ] {
        let answer = ask(&proxy, "/v1/messages", key, &hello(false));
        assert_eq!(
            (answer.status, answer.json()["error"]["type"].as_str().unwrap_or_default()),
            (status, kind),
            "{}",
            answer.text()
        );
        assert!(answer.field("request-id").is_some());
        if status != 200 {
            assert_eq!(answer.json()["type"], "error");
        }
    }
    let key = "x-api-key: a-key-of-the-gateway\r\n";
    for (path, body, status, kind) in [
        ("/v1/messages", json!({"model": "nobody", "messages": []}), 404, "not_found_error"),
        ("/v1/messages", json!([]), 400, "invalid_request_error"),
        ("/v1/messages", json!({"model": "claude", "messages": []}), 400, "invalid_request_error"),
        ("/v2/messages", hello(false), 404, "not_found_error"),
    ] {
        let answer = ask(&proxy, path, key, &body);
        assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (status, Some(kind)), "{path}: {}", answer.text());
    }
    let mut client = Client::connect(proxy.address);
    client.get("/v1/models", &format!("{VERSION}{key}"));
    let list = client.answer().json();
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][0]["type"], &list["has_more"]),
        (&"claude".into(), &"model".into(), &false.into())
    );
    client.get("/v1/models/claude", &format!("{VERSION}{key}"));
    assert_eq!(client.answer().json()["display_name"], "claude");
}

/// Both APIs have a list of models at the same path, and only Anthropic's clients say which version of theirs they speak.
#[test]
fn two_apis_at_one_path_are_told_apart_by_the_version() {
    let fleet = Fleet::start(FLEET);
    let url = fleet.url("aws/eu-north-1");
    let proxy = Harness::of(|log| {
        format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
backends:
  - {{ name: claude, url: "{url}/v1", dialect: anthropic, region: aws/eu-north-1, auth: pass_through, models: [claude-there] }}
  - {{ name: gpt, url: "{url}/v1", region: aws/eu-north-1, models: [gpt-oss] }}
routes:
  - {{ name: claude, match: {{ headers: {{ anthropic-version: "*" }} }}, backends: [claude] }}
  - {{ name: gpt, backends: [gpt] }}
"#
        )
    });
    let mut client = Client::connect(proxy.address);
    client.get("/v1/models", VERSION);
    assert_eq!(client.answer().json()["data"][0]["type"], "model");
    client.get("/v1/models", "");
    assert_eq!(client.answer().json()["data"][0]["object"], "model");
    let mut message = hello(false);
    message["model"] = "claude-there".into();
    for (key, status) in [("x-api-key: own-key\r\n", 200), ("authorization: Bearer own-key\r\n", 401)] {
        let answer = ask(&proxy, "/v1/messages", key, &message);
        assert_eq!(answer.status, status, "the one field of the dialect is passed through: {}", answer.text());
    }
}

#[test]
fn a_region_that_fails_is_said_in_its_own_words() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "");
    let patch: Patch = serde_json::from_value(json!({"error_rate": 1})).unwrap();
    fleet.handle.control("aws/eu-north-1", &patch);
    let answer = ask(&proxy, "/v1/messages", "", &hello(false));
    assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (500, Some("api_error")), "{}", answer.text());
    let patch: Patch = serde_json::from_value(json!({"error_rate": 0, "refuse": true})).unwrap();
    fleet.handle.control("aws/eu-north-1", &patch);
    let answer = ask(&proxy, "/v1/messages", "", &hello(true));
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("virginia")), "{}", answer.text());
    assert_eq!(fleet.rows(3)[2].0, "/anthropic/v1/messages");
    let patch: Patch = serde_json::from_value(json!({"cut_after_tokens": 3})).unwrap();
    fleet.handle.control("aws/us-east-1", &patch);
    let mut client = Client::connect(proxy.address);
    client.post("/v1/messages", &format!("{VERSION}x-mock-output-tokens: 7\r\n"), &hello(true).to_string());
    let seen = client.read_to_end();
    let events = seen.matches("event: content_block_delta").count() as u64;
    let record = (0..3).map(|_| proxy.record()).find(|record| record["ended"] == "upstream_broke").unwrap();
    // How many of its three tokens an event says depends on how late the machine is; each event counts as one.
    assert!((1..=3).contains(&events), "{events}");
    assert_eq!(tokens(&record), (Some(10), Some(events), "counted"), "{record}");
}
