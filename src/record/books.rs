//! What was emitted, and from what that is computed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Text;
use crate::grid::{Basis, Freshness, Quality, Signal};
use crate::tables::EnergyQuality;
use crate::units::{Grams, GramsPerKwh, GramsSaved, Joules, Millis, Pue, Usd};

/// The two intensities that a saving rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Carbon<'a> {
    /// Where the request went.
    #[serde(borrow, default)]
    pub chosen: CarbonUsed<'a>,
    /// Where the baseline would have sent it.
    #[serde(borrow, default)]
    pub baseline: CarbonUsed<'a>,
}

/// One intensity with its whole provenance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarbonUsed<'a> {
    /// The zone whose value it is.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub grid_zone: Option<Text<'a>>,
    /// The value; null when unknown.
    #[serde(default)]
    pub intensity_g_per_kwh: Option<GramsPerKwh>,
    /// That of the cleanest place, where it may have run in more than one: what counts is the upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intensity_low_g_per_kwh: Option<GramsPerKwh>,
    /// Average or marginal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// What is counted in a gram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// How it came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// What it was worth at that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Who said so.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Text<'a>>,
    /// The moment it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Timestamp>,
    /// Its age when it was used, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// What the building adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<Pue>,
}

/// Energy of the answer at the machine, before the building's share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnergyUsed<'a> {
    /// Id of the coefficients.
    #[serde(borrow)]
    pub coefficient: Text<'a>,
    /// How they came to be.
    pub quality: EnergyQuality,
    /// Best guess.
    pub joules: Joules,
    /// Lower end.
    pub joules_low: Joules,
    /// Upper end.
    pub joules_high: Joules,
}

/// How long the backend says that it took, by its own clock, and what was spent on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendTime {
    /// Until its first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// Until its last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// Of the time from the beginning of the answering attempt to its first data what `first_token_ms` does not account for; where the
    /// backend says only its total, the same of the whole answer. Left out where the client was slow to take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_ms: Option<Millis>,
}

/// Grams of the whole exchange. `saved_grams` is `baseline_grams - grams`, and `waste_grams` is part of `grams`. The attempt that
/// gave the answer is the last one, when the exchange is `complete` with a status of 2xx; all others are waste. The baseline is the
/// answer's tokens with the coefficients of the decision's candidate of that name, at `carbon.baseline`; of its prompt tokens those
/// count as cached that were so for the answer, or that this candidate was believed to have, whichever are more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Emissions {
    /// Emitted by every attempt together.
    pub grams: Grams,
    /// The same at the lower end of the energy band.
    pub grams_low: Grams,
    /// The same at its upper end.
    pub grams_high: Grams,
    /// What the answer would have emitted at the baseline; 0 when there was no answer.
    pub baseline_grams: Grams,
    /// The same at the lower end of the energy band.
    pub baseline_grams_low: Grams,
    /// The same at its upper end.
    pub baseline_grams_high: Grams,
    /// Negative when more was emitted than the baseline would have.
    pub saved_grams: GramsSaved,
    /// Emitted for attempts that gave the client nothing.
    pub waste_grams: Grams,
}

/// One attempt, with all that its grams were made of: `joules` of the tokens and the coefficients, `grams` of the joules, the PUE
/// and the intensity. An attempt that burned nothing has 0 joules and no tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptUsed<'a> {
    /// Who was asked.
    #[serde(borrow)]
    pub backend: Text<'a>,
    /// What came of it, in a word.
    #[serde(borrow)]
    pub outcome: Text<'a>,
    /// Status that the backend gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The id that it was answered with, where another attempt followed; that of the last one is the record's.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<Text<'a>>,
    /// How long it took.
    #[serde(default)]
    pub ms: Millis,
    /// Tokens of the prompt that it is charged with, the cached ones included; left out when it burned nothing or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Those of them that a cache spared; left out for none, which is also what an unknown number is taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u64>,
    /// Generated tokens that it is charged with; left out with `input_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Id of its coefficients.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<Text<'a>>,
    /// Energy at the machine, best guess; left out when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// What the building adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<Pue>,
    /// Intensity of its grid; left out when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intensity_g_per_kwh: Option<GramsPerKwh>,
    /// What it emitted; left out when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grams: Option<Grams>,
    /// What it cost, of the same tokens at the prices of the decision's candidate of that name; left out when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<Usd>,
}
