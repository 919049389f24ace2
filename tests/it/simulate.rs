//! `windward simulate`: that its books balance, whatever a scenario does, and that the shipped scenarios are ones.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use windward::clock::{Clock as _, SystemClock};
use windward::config::scenario::{self, Ablation, Changes, Event, Exchanged, Scenario, Settings};
use windward::config::{Env, Files};
use windward::estimate::Demand;
use windward::explain::{Explanation, render};
use windward::fleet::Share;
use windward::record::AccessRecord;
use windward::report::Summary;
use windward::simulate::engine::Finished;
use windward::simulate::log::LogWriter;
use windward::simulate::oracle::best;
use windward::simulate::router::{Decided, Moment, Router};
use windward::simulate::traffic::Course;
use windward::simulate::world::World;
use windward::simulate::{compare, play, players};
use windward::units::{GramsPerKwh, Millis};

use super::process::windward;

pub(super) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}

fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios");
    let files = ["ap", "eu", "us"].iter().flat_map(|world| std::fs::read_dir(root.join(world)).unwrap());
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A shipped scenario, on made-up days.
fn example(name: &str) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let read = scenario::load(&path.display().to_string(), &text, &Env::default(), &Disk);
    read.unwrap_or_else(|errors| panic!("{errors}"))
}

/// A few minutes of it, all of them scored.
pub(super) fn short(name: &str, minutes: f64) -> Scenario {
    let mut scenario = example(name);
    scenario.hours = minutes * 60.0 / scenario.carbon_hour.as_secs_f64();
    scenario.warm_up = Duration::ZERO;
    scenario.seeds.truncate(1);
    scenario
}

/// Every policy on one seed.
fn played(scenario: &Scenario, seed: u64) -> Vec<Finished> {
    let world = World::read(scenario, &Disk).unwrap();
    let course = Course::draw(scenario, &world, seed);
    let players = players(scenario, &world).unwrap_or_else(|errors| panic!("{errors}"));
    players.iter().map(|player| play(scenario, &world, &course, player, None)).collect()
}

/// What Windward's own policy did, how many requests there were, and its log.
fn logged(scenario: &Scenario) -> (Finished, u64, Vec<u8>) {
    let world = World::read(scenario, &Disk).unwrap();
    let course = Course::draw(scenario, &world, 4);
    let player = players(scenario, &world).unwrap().swap_remove(1);
    let mut text = Vec::new();
    let mut log = LogWriter::new(&mut text, 4);
    let finished = play(scenario, &world, &course, &player, Some(&mut log));
    let lines = log.finish().unwrap();
    assert_eq!(lines, course.asks.len() as u64);
    (finished, lines, text)
}

fn balances(scenario: &Scenario, seed: u64, finished: &Finished) {
    let world = World::read(scenario, &Disk).unwrap();
    let arrived = Course::draw(scenario, &world, seed).asks.len() as u64;
    assert_eq!(finished.all.iter().sum::<u64>(), arrived, "who came was answered, failed or was refused");
    assert_eq!(finished.under_way, (0, 0), "nothing is under way when all is over");
    let score = &finished.score;
    assert_eq!(score.requests, arrived);
    assert_eq!((score.failed, score.shed), (finished.all[1], finished.all[2]));
    assert!(score.missed >= score.failed + score.shed && score.missed <= score.requests);
    assert_eq!(score.regions.iter().sum::<u64>(), finished.all[0]);
    assert!(score.grams >= score.waste_grams && score.grams.is_finite());
}

#[test]
fn each_part_of_the_decision_can_be_done_without_and_is_missed() {
    let mut scenario = short("eu/cache.yaml", 1.5);
    scenario.traffic.per_second = 60.0;
    let whole = scenario.policies.iter().find(|policy| &*policy.name == "windward").unwrap().clone();
    assert!(whole.ablate.is_empty(), "what is shipped is whole");
    let parts = [
        Ablation::NoPrice,
        Ablation::FlatPrice,
        Ablation::NoErrorBudget,
        Ablation::FixedLimits,
        Ablation::NoLimits,
        Ablation::QueueByCount,
        Ablation::NoAffinity,
        Ablation::OneAnswerLength,
        Ablation::Tick5s,
        Ablation::Tick15s,
    ];
    let without = |part: &Ablation| Settings { ablate: vec![*part], ..whole.clone() };
    scenario.policies = [whole.clone()].into_iter().chain(parts.iter().map(without)).collect();
    let finished = played(&scenario, 7);
    for one in &finished {
        balances(&scenario, 7, one);
    }
    for (part, one) in parts.iter().zip(&finished[1..]) {
        assert_ne!(one.score, finished[0].score, "{part:?} changed nothing");
    }
}

#[test]
fn each_part_of_what_is_done_in_a_crowd_can_be_done_without_and_is_missed() {
    let mut scenario = short("eu/flash.yaml", 0.5);
    scenario.traffic.per_second = 400.0;
    let parts = [Ablation::NoHold, Ablation::NoShed, Ablation::NoReserve, Ablation::NoStrain];
    let whole = policy_of(&scenario, "windward");
    let without = |part: &Ablation| Settings { ablate: vec![*part], ..whole.clone() };
    scenario.policies = [whole.clone()].into_iter().chain(parts.iter().map(without)).collect();
    let finished = played(&scenario, 7);
    for one in &finished {
        balances(&scenario, 7, one);
    }
    let refused: Vec<u64> = finished.iter().map(|one| one.all[2]).collect();
    assert!(refused[1] > refused[0] && refused[0] > refused[2], "{refused:?}");
    for (part, one) in parts.iter().zip(&finished[1..]) {
        assert_ne!(one.score, finished[0].score, "{part:?} changed nothing");
    }
}

#[test]
fn every_shipped_scenario_is_one_and_gives_plans() {
    let files = shipped();
    assert_eq!(files.len(), 3 * (11 + 1), "eleven scenarios and a world, three times");
    for file in files {
        let name = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios")).unwrap();
        let scenario = example(name.to_str().unwrap());
        let world = World::read(&scenario, &Disk).unwrap();
        let players = players(&scenario, &world).unwrap_or_else(|errors| panic!("{}: {errors}", file.display()));
        assert_eq!(players.len(), scenario.policies.len());
        assert!(players.iter().all(|player| player.plan.backends.len() == scenario.regions.len()));
    }
}

#[test]
fn books_balance_through_everything_that_a_scenario_can_do() {
    for (name, shift) in
        [("eu/outage.yaml", 1400), ("us/brownout.yaml", 1400), ("eu/flash.yaml", 1400), ("us/four_proxies.yaml", 0)]
    {
        let mut scenario = short(name, 3.0);
        for event in &mut scenario.events {
            let earlier = |at: Duration| at.saturating_sub(Duration::from_secs(shift));
            *event = Event { from: earlier(event.from), until: earlier(event.until), ..*event };
        }
        for finished in played(&scenario, 7) {
            balances(&scenario, 7, &finished);
        }
    }
}

#[test]
fn what_an_outage_cuts_has_failed_and_what_it_turns_away_is_served_elsewhere() {
    let mut scenario = short("eu/outage.yaml", 3.0);
    scenario.traffic.per_second = 30.0;
    scenario.events.truncate(1);
    scenario.events[0].from = Duration::from_mins(1);
    scenario.events[0].until = Duration::from_mins(2);
    for finished in played(&scenario, 3) {
        balances(&scenario, 3, &finished);
        let [answered, failed, _] = finished.all;
        assert!(failed > 0 && answered > 20 * failed, "{answered} were answered, {failed} failed");
        assert!(finished.score.retries > 0 && finished.score.waste_grams > 0.0);
    }
}

#[test]
fn regions_that_stand_still_for_ever_do_not_keep_a_run_from_its_end() {
    let mut scenario = short("eu/outage.yaml", 0.5);
    scenario.events.truncate(1);
    let Some(event) = scenario.events.first_mut() else { panic!("an outage") };
    *event = Event { from: Duration::ZERO, until: Duration::MAX, region: None, ..*event };
    (event.change.down, event.change.tenants) = (false, 1.0);
    for finished in played(&scenario, 1) {
        balances(&scenario, 1, &finished);
        assert_eq!(finished.all[0], 0, "others have all slots");
        assert!(finished.score.waste_grams > 0.0 && finished.score.refusals > 0);
    }
}

#[test]
fn one_seed_is_one_result_however_many_threads_there_are() {
    let mut scenario = short("eu/noisy.yaml", 1.5);
    scenario.seeds = vec![1, 2];
    let world = World::read(&scenario, &Disk).unwrap();
    let players = players(&scenario, &world).unwrap();
    let run = |threads| {
        let comparison = compare(&scenario, &world, &players, threads, |_| {});
        let runs: Vec<_> = comparison.runs.into_iter().map(|run| (run.policy, run.seed, run.finished)).collect();
        (runs, comparison.best)
    };
    let once = run(1);
    assert_eq!(once, run(4));
    assert_ne!(once.0[0].2, once.0[1].2, "another seed is another result");
    assert_eq!((once.0.len(), once.1.len()), (2 * players.len(), 2));
}

#[test]
fn nobody_emits_less_than_the_oracle_and_round_robin_saves_something() {
    for name in ["eu/normal.yaml", "us/overload_green.yaml"] {
        let scenario = short(name, 4.0);
        let world = World::read(&scenario, &Disk).unwrap();
        let course = Course::draw(&scenario, &world, 5);
        let best = best(&scenario, &world, &course, None);
        assert!(best.overflow < 1e-9);
        assert!(best.grams <= best.grams_without_lengths * (1.0 + 1e-9), "to know more is no loss");
        let finished = played(&scenario, 5);
        for run in &finished {
            assert!(best.grams <= run.score.grams, "{} of {}", best.grams, run.score.grams);
        }
        let [least_latency, _, round_robin] = &finished[..] else { panic!("{}", finished.len()) };
        assert!(round_robin.score.grams < least_latency.score.grams, "the home is a dirty one");
    }
}

/// The shipped policy of that name.
pub(super) fn policy_of(scenario: &Scenario, name: &str) -> Settings {
    scenario.policies.iter().find(|policy| &*policy.name == name).unwrap().clone()
}

#[test]
fn the_more_answers_must_be_in_time_the_fewer_are_late() {
    let mut scenario = short("eu/noisy.yaml", 5.0);
    let own = policy_of(&scenario, "windward");
    let by = |quantile: f64| {
        let mut settings = own.clone();
        settings.settings.insert("latency_budget".to_owned(), serde_json::json!({ "quantile": quantile }));
        settings
    };
    scenario.policies = [0.8, 0.95, 0.998].map(by).into();
    let finished = played(&scenario, 11);
    let late: Vec<u64> = finished.iter().map(|one| one.score.missed).collect();
    let grams: Vec<f64> = finished.iter().map(|one| one.score.grams).collect();
    assert!(late[0] > 2 * late[1] && late[1] > 2 * late[2], "{late:?}");
    assert!(grams[0] < grams[1] && grams[1] < grams[2], "{grams:?}: who may be late now and then is cleaner for it");
}

#[test]
fn least_latency_stays_at_home_while_there_is_room() {
    let mut scenario = short("eu/normal.yaml", 5.0);
    scenario.traffic.per_second = 2.0;
    let finished = played(&scenario, 9);
    let regions = &finished[0].score.regions;
    assert!(regions[0] * 2 > regions.iter().sum::<u64>(), "{regions:?}");
    assert!(finished[0].score.missed * 100 <= finished[0].score.requests);
}

#[test]
fn a_log_is_one_that_report_reads_and_its_grams_are_the_true_ones() {
    let mut scenario = short("eu/outage.yaml", 2.0);
    scenario.events.truncate(1);
    scenario.events[0].from = Duration::from_secs(40);
    scenario.events[0].until = Duration::from_secs(80);
    let (finished, requests, text) = logged(&scenario);
    let mut summary = Summary::new();
    windward::report::summarise("log", &*text, &mut summary).unwrap();
    let report = summary.report(&[]);
    assert_eq!(report.lines.bad, 0);
    let [traffic] = &report.traffic[..] else { panic!("{}", report.traffic.len()) };
    assert_eq!(traffic.requests, requests);
    let logged: f64 = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let record: AccessRecord<'_> = serde_json::from_slice(line).unwrap();
            assert!(record.is_simulated());
            record.emissions.unwrap().grams.get()
        })
        .sum();
    assert!(finished.all[1] > 0, "some were cut, and are in the books");
    assert!((logged / finished.score.grams - 1.0).abs() < 0.01, "{logged} in the log, {} in truth", finished.score.grams);
}

#[test]
fn what_a_feed_said_last_grows_old_while_it_stands_still() {
    let oldest = |stale: bool| {
        let mut scenario = short("eu/stale.yaml", 1.0);
        (scenario.carbon_hour, scenario.hours) = (Duration::from_secs(10), 6.0);
        scenario.events.truncate(1);
        let Some(event) = scenario.events.first_mut() else { panic!("a feed that stands still") };
        *event = Event { from: Duration::from_secs(15), until: Duration::MAX, ..*event };
        event.change.stale = stale;
        let (_, _, text) = logged(&scenario);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let age = |line| {
            let record: AccessRecord<'_> = serde_json::from_slice(line).unwrap();
            record.decision.unwrap().candidates.iter().filter_map(|it| it.intensity_age_s).max().unwrap()
        };
        lines.map(age).max().unwrap()
    };
    let (heard, stale) = (oldest(false), oldest(true));
    assert!((3000..=3600).contains(&heard) && (17_000..=18_000).contains(&stale), "{heard} s and {stale} s");
}

/// As in the proxy, where one request sees one snapshot.
#[test]
fn a_request_that_is_held_back_is_decided_by_the_readings_that_it_came_under() {
    let scenario = short("eu/normal.yaml", 1.0);
    let world = World::read(&scenario, &Disk).unwrap();
    let at = Moment { now: SystemClock.monotonic(), wall: scenario.from };
    let mut router = Router::new(0, &players(&scenario, &world).unwrap()[1], at.now);
    let demand = Demand { body_bytes: 3000, streamed: true, ..Demand::default() };
    let grams = |decided: &Decided| decided.candidates.iter().map(|it| it.estimate.emissions.unwrap()).collect::<Vec<_>>();
    let held = router.decide(0, demand, None, at);
    router.reading(3, GramsPerKwh::saturating(900.0), at);
    assert_eq!(grams(&router.decide_again(&held, None, Duration::from_millis(50), at)), grams(&held));
    assert_ne!(grams(&router.decide(0, demand, None, at)), grams(&held));
}

/// A line of a request that nobody could serve in time says what the proxy says of one, and when.
#[test]
fn who_is_refused_in_a_crowd_is_logged_as_the_proxy_logs_it() {
    let mut scenario = short("eu/flash.yaml", 0.5);
    scenario.traffic.per_second = 400.0;
    let (finished, _, text) = logged(&scenario);
    let (mut shed, mut held, mut kept_free, mut served_late, mut beyond, mut free) = (0, 0, 0, 0, 0, 0);
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: AccessRecord<'_> = serde_json::from_slice(line).unwrap();
        let decision = record.decision.as_ref().unwrap();
        if record.backend.is_some() {
            let waited = decision.spent_ms.unwrap() >= Millis::saturating(50.0);
            assert!(decision.reserve.is_none() || waited, "of whom nothing was kept free, nothing is said");
            served_late += u32::from(decision.reserve.is_some());
            // Who has one too many is late, so that whoever was sent there in time was let go beyond the limit.
            let chosen = decision.candidates.iter().find(|it| &*it.verdict == "chosen").unwrap();
            let is_beyond = chosen.in_flight >= chosen.limit.unwrap() && &*decision.reason != "fastest_over_budget";
            assert!(!is_beyond || decision.strain.is_some(), "{decision:?}");
            beyond += u32::from(is_beyond);
            continue;
        }
        shed += 1;
        kept_free += u32::from(decision.reserve.is_some_and(|share| share > 0.0 && share < 0.2));
        held += u32::from(record.total_ms.get() >= 50.0);
        assert_eq!((record.status, record.ended.as_str(), record.error.as_deref()), (Some(429), "rejected", Some("shed")));
        assert_eq!(&*decision.reason, "shed");
        let are_kept = decision.candidates.iter().filter(|it| &*it.verdict == "kept_free").count();
        assert!(
            decision.candidates.iter().all(|it| &*it.verdict != "later_in_order")
                && (are_kept == 0 || decision.reserve.is_some() || decision.strain.is_some())
        );
        free += u32::from(are_kept > 0);
        let reserved = decision.reserve.is_some();
        let told = render::text(&Explanation::from(record), false);
        assert!(told.contains("ended        rejected, status 429, error shed"), "{told}");
        assert!(
            told.contains("chosen       nobody, shed: nobody had a place") && told.contains("; 0 meet every constraint"),
            "{told}"
        );
        assert_eq!(told.contains(" of the places where it would be in time were kept free of it"), reserved, "{told}");
    }
    assert_eq!(shed, finished.all[2]);
    assert!(free > 0 && beyond > 0, "{free} were refused where there was room, {beyond} sent where there was none");
    assert!(held > 0, "nobody waited for a better moment before it was refused");
    assert!(kept_free > 0 && served_late > 0, "{kept_free} were refused and {served_late} served for whom places were kept from");
}

/// The whole command: its table and its progress, and that other commands work on what it writes.
#[test]
fn the_command_writes_what_report_and_explain_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let normal = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios/eu/normal.yaml");
    let text = format!("extends: {}\nhours: 0.4\nwarm_up: 20s\nseeds: [7, 8]\n", normal.display());
    std::fs::write(file("s.yaml"), text).unwrap();
    let said = |arguments: &[&str]| {
        let output = windward(arguments.iter().copied()).env_remove("WINDWARD_DATA").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(output.stderr));
        (text(output.stdout), text(output.stderr))
    };
    let (out, error) =
        said(&["simulate", &file("s.yaml"), "--policy", "windward", "--json", &file("all.json"), "--log", &file("access.jsonl")]);
    for policy in ["least_latency", "windward", "(oracle)"] {
        assert!(
            out.lines().any(|line| line.starts_with(policy)) && error.contains(&format!("{policy}, seed 7, in ")),
            "{out}{error}"
        );
    }
    assert!(error.contains("1 of 6: ") && error.contains("6 of 6: "), "{error}");

    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file("all.json")).unwrap()).unwrap();
    let runs = all["runs"].as_array().unwrap();
    let whose: Vec<_> = runs.iter().map(|run| (run["policy"].as_str().unwrap(), run["seed"].as_u64().unwrap())).collect();
    assert_eq!(whose, [("least_latency", 7), ("least_latency", 8), ("windward", 7), ("windward", 8)]);
    for run in runs {
        assert!(run["percent_of_best"].is_number(), "{run:#}");
        for figure in ["requests", "grams", "missed", "late_first_token", "late_end", "failed", "shed", "movement_percent"] {
            assert!(run["score"][figure].is_number(), "{figure} in {run:#}");
        }
    }

    let (out, _) = said(&["report", "--format", "json", &file("access.jsonl")]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let log = std::fs::read_to_string(file("access.jsonl")).unwrap();
    let asked: u64 = runs[2]["all"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!((report["lines"]["records"].as_u64(), log.lines().count() as u64), (Some(asked), asked), "{report:#}");
    let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let (out, _) = said(&["explain", "--log", &file("access.jsonl"), "--id", first["id"].as_str().unwrap()]);
    for part in ["SIMULATED DATA", "oslo", "chosen", "first token", "saved"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

/// Nearly all that they say to each other is lost and the rest is late: no worse for the grids or for the clients than four that never
/// heard of each other, but for what chance makes of four minutes, a twentieth of the grams.
#[test]
fn proxies_that_hardly_hear_each_other_do_no_worse_than_alone() {
    let mut scenario = short("eu/normal.yaml", 5.0);
    scenario.policies.retain(|policy| &*policy.name == "windward");
    (scenario.warm_up, scenario.proxies) = (Duration::from_mins(1), 4);
    let alone = played(&scenario, 1).swap_remove(0).score;
    scenario.exchange = Some(Exchanged {
        fast: Duration::from_millis(100),
        slow: Duration::from_millis(500),
        loss: Share::new(0.95).unwrap(),
        delay: Duration::from_millis(200),
    });
    let together = played(&scenario, 1).swap_remove(0).score;
    let (grams, missed) = (together.grams / alone.grams, [together.missed, alone.missed]);
    assert!(grams < 1.05 && missed[0] <= missed[1], "{grams} times the grams, {missed:?} missed");
}

fn anything() -> impl Strategy<Value = Vec<Event>> {
    let change = (
        prop_oneof![Just(1.0), 0.5_f64..6.0],
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.3, 1_u16..3),
        prop_oneof![Just(0.0), 0.0_f64..1.0],
        prop_oneof![Just(0.0), 0.0_f64..1.2],
        any::<bool>(),
        prop_oneof![Just(1.0), 0.0_f64..2.0],
    );
    let event = (0_u64..20_000, 1_u64..20_000, proptest::option::of(0_usize..7), change);
    let event = event.prop_map(|(from, span, region, (slow, down, replicas, errors, tenants, stale, crowd))| Event {
        from: Duration::from_millis(from),
        until: Duration::from_millis(from + span),
        region,
        change: Changes {
            slow,
            down,
            replicas: replicas.and_then(NonZeroU16::new),
            error_rate: Share::new(errors).unwrap(),
            tenants,
            stale,
            crowd,
        },
    });
    proptest::collection::vec(event, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to the regions, whoever came is accounted for, and nobody is left.
    #[test]
    fn nobody_is_lost_and_nothing_is_left(events in anything(), seed in any::<u64>(), proxies in 1_u16..4) {
        let mut scenario = short("eu/noisy.yaml", 0.4);
        (scenario.events, scenario.proxies) = (events, proxies);
        for finished in played(&scenario, seed) {
            balances(&scenario, seed, &finished);
        }
    }
}
