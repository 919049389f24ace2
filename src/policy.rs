//! What an operator may ask for: an objective, inside constraints that are never traded against it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Grams, Millis, Usd};

/// What is wanted among the candidates that meet every constraint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The fewest grams.
    #[default]
    LeastCarbon,
    /// The fewest dollars.
    LeastCost,
    /// The soonest first token (for a response that is not streamed: the soonest end).
    LeastLatency,
    /// The first of the route's list.
    ListedOrder,
    /// Each in turn.
    RoundRobin,
    /// In proportion to the weights of the route's list.
    Weighted,
}

impl Objective {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::LeastCarbon, Self::LeastCost, Self::LeastLatency, Self::ListedOrder, Self::RoundRobin, Self::Weighted];

    /// The objective of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|objective| objective.as_str() == word)
    }

    /// Whether the choice depends on carbon, so that a baseline without it can differ.
    pub const fn weighs_carbon(self) -> bool {
        matches!(self, Self::LeastCarbon)
    }

    /// The word in YAML, log and header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastCarbon => "least_carbon",
            Self::LeastCost => "least_cost",
            Self::LeastLatency => "least_latency",
            Self::ListedOrder => "listed_order",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
        }
    }
}

/// How long a client may be kept waiting, and how surely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyBudget {
    /// Until the first token, for a streamed response.
    pub first_token: Millis,
    /// Added for every prompt token, because a long prompt takes long to read anywhere.
    pub per_prompt_token: Millis,
    /// For each output token after the first; a backend is not filled beyond the point where its tokens would come more slowly.
    pub per_output_token: Option<Millis>,
    /// Until the end, for a response that is not streamed; none means that such requests have no budget.
    pub total: Option<Millis>,
    /// The share of requests that must meet it, in (0, 1).
    pub quantile: f64,
    /// No longer than this, whatever the fields above allow: what one request asked for.
    pub at_most: Option<Millis>,
}

impl LatencyBudget {
    /// Whether it allows every request as much as that one, or more.
    pub fn is_no_shorter_than(&self, other: &Self) -> bool {
        let most = |span: Option<Millis>| span.unwrap_or(Millis::saturating(f64::INFINITY));
        self.first_token >= other.first_token
            && self.per_prompt_token >= other.per_prompt_token
            && most(self.per_output_token) >= most(other.per_output_token)
            && most(self.total) >= most(other.total)
    }

    /// The budget of one request: to the first token when `streamed`, else to the end.
    pub fn of(&self, streamed: bool, prompt_tokens: u32) -> Option<Millis> {
        let allowance = self.per_prompt_token * f64::from(prompt_tokens);
        let own = if streamed { Some(self.first_token + allowance) } else { self.total.map(|total| total + allowance) };
        match (own, self.at_most) {
            (Some(own), Some(most)) if most < own => Some(most),
            (own, most) => own.or(most),
        }
    }

    /// The same when `spent` of it is over: what is left of the budget of one request; one that has none still has none.
    #[must_use]
    pub fn after(self, spent: Millis, streamed: bool, prompt_tokens: u32) -> Self {
        let left = self.of(streamed, prompt_tokens).map(|whole| Millis::saturating(whole.get() - spent.get()));
        Self { at_most: left.or(self.at_most), ..self }
    }
}

/// What to do when no candidate meets the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNoCandidate {
    /// Take the fastest, and say so in the record.
    #[default]
    Fastest,
    /// Refuse with 503.
    Reject,
}

/// What to do with a request while nobody can serve it in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overload {
    /// Send it to whoever misses its budget least.
    #[default]
    Spill,
    /// Hold it back as long as its budget bears that, and then refuse it with 429 if it would be late everywhere.
    HoldThenShed,
}

/// When a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How many backends may see one request, the first included.
    pub max: u8,
    /// Also after a whole body was sent and the backend failed (500, 502, 504, lost connection, timeout): the work may then be
    /// done, and paid for, twice.
    pub retry_unsafe: bool,
}

/// A policy's place in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u16);

impl PolicyId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// When a second backend may be asked beside one that is late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// The share of requests of which that may be so, in (0, 1].
    pub at_most: f64,
    /// What the second attempt may be expected to emit.
    pub extra: Grams,
}

/// How long a conversation is expected to be at hand where it was served last, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Since its last turn.
    pub ttl: Duration,
    /// A field of the request that names it; what the body names, or how the prompt begins, counts without one.
    pub header: Option<http::HeaderName>,
}

impl Default for Affinity {
    /// Five minutes, after which the hosted APIs forget a prompt that nobody repeats (OpenAI's and Anthropic's guides to prompt caching).
    fn default() -> Self {
        Self { ttl: Duration::from_mins(5), header: None }
    }
}

/// A policy of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its place in the plan.
    pub id: PolicyId,
    /// Its name in the file.
    pub name: Arc<str>,
    /// What is wanted.
    pub objective: Objective,
    /// The latency constraint, if there is one.
    pub budget: Option<LatencyBudget>,
    /// Grams that one second of predicted first-token time is worth: 0 makes any latency inside the budget free.
    pub latency_price_grams_per_second: f64,
    /// Dollars that may be paid for a kilogram less, under `least_carbon`. The chosen candidate costs no more than that for each
    /// kilogram that it emits less than any other that meets every constraint, and whatever can be had at that price is had; it is the
    /// one with the least sum of kilograms and of dollars over this. None: a kilogram is worth any price.
    pub max_usd_per_kg: Option<Usd>,
    /// Places where a request may be served (`eu`, `aws/eu-*`, a grid zone): empty allows all.
    pub residency: Vec<Arc<str>>,
    /// What to do when nobody meets the budget.
    pub on_no_candidate: OnNoCandidate,
    /// What to do while that is so.
    pub overload: Overload,
    /// When a request may be sent again.
    pub attempts: Attempts,
    /// When a second backend may be asked before the first has answered; none: never.
    pub hedge: Option<Hedge>,
    /// Whether the turns of a conversation are known, and what a backend keeps of them is counted; none: each request is a new one.
    pub affinity: Option<Affinity>,
}

impl Policy {
    /// The share of requests that must meet a budget which names none.
    pub const QUANTILE: f64 = 0.95;

    /// The policy that stands when a route names none: least carbon, two seconds to the first token for 95 of 100 requests.
    pub fn standard(name: &str) -> Self {
        Self {
            id: PolicyId::default(),
            name: Arc::from(name),
            objective: Objective::LeastCarbon,
            budget: Some(LatencyBudget {
                first_token: Millis::from(Duration::from_secs(2)),
                per_prompt_token: Millis::ZERO,
                per_output_token: None,
                total: None,
                quantile: Self::QUANTILE,
                at_most: None,
            }),
            latency_price_grams_per_second: 0.0,
            max_usd_per_kg: None,
            residency: Vec::new(),
            on_no_candidate: OnNoCandidate::Fastest,
            overload: Overload::Spill,
            attempts: Attempts { max: 3, retry_unsafe: false },
            hedge: None,
            affinity: Some(Affinity::default()),
        }
    }

    /// What an amount is worth in grams where a kilogram has a price: nothing where it has none.
    pub fn grams_for(&self, cost: Usd) -> Grams {
        self.max_usd_per_kg.map_or(Grams::ZERO, |price| Grams::saturating(1e3 * cost.get() / price.get()))
    }

    /// What it is worth to wait so long for the first token.
    pub fn grams_for_waiting(&self, first_token: Millis) -> Grams {
        Grams::saturating(self.latency_price_grams_per_second * first_token.get() / 1e3)
    }

    /// Whether it looks at what a request costs.
    pub fn counts_money(&self) -> bool {
        self.objective == Objective::LeastCost || self.max_usd_per_kg.is_some()
    }

    /// The quantile at which latency is predicted.
    pub fn quantile(&self) -> f64 {
        self.budget.map_or(Self::QUANTILE, |budget| budget.quantile)
    }
}
