//! Lists that decisions are done with, for those to come.
//!
//! Up to 16 candidates lie in place. A decision among more takes its lists from here, and whoever asked gives back the two that it
//! got when it is done with them: so no number of candidates costs an allocation, once as many have been decided among. The worker
//! owns it and hands it in. The heap instead, as before, took four allocations for each such decision.

use std::cell::Cell;
use std::fmt;

use smallvec::SmallVec;

use super::weighing::Keyed;
use super::{Decision, Verdict};

/// Of candidates or about them.
pub(super) type List<T> = SmallVec<[T; IN_PLACE]>;

/// So many lie in place.
const IN_PLACE: usize = 16;
/// Lists of each kind that are kept for later: as many decisions as end before the next begin, give or take. A decision lasts as long as
/// its exchange. At 64 candidates they take a tenth of a megabyte.
const MOST_SPARE: usize = 64;
/// A list with room for more is given back to the allocator: a route to a thousand backends would keep megabytes.
const MOST_KEPT: usize = 64;

/// Room for the lists of one worker's decisions.
#[derive(Default)]
pub struct Scratch {
    pub(super) indices: Pile<u16>,
    pub(super) verdicts: Pile<Verdict>,
    pub(super) late: Pile<Option<Verdict>>,
    pub(super) keyed: Pile<Keyed>,
}

impl Scratch {
    /// Takes back what a decision was made of, when nobody looks at it any more.
    pub fn give_back(&self, decision: Decision) {
        self.indices.keep(decision.order);
        self.verdicts.keep(decision.verdicts);
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Empty lists that have room.
pub(super) struct Pile<T>(Cell<Vec<Vec<T>>>);

impl<T> Default for Pile<T> {
    fn default() -> Self {
        Self(Cell::default())
    }
}

impl<T> Pile<T> {
    /// An empty list with room for so many.
    #[inline]
    pub(super) fn list(&self, count: usize) -> List<T> {
        if count <= IN_PLACE { List::new() } else { self.long(count) }
    }

    #[cold]
    fn long(&self, count: usize) -> List<T> {
        let mut spare = self.0.take();
        let mut list = spare.pop().unwrap_or_default();
        self.0.set(spare);
        // Never below the room in place, or the list would be copied there and be lost; and no more than is wanted, or it would soon be
        // one that is not kept.
        list.reserve_exact(count);
        List::from_vec(list)
    }

    /// Takes a list back.
    #[inline]
    pub(super) fn keep(&self, list: List<T>) {
        if list.spilled() {
            self.keep_long(list);
        }
    }

    #[cold]
    fn keep_long(&self, list: List<T>) {
        let mut list = list.into_vec();
        let mut spare = self.0.take();
        if list.capacity() <= MOST_KEPT && spare.len() < MOST_SPARE {
            list.clear();
            spare.push(list);
        }
        self.0.set(spare);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, green};
    use super::super::{Candidate, decide, decide_with};
    use super::*;

    fn many(count: u16) -> Vec<Candidate> {
        (0..count).map(|id| candidate(id, Some(f64::from(id % 7)), 100.0 + f64::from(id), u32::from(id % 3))).collect()
    }

    #[test]
    fn what_is_decided_with_used_lists_is_what_is_decided_with_new_ones() {
        let (scratch, policy) = (Scratch::default(), green());
        for (turn, count) in [40, 3, 17, 64, 16, 33, 100, 20].into_iter().enumerate() {
            let (candidates, turn) = (many(count), turn as u32);
            let got = decide_with(&policy, true, &candidates, turn, &scratch).unwrap();
            assert_eq!(got, decide(&policy, true, &candidates, turn).unwrap(), "among {count}");
            scratch.give_back(got);
        }
    }

    #[test]
    fn a_worker_keeps_no_more_and_no_larger_lists_than_it_may() {
        let (scratch, policy) = (Scratch::default(), green());
        let decided = |count| decide_with(&policy, true, &many(count), 0, &scratch).unwrap();
        let all: Vec<Decision> = (0..200).map(|nth| decided(if nth == 7 { 65 } else { 20 })).collect();
        for decision in all {
            scratch.give_back(decision);
        }
        let (indices, verdicts) = (scratch.indices.0.take(), scratch.verdicts.0.take());
        assert_eq!((indices.len(), verdicts.len()), (MOST_SPARE, MOST_SPARE));
        assert!(indices.iter().all(|list| list.is_empty() && list.capacity() <= MOST_KEPT));
        assert!(verdicts.iter().all(|list| list.is_empty() && list.capacity() <= MOST_KEPT));
    }
}
