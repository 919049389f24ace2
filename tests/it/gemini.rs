//! Gemini's API end to end: its clients, Windward, and simulated regions of Vertex AI.

use serde_json::{Value, json};
use windward::fleet::Patch;

use super::support::{Answer, Client, Fleet, Harness};

const FLEET: &str = r"
models: [flash-there@001]
regions:
  - { region: gcp/europe-north1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_bearer: own-token }
  - { region: gcp/us-central1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_bearer: own-token }
";

/// Below which path a project's models lie at Vertex AI.
const THERE: &str = "/v1/projects/own/locations/europe-north1/publishers/google";

fn proxy(fleet: &Fleet, top: &str) -> Harness {
    let (finland, iowa) = (fleet.url("gcp/europe-north1"), fleet.url("gcp/us-central1"));
    Harness::of(|log| {
        format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
{top}
backends:
  - name: finland
    url: {finland}{THERE}
    dialect: gemini
    region: gcp/europe-north1
    auth: {{ bearer: own-token }}
    models: {{ flash: "flash-there@001" }}
  - name: iowa
    url: {iowa}{THERE}
    dialect: gemini
    region: gcp/us-central1
    auth: {{ bearer: own-token }}
    models: {{ flash: "flash-there@001" }}
routes: [{{ name: gemini, backends: [finland, iowa], policy: in_order }}]
policies: [{{ name: in_order, objective: listed_order }}]
"#
        )
    })
}

fn ask(proxy: &Harness, path: &str, fields: &str, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, &format!("x-mock-output-tokens: 7\r\n{fields}"), body);
    client.answer()
}

const HELLO: &str = r#"{"contents":[{"role":"user","parts":[{"text":"Which way does the wind blow?"}]}]}"#;
const CLAUDE: &str =
    r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":64,"messages":[{"role":"user","content":"Which way?"}]}"#;

fn tokens(record: &Value) -> (Option<u64>, Option<u64>, &str) {
    let count = |name: &str| record[name].as_u64();
    (count("gen_ai.usage.input_tokens"), count("gen_ai.usage.output_tokens"), record["usage_source"].as_str().unwrap())
}

#[test]
fn every_verb_is_sent_to_the_backends_own_project_and_metered() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "");
    let vertex = "/v1beta1/projects/clients/locations/us-east1/publishers";
    for (path, body, content_type, name, streamed, input) in [
        ("/v1beta/models/flash:generateContent", HELLO, "application/json", "generate_content", false, 8),
        (
            "/v1beta/models/flash:streamGenerateContent?alt=sse",
            HELLO,
            "text/event-stream; charset=utf-8",
            "generate_content",
            true,
            8,
        ),
        ("/v1beta/models/flash:streamGenerateContent", HELLO, "application/json; charset=UTF-8", "generate_content", true, 8),
        (&format!("{vertex}/google/models/flash:generateContent"), HELLO, "application/json", "generate_content", false, 8),
        (&format!("{vertex}/anthropic/models/flash:rawPredict"), CLAUDE, "application/json", "chat", false, 3),
        (
            &format!("{vertex}/anthropic/models/flash:streamRawPredict"),
            CLAUDE,
            "text/event-stream; charset=utf-8",
            "chat",
            true,
            3,
        ),
    ] {
        let answer = ask(&proxy, path, "x-goog-api-key: the-clients\r\n", body);
        let record = proxy.record();
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("finland")), "{path}: {}", answer.text());
        assert_eq!(answer.field("content-type"), Some(content_type), "{path}");
        assert_eq!(tokens(&record), (Some(input), Some(7), "reported"), "{path}: {record}");
        assert_eq!((&record["gen_ai.operation.name"], &record["stream"]), (&name.into(), &streamed.into()), "{path}");
        assert_eq!((&record["gen_ai.request.model"], &record["ended"]), (&"flash".into(), &"complete".into()), "{path}");
        assert!(record["first_token_ms"].as_f64().is_some(), "{record}");
    }
    let answer = ask(&proxy, "/v1beta/models/flash:countTokens", "", HELLO);
    assert_eq!((answer.status, answer.json()["totalTokens"].as_u64()), (200, Some(8)));
    let record = proxy.record();
    assert_eq!((&record["gen_ai.operation.name"], record["emissions"]["grams"].as_f64()), (&"count_tokens".into(), Some(0.0)));
    let one = r#"{"model":"models/flash","content":{"parts":[{"text":"The wind"}]}}"#;
    let batch = format!(r#"{{"requests":[{one},{one}]}}"#);
    // The body of either names the model once more, and the region holds it to its path.
    for (verb, body, input) in [("embedContent", one, 2), ("batchEmbedContents", &batch, 4)] {
        let answer = ask(&proxy, &format!("/v1beta/models/flash:{verb}"), "", body);
        assert_eq!(answer.status, 200, "{verb}: {}", answer.text());
        let record = proxy.record();
        assert_eq!((&record["gen_ai.operation.name"], record["usage_source"].as_str()), (&"embeddings".into(), Some("reported")));
        assert_eq!(record["gen_ai.usage.input_tokens"], input, "{verb}: {record}");
        assert!(record["emissions"]["grams"].as_f64().is_some_and(|grams| grams > 0.0), "{record}");
    }
    let count = r#"{"model":"flash","messages":[{"role":"user","content":"Which way?"}]}"#;
    let answer = ask(&proxy, &format!("{vertex}/anthropic/models/count-tokens:rawPredict"), "", count);
    assert_eq!((answer.status, answer.json()["input_tokens"].as_u64()), (200, Some(3)), "{}", answer.text());
    let record = proxy.record();
    assert_eq!((&record["gen_ai.operation.name"], record["emissions"]["grams"].as_f64()), (&"count_tokens".into(), Some(0.0)));
    assert_eq!(record["gen_ai.request.model"], "flash");
    let paths: Vec<String> = fleet.rows(10).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths[0], format!("{THERE}/models/flash-there@001:generateContent"), "the name there, and the project");
    assert!(paths.iter().all(|path| path.starts_with(THERE)), "{paths:?}");
}

#[test]
fn a_key_comes_in_as_these_clients_send_it_and_goes_nowhere() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "keys: [{ name: team, secret: a-key-of-the-gateway }]");
    let path = "/v1beta/models/flash:generateContent?key=the-clients&alt=json";
    for (fields, status, word) in [
        ("x-goog-api-key: a-key-of-the-gateway\r\n", 200, None),
        ("authorization: Bearer a-key-of-the-gateway\r\n", 200, None),
        ("x-goog-api-key: another\r\n", 401, Some("UNAUTHENTICATED")),
        ("", 401, Some("UNAUTHENTICATED")),
    ] {
        let answer = ask(&proxy, path, fields, HELLO);
        assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (status, word), "{}", answer.text());
    }
    let key = "x-goog-api-key: a-key-of-the-gateway\r\n";
    for (path, body, status, word) in [
        ("/v1beta/models/nobody:generateContent", HELLO, 404, "NOT_FOUND"),
        ("/v1beta/models/flash:generateContent", "[]", 400, "INVALID_ARGUMENT"),
        ("/v1beta/models/flash:generateContent", "{}", 400, "INVALID_ARGUMENT"),
    ] {
        let answer = ask(&proxy, path, key, body);
        assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (status, Some(word)), "{path}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], status);
    }
    let mut client = Client::connect(proxy.address);
    client.get("/v1beta/models", key);
    assert_eq!(client.answer().json()["models"][0]["name"], "models/flash");
    client.get("/v1beta/models/flash", key);
    assert_eq!(client.answer().json()["displayName"], "flash");
}

#[test]
fn a_full_region_is_passed_over_and_a_broken_stream_is_counted() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, "");
    let control = |region: &str, fault: Value| {
        let patch: Patch = serde_json::from_value(fault).unwrap();
        fleet.handle.control(region, &patch).unwrap();
    };
    control("gcp/europe-north1", json!({"refuse": true}));
    let answer = ask(&proxy, "/v1beta/models/flash:generateContent", "", HELLO);
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("iowa")), "{}", answer.text());
    control("gcp/us-central1", json!({"cut_after_tokens": 3}));
    let mut client = Client::connect(proxy.address);
    client.post("/v1beta/models/flash:streamGenerateContent?alt=sse", "x-mock-output-tokens: 7\r\nconnection: close\r\n", HELLO);
    let seen = client.read_to_end();
    let record = (0..2).map(|_| proxy.record()).find(|record| record["ended"] == "upstream_broke").unwrap();
    // What its chunks had told so far; how many tokens one of them holds depends on how late the machine is.
    let (_, last) = seen.rsplit_once("\"candidatesTokenCount\":").unwrap();
    let told: u64 = last.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!((1..=3).contains(&told), "{told}");
    assert_eq!(tokens(&record), (Some(8), Some(told), "reported"), "{record}");
}
