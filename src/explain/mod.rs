//! Why a request goes where it goes: every candidate with its verdict, who is chosen, and how much choice there was.
//!
//! There are two ways to ask. Of a configuration it is asked before there is any traffic, with the proxy's own
//! [`Snapshot`](crate::state::Snapshot) and [`decide_in_time`](crate::decide::decide_in_time()), so that nothing here chooses anything.
//! Of a line of the
//! access log it is asked afterwards, and then the line's own fields are all that is used: deciding it again could only replace what
//! was known then by what is known now. Both become one [`Explanation`] in the words of the log, and are shown in the same way.
//!
//! It stands above `report`, whose bounded lines and whose way of writing grams it shares.

mod choice;
mod question;
pub mod render;
mod search;
mod words;

pub use choice::{Choice, Predicted, Wide};
pub use question::{Question, Target, Unanswered, answer};
pub use search::{Found, MOST_FOUND, Search, search};

use jiff::Timestamp;
use serde::Serialize;

use crate::policy::Objective;
use crate::record::{
    AccessRecord, AttemptUsed, BackendTime, Carbon, DecisionUsed, Emissions, Ended, EnergyUsed, NarrowedBy, ShadowUsed, Text,
    UsageSource,
};
use crate::units::Millis;

/// What an explanation rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A configuration, before any traffic.
    Configuration,
    /// A line of the access log.
    Log,
}

/// A decision and all that bears on it. What does not apply is left out of its JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation<'a> {
    /// What it rests on.
    pub source: Source,
    /// What must be known before any of it is believed.
    pub notices: Vec<&'static str>,
    /// What was asked for.
    pub asked: Asked<'a>,
    /// What was decided; none where nothing was to be decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionUsed<'a>>,
    /// What the client gets where nobody is chosen, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// What the route's shadow policy would choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowUsed<'a>>,
    /// How much choice there was.
    pub choice: Choice,
    /// Candidates that may run in more places than one, by the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wide: Vec<Wide>,
    /// What came of it, where it has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Box<Exchange<'a>>>,
}

/// What was asked for, and under which policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Asked<'a> {
    /// Model as the client names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Text<'a>>,
    /// Name of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Text<'a>>,
    /// Name of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Text<'a>>,
    /// Its objective; a line of the log has only the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// Name of the client's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text<'a>>,
    /// Whether a stream is wanted, so that the budget is about the first token and not about the end.
    pub stream: bool,
    /// The latency budget that applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<Millis>,
    /// What the client asked for beyond the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<NarrowedBy<'a>>,
    /// For when it is asked of a configuration, where that is not now; a line of the log has its own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// What came of a request: the rest of its line, as far as it explains anything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exchange<'a> {
    /// When it arrived.
    pub time: Timestamp,
    /// Its own id.
    pub id: Text<'a>,
    /// The client's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<Text<'a>>,
    /// The backend's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<Text<'a>>,
    /// Generation of the configuration in force.
    pub generation: u64,
    /// Who answered, or was tried last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Text<'a>>,
    /// Status that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended.
    pub ended: Ended,
    /// Stable code of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Text<'a>>,
    /// From the arrival to the first data of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<Millis>,
    /// From the arrival to the end.
    pub total_ms: Millis,
    /// What the backend says of its own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_time: Option<BackendTime>,
    /// Whether the budget was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_budget: Option<bool>,
    /// Prompt tokens; null when unknown.
    pub input_tokens: Option<u64>,
    /// Generated tokens; null when unknown.
    pub output_tokens: Option<u64>,
    /// Where they come from.
    pub usage_source: UsageSource,
    /// Intensities behind the grams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carbon: Option<Carbon<'a>>,
    /// Energy of the answer; null when unknown.
    pub energy: Option<EnergyUsed<'a>>,
    /// Grams; null when unknown.
    pub emissions: Option<Emissions>,
    /// Everybody who was asked.
    pub attempts: Vec<AttemptUsed<'a>>,
}

/// Said of a line of which any part was made up.
const SIMULATED: &str =
    "SIMULATED DATA: this request, or an intensity that its grams rest on, was made up. No claim can be made from it.";

impl<'a> From<AccessRecord<'a>> for Explanation<'a> {
    fn from(mut record: AccessRecord<'a>) -> Self {
        record.spell_out();
        let notices = if record.is_simulated() { vec![SIMULATED] } else { Vec::new() };
        let candidates = record.decision.as_ref().map(|decision| (&*decision.reason, &decision.candidates[..]));
        let choice = candidates.map(|(reason, candidates)| Choice::among(reason, candidates)).unwrap_or_default();
        let asked = Asked {
            model: record.model,
            route: record.route,
            policy: record.policy,
            objective: None,
            key: record.key,
            stream: record.stream,
            budget_ms: record.budget_ms,
            narrowed: record.narrowed,
            at: None,
        };
        let exchange = Exchange {
            time: record.time,
            id: record.id,
            client_request_id: record.client_request_id,
            provider_request_id: record.provider_request_id,
            generation: record.generation,
            backend: record.backend,
            status: record.status,
            ended: record.ended,
            error: record.error,
            first_token_ms: record.first_token_ms,
            total_ms: record.total_ms,
            backend_time: record.backend_time,
            within_budget: record.within_budget,
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            usage_source: record.usage_source,
            carbon: record.carbon,
            energy: record.energy,
            emissions: record.emissions,
            attempts: record.attempts,
        };
        Self {
            source: Source::Log,
            notices,
            asked,
            decision: record.decision,
            refusal: None,
            shadow: record.shadow,
            choice,
            wide: Vec::new(),
            exchange: Some(Box::new(exchange)),
        }
    }
}

#[cfg(test)]
mod tests;
