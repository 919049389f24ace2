//! Who is asked when somebody has failed.
//!
//! A decision has an order, but some of the budget is over by then, and whoever was to be next may be too slow for what is left of it.
//! Nothing is estimated anew for that: one failure says nothing of the others.

use super::weighing::lateness;
use super::{Candidate, late};
use crate::policy::Policy;
use crate::units::Millis;

/// The place of whoever is asked next among those `waiting`, who are in the order of a decision, `spent` after the request came: the first
/// that is still in time, or else the least late. Of those who come back none is, as long as one that is ready waits. `None` when nobody
/// waits.
pub fn next(policy: &Policy, streamed: bool, candidates: &[Candidate], waiting: &[u16], spent: Millis) -> Option<usize> {
    let at = |index: u16| candidates.get(usize::from(index));
    let first = at(*waiting.first()?)?;
    let Some(left) = policy.budget.map(|budget| budget.after(spent, streamed, first.estimate.prompt_tokens)) else {
        return Some(0);
    };
    let those = || waiting.iter().enumerate().filter_map(|(place, index)| Some((place, at(*index)?)));
    let alike = || those().filter(|(_, candidate)| candidate.standing == first.standing);
    let span = |candidate: &Candidate| left.of(streamed, candidate.estimate.prompt_tokens);
    let in_time = alike().find(|(_, candidate)| late(span(candidate), 0.0, streamed, candidate).is_none());
    let least_late = |(_, a): &(usize, &Candidate), (_, b): &(usize, &Candidate)| {
        lateness(left, streamed, a).total_cmp(&lateness(left, streamed, b))
    };
    in_time.or_else(|| alike().min_by(least_late)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::super::tests::{candidate, green};
    use super::*;

    fn asked(candidates: &[Candidate], waiting: &[u16], spent: f64) -> Option<u16> {
        let place = next(&green(), true, candidates, waiting, Millis::saturating(spent))?;
        Some(waiting[place])
    }

    /// The budget is one second to the first token.
    #[test]
    fn the_first_that_is_still_in_time_is_next_or_else_the_least_late() {
        let of = [(0.001, 900.0), (0.002, 800.0), (0.003, 300.0), (0.004, 200.0)];
        let candidates: Vec<Candidate> =
            of.iter().zip(0..).map(|((grams, ms), id)| candidate(id, Some(*grams), *ms, 0)).collect();
        let all = [0, 1, 2, 3];
        assert_eq!([0.0, 150.0, 500.0, 750.0].map(|spent| asked(&candidates, &all, spent)), [0, 1, 2, 3].map(Some));
        assert_eq!([801.0, 5_000.0].map(|spent| asked(&candidates, &all, spent)), [Some(3); 2], "nobody is in time");
        assert_eq!(asked(&candidates, &[0, 1], 300.0), Some(1));
        assert_eq!(asked(&candidates, &[], 0.0), None);
        let free = Policy { budget: None, ..green() };
        assert_eq!(next(&free, true, &candidates, &[1, 0], Millis::saturating(5_000.0)), Some(0), "there is nothing to keep");
    }

    #[test]
    fn who_has_no_room_is_late_and_who_comes_back_waits_for_the_others() {
        let mut full = candidate(0, Some(0.001), 100.0, 100);
        full.estimate.limit = 100;
        let slow = candidate(1, Some(0.002), 900.0, 0);
        let back = Candidate { standing: Standing::Returning, ..candidate(2, Some(0.003), 100.0, 0) };
        let all = [full, slow, back];
        assert_eq!(asked(&all, &[0, 1, 2], 0.0), Some(1));
        assert_eq!(asked(&all, &[0, 1, 2], 500.0), Some(0), "eight times 100 ms are less than 900");
        assert_eq!(asked(&all, &[1, 2], 500.0), Some(1), "late and ready");
        assert_eq!(asked(&all, &[2], 950.0), Some(2));
        let mut fuller = full;
        fuller.estimate.first_token = Millis::saturating(200.0);
        for spent in [950.0, 1_000.0, 60_000.0] {
            assert_eq!(asked(&[fuller, slow], &[0, 1], spent), Some(1), "also where nothing is left");
        }
    }
}
