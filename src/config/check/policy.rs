//! Policies: what is wanted, and within which limits.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::Check;
use crate::config::choices::{AffinityFile, BudgetFile, ConversationFile};
use crate::config::decode::At;
use crate::config::file::{AttemptsFile, HedgeFile, LatencyFile, PolicyFile};
use crate::config::node::Mark;
use crate::policy::{Affinity, Attempts, Hedge, LatencyBudget, Objective, Policy, PolicyId};
use crate::tables::Glob;
use crate::units::{Grams, Millis, Usd};

/// The name of the policy that stands for routes which name none.
pub(super) const STANDARD: &str = "standard";
/// More attempts than this only load a system that is failing already.
const MOST_ATTEMPTS: u64 = 10;

/// The share of requests that are hedged at most when the file gives none: what is late by the usual quantile is more than twice that.
const HEDGED: f64 = 0.02;
/// Milligrams that a hedge may emit when the file gives none: a request of usual length to a large model on a dirty grid, so that only
/// the dear ones are spared.
const HEDGE_MG: f64 = 20.0;

/// The longest that a conversation is said to be at hand, far beyond what any cache is known to keep.
const LONGEST_TTL: Duration = Duration::from_hours(24);

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
        if let Some(price) = &file.max_usd_per_kg {
            policy.max_usd_per_kg = self.price_of_a_kilogram(price, &policy);
        }
        let residency = file.residency.unwrap_or_default();
        policy.residency = residency.iter().filter_map(|place| self.residency(place)).collect();
        policy.on_no_candidate = file.on_no_candidate.unwrap_or_default();
        policy.overload = file.overload.unwrap_or_default();
        if let Some(AttemptsFile { max, retry_unsafe }) = file.attempts {
            let max = self.count(max.as_ref(), policy.attempts.max.into(), 1..=MOST_ATTEMPTS) as u8;
            policy.attempts = Attempts { max, retry_unsafe: retry_unsafe.unwrap_or(false) };
        }
        if let Some(written) = file.hedge {
            policy.hedge = Some(self.hedge(&written, &policy));
        }
        match file.affinity {
            None => {}
            Some(AffinityFile::None) => policy.affinity = None,
            Some(AffinityFile::Some(written)) => policy.affinity = Some(self.affinity(written)),
        }
        Meant { policy: Arc::new(policy), mark: file.name.mark, budget_mark, residency }
    }

    fn price_of_a_kilogram(&mut self, written: &At<f64>, policy: &Policy) -> Option<Usd> {
        if written.value <= 0.0 {
            self.problems.add(written.mark, "a kilogram has a price above 0").mend =
                Some("`objective: least_cost` pays nothing for it".to_owned());
            return None;
        }
        if !policy.objective.weighs_carbon() {
            self.warnings.add(written.mark, "this price has no effect, since the objective does not weigh carbon");
            return None;
        }
        Usd::new(written.value)
    }

    fn affinity(&mut self, written: ConversationFile) -> Affinity {
        let ConversationFile { ttl, header } = written;
        let longest = ttl.as_ref().filter(|ttl| ttl.value.0 > LONGEST_TTL).map(|ttl| ttl.mark);
        if let Some(mark) = longest {
            self.problems.add(mark, "no conversation is remembered for longer than a day").mend =
                Some("the hosted APIs keep a prompt for 5 minutes to an hour".to_owned());
        }
        let header = header.and_then(|written| {
            let name = HeaderName::from_bytes(written.value.trim().as_bytes()).ok();
            if name.is_none() {
                self.problems.add(written.mark, format!("{} is no name of a header field", written.shown()));
            }
            name
        });
        let standard = Affinity::default();
        Affinity { ttl: self.span(ttl, standard.ttl), header }
    }

    fn hedge(&mut self, written: &At<HedgeFile>, policy: &Policy) -> Hedge {
        let HedgeFile { at_most, extra_mg_at_most } = &written.value;
        let at_most = at_most.as_ref().map_or(HEDGED, |written| {
            if written.value <= 0.0 || written.value > 1.0 {
                self.problems.add(written.mark, "this share is more than 0 and at most 1").mend =
                    Some("leave `hedge` out to hedge nothing".to_owned());
            }
            written.value
        });
        let extra = extra_mg_at_most.as_ref().map_or(HEDGE_MG, |written| self.amount(written, "an emission"));
        let idle = match policy {
            Policy { budget: None, .. } => Some("there is no latency budget to be kept"),
            Policy { attempts: Attempts { max: 1, .. }, .. } => Some("`attempts.max` lets only one backend see a request"),
            _ => None,
        };
        if let Some(why) = idle {
            self.warnings.add(written.mark, format!("nothing will be hedged, since {why}"));
        }
        Hedge { at_most, extra: Grams::saturating(extra / 1e3) }
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
