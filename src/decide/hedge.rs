//! When a second backend is worth asking beside the first, and which.
//!
//! Hedging after a fixed quantile, the usual way, sends a share of all requests twice whether or not that helps anybody. Here the
//! second one is asked at the last moment at which it is still expected to be in time: until then the first has every chance, so that
//! the fewest requests burn energy twice. By that moment the first has to be late by its own quantile, or there is no reason to
//! believe that it will not come.
//!
//! Where the last moment lies before that, a hedge in time would be a bet, and none is made. Then the second is asked when the budget
//! is over: the miss is certain by then, and what is left is that nobody waits for a backend that hangs until its timeout.

use super::{Candidate, Standing, latency};
use crate::policy::Policy;
use crate::units::Millis;

/// A second backend to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// The candidate's index.
    pub candidate: u16,
    /// How long after the first was asked, if that has not answered by then.
    pub after: Millis,
}

/// Whom to ask besides the candidate `first`, who is asked now: the first in order of those `waiting` that can still be in time once
/// the first is late, or else the first that could be if it were asked now. `spent` is what of the latency budget is over. `None` where
/// the policy does not hedge, has no budget for such a request, the first is not expected within it anyway, or nobody fits.
///
/// Who fits is [`Standing::Ready`] and emits no more than the policy allows a hedge. All that it emits counts: the first one's grams
/// are spent already.
pub fn second(
    policy: &Policy,
    streamed: bool,
    candidates: &[Candidate],
    first: u16,
    waiting: &[u16],
    spent: Millis,
) -> Option<Second> {
    let hedge = policy.hedge?;
    let late = latency(streamed, candidates.get(usize::from(first))?).get();
    let mut at_the_end = None;
    for index in waiting.iter().copied().filter(|index| *index != first) {
        let Some(candidate) = candidates.get(usize::from(index)).filter(|it| it.standing == Standing::Ready) else { continue };
        let budget = policy.budget?.of(streamed, candidate.estimate.prompt_tokens)?;
        let left = budget.get() - spent.get();
        let last_moment = left - latency(streamed, candidate).get();
        let is_allowed = candidate.estimate.emissions.is_some_and(|grams| grams <= hedge.extra);
        if !is_allowed || last_moment < 0.0 || late > left {
            continue;
        }
        if last_moment >= late {
            return Some(Second { candidate: index, after: Millis::saturating(last_moment) });
        }
        at_the_end = at_the_end.or(Some(Second { candidate: index, after: Millis::saturating(left) }));
    }
    at_the_end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{candidate, green};
    use super::*;
    use crate::policy::Hedge;
    use crate::units::Grams;

    fn hedging(milligrams: f64) -> Policy {
        Policy { hedge: Some(Hedge { at_most: 0.02, extra: Grams::saturating(milligrams / 1e3) }), ..green() }
    }

    fn asked(policy: &Policy, candidates: &[Candidate], spent: f64) -> Option<(u16, f64)> {
        let waiting: Vec<u16> = (1..candidates.len() as u16).collect();
        let second = second(policy, true, candidates, 0, &waiting, Millis::saturating(spent))?;
        Some((second.candidate, second.after.get()))
    }

    /// The budget is one second to the first token.
    #[test]
    fn the_second_is_asked_at_the_last_moment_at_which_it_can_be_in_time() {
        let (first, fast) = (candidate(0, Some(0.001), 300.0, 0), candidate(1, Some(0.002), 200.0, 0));
        assert_eq!(asked(&hedging(5.0), &[first, fast], 0.0), Some((1, 800.0)));
        assert_eq!(asked(&hedging(5.0), &[first, fast], 450.0), Some((1, 350.0)), "what was spent before is gone");
        assert_eq!(asked(&hedging(5.0), &[first, fast], 500.0), Some((1, 300.0)), "the first is late by then");
        assert_eq!(asked(&hedging(5.0), &[first, fast], 501.0), Some((1, 499.0)), "it would not be: when the budget is over");
        assert_eq!(asked(&hedging(5.0), &[first, fast], 701.0), None, "the first is not expected within the rest");
        assert_eq!(asked(&hedging(5.0), &[fast, first], 701.0), None, "nor is the second, and another late one helps nobody");
        assert_eq!(asked(&hedging(1.9), &[first, fast], 0.0), None, "it would emit too much");
        assert_eq!(asked(&green(), &[first, fast], 0.0), None, "the policy does not hedge");
        assert_eq!(asked(&Policy { budget: None, ..hedging(5.0) }, &[first, fast], 0.0), None, "there is nothing to keep");
        let others = [
            candidate(1, Some(0.002), 750.0, 0),
            candidate(2, None, 100.0, 0),
            Candidate { standing: Standing::Ejected, ..fast },
            candidate(4, Some(0.004), 600.0, 0),
            candidate(5, Some(0.001), 10.0, 0),
        ];
        let all: Vec<Candidate> = [first].into_iter().chain(others).collect();
        assert_eq!(asked(&hedging(5.0), &all, 0.0), Some((4, 400.0)), "the first in order that fits");
        assert_eq!(asked(&hedging(5.0), &[first], 0.0), None);
    }

    proptest! {
        #[test]
        fn whoever_is_hedged_with_fits(
            latencies in prop::collection::vec(1.0..2000.0f64, 1..6),
            grams in prop::collection::vec(prop::option::of(0.0..0.01f64), 6),
            spent in 0.0..1500.0f64,
            streamed in any::<bool>(),
        ) {
            let made = latencies.iter().zip(&grams).enumerate();
            let candidates: Vec<Candidate> = made.map(|(id, (ms, grams))| candidate(id as u16, *grams, *ms, 0)).collect();
            let waiting: Vec<u16> = (0..candidates.len() as u16).rev().collect();
            let policy = hedging(5.0);
            if let Some(Second { candidate: index, after }) = second(&policy, streamed, &candidates, 0, &waiting, Millis::saturating(spent)) {
                let it = &candidates[usize::from(index)];
                prop_assert!(index != 0 && it.estimate.emissions.unwrap().get() <= 0.005);
                let budget = policy.budget.unwrap().of(streamed, it.estimate.prompt_tokens).unwrap().get();
                let (late, theirs) = (latency(streamed, &candidates[0]).get(), latency(streamed, it).get());
                let in_time = |theirs: f64| spent + late + theirs <= budget - 1e-6;
                prop_assert!(after.get() >= late && spent + theirs <= budget + 1e-6);
                if in_time(theirs) {
                    prop_assert!((spent + after.get() + theirs - budget).abs() < 1e-6, "at the last moment");
                } else if spent + late + theirs > budget + 1e-6 {
                    prop_assert!((spent + after.get() - budget).abs() < 1e-6, "when the miss is certain");
                    let fits = |index: &&u16| candidates[usize::from(**index)].estimate.emissions.is_some_and(|grams| grams.get() <= 0.005);
                    let mut others = waiting.iter().filter(|index| **index != 0).filter(fits);
                    prop_assert!(others.all(|index| !in_time(latency(streamed, &candidates[usize::from(*index)]).get())));
                }
            }
        }
    }
}
