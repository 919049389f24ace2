//! The choice: of the candidates that meet every constraint, the one that the policy's objective likes best, with a verdict for
//! every other.
//!
//! Constraints come first and are never traded for grams: residency, capacity, health, then the latency budget. One score with a
//! weight for each of them would be shorter, and somebody's data would leave the continent on a clean afternoon.
//!
//! A best candidate that is best by a hair would take all traffic until it is full, so whoever comes within 1 % of its grams shares
//! with it: the less loaded first, and among equals each in turn. The choice does not depend on the order of the candidates, except
//! where the policy asks for the listed one.
//!
//! Nothing here allocates for up to 16 candidates, which lie in place, nor for more where the worker hands in its [`Scratch`] and has
//! decided
//! among as many before. Nor do the estimates that it is made of. What else a request allocates on its way here is the proxy's: a list of
//! one candidate where it names what a single backend keeps, and a box for what a shadow policy would have decided.

mod again;
mod hedge;
mod overload;
mod residency;
mod scratch;
mod verdict;
mod weighing;

use smallvec::SmallVec;

pub use again::next;
pub use hedge::{Second, second};
pub use overload::{InTime, Outcome, Waiting, decide_in_time};
pub use residency::resident;
pub use scratch::Scratch;
pub use verdict::{NoCandidate, Reason, Standing, Verdict};

use crate::backend::BackendId;
use crate::estimate::Estimate;
use crate::policy::{LatencyBudget, Policy};
use crate::units::Millis;
use weighing::{Eligible, Ranking, Weighing};

/// Somebody who serves the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Who. No two candidates of one request are the same backend.
    pub backend: BackendId,
    /// What it would take.
    pub estimate: Estimate,
    /// Whether it may be used at all.
    pub standing: Standing,
    /// Its share under the objective `weighted`. Who has none is only ever a fallback to who has.
    pub weight: u32,
}

/// What was decided for one request. Candidates are named by their index in the slice that was decided on.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Those that may be tried: the chosen one first, so it is never empty. Who comes after it is for [`next`] to say, by what is left of
    /// the
    /// budget then.
    pub order: SmallVec<[u16; 16]>,
    /// Who would have been chosen with carbon switched off: same policy, same candidates, same moment, same turn.
    pub baseline: u16,
    /// Why the chosen one was chosen.
    pub reason: Reason,
    /// One for each candidate, in their order; `Chosen` for the first of [`Decision::order`] and nobody else.
    pub verdicts: SmallVec<[Verdict; 16]>,
}

impl Decision {
    /// The decision over a single candidate that was not to be decided: the request has to go there and nowhere else.
    pub fn pinned() -> Self {
        Self {
            order: smallvec::smallvec![0],
            baseline: 0,
            reason: Reason::Pinned,
            verdicts: smallvec::smallvec![Verdict::Chosen],
        }
    }

    /// The index of the chosen candidate.
    pub fn chosen(&self) -> u16 {
        self.order.first().copied().unwrap_or(self.baseline)
    }
}

/// Decides who serves a request. `streamed` says which of its latencies the budget is about; `turn` counts the decisions of the
/// route, moves ties and `round_robin` on, and seeds `weighted`.
///
/// [`Decision::order`] holds the candidates that are [`Standing::Ready`]: those within the budget by the objective, then, unless the
/// policy rejects what is over budget, the others by latency, because a late answer is better than none once the punctual ones have
/// failed. Those that are [`Standing::Returning`] follow, for the same reason. When nobody is ready they are tried as if they were,
/// and only when nobody is returning either are the ejected ones, under the same rules: the ejections are a guess from past failures,
/// and refusing everything would make it come true.
///
/// Under `least_carbon` the sum of grams, of the price of capacity, of the policy's price of the first token's latency, and of what the
/// dollars would buy at the policy's price of a kilogram is to be least. A candidate of unknown emissions never wins over one that is
/// known; when none is known, latency decides. So it is with dollars where they count, as long as anybody's are known.
///
/// At most 65,536 candidates are looked at, as there are no more backends in a plan.
pub fn decide(policy: &Policy, streamed: bool, candidates: &[Candidate], turn: u32) -> Result<Decision, NoCandidate> {
    decide_with(policy, streamed, candidates, turn, &Scratch::default())
}

/// The same with the room that a worker has from earlier decisions.
pub fn decide_with(
    policy: &Policy,
    streamed: bool,
    candidates: &[Candidate],
    turn: u32,
    scratch: &Scratch,
) -> Result<Decision, NoCandidate> {
    decide_within(policy, policy.budget, 0.0, streamed, candidates, turn, scratch)
}

/// The same with another budget than the policy's, and with limits that are so much higher, as a share of themselves.
fn decide_within(
    policy: &Policy,
    budget: Option<LatencyBudget>,
    strain: f64,
    streamed: bool,
    candidates: &[Candidate],
    turn: u32,
    scratch: &Scratch,
) -> Result<Decision, NoCandidate> {
    let candidates = candidates.get(..=usize::from(u16::MAX)).unwrap_or(candidates);
    // Looked for only where dollars count.
    let priced = policy.counts_money() && candidates.iter().any(|candidate| candidate.estimate.cost.is_some());
    let mut those_late = scratch.late.list(candidates.len());
    // A prompt is as long for one candidate as for the other, so that what the budget is for it is found once.
    let mut found: Option<(u32, Option<Millis>)> = None;
    let mut span = |prompt_tokens: u32| match found {
        Some((of, span)) if of == prompt_tokens => span,
        _ => found.insert((prompt_tokens, budget.and_then(|budget| budget.of(streamed, prompt_tokens)))).1,
    };
    those_late.extend(candidates.iter().map(|it| late(span(it.estimate.prompt_tokens), strain, streamed, it)));
    let weighing = Weighing { policy, budget, streamed, candidates, turn, priced, late: those_late, scratch };
    let Eligible { mut order, within, standing } = match weighing.eligible() {
        Ok(eligible) => eligible,
        Err(why) => {
            scratch.late.keep(weighing.late);
            return Err(why);
        }
    };
    let last_resort = standing == Standing::Ejected;

    let (punctual, late) = order.split_at_mut(within);
    if !late.is_empty() {
        weighing.rank_by_lateness(late);
    }
    let Ranking { baseline, reason, tied } = weighing.rank(punctual);
    let chosen = punctual.first().or(late.first()).copied().unwrap_or_default();
    let reason = if last_resort {
        Reason::LastResort
    } else if punctual.is_empty() {
        Reason::FastestOverBudget
    } else if punctual.len() == 1 {
        Reason::Only
    } else {
        reason
    };

    let mut verdicts = scratch.verdicts.list(candidates.len());
    verdicts.extend(weighing.exclusions().map(|exclusion| exclusion.unwrap_or(Verdict::LaterInOrder)));
    let mut set = |index: u16, verdict| {
        if let Some(slot) = verdicts.get_mut(usize::from(index)) {
            *slot = verdict;
        }
    };
    let parts = weighing.parts(chosen);
    for (place, index) in punctual.iter().enumerate().filter(|_| !last_resort) {
        set(*index, if place < tied { Verdict::Tied } else { weighing.compare(*index, chosen, &parts) });
    }
    set(chosen, Verdict::Chosen);
    if standing == Standing::Ready {
        weighing.fall_back(&mut order);
    }
    scratch.late.keep(weighing.late);
    Ok(Decision { baseline: baseline.unwrap_or(chosen), order, reason, verdicts })
}

/// What keeps a candidate from being weighed at all: its standing, or what is left of the latency budget when `spent` of it is over. With
/// it a refused request can be logged with a verdict for every candidate, too.
pub fn exclusion(policy: &Policy, streamed: bool, candidate: &Candidate, spent: Millis) -> Option<Verdict> {
    let prompt_tokens = candidate.estimate.prompt_tokens;
    let left = || policy.budget?.after(spent, streamed, prompt_tokens).of(streamed, prompt_tokens);
    excluded(candidate, || late(left(), 0.0, streamed, candidate))
}

fn excluded(candidate: &Candidate, late: impl FnOnce() -> Option<Verdict>) -> Option<Verdict> {
    match candidate.standing {
        Standing::Ready => late(),
        Standing::Returning | Standing::Ejected => Some(Verdict::Ejected),
        Standing::NoCapacity => Some(Verdict::NoCapacity),
        Standing::OutsideResidency => Some(Verdict::OutsideResidency),
        Standing::Untranslatable => Some(Verdict::Untranslatable),
    }
}

/// Why a candidate would miss the budget, if it would: its first token (or its end) comes later than `span`, or there are as many
/// requests as it can give tokens to in time. A limit counts as if it were higher by the share `strain` of it.
fn late(span: Option<Millis>, strain: f64, streamed: bool, candidate: &Candidate) -> Option<Verdict> {
    let estimate = &candidate.estimate;
    let crowded = (estimate.in_flight >= strained(estimate.limit, strain))
        .then(|| Verdict::Crowded { by: (estimate.in_flight - estimate.limit).saturating_add(1) });
    over(span, streamed, candidate).map(|by| Verdict::OverBudget { by }).or(crowded)
}

/// A limit that is higher by the share `strain` of it.
fn strained(limit: u32, strain: f64) -> u32 {
    if strain > 0.0 { (f64::from(limit) * (1.0 + strain)).round() as u32 } else { limit }
}

/// By how much a candidate would miss the budget, if it would.
fn over_budget(budget: Option<LatencyBudget>, streamed: bool, candidate: &Candidate) -> Option<Millis> {
    over(budget?.of(streamed, candidate.estimate.prompt_tokens), streamed, candidate)
}

/// By how much it would be later than `span`, if it would.
fn over(span: Option<Millis>, streamed: bool, candidate: &Candidate) -> Option<Millis> {
    let (span, latency) = (span?, latency(streamed, candidate));
    (latency > span).then(|| Millis::saturating(latency.get() - span.get()))
}

/// What the client waits for.
const fn latency(streamed: bool, candidate: &Candidate) -> Millis {
    if streamed { candidate.estimate.first_token } else { candidate.estimate.total }
}

#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod money_tests;
#[cfg(test)]
mod tests;
