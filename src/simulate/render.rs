//! A comparison as a person reads it, and as a program does.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Comparison;
use super::oracle::{Best, Planned};
use super::score::Score;
use super::traffic::left_out;
use super::world::World;
use crate::config::scenario::Scenario;

/// One line of the table.
struct Row {
    name: String,
    cells: Vec<String>,
}

/// A figure over all seeds: its mean and, of more than one, its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Of how many.
    pub count: usize,
}

impl Spread {
    /// Of these; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        (count > 0).then(|| Self {
            mean: values.iter().sum::<f64>() / count as f64,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
        })
    }

    fn text(spread: Option<Self>, digits: usize) -> String {
        match spread {
            None => "-".to_owned(),
            Some(Self { mean, count: 1, .. }) => format!("{mean:.digits$}"),
            Some(Self { mean, least, most, .. }) => format!("{mean:.digits$} [{least:.digits$}..{most:.digits$}]"),
        }
    }
}

/// The policy that savings are counted from: the first that asks for the least latency.
pub fn reference(scenario: &Scenario) -> Option<usize> {
    scenario.policies.iter().position(|policy| policy.settings.get("objective").is_some_and(|word| word == "least_latency"))
}

/// What share of the best possible saving a run made, in percent. A request without an answer saves nothing: it counts for as much as the
/// reference emits for its like, or whoever refuses all would have saved all.
pub fn of_best(comparison: &Comparison, reference: Option<usize>, seed: u64, score: &Score) -> Option<f64> {
    let from = &comparison.runs.iter().find(|run| Some(run.policy) == reference && run.seed == seed)?.finished.score;
    let best = comparison.best.iter().find(|(of, _)| *of == seed)?.1.grams;
    let for_a_joule = if from.joules > 0.0 { from.grams / from.joules } else { 0.0 };
    let grams = |score: &Score| score.grams + for_a_joule * score.unanswered_joules;
    (grams(from) > best).then(|| 100.0 * (grams(from) - grams(score)) / (grams(from) - best))
}

/// The head of the table, which `benches/closed_loop.py` prints as well.
pub const COLUMNS: [&str; 12] = [
    "policy",
    "mg/request",
    "% of best saving",
    "missed %",
    "first",
    "end",
    "failed",
    "shed",
    "spilled %",
    "p50 ms",
    "p99 ms",
    "moved/min %",
];

/// The row of an oracle that plans by what the router is told.
const TOLD: &str = "(oracle told the same)";

/// The comparison as a table with what it rests on.
pub fn text(scenario: &Scenario, world: &World, comparison: &Comparison) -> String {
    let reference = reference(scenario);
    let mut rows = vec![Row { name: COLUMNS[0].to_owned(), cells: COLUMNS[1..].iter().map(|&cell| cell.to_owned()).collect() }];
    for (policy, settings) in scenario.policies.iter().enumerate() {
        let runs: Vec<(u64, &Score)> =
            comparison.runs.iter().filter(|run| run.policy == policy).map(|run| (run.seed, &run.finished.score)).collect();
        rows.push(Row { name: settings.name.to_string(), cells: cells(comparison, reference, &runs) });
    }
    let overflow = Spread::of(comparison.best.iter().map(|(_, best)| 100.0 * best.overflow));
    let without = Spread::of(
        comparison
            .best
            .iter()
            .filter_map(|(seed, best)| of_best(comparison, reference, *seed, &served(best.grams_without_lengths))),
    );
    let own = |best: &Best| Some(Planned { grams: best.grams, movement_percent: best.movement_percent });
    rows.extend(planned(comparison, reference, &own).map(|mut cells| {
        if let Some(share) = cells.get_mut(1) {
            "100".clone_into(share);
        }
        Row { name: "(oracle)".to_owned(), cells }
    }));
    let told = planned(comparison, reference, &|best| best.told);
    let is_told = told.is_some();
    rows.extend(told.map(|cells| Row { name: TOLD.to_owned(), cells }));
    let mut text = aligned(&rows);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{}", basis(scenario, world));
    if is_told {
        let _ = writeln!(
            text,
            "{TOLD} plans by the figures that the policies are told, not all of which are true, and knows the rest."
        );
    }
    if let Some(without) = without {
        let _ = writeln!(
            text,
            "An oracle that did not know how long answers will be would have saved {:.1} % of what (oracle) saves.",
            without.mean
        );
    }
    if overflow.is_some_and(|overflow| overflow.most >= 0.005) {
        let _ = writeln!(text, "Of the requests {} % could not have been served in time by anybody.", Spread::text(overflow, 2));
    }
    let unanswered = comparison.runs.iter().any(|run| run.finished.score.unanswered_joules > 0.0);
    if let Some(settings) = reference.filter(|_| unanswered).and_then(|nth| scenario.policies.get(nth)) {
        let _ = writeln!(text, "Whoever got no answer saves nothing: it counts as if {} had served it.", settings.name);
    }
    if scenario.traffic.sessions.is_some() {
        let _ = writeln!(text, "The oracle knows nothing of caches, so it is no bound here: compare the grams.");
    }
    text
}

/// The score of somebody who emitted so much and served all.
fn served(grams: f64) -> Score {
    Score { grams, ..Score::default() }
}

/// The row of a plan that each seed's oracle made; `None` where none made it.
fn planned(comparison: &Comparison, reference: Option<usize>, of: &dyn Fn(&Best) -> Option<Planned>) -> Option<Vec<String>> {
    let requests = |seed: u64| {
        let run = comparison.runs.iter().find(|run| run.seed == seed);
        run.map_or(1.0, |run| run.finished.score.requests.max(1) as f64)
    };
    let plans: Vec<(u64, Planned)> = comparison.best.iter().filter_map(|(seed, best)| Some((*seed, of(best)?))).collect();
    let grams = Spread::of(plans.iter().map(|(seed, plan)| 1e3 * plan.grams / requests(*seed)))?;
    let share = plans.iter().filter_map(|(seed, plan)| of_best(comparison, reference, *seed, &served(plan.grams)));
    let moved = Spread::of(plans.iter().map(|(_, plan)| plan.movement_percent))?;
    let mut cells = vec![Spread::text(Some(grams), 2), Spread::text(Spread::of(share), 1)];
    cells.resize(COLUMNS.len() - 2, "-".to_owned());
    cells.push(format!("{:.1}", moved.mean));
    Some(cells)
}

fn cells(comparison: &Comparison, reference: Option<usize>, runs: &[(u64, &Score)]) -> Vec<String> {
    let over = |of: &dyn Fn(&Score) -> f64| Spread::of(runs.iter().map(|(_, score)| of(score)));
    let percent = |part: u64, score: &Score| 100.0 * part as f64 / score.requests.max(1) as f64;
    let best = runs.iter().filter_map(|(seed, score)| of_best(comparison, reference, *seed, score));
    let mean = |spread: Option<Spread>, digits: usize| spread.map_or_else(String::new, |one| format!("{:.digits$}", one.mean));
    vec![
        Spread::text(over(&|score| 1e3 * score.grams / score.requests.max(1) as f64), 2),
        Spread::text(Spread::of(best), 1),
        Spread::text(over(&|score| percent(score.missed, score)), 2),
        mean(over(&|score| percent(score.late_first_token, score)), 2),
        mean(over(&|score| percent(score.late_end, score)), 2),
        mean(over(&|score| percent(score.failed, score)), 2),
        mean(over(&|score| percent(score.shed, score)), 2),
        mean(over(&|score| percent(score.spilled, score)), 2),
        mean(over(&|score| score.first_token_ms[0]), 0),
        mean(over(&|score| score.first_token_ms[1]), 0),
        mean(over(&|score| score.movement_percent), 1),
    ]
}

fn aligned(rows: &[Row]) -> String {
    let width = |of: &dyn Fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let first = width(&|row| row.name.chars().count());
    let others: Vec<usize> =
        (0..COLUMNS.len() - 1).map(|nth| width(&|row| row.cells.get(nth).map_or(0, |cell| cell.chars().count()))).collect();
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "{:first$}", row.name);
        for (cell, width) in row.cells.iter().zip(&others) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// What the figures rest on.
fn basis(scenario: &Scenario, world: &World) -> String {
    let recorded = world.grids.iter().filter(|grid| grid.recorded).count();
    let grids = if recorded == world.grids.len() {
        format!("recorded hours from {} on", scenario.from)
    } else {
        "hours of made-up days".to_owned()
    };
    let lengths = match (world.arrivals.len(), world.lengths.len()) {
        (0, 0) => "drawn, log-normal",
        (0, _) => "of a recorded trace",
        _ => "as they were asked for",
    };
    let late = match left_out(scenario, world) {
        0 => String::new(),
        late => format!(" Left out: {late} of {} requests, which come after the end.", world.arrivals.len()),
    };
    let seeds: Vec<String> = scenario.seeds.iter().map(u64::to_string).collect();
    format!(
        "Simulated. Grids: {grids}, {} of them, one in {} s. Lengths: {lengths}.{late} Seeds: {}.",
        scenario.hours,
        scenario.carbon_hour.as_secs_f64(),
        seeds.join(", "),
    )
}

/// Every run with all its figures.
pub fn json(scenario: &Scenario, world: &World, comparison: &Comparison) -> Value {
    let reference = reference(scenario);
    let name = |policy: usize| scenario.policies.get(policy).map(|settings| settings.name.to_string());
    let names = |of: &dyn Fn(usize) -> Option<String>, count: usize| (0..count).filter_map(of).collect::<Vec<_>>();
    let runs: Vec<Value> = comparison
        .runs
        .iter()
        .map(|run| {
            json!({
                "policy": name(run.policy),
                "seed": run.seed,
                "percent_of_best": of_best(comparison, reference, run.seed, &run.finished.score),
                "score": run.finished.score,
                "all": run.finished.all,
                "seconds": run.took.as_secs_f64(),
            })
        })
        .collect();
    let best: Vec<Value> = comparison
        .best
        .iter()
        .map(|(seed, best)| {
            json!({
                "seed": seed,
                "grams": best.grams,
                "overflow": best.overflow,
                "grams_without_lengths": best.grams_without_lengths,
                "percent_without_lengths": of_best(comparison, reference, *seed, &served(best.grams_without_lengths)),
                "movement_percent": best.movement_percent,
                "told": best.told.map(|told| json!({
                    "grams": told.grams,
                    "percent_of_best": of_best(comparison, reference, *seed, &served(told.grams)),
                    "movement_percent": told.movement_percent,
                })),
            })
        })
        .collect();
    json!({
        "simulated": true,
        "recorded_grids": world.grids.iter().all(|grid| grid.recorded),
        // Who wrote the table of requests may have recorded them or made them up.
        "recorded_lengths": world.arrivals.is_empty() && !world.lengths.is_empty(),
        "requests_left_out": left_out(scenario, world),
        "hours": scenario.hours,
        "regions": names(&|nth| scenario.regions.get(nth).map(|region| region.spec.name.to_string()), scenario.regions.len()),
        "classes": names(&|nth| scenario.classes.get(nth).map(|class| class.name.to_string()), scenario.classes.len()),
        "reference": reference.and_then(name),
        "oracle": best,
        "runs": runs,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::scenario::load;
    use crate::config::{Env, NoFiles};
    use crate::simulate::Run;
    use crate::simulate::engine::Finished;
    use crate::simulate::world::Arrival;

    fn compared() -> (Scenario, World, Comparison) {
        let text = "seeds: [1, 2]\nregions: [{ name: here, grid_zone: DE, rtt: 5ms, replicas: 1 }]\nclasses: [{ name: c, share: 1, \
                    first_token: 1s, per_output_token: 35ms }]\npolicies: [{ name: green }, { name: fast, objective: least_latency }]\n";
        let scenario = load("s.yaml", text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}"));
        let world = World::read(&scenario, &NoFiles).unwrap();
        let run = |policy, seed, grams, missed| Run {
            policy,
            seed,
            finished: Finished {
                score: Score {
                    requests: 1000,
                    grams,
                    missed,
                    late_end: missed,
                    first_token_ms: [80.0, 400.0],
                    ..Score::default()
                },
                all: [1000, 0, 0],
                under_way: (0, 0),
            },
            took: Duration::ZERO,
        };
        let runs = vec![run(0, 1, 30.0, 2), run(0, 2, 20.0, 4), run(1, 1, 110.0, 1), run(1, 2, 110.0, 1)];
        let best =
            |grams, overflow| Best { grams, overflow, grams_without_lengths: grams + 1.0, movement_percent: 4.0, told: None };
        (scenario, world, Comparison { runs, best: vec![(1, best(10.0, 0.0)), (2, best(10.0, 0.01))] })
    }

    #[test]
    fn the_table_has_means_and_ranges_and_what_they_rest_on() {
        let (scenario, world, comparison) = compared();
        insta::assert_snapshot!(text(&scenario, &world, &comparison), @r"
        policy                 mg/request   % of best saving           missed %  first   end  failed  shed  spilled %  p50 ms  p99 ms  moved/min %
        green        25.00 [20.00..30.00]  85.0 [80.0..90.0]  0.30 [0.20..0.40]   0.00  0.30    0.00  0.00       0.00      80     400          0.0
        fast      110.00 [110.00..110.00]     0.0 [0.0..0.0]  0.10 [0.10..0.10]   0.00  0.10    0.00  0.00       0.00      80     400          0.0
        (oracle)     10.00 [10.00..10.00]                100                  -      -     -       -     -          -       -       -          4.0

        Simulated. Grids: hours of made-up days, 48 of them, one in 150 s. Lengths: drawn, log-normal. Seeds: 1, 2.
        An oracle that did not know how long answers will be would have saved 99.0 % of what (oracle) saves.
        Of the requests 0.50 [0.00..1.00] % could not have been served in time by anybody.
        ");
    }

    #[test]
    fn an_oracle_that_is_told_the_same_has_a_row_where_that_is_not_true() {
        let (scenario, world, mut comparison) = compared();
        assert!(json(&scenario, &world, &comparison)["oracle"][0]["told"].is_null());
        for ((_, best), grams) in comparison.best.iter_mut().zip([30.0, 40.0]) {
            best.told = Some(Planned { grams, movement_percent: grams / 4.0 });
        }
        let table = text(&scenario, &world, &comparison);
        let row = table.lines().find(|line| line.starts_with(TOLD)).unwrap();
        let cells: Vec<&str> = row[TOLD.len()..].split_whitespace().collect();
        assert_eq!(cells[..4], ["35.00", "[30.00..40.00]", "75.0", "[70.0..80.0]"], "{row}");
        assert_eq!((cells.len(), cells.last()), (13, Some(&"8.8")), "{row}");
        assert!(table.contains("\n(oracle told the same) plans by the figures that the policies are told"), "{table}");
        let told = &json(&scenario, &world, &comparison)["oracle"][1]["told"];
        assert_eq!(*told, json!({ "grams": 40.0, "percent_of_best": 70.0, "movement_percent": 10.0 }));
    }

    #[test]
    fn a_table_of_requests_says_what_is_left_out_and_claims_no_recording() {
        let (scenario, mut world, comparison) = compared();
        let at = scenario.duration();
        world.arrivals = vec![Arrival { at, lengths: (1, 1), class: None, resident: None }];
        world.lengths = vec![(1, 1)];
        let said = basis(&scenario, &world);
        assert!(said.contains("Left out: 1 of 1 requests, which come after the end. Seeds"), "{said}");
        let value = json(&scenario, &world, &comparison);
        assert_eq!((&value["recorded_lengths"], &value["requests_left_out"]), (&false.into(), &1.into()));
    }

    #[test]
    fn a_share_of_the_best_is_within_a_seed() {
        let (scenario, world, comparison) = compared();
        let value = json(&scenario, &world, &comparison);
        assert_eq!(value["runs"][0]["percent_of_best"], 80.0);
        assert_eq!(value["runs"][1]["percent_of_best"], 90.0);
        assert_eq!(value["oracle"][0]["percent_without_lengths"], 99.0);
        assert_eq!((&value["reference"], &value["simulated"]), (&json!("fast"), &json!(true)));
        // Where there is nothing to save there is no share of it.
        assert_eq!(
            of_best(
                &Comparison { best: vec![(1, Best { grams: 110.0, ..Best::default() })], ..comparison },
                Some(1),
                1,
                &served(1.0)
            ),
            None
        );
    }

    #[test]
    fn who_refuses_saves_nothing_by_it() {
        let (scenario, world, mut comparison) = compared();
        // The reference serves 900 requests of a joule each and fails 100, the other one serves every second request as it does.
        for (run, answered) in comparison.runs.iter_mut().zip([500.0, 500.0, 900.0, 900.0]) {
            let score = &mut run.finished.score;
            (score.joules, score.unanswered_joules) = (answered, 1000.0 - answered);
            score.grams = 110.0 * answered / 900.0;
        }
        let share = |comparison: &Comparison| of_best(comparison, Some(1), 1, &comparison.runs[0].finished.score).unwrap();
        assert!(share(&comparison).abs() < 1e-9, "{}", share(&comparison));
        assert!(
            text(&scenario, &world, &comparison)
                .contains("Whoever got no answer saves nothing: it counts as if fast had served it.")
        );
        comparison.runs[0].finished.score.grams /= 2.0;
        assert!((share(&comparison) - 100.0 * 30.5556 / (122.2222 - 10.0)).abs() < 1e-3, "{}", share(&comparison));
    }
}
