//! What the words of a decision mean. They are words here and not the enums of [`crate::decide`], because a line of the log has words,
//! and a newer one may have words that this version does not know: these are shown as they are.

use crate::report::render::{dollars, mass};

/// What a verdict says of a candidate.
pub(super) fn verdict(word: &str) -> Option<&'static str> {
    Some(match word {
        "chosen" => "the request goes there first",
        "dirtier" => "it would emit more than the chosen one",
        "slower" => "it would be later than the chosen one, and that is what counted",
        "scarcer" => "its capacity is worth more to other requests than what speaks for it",
        "dearer" => "it would cost more than the chosen one, and that is what counted",
        "tied" => "as good as the best to 1 %, but busier, or it was not its turn",
        "later_in_order" => "later in the order of the list, the turn or the weights",
        "kept_free" => {
            "it would be in time, but too many of all places in time are taken: the last ones are for those who cannot wait"
        }
        "over_budget" => "it would miss the latency budget",
        "crowded" => "it has as many requests in flight as it can give tokens to in time",
        "unknown_carbon" => "nobody knows where it runs or how clean that is, so it never wins as green",
        "unknown_cost" => "nobody said what it costs, and dollars count here",
        "ejected" => "it failed lately and is left alone for a while",
        "no_capacity" => "it has as many requests in flight as it was declared to take",
        "outside_residency" => "the policy, the key or the client does not allow the request there",
        "untranslatable" => "it speaks another dialect, and the request cannot be said in that",
        _ => return None,
    })
}

/// Why somebody was chosen.
pub(super) fn reason(word: &str) -> Option<&'static str> {
    Some(match word {
        "least_carbon" => "of those that meet every constraint it is expected to emit least, to 1 %",
        "least_cost" => "of those that meet every constraint it is expected to cost least, to 1 %",
        "least_latency" => "of those that meet every constraint it is expected to be soonest",
        "listed_order" => "it is the first of the route's list that meets every constraint",
        "round_robin" => "it is its turn among those that meet every constraint",
        "weighted" => "its weight won this turn among those that meet every constraint",
        "fastest_over_budget" => "nobody meets the latency budget, and it is the fastest",
        "carbon_unknown" => "carbon was to decide and nobody's is known; it is the fastest",
        "cost_unknown" => "cost was to decide and nobody's is known; it is the fastest",
        "only" => "it alone meets every constraint, so that nothing was weighed",
        "last_resort" => "every candidate that could be used is ejected, and it is tried all the same",
        "pinned" => "the request names a thing that lives there, or had to go to the route's home",
        "no_candidate" => "nobody may serve it",
        "held" => "nobody has a place for it in time, and it can wait for one",
        "shed" => "nobody had a place for it in time, and it could not wait any longer",
        _ => return None,
    })
}

/// How much, in the unit that goes with the verdict.
pub(super) fn amount(verdict: &str, by: f64) -> String {
    match verdict {
        "dirtier" | "scarcer" => mass(by),
        "slower" | "over_budget" => format!("{by:.0} ms"),
        "dearer" => dollars(by),
        "crowded" => format!("{by:.0}"),
        _ => by.to_string(),
    }
}

/// Whether a candidate of that verdict met every constraint.
pub(super) fn was_weighed(verdict: &str) -> bool {
    matches!(
        verdict,
        "chosen" | "dirtier" | "slower" | "scarcer" | "dearer" | "tied" | "later_in_order" | "unknown_carbon" | "unknown_cost"
    )
}

/// Whether who is chosen for that reason misses a constraint that is waived rather than refuse.
pub(super) fn breaks_a_constraint(reason: &str) -> bool {
    matches!(reason, "fastest_over_budget" | "last_resort" | "no_candidate" | "held" | "shed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Reason, Verdict};
    use crate::policy::Objective;
    use crate::units::{Grams, Millis, Usd};

    #[test]
    fn every_word_of_a_decision_is_explained() {
        let (grams, ms) = (Grams::saturating(0.002), Millis::saturating(12.4));
        let weighed = [
            Verdict::Chosen,
            Verdict::Dirtier { by: grams },
            Verdict::Slower { by: ms },
            Verdict::Scarcer { by: grams },
            Verdict::Dearer { by: Usd::saturating(0.0015) },
            Verdict::UnknownCost,
            Verdict::Tied,
            Verdict::LaterInOrder,
            Verdict::UnknownCarbon,
        ];
        let excluded = [
            Verdict::KeptFree,
            Verdict::OverBudget { by: ms },
            Verdict::Crowded { by: 3 },
            Verdict::Ejected,
            Verdict::NoCapacity,
            Verdict::OutsideResidency,
            Verdict::Untranslatable,
        ];
        assert!(weighed.iter().all(|it| was_weighed(it.as_str())) && !excluded.iter().any(|it| was_weighed(it.as_str())));
        assert!(weighed.iter().chain(&excluded).all(|it| verdict(it.as_str()).is_some()));
        let amounts: Vec<String> = weighed.iter().chain(&excluded).filter_map(|it| Some(amount(it.as_str(), it.by()?))).collect();
        assert_eq!(amounts, ["2.00 mg", "12 ms", "2.00 mg", "0.0015 USD", "12 ms", "3"]);
        let others = [
            Reason::FastestOverBudget,
            Reason::CarbonUnknown,
            Reason::CostUnknown,
            Reason::Only,
            Reason::LastResort,
            Reason::Pinned,
        ];
        let reasons = Objective::ALL.map(Reason::Objective).into_iter().chain(others);
        assert!(reasons.map(Reason::as_str).chain(["no_candidate", "held", "shed"]).all(|word| reason(word).is_some()));
        assert_eq!((verdict("later"), reason("later")), (None, None));
    }
}
