//! Bodies of Bedrock's Converse, as far as a chat has words for them: what is written of a request, and what is read of an answer.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::document::Raw;

/// A request.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) system: Vec<Block<'a>>,
    pub(super) messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "InferenceConfig::is_empty")]
    pub(super) inference_config: InferenceConfig<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "OutputConfig::is_empty")]
    pub(super) output_config: OutputConfig<'a>,
    #[serde(rename = "requestMetadata", skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<Tier<'a>>,
}

/// What one side says until the other does.
#[derive(Serialize)]
pub(super) struct Turn<'a> {
    pub(super) role: &'static str,
    pub(super) content: Vec<Block<'a>>,
}

/// A piece of that.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Block<'a> {
    Text(Raw<'a>),
    Image { format: &'static str, source: Source<'a> },
    ToolUse { tool_use_id: Raw<'a>, name: Raw<'a>, input: Box<RawValue> },
    ToolResult { tool_use_id: Raw<'a>, content: Vec<Self> },
}

/// An image in base64.
#[derive(Serialize)]
pub(super) struct Source<'a> {
    pub(super) bytes: Cow<'a, str>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InferenceConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_p: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stop_sequences: Vec<Raw<'a>>,
}

impl InferenceConfig<'_> {
    const fn is_empty(&self) -> bool {
        self.max_tokens.is_none() && self.temperature.is_none() && self.top_p.is_none() && self.stop_sequences.is_empty()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolConfig<'a> {
    pub(super) tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_choice: Option<ToolChoice<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Tool<'a> {
    ToolSpec {
        name: Raw<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<Raw<'a>>,
        input_schema: Schema<'a>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        strict: bool,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Schema<'a> {
    Given {
        json: Raw<'a>,
    },
    /// A function without parameters.
    None {
        json: Empty,
    },
}

/// `{"type":"object","properties":{}}`.
#[derive(Serialize)]
pub(super) struct Empty {
    pub(super) r#type: &'static str,
    pub(super) properties: Nothing,
}

/// `{}`.
#[derive(Default, Serialize)]
pub(super) struct Nothing {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ToolChoice<'a> {
    Auto(Nothing),
    Any(Nothing),
    Tool { name: Raw<'a> },
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) effort: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text_format: Option<TextFormat<'a>>,
}

impl OutputConfig<'_> {
    const fn is_empty(&self) -> bool {
        self.effort.is_none() && self.text_format.is_none()
    }
}

#[derive(Serialize)]
pub(super) struct TextFormat<'a> {
    pub(super) r#type: &'static str,
    pub(super) structure: Structure<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Structure<'a> {
    JsonSchema {
        /// The schema as a text.
        schema: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<Raw<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<Raw<'a>>,
    },
}

/// How urgently it is served.
#[derive(Serialize, Deserialize)]
pub(super) struct Tier<'a> {
    #[serde(borrow)]
    pub(super) r#type: Cow<'a, str>,
}

/// An answer in one piece.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    pub(super) output: Output<'a>,
    pub(super) stop_reason: Cow<'a, str>,
    pub(super) usage: TokenUsage,
    pub(super) service_tier: Option<Tier<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Output<'a> {
    #[serde(borrow)]
    pub(super) message: Message<'a>,
}

#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) content: Vec<Said<'a>>,
}

/// A piece of an answer. One of another kind has no place in a chat, and what is left without it is not what the model said.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Said<'a> {
    /// As it was written.
    #[serde(borrow)]
    Text(Raw<'a>),
    ToolUse {
        #[serde(borrow)]
        tool_use_id: Cow<'a, str>,
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow)]
        input: Raw<'a>,
    },
    /// What it thought, which a chat has no words for.
    ReasoningContent(IgnoredAny),
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct TokenUsage {
    #[serde(rename = "inputTokens")]
    pub(super) input: u64,
    #[serde(rename = "outputTokens")]
    pub(super) output: u64,
    #[serde(rename = "cacheReadInputTokens")]
    pub(super) read: Option<u64>,
    #[serde(rename = "cacheWriteInputTokens")]
    pub(super) written: Option<u64>,
}

/// The payload of `contentBlockStart`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockStart<'a> {
    #[serde(borrow)]
    pub(super) start: Start<'a>,
    pub(super) content_block_index: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Start<'a> {
    ToolUse {
        #[serde(borrow)]
        tool_use_id: Cow<'a, str>,
        #[serde(borrow)]
        name: Cow<'a, str>,
    },
}

/// The payload of `contentBlockDelta`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockDelta<'a> {
    #[serde(borrow)]
    pub(super) delta: Delta<'a>,
    pub(super) content_block_index: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Delta<'a> {
    /// As it was written.
    #[serde(borrow)]
    Text(Raw<'a>),
    ToolUse {
        #[serde(borrow)]
        input: Raw<'a>,
    },
    ReasoningContent(IgnoredAny),
}

/// The payload of `contentBlockStop`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockStop {
    pub(super) content_block_index: u32,
}

/// The payload of `messageStop`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageStop<'a> {
    #[serde(borrow)]
    pub(super) stop_reason: Cow<'a, str>,
}

/// The payload of `metadata`.
#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) usage: TokenUsage,
}
