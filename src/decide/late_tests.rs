//! What is done with candidates that would be late.

use proptest::prelude::*;

use super::tests::{any_candidates, candidate, decided, green, policy};
use super::weighing::rank_of;
use super::*;
use crate::policy::{Objective, OnNoCandidate};

#[test]
fn a_candidate_stays_small() {
    assert!(size_of::<Candidate>() <= 128, "{} bytes", size_of::<Candidate>());
    assert!(size_of::<NoCandidate>() <= 16);
}

#[test]
fn numbers_are_put_in_the_order_that_they_have() {
    let numbers =
        [f64::NEG_INFINITY, -1.0, -0.0, 0.0, f64::MIN_POSITIVE, 0.5, 1.0, 1.0_f64.next_up(), f64::MAX, f64::INFINITY, f64::NAN];
    for (a, b) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (*a, *b))) {
        assert_eq!(rank_of(a).cmp(&rank_of(b)), a.total_cmp(&b), "{a} and {b}");
    }
}

#[test]
fn more_candidates_than_a_plan_can_have_do_no_harm() {
    let many = vec![candidate(0, Some(1.0), 100.0, 0); 70_000];
    assert_eq!(decided(&green(), &many).verdicts.len(), 65_536);
}

#[test]
fn a_crowded_one_is_left_to_those_for_whom_nobody_else_is_in_time() {
    let crowded = |id, grams| {
        let mut it = candidate(id, Some(grams), 100.0, 7);
        it.estimate.limit = 7;
        it
    };
    let green = policy(Objective::LeastCarbon);
    let got = decided(&green, &[crowded(0, 1.0), candidate(1, Some(50.0), 100.0, 0)]);
    assert_eq!((got.chosen(), got.verdicts[0]), (1, Verdict::Crowded { by: 1 }));
    assert_eq!(got.order.as_slice(), [1, 0], "it is still better than no answer");
    let all = decided(&green, &[crowded(0, 1.0), crowded(1, 50.0)]);
    assert_eq!(all.reason, Reason::FastestOverBudget);
    let rejects = Policy { on_no_candidate: OnNoCandidate::Reject, ..green };
    let refused = decide(&rejects, true, &[crowded(0, 1.0), crowded(1, 50.0)], 0);
    assert_eq!(refused, Err(NoCandidate::AllExcluded { no_capacity: 2, outside_residency: 0 }));
}

#[test]
fn of_the_late_ones_the_least_late_by_either_budget_comes_first() {
    let mut green = policy(Objective::LeastCarbon);
    if let Some(budget) = &mut green.budget {
        budget.per_output_token = Some(Millis::saturating(10.0));
    }
    let late = |id, first: f64, next: f64| {
        let mut it = candidate(id, Some(1.0), first, 7);
        (it.estimate.limit, it.estimate.per_output_token) = (7, Millis::saturating(next));
        it
    };
    // By their shares of the budgets: 3.0, 1.5 and 2.0.
    let got = decided(&green, &[late(0, 100.0, 30.0), late(1, 1500.0, 9.0), late(2, 2000.0, 20.0)]);
    assert_eq!(got.order.as_slice(), [1, 2, 0]);
}

#[test]
fn a_late_one_with_room_comes_before_one_that_would_make_all_others_late() {
    let mut green = policy(Objective::LeastCarbon);
    if let Some(budget) = &mut green.budget {
        budget.per_output_token = Some(Millis::saturating(10.0));
    }
    let full = |id| {
        let mut it = candidate(id, Some(1.0), 100.0, 7);
        (it.estimate.limit, it.estimate.per_output_token) = (7, Millis::saturating(10.5));
        it
    };
    let with_room = |latency| candidate(1, Some(9.0), latency, 3);
    // Four times the budget is less than eight times 1.05, and nine times is more.
    for (latency, order) in [(1_500.0, [1, 0]), (4_000.0, [1, 0]), (9_000.0, [0, 1])] {
        assert_eq!(decided(&green, &[full(0), with_room(latency)]).order.as_slice(), order, "{latency} ms");
    }
}

proptest! {
    /// The baseline is found without putting all in order; it is who leads when they are.
    #[test]
    fn the_baseline_is_whom_least_latency_would_choose(
        candidates in any_candidates(24), streamed in any::<bool>(), turn in any::<u32>(),
    ) {
        let quick = Policy { objective: Objective::LeastLatency, ..green() };
        let chosen = decide(&quick, streamed, &candidates, turn).map(|decision| decision.chosen());
        prop_assert_eq!(decide(&green(), streamed, &candidates, turn).map(|decision| decision.baseline), chosen);
    }
}
