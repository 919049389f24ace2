//! Policies: what is wanted, and within which limits.

use std::sync::Arc;

use super::Check;
use crate::config::choices::BudgetFile;
use crate::config::decode::At;
use crate::config::file::{AttemptsFile, LatencyFile, PolicyFile};
use crate::config::node::Mark;
use crate::policy::{Attempts, LatencyBudget, Objective, Policy, PolicyId};
use crate::tables::Glob;
use crate::units::Millis;

/// The name of the policy that stands for routes which name none.
pub(super) const STANDARD: &str = "standard";
/// More attempts than this only load a system that is failing already.
const MOST_ATTEMPTS: u64 = 10;

/// The most policies.
const MOST_POLICIES: usize = 1024;

/// A policy and where it stands.
pub(super) struct Meant {
    pub(super) policy: Arc<Policy>,
    pub(super) mark: Mark,
    /// Where its time to the first token stands, if it has a budget of its own.
    pub(super) budget_mark: Option<Mark>,
    /// Its places as they were written.
    pub(super) residency: Vec<At<String>>,
}

impl Check<'_> {
    pub(super) fn policies(&mut self, written: Vec<PolicyFile>) -> Vec<Meant> {
        let mut policies: Vec<Meant> = Vec::with_capacity(written.len());
        if let Some(past) = written.get(MOST_POLICIES) {
            self.problems.add(past.name.mark, format!("more than {MOST_POLICIES} policies"));
        }
        for file in written.into_iter().take(MOST_POLICIES) {
            self.name(&file.name);
            self.once("policy", &file.name, policies.iter().map(|other| (&*other.policy.name, other.mark)));
            let id = PolicyId(policies.len() as u16);
            policies.push(self.policy(file, id));
        }
        policies
    }

    fn policy(&mut self, file: PolicyFile, id: PolicyId) -> Meant {
        let mut policy = Policy { id, ..Policy::standard(&file.name.value) };
        policy.objective = file.objective.as_ref().map_or(Objective::default(), |written| written.value);
        let mut budget_mark = None;
        match file.latency_budget {
            None => {}
            Some(BudgetFile::None) => policy.budget = None,
            Some(BudgetFile::Some(latency)) => {
                budget_mark = latency.first_token.as_ref().map(|written| written.mark);
                policy.budget = Some(self.budget(&latency, policy.budget));
            }
        }
        if let Some(price) = &file.latency_price_mg_per_s {
            policy.latency_price_grams_per_second = self.amount(price, "a price") / 1e3;
            if !policy.objective.weighs_carbon() {
                self.warnings.add(price.mark, "this price has no effect, since the objective does not weigh carbon");
            }
        }
        let residency = file.residency.unwrap_or_default();
        policy.residency = residency.iter().filter_map(|place| self.residency(place)).collect();
        policy.on_no_candidate = file.on_no_candidate.unwrap_or_default();
        if let Some(AttemptsFile { max, retry_unsafe }) = file.attempts {
            let max = self.count(max.as_ref(), policy.attempts.max.into(), 1..=MOST_ATTEMPTS) as u8;
            policy.attempts = Attempts { max, retry_unsafe: retry_unsafe.unwrap_or(false) };
        }
        Meant { policy: Arc::new(policy), mark: file.name.mark, budget_mark, residency }
    }

    fn budget(&mut self, written: &LatencyFile, standard: Option<LatencyBudget>) -> LatencyBudget {
        let default = standard.map_or(Millis::saturating(2000.0), |budget| budget.first_token).to_duration();
        let quantile = written.quantile.map_or(Policy::QUANTILE, |written| {
            if written.value <= 0.0 || written.value >= 1.0 {
                let fault = self.problems.add(written.mark, "a quantile lies between 0 and 1, both excluded");
                if (1.0..100.0).contains(&written.value) {
                    fault.mend = Some(format!("write `{}` for {} %", written.value / 100.0, written.value));
                }
                return Policy::QUANTILE;
            }
            written.value
        });
        LatencyBudget {
            first_token: Millis::from(self.span(written.first_token, default)),
            per_prompt_token: written.per_prompt_token.map_or(Millis::ZERO, |written| Millis::from(written.value.0)),
            per_output_token: written.per_output_token.map(|span| Millis::from(self.span(Some(span), default))),
            total: written.total.map(|total| Millis::from(self.span(Some(total), default))),
            quantile,
            at_most: None,
        }
    }

    fn residency(&mut self, place: &At<String>) -> Option<Arc<str>> {
        if let Err(error) = Glob::new(place.value.trim()) {
            self.problems.add(place.mark, format!("{} is no place: {error}", place.shown()));
            return None;
        }
        Some(Arc::from(place.value.trim()))
    }
}
