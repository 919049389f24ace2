//! Whole explanations, against files that somebody has read.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Env, NoFiles};
use crate::decide::decide;
use crate::demand::Size;
use crate::state::{self, Snapshot};

const SAMPLE: &str = include_str!("../../tests/cases/log/sample.jsonl");
const FULL: &str = include_str!("../../tests/cases/log/full.json");
const PLAN: &str = include_str!("../../tests/cases/explain/windward.yaml");

fn snapshot() -> Snapshot {
    let plan = config::load("windward.yaml", PLAN, &Env::default(), &NoFiles).unwrap().plan;
    Snapshot::first(Arc::new(plan), SystemClock.monotonic())
}

/// A streamed chat of a thousand tokens.
fn chat(model: &str) -> Question<'_> {
    Question {
        model,
        target: Target::Path("/v1/chat/completions"),
        prompt_tokens: 1000,
        max_output_tokens: None,
        streamed: true,
        key: None,
        at: None,
    }
}

fn answered<'a>(snapshot: &'a Snapshot, question: &Question<'a>) -> Result<Explanation<'a>, Unanswered> {
    answer(snapshot, question, SystemClock.monotonic(), SystemClock.wall())
}

/// Compares with the file, or writes it when `WINDWARD_BLESS` is set: then read the difference before you commit it.
fn golden(name: &str, explanation: &Explanation<'_>) {
    for (ending, got) in [("txt", render::text(explanation, false)), ("json", render::json(explanation))] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cases/explain/{name}.{ending}"));
        if std::env::var_os("WINDWARD_BLESS").is_some() {
            std::fs::write(&path, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(got == expected, "{name}.{ending} differs; this is what came out:\n{got}");
    }
}

fn of_line(line: &str) -> Explanation<'_> {
    serde_json::from_str::<AccessRecord<'_>>(line).unwrap().into()
}

#[test]
fn questions_are_answered_as_before() {
    let snapshot = snapshot();
    let ask = |name: &str, question: &Question<'_>| golden(name, &answered(&snapshot, question).unwrap());
    ask("chat", &chat("gpt-oss-120b"));
    ask("key", &Question { key: Some("team-blue"), ..chat("gpt-oss-120b") });
    ask("refused", &Question { target: Target::Route("batch"), ..chat("gpt-oss-120b") });
    ask("whole", &Question { target: Target::Route("batch"), streamed: false, ..chat("gpt-oss-120b") });
    ask("turns", &Question { target: Target::Route("turns"), max_output_tokens: Some(50), ..chat("gpt-oss-120b") });
    ask("one_grid", &Question { target: Target::Route("near"), ..chat("gpt-oss-120b") });
    ask("embeddings", &Question { target: Target::Path("/v1/embeddings"), streamed: false, ..chat("only-here") });
}

#[test]
fn lines_are_explained_as_before() {
    let lines: Vec<&str> = SAMPLE.lines().collect();
    golden("line", &of_line(lines[0]));
    golden("line_failed_over", &of_line(lines[2]));
    golden("line_client_gone", &of_line(lines[5]));
    golden("line_full", &of_line(FULL));
}

#[test]
fn the_answer_is_what_the_proxy_decides() {
    let snapshot = snapshot();
    let (now, wall) = (SystemClock.monotonic(), SystemClock.wall());
    for route in &snapshot.plan.routes {
        let question = Question { target: Target::Route(&route.name), ..chat("gpt-oss-120b") };
        let explanation = answer(&snapshot, &question, now, wall).unwrap();
        let size = Size { prompt_tokens: 1000, output_tokens: 250 };
        let warm = crate::affinity::Warm::default();
        let now = snapshot.now(now);
        let of_all = state::Question { model: question.model, size, policy: &route.policy, warm, now, wall, turn: 0 };
        let candidates: Vec<_> =
            route.candidates(question.model).iter().map(|one| snapshot.candidate(one, true, &of_all).unwrap()).collect();
        let decision = explanation.decision.unwrap();
        match decide(&route.policy, true, &candidates, 0) {
            Ok(decided) => {
                let words = |verdict: &crate::decide::Verdict| (verdict.as_str(), verdict.by());
                let expected: Vec<_> = decided.verdicts.iter().map(words).collect();
                let got: Vec<_> = decision.candidates.iter().map(|it| (&*it.verdict, it.by)).collect();
                assert_eq!((got, &*decision.reason), (expected, decided.reason.as_str()));
            }
            Err(why) => assert_eq!(explanation.refusal, Some(format!("the client gets 503: {why}"))),
        }
    }
}

#[test]
fn what_the_proxy_would_hold_back_or_shed_is_said_to_be_so() {
    for (budget, reason, said, title) in [
        (
            "500ms",
            "held",
            "the client waits until somebody can answer in time, and is refused if nobody can",
            "would be held back",
        ),
        ("50ms", "shed", "the client gets 429: nobody can answer in time", "would be refused"),
    ] {
        let policy = |name: &str| {
            format!("  - {{ name: {name}, latency_budget: {{ first_token: {budget} }}, overload: hold_then_shed }}\n")
        };
        let text = format!(
            "policies:\n{}{}backends:\n  - {{ name: a, url: \"http://127.0.0.1:1/v1\", grid_zone: DE }}\n\
             routes: [{{ name: r, policy: p, shadow: s, backends: [a] }}]\n",
            policy("p"),
            policy("s")
        );
        let plan = config::load("t.yaml", &text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}")).plan;
        let snapshot = Snapshot::first(Arc::new(plan), SystemClock.monotonic());
        let question = Question { target: Target::Route("r"), ..chat("m") };
        let idle = answered(&snapshot, &question).unwrap();
        assert_eq!((&*idle.decision.unwrap().reason, idle.refusal), ("fastest_over_budget", None), "nobody is there to wait for");
        let _permit = snapshot.live[0].admit(0);
        let busy = answered(&snapshot, &question).unwrap();
        assert_eq!((&*busy.decision.as_ref().unwrap().reason, busy.refusal.as_deref()), (reason, Some(said)));
        assert_eq!(&*busy.shadow.as_ref().unwrap().reason, reason);
        let told = render::text(&busy, false);
        assert!(told.contains(said) && told.contains(title) && told.contains("chosen       nobody, "), "{told}");
    }
}

#[test]
fn what_cannot_be_answered_says_why() {
    let snapshot = snapshot();
    let why = |question: &Question<'_>| answered(&snapshot, question).unwrap_err().to_string();
    assert_eq!(
        why(&chat("gpt-oss-12b")),
        "nobody on route `chat` serves \"gpt-oss-12b\" (did you mean \"gpt-oss-120b\"?); it has gpt-oss-120b, only-here"
    );
    assert!(why(&chat("a\u{1b}[2J")).contains(r"a\u{1b}[2J"), "a name cannot act on the terminal");
    let on = |target| Question { target, ..chat("gpt-oss-120b") };
    assert_eq!(why(&on(Target::Route("x"))), "no route is called \"x\"; there are chat, batch, turns, near");
    assert!(why(&on(Target::Path("/v2/chat/completions"))).starts_with("no route takes "));
    assert!(why(&on(Target::Path("/v1/files"))).ends_with("it goes to the route's home, `virginia`"));
    assert!(why(&on(Target::Path("/v1/models"))).contains("it is refused, and allows GET"));
    assert_eq!(why(&Question { key: Some("y"), ..chat("m") }), "there is no key called \"y\"");
    let batch = Question { key: Some("team-blue"), ..on(Target::Route("batch")) };
    assert_eq!(why(&batch), "the key `team-blue` does not open this route");
}

#[test]
fn a_line_cannot_act_on_whoever_reads_it() {
    let line = FULL.replace("aws-oregon", r"a\u001b[2Jb").replace("least_carbon", r"x\u0007").replace("gpt-4o", r"\u009b1m");
    let text = render::text(&of_line(&line), false);
    assert!(text.contains("a\u{fffd}[2Jb") && !text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
}

#[test]
fn a_line_that_was_not_decided_is_explained_too() {
    let line = r#"{"time":"2026-11-20T10:00:00Z","instance":"i","run":"r","seq":0,"generation":1,"id":"x",
        "http.request.method":"POST","url.path":"/v1/models","ended":"rejected","error":"model_not_found"}"#;
    let text = render::text(&of_line(line), false);
    assert!(text.contains("was not decided") && text.contains("error model_not_found") && text.contains("it was sent nowhere"));
}

/// Every value below, by its path.
fn places(value: &serde_json::Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    for (name, member) in value.as_object().into_iter().flatten() {
        places(member, &format!("{path}/{name}"), all);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        places(item, &format!("{path}/{index}"), all);
    }
}

proptest! {
    /// A line with some of its values replaced, which is what is left of a record that somebody edited.
    #[test]
    fn no_line_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, "\\PC{0,80}", -1e300..1e300_f64), 1..6),
        colour in any::<bool>(),
    ) {
        let mut value: serde_json::Value = serde_json::from_str(FULL).unwrap();
        for (place, kind, text, number) in changes {
            let mut all = Vec::new();
            places(&value, "", &mut all);
            let Some(slot) = value.pointer_mut(&all[place.index(all.len())]) else { continue };
            *slot = match kind {
                0 => serde_json::Value::Null,
                1 => number.into(),
                2 => number.abs().into(),
                3 => serde_json::json!([]),
                4 => u64::MAX.into(),
                _ => text.into(),
            };
        }
        let line = value.to_string();
        if let Ok(record) = serde_json::from_str::<AccessRecord<'_>>(&line) {
            let explanation = Explanation::from(record);
            prop_assert!(render::text(&explanation, colour).ends_with('\n'));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&render::json(&explanation)).is_ok());
        }
    }

    #[test]
    fn no_log_makes_the_search_panic(log in prop::collection::vec(any::<u8>(), 0..400), id in "\\PC{0,12}") {
        prop_assert_eq!(search(&log[..], &id).unwrap().found, []);
    }
}
