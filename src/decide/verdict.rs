//! The words in which a decision explains itself: to the log, to `explain`, and in the response header.

use crate::policy::Objective;
use crate::units::{Grams, Millis, Usd};

/// What rules a candidate out before anything is weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing does.
    #[default]
    Ready,
    /// It comes back after it failed, and this turn leaves it out: it is tried after all that are ready.
    Returning,
    /// It failed lately and is left alone for a while.
    Ejected,
    /// It has as many requests in flight as it was declared to take.
    NoCapacity,
    /// The policy or the client does not allow a request to run where it runs.
    OutsideResidency,
    /// It speaks another dialect, and the request cannot be said in it.
    Untranslatable,
}

impl Standing {
    /// The standing of a backend with `in_flight` of `limit` requests that is ready, returning or ejected `by_health`. Where several
    /// things rule it out, the one that is traded least counts: an ejected backend may be tried as a last resort, a full one or one
    /// outside the residency never.
    pub const fn of(resident: bool, by_health: Self, in_flight: u32, limit: u32) -> Self {
        if !resident {
            Self::OutsideResidency
        } else if in_flight >= limit {
            Self::NoCapacity
        } else {
            by_health
        }
    }
}

/// Why a candidate was taken or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is the one.
    Chosen,
    /// It would emit more than the chosen one.
    Dirtier {
        /// By how much.
        by: Grams,
    },
    /// It would be later than the chosen one, and that is what counted.
    Slower {
        /// By how much.
        by: Millis,
    },
    /// Its capacity is scarcer than the chosen one's, and the price of that outweighs what else speaks for it.
    Scarcer {
        /// By how much the prices differ.
        by: Grams,
    },
    /// It would cost more than the chosen one, and that is what counted.
    Dearer {
        /// By how much.
        by: Usd,
    },
    /// As good as the best to 1 %, but busier, or it was not its turn.
    Tied,
    /// Later in the order that the list, the turn or the weights gave.
    LaterInOrder,
    /// It would be in time and has room, but of all places in time so many are taken that this request gets none of them: the last ones
    /// are for those who cannot wait. Nobody was chosen.
    KeptFree,
    /// It would miss the latency budget.
    OverBudget {
        /// By how much.
        by: Millis,
    },
    /// It has as many requests in flight as it can give tokens to in time, or as its refusals have left.
    Crowded {
        /// How many more than that it would have.
        by: u32,
    },
    /// Nobody knows where it runs or how clean that is, and the chosen one is known.
    UnknownCarbon,
    /// Nobody said what it costs, and the chosen one's cost is known.
    UnknownCost,
    /// See [`Standing::Ejected`], and [`Standing::Returning`], of which nothing else can be said.
    Ejected,
    /// See [`Standing::NoCapacity`].
    NoCapacity,
    /// See [`Standing::OutsideResidency`].
    OutsideResidency,
    /// See [`Standing::Untranslatable`].
    Untranslatable,
}

impl Verdict {
    /// How much, in the unit that goes with the word: grams, milliseconds, dollars or requests.
    pub fn by(self) -> Option<f64> {
        match self {
            Self::Dirtier { by } | Self::Scarcer { by } => Some(by.get()),
            Self::Slower { by } | Self::OverBudget { by } => Some(by.get()),
            Self::Dearer { by } => Some(by.get()),
            Self::Crowded { by } => Some(by.into()),
            _ => None,
        }
    }

    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Dirtier { .. } => "dirtier",
            Self::Slower { .. } => "slower",
            Self::Scarcer { .. } => "scarcer",
            Self::Dearer { .. } => "dearer",
            Self::Tied => "tied",
            Self::LaterInOrder => "later_in_order",
            Self::KeptFree => "kept_free",
            Self::OverBudget { .. } => "over_budget",
            Self::Crowded { .. } => "crowded",
            Self::UnknownCarbon => "unknown_carbon",
            Self::UnknownCost => "unknown_cost",
            Self::Ejected => "ejected",
            Self::NoCapacity => "no_capacity",
            Self::OutsideResidency => "outside_residency",
            Self::Untranslatable => "untranslatable",
        }
    }
}

/// Why the chosen one was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the best, by the policy's objective, of those that meet every constraint.
    Objective(Objective),
    /// Nobody meets the latency budget; it is the fastest.
    FastestOverBudget,
    /// Carbon was to decide and nobody's is known; it is the fastest.
    CarbonUnknown,
    /// Cost was to decide and nobody's is known; it is the fastest.
    CostUnknown,
    /// It alone meets every constraint, so that nothing was weighed.
    Only,
    /// Every candidate that could be used is ejected; it is the one tried all the same.
    LastResort,
    /// The request names a thing that lives there, or had to go to the route's home.
    Pinned,
}

impl Reason {
    /// The word in the log and in `x-windward-decision`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Objective(objective) => objective.as_str(),
            Self::FastestOverBudget => "fastest_over_budget",
            Self::CarbonUnknown => "carbon_unknown",
            Self::CostUnknown => "cost_unknown",
            Self::Only => "only",
            Self::LastResort => "last_resort",
            Self::Pinned => "pinned",
        }
    }
}

/// Why there is no decision. [`exclusion`](super::exclusion) says it of each candidate.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NoCandidate {
    /// There is no candidate at all.
    #[error("no backend serves this model")]
    NoneServes,
    /// Every candidate is full or outside the residency.
    #[error("no backend may serve this request: {no_capacity} without capacity, {outside_residency} outside the residency")]
    AllExcluded {
        /// How many have no room for it; when this is not zero, the request may succeed a little later.
        no_capacity: u32,
        /// How many may not serve it where they are.
        outside_residency: u32,
    },
    /// Every candidate left would miss the latency budget, and the policy refuses such requests.
    #[error("no backend meets the latency budget; the fastest misses it by {:.0} ms", by.get())]
    OverBudget {
        /// What the nearest one misses it by.
        by: Millis,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constraint_that_is_never_traded_comes_first() {
        use Standing::{Ejected, NoCapacity, OutsideResidency, Ready, Returning};
        for by_health in [Ready, Returning, Ejected] {
            assert_eq!(Standing::of(true, by_health, 7, 8), by_health);
            assert_eq!(Standing::of(true, by_health, 8, 8), NoCapacity);
            assert_eq!(Standing::of(false, by_health, 8, 8), OutsideResidency);
        }
        assert_eq!(Standing::of(true, Ready, 0, 0), NoCapacity);
    }

    #[test]
    fn the_words_differ_and_are_words_of_a_log() {
        let by = Millis::ZERO;
        let verdicts = [
            Verdict::Chosen,
            Verdict::Dirtier { by: Grams::ZERO },
            Verdict::Slower { by },
            Verdict::Scarcer { by: Grams::ZERO },
            Verdict::Dearer { by: Usd::ZERO },
            Verdict::UnknownCost,
            Verdict::Tied,
            Verdict::LaterInOrder,
            Verdict::KeptFree,
            Verdict::OverBudget { by },
            Verdict::Crowded { by: 1 },
            Verdict::UnknownCarbon,
            Verdict::Ejected,
            Verdict::NoCapacity,
            Verdict::OutsideResidency,
            Verdict::Untranslatable,
        ]
        .map(Verdict::as_str);
        let reasons = [
            Reason::Objective(Objective::LeastCarbon),
            Reason::Objective(Objective::Weighted),
            Reason::FastestOverBudget,
            Reason::CarbonUnknown,
            Reason::CostUnknown,
            Reason::Objective(Objective::LeastCost),
            Reason::Only,
            Reason::LastResort,
            Reason::Pinned,
        ]
        .map(Reason::as_str);
        for words in [&verdicts[..], &reasons[..]] {
            for (at, word) in words.iter().enumerate() {
                assert!(word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{word}");
                assert!(!words[..at].contains(word), "{word} is there twice");
            }
        }
    }
}
