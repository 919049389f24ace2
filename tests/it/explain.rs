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
