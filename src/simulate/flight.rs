//! One request under way.

use std::time::Duration;

use smallvec::SmallVec;

use super::router::{Decided, Outcome};
use crate::decide::{self, Candidate};
use crate::fleet::Ticket;
use crate::live::Permit;
use crate::policy::Policy;
use crate::tables::TokenCounts;
use crate::units::Millis;

/// How an attempt came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody was there; nothing was sent.
    Unreachable,
    /// 429, with what it advises.
    Refused(Duration),
    /// 500.
    Error,
    /// It was sent, and the connection broke before an answer.
    Broken,
    /// The answer broke off.
    Cut,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Where, as an index.
    pub region: usize,
    /// When it was sent.
    pub begun: Duration,
    /// When it was over.
    pub ended: Duration,
    /// When its first token was there.
    pub first_token: Option<Duration>,
    /// Requests that the region had in flight then, as the proxy counts.
    pub in_flight_then: u32,
    /// The region's clock of tokens then.
    pub tokens_then: f64,
    /// Prompt tokens that the region had at hand.
    pub cached: u32,
    /// Its place there.
    pub ticket: Option<Ticket>,
    /// What it burned; nothing when `None`.
    pub tokens: Option<TokenCounts>,
    /// Whether it gave the answer.
    pub answered: bool,
    /// Why not.
    pub failure: Option<Failure>,
}

impl Attempt {
    /// One that has just been sent.
    pub fn new(region: usize, now: Duration, cached: u32, ticket: Option<Ticket>) -> Self {
        Self {
            region,
            begun: now,
            ended: now,
            first_token: None,
            in_flight_then: 0,
            tokens_then: 0.0,
            cached,
            ticket,
            tokens: None,
            answered: false,
            failure: None,
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Flight {
    /// The proxy that it goes through, as an index.
    pub proxy: usize,
    /// What was decided.
    pub decided: Decided,
    /// Its place at the backend that is tried.
    pub permit: Option<Permit>,
    /// What was tried.
    pub attempts: SmallVec<[Attempt; 2]>,
}

impl Flight {
    /// One that was just decided.
    pub fn new(proxy: usize, decided: Decided) -> Self {
        Self { proxy, decided, permit: None, attempts: SmallVec::new() }
    }

    /// Who is tried next, `spent` after the request came, and the how manyeth attempt that is.
    pub fn next(&self, policy: &Policy, spent: Duration) -> Option<(u8, Candidate)> {
        let Outcome::Serve(decision) = &self.decided.outcome else { return None };
        let at = |index: u16| self.decided.candidates.get(usize::from(index)).copied();
        let was_tried = |candidate: Candidate| self.attempts.iter().any(|tried| tried.region == candidate.backend.index());
        let waiting = decision.order.iter().copied().filter(|index| at(*index).is_some_and(|it| !was_tried(it)));
        let waiting: SmallVec<[u16; 8]> = waiting.collect();
        let again = || decide::next(policy, true, &self.decided.candidates, &waiting, Millis::from(spent));
        let place = if self.attempts.is_empty() { 0 } else { again()? };
        Some((self.attempts.len() as u8, at(*waiting.get(place)?)?))
    }

    /// Who is tried now.
    pub fn candidate(&self) -> Option<Candidate> {
        let region = self.attempts.last()?.region;
        self.decided.candidates.iter().find(|candidate| candidate.backend.index() == region).copied()
    }

    /// Whether that attempt is the one under way.
    pub fn is_at(&self, attempt: u8) -> bool {
        self.attempts.len() == usize::from(attempt) + 1 && self.attempts.last().is_some_and(|last| last.failure.is_none())
    }

    /// Whether somebody else may be tried, of `most` in all.
    pub fn has_another(&self, most: u8) -> bool {
        let Outcome::Serve(decision) = &self.decided.outcome else { return false };
        self.attempts.len() < usize::from(most.max(1)).min(decision.order.len())
    }
}
