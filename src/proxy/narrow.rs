//! What one request asks for beyond its policy, by three header fields.
//!
//! They narrow: a budget only becomes shorter, a residency smaller. The objective is a preference and no constraint, so it may be any,
//! but for one thing: under a policy that heeds what a request costs it has to be one that does, too. What an operator must be sure of
//! belongs into a constraint.

use std::sync::Arc;

use super::exchange::Exchange;
use super::reject::Error;
use crate::backend::BackendId;
use crate::config::span;
use crate::decide::resident;
use crate::policy::{LatencyBudget, Objective, Policy};
use crate::record::{NarrowedBy, Text};
use crate::units::Millis;
use crate::wire::fields::{Fields, Name};

/// A span of time, as in the configuration: `800ms`.
const BUDGET: Name = Name::XWindwardLatencyBudget;
/// A word, as in the configuration: `least_latency`.
const OBJECTIVE: Name = Name::XWindwardObjective;
/// Places, as in the configuration, with commas between them: `eu, aws/us-*`.
const RESIDENCY: Name = Name::XWindwardResidency;

/// The longest list of places: it goes into the record.
const LONGEST_RESIDENCY: usize = 256;

/// A policy as one request narrowed it.
#[derive(Debug)]
pub(super) struct Narrowed {
    /// What is wanted now.
    pub(super) policy: Arc<Policy>,
    /// The candidates that lie outside what it asked for.
    pub(super) outside: Box<[BackendId]>,
    budget: Option<Millis>,
    objective: Option<Objective>,
    residency: Option<String>,
}

impl Narrowed {
    /// Another policy as the same request narrows it; `None` where that one does not let it.
    pub(super) fn of(&self, other: &Policy) -> Option<Policy> {
        narrowed(other, self.budget, self.objective)
    }

    /// For the record.
    pub(super) fn used(&self) -> NarrowedBy<'_> {
        NarrowedBy {
            latency_budget_ms: self.budget,
            objective: self.objective.map(|objective| Text::from(objective.as_str())),
            residency: self.residency.as_deref().map(Text::from),
        }
    }
}

/// Narrows the exchange's policy by what its head asks for; most ask for nothing.
pub(super) fn narrow(x: &mut Exchange, fields: &Fields) -> Result<(), Error> {
    if ![BUDGET, OBJECTIVE, RESIDENCY].into_iter().any(|name| fields.has(name)) {
        return Ok(());
    }
    let budget = match one(fields, BUDGET)? {
        None => None,
        Some(text) => Some(Millis::from(
            span(text.trim()).ok_or(Error::BadNarrowing("x-windward-latency-budget is a span of time, as in 800ms"))?,
        )),
    };
    let objective = match one(fields, OBJECTIVE)? {
        None => None,
        Some(word) => Some(Objective::named(word.trim()).ok_or(Error::BadNarrowing("x-windward-objective names no objective"))?),
    };
    let residency = one(fields, RESIDENCY)?.map(places).transpose()?;
    let (Some(policy), Some(route)) = (x.policy(), x.route()) else { return Ok(()) };
    if (budget, objective, &residency) == (None, None, &None) {
        return Ok(());
    }
    let Some(policy) = narrowed(policy, budget, objective) else {
        return Err(Error::BadNarrowing("x-windward-objective is one that heeds what a request costs, because this policy does"));
    };
    let plan = &x.snapshot.plan;
    let outside = residency.as_ref().map(|places| {
        let all =
            route.models.values().chain([&route.any_model]).flat_map(|list| list.iter()).map(|deployment| deployment.backend);
        let mut outside: Vec<BackendId> =
            all.chain([route.home]).filter(|id| !resident(places, plan.backend(*id), &plan.zones)).collect();
        outside.sort_unstable();
        outside.dedup();
        outside.into_boxed_slice()
    });
    x.narrowed = Some(Box::new(Narrowed {
        policy: Arc::new(policy),
        outside: outside.unwrap_or_default(),
        budget,
        objective,
        residency: residency.map(|places| places.join(", ")),
    }));
    Ok(())
}

/// What to say where nobody may serve it who could: something only if some would be let, and the request itself has left them out.
pub(super) fn left_nobody(x: &Exchange, mut could: impl Iterator<Item = BackendId>) -> Option<Error> {
    let left_out = could.any(|backend| x.is_let_serve(backend) && !x.may_serve(backend));
    left_out.then_some(Error::BadNarrowing("x-windward-residency leaves out every backend that could serve this request"))
}

/// A policy with a shorter budget and another objective; `None` where it does not let a request ask for that.
fn narrowed(policy: &Policy, budget: Option<Millis>, objective: Option<Objective>) -> Option<Policy> {
    if objective.is_some_and(|objective| spends_more(policy, objective)) {
        return None;
    }
    let objective = objective.unwrap_or(policy.objective);
    Some(Policy { objective, budget: narrower(policy.budget, budget), ..policy.clone() })
}

/// Whether under that objective a request might cost what its policy would not have paid.
fn spends_more(policy: &Policy, asked: Objective) -> bool {
    let heeds = match asked {
        Objective::LeastCost => true,
        Objective::LeastCarbon => policy.max_usd_per_kg.is_some(),
        Objective::LeastLatency | Objective::ListedOrder | Objective::RoundRobin | Objective::Weighted => false,
    };
    policy.counts_money() && !heeds
}

/// The value of a field that is there once or not at all.
fn one(fields: &Fields, name: Name) -> Result<Option<&str>, Error> {
    let mut values = fields.all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), None) => fields.get_text(name).map(Some).ok_or(Error::BadNarrowing("an x-windward field is text")),
        (Some(_), Some(_)) => Err(Error::BadNarrowing("an x-windward field is there twice")),
    }
}

/// A list of places. What could not be one of the configuration's is refused, because it would be outside of everything.
fn places(text: &str) -> Result<Vec<Arc<str>>, Error> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.' | '*' | '?');
    let places: Vec<Arc<str>> = text.split(',').map(|place| Arc::from(place.trim())).collect();
    let is_list = text.len() <= LONGEST_RESIDENCY && places.iter().all(|place| !place.is_empty() && place.chars().all(fine));
    if is_list { Ok(places) } else { Err(Error::BadNarrowing("x-windward-residency lists places, as in eu, aws/us-*")) }
}

/// A budget that is met only where both are.
fn narrower(own: Option<LatencyBudget>, asked: Option<Millis>) -> Option<LatencyBudget> {
    let Some(asked) = asked else { return own };
    Some(match own {
        Some(own) => LatencyBudget { at_most: Some(asked), ..own },
        None => LatencyBudget {
            first_token: asked,
            per_prompt_token: Millis::ZERO,
            per_output_token: None,
            total: Some(asked),
            quantile: Policy::QUANTILE,
            at_most: Some(asked),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_only_becomes_shorter() {
        let own = Policy::standard("p").budget;
        let asked = |ms: f64| narrower(own, Some(Millis::saturating(ms))).unwrap().of(true, 100).unwrap().get();
        assert!((asked(800.0) - 800.0).abs() < 1e-9 && (asked(9000.0) - 2000.0).abs() < 1e-9);
        let none = narrower(None, Some(Millis::saturating(800.0))).unwrap();
        assert_eq!(
            (none.of(true, 5000), none.of(false, 5000)),
            (Some(Millis::saturating(800.0)), Some(Millis::saturating(800.0)))
        );
        assert_eq!(narrower(own, None), own);
    }

    #[test]
    fn a_response_that_is_not_streamed_gets_a_budget_by_asking() {
        let own = Policy::standard("p").budget;
        assert_eq!(own.unwrap().of(false, 10), None);
        assert_eq!(narrower(own, Some(Millis::saturating(5.0))).unwrap().of(false, 10), Some(Millis::saturating(5.0)));
    }

    #[test]
    fn no_request_asks_for_more_than_its_policy_would_pay() {
        let costly = |policy: &Policy| Objective::ALL.into_iter().filter(|asked| spends_more(policy, *asked)).count();
        let free = Policy::standard("p");
        let capped = Policy { max_usd_per_kg: crate::units::Usd::new(1.0), ..free.clone() };
        let cheap = Policy { objective: Objective::LeastCost, ..free.clone() };
        assert_eq!([&free, &capped, &cheap].map(costly), [0, 4, 5]);
        assert!(!spends_more(&capped, Objective::LeastCarbon) && !spends_more(&cheap, Objective::LeastCost));
    }

    #[test]
    fn places_are_places() {
        assert_eq!(places("eu, aws/us-*").unwrap().join("|"), "eu|aws/us-*");
        for bad in ["", "eu,", "eu us", "eu;us", "é", &"eu,".repeat(200)] {
            assert!(places(bad).is_err(), "{bad}");
        }
    }
}
