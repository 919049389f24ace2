//! Official SDKs of other languages as clients, beside those for Python in [`super::sdk`]: the same fleet, the same proxy, and the
//! programs of `tests/clients` before them.

use std::path::Path;
use std::process::Command;

use crate::process::{Installed, Program, access_log, node, rust_client, serve};
use crate::sdk::{AWS_FLEET, FLEET, configuration, fleet};

/// A program of `tests/clients/node`.
fn script(cache: &Path, name: &str) -> Command {
    let mut command = node(cache);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node").join(name));
    command
}

#[test]
fn openais_sdk_for_node_notices_nothing() {
    let Some(cache) = Installed::Node.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), FLEET);
    let (proxy, address) = serve(folder.path(), &configuration(&urls));
    let mut checks = script(&cache, "openai.cjs");
    checks.env("WINDWARD", address).env("FULL", &urls["aws/us-west-1"]);
    passes("openai.cjs", &mut checks, proxy, fleet);
    let lines = access_log(folder.path());
    let early: Vec<_> = lines.iter().filter(|line| line["client_request_id"] == "leaves-early").collect();
    assert!(early.len() == 1 && early[0]["ended"] == "client_gone", "{early:?}");
    for line in lines
        .iter()
        .filter(|line| !line["backend"].is_null() && line["ended"] == "complete" && line["http.response.status_code"] == 200)
    {
        assert_eq!(line["usage_source"], "reported", "{line}");
    }
}

#[test]
fn awss_sdk_for_node_notices_nothing() {
    let Some(cache) = Installed::Node.folder() else { return };
    signed("bedrock.cjs", &mut script(&cache, "bedrock.cjs"), 6);
}

#[test]
fn awss_sdk_for_rust_notices_nothing() {
    let Some(cache) = Installed::Rust.folder() else { return };
    signed("the client in Rust", &mut Command::new(rust_client(&cache)), 6);
}

/// Runs a client of Bedrock that signs with a key of the gateway, before a region that is held to the gateway's own signature. At least
/// so many of its requests have to be answered.
fn signed(name: &'static str, checks: &mut Command, answers: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), AWS_FLEET);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway, access_key_id: WWAPP }}]
backends:
  - name: oregon
    url: {}
    dialect: bedrock
    region: aws/us-west-2
    simulated: true
    auth: {{ sigv4: {{ access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary }} }}
    models:
      gpt-oss: openai.gpt-oss-120b-1:0
      "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc":
"#,
        urls["aws/us-west-2"],
    );
    let (proxy, address) = serve(folder.path(), &configuration);
    checks.env("WINDWARD", address).env("ACCESS_KEY_ID", "WWAPP").env("KEY", "a-key-of-the-gateway");
    passes(name, checks, proxy, fleet);
    let lines = access_log(folder.path());
    let answered: Vec<_> = lines.iter().filter(|line| line["http.response.status_code"] == 200 && line["key"] == "app").collect();
    assert!(answered.len() >= answers, "{} of {answers}", answered.len());
    for line in answered.iter().filter(|line| line["gen_ai.operation.name"] != "count_tokens") {
        assert_eq!((&line["usage_source"], &line["backend"]), (&"reported".into(), &"oregon".into()), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("hush"), "a secret is in the log");
}

/// Runs it to its end, stops the others, and fails with all that was said if anything ended otherwise than well.
fn passes(name: &'static str, checks: &mut Command, proxy: Program, fleet: Program) {
    // A proxy that the machine goes through must not stand between the test and its own loopback.
    checks.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let (status, said) = Program::start(name, checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
}
