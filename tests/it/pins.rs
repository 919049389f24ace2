//! What lives in one backend is asked for there: by every way in which a request can name it, after a reload and after a restart, and
//! nowhere else when it is not to be had.

use super::support::peer::{Then, respond};
use super::support::{Answer, Client, Harness, Peer};

/// A backend whose things have its name in their ids.
fn keeper(name: &'static str) -> Peer {
    Peer::start(move |seen, socket| {
        let line = seen.head.lines().next().unwrap_or_default().to_owned();
        let body = match &*line {
            line if line.starts_with("POST /base/responses ") && seen.json()["stream"] == true => {
                let created = format!(
                    "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"resp_{name}_s\",\"model\":\"m\"}}}}\n\n"
                );
                respond(socket, "200 OK", "content-type: text/event-stream\r\n", created.as_bytes());
                return Then::Close;
            }
            line if line.contains("/full") => {
                respond(socket, "503 Busy", "", b"{}");
                return Then::Next;
            }
            line if line.starts_with("POST /base/responses") => {
                format!("{{\"id\":\"resp_{name}_1\",\"object\":\"response\",\"model\":\"m\"}}")
            }
            line if line.starts_with("POST /base/conversations ") => {
                format!("{{\"id\":\"conv_{name}\",\"object\":\"conversation\"}}")
            }
            line if line.starts_with("POST /base/vector_stores ") => {
                format!("{{\"id\":\"vs_{name}\",\"object\":\"vector_store\"}}")
            }
            line if line.starts_with("POST /base/files") => format!("{{\"id\":\"file-{name}-1\",\"object\":\"file\"}}"),
            line if line.starts_with("GET /base/batches/") => {
                format!("{{\"id\":\"batch_{name}\",\"output_file_id\":\"file-{name}-out\"}}")
            }
            _ => "{}".to_owned(),
        };
        respond(socket, "200 OK", "content-type: application/json\r\n", body.as_bytes());
        Then::Next
    })
}

/// A route of both, on which `first` comes first and the other is the home.
fn proxy(first: &Peer, home: &Peer, top: &str) -> Harness {
    let backends = [("first", first.address, "models: [m]"), ("home", home.address, "models: [m]")];
    Harness::with(top, &backends, "home: home\n    policy: in_order")
}

fn ask(proxy: &Harness, method: &str, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    let json = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{json}content-length: {}\r\n\r\n", body.len());
    client.send(format!("{head}{body}").as_bytes());
    client.answer()
}

/// Who served it.
fn served(proxy: &Harness, method: &str, path: &str, body: &str) -> String {
    let answer = ask(proxy, method, path, body);
    assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
    let by = answer.field("x-windward-backend").unwrap_or_default().to_owned();
    assert_eq!(proxy.record()["backend"], *by, "so that its end is there");
    by
}

fn reload(proxy: &Harness, generation: u64, from: &str, to: &str) {
    proxy.rewrite(|text| text.replace(from, to));
    proxy.wait_for_status("the new plan", |status| status["generation"] == generation);
}

const NEW: &str = r#"{"model":"m","input":"x"}"#;

#[test]
fn what_an_answer_hands_out_is_asked_for_where_it_is() {
    let (first, home) = (keeper("first"), keeper("home"));
    let proxy = proxy(&first, &home, "");
    let responses = |body: &str| served(&proxy, "POST", "/v1/responses", body);
    assert_eq!(responses(NEW), "first");
    for id in ["resp_first_1", "resp_unknown"] {
        let keeper = if id == "resp_unknown" { "home" } else { "first" };
        let before = format!(r#"{{"model":"m","input":"x","previous_response_id":"{id}"}}"#);
        let answer = ask(&proxy, "POST", "/v1/responses", &before);
        assert_eq!((answer.field("x-windward-backend"), answer.field("x-windward-decision")), (Some(keeper), Some("pinned")));
        let record = proxy.record();
        assert_eq!((&record["backend"], &record["decision"]["reason"]), (&keeper.into(), &"pinned".into()));
        for path in [format!("/v1/responses/{id}"), format!("/v1/responses/{id}/input_items")] {
            assert_eq!(served(&proxy, "GET", &path, ""), keeper, "{path}");
        }
    }
    assert_eq!(served(&proxy, "GET", "/v1/responses/resp_first_s", ""), "home", "not yet");
    assert_eq!(responses(r#"{"model":"m","input":"x","stream":true}"#), "first");
    assert_eq!(served(&proxy, "GET", "/v1/responses/resp_first_s", ""), "first", "of a stream");
    assert_eq!(served(&proxy, "DELETE", "/v1/responses/resp_first_s", ""), "first");
    assert_eq!(served(&proxy, "GET", "/v1/responses/resp_first_s", ""), "home", "it is no more");
    assert_eq!(served(&proxy, "GET", "/v1/files", ""), "home", "a list names nothing");
    // A conversation and a store of vectors, which are made at home, take with them who would be asked elsewhere.
    for kind in ["conversations", "vector_stores"] {
        assert_eq!(served(&proxy, "POST", &format!("/v1/{kind}"), "{}"), "home");
    }
    reload(&proxy, 2, "home: home", "home: first");
    assert_eq!(responses(r#"{"model":"m","input":"x","conversation":"conv_other"}"#), "first");
    for body in [
        r#"{"model":"m","input":"x","conversation":"conv_home"}"#,
        r#"{"model":"m","input":"x","conversation":{"id":"conv_home"}}"#,
        r#"{"model":"m","input":"x","tools":[{"type":"file_search","vector_store_ids":["vs_home"]}]}"#,
    ] {
        assert_eq!(responses(body), "home", "{body}");
    }
    assert_eq!(served(&proxy, "GET", "/v1/conversations/conv_home/items", ""), "home");
    assert_eq!(served(&proxy, "POST", "/v1/vector_stores/vs_home/search", r#"{"query":"x"}"#), "home");
    assert_eq!(served(&proxy, "GET", "/v1/conversations/conv_other/items", ""), "first");
}

#[test]
fn what_is_not_stored_is_not_remembered() {
    let (first, home) = (keeper("first"), keeper("home"));
    let proxy = proxy(&first, &home, "");
    assert_eq!(served(&proxy, "POST", "/v1/responses", r#"{"model":"m","input":"x","store":false}"#), "first");
    assert_eq!(served(&proxy, "GET", "/v1/responses/resp_first_1", ""), "home");
    assert!(proxy.ask_admin("/metrics").text().contains("windward_pins 0"));
}

#[test]
fn a_thing_stays_where_it_is_after_a_reload_and_after_a_restart() {
    let (first, home) = (keeper("first"), keeper("home"));
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state: {{ path: {} }}\nlimits: {{ drain_delay: 0s }}", folder.path().join("state.json").display());
    let proxy = proxy(&first, &home, &top);
    assert_eq!(served(&proxy, "POST", "/v1/files", "{}"), "home");
    assert_eq!(served(&proxy, "GET", "/v1/batches/batch_home", ""), "home");
    reload(&proxy, 2, "home: home", "home: first");
    let there = |proxy: &Harness| {
        for (method, path, body, keeper) in [
            ("GET", "/v1/files/file-home-1/content", "", "home"),
            ("GET", "/v1/files/file-home-out", "", "home"),
            ("GET", "/v1/files/file-home-2", "", "first"),
            ("POST", "/v1/batches", r#"{"input_file_id":"file-home-1","endpoint":"/v1/responses"}"#, "home"),
            ("POST", "/v1/batches", r#"{"input_file_id":"file-other","endpoint":"/v1/responses"}"#, "first"),
            ("POST", "/v1/vector_stores", r#"{"file_ids":["file-other","file-home-1"]}"#, "home"),
            ("POST", "/v1/vector_stores/vs_other/files", r#"{"file_id":"file-home-1"}"#, "home"),
            (
                "POST",
                "/v1/responses",
                r#"{"model":"m","store":false,"input":[{"content":[{"type":"input_file","file_id":"file-home-1"}]}]}"#,
                "home",
            ),
        ] {
            assert_eq!(served(proxy, method, path, body), keeper, "{method} {path} {body}");
        }
    };
    there(&proxy);
    proxy.stop();
    let backends = [("first", first.address, "models: [m]"), ("home", home.address, "models: [m]")];
    there(&Harness::with(&top, &backends, "home: first\n    policy: in_order"));
}

#[test]
fn what_is_not_to_be_had_where_it_is_is_asked_for_nowhere_else() {
    let (first, home) = (keeper("first"), keeper("home"));
    let proxy = proxy(&first, &home, "");
    assert_eq!(served(&proxy, "POST", "/v1/responses", NEW), "first");
    // A refusal is its client's: nobody else has it.
    let answer = ask(&proxy, "GET", "/v1/responses/resp_first_1/full", "");
    assert_eq!((answer.status, answer.field("x-windward-backend")), (503, Some("first")));
    assert_eq!(proxy.record()["attempts"].as_array().unwrap().len(), 1);
    let before = r#"{"model":"m","input":"x","previous_response_id":"resp_first_1"}"#;
    let refused = |status: u16, code: &str| {
        for (method, path, body) in [("POST", "/v1/responses", before), ("GET", "/v1/responses/resp_first_1", "")] {
            let answer = ask(&proxy, method, path, body);
            assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)));
            assert_eq!(proxy.record()["error"], code);
        }
    };
    reload(&proxy, 2, "backends: [first, home]", "backends: [home]");
    refused(403, "pinned_elsewhere");
    reload(&proxy, 3, "name: first", "name: other");
    refused(404, "pinned_backend_gone");
}
