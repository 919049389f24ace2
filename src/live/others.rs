//! What other replicas of this gateway have at the same backend, as far as they have said so.
//!
//! A backend has one capacity for all of them, so a decision counts theirs with its own. Two words are read for it, and neither is
//! ever written by a request.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What the others have at a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Requests sent and not yet finished, of all of them.
    pub in_flight: u32,
    /// Prompt tokens sent and not yet answered, of all of them.
    pub pending_prompt_tokens: u64,
    /// How many of them are heard so seldom that they are taken to do as this process did since ..
    pub guessed: u16,
    /// .. and what this process had in flight when they were last heard, once for each of them.
    pub own_then: u32,
}

/// The same, as requests read it.
#[derive(Debug, Default)]
pub(super) struct Others {
    in_flight: AtomicU32,
    pending_prompt_tokens: AtomicU64,
    /// How many are guessed, above what was in flight then; 0 for nearly everybody.
    guess: AtomicU64,
}

impl Others {
    pub(super) fn hear(&self, heard: Heard) {
        self.in_flight.store(heard.in_flight, Relaxed);
        self.pending_prompt_tokens.store(heard.pending_prompt_tokens, Relaxed);
        self.guess.store(u64::from(heard.guessed) << 32 | u64::from(heard.own_then), Relaxed);
    }

    /// What they have in flight, where this process has `own`.
    pub(super) fn in_flight(&self, own: u32) -> u32 {
        let (heard, guess) = (self.in_flight.load(Relaxed), self.guess.load(Relaxed));
        if guess == 0 {
            return heard;
        }
        let (guessed, own_then) = ((guess >> 32) as u32, guess as u32);
        heard.saturating_add(guessed.saturating_mul(own)).saturating_sub(own_then)
    }

    pub(super) fn pending_prompt_tokens(&self) -> u64 {
        self.pending_prompt_tokens.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_heard_seldom_is_taken_to_do_as_oneself() {
        let others = Others::default();
        others.hear(Heard { in_flight: 30, pending_prompt_tokens: 7, ..Heard::default() });
        assert_eq!((others.in_flight(10), others.in_flight(99), others.pending_prompt_tokens()), (30, 30, 7));
        others.hear(Heard { in_flight: 30, guessed: 3, own_then: 24, ..Heard::default() });
        assert_eq!([8, 10, 2].map(|own| others.in_flight(own)), [30, 36, 12]);
        others.hear(Heard { in_flight: 1, guessed: 1, own_then: 50, ..Heard::default() });
        assert_eq!(others.in_flight(10), 0, "they have no less than nothing");
    }
}
