//! A decision as the log tells it: what was chosen, and why not the others.

use super::account::{coefficients, prices};
use super::exchange::Exchange;
use crate::decide::{Candidate, Verdict, exclusion};
use crate::policy::Policy;
use crate::record::{CandidateUsed, DecisionUsed, ShadowUsed, Text};

pub(super) fn decision_used(x: &Exchange) -> Option<DecisionUsed<'_>> {
    let policy = x.policy().filter(|_| !x.candidates.is_empty())?;
    let decision = x.decision.as_ref();
    let name = |index: usize| x.candidates.get(index).map(|c| Text::from(&*x.snapshot.plan.backend(c.backend).name));
    let first = x.candidates.first().map(|candidate| &candidate.estimate);
    Some(DecisionUsed {
        reason: Text::from(decision.map_or_else(|| without(x), |decision| decision.reason.as_str())),
        baseline: decision.and_then(|decision| name(usize::from(decision.baseline))),
        turn: x.turn.map(u64::from),
        spent_ms: policy.budget.map(|_| x.spent.rounded()),
        reserve: DecisionUsed::share(x.reserve),
        strain: DecisionUsed::share(x.strain),
        input_tokens: first.map(|estimate| estimate.prompt_tokens),
        output_tokens: first.map(|estimate| estimate.output_tokens),
        coefficient: coefficients(x, 0).map(|table| Text::from(&*table.id)),
        candidates: Vec::new(),
    })
}

/// Why nobody was chosen.
fn without(x: &Exchange) -> &'static str {
    match x.error {
        Some(ShadowUsed::SHED) => ShadowUsed::SHED,
        // Whose client did not wait has no error of ours.
        None => ShadowUsed::HELD,
        Some(_) => ShadowUsed::REFUSED,
    }
}

pub(super) fn candidates_used<'l>(
    x: &'l Exchange,
    said: Option<&'l DecisionUsed<'l>>,
) -> impl Iterator<Item = CandidateUsed<'l>> {
    let decision = x.decision.as_ref();
    let used = move |policy: &Policy, index: usize, candidate: &Candidate| {
        // Without a decision every candidate is excluded, and by what is found again the way `decide` found it; or it was held back, and
        // whoever is not excluded was kept free of it.
        let verdict = match decision {
            Some(decision) => decision.verdicts.get(index).copied().unwrap_or(Verdict::LaterInOrder),
            None => exclusion(policy, x.streamed, candidate, x.spent).unwrap_or(Verdict::KeptFree),
        };
        let intensity = x.snapshot.intensity(x.snapshot.plan.backend(candidate.backend), x.wall);
        let counted_by = (coefficients(x, index), prices(x, index));
        x.snapshot.candidate_used(candidate, verdict, (intensity, x.wall), counted_by, policy, said)
    };
    // Without a policy there is no decision, and the list is not asked for.
    x.policy()
        .into_iter()
        .flat_map(move |policy| x.candidates.iter().enumerate().map(move |(index, candidate)| used(policy, index, candidate)))
}
