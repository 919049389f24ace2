//! What would be decided if the route's policy were another one, for the log alone: so that a change can be read before it is made.
//!
//! It is one allocation for each request of a route that has a shadow: in the exchange itself it would be room that every stream holds.

use super::exchange::Exchange;
use super::scratch::{Candidates, with_scratch};
use crate::affinity::Warm;
use crate::backend::BackendId;
use crate::decide::{Decision, Outcome, Waiting, decide_in_time};
use crate::policy::Policy;
use crate::record::{ShadowUsed, Text};
use crate::route::{Deployment, Shadow};
use crate::state::Question;

/// What the route's shadow would have decided, over the same candidates as it sees them.
#[derive(Debug)]
pub(super) struct Shadowed {
    candidates: Candidates,
    /// Nothing where it would have refused: nobody may serve it, or it does not let a request ask for what this one asks.
    outcome: Option<Outcome>,
}

impl Shadowed {
    /// What it consists of, when nobody looks at it any more.
    pub(super) fn decision(self) -> Option<Decision> {
        match self.outcome {
            Some(Outcome::Serve(decision)) => Some(decision),
            _ => None,
        }
    }
}

/// What the route's shadow decides of a request, if it has one. All else stays as it is: whoever brings a policy by key is served by that
/// one, in the places that both allow, and what a request asks for itself it asks of the shadow as well.
pub(super) fn decided(
    x: &Exchange,
    deployments: &[Deployment],
    question: &Question<'_>,
    waiting: Waiting,
) -> Option<Box<Shadowed>> {
    let Shadow { policy, outside } = x.route()?.shadow.as_ref()?;
    let own = x.key().and_then(|key| key.policy.as_ref());
    let policy = own.map_or(policy, |own| &own.policy);
    let narrowed = x.narrowed.as_ref().map(|narrowed| narrowed.of(policy));
    let policy: &Policy = match &narrowed {
        None => policy,
        Some(Some(narrowed)) => narrowed,
        Some(None) => return Some(Box::new(Shadowed { candidates: Candidates::default(), outcome: None })),
    };
    let now = question.now.at();
    let warm = x.demand.map_or_else(Warm::default, |it| x.snapshot.warm(x.session.as_ref(), policy, it.body_bytes, now));
    let question = Question { policy, warm, ..*question };
    let inside = |id: BackendId| !outside.contains(&id) && x.suits_who_asks(id);
    let mut candidates = Candidates::with_room_for(deployments.len());
    for it in deployments {
        let Some(mut candidate) = x.snapshot.candidate(it, inside(it.backend), &question) else { continue };
        x.judge_translation(it, &mut candidate);
        candidates.push(candidate);
    }
    let decide = |scratch: &_| decide_in_time(policy, x.streamed, &candidates, question.turn, waiting, scratch);
    let outcome = with_scratch(decide).ok().map(|it| it.outcome);
    Some(Box::new(Shadowed { candidates, outcome }))
}

/// For the record.
pub(super) fn used(x: &Exchange) -> Option<ShadowUsed<'_>> {
    let (policy, shadow) = (&x.route()?.shadow.as_ref()?.policy, x.shadow.as_ref()?);
    let (reason, chosen) = match &shadow.outcome {
        Some(Outcome::Serve(decision)) => (decision.reason.as_str(), shadow.candidates.get(usize::from(decision.chosen()))),
        Some(Outcome::Hold(_)) => (ShadowUsed::HELD, None),
        Some(Outcome::Shed) => (ShadowUsed::SHED, None),
        None => (ShadowUsed::REFUSED, None),
    };
    Some(ShadowUsed {
        policy: Text::from(&*policy.name),
        reason: Text::from(reason),
        backend: chosen.map(|candidate| Text::from(&*x.snapshot.plan.backend(candidate.backend).name)),
        grams: chosen.and_then(|candidate| candidate.estimate.emissions),
        first_token_ms: chosen.map(|candidate| candidate.estimate.first_token),
    })
}
