//! The members of a request that bound its output. Each API has a name of its own for that, and what another API calls so is a member that
//! the backend passes over: it must not have a long answer counted as a short one.

use super::Operation;
use super::json::members;
use super::request::{RequestFields, count};

/// By the name of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    /// Converse's, and that of Amazon's own models.
    InferenceConfig,
    /// Gemini's.
    GenerationConfig,
}

impl Limit {
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"inferenceConfig" => Self::InferenceConfig,
            b"generationConfig" | b"generation_config" => Self::GenerationConfig,
            _ => return None,
        })
    }

    /// Whether it bounds the output of that operation; of an unknown one any does.
    fn binds(self, operation: Option<Operation>) -> bool {
        use Operation::{Chat, Completions, Converse, GenerateContent, InvokeModel, Messages, Responses};
        let Some(operation) = operation else { return true };
        match self {
            Self::MaxTokens => matches!(operation, Chat | Completions | Messages | InvokeModel),
            Self::MaxCompletionTokens => matches!(operation, Chat | InvokeModel),
            Self::MaxOutputTokens => operation == Responses,
            Self::InferenceConfig => matches!(operation, Converse | InvokeModel),
            Self::GenerationConfig => operation == GenerateContent,
        }
    }

    /// Takes what the member says. Where several bind, the least does.
    pub(super) fn settle(self, operation: Option<Operation>, value: &[u8], fields: &mut RequestFields) {
        if !self.binds(operation) {
            return;
        }
        if !matches!(self, Self::InferenceConfig | Self::GenerationConfig) {
            fields.max_output_tokens = fields.max_output_tokens.into_iter().chain(count(value)).min();
        } else if value.first() == Some(&b'{') {
            for (name, value) in members(value) {
                match (self, name) {
                    (Self::InferenceConfig, b"maxTokens")
                    | (Self::GenerationConfig, b"maxOutputTokens" | b"max_output_tokens") => {
                        fields.max_output_tokens = count(value).or(fields.max_output_tokens);
                    }
                    (Self::GenerationConfig, b"candidateCount" | b"candidate_count") => fields.choices = count(value),
                    _ => {}
                }
            }
        }
    }
}
