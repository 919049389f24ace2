//! What another replica is asked for, between two words of it.
//!
//! A price is made of demand and capacity, and what others have in flight takes of the capacity from the next message on. Where their
//! demand came later, or never, there would seem to be little of it beside a capacity that is full: a price near nothing, and clean
//! regions for whoever comes first. So it is taken to grow as this process's own does, and what is then said puts that right.

use crate::live::{Asked, PROMPT_CLASSES};

/// Of each class of prompts.
pub(super) type Demand = [Asked; PROMPT_CLASSES];

/// Requests on both sides that "as many as here" counts for, until words say better ..
const PRIOR: f64 = 8.0;
/// .. and those that are remembered.
const MEMORY: f64 = 512.0;
/// No more requests are guessed to have come there for each one here.
const MOST: f64 = 8.0;

/// The last word of a replica on a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    said: Demand,
    /// What has been counted since without a word.
    guessed: Demand,
    /// Requests here since.
    own: f64,
    /// Requests there and here, lately, between words.
    theirs_lately: f64,
    own_lately: f64,
}

fn both(a: &Demand, b: &Demand, of: impl Fn(&Asked, &Asked) -> Asked) -> Demand {
    std::array::from_fn(|class| of(&a.get(class).copied().unwrap_or_default(), &b.get(class).copied().unwrap_or_default()))
}

/// The sum of two.
pub(super) fn plus(a: &Demand, b: &Demand) -> Demand {
    both(a, b, Asked::plus)
}

/// What it has grown by; `None` when that cannot be.
pub(super) fn since(now: &Demand, before: &Demand) -> Option<Demand> {
    let mut grown = *now;
    for (class, before) in grown.iter_mut().zip(before) {
        *class = class.since(before)?;
    }
    Some(grown)
}

fn requests(demand: &Demand) -> f64 {
    demand.iter().map(|class| class.requests as f64).sum()
}

impl Word {
    /// The first one.
    pub(super) fn first(said: Demand) -> Self {
        Self { said, ..Self::default() }
    }

    /// The next one: what is to be counted because of it, which may be less than nothing; `None` when it cannot be.
    pub(super) fn next(&mut self, said: Demand) -> Option<Demand> {
        let before = std::mem::replace(self, Self { said, ..self.clone() });
        (self.guessed, self.own) = (Demand::default(), 0.0);
        let grown = since(&said, &before.said)?;
        self.theirs_lately += requests(&grown);
        self.own_lately += before.own;
        let all = self.theirs_lately + self.own_lately;
        if all > MEMORY {
            self.theirs_lately *= MEMORY / all;
            self.own_lately *= MEMORY / all;
        }
        Some(both(&grown, &before.guessed, Asked::minus))
    }

    /// This process was asked for so much more: what is to be counted for the other one.
    pub(super) fn guess(&mut self, own: &Demand) -> Demand {
        let share = ((self.theirs_lately + PRIOR) / (self.own_lately + PRIOR)).min(MOST);
        let more = own.map(|class| class.times(share));
        self.guessed = plus(&self.guessed, &more);
        self.own += requests(own);
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(requests: u64) -> Demand {
        let class = Asked { requests, streamed: 0, prompt_tokens: 10 * requests, output_tokens: requests };
        [class, Asked::default(), Asked::default()]
    }

    #[test]
    fn demand_elsewhere_is_told_apart_from_what_was_said_before() {
        let mut word = Word::first(asked(100));
        assert_eq!(word.next(asked(150)), Some(asked(50)));
        assert_eq!(word.next(asked(20)), None, "it has begun anew");
        assert_eq!(word.next(asked(30)), Some(asked(10)));
        assert_eq!(word.next(asked(u64::MAX / 20)), None, "nobody is asked so much");
    }

    #[test]
    fn what_was_guessed_is_put_right_by_the_next_word() {
        let mut word = Word::first(asked(100));
        assert_eq!(word.guess(&asked(5)), asked(5), "as many as here, as long as nothing says better");
        let more = word.next(asked(112)).unwrap();
        assert_eq!(plus(&asked(5), &more), asked(12));
        let guessed = word.guess(&asked(30));
        assert!(guessed[0].requests > 20, "{guessed:?}");
        assert_eq!(plus(&guessed, &word.next(asked(112)).unwrap()), asked(0), "nobody had come there");
    }

    #[test]
    fn whoever_is_asked_for_more_or_less_is_guessed_so() {
        for (theirs, own) in [(0_u64, 10_u64), (10, 10), (40, 10)] {
            let (mut word, mut said) = (Word::first(asked(0)), 0);
            for _ in 0..50 {
                word.guess(&asked(own));
                said += theirs;
                word.next(asked(said)).unwrap();
            }
            let guessed = word.guess(&asked(100))[0].requests;
            assert!(guessed.abs_diff(10 * theirs) <= 30, "{theirs} beside {own}: {guessed}");
        }
        let mut word = Word::first(asked(0));
        word.next(asked(900_000)).unwrap();
        assert_eq!(word.guess(&asked(1)), asked(8), "there is an end to it");
    }
}
