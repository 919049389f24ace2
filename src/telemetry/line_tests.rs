use proptest::prelude::*;

use super::*;
use crate::record::Text;
use crate::units::Millis;

/// Twice: the second line is made of what was kept of the first.
fn written(record: &AccessRecord<'_>) -> String {
    let [first, second] = [(); 2].map(|()| {
        let mut line = b"before".to_vec();
        append(&mut line, record);
        String::from_utf8(line.split_off(6)).unwrap()
    });
    assert_eq!(first, second);
    first
}

fn samples() -> impl Iterator<Item = AccessRecord<'static>> {
    include_str!("../../tests/cases/log/sample.jsonl").lines().filter_map(|line| serde_json::from_str(line).ok())
}

#[test]
fn every_line_of_the_sample_is_written_as_serde_json_writes_it() {
    assert!(samples().count() > 3);
    for record in samples() {
        assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
    }
}

/// A record with every field there is.
fn full() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/cases/log/full.json")).unwrap()
}

/// Every member of every object below, as a path.
fn members(value: &serde_json::Value, path: &str, all: &mut Vec<(String, String)>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        all.push((path.to_owned(), name.clone()));
        members(member, &format!("{path}/{name}"), all);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        members(item, &format!("{path}/{index}"), all);
    }
}

#[test]
fn every_field_is_written_as_serde_json_writes_it_and_left_out_where_it_does() {
    let line = full().to_string();
    let record: AccessRecord<'_> = serde_json::from_str(&line).unwrap();
    assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
    let mut all = Vec::new();
    members(&full(), "", &mut all);
    assert!(all.len() > 110);
    let mut left_out = 0;
    for (path, name) in all {
        let mut value = full();
        value.pointer_mut(&path).unwrap().as_object_mut().unwrap().remove(&name);
        let line = value.to_string();
        // What cannot be missing has no line without it.
        let Ok(record) = serde_json::from_str::<AccessRecord<'_>>(&line) else { continue };
        assert_eq!(written(&record), serde_json::to_string(&record).unwrap(), "without {path}/{name}");
        left_out += 1;
    }
    assert!(left_out > 80, "{left_out}");
}

#[test]
fn the_readme_names_every_field_of_a_line() {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## One line of the log\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut all = Vec::new();
    members(&full(), "", &mut all);
    let is_named = |name: &str| section.contains(&format!("`{name}`")) || section.contains(&format!("\"{name}\":"));
    let missing: Vec<_> = all.iter().filter(|(_, name)| !is_named(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    /// Everything that is kept, in all combinations of a few values: each has to be told from the others.
    #[test]
    fn what_is_kept_is_told_from_what_it_nearly_is(
        picks in prop::collection::vec((prop::array::uniform3(0_usize..3), prop::array::uniform8(0_usize..2)), 1..20),
    ) {
        let mut record = samples().next().unwrap();
        for ([name, zone, id], [pue, grams, signal, basis, quality, freshness, source, at]) in picks {
            let text = |pick: usize| [None, Some("a"), Some("a\"b")][pick].map(Text::from);
            let (pue, grams) = ([None, Pue::new(1.5)][pue], [None, GramsPerKwh::new(0.1)][grams]);
            let candidate = &mut record.decision.as_mut().unwrap().candidates[0];
            candidate.backend = text(name).unwrap_or_default();
            (candidate.region, candidate.grid_zone, candidate.coefficient) = (text(source), text(zone), text(id));
            (candidate.pue, candidate.intensity_g_per_kwh) = (pue, grams);
            candidate.intensity_age_s = [None, Some(7)][at];
            candidate.freshness = [None, Some(Freshness::Stale)][freshness];
            record.carbon.as_mut().unwrap().chosen = CarbonUsed {
                grid_zone: text(zone),
                intensity_g_per_kwh: grams,
                intensity_low_g_per_kwh: [None, GramsPerKwh::new(0.05)][source],
                signal: [None, Some(Signal::Marginal)][signal],
                basis: [None, Some(Basis::Direct)][basis],
                quality: [None, Some(Quality::Forecast)][quality],
                freshness: [None, Some(Freshness::Stale)][freshness],
                source: text(source),
                measured_at: [None, Some(record.time)][at],
                age_s: [None, Some(7)][name % 2],
                pue,
            };
            prop_assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
        }
    }

    #[test]
    fn any_text_and_number_is_written_as_serde_json_writes_it(text: String, number: f64, count: u64, which in 0_usize..4) {
        let mut record = samples().nth(which).unwrap();
        record.model = Some(Text::from(&*text));
        record.seq = count;
        record.total_ms = Millis::saturating(number);
        prop_assert_eq!(written(&record), serde_json::to_string(&record).unwrap());
    }
}
