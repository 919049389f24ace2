//! The report as a whole, against a log that holds one of everything.

use proptest::prelude::*;

use super::figures::Cost;
use super::*;
use crate::record::{Emissions, Ended};
use crate::units::Grams;

const SAMPLE: &str = include_str!("../../tests/cases/log/sample.jsonl");

fn read(logs: &[&str]) -> Summary {
    let mut summary = Summary::new();
    for log in logs {
        summarise("sample.jsonl", log.as_bytes(), &mut summary).unwrap();
    }
    summary
}

fn report(logs: &[&str]) -> Report {
    read(logs).report(&Dimension::ALL)
}

/// Compares with the file, or writes it when `WINDWARD_BLESS` is set: then read the difference before you commit it.
fn golden(name: &str, got: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/log").join(name);
    if std::env::var_os("WINDWARD_BLESS").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(got == expected, "{name} differs; this is what came out:\n{got}");
}

/// The sample's real lines by number, from 1.
fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    let all: Vec<&str> = SAMPLE.lines().collect();
    numbers.into_iter().map(|number| all[number - 1].to_owned() + "\n").collect()
}

#[test]
fn dollars_are_added_up_where_they_are_known() {
    let lines = lines([1, 2]);
    let priced = lines.replacen(r#""attempts":"#, r#""cost":{"usd":0.25,"baseline_usd":0.2},"attempts":"#, 1);
    assert_eq!(report(&[&lines]).traffic[0].cost, None);
    let report = report(&[&priced]);
    assert_eq!(report.traffic[0].cost, Some(Cost { requests: 1, usd: 0.25, baseline_usd: 0.2 }));
    let text = render::text(&report, false);
    assert!(text.contains("cost         0.2500 USD, 0.0500 USD more than at the baseline; of 1 requests"), "{text}");
}

#[test]
fn what_a_shadow_would_have_made_of_requests_that_were_sent_nowhere_is_counted() {
    let line = |seq: usize, shadow: &str| {
        format!(
            r#"{{"time":"2026-11-20T10:00:00Z","instance":"i","run":"r","seq":{seq},"generation":1,"id":"x","http.request.method":"POST","url.path":"/v1/chat/completions","ended":"rejected","error":"shed","decision":{{"reason":"shed","candidates":[{{"backend":"a","verdict":"over_budget","grams":0.4}}]}},"shadow":{{"policy":"next",{shadow}}}}}"#
        )
    };
    let shadows = [
        r#""reason":"fastest_over_budget","backend":"a","grams":0.4"#,
        r#""reason":"only","backend":"b","grams":0.1"#,
        r#""reason":"held","grams":null"#,
        r#""reason":"shed","grams":null"#,
    ];
    let log = shadows.iter().enumerate().map(|(seq, shadow)| line(seq, shadow)).collect::<Vec<_>>().join("\n");
    let report = report(&[&log]);
    let [unserved] = &report.traffic[0].unserved[..] else { panic!("{:?}", report.traffic) };
    assert_eq!((unserved.policy.as_str(), unserved.requests), ("next", 4));
    assert_eq!((unserved.sent, unserved.held, unserved.refused), (2, 1, 1));
    let text = render::text(&report, false);
    assert!(text.contains("of 4 requests that were sent nowhere next would have sent 2, held back 1 and refused 1"), "{text}");
}

#[test]
fn what_a_shadow_would_have_made_of_it_is_added_up() {
    let decision = |name: &str, grams: f64| {
        format!(
            r#""decision":{{"reason":"least_carbon","candidates":[{{"backend":"{name}","verdict":"chosen","grams":{grams}}}]}}"#
        )
    };
    let shadow = |backend: &str| format!(r#""shadow":{{"policy":"next","reason":"least_carbon",{backend}}}"#);
    let mut lines: Vec<serde_json::Value> = lines([1, 2, 3, 4]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, own, other) in lines
        .iter_mut()
        .zip([
            (decision("a", 0.4), shadow(r#""backend":"b","grams":0.1"#)),
            (decision("a", 0.4), shadow(r#""backend":"a","grams":0.4"#)),
            (decision("a", 0.4), shadow(r#""grams":null"#)),
            (decision("a", 0.4), shadow(r#""grams":null"#).replace("least_carbon", "held")),
        ])
        .map(|(line, (own, other))| (line, own, other))
    {
        let more: serde_json::Value = serde_json::from_str(&format!("{{{own},{other}}}")).unwrap();
        more.as_object().unwrap().iter().for_each(|(key, value)| line[key] = value.clone());
    }
    let log = lines.iter().map(serde_json::Value::to_string).collect::<Vec<_>>().join("\n");
    let report = report(&[&log]);
    let section = &report.traffic[0].sections[0];
    let [shadow] = &section.shadows[..] else { panic!("{:?}", section.shadows) };
    assert_eq!((shadow.policy.as_str(), shadow.requests, shadow.elsewhere), ("next", 2, 1));
    assert_eq!((shadow.refused, shadow.held), (1, 1));
    assert!((shadow.chosen_grams - 0.8).abs() < 1e-12 && (shadow.instead_grams - 0.5).abs() < 1e-12);
    let text = render::text(&report, false);
    let said = "next would have sent 1 of 2 elsewhere, and would have refused 1 others, and would have held back 1 others; by prediction 500 mg instead of 800 mg, 37.5 % less";
    assert!(text.contains(said), "{text}");
}

#[test]
fn the_sample_is_reported_as_before() {
    let report = report(&[SAMPLE]);
    golden("sample.txt", &render::text(&report, false));
    golden("sample.json", &render::json(&report));
    golden("sample.csv", &render::csv(&report));
}

#[test]
fn groups_add_up_to_their_section() {
    for section in report(&[SAMPLE]).traffic.iter().flat_map(|traffic| &traffic.sections) {
        for (dimension, groups) in &section.by {
            let sum = |part: fn(&Figures) -> f64| groups.iter().map(|group| part(&group.figures)).sum::<f64>();
            for (got, expected) in [
                (sum(|f| f.requests as f64), section.total.requests as f64),
                (sum(|f| f.grams.mid), section.total.grams.mid),
                (sum(|f| f.saved_grams.mid), section.total.saved_grams.mid),
                (sum(|f| f.waste_grams), section.total.waste_grams),
            ] {
                assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{dimension:?}: {got} is not {expected}");
            }
        }
    }
}

#[test]
fn what_was_made_up_is_kept_apart_and_said_first() {
    let only = report(&[&lines([14])]);
    assert!(render::text(&only, false).starts_with("SIMULATED DATA: no claim can be made"));
    assert!(only.traffic.iter().all(|traffic| traffic.simulated));
    let mixed = report(&[SAMPLE]);
    assert!(render::text(&mixed, false).starts_with("SIMULATED DATA: requests that were made up: 1."));
    let real = &report(&[&lines(1..=13)]).traffic[0];
    assert_eq!(&mixed.traffic[0], real);
}

#[test]
fn signals_are_never_added() {
    let report = report(&[&lines([1, 13])]);
    let signals: Vec<(&str, u64)> = report.traffic[0].sections.iter().map(|s| (s.signal, s.total.requests)).collect();
    assert_eq!(signals, [("average", 1), ("marginal", 1)]);
    let one_line = lines([1]);
    let at = one_line.find(r#""baseline":{"#).unwrap();
    let both = one_line[..at].to_owned() + &one_line[at..].replacen(r#""signal":"average""#, r#""signal":"marginal""#, 1);
    let mixed = self::report(&[&both]);
    assert_eq!((mixed.traffic[0].without_kind, mixed.traffic[0].sections.len()), (1, 0));
}

#[test]
fn failures_alone_save_nothing() {
    let report = report(&[&lines([6, 11])]);
    let total = report.traffic[0].sections[0].total;
    assert_eq!((total.saved_relative, total.baseline_grams.mid), (None, 0.0));
    assert!(total.saved_grams.mid < 0.0 && (total.waste_grams - total.grams.mid).abs() < 1e-12);
    assert!(render::text(&report, false).contains("failed requests save nothing"));
}

#[test]
fn a_loss_is_shown() {
    let report = report(&[&lines([8])]);
    let saved = report.traffic[0].sections[0].total.saved_grams;
    assert!(saved.low < saved.mid && saved.mid < saved.high && saved.high < 0.0, "{saved:?}");
    assert!(render::text(&report, false).contains("% more"));
}

#[test]
fn the_same_log_twice_is_the_same_log() {
    let (once, twice) = (report(&[SAMPLE]), report(&[SAMPLE, SAMPLE]));
    assert_eq!(once.traffic, twice.traffic);
    assert_eq!((once.completeness.duplicates, twice.completeness.duplicates), (1, 16));
    assert_eq!(once.completeness.expected - once.completeness.seen, 1);
}

#[test]
fn a_saving_that_does_not_follow_is_not_believed() {
    let honest = lines([1]);
    let at = honest.find(r#""saved_grams":"#).unwrap() + 14;
    let inflated = honest[..at].to_owned() + "9" + &honest[at..];
    let (honest, inflated) = (report(&[&honest]), report(&[&inflated]));
    assert_eq!((honest.traffic[0].contradictory, inflated.traffic[0].contradictory), (0, 1));
    assert_eq!(honest.traffic[0].sections, inflated.traffic[0].sections);
}

#[test]
fn bad_lines_are_named_and_not_quoted() {
    let report = report(&[SAMPLE]);
    let bad: Vec<(u64, &str)> = report.lines.first_bad.iter().map(|bad| (bad.line, bad.why)).collect();
    assert_eq!(bad, [(16, "cut off"), (18, "JSON, but no access record"), (19, "not JSON")]);
    let many = self::report(&["?\n".repeat(20).as_str()]);
    assert_eq!((many.lines.bad, many.lines.first_bad.len(), many.traffic.len()), (20, 8, 0));
    assert!(render::text(&many, false).contains("and 12 more"));
}

#[test]
fn an_empty_log_is_a_report_too() {
    let report = report(&[""]);
    assert!(render::text(&report, false).contains("nothing to report"));
    assert_eq!(render::csv(&report).lines().count(), 1);
    assert_eq!(report.completeness.share, None);
}

#[test]
fn names_without_end_are_bounded() {
    let line = lines([1]);
    let mut summary = Summary::new();
    for index in 0..10_050 {
        let record: AccessRecord<'_> = serde_json::from_str(&line).unwrap();
        let model = format!("{index}{}", "m".repeat(1000));
        summary.add(&AccessRecord { model: Some(model.as_str().into()), seq: index, ..record });
    }
    let report = summary.report(&[Dimension::Model]);
    let groups = &report.traffic[0].sections[0].by[&Dimension::Model];
    assert_eq!((groups.len(), groups[0].value.as_str(), groups[0].figures.requests), (10_001, "(other)", 50));
    assert!(groups.iter().all(|group| group.value.len() <= 120));
    assert!(render::text(&report, false).lines().count() < 60);
}

#[test]
fn only_what_was_asked_for_is_broken_down() {
    let by: Vec<Dimension> = read(&[SAMPLE]).report(&[Dimension::Day]).traffic[0].sections[0].by.keys().copied().collect();
    assert_eq!(by, [Dimension::Day]);
}

#[test]
fn every_csv_row_has_every_column() {
    let text = render::csv(&report(&[SAMPLE]));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    assert!(rows.iter().any(|row| &row[4] == "'=cmd|calc"));
    assert!(rows.iter().any(|row| &row[3] == "excluded"));
}

#[test]
fn what_was_sent_nowhere_is_not_unknown() {
    let line = lines([1]);
    let refused = AccessRecord {
        ended: Ended::Rejected,
        carbon: None,
        emissions: None,
        attempts: Vec::new(),
        ..serde_json::from_str(&line).unwrap()
    };
    let nothing = Emissions::of([[Grams::ZERO; 3]; 2], Grams::ZERO - Grams::ZERO, Grams::ZERO);
    let mut summary = Summary::new();
    summary.add(&refused);
    summary.add(&AccessRecord { seq: 2, emissions: Some(nothing), ..refused.clone() });
    let report = summary.report(&[]);
    let traffic = &report.traffic[0];
    assert_eq!((traffic.requests, traffic.without_grams, traffic.without_kind, traffic.sections.len()), (2, 0, 0, 0));
    assert_eq!(traffic.without_work, 2);
    let said = "note         2 requests are in no sum below, because no model ran for them: they emitted nothing";
    assert!(render::text(&report, false).contains(said));
    assert!(render::csv(&report).contains("real,,,excluded,no model ran,2,"));
}

#[test]
fn every_request_is_in_a_sum_or_said_to_be_in_none() {
    // One of everything, and of each of those one that was sent nowhere.
    let mut lines: Vec<serde_json::Value> = lines(1..=14).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let nowhere = lines.clone().into_iter().map(|mut line| {
        line["run"] = format!("another {}", line["run"]).into();
        line["attempts"] = serde_json::json!([]);
        line.as_object_mut().unwrap().remove("emissions");
        line
    });
    lines.extend(nowhere.collect::<Vec<_>>());
    let report = report(&[&lines.iter().map(serde_json::Value::to_string).collect::<Vec<_>>().join("\n")]);
    assert_eq!(report.traffic.iter().map(|traffic| traffic.without_work).sum::<u64>(), 14);
    for traffic in &report.traffic {
        let summed: u64 = traffic.sections.iter().map(|section| section.total.requests).sum();
        let unsummed = traffic.without_work + traffic.without_grams + traffic.without_kind;
        assert_eq!(summed + unsummed, traffic.requests);
    }
    // The table has fewer than its head says, and that is said above it.
    assert!(render::text(&report, false).contains("  requests     10 of 26\n"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0..4000usize, line in 1..15usize) {
        let mut log = lines([line]).into_bytes();
        let at = at.min(log.len());
        log.splice(at..(at + 3).min(log.len()), bytes);
        let mut summary = Summary::new();
        summarise("x", log.as_slice(), &mut summary).unwrap();
        let report = summary.report(&Dimension::ALL);
        prop_assert!(report.lines.records + report.lines.bad <= log.split(|byte| *byte == b'\n').count() as u64);
        let text = render::text(&report, false);
        prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&render::json(&report)).is_ok());
        let table = render::csv(&report);
        let mut rows = csv::Reader::from_reader(table.as_bytes());
        prop_assert!(rows.records().all(|row| row.is_ok()));
    }
}
