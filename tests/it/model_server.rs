//! A real model server behind the proxy: llama.cpp's, twice, as two regions that serve the same model.
//!
//! Its model is of random weights and says nothing that means anything, but its HTTP, its streams and its counts of tokens are those
//! that people run, and were not written by whoever wrote the proxy.

use std::path::Path;

use serde_json::Value;

use crate::process::{Installed, Program, access_log, script, serve};

fn model_server(cache: &Path) -> (Program, String) {
    let mut command = script(cache, "tools/model_server.py");
    let mut server = Program::start("model_server.py", command.arg(cache.join("tiny.gguf")).arg("tiny"));
    let url = server.wait_for(|line| line.starts_with("http://").then(|| line.to_owned()));
    (server, url)
}

/// Runs the client; what it noted of each answer.
fn ask(cache: &Path, windward: &str, what: &str) -> Vec<Value> {
    let mut command = script(cache, "sdk/against_server.py");
    let (status, said) = Program::start("against_server.py", command.arg(what).env("WINDWARD", windward)).finish();
    assert!(status.success(), "{}", said.join("\n"));
    said.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn two_model_servers_are_two_regions() {
    let Some(cache) = Installed::Server.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (clean, clean_url) = model_server(&cache);
    let (dirty, dirty_url) = model_server(&cache);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
backends:
  - {{ name: dirty, url: "{dirty_url}/v1", region: aws/us-east-1, models: [tiny] }}
  - {{ name: clean, url: "{clean_url}/v1", region: aws/eu-north-1, models: [tiny] }}
policies:
  - {{ name: standard, latency_budget: none }}
"#
    );
    let (proxy, address) = serve(folder.path(), &configuration);

    let mut notes = ask(&cache, &address, "all");
    assert_eq!(notes.len(), 6);
    assert!(notes.iter().all(|note| note["backend"] == "clean"), "{notes:?}");
    clean.stop();
    let after = ask(&cache, &address, "one");
    assert_eq!(after[0]["backend"], "dirty", "the other region takes over");
    notes.extend(after);
    let (status, said) = proxy.stop();
    assert!(status.success(), "{}", said.join("\n"));
    dirty.stop();

    let log = access_log(folder.path());
    assert_eq!(log.len(), notes.len());
    for note in &notes {
        let line = log.iter().find(|line| line["id"] == note["id"]).unwrap();
        assert_eq!((&line["backend"], &line["usage_source"]), (&note["backend"], &"reported".into()), "{line}");
        let logged = serde_json::json!([line["gen_ai.usage.input_tokens"], line["gen_ai.usage.output_tokens"]]);
        // The client that did not ask was told nothing, and yet it is known.
        let expected = if note["usage"].is_null() { &logged } else { &note["usage"] };
        assert_eq!((&logged, &logged[1]), (expected, &16.into()), "{line}");
    }
    let tried: Vec<usize> = log.iter().map(|line| line["attempts"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(tried, [1, 1, 1, 1, 1, 1, 2]);
}
