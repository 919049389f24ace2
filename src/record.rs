//! One line of the access log: the type that `serve` writes and that `report`, `replay` and `verify` read.
//!
//! It is one type for both directions, because a writer and a reader that are declared apart drift apart, and the line is the only
//! evidence there is. Text is borrowed both ways: from the plan and the exchange when written, from the line when read. What is
//! unknown about energy is `null`, never 0; what does not apply is left out. Names follow the OpenTelemetry semantic conventions
//! where these have one. No prompt, no completion, no key and no query string has a field here, so none can be logged.

mod books;
mod decided;
mod once;
mod words;

use std::borrow::Cow;
use std::ops::Deref;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::books::{AttemptUsed, BackendTime, Carbon, CarbonUsed, Emissions, EnergyUsed};
pub use self::decided::{CandidateUsed, DecisionUsed, NarrowedBy, ShadowUsed};
pub use self::words::{Ended, UsageSource};

use crate::backend::PlacementKind;
use crate::cost::Costs;
use crate::grid::Quality;
use crate::units::Millis;

/// Everything that one exchange leaves behind. Fields that a reader does not know are ignored, so that an older `report` reads a
/// newer log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessRecord<'a> {
    /// When the request arrived.
    pub time: Timestamp,
    /// Which installation of the proxy.
    #[serde(borrow)]
    pub instance: Text<'a>,
    /// Which run of its process; `seq` counts within it.
    #[serde(borrow)]
    pub run: Text<'a>,
    /// The line's number within the run: a gap is a lost line.
    pub seq: u64,
    /// Generation of the snapshot that decided.
    pub generation: u64,
    /// The exchange's own id.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// The id that the client sent.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<Text<'a>>,
    /// The id that the backend answered with.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<Text<'a>>,
    /// Name of the route.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Text<'a>>,
    /// Name of the policy.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Text<'a>>,
    /// What the client asked for beyond the policy, by the headers it may narrow it with.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<NarrowedBy<'a>>,
    /// Name of the client's key, never the key.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text<'a>>,
    /// Method.
    #[serde(borrow, rename = "http.request.method")]
    pub method: Text<'a>,
    /// Path without the query.
    #[serde(borrow, rename = "url.path")]
    pub path: Text<'a>,
    /// Status that the client got; none when it left before there was one.
    #[serde(rename = "http.response.status_code", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes of the request body.
    #[serde(rename = "http.request.body.size", default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Bytes of the response body that were passed on.
    #[serde(rename = "http.response.body.size", default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// What kind of call: `chat`, `embeddings`, ...
    #[serde(borrow, rename = "gen_ai.operation.name", default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Text<'a>>,
    /// Model as the client named it.
    #[serde(borrow, rename = "gen_ai.request.model", default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Text<'a>>,
    /// Model as the backend named it.
    #[serde(borrow, rename = "gen_ai.response.model", default, skip_serializing_if = "Option::is_none")]
    pub response_model: Option<Text<'a>>,
    /// Whether the client asked for a stream.
    #[serde(default)]
    pub stream: bool,
    /// Who answered, or was tried last.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Text<'a>>,
    /// Its region.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Text<'a>>,
    /// Its grid zone.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub grid_zone: Option<Text<'a>>,
    /// How sure that is; where the answer says otherwise than the configuration, by the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementKind>,
    /// What the answer itself says of where the model ran, and by which of its fields: `inference_geo=us`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub placement_evidence: Option<Text<'a>>,
    /// What was chosen, and why not the others.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionUsed<'a>>,
    /// What another policy would have chosen, which is tried for the log alone.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowUsed<'a>>,
    /// Intensities that the grams below were made with.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub carbon: Option<Carbon<'a>>,
    /// Prompt tokens, the cached ones included; null when unknown.
    #[serde(rename = "gen_ai.usage.input_tokens", default)]
    pub input_tokens: Option<u64>,
    /// Generated tokens, hidden reasoning included; null when unknown.
    #[serde(rename = "gen_ai.usage.output_tokens", default)]
    pub output_tokens: Option<u64>,
    /// Prompt tokens that a cache spared; null when unknown.
    #[serde(default)]
    pub cached_input_tokens: Option<u64>,
    /// Generated tokens that were reasoning; null when unknown.
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
    /// Where the token counts come from.
    #[serde(default)]
    pub usage_source: UsageSource,
    /// Where the count of the prompt comes from, when that is not `usage_source`: of a stream that reported nothing the output was
    /// counted, but the prompt only estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_source: Option<UsageSource>,
    /// Energy of the answer at the machine; null when unknown.
    #[serde(borrow, default)]
    pub energy: Option<EnergyUsed<'a>>,
    /// Grams; null when unknown.
    #[serde(default)]
    pub emissions: Option<Emissions>,
    /// Dollars, of the same tokens as the grams; left out when what anybody's tokens cost is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Costs>,
    /// Every backend that was tried, in the order in which they were done with: the last is the one that answered, if one did.
    #[serde(borrow, default)]
    pub attempts: Vec<AttemptUsed<'a>>,
    /// From the request's arrival to the first data of the response body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<Millis>,
    /// From the request's arrival to the end.
    #[serde(default)]
    pub total_ms: Millis,
    /// What the backend says of its own time, and what the way took; left out where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_time: Option<BackendTime>,
    /// The latency budget that applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<Millis>,
    /// Whether it was met; none without a budget or without a first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_budget: Option<bool>,
    /// What the proxy itself added before the request went out, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead_us: Option<u64>,
    /// How it ended.
    pub ended: Ended,
    /// Stable code of the error, if there was one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Text<'a>>,
    /// Made up by a mock, a replay or a demonstration: excluded from claims.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
}

impl AccessRecord<'_> {
    /// Whether any part of it was made up: the exchange itself, or an intensity that its grams rest on.
    pub fn is_simulated(&self) -> bool {
        let made_up = |used: &CarbonUsed<'_>| used.quality == Some(Quality::Simulated);
        self.simulated || self.carbon.as_ref().is_some_and(|carbon| made_up(&carbon.chosen) || made_up(carbon.at_baseline()))
    }
}

/// A piece of text, borrowed wherever that is possible. A type of its own, because serde does not borrow inside an
/// `Option<Cow<str>>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAST: &str = r#"{"time":"2026-11-20T10:00:00Z","instance":"i","run":"r","seq":0,"generation":1,"id":"x",
        "http.request.method":"POST","url.path":"/v1/models","ended":"rejected"}"#;

    fn sample() -> AccessRecord<'static> {
        let line = include_str!("../tests/cases/log/sample.jsonl").lines().next().unwrap();
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_line_comes_back_as_it_was_written() {
        let record = sample();
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<AccessRecord<'_>>(&text).unwrap(), record);
        assert!(!text.contains('\n'));
    }

    #[test]
    fn unknown_tokens_are_null_and_never_left_out() {
        let record: AccessRecord<'_> = serde_json::from_str(LEAST).unwrap();
        let value = serde_json::to_value(&record).unwrap();
        for name in [
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "cached_input_tokens",
            "reasoning_tokens",
            "energy",
            "emissions",
        ] {
            assert_eq!(value.get(name), Some(&serde_json::Value::Null), "{name}");
        }
        assert_eq!(record.usage_source, UsageSource::Unknown);
        for left_out in ["simulated", "backend", "gen_ai.request.model", "error"] {
            assert_eq!(value.get(left_out), None, "{left_out}");
        }
    }

    #[test]
    fn a_field_from_the_future_is_ignored() {
        let line = LEAST.replacen('{', r#"{"carbon":{"chosen":{"colour":"green"},"else":[1]},"later":{"a":1},"#, 1);
        assert!(serde_json::from_str::<AccessRecord<'_>>(&line).is_ok());
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let line = serde_json::to_string(&sample()).unwrap();
        assert!(line.contains(r#""grams":"#));
        assert!(serde_json::from_str::<AccessRecord<'_>>(&line.replacen(r#""waste_grams":"#, r#""waste_grams":-1"#, 1)).is_err());
    }

    #[test]
    fn text_is_borrowed_from_the_line() {
        let line = LEAST.replacen('{', r#"{"backend":"plain","route":"esc\"aped","#, 1);
        let record: AccessRecord<'_> = serde_json::from_str(&line).unwrap();
        assert!(matches!(record.instance.0, Cow::Borrowed(_)));
        assert!(matches!(record.backend.as_ref().unwrap().0, Cow::Borrowed("plain")));
        assert!(matches!(&record.route.as_ref().unwrap().0, Cow::Owned(text) if text == "esc\"aped"));
    }

    #[test]
    fn an_intensity_made_up_makes_the_record_so() {
        let mut record = sample();
        assert!(!record.is_simulated());
        record.carbon.as_mut().unwrap().baseline.as_mut().unwrap().quality = Some(Quality::Simulated);
        assert!(record.is_simulated());
    }

    #[test]
    fn the_words_are_the_ones_in_the_log() {
        for ended in Ended::ALL {
            assert_eq!(serde_json::to_value(ended).unwrap(), ended.as_str());
        }
        for source in UsageSource::ALL {
            assert_eq!(serde_json::to_value(source).unwrap(), source.as_str());
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(line in "\\PC{0,200}") {
            let _ = serde_json::from_str::<AccessRecord<'_>>(&line);
        }

        #[test]
        fn any_text_survives(text in any::<String>(), tokens in any::<Option<u64>>()) {
            let record = AccessRecord { model: Some(Text::from(text.as_str())), output_tokens: tokens, ..sample() };
            let line = serde_json::to_vec(&record).unwrap();
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<AccessRecord<'_>>(&line).unwrap(), record);
        }
    }
}
