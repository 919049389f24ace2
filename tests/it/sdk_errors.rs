//! Windward's own errors before the official SDKs: one proxy with a route for each API, and `tests/sdk/own_errors.py` before it.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::process::{Installed, Program, access_log, script, serve};
use super::sdk::{fleet, nobody};

const FLEET: &str = r#"
models: [there]
regions:
  - { region: aws/us-east-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
  - { region: aws/us-west-1, listen: "127.0.0.1:0", rtt_ms: 1, replicas: 1, token_ms: 0.5, token_ms_per_request: 0 }
"#;

/// Each API: its name here and in the configuration, what its backends' URLs end with, and what its clients put before their paths.
const APIS: [(&str, &str, &str, &str); 5] = [
    ("openai", "openai", "/v1", "/v1"),
    ("azure", "azure-openai, api_version: 2024-10-21", "/openai", "/openai"),
    ("anthropic", "anthropic", "/v1", "/v1"),
    ("bedrock", "bedrock", "", ""),
    ("gemini", "gemini", "/v1/projects/own/locations/there/publishers/google", ""),
];

fn configuration(urls: &HashMap<String, String>) -> String {
    let (fine, full) = (&urls["aws/us-east-1"], &urls["aws/us-west-1"]);
    let (mut backends, mut routes, mut open) = (String::new(), String::new(), Vec::new());
    for (api, dialect, end, before) in APIS {
        let mut backend = |name: &str, url: &str, model: &str, more: &str| {
            let _ = writeln!(
                backends,
                "  - {{ name: {name}-{api}, url: \"{url}{end}\", dialect: {dialect}, region: aws/us-east-1, simulated: true, \
                 models: {{ {model}: there }}{more} }}"
            );
        };
        backend("fine", fine, "small", "");
        // Nobody has asked it, so that it is as late as it is said to be.
        backend("slow", fine, "slow", ", expect: { first_token: 10s }, probe: false");
        backend("full", full, &format!("crowded-{api}"), "");
        backend("dizzy", fine, "dizzy", "");
        backend("gone", &format!("http://{}", nobody()), "absent", "");
        for (name, path, policy) in [("", "", "standard"), ("late-", "/late", "late"), ("closed-", "/closed", "standard")] {
            let _ = writeln!(
                routes,
                "  - {{ name: {name}{api}, match: {{ path: {path}/{api}{before} }}, policy: {policy}, \
                 backends: [fine-{api}, slow-{api}, full-{api}, dizzy-{api}, gone-{api}] }}"
            );
            if name != "closed-" {
                open.push(format!("{name}{api}"));
            }
        }
    }
    format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
log: {{ access: access.jsonl }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
keys: [{{ name: app, secret: a-key-of-the-gateway, access_key_id: WWAPP, routes: [{}] }}]
backends:
{backends}routes:
{routes}policies:
  - {{ name: standard, latency_budget: none }}
  - {{ name: late, latency_budget: {{ first_token: 400ms, total: 400ms }}, overload: hold_then_shed }}
"#,
        open.join(", ")
    )
}

#[test]
fn every_sdk_understands_the_gateways_own_errors_and_comes_again_when_it_is_told() {
    let Some(cache) = Installed::Sdk.folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (fleet, urls) = fleet(folder.path(), FLEET);
    let (proxy, address) = serve(folder.path(), &configuration(&urls));
    let mut checks = script(&cache, "sdk/own_errors.py");
    checks.env("WINDWARD", &address).env("FULL", &urls["aws/us-west-1"]);
    for variable in
        ["AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "GOOGLE_API_KEY"]
    {
        checks.env_remove(variable);
    }
    let (status, said) = Program::start("own_errors.py", &mut checks).finish();
    let (served, log) = proxy.stop();
    fleet.stop();
    assert!(status.success(), "{}\n\nthe proxy said:\n{}", said.join("\n"), log.join("\n"));
    assert!(served.success(), "{served}: {}", log.join("\n"));
    let lines = access_log(folder.path());
    for (api, ..) in APIS {
        let of_route =
            |route: &str, error: &str| lines.iter().filter(|line| line["route"] == route && line["error"] == error).count();
        assert!(of_route(&format!("late-{api}"), "shed") >= 1 && of_route(api, "no_candidate") >= 1, "{api}");
        let within: Vec<_> = lines.iter().filter(|line| line["backend"] == format!("dizzy-{api}")).collect();
        assert_eq!(within.len(), 1, "{api}: what was full within an answer is not asked for again at once: {within:?}");
        // Gemini's chunks say what there is so far.
        let source = if api == "gemini" { "reported" } else { "counted" };
        let said = (&within[0]["error"], &within[0]["usage_source"], &within[0]["gen_ai.usage.output_tokens"]);
        assert_eq!(said, (&"backend_error_event".into(), &source.into(), &3.into()), "{api}");
        let again =
            lines.iter().filter(|line| line["backend"] == format!("full-{api}") && line["http.response.status_code"] == 200);
        assert!(again.count() >= 2, "{api}: whole and as a stream, once there was room");
    }
}
