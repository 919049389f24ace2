use proptest::prelude::*;

use super::weighing::TIE;
use super::*;
use crate::policy::{Objective, OnNoCandidate};
use crate::units::{Grams, GramsPerKwh, Joules};

const BUDGET_MS: f64 = 1000.0;

pub(super) fn candidate(id: u16, grams: Option<f64>, latency_ms: f64, in_flight: u32) -> Candidate {
    Candidate {
        backend: BackendId(id),
        estimate: Estimate {
            prompt_tokens: 100,
            known_tokens: 0,
            cached_tokens: 0,
            output_tokens: 200,
            first_token: Millis::saturating(latency_ms),
            queue: Millis::ZERO,
            per_output_token: Millis::saturating(20.0),
            total: Millis::saturating(latency_ms * 10.0),
            energy: Joules::saturating(1000.0),
            intensity: grams.map(GramsPerKwh::saturating),
            emissions: grams.map(Grams::saturating),
            cost: None,
            in_flight,
            limit: 100,
            price: Grams::ZERO,
        },
        standing: Standing::Ready,
        weight: 1,
    }
}

pub(super) fn policy(objective: Objective) -> Policy {
    let budget = LatencyBudget {
        first_token: Millis::saturating(BUDGET_MS),
        per_prompt_token: Millis::ZERO,
        per_output_token: None,
        total: Some(Millis::saturating(BUDGET_MS * 10.0)),
        quantile: 0.95,
        at_most: None,
    };
    Policy { objective, budget: Some(budget), ..Policy::standard("test") }
}

pub(super) fn green() -> Policy {
    policy(Objective::LeastCarbon)
}

fn stand(standing: Standing, candidate: Candidate) -> Candidate {
    Candidate { standing, ..candidate }
}

pub(super) fn decided(policy: &Policy, candidates: &[Candidate]) -> Decision {
    decide(policy, true, candidates, 0).unwrap()
}

#[test]
fn the_cleanest_within_the_budget_is_chosen_and_the_fastest_is_the_baseline() {
    let candidates = [
        candidate(0, Some(4.0), 100.0, 0),
        candidate(1, Some(1.0), 900.0, 0),
        candidate(2, Some(0.5), 1200.0, 0),
        candidate(3, Some(2.0), 300.0, 0),
        candidate(4, None, 50.0, 0),
    ];
    let got = decided(&green(), &candidates);
    assert_eq!(got.order.as_slice(), [1, 3, 0, 4, 2], "then by grams, the unknown, and at last the late one");
    assert_eq!((got.chosen(), got.baseline, got.reason), (1, 4, Reason::Objective(Objective::LeastCarbon)));
    let expected = [
        Verdict::Dirtier { by: Grams::saturating(3.0) },
        Verdict::Chosen,
        Verdict::OverBudget { by: Millis::saturating(200.0) },
        Verdict::Dirtier { by: Grams::saturating(1.0) },
        Verdict::UnknownCarbon,
    ];
    assert_eq!(got.verdicts.as_slice(), expected);
}

#[test]
fn the_budget_is_about_what_the_client_waits_for() {
    let mut slow_writer = candidate(0, Some(1.0), 100.0, 0);
    slow_writer.estimate.total = Millis::saturating(20_000.0);
    let candidates = [slow_writer, candidate(1, Some(2.0), 500.0, 0)];
    assert_eq!(decide(&green(), true, &candidates, 0).unwrap().chosen(), 0);
    let got = decide(&green(), false, &candidates, 0).unwrap();
    assert_eq!((got.chosen(), got.reason), (1, Reason::Only));
    assert_eq!(got.verdicts[0], Verdict::OverBudget { by: Millis::saturating(10_000.0) });
    let just_in_time = [candidate(0, Some(1.0), BUDGET_MS, 0), candidate(1, Some(2.0), 1.0, 0)];
    assert_eq!(decided(&green(), &just_in_time).chosen(), 0);
    let unbounded = Policy { budget: None, ..green() };
    assert_eq!(decide(&unbounded, false, &candidates, 0).unwrap().chosen(), 0);
}

#[test]
fn a_long_prompt_has_a_longer_budget() {
    let mut long = candidate(0, Some(1.0), 1500.0, 0);
    long.estimate.prompt_tokens = 6000;
    let mut patient = green();
    patient.budget.as_mut().unwrap().per_prompt_token = Millis::saturating(0.1);
    assert_eq!(decided(&patient, &[long, candidate(1, Some(2.0), 100.0, 0)]).chosen(), 0);
    assert_eq!(decided(&green(), &[long, candidate(1, Some(2.0), 100.0, 0)]).chosen(), 1);
}

#[test]
fn a_tie_goes_to_the_idler_one_whatever_its_limit() {
    let mut small = candidate(0, Some(1.0), 100.0, 3);
    small.estimate.limit = 10;
    let candidates = [small, candidate(1, Some(1.009), 100.0, 20), candidate(2, Some(1.02), 100.0, 0)];
    let got = decided(&green(), &candidates);
    assert_eq!(got.order.as_slice(), [1, 0, 2], "20 of 100 is less than 3 of 10, and 2 % more grams are no tie");
    assert_eq!(got.verdicts[0], Verdict::Tied);
    assert!(matches!(got.verdicts[2], Verdict::Dirtier { .. }));
}

#[test]
fn equals_take_turns() {
    let candidates = [7, 3, 5].map(|id| candidate(id, Some(1.0), 100.0, 0));
    for objective in [Objective::LeastCarbon, Objective::LeastLatency, Objective::RoundRobin] {
        let chosen = (0..6).map(|turn| {
            let got = decide(&policy(objective), true, &candidates, turn).unwrap();
            assert_eq!(got.baseline, got.chosen(), "no saving is claimed among equals");
            candidates[usize::from(got.chosen())].backend.0
        });
        assert_eq!(chosen.collect::<Vec<_>>(), [3, 5, 7, 3, 5, 7], "{objective:?}");
    }
}

#[test]
fn with_nobody_known_latency_decides_and_says_so() {
    let candidates =
        [candidate(0, None, 300.0, 0), candidate(1, None, 100.0, 0), candidate(2, None, 200.0, 0), candidate(3, None, 100.5, 9)];
    let got = decided(&green(), &candidates);
    assert_eq!(got.order.as_slice(), [1, 3, 2, 0]);
    assert_eq!(got.verdicts[3], Verdict::Tied);
    assert_eq!((got.reason, got.baseline), (Reason::CarbonUnknown, 1));
    assert_eq!(got.verdicts[0], Verdict::Slower { by: Millis::saturating(200.0) });
}

#[test]
fn a_dirty_grid_that_is_known_wins_over_an_unknown_one() {
    let candidates = [candidate(0, None, 20.0, 0), candidate(1, Some(900.0), 900.0, 99), candidate(2, None, 10.0, 0)];
    let got = decided(&green(), &candidates);
    assert_eq!((got.order.as_slice(), got.baseline), ([1, 2, 0].as_slice(), 2));
}

#[test]
fn with_nobody_in_time_the_fastest_is_taken_or_the_request_refused() {
    let candidates = [candidate(0, Some(1.0), 3000.0, 0), candidate(1, Some(9.0), 1500.0, 0)];
    let got = decided(&green(), &candidates);
    assert_eq!(got.order.as_slice(), [1, 0]);
    assert_eq!((got.reason, got.baseline), (Reason::FastestOverBudget, 1));
    assert_eq!(got.verdicts.as_slice(), [Verdict::OverBudget { by: Millis::saturating(2000.0) }, Verdict::Chosen]);

    let strict = Policy { on_no_candidate: OnNoCandidate::Reject, ..green() };
    let refused = decide(&strict, true, &candidates, 0);
    assert_eq!(refused, Err(NoCandidate::OverBudget { by: Millis::saturating(500.0) }));
    // And once one is in time, the late one is not even a fallback.
    let got = decided(&strict, &[candidates[0], candidate(1, Some(9.0), 500.0, 0)]);
    assert_eq!(got.order.as_slice(), [1]);
}

#[test]
fn ejected_ones_are_tried_only_when_nobody_else_stands() {
    let ejected = [
        stand(Standing::Ejected, candidate(0, Some(2.0), 100.0, 0)),
        stand(Standing::Ejected, candidate(1, Some(1.0), 200.0, 0)),
    ];
    let [first, second] = ejected;
    let got = decided(&green(), &[first, second, candidate(2, Some(9.0), 5000.0, 0)]);
    assert_eq!((got.order.as_slice(), got.reason), ([2].as_slice(), Reason::FastestOverBudget));

    let full = stand(Standing::NoCapacity, candidate(2, Some(0.1), 1.0, 100));
    let got = decided(&green(), &[first, second, full]);
    assert_eq!(got.order.as_slice(), [1, 0]);
    assert_eq!((got.reason, got.baseline), (Reason::LastResort, 0));
    assert_eq!(got.verdicts.as_slice(), [Verdict::Ejected, Verdict::Chosen, Verdict::NoCapacity]);
}

#[test]
fn returning_ones_are_a_fallback_and_better_than_ejected_ones() {
    let two = [candidate(0, Some(1.0), 200.0, 0), candidate(1, Some(2.0), 100.0, 0)];
    let [first, second] = two.map(|candidate| stand(Standing::Returning, candidate));
    let ejected = stand(Standing::Ejected, candidate(2, Some(0.1), 1.0, 0));
    let got = decided(&green(), &[first, second, ejected, candidate(3, Some(9.0), 5000.0, 0)]);
    assert_eq!((got.order.as_slice(), got.reason), ([3, 1, 0].as_slice(), Reason::FastestOverBudget));
    assert_eq!(got.verdicts[..3], [Verdict::Ejected; 3]);
    let got = decided(&green(), &[first, second, ejected]);
    assert_eq!((got.order.as_slice(), got.reason), ([0, 1].as_slice(), Reason::Objective(Objective::LeastCarbon)));
}

#[test]
fn nobody_is_an_answer_with_its_cause() {
    assert_eq!(decide(&green(), true, &[], 0), Err(NoCandidate::NoneServes));
    let candidates = [
        stand(Standing::NoCapacity, candidate(0, Some(1.0), 1.0, 100)),
        stand(Standing::OutsideResidency, candidate(1, Some(1.0), 1.0, 0)),
        stand(Standing::OutsideResidency, candidate(2, Some(1.0), 1.0, 0)),
    ];
    let refused = decide(&green(), true, &candidates, 0);
    assert_eq!(refused, Err(NoCandidate::AllExcluded { no_capacity: 1, outside_residency: 2 }));
    let outside = Some(Verdict::OutsideResidency);
    assert_eq!(
        candidates.map(|candidate| exclusion(&green(), true, &candidate, Millis::ZERO)),
        [Some(Verdict::NoCapacity), outside, outside]
    );
}

#[test]
fn waiting_has_the_price_that_the_policy_gives_it() {
    let candidates = [candidate(0, Some(1.0), 900.0, 0), candidate(1, Some(1.5), 100.0, 0)];
    assert_eq!(decided(&green(), &candidates).chosen(), 0);
    let patient = Policy { latency_price_grams_per_second: 0.6, ..green() };
    assert_eq!(decided(&patient, &candidates).chosen(), 0, "0.8 s are worth 0.48 g");
    let hurried = Policy { latency_price_grams_per_second: 1.0, ..green() };
    let got = decided(&hurried, &candidates);
    assert_eq!(got.chosen(), 1);
    assert_eq!(got.verdicts[0], Verdict::Slower { by: Millis::saturating(800.0) });
}

#[test]
fn scarce_capacity_has_its_price() {
    let mut scarce = candidate(0, Some(1.0), 100.0, 0);
    scarce.estimate.price = Grams::saturating(3.0);
    let got = decided(&green(), &[scarce, candidate(1, Some(2.0), 100.0, 0)]);
    assert_eq!(got.chosen(), 1);
    assert_eq!(got.verdicts[0], Verdict::Scarcer { by: Grams::saturating(3.0) });
}

#[test]
fn the_list_is_followed_as_it_is_written() {
    let candidates = [
        stand(Standing::Ejected, candidate(9, Some(1.0), 1.0, 0)),
        candidate(8, Some(5.0), 900.0, 50),
        candidate(1, Some(1.0), 100.0, 0),
    ];
    let got = decide(&policy(Objective::ListedOrder), true, &candidates, 5).unwrap();
    assert_eq!(got.order.as_slice(), [1, 2]);
    assert_eq!(got.verdicts[2], Verdict::LaterInOrder);
}

#[test]
fn weights_are_shares() {
    let mut candidates = [1, 2, 5, 0].map(|weight| Candidate { weight, ..candidate(weight as u16, Some(1.0), 100.0, 0) });
    let share = |candidates: &[Candidate]| {
        let mut chosen = [0_u32; 4];
        for turn in 0..10_000 {
            let got = decide(&policy(Objective::Weighted), true, candidates, turn).unwrap();
            chosen[usize::from(got.chosen())] += 1;
            assert_eq!(got.order.len(), 4);
        }
        chosen.map(|count| f64::from(count) / 10_000.0)
    };
    for (got, expected) in share(&candidates).into_iter().zip([0.125, 0.25, 0.625, 0.0]) {
        assert!((got - expected).abs() < 0.02, "{got} instead of {expected}");
    }
    for candidate in &mut candidates {
        candidate.weight = 0;
    }
    for got in share(&candidates) {
        assert!((got - 0.25).abs() < 0.02, "{got}: without any weight all are alike");
    }
}

#[test]
fn a_pin_is_not_weighed() {
    let got = Decision::pinned();
    assert_eq!((got.chosen(), got.baseline, got.reason.as_str()), (0, 0, "pinned"));
    assert_eq!(got.verdicts.as_slice(), [Verdict::Chosen]);
}

/// Few values, so that ties are common.
fn any_candidate() -> impl Strategy<Value = Candidate> {
    let grams = prop_oneof![
        1 => Just(None),
        4 => prop::sample::select(vec![0.0, 1.0, 1.005, 1.01, 1.02, 2.0, 1e300, f64::MAX]).prop_map(Some),
        4 => (0.0..10.0).prop_map(Some),
    ];
    let latency = prop_oneof![prop::sample::select(vec![0.0, 100.0, 100.9, 500.0, 1500.0]), 0.0..2000.0];
    let standing = prop_oneof![
        6 => Just(Standing::Ready),
        1 => Just(Standing::Ejected),
        1 => Just(Standing::Returning),
        1 => Just(Standing::NoCapacity),
        1 => Just(Standing::OutsideResidency),
    ];
    (grams, latency, 0..3_u32, standing, 0..4_u32).prop_map(|(grams, latency, in_flight, standing, weight)| Candidate {
        standing,
        weight,
        ..candidate(0, grams, latency, in_flight)
    })
}

/// Up to `most` candidates with ids of their own, in no order of these.
pub(super) fn any_candidates(most: usize) -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(any_candidate(), 0..=most)
        .prop_map(|mut candidates| {
            for (id, candidate) in candidates.iter_mut().enumerate() {
                candidate.backend = BackendId(id as u16 * 3);
            }
            candidates
        })
        .prop_shuffle()
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let objective = prop::sample::select(vec![
        Objective::LeastCarbon,
        Objective::LeastLatency,
        Objective::ListedOrder,
        Objective::RoundRobin,
        Objective::Weighted,
    ]);
    let price = prop::sample::select(vec![0.0, 0.5, 100.0, f64::MAX]);
    (objective, any::<bool>(), any::<bool>(), price).prop_map(|(objective, reject, unbounded, price)| {
        let mut policy = policy(objective);
        policy.on_no_candidate = if reject { OnNoCandidate::Reject } else { OnNoCandidate::Fastest };
        policy.budget = policy.budget.filter(|_| !unbounded);
        policy.latency_price_grams_per_second = price;
        policy
    })
}

/// Who may be tried, by the words of the documentation.
fn eligible(policy: &Policy, streamed: bool, candidates: &[Candidate]) -> Vec<u16> {
    let late = policy.on_no_candidate == OnNoCandidate::Fastest;
    let those = |standings: &[Standing]| {
        let indices = (0..candidates.len()).filter(|index| standings.contains(&candidates[*index].standing));
        let fit = indices.filter(|index| late || over_budget(policy.budget, streamed, &candidates[*index]).is_none());
        fit.map(|index| index as u16).collect::<Vec<u16>>()
    };
    let stands = |standing: &Standing| candidates.iter().any(|candidate| candidate.standing == *standing);
    match [Standing::Ready, Standing::Returning].into_iter().find(stands).unwrap_or(Standing::Ejected) {
        Standing::Ready if !those(&[Standing::Ready]).is_empty() => those(&[Standing::Ready, Standing::Returning]),
        best => those(&[best]),
    }
}

proptest! {
    #[test]
    fn the_order_holds_the_eligible_ones_once_each(
        policy in any_policy(), streamed in any::<bool>(), candidates in any_candidates(24), turn in any::<u32>(),
    ) {
        let expected = eligible(&policy, streamed, &candidates);
        if let Ok(decision) = decide(&policy, streamed, &candidates, turn) {
            let mut order = decision.order.to_vec();
            order.sort_unstable();
            prop_assert_eq!(order, expected);
            prop_assert!(decision.order.contains(&decision.baseline));
        } else {
            prop_assert_eq!(expected, Vec::<u16>::new());
        }
    }

    #[test]
    fn nobody_late_leads_while_somebody_is_in_time(
        policy in any_policy(), streamed in any::<bool>(), candidates in any_candidates(24), turn in any::<u32>(),
    ) {
        if let Ok(decision) = decide(&policy, streamed, &candidates, turn) {
            let late = |index: &u16| over_budget(policy.budget, streamed, &candidates[usize::from(*index)]).is_some();
            let lead = candidates[usize::from(decision.chosen())].standing;
            let leads = |index: &&u16| candidates[usize::from(**index)].standing == lead;
            let leading: Vec<u16> = decision.order.iter().filter(leads).copied().collect();
            prop_assert!(decision.order.starts_with(&leading) && leading.is_sorted_by_key(late), "{:?}", decision);
            let nobody_in_time = leading.iter().all(late);
            prop_assert!(nobody_in_time || !late(&decision.baseline));
        }
    }

    #[test]
    fn one_verdict_each_and_one_is_chosen(
        policy in any_policy(), streamed in any::<bool>(), candidates in any_candidates(24), turn in any::<u32>(),
    ) {
        if let Ok(decision) = decide(&policy, streamed, &candidates, turn) {
            prop_assert_eq!(decision.verdicts.len(), candidates.len());
            for (index, verdict) in decision.verdicts.iter().enumerate() {
                prop_assert_eq!(*verdict == Verdict::Chosen, index == usize::from(decision.chosen()));
                // Where nobody else is ready, those that come back are weighed against each other as if they were.
                let lead = candidates[usize::from(decision.chosen())].standing;
                let weighed = lead == Standing::Returning && candidates[index].standing == Standing::Returning;
                let excluded = exclusion(&policy, streamed, &candidates[index], Millis::ZERO).filter(|_| !weighed);
                prop_assert!(*verdict == Verdict::Chosen || excluded.is_none_or(|excluded| excluded == *verdict));
            }
        }
    }

    /// The two lists are all that can grow, so nothing was allocated.
    #[test]
    fn sixteen_candidates_are_decided_in_place(
        policy in any_policy(), streamed in any::<bool>(), candidates in any_candidates(16), turn in any::<u32>(),
    ) {
        if let Ok(decision) = decide(&policy, streamed, &candidates, turn) {
            prop_assert!(!decision.order.spilled() && !decision.verdicts.spilled());
        }
    }

    #[test]
    fn the_order_of_the_slice_does_not_matter(
        policy in any_policy(), streamed in any::<bool>(), turn in any::<u32>(),
        (one, other) in any_candidates(24).prop_flat_map(|one| (Just(one.clone()), Just(one).prop_shuffle())),
    ) {
        if policy.objective == Objective::ListedOrder {
            return Ok(());
        }
        let named = |candidates: &[Candidate]| {
            decide(&policy, streamed, candidates, turn).map(|decision| {
                let id = |index: u16| candidates[usize::from(index)].backend;
                let order: Vec<_> = decision.order.iter().map(|index| id(*index)).collect();
                let mut verdicts: Vec<_> = candidates.iter().map(|c| c.backend).zip(decision.verdicts.iter().copied()).collect();
                verdicts.sort_unstable_by_key(|(id, _)| *id);
                (order, id(decision.baseline), decision.reason, verdicts)
            })
        };
        prop_assert_eq!(named(&one), named(&other));
    }

    #[test]
    fn least_carbon_never_emits_more_than_a_known_baseline_but_for_the_tie(
        candidates in any_candidates(24), streamed in any::<bool>(), turn in any::<u32>(),
    ) {
        if let Ok(decision) = decide(&green(), streamed, &candidates, turn) {
            let grams = |index: u16| candidates[usize::from(index)].estimate.emissions.map(Grams::get);
            if let (Some(chosen), Some(baseline)) = (grams(decision.chosen()), grams(decision.baseline)) {
                prop_assert!(chosen <= baseline * (1.0 + TIE), "{chosen} > {baseline}");
            }
        }
    }

    #[test]
    fn the_unknown_never_wins_over_a_known_one_in_time(
        candidates in any_candidates(24), streamed in any::<bool>(), turn in any::<u32>(),
    ) {
        let policy = green();
        if let Ok(decision) = decide(&policy, streamed, &candidates, turn)
            && candidates[usize::from(decision.chosen())].estimate.emissions.is_none()
            && matches!(decision.reason, Reason::Objective(_) | Reason::CarbonUnknown)
        {
            let rival = |c: &Candidate| exclusion(&policy, streamed, c, Millis::ZERO).is_none() && c.estimate.emissions.is_some();
            prop_assert!(!candidates.iter().any(rival));
            prop_assert_eq!(decision.reason, Reason::CarbonUnknown);
        }
    }

    /// Getting dirtier never gets anybody chosen. The one exception is the turn: when the very cleanest of several equally busy ones
    /// gets dirtier, the tie may widen, and a rotation over more may stop at another. With loads of their own there is none.
    #[test]
    fn getting_dirtier_never_helps(
        mut candidates in any_candidates(16), turn in any::<u32>(), which in any::<prop::sample::Index>(),
        factor in prop_oneof![1.0..1.03, 1.0..10.0], apart in any::<bool>(),
    ) {
        spread_loads(&mut candidates, apart);
        if let Ok(before) = decide(&green(), true, &candidates, turn) {
            let index = which.index(candidates.len());
            let in_time = before.order.iter().map(|index| &candidates[usize::from(*index)]);
            let cleanest = in_time
                .filter(|candidate| over_budget(green().budget, true, candidate).is_none())
                .filter_map(|candidate| candidate.estimate.emissions)
                .fold(f64::MAX, |least, grams| least.min(grams.get()));
            let Some(grams) = candidates[index].estimate.emissions else { return Ok(()) };
            if index == usize::from(before.chosen()) || (!apart && grams.get() <= cleanest) {
                return Ok(());
            }
            candidates[index].estimate.emissions = Some(grams * factor);
            let after = decide(&green(), true, &candidates, turn).unwrap();
            prop_assert_ne!(usize::from(after.chosen()), index);
        }
    }

    /// Getting cleaner keeps the chosen one chosen. The exception is the turn again: a tie that narrows around it may make the
    /// rotation stop at another of the same load, and of the same grams to 1 %. With loads of their own there is none.
    #[test]
    fn getting_cleaner_never_hurts(
        mut candidates in any_candidates(16), turn in any::<u32>(), factor in prop_oneof![0.97..1.0, 0.0..1.0], apart in any::<bool>(),
    ) {
        spread_loads(&mut candidates, apart);
        if let Ok(before) = decide(&green(), true, &candidates, turn) {
            let index = usize::from(before.chosen());
            let Some(grams) = candidates[index].estimate.emissions else { return Ok(()) };
            candidates[index].estimate.emissions = Some(grams * factor);
            let after = decide(&green(), true, &candidates, turn).unwrap();
            if usize::from(after.chosen()) != index {
                prop_assert!(!apart);
                prop_assert_eq!(after.verdicts[index], Verdict::Tied);
                let other = &candidates[usize::from(after.chosen())];
                prop_assert_eq!(other.estimate.in_flight, candidates[index].estimate.in_flight);
            }
        }
    }
}

/// Gives every candidate a load of its own, if `apart`.
fn spread_loads(candidates: &mut [Candidate], apart: bool) {
    for candidate in candidates.iter_mut().filter(|_| apart) {
        candidate.estimate.in_flight = u32::from(candidate.backend.0) * 7 % 53;
    }
}
