use std::sync::Arc;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::grid::{Basis, Quality, Reading, Signal};
use crate::testing::plan;
use crate::units::{GramsPerKwh, Millis};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn snapshot() -> Snapshot {
    let mut plan = plan();
    plan.flows = vec![(Arc::from("chat"), Arc::from("m"))];
    Snapshot::first(Arc::new(plan), SystemClock.monotonic())
}

/// A grid that was 40 g/kWh each morning and 90 now.
fn read() -> Grid {
    let reading = |hours: i64, grams| Reading {
        intensity: GramsPerKwh::saturating(grams),
        signal: Signal::Average,
        basis: Basis::Lifecycle,
        quality: Quality::Measured,
        measured_at: at(3600 * hours),
        valid_until: at(3600 * hours + 3600),
        source: Arc::from("test"),
    };
    let mut grid = Grid::new(vec![None], Duration::from_hours(24));
    (1..9).rev().for_each(|day| grid.set(ZoneId(0), reading(6 - 24 * day, 40.0)));
    grid.set(ZoneId(0), reading(-1, 90.0));
    grid
}

/// One that has learned that the backend is slow, and what its grid is like.
fn learned() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.grid = Arc::new(read());
    let model = snapshot.live[0].model("m").unwrap();
    for step in 0..500_u32 {
        model.saw_first_token(100 + step, Millis::ZERO, Millis::saturating(2000.0));
        model.saw_output(100, Millis::saturating(99.0 * 55.0), 3.0, 8);
        model.saw_cached(1000.0, 900);
    }
    let each = Millis::saturating(90.0);
    snapshot.live[0].adapt(8, 1.0, |_| Some(each));
    (0..50_000).for_each(|_| model.saw_end(false, each, 0.95));
    for _ in 0..300 {
        snapshot.flows[0].saw_output(1000, 40);
        snapshot.flows[0].saw_prompt(9000, 1000);
    }
    snapshot.live[0].refused("m", false, SystemClock.monotonic(), None);
    snapshot
}

fn known(snapshot: &Snapshot) -> [f64; 4] {
    let model = snapshot.live[0].model("m").unwrap();
    let flow = &snapshot.flows[0];
    let demand = crate::demand::Demand { body_bytes: 9000, ..Default::default() };
    [
        model.first_token(300, 0).late.get(),
        model.per_output_token(3, 8).get(),
        f64::from(flow.output_tokens(1000, Some(1000))),
        f64::from(flow.size(&demand).prompt_tokens),
    ]
}

#[test]
fn a_margin_outlives_a_reload_that_changes_the_budget_and_not_its_quantile() {
    let with = |name: &str, first_token: f64, quantile: f64| {
        let mut policy = crate::policy::Policy::standard(name);
        let budget = policy.budget.as_mut().unwrap();
        (budget.first_token, budget.quantile) = (Millis::saturating(first_token), quantile);
        let mut plan = plan();
        plan.policies = vec![Arc::new(policy)];
        Arc::new(plan)
    };
    let now = SystemClock.monotonic();
    let before = Snapshot::first(with("p", 500.0, 0.95), now);
    let id = before.plan.policies[0].id;
    before.margin(id).unwrap().restore(1.25, 1.0);
    let after = |plan| before.with_plan(plan, now).margin(id).unwrap().get();
    assert!((after(with("p", 500.0, 0.95)) - 1.25).abs() < 1e-9 && (after(with("p", 800.0, 0.95)) - 1.25).abs() < 1e-9);
    before.margin(id).unwrap().restore(0.7, 1.0);
    assert!((after(with("p", 800.0, 0.95)) - 0.7).abs() < 1e-9);
    assert!((after(with("p", 300.0, 0.95)) - 1.0).abs() < 1e-9, "what the longer one forgave is no measure of a shorter one");
    let of_another = [after(with("p", 500.0, 0.99)), after(with("q", 500.0, 0.95))];
    assert!(of_another.iter().all(|margin| (margin - 1.0).abs() < 1e-9), "it is about another share, or another policy");
}

#[test]
fn what_was_learned_is_known_again() {
    let before = learned();
    let mut after = snapshot();
    let restored = after.restore(before.kept(at(0)).as_bytes(), at(60)).unwrap();
    assert_eq!((restored.taken, restored.unknown, restored.unsound), (3, 0, 0));
    let grams = |hours: i64| after.grid.at(ZoneId(0), at(3600 * hours)).map(|it| (it.quality, it.value.get()));
    assert_eq!(grams(-1), Some((Quality::Measured, 90.0)));
    assert_eq!(
        grams(6),
        Some((Quality::Climatology, 40.0)),
        "of a morning it is known, and the last reading is too old for this plan"
    );
    for (before, after) in known(&before).into_iter().zip(known(&after)) {
        assert!((after / before - 1.0).abs() < 0.02, "{before} became {after}");
    }
    assert!((after.live[0].cut() - 0.85).abs() < 1e-3);
    assert!((after.live[0].model("m").unwrap().cached_share() - 0.9).abs() < 0.01);
    // The limit that follows from it: how far beyond the budget it may be filled is known, too.
    let limit = |snapshot: &Snapshot| {
        (0..60).for_each(|_| snapshot.live[0].adapt(1000, 60.0, |_| Some(Millis::saturating(60.0))));
        snapshot.live[0].model("m").unwrap().limit(1000)
    };
    let (own, known) = (limit(&before), limit(&after));
    assert!(own.abs_diff(known) <= 2, "{own} became {known}");
}

#[test]
fn a_model_that_was_never_streamed_is_known_again_by_the_pace_of_its_tokens() {
    let (before, mut after) = (snapshot(), snapshot());
    let pace = |snapshot: &Snapshot| snapshot.live[0].model("m").unwrap().per_output_token(3, 8).get();
    (0..200).for_each(|_| before.live[0].model("m").unwrap().saw_output(100, Millis::saturating(99.0 * 80.0), 3.0, 8));
    assert_eq!(after.restore(before.kept(at(0)).as_bytes(), at(0)).unwrap().unsound, 0);
    assert!((pace(&after) / pace(&before) - 1.0).abs() < 0.02, "{} became {}", pace(&before), pace(&after));
}

#[test]
fn the_older_the_nearer_to_what_was_declared_and_after_a_week_nothing() {
    let (fresh, before) = (known(&snapshot()), learned());
    let text = before.kept(at(0));
    let of_age = |hours: i64| {
        let mut after = snapshot();
        after.restore(text.as_bytes(), at(3600 * hours)).map(|_| known(&after))
    };
    let (new, day) = (of_age(0).unwrap(), of_age(24).unwrap());
    for value in 0..2 {
        assert!(fresh[value] < day[value] && day[value] < new[value], "{fresh:?} {day:?} {new:?}");
    }
    assert_eq!(of_age(24 * 8), Err(Broken::Age("too long ago")));
    assert_eq!(of_age(-2), Err(Broken::Age("in a time to come")));
    assert!(of_age(-1).is_ok(), "a clock may be put back an hour");
}

#[test]
fn what_is_not_ours_or_not_sound_or_of_something_else_is_not_taken() {
    let (fresh, text) = (known(&snapshot()), learned().kept(at(0)));
    let mut after = snapshot();
    for (bytes, why) in [
        (&b""[..], Broken::Foreign),
        (b"{\"a\":1}", Broken::Foreign),
        (b"backends: []", Broken::Foreign),
        (b"{\"windward_state\":7,\"other\":[]}", Broken::Version(7)),
    ] {
        assert_eq!(after.restore(bytes, at(0)), Err(why));
    }
    assert!(matches!(after.restore(&text.as_bytes()[..text.len() / 2], at(0)), Err(Broken::Unread(_))));
    let elsewhere = text.replace("127.0.0.1:9", "127.0.0.1:10");
    let restored = after.restore(elsewhere.as_bytes(), at(0)).unwrap();
    assert_eq!((restored.taken, restored.unknown), (2, 1), "the flow and the grid are the same ones");
    let mut after = snapshot();
    for (from, to) in [
        ("\"level\":", "\"level\":-"),
        ("\"weight\":", "\"weight\":-"),
        ("_per_kwh\":", "_per_kwh\":-"),
        ("\"pace\":", "\"pace\":9"),
    ] {
        let restored = after.restore(text.replace(from, to).as_bytes(), at(0)).unwrap();
        assert_eq!((restored.taken, restored.unsound), (2, 1), "{from}");
    }
    let mut after = snapshot();
    assert!(after.restore(text.replace("\"level\":", "\"level\":1e999,\"l\":").as_bytes(), at(0)).is_err());
    assert!(known(&after).iter().zip(fresh).all(|(now, fresh)| (now - fresh).abs() < 1e-9));
}

proptest::proptest! {
    #[test]
    fn whatever_a_file_holds_only_numbers_come_out(
        changes in proptest::collection::vec((0.0..1.0_f64, proptest::sample::select(vec![
            "0", "-", "9", "e9", "1e300", "-1e300", "null", ".", ",", "[", "]", "\"", "1e-300", "4294967296", " ",
        ]), proptest::bool::ANY), 1..5),
        hours in -3_i64..200,
    ) {
        let mut text = learned().kept(at(0));
        for (place, word, replaces) in changes {
            let place = (place * text.len() as f64) as usize;
            let end = (place + usize::from(replaces)).min(text.len());
            text.replace_range(place..end, word);
        }
        let mut after = snapshot();
        let _ = after.restore(text.as_bytes(), at(3600 * hours));
        let model = after.live[0].model("m").unwrap();
        for load in [0, 3, 8, 100] {
            proptest::prop_assert!(model.per_output_token(load, 8).get().is_finite());
            let first = model.first_token(load * 100, u64::from(load) * 1000).late.get();
            proptest::prop_assert!(first.is_finite() && first >= 0.0);
        }
        after.live[0].adapt(8, 1.0, |_| Some(Millis::saturating(30.0)));
        proptest::prop_assert!((1..=8).contains(&model.limit(8)));
        model.saw_first_token(100, Millis::ZERO, Millis::saturating(100.0));
        proptest::prop_assert!(model.first_token(100, 0).late.get().is_finite());
        proptest::prop_assert!(known(&after).iter().all(|value| value.is_finite()));
        proptest::prop_assert!(after.live[0].cut() > 0.0 && after.live[0].cut() <= 1.0);
        let grams = after.grid.at(ZoneId(0), at(3600 * hours)).map_or(0.0, |it| it.value.get());
        proptest::prop_assert!((0.0..=2500.0).contains(&grams), "{}", grams);
        let now = at(3600 * hours);
        let again = after.kept(now);
        let written_is_read = snapshot().restore(again.as_bytes(), now).is_ok_and(|restored| restored.unsound == 0);
        proptest::prop_assert!(written_is_read, "{}", again);
    }
}
