//! The wire formats by name. What each one looks like is known to [`crate::wire`]; the core only has to tell them apart.

use serde::{Deserialize, Serialize};

/// A wire format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// The OpenAI API and what is shaped like it (vLLM, SGLang, llama.cpp, TGI, Ollama).
    #[default]
    Openai,
    /// Azure OpenAI.
    AzureOpenai,
    /// Anthropic messages.
    Anthropic,
    /// Amazon Bedrock runtime, native.
    Bedrock,
    /// Gemini and Vertex AI.
    Gemini,
}

impl Dialect {
    /// Whether what a client says in one of them can be said in the other by another path alone.
    pub fn is_kin_of(self, other: Self) -> bool {
        let kin = |dialect| matches!(dialect, Self::Openai | Self::AzureOpenai);
        self == other || kin(self) && kin(other)
    }

    /// Its name in the configuration and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::AzureOpenai => "azure-openai",
            Self::Anthropic => "anthropic",
            Self::Bedrock => "bedrock",
            Self::Gemini => "gemini",
        }
    }
}
