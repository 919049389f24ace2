//! Official SDKs as clients: both binaries as a person starts them, and a script of `tests/sdk` before them.

use std::collections::HashMap;

use crate::process::{Installed, Program, access_log, script, serve, windward};

pub(super) const FLEET: &str = r#"
models: [gpt-oss-120b, text-embedding-3-small]
regions:
  - { region: aws/eu-north-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
  - { region: aws/us-east-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
  - { region: aws/us-west-2, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, require_bearer: another-key }
  - { region: aws/us-west-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
  - { region: aws/eu-west-3, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
"#;

/// A backend for each thing that can happen, each under a model's name of its own, so that no test disturbs another.
pub(super) fn configuration(urls: &HashMap<String, String>) -> String {
    let url = |region: &str| format!("{}/v1", urls[region]);
    format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
backends:
  - {{ name: clean, url: "{}", region: aws/eu-north-1, simulated: true, models: [gpt-oss-120b, text-embedding-3-small] }}
  - {{ name: dirty, url: "{}", region: aws/us-east-1, simulated: true, models: [gpt-oss-120b, text-embedding-3-small] }}
  - {{ name: keyed, url: "{}", region: aws/us-west-2, simulated: true, models: {{ locked: gpt-oss-120b }}, auth: {{ bearer: wrong }} }}
  - {{ name: passing, url: "{}", region: aws/us-west-2, simulated: true, models: {{ own: gpt-oss-120b }}, auth: pass_through }}
  - {{ name: full, url: "{}", region: aws/us-west-1, simulated: true, models: {{ crowded: gpt-oss-120b }} }}
  - {{ name: broken, url: "{}", region: aws/eu-west-3, simulated: true, models: {{ unlucky: gpt-oss-120b }} }}
  - {{ name: gone, url: "http://{}/v1", region: aws/eu-west-3, simulated: true, models: {{ absent: gpt-oss-120b }} }}
routes:
  - {{ name: chat, backends: [clean, dirty, keyed, passing, full, broken, gone], home: dirty }}
  - {{ name: european, match: {{ path: /european }}, backends: [dirty], policy: european }}
policies:
  - {{ name: standard, latency_budget: none }}
  - {{ name: european, latency_budget: none, residency: [eu], on_no_candidate: reject }}
"#,
        url("aws/eu-north-1"),
        url("aws/us-east-1"),
        url("aws/us-west-2"),
        url("aws/us-west-2"),
        url("aws/us-west-1"),
        url("aws/eu-west-3"),
        nobody(),
    )
}

/// An address at which nobody listens: one that was just given back.
pub(super) fn nobody() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a fleet; its regions' URLs by name.
pub(super) fn fleet(folder: &std::path::Path, text: &str) -> (Program, HashMap<String, String>) {
    let file = folder.join("fleet.yaml");
    std::fs::write(&file, text).unwrap();
    let mut fleet = Program::start("windward mock", &mut windward(["mock".as_ref(), "-c".as_ref(), file.as_os_str()]));
    let regions = text.matches("region:").count();
    let row = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next().filter(|url| url.starts_with("http://"))?))
    };
    let urls = (0..regions).map(|_| fleet.wait_for(row)).collect();
    (fleet, urls)
}

#[test]
fn the_official_sdk_notices_nothing() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), FLEET);
    let (proxy, address) = serve(folder.path(), &configuration(&urls));

    let mut checks = script(&cache, "sdk/against_mock.py");
    checks.env("WINDWARD", &address);
    for (name, region) in [("CLEAN", "aws/eu-north-1"), ("FULL", "aws/us-west-1"), ("BROKEN", "aws/eu-west-3")] {
        checks.env(name, &urls[region]);
    }
    let (status, said) = Program::start("against_mock.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(said.iter().any(|line| line == "OK"), "{}", said.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    check_log(&access_log(folder.path()));
}

/// What the exchanges left behind: every number once, the early leaver among them, and no word of what was said.
fn check_log(lines: &[serde_json::Value]) {
    let mut numbers: Vec<u64> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    let first = numbers[0];
    assert!(numbers.iter().zip(first..).all(|(number, expected)| *number == expected), "a gap: {numbers:?}");
    let complete = lines.iter().filter(|line| line["ended"] == "complete").count();
    assert!(complete >= 25, "{complete}");
    // The SDK hangs up at `[DONE]`, before the stream has quite ended, so how a stream ended may be said either way.
    let (early, streams): (Vec<_>, Vec<_>) =
        lines.iter().filter(|line| line["stream"] == true).partition(|line| line["client_request_id"] == "leaves-early");
    let [early] = early[..] else { panic!("{} exchanges of one client", early.len()) };
    assert_eq!((&early["ended"], &early["usage_source"]), (&"client_gone".into(), &"counted".into()), "{early}");
    assert_eq!(streams.len(), 6);
    for line in streams {
        assert_eq!((&line["usage_source"], &line["gen_ai.usage.output_tokens"]), (&"reported".into(), &12.into()), "{line}");
    }
    let text = serde_json::to_string(lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-client-key") && !text.contains("wrong"), "a secret is in the log");
}

/// One region that is held to its signature, and one that is full.
pub(super) const AWS_FLEET: &str = r#"
models: ["openai.gpt-oss-120b-1:0", "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc"]
regions:
  - { region: aws/us-west-2, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0, require_sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary } }
  - { region: aws/us-east-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
"#;

#[test]
fn boto3_notices_nothing() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), AWS_FLEET);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0", tls: {{ certificate: cert.pem, key: key.pem }} }}]
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
  - name: full
    url: {}
    dialect: bedrock
    region: aws/us-east-1
    simulated: true
    models: {{ crowded: openai.gpt-oss-120b-1:0 }}
"#,
        urls["aws/us-west-2"], urls["aws/us-east-1"],
    );
    // boto3 shows a token to nobody without TLS.
    let certificate = folder.path().join("cert.pem");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (proxy, address) = serve(folder.path(), &configuration);
    let mut checks = script(&cache, "sdk/bedrock.py");
    checks
        .env("WINDWARD", address.replace("http:", "https:"))
        .env("AWS_CA_BUNDLE", &certificate)
        .env("FULL", &urls["aws/us-east-1"]);
    checks.env("AWS_BEARER_TOKEN_BEDROCK", "a-key-of-the-gateway").env("WINDWARD_ACCESS_KEY_ID", "WWAPP");
    checks.env("WINDWARD_SECRET_ACCESS_KEY", "a-key-of-the-gateway");
    let (status, said) = Program::start("bedrock.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    let answered: Vec<_> = lines.iter().filter(|line| line["http.response.status_code"] == 200 && line["key"] == "app").collect();
    assert!(answered.len() >= 16, "{}", answered.len());
    for line in answered.iter().filter(|line| line["gen_ai.operation.name"] != "count_tokens") {
        assert_eq!((&line["usage_source"], &line["backend"]), (&"reported".into(), &"oregon".into()), "{line}");
        assert!(line["gen_ai.usage.output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("hush"), "a secret is in the log");
}

/// What can happen to a client of Anthropic's, each under a model's name of its own.
const CLAUDE_FLEET: &str = r#"
models: [claude-there]
regions:
  - { region: aws/eu-north-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0, require_bearer: own-key }
  - { region: aws/us-west-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
  - { region: aws/eu-west-3, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
"#;

#[test]
fn anthropics_sdk_notices_nothing() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), CLAUDE_FLEET);
    let url = |region: &str| format!("{}/v1", urls[region]);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway }}]
backends:
  - {{ name: clean, url: "{}", dialect: anthropic, region: aws/eu-north-1, simulated: true, models: {{ claude: claude-there }}, auth: {{ header: {{ name: x-api-key, value: own-key }} }} }}
  - {{ name: full, url: "{}", dialect: anthropic, region: aws/us-west-1, simulated: true, models: {{ crowded: claude-there }} }}
  - {{ name: broken, url: "{}", dialect: anthropic, region: aws/eu-west-3, simulated: true, models: {{ unlucky: claude-there }} }}
  - {{ name: gone, url: "http://{}/v1", dialect: anthropic, region: aws/eu-west-3, simulated: true, models: {{ absent: claude-there }} }}
"#,
        url("aws/eu-north-1"),
        url("aws/us-west-1"),
        url("aws/eu-west-3"),
        nobody(),
    );
    let (proxy, address) = serve(folder.path(), &configuration);
    let mut checks = script(&cache, "sdk/anthropics.py");
    checks.env("WINDWARD", &address).env("ANTHROPIC_API_KEY", "a-key-of-the-gateway").env_remove("ANTHROPIC_AUTH_TOKEN");
    checks.env("FULL", &urls["aws/us-west-1"]).env("BROKEN", &urls["aws/eu-west-3"]);
    let (status, said) = Program::start("anthropics.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    let answered = lines.iter().filter(|line| line["backend"] == "clean" && line["http.response.status_code"] == 200);
    let answered: Vec<_> = answered.filter(|line| line["gen_ai.operation.name"] == "chat").collect();
    assert!(answered.len() >= 8, "{}", answered.len());
    for line in answered {
        assert_eq!((&line["usage_source"], &line["key"]), (&"reported".into(), &"app".into()), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("own-key"), "a secret is in the log");
}

/// Regions that speak Bedrock's own API, and nothing else.
const TRANSLATED_FLEET: &str = r#"
models: [a.claude]
regions:
  - { region: aws/us-west-2, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0, require_sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush } }
  - { region: aws/us-east-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
"#;

#[test]
fn sdks_of_other_apis_notice_nothing_of_bedrock() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), TRANSLATED_FLEET);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway }}]
backends:
  - name: oregon
    url: {}
    dialect: bedrock
    translate: &both [openai, anthropic]
    region: aws/us-west-2
    simulated: true
    auth: {{ sigv4: {{ access_key_id: AKIDMOCK, secret_access_key: hush }} }}
    models: {{ claude: a.claude, dizzy: a.claude, woozy: a.claude }}
  - {{ name: full, url: "{}", dialect: bedrock, translate: *both, region: aws/us-east-1, simulated: true, models: {{ crowded: a.claude, packed: a.claude }} }}
routes:
  - {{ name: claude, match: {{ headers: {{ anthropic-version: "*" }} }}, dialect: anthropic, backends: [oregon, full] }}
  - {{ name: chat, dialect: openai, backends: [oregon, full] }}
"#,
        urls["aws/us-west-2"], urls["aws/us-east-1"],
    );
    let (proxy, address) = serve(folder.path(), &configuration);
    let mut checks = script(&cache, "sdk/translated.py");
    checks.env("WINDWARD", &address).env("FULL", &urls["aws/us-east-1"]).env_remove("ANTHROPIC_AUTH_TOKEN");
    let (status, said) = Program::start("translated.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    let answered: Vec<_> = lines.iter().filter(|line| line["http.response.status_code"] == 200 && line["key"] == "app").collect();
    assert!(answered.len() >= 16, "{}", answered.len());
    let (within, whole): (Vec<&serde_json::Value>, Vec<_>) = answered
        .iter()
        .copied()
        .filter(|line| line["backend"].is_string())
        .partition(|line| line["error"] == "backend_error_event");
    assert!(within.len() == 2 && within.iter().all(|line| line["usage_source"] == "counted"), "{within:?}");
    for line in whole {
        assert_eq!((&line["usage_source"], &line["backend"]), (&"reported".into(), &"oregon".into()), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("hush"), "a secret is in the log");
}

const VERTEX_FLEET: &str = r#"
models: [flash-there]
regions:
  - { region: gcp/europe-north1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0, require_bearer: own-token }
  - { region: gcp/us-central1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
"#;

#[test]
fn googles_sdk_notices_nothing() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), VERTEX_FLEET);
    let url = |region: &str| format!("{}/v1/projects/own/locations/there/publishers/google", urls[region]);
    let configuration = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway }}]
backends:
  - {{ name: clean, url: "{}", dialect: gemini, region: gcp/europe-north1, simulated: true, models: {{ flash: flash-there, claude: flash-there }}, auth: {{ bearer: own-token }} }}
  - {{ name: full, url: "{}", dialect: gemini, region: gcp/us-central1, simulated: true, models: {{ crowded: flash-there }} }}
"#,
        url("gcp/europe-north1"),
        url("gcp/us-central1"),
    );
    let (proxy, address) = serve(folder.path(), &configuration);
    let mut checks = script(&cache, "sdk/gemini.py");
    checks.env("WINDWARD", &address).env("GATEWAY_KEY", "a-key-of-the-gateway").env("FULL", &urls["gcp/us-central1"]);
    let (status, said) = Program::start("gemini.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    let answered: Vec<_> =
        lines.iter().filter(|line| line["backend"] == "clean" && line["http.response.status_code"] == 200).collect();
    assert!(answered.len() >= 10, "{}", answered.len());
    for line in answered.iter().filter(|line| line["gen_ai.operation.name"] != "count_tokens") {
        assert_eq!((&line["usage_source"], &line["key"]), (&"reported".into(), &"app".into()), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("own-token"), "a secret is in the log");
}

/// Resources of Azure's: one that wants its key, one that wants none, and one that is full.
const AZURE_FLEET: &str = r#"
models: [gpt-there, ada-there]
regions:
  - { region: azure/swedencentral, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0, require_bearer: own-key }
  - { region: azure/francecentral, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
  - { region: azure/westeurope, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1 }
"#;

/// A resource behind each of Azure's two APIs, before clients of both and of OpenAI's.
fn azure_configuration(urls: &HashMap<String, String>) -> String {
    format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway }}]
backends:
  - name: classic
    url: {}/openai
    dialect: azure-openai
    api_version: 2024-10-21
    region: azure/swedencentral
    simulated: true
    auth: {{ header: {{ name: api-key, value: own-key }} }}
    models: {{ gpt: gpt-there, ada: ada-there }}
  - {{ name: v1, url: "{}/openai/v1", dialect: azure-openai, region: azure/francecentral, simulated: true, models: {{ gpt-v1: gpt-there }} }}
  - {{ name: full, url: "{}/openai/v1", dialect: azure-openai, region: azure/westeurope, simulated: true, models: {{ crowded: gpt-there }} }}
routes:
  - {{ name: openai, backends: &all [classic, v1, full] }}
  - {{ name: azure, match: {{ path: /openai }}, backends: *all }}
  - {{ name: azure-v1, match: {{ path: /openai/v1 }}, backends: *all }}
"#,
        urls["azure/swedencentral"], urls["azure/francecentral"], urls["azure/westeurope"],
    )
}

/// Runs a script of clients of Azure's, of whose requests so many at least have to be answered.
fn before_azure(name: &'static str, answers: usize) {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), AZURE_FLEET);
    let (proxy, address) = serve(folder.path(), &azure_configuration(&urls));
    let mut checks = script(&cache, &format!("sdk/{name}"));
    checks.env("WINDWARD", &address).env("FULL", &urls["azure/westeurope"]);
    // What stands there would be taken for the client's own choice.
    for variable in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION"] {
        checks.env_remove(variable);
    }
    let (status, said) = Program::start(name, &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    let answered: Vec<_> =
        lines.iter().filter(|line| line["backend"].is_string() && line["http.response.status_code"] == 200).collect();
    assert!(answered.len() >= answers, "{} of {answers}", answered.len());
    for line in answered {
        assert_eq!((&line["usage_source"], &line["key"]), (&"reported".into(), &"app".into()), "{line}");
        let place = line["region"].as_str().and_then(|region| region.strip_prefix("azure/")).unwrap();
        assert_eq!(line["placement_evidence"], format!("x-ms-region={place}"), "{line}");
    }
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains("wind blow") && !text.contains("a-key-of") && !text.contains("own-key"), "a secret is in the log");
}

#[test]
fn azures_client_notices_nothing() {
    before_azure("azures.py", 14);
}

#[test]
fn langchain_notices_nothing() {
    before_azure("langchains.py", 16);
}
