//! Recorded streams of every dialect, through the proxy: what the client gets is what the backend sent, and what is booked is what the
//! file says.

use std::path::Path;

use serde_json::Value;

use super::support::peer::{Then, chunk, end_chunks};
use super::support::{Client, Harness, Peer};

/// The dialect of a stream, how it is asked for, and whether the request's body says that it is to be one.
fn asked(name: &str, expected: &Value) -> (&'static str, &'static str, bool) {
    match (name.split('-').next(), expected["operation"].as_str()) {
        (_, Some("chat")) => ("openai", "/v1/chat/completions", true),
        (_, Some("completions")) => ("openai", "/v1/completions", true),
        (_, Some("responses")) => ("openai", "/v1/responses", true),
        (_, Some("messages")) => ("anthropic", "/v1/messages", true),
        (_, Some("generate_content")) => ("gemini", "/v1/models/m:streamGenerateContent?alt=sse", false),
        (Some("converse"), None) => ("bedrock", "/v1/model/m/converse-stream", false),
        (Some("invoke"), None) => ("bedrock", "/v1/model/m/invoke-with-response-stream", false),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn every_recorded_stream_arrives_as_it_was_sent_and_is_booked_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/wire");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = std::collections::BTreeMap::new();
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "json")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let expected: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let (dialect, path, by_body) = asked(&name, &expected);
        let (sent, kind) = if let Ok(events) = std::fs::read(file.with_extension("sse")) {
            (events, "text/event-stream")
        } else {
            let lines = std::fs::read(file.with_extension("events")).unwrap();
            (super::support::frames::frames(&lines), "application/vnd.amazon.eventstream")
        };
        *seen.entry(dialect).or_insert(0) += 1;
        // In pieces that end within lines, characters and frames.
        for size in [7, sent.len()] {
            let (pieces, kind) = (sent.clone(), format!("content-type: {kind}\r\n"));
            let peer = Peer::start(move |_, stream| {
                let head = format!("HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n\r\n");
                let _ = std::io::Write::write_all(stream, head.as_bytes());
                pieces.chunks(size).for_each(|piece| chunk(stream, piece));
                end_chunks(stream);
                Then::Next
            });
            let backend = format!("dialect: {dialect}\n    models: [m]\n    usage: never");
            let proxy = Harness::start(&[("one", peer.address, &backend)], "");
            let body = if by_body { r#"{"model":"m","stream":true,"max_tokens":9,"messages":[]}"# } else { r#"{"messages":[]}"# };
            let mut client = Client::connect(proxy.address);
            client.post(path, "anthropic-version: 2023-06-01\r\n", body);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            assert!(answer.body() == sent, "{name} in pieces of {size}: other bytes");
            let record = proxy.record();
            // Where nobody said anything it is estimated, and marked so.
            let source = if expected["source"] == "unknown" { &Value::from("estimated") } else { &expected["source"] };
            assert_eq!(record["usage_source"], *source, "{name}: {record}");
            for (field, count) in [
                ("gen_ai.usage.input_tokens", "input_tokens"),
                ("cached_input_tokens", "cached_tokens"),
                ("gen_ai.usage.output_tokens", "output_tokens"),
                ("reasoning_tokens", "reasoning_tokens"),
            ] {
                assert_eq!(token_count(&record, field), token_count(&expected["usage"], count), "{name}, {count}: {record}");
            }
        }
    }
    assert!(["openai", "anthropic", "bedrock", "gemini"].iter().all(|dialect| seen[dialect] >= 4), "{seen:?}");
}

/// What was said, and not what was estimated because nobody said it.
fn token_count(of: &Value, name: &str) -> Option<u64> {
    let of_record = ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].contains(&name);
    let estimated =
        of_record && (of["usage_source"] == "estimated" || name.contains("input") && of["input_tokens_source"] == "estimated");
    of.get(name).filter(|_| !estimated).and_then(Value::as_u64)
}
