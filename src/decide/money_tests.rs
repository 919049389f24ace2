//! What dollars change about a choice, and what they do not.

use proptest::prelude::*;

use super::tests::{candidate, decided, green, policy};
use super::weighing::TIE;
use super::*;
use crate::policy::Objective;
use crate::units::Usd;

fn priced(id: u16, grams: Option<f64>, usd: Option<f64>) -> Candidate {
    let mut it = candidate(id, grams, 100.0 + f64::from(id), 0);
    it.estimate.cost = usd.map(Usd::saturating);
    it
}

fn capped(usd: f64) -> Policy {
    Policy { max_usd_per_kg: Some(Usd::saturating(usd)), ..green() }
}

#[test]
fn the_cheapest_is_chosen_and_who_is_as_cheap_takes_turns() {
    let cheap = policy(Objective::LeastCost);
    let candidates = [priced(0, Some(1.0), Some(0.02)), priced(1, Some(9.0), Some(0.01)), priced(2, Some(1.0), None)];
    let got = decided(&cheap, &candidates);
    assert_eq!((got.order.as_slice(), got.baseline), (&[1, 0, 2][..], 1), "carbon has no part in it");
    assert_eq!(got.reason, Reason::Objective(Objective::LeastCost));
    assert_eq!(got.verdicts[..2], [Verdict::Dearer { by: Usd::saturating(0.01) }, Verdict::Chosen]);
    assert_eq!(got.verdicts[2], Verdict::UnknownCost);
    let alike = [priced(0, None, Some(0.01)), priced(1, None, Some(0.010_05))];
    assert_eq!([0, 1].map(|turn| decide(&cheap, true, &alike, turn).unwrap().chosen()), [0, 1]);
    let nobody = decided(&cheap, &[priced(0, Some(1.0), None), priced(1, Some(0.1), None)]);
    assert_eq!((nobody.chosen(), nobody.reason), (0, Reason::CostUnknown), "the fastest, then");
}

#[test]
fn a_kilogram_is_paid_for_up_to_its_price() {
    // The clean one saves 4 g for 0.2 cents: 0.5 USD for a kilogram.
    let candidates = [priced(0, Some(5.0), Some(0.010)), priced(1, Some(1.0), Some(0.012))];
    assert_eq!(decided(&green(), &candidates).chosen(), 1, "at any price");
    assert_eq!(decided(&capped(0.6), &candidates).chosen(), 1);
    let got = decided(&capped(0.4), &candidates);
    assert_eq!((got.chosen(), got.verdicts[1]), (0, Verdict::Dearer { by: Usd::saturating(0.012 - 0.010) }));
    let unknown = [priced(0, Some(5.0), Some(0.010)), priced(1, Some(1.0), None)];
    let got = decided(&capped(1e6), &unknown);
    assert_eq!((got.chosen(), got.verdicts[1]), (0, Verdict::UnknownCost), "it might cost anything");
    let nobody = [priced(0, Some(5.0), None), priced(1, Some(1.0), None)];
    assert_eq!(decided(&capped(0.1), &nobody).chosen(), 1, "where nobody has a price there is none to weigh");
}

#[test]
fn a_candidate_of_unknown_carbon_is_not_chosen_for_its_price() {
    let candidates = [priced(0, None, Some(0.0)), priced(1, Some(900.0), Some(5.0))];
    assert_eq!(decided(&capped(0.001), &candidates).chosen(), 1);
}

prop_compose! {
    fn any_priced()(
        all in prop::collection::vec(
            (prop::option::weighted(0.9, 0.0..9.0_f64), prop::option::weighted(0.9, 0.0..0.01_f64), 0.0..1500.0_f64, 0_u8..6), 1..20,
        ),
    ) -> Vec<Candidate> {
        let standing = |n| [Standing::Ready, Standing::Ready, Standing::Ready, Standing::NoCapacity, Standing::OutsideResidency, Standing::Ejected][n as usize];
        all.into_iter().enumerate().map(|(id, (grams, usd, latency, stand))| {
            let mut it = priced(id as u16, grams, usd);
            it.estimate.first_token = Millis::saturating(latency);
            it.standing = standing(stand);
            it
        }).collect()
    }
}

fn either(knob: Option<f64>) -> Policy {
    knob.map_or_else(|| policy(Objective::LeastCost), capped)
}

proptest! {
    /// Of any two that were weighed, the chosen one costs no more than the price of a kilogram for what it saves over the other.
    #[test]
    fn no_kilogram_costs_more_than_its_price(candidates in any_priced(), usd in 0.01..1000.0_f64) {
        let Ok(got) = decide(&capped(usd), true, &candidates, 0) else { return Ok(()) };
        let chosen = &candidates[usize::from(got.chosen())].estimate;
        let (Some(grams), Some(cost)) = (chosen.emissions, chosen.cost) else { return Ok(()) };
        for (other, verdict) in candidates.iter().zip(&got.verdicts) {
            let weighed = matches!(verdict, Verdict::Dirtier { .. } | Verdict::Dearer { .. } | Verdict::Slower { .. });
            let (true, Some(their_grams), Some(their_cost)) = (weighed, other.estimate.emissions, other.estimate.cost) else { continue };
            let (kg, paid) = ((their_grams.get() - grams.get()) / 1e3, cost.get() - their_cost.get());
            // To the tolerance of a tie.
            prop_assert!(paid <= usd * (kg + grams.get() * TIE * 1.01 / 1e3) + 1e-12, "{paid} for {kg}");
        }
    }

    #[test]
    fn nobody_excluded_is_chosen_and_the_order_of_the_slice_does_not_matter(
        candidates in any_priced(), knob in prop::option::of(0.01..1000.0_f64), turn in any::<u32>(), seed in any::<u64>(),
    ) {
        let policy = either(knob);
        let of = |all: &[Candidate]| decide(&policy, true, all, turn).map(|got| {
            let them = got.order.iter().map(|index| all[usize::from(*index)].backend);
            (them.collect::<Vec<_>>(), all[usize::from(got.baseline)].backend, got.reason)
        });
        let mut shuffled = candidates.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        prop_assert_eq!(of(&candidates), of(&shuffled));
        if let Ok(got) = decide(&policy, true, &candidates, turn) {
            let barred = |index: &u16| matches!(candidates[usize::from(*index)].standing, Standing::NoCapacity | Standing::OutsideResidency);
            prop_assert!(!got.order.iter().any(barred));
        }
    }

    /// Whoever is chosen stays so when it becomes cheaper, but for ties.
    #[test]
    fn cheaper_is_never_worse(candidates in any_priced(), knob in prop::option::of(0.01..1000.0_f64), part in 0.0..1.0_f64) {
        let policy = either(knob);
        let Ok(before) = decide(&policy, true, &candidates, 0) else { return Ok(()) };
        let chosen = usize::from(before.chosen());
        let mut cheaper = candidates.clone();
        cheaper[chosen].estimate.cost = candidates[chosen].estimate.cost.map(|usd| usd * part);
        let after = decide(&policy, true, &cheaper, 0).unwrap();
        let won = usize::from(after.chosen());
        prop_assert!(won == chosen || after.verdicts[chosen] == Verdict::Tied, "{before:?} became {after:?}");
    }
}
