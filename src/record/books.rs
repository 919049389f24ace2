//! What was emitted, and from what that is computed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Text;
use crate::grid::{Basis, Freshness, Quality, Signal};
use crate::tables::{EnergyBand, EnergyQuality};
use crate::units::{Grams, GramsPerKwh, GramsSaved, Joules, Millis, Pue, Usd};

/// The two intensities that a saving rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Carbon<'a> {
    /// Where the request went.
    #[serde(borrow, default)]
    pub chosen: CarbonUsed<'a>,
    /// Where the baseline would have sent it; left out where that is the same, with all its provenance.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<CarbonUsed<'a>>,
}

impl<'a> Carbon<'a> {
    /// Where the baseline would have sent it.
    pub fn at_baseline(&self) -> &CarbonUsed<'a> {
        self.baseline.as_ref().unwrap_or(&self.chosen)
    }
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
    /// Lower end; left out where it is no other than the best guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_low: Option<Joules>,
    /// Upper end; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_high: Option<Joules>,
}

impl<'a> EnergyUsed<'a> {
    /// What a band says of energy by those coefficients.
    pub fn of(coefficient: Text<'a>, quality: EnergyQuality, band: &EnergyBand) -> Self {
        let [joules_low, joules_high] = [band.low(), band.high()].map(|end| other(end, band.mid()));
        Self { coefficient, quality, joules: band.mid(), joules_low, joules_high }
    }

    /// Lower end, best guess and upper end.
    pub fn ends(&self) -> [Joules; 3] {
        [self.joules_low.unwrap_or(self.joules), self.joules, self.joules_high.unwrap_or(self.joules)]
    }
}

/// One end of a band, unless it is what stands for it where it is left out.
fn other<T: Copy + PartialEq>(end: T, mid: T) -> Option<T> {
    (end != mid).then_some(end)
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
    /// The same at the lower end of the energy band; left out where it is the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grams_low: Option<Grams>,
    /// The same at its upper end; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grams_high: Option<Grams>,
    /// What the answer would have emitted at the baseline; 0 when there was no answer.
    pub baseline_grams: Grams,
    /// The same at the lower end of the energy band; left out where it is the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_grams_low: Option<Grams>,
    /// The same at its upper end; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_grams_high: Option<Grams>,
    /// Negative when more was emitted than the baseline would have.
    pub saved_grams: GramsSaved,
    /// Emitted for attempts that gave the client nothing.
    pub waste_grams: Grams,
}

impl Emissions {
    /// Of what was emitted and of what the baseline would have: lower end, best guess and upper end.
    pub fn of([grams, baseline_grams]: [[Grams; 3]; 2], saved_grams: GramsSaved, waste_grams: Grams) -> Self {
        let [grams_low, grams, grams_high] = grams;
        let [baseline_low, baseline_grams, baseline_high] = baseline_grams;
        let [grams_low, grams_high] = [grams_low, grams_high].map(|end| other(end, grams));
        let [baseline_grams_low, baseline_grams_high] = [baseline_low, baseline_high].map(|end| other(end, baseline_grams));
        Self { grams, grams_low, grams_high, baseline_grams, baseline_grams_low, baseline_grams_high, saved_grams, waste_grams }
    }

    /// What was emitted: lower end, best guess and upper end.
    pub fn emitted(&self) -> [Grams; 3] {
        [self.grams_low.unwrap_or(self.grams), self.grams, self.grams_high.unwrap_or(self.grams)]
    }

    /// What the baseline would have emitted: lower end, best guess and upper end.
    pub fn at_baseline(&self) -> [Grams; 3] {
        let mid = self.baseline_grams;
        [self.baseline_grams_low.unwrap_or(mid), mid, self.baseline_grams_high.unwrap_or(mid)]
    }
}

/// One attempt, with all that its grams were made of: `joules` of the tokens and the coefficients, `grams` of the joules, the PUE
/// and the intensity. An attempt that burned nothing has 0 joules and no tokens. What an attempt rests on is left out, from its tokens
/// on, where it was the only one and gave the answer, and the line has it all: `gen_ai.usage`, `energy`, `carbon.chosen`, `emissions`, `cost`.
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
    /// From the request's arrival to its beginning; left out where it was the only one. So much of the budget was over when it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_ms: Option<Millis>,
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
