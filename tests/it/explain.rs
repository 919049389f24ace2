//! `windward explain` as a program: what it prints where, and its exit codes.

use super::process::windward;

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/log/sample.jsonl");
const PLAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/explain/windward.yaml");

/// Exit code, standard output, standard error.
fn explain(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = windward(["explain"].iter().chain(arguments)).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_is_found_is_explained_on_standard_output_without_colours() {
    let (code, out, error) = explain(&["-c", PLAN, "--model", "gpt-oss-120b"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.starts_with("Model gpt-oss-120b on route chat would go to paris\n") && !out.contains('\u{1b}'), "{out}");
    // The sample has this line twice.
    let (code, out, _) = explain(&["--log", LOG, "--id", "01JD0-0002", "--json"]);
    let reasons: Vec<_> =
        out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["decision"]["reason"].clone()).collect();
    assert_eq!((code, reasons), (Some(0), vec!["least_carbon".into(); 2]));
}

#[test]
fn it_is_asked_for_the_time_at_which_somebody_wonders() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("windward.yaml");
    let text = std::fs::read_to_string(PLAN).unwrap()
        + "carbon: { sources: [file: { path: day.csv }, file: { path: none.csv }, builtin] }\n";
    std::fs::write(&file, text.replace("day.csv", folder.path().join("day.csv").to_str().unwrap())).unwrap();
    let day = "zone,datetime_utc,carbon_intensity\nDE,2026-03-02T10:00:00Z,7\nDE,2026-03-02T11:00:00Z,400\n";
    std::fs::write(folder.path().join("day.csv"), day).unwrap();
    let at = |time: &str| {
        let (code, out, error) = explain(&["-c", file.to_str().unwrap(), "--model", "gpt-oss-120b", "--json", "--at", time]);
        assert!(code == Some(0) && error.contains("none.csv"), "a file that is not there is said to be so: {error}");
        let explanation: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(explanation["asked"]["at"], time);
        let candidates = explanation["decision"]["candidates"].as_array().unwrap().clone();
        candidates.into_iter().find(|it| it["backend"] == "frankfurt").unwrap()
    };
    let clean = at("2026-03-02T10:30:00Z");
    assert_eq!((&clean["verdict"], &clean["intensity_g_per_kwh"]), (&"chosen".into(), &7.0.into()), "{clean:#}");
    let dirty = at("2026-03-02T11:30:00Z");
    assert_eq!((&dirty["verdict"], &dirty["intensity_g_per_kwh"]), (&"dirtier".into(), &400.0.into()), "{dirty:#}");
    let unknown = at("2026-03-03T11:30:00Z")["intensity_g_per_kwh"].as_f64().unwrap();
    assert!(unknown > 100.0 && unknown < 400.0, "the yearly figure: {unknown}");
}

#[test]
fn who_waits_for_a_token_is_taken_for_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("windward.yaml");
    let auth = "name: paris, auth: { bearer: { command: [nowhere] } },";
    std::fs::write(&file, std::fs::read_to_string(PLAN).unwrap().replacen("name: paris,", auth, 1)).unwrap();
    let (code, out, error) = explain(&["-c", file.to_str().unwrap(), "--model", "gpt-oss-120b"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.starts_with("Model gpt-oss-120b on route chat would go to paris\n"), "{out}");
}

/// The shipped examples, by the choice that they leave a model.
#[test]
fn an_example_says_how_much_of_a_choice_there_is() {
    let example = |name: &str, route: &str, model: &str| {
        let file = format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut command = windward(["explain", "-c", &file, "--route", route, "--model", model]);
        for name in ["ELECTRICITY_MAPS_TOKEN", "ANTHROPIC_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env(name, "x");
        }
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, error) = example("anthropic.yaml", "claude", "claude-haiku-4-5");
    assert_eq!(code, Some(0), "{error}");
    for name in ["oregon", "virginia", "stockholm", "anthropic", "SE-SE3"] {
        assert!(out.contains(name), "{name}: {out}");
    }
    let (code, out, error) = example("vertex.yaml", "gemini", "gemini-2.5-flash");
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("3 candidates in 3 grid zones"), "{out}");
}

#[test]
fn what_is_not_found_is_1_and_wrong_usage_is_2() {
    for (arguments, expected) in [
        (&["--log", LOG, "--id", "nobody"][..], 1),
        (&["--log", "not-there.jsonl", "--id", "x"], 1),
        (&["-c", PLAN, "--model", "nobody"], 1),
        (&["-c", LOG, "--model", "gpt-oss-120b"], 1),
        (&["-c", PLAN], 2),
        (&["--log", LOG, "--id", "x", "--model", "m"], 2),
        (&[], 2),
    ] {
        let (code, out, error) = explain(arguments);
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{arguments:?}: {error}");
        assert!(!error.is_empty());
    }
}

#[test]
fn the_examples_say_how_much_choice_their_models_have() {
    for (file, route, model, said) in [
        (
            "bedrock",
            "chat",
            "gpt-oss-120b",
            &["choice       3 candidates in 3 grid zones; 3 meet every constraint, in 3 zones"][..],
        ),
        ("bedrock", "native", "gpt-oss-20b", &["choice       3 candidates in 3 grid zones"]),
        (
            "bedrock",
            "chat",
            "gpt-6-sol",
            &[
                "choice       2 candidates in 1 grid zone; 2 meet every constraint, in 1 zone",
                "they are on one grid, where only PUE tells them apart; the dirtiest (united-states",
                "% more than the cleanest",
                "placement    united-states may run in any of 3 grid zones, from 204 to 418 g/kWh, of which the dirtiest counts: which it is, its provider chooses",
            ],
        ),
        ("bedrock", "chat", "nova-pro", &["where only one meets every constraint there is nothing to choose"]),
        (
            "bedrock",
            "claude",
            "claude-3-5-haiku-20241022",
            &["nothing to choose", "oregon-claude may run in any of 3 grid zones"],
        ),
        ("azure", "openai", "gpt-4.1", &["choice       2 candidates in 2 grid zones"]),
        (
            "anthropic",
            "claude",
            "claude-haiku-4-5",
            &["choice       4 candidates", "placement    anthropic may run in any of 5 grid zones"],
        ),
        ("vertex", "gemini", "gemini-2.5-flash", &["choice       3 candidates in 3 grid zones"]),
        ("vertex", "claude", "claude-haiku-4-5", &["choice       2 candidates in 2 grid zones"]),
        ("vllm", "chat", "llama-3.1-8b-instruct", &["choice       2 candidates in 2 grid zones"]),
    ] {
        let path = format!("{}/config/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let mut command = windward(["explain", "-c", &path, "--route", route, "--model", model]);
        for secret in ["ELECTRICITY_MAPS_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_SWEDEN_KEY", "ANTHROPIC_API_KEY", "VLLM_KEY"]
        {
            command.env(secret, "none");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        for words in said {
            assert!(text.contains(words), "{file}, {model}: {words}\n{text}");
        }
    }
}
