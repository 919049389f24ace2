//! The finished report: what the sums mean, in a shape that every rendering shares and that JSON shows as it is.
//!
//! Its field names are the JSON schema. Fields may be added; when one changes its meaning, [`SCHEMA`] counts up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::lines::BadLine;
use super::summary::{self, Dimension, Sectioned, Shadowed, Summary, Sums, Tally};
use crate::record::UsageSource;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// What every figure of a saving is, said once and printed by every rendering.
pub(super) const STATEMENT: &str = "estimated, location-based, against the logged latency-only choice";

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub schema: u32,
    /// What the savings are.
    pub statement: &'static str,
    /// What a reader has to know before any figure, most important first.
    pub notices: Vec<String>,
    /// What was read.
    pub lines: Lines,
    /// What is missing.
    pub completeness: Completeness,
    /// Real traffic first, then what was simulated; each only if there was any.
    pub traffic: Vec<Traffic>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lines {
    /// Logs.
    pub logs: u64,
    /// Lines that are records.
    pub records: u64,
    /// Lines that are not.
    pub bad: u64,
    /// The first of those.
    pub first_bad: Vec<BadLine>,
}

/// What is missing, by the numbers that the lines carry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completeness {
    /// Runs of the proxy.
    pub runs: u64,
    /// Lines between the first and the last number of each run.
    pub expected: u64,
    /// Those that were there.
    pub seen: u64,
    /// Lines that were there again, and were counted once.
    pub duplicates: u64,
    /// `seen / expected`; null when nothing was expected.
    pub share: Option<f64>,
    /// Lines of runs beyond the number that can be told apart.
    pub unchecked: u64,
    /// False when there were more runs or gaps than could be kept, so that a line seen twice may have counted twice.
    pub exact: bool,
}

/// One body of traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Made up, and so no ground for any claim.
    pub simulated: bool,
    /// First arrival.
    pub first: Option<Timestamp>,
    /// Last arrival.
    pub last: Option<Timestamp>,
    /// Requests, each counted once.
    pub requests: u64,
    /// Requests by how they ended.
    pub ended: BTreeMap<&'static str, u64>,
    /// Requests and tokens by where the counts come from.
    pub tokens: BTreeMap<&'static str, Tokens>,
    /// Time to the first token.
    pub first_token: FirstToken,
    /// Dollars; left out where no price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Requests for which no model ran (refused, sent nowhere, or about something else), so that they emitted nothing: they are in no
    /// section. With the next two and the totals of the sections these are all requests.
    pub without_work: u64,
    /// Requests whose grams are unknown: they are in no section.
    pub without_grams: u64,
    /// Requests whose grams do not say their signal and basis, or mix two: they are in no section.
    pub without_kind: u64,
    /// Requests whose own figures contradict one another: they are in their section, by their grams.
    pub contradictory: u64,
    /// What shadow policies would have made of those that were sent nowhere, which are in no section; left out where there was none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unserved: Vec<Unserved>,
    /// Grams, one section for each signal and basis.
    pub sections: Vec<Section>,
}

/// What a policy that decided for the log alone would have made of requests for which nobody was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unserved {
    /// Its name.
    pub policy: String,
    /// Such requests.
    pub requests: u64,
    /// Those that it would have sent to somebody.
    pub sent: u64,
    /// Those that it would have held back until there is room, and perhaps refused then.
    pub held: u64,
    /// Those that it would have refused as well.
    pub refused: u64,
}

/// What was paid for, by the prices that the lines carry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Requests whose cost is known.
    pub requests: u64,
    /// Dollars of all their attempts.
    pub usd: f64,
    /// Dollars that their answers would have cost at the baseline.
    pub baseline_usd: f64,
}

/// Tokens with one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tokens {
    /// Requests.
    pub requests: u64,
    /// Share of all requests.
    pub share: f64,
    /// Prompt tokens.
    pub input: u64,
    /// Generated tokens.
    pub output: u64,
}

/// Time to the first token, and how it kept to the budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FirstToken {
    /// Half of the requests were not later; within 1 %.
    pub p50_ms: Option<f64>,
    /// 95 of 100 were not later; within 1 %.
    pub p95_ms: Option<f64>,
    /// Requests that had a budget and a first token.
    pub judged: u64,
    /// Share of those that met it.
    pub within_budget: Option<f64>,
}

/// Grams of one meaning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// `average` or `marginal`.
    pub signal: &'static str,
    /// `lifecycle` or `direct`.
    pub basis: &'static str,
    /// Everything together.
    pub total: Figures,
    /// Requests by freshness of the intensity that was used.
    pub freshness: BTreeMap<&'static str, u64>,
    /// Requests by quality of that intensity.
    pub intensity_quality: BTreeMap<&'static str, u64>,
    /// Requests by quality of the energy coefficients.
    pub energy_quality: BTreeMap<&'static str, u64>,
    /// What shadow policies would have made of it; left out where there was none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    /// The same figures in groups.
    pub by: BTreeMap<Dimension, Vec<Grouped>>,
}

/// A policy that decided for the log alone. Its grams are predictions made before the request, and are held against those made of what
/// was chosen: nobody knows what it would have come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shadow {
    /// Its name.
    pub policy: String,
    /// Requests of which both predictions are known.
    pub requests: u64,
    /// Those that it would have sent elsewhere.
    pub elsewhere: u64,
    /// Others, that it would have refused.
    pub refused: u64,
    /// Others, that it would have held back until there is room, and perhaps refused then.
    pub held: u64,
    /// Predicted of what was chosen, in grams.
    pub chosen_grams: f64,
    /// Predicted of what it would have chosen, in grams.
    pub instead_grams: f64,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grouped {
    /// Its name: a day, a model, ...
    pub value: String,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Figures of a group of requests. Grams come with the two ends of the energy band; both sides of a difference move together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests whose grams are known.
    pub requests: u64,
    /// Those of them that ended well.
    pub complete: u64,
    /// Saved over baseline: 0.4 is 40 % less than the baseline, -0.1 is 10 % more. Null when nothing was answered, since failed
    /// requests save nothing.
    pub saved_relative: Option<f64>,
    /// Baseline less emitted, in grams; negative when more was emitted.
    pub saved_grams: Interval,
    /// Emitted, in grams.
    pub grams: Interval,
    /// What the answers would have emitted at the baseline, in grams.
    pub baseline_grams: Interval,
    /// The part of the emitted that gave the client nothing, in grams.
    pub waste_grams: f64,
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Generated tokens.
    pub output_tokens: u64,
}

/// A best guess between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Best guess.
    pub mid: f64,
    /// Upper end.
    pub high: f64,
}

impl Summary {
    /// The report, broken down by the dimensions asked for.
    pub fn report(&self, by: &[Dimension]) -> Report {
        let totals = self.runs.totals();
        let completeness = Completeness {
            runs: totals.runs,
            expected: totals.expected,
            seen: totals.seen,
            duplicates: totals.duplicates,
            share: share(totals.seen, totals.expected),
            unchecked: self.runs.unchecked,
            exact: totals.exact,
        };
        let lines = Lines { logs: self.logs, records: self.records, bad: self.bad, first_bad: self.named.clone() };
        let traffic: Vec<Traffic> = [(false, &self.real), (true, &self.simulated)]
            .into_iter()
            .filter(|(_, sums)| sums.requests > 0)
            .map(|(simulated, sums)| Traffic::of(simulated, sums, by))
            .collect();
        Report {
            schema: SCHEMA,
            statement: STATEMENT,
            notices: notices(&lines, &completeness, &traffic),
            lines,
            completeness,
            traffic,
        }
    }
}

impl Traffic {
    fn of(simulated: bool, sums: &Sums, by: &[Dimension]) -> Self {
        let quantile = |q| sums.first_token_ms.quantile(q).ok().flatten();
        let tokens = UsageSource::ALL.into_iter().filter_map(|source| {
            let (requests, input, output) = *sums.tokens.get(&source)?;
            let share = share(requests, sums.requests).unwrap_or_default();
            Some((source.as_str(), Tokens { requests, share, input, output }))
        });
        let mut sections: Vec<Section> =
            sums.sections.iter().map(|(kind, section)| Section::of(kind.words(), section, by)).collect();
        sections.sort_by_key(|section| (section.signal, section.basis));
        Self {
            simulated,
            first: sums.period.map(|(first, _)| first),
            last: sums.period.map(|(_, last)| last),
            requests: sums.requests,
            ended: sums.ended.iter().map(|(ended, count)| (ended.as_str(), *count)).collect(),
            tokens: tokens.collect(),
            first_token: FirstToken {
                p50_ms: quantile(0.5),
                p95_ms: quantile(0.95),
                judged: sums.judged_by_budget,
                within_budget: share(sums.within_budget, sums.judged_by_budget),
            },
            cost: sums.cost,
            without_work: sums.without_work,
            without_grams: sums.without_grams,
            without_kind: sums.without_kind,
            contradictory: sums.contradictory,
            unserved: sums.unserved.iter().map(Unserved::of).collect(),
            sections,
        }
    }
}

impl Section {
    fn of((signal, basis): (&'static str, &'static str), sums: &Sectioned, by: &[Dimension]) -> Self {
        let groups = Dimension::ALL.into_iter().zip(&sums.groups).filter(|(dimension, _)| by.contains(dimension));
        let by = groups.map(|(dimension, groups)| {
            let mut rows: Vec<Grouped> =
                groups.iter().map(|(value, tally)| Grouped { value: value.clone(), figures: Figures::of(tally) }).collect();
            rows.sort_by(|a, b| match dimension {
                Dimension::Day => a.value.cmp(&b.value),
                _ => b.figures.grams.mid.total_cmp(&a.figures.grams.mid).then_with(|| a.value.cmp(&b.value)),
            });
            (dimension, rows)
        });
        Self {
            signal,
            basis,
            total: Figures::of(&sums.total),
            freshness: sums.freshness.clone(),
            intensity_quality: sums.quality.clone(),
            energy_quality: sums.energy.clone(),
            shadows: sums.shadows.iter().map(Shadow::of).collect(),
            by: by.collect(),
        }
    }
}

impl Unserved {
    fn of((policy, sums): (&String, &summary::Unserved)) -> Self {
        let summary::Unserved { requests, sent, held } = *sums;
        Self { policy: policy.clone(), requests, sent, held, refused: requests - sent - held }
    }
}

impl Shadow {
    fn of((policy, sums): (&String, &Shadowed)) -> Self {
        let Shadowed { requests, elsewhere, refused, held, grams: [chosen_grams, instead_grams] } = *sums;
        Self { policy: policy.clone(), requests, elsewhere, refused, held, chosen_grams, instead_grams }
    }
}

impl Figures {
    fn of(tally: &Tally) -> Self {
        let [_, baseline, _] = tally.baseline;
        let [_, grams, _] = tally.grams;
        let [low, mid, high] =
            std::array::from_fn(|end| tally.baseline.get(end).zip(tally.grams.get(end)).map_or(0.0, |(b, g)| b - g));
        Self {
            requests: tally.requests,
            complete: tally.complete,
            saved_relative: (baseline > 0.0).then(|| (baseline - grams) / baseline),
            // More energy makes a loss larger too, so the ends may change places.
            saved_grams: Interval { low: mid.min(low).min(high), mid, high: mid.max(low).max(high) },
            grams: tally.grams.into(),
            baseline_grams: tally.baseline.into(),
            waste_grams: tally.waste,
            input_tokens: tally.input_tokens,
            output_tokens: tally.output_tokens,
        }
    }
}

impl From<[f64; 3]> for Interval {
    fn from([low, mid, high]: [f64; 3]) -> Self {
        Self { low, mid, high }
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn notices(lines: &Lines, completeness: &Completeness, traffic: &[Traffic]) -> Vec<String> {
    let mut notices = Vec::new();
    let simulated: u64 = traffic.iter().filter(|traffic| traffic.simulated).map(|traffic| traffic.requests).sum();
    match (simulated, traffic.iter().any(|traffic| !traffic.simulated)) {
        (0, _) => {}
        (_, false) => notices.push("SIMULATED DATA: no claim can be made from this report.".to_owned()),
        (_, true) => notices.push(format!(
            "SIMULATED DATA: requests that were made up: {simulated}. They are added up apart, and no claim can be made from them."
        )),
    }
    if lines.records == 0 {
        notices.push("No record was read: there is nothing to report.".to_owned());
    }
    if lines.bad > 0 {
        notices.push(format!("Not readable as records: {} of {} lines.", lines.bad, lines.bad + lines.records));
    }
    let missing = completeness.expected.saturating_sub(completeness.seen);
    if missing > 0 {
        notices.push(format!("Missing: {missing} of {} lines, so the sums are not whole.", completeness.expected));
    }
    if completeness.duplicates > 0 {
        notices.push(format!("There more than once, and counted once: {} of the lines.", completeness.duplicates));
    }
    if !completeness.exact {
        notices.push("There were too many runs or gaps to tell all lines apart: some may have been counted twice.".to_owned());
    }
    if traffic.iter().any(|traffic| traffic.sections.len() > 1) {
        notices.push("Grams of different signals or bases are in sections of their own and cannot be added.".to_owned());
    }
    notices
}
