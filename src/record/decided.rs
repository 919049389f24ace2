//! What was decided, and on what grounds.

use serde::{Deserialize, Serialize};

use super::Text;
use crate::cost::TokenPrices;
use crate::grid::Freshness;
use crate::units::{Grams, GramsPerKwh, Millis, Pue, Usd};

/// The decision, with a verdict for each candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionUsed<'a> {
    /// Why the chosen one was chosen; else [`ShadowUsed::REFUSED`], [`ShadowUsed::SHED`], or [`ShadowUsed::HELD`] where its client did
    /// not wait
    /// for what came of that.
    #[serde(borrow)]
    pub reason: Text<'a>,
    /// The backend that the same policy would have taken with carbon switched off.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Text<'a>>,
    /// The rotation's state, where equals took turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// From the request's arrival to the decision: so much of its budget was over by then. None where there is no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_ms: Option<Millis>,
    /// The share of the places in time, in (0, 1), that was kept free of it for those who cannot wait, where it was held back or refused
    /// for
    /// that; left out where it was neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<f64>,
    /// The share, in (0, 1), by which learned limits counted as higher, where it could not wait and had a place nowhere else; left out
    /// where it had one.
    /// Where it was refused all the same, still more of them was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strain: Option<f64>,
    /// Tokens of the prompt as predicted, for every candidate that says no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Generated tokens as predicted, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// Id of the coefficients that make energy of tokens, likewise.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<Text<'a>>,
    /// Everybody who was considered, in the route's order.
    #[serde(borrow, default)]
    pub candidates: Vec<CandidateUsed<'a>>,
}

impl DecisionUsed<'_> {
    /// A share of places or of a limit as it is said: in hundredths of a percent, and not at all where there is none.
    pub fn share(share: f64) -> Option<f64> {
        Some((share * 1e4).round() / 1e4).filter(|share| *share > 0.0)
    }
}

/// One candidate as the decision saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateUsed<'a> {
    /// Its name.
    #[serde(borrow)]
    pub backend: Text<'a>,
    /// Its region.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Text<'a>>,
    /// Its grid zone.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub grid_zone: Option<Text<'a>>,
    /// Why it was or was not taken.
    #[serde(borrow)]
    pub verdict: Text<'a>,
    /// By how much, in the verdict's own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<f64>,
    /// First token as predicted, at the policy's quantile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<Millis>,
    /// Of it: until the prompts that were sent there before are read; left out where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<Millis>,
    /// End as predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<Millis>,
    /// Tokens of the prompt as predicted; this and the other two that the decision has as well are left out where they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Those of them that it is believed to have at hand, because it served the conversation before; left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u32>,
    /// Generated tokens as predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// Id of the coefficients that make energy of tokens there.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<Text<'a>>,
    /// What the building adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<Pue>,
    /// Intensity of its grid; null when unknown.
    #[serde(default)]
    pub intensity_g_per_kwh: Option<GramsPerKwh>,
    /// Age of the reading that it is, or is drawn from, in whole seconds; left out for the mean of a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intensity_age_s: Option<u64>,
    /// What that was worth at that moment; left out where it was fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Grams as predicted, of the six fields above; null when unknown.
    #[serde(default)]
    pub grams: Option<Grams>,
    /// What a million of its tokens cost; left out when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_usd_per_million_tokens: Option<TokenPrices>,
    /// Dollars as predicted; left out with the prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<Usd>,
    /// What these dollars would save elsewhere, at the policy's price of a kilogram; left out where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_grams: Option<Grams>,
    /// What the time to the first token is worth, at the policy's price of a second; left out where it has none. Under `least_carbon` the
    /// sum of all grams of a candidate is what is to be least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_grams: Option<Grams>,
    /// What one more request there costs all others, because its capacity is scarce; none where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_grams: Option<Grams>,
    /// Each further token as predicted, with this request in flight; none where the policy has no budget for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_output_token_ms: Option<Millis>,
    /// Requests in flight there.
    #[serde(default)]
    pub in_flight: u32,
    /// Requests that it takes at once, as learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Its share, where shares decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// What a request narrowed its policy by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NarrowedBy<'a> {
    /// The most that its latency budget may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_budget_ms: Option<Millis>,
    /// The objective instead of the policy's.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Text<'a>>,
    /// Places, of which its backend has to be in one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Text<'a>>,
}

/// What would have been chosen if the route's policy were its shadow, among the same candidates at the same moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowUsed<'a> {
    /// Its name.
    #[serde(borrow)]
    pub policy: Text<'a>,
    /// Why it would have; else [`Self::REFUSED`], [`Self::HELD`] or [`Self::SHED`].
    #[serde(borrow)]
    pub reason: Text<'a>,
    /// Whom; nobody where it would have been sent nowhere just then.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Text<'a>>,
    /// Grams as predicted there; null when unknown. To be held against those predicted of the candidate that was chosen.
    #[serde(default)]
    pub grams: Option<Grams>,
    /// First token as predicted there, at the shadow's quantile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<Millis>,
}

impl ShadowUsed<'_> {
    /// It would have refused it, because nobody may serve it as it was asked for.
    pub const REFUSED: &'static str = "no_candidate";
    /// It would have held it back until there is room, when it was decided; what would have become of it then nobody knows.
    pub const HELD: &'static str = "held";
    /// It would have refused it as one that could only come too late.
    pub const SHED: &'static str = "shed";
}
