//! The list of a request's candidates, and the room that a worker has for deciding among them. Up to four lie in the exchange itself; a
//! longer list is one that an earlier request of this worker is done with, so that a decision among any number allocates nothing once the
//! worker has seen as many.

use std::cell::RefCell;
use std::ops::Deref;

use smallvec::SmallVec;

use crate::decide::{Candidate, Decision, Scratch};

/// Candidates that lie in place: most routes have no more, and an exchange lives as long as its stream.
const IN_PLACE: usize = 4;
/// Lists that a worker keeps for later: as many as end before the next begin, give or take. At 16 candidates they take a quarter of a
/// megabyte.
const MOST_SPARE: usize = 64;
/// A list with room for more is given back to the allocator: a route to a thousand backends would keep megabytes.
const MOST_KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Candidate>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: Scratch = Scratch::default();
}

/// Decides with this worker's room for it.
pub(super) fn with_scratch<T>(mut decide: impl FnMut(&Scratch) -> T) -> T {
    // It is only not there while the thread ends.
    SCRATCH.try_with(&mut decide).unwrap_or_else(|_| decide(&Scratch::default()))
}

/// Nobody looks at a decision any more. One that lies where it is stays there.
pub(super) fn give_back(decision: &mut Option<Decision>) {
    if let Some(decision) = decision.take_if(|it| it.order.spilled() || it.verdicts.spilled()) {
        let _ = SCRATCH.try_with(|scratch| scratch.give_back(decision));
    }
}

/// Candidates of one request, in the order of its deployments.
#[derive(Debug, Default)]
pub(super) struct Candidates(SmallVec<[Candidate; IN_PLACE]>);

impl Candidates {
    /// Empties the list and makes room for so many. In place nothing is moved.
    pub(super) fn begin(&mut self, count: usize) {
        if count > IN_PLACE || self.0.spilled() {
            *self = Self::with_room_for(count);
        } else {
            self.0.clear();
        }
    }

    /// An empty list with room for so many.
    pub(super) fn with_room_for(count: usize) -> Self {
        if count <= IN_PLACE {
            return Self::default();
        }
        // It is only not there while the thread ends.
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        let mut list = spare.unwrap_or_default();
        // Below the room in place the list would be copied there and be lost, and with much more it would not be kept.
        list.reserve_exact(count);
        Self(SmallVec::from_vec(list))
    }

    pub(super) fn push(&mut self, candidate: Candidate) {
        self.0.push(candidate);
    }
}

impl Deref for Candidates {
    type Target = [Candidate];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Candidates {
    fn drop(&mut self) {
        if !self.0.spilled() || self.0.capacity() > MOST_KEPT {
            return;
        }
        let mut list = std::mem::take(&mut self.0).into_vec();
        list.clear();
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_SPARE {
                spare.push(list);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendId;
    use crate::decide::Standing;
    use crate::estimate::Estimate;
    use crate::units::{Grams, Joules, Millis};

    fn candidate(id: u16) -> Candidate {
        let estimate = Estimate {
            prompt_tokens: 100,
            known_tokens: 0,
            cached_tokens: 0,
            output_tokens: 100,
            first_token: Millis::ZERO,
            queue: Millis::ZERO,
            per_output_token: Millis::ZERO,
            total: Millis::ZERO,
            energy: Joules::ZERO,
            intensity: None,
            emissions: None,
            cost: None,
            in_flight: 0,
            limit: 1,
            price: Grams::ZERO,
        };
        Candidate { backend: BackendId(id), estimate, standing: Standing::Ready, weight: 1 }
    }

    fn listed(count: u16) -> Candidates {
        let mut list = Candidates::with_room_for(count.into());
        (0..count).for_each(|id| list.push(candidate(id)));
        list
    }

    #[test]
    fn a_list_of_any_usual_length_allocates_nothing_once_one_has_ended() {
        for count in [1, 4, 5, 16, 40, 64] {
            drop(listed(count));
            let allocations = allocation_counter::measure(|| assert_eq!(listed(count).len(), usize::from(count)));
            assert_eq!(allocations.count_total, 0, "{count}");
        }
    }

    #[test]
    fn a_worker_keeps_no_more_and_no_larger_lists_than_it_may() {
        drop(listed(65));
        drop((0..200).map(|_| listed(16)).collect::<Vec<_>>());
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.len(), MOST_SPARE);
            assert!(spare.iter().all(|list| list.is_empty() && list.capacity() <= MOST_KEPT));
        });
    }
}
