//! Azure OpenAI: either API of its, before clients of either.

use super::support::peer::{Then, begin_events, chunk, end_chunks};
use super::support::{Answer, Client, Harness, Peer};

const OK: &str = r#"{"choices":[],"model":"gpt-4.1-2025","usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
const CLASSIC: &str = "dialect: azure-openai\n    api_version: 2024-10-21\n    auth: { header: { name: api-key, value: OWN } }\n    \
    models: { gpt-4.1: my gpt }";
const V1: &str = "dialect: azure-openai\n    auth: { bearer: { command: [echo, ENTRA] } }\n    models: { gpt-4.1: gpt-41 }";

fn ask(proxy: &Harness, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, "api-key: CLIENT\r\n", body);
    client.answer()
}

#[test]
fn a_client_of_either_api_is_served_by_a_backend_of_either() {
    const NAMED: &str = r#"{"messages":[],"model":"gpt-4.1"}"#;
    let version = "?api-version=2024-10-21";
    let deployment = "/base/deployments/my%20gpt/chat/completions";
    let plain = "/v1/chat/completions";
    let classic = "/v1/deployments/gpt-4.1/chat/completions?api-version=2023-05-15";
    for (backend, path, body, target, sent) in [
        (CLASSIC, plain, NAMED, format!("{deployment}{version}"), r#"{"messages":[],"model":"my gpt"}"#),
        (CLASSIC, classic, NAMED, format!("{deployment}{version}"), r#"{"messages":[],"model":"my gpt"}"#),
        (CLASSIC, classic, r#"{"messages":[]}"#, format!("{deployment}{version}"), r#"{"messages":[]}"#),
        (V1, plain, NAMED, "/base/chat/completions".to_owned(), r#"{"messages":[],"model":"gpt-41"}"#),
        (V1, classic, NAMED, "/base/chat/completions".to_owned(), r#"{"messages":[],"model":"gpt-41"}"#),
        (V1, classic, r#"{"messages":[]}"#, "/base/chat/completions".to_owned(), r#"{"messages":[],"model":"gpt-41"}"#),
        (
            V1,
            classic,
            r#"{"model":"x","messages":[]}"#,
            "/base/chat/completions".to_owned(),
            r#"{"model":"gpt-41","messages":[]}"#,
        ),
        (
            V1,
            classic,
            r#"{"messages":[],"stream":true}"#,
            "/base/chat/completions".to_owned(),
            r#"{"messages":[],"stream":true,"stream_options":{"include_usage":true},"model":"gpt-41"}"#,
        ),
        // As LangChain's client writes it.
        (V1, classic, r#"{"model":null,"x":1}"#, "/base/chat/completions".to_owned(), r#"{"model":"gpt-41","x":1}"#),
        (CLASSIC, classic, r#"{"model": null}"#, format!("{deployment}{version}"), r#"{"model": "my gpt"}"#),
        (CLASSIC, "/v1/responses", r#"{"model":"gpt-4.1"}"#, format!("/base/responses{version}"), r#"{"model":"my gpt"}"#),
        (CLASSIC, "/v1/files?limit=2&api-version=1", "{}", "/base/files?limit=2&api-version=2024-10-21".to_owned(), "{}"),
    ] {
        let peer = Peer::answering("200 OK", OK);
        let proxy = Harness::start(&[("azure", peer.address, backend)], "");
        assert_eq!(ask(&proxy, path, body).status, 200, "{path}");
        let seen = peer.next();
        assert_eq!((seen.target(), std::str::from_utf8(&seen.body).unwrap()), (&*target, sent), "{path}");
        let own = if backend == V1 { ("authorization", "Bearer ENTRA") } else { ("api-key", "OWN") };
        assert!(seen.field(own.0) == Some(own.1) && !seen.head.contains("CLIENT"), "{}", seen.head);
        let record = proxy.record();
        if body.contains("messages") {
            assert_eq!((&record["gen_ai.request.model"], &record["gen_ai.usage.output_tokens"]), (&"gpt-4.1".into(), &4.into()));
        }
    }
}

#[test]
fn a_fall_back_goes_from_one_of_its_apis_to_the_other() {
    let (full, good) = (Peer::answering("429 Busy", "{}"), Peer::answering("200 OK", OK));
    let proxy = Harness::start(
        &[("classic", full.address, CLASSIC), ("v1", good.address, V1), ("openai", good.address, "models: [gpt-4.1]")],
        "policy: in_order",
    );
    let answer = ask(&proxy, "/v1/deployments/gpt-4.1/chat/completions", r#"{"messages":[]}"#);
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("v1")));
    assert!(full.next().target().starts_with("/base/deployments/my%20gpt/"));
    let seen = good.next();
    assert_eq!((seen.target(), seen.json()["model"].as_str()), ("/base/chat/completions", Some("gpt-41")));
    let unknown = ask(&proxy, "/v1/deployments/other/chat/completions", r#"{"messages":[]}"#);
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn what_the_filter_says_of_the_prompt_is_neither_first_token_nor_usage() {
    let filter =
        r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}"#;
    let peer = Peer::start(move |_, socket| {
        begin_events(socket);
        for event in [
            filter,
            r#"data: {"id":"c","model":"gpt-4.1-2025","choices":[{"delta":{"content":"a"}}],"usage":null}"#,
            r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
            "data: [DONE]",
        ] {
            chunk(socket, format!("{event}\n\n").as_bytes());
        }
        end_chunks(socket);
        Then::Next
    });
    let proxy = Harness::start(&[("azure", peer.address, V1)], "");
    let answer = ask(&proxy, "/v1/chat/completions", r#"{"model":"gpt-4.1","stream":true}"#);
    assert!(answer.text().contains("prompt_filter_results") && !answer.text().contains("prompt_tokens"), "{}", answer.text());
    let record = proxy.record();
    assert_eq!((&record["gen_ai.usage.input_tokens"], &record["usage_source"]), (&3.into(), &"reported".into()));
    assert_eq!(record["gen_ai.response.model"], "gpt-4.1-2025");
}
