//! What a call asks for, as far as a simulated region cares: how much to read, how much to say, and in which manner.

use serde::Deserialize;
use serde_json::Value;

use super::openai::Fault;
use crate::fleet::{Positive, Size, Spread};

/// Bytes of text that count as one token, about right for English.
const BYTES_PER_TOKEN: usize = 4;
/// No call makes a region speak longer than this, whatever it asks for: at 16 ms a token, more than four hours.
const MAX_OUTPUT_TOKENS: u32 = 1_000_000;
/// Inputs of one call for embeddings, as the public service bounds them.
const MAX_INPUTS: usize = 2048;
/// Numbers in one embedding.
const MAX_DIMENSIONS: usize = 3072;
/// Numbers in one embedding when the call does not say: few, because nobody looks at them.
const DIMENSIONS: usize = 8;

/// Which shape the answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
    Response,
    Embedding,
    /// Bedrock's Converse.
    Converse,
    /// Bedrock's InvokeModel, in OpenAI's words.
    Invoke,
    /// The same in Anthropic's.
    InvokeClaude,
    /// Bedrock's CountTokens.
    Count,
    /// Anthropic's messages.
    Messages,
    /// Anthropic's count of a message's tokens.
    CountMessages,
    /// Gemini's generateContent; streamed as events.
    Generate,
    /// The same streamed as one array.
    GenerateArray,
    /// Gemini's countTokens.
    CountContents,
    /// Gemini's embedContent.
    EmbedContent,
    /// Gemini's batchEmbedContents.
    EmbedContents,
}

impl Kind {
    pub(super) const fn is_bedrock(self) -> bool {
        matches!(self, Self::Converse | Self::Invoke | Self::InvokeClaude | Self::Count)
    }

    pub(super) const fn is_anthropic(self) -> bool {
        matches!(self, Self::Messages | Self::CountMessages)
    }

    pub(super) const fn is_gemini(self) -> bool {
        matches!(self, Self::Generate | Self::GenerateArray | Self::CountContents | Self::EmbedContent | Self::EmbedContents)
    }

    /// By a path, which may have Bedrock's prefix for the API of OpenAI or of Anthropic.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/openai").or_else(|| path.strip_prefix("/anthropic")).unwrap_or(path) {
            "/v1/messages" => Some(Self::Messages),
            "/v1/messages/count_tokens" => Some(Self::CountMessages),
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completion),
            "/v1/responses" => Some(Self::Response),
            "/v1/embeddings" => Some(Self::Embedding),
            _ => None,
        }
    }
}

/// A call that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) model: String,
    pub(super) prompt_tokens: u32,
    /// The most that the client wants to hear.
    pub(super) limit: Option<u32>,
    pub(super) streamed: bool,
    pub(super) usage: Asked,
    pub(super) inputs: usize,
    pub(super) dimensions: usize,
    pub(super) base64: bool,
    /// The tool that has to be called, where one has to; of Bedrock's calls alone.
    pub(super) tool: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    #[serde(default)]
    messages: Value,
    #[serde(default)]
    prompt: Value,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    instructions: Value,
    #[serde(default)]
    system: Value,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// What a client wants to hear of usage on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    AtEnd,
    /// And in each event what there is so far, as vLLM can say it.
    InEach,
}

impl StreamOptions {
    fn asked(&self) -> Asked {
        match (self.include_usage, self.continuous_usage_stats) {
            (Some(true), Some(true)) => Asked::InEach,
            (Some(true), _) => Asked::AtEnd,
            _ => Asked::Nothing,
        }
    }
}

impl Call {
    /// Reads a body. What is wrong with it is said in the client's dialect, and never quotes it.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, Fault> {
        Self::of_deployment(kind, None, body)
    }

    /// The same where the path may name the model, and then counts alone.
    pub(super) fn of_deployment(kind: Kind, deployment: Option<&str>, body: &[u8]) -> Result<Self, Fault> {
        let body: Body = serde_json::from_slice(body).map_err(|_| Fault::BadRequest("the body is not the JSON of this call"))?;
        let model =
            deployment.map(str::to_owned).or(body.model).ok_or(Fault::BadRequest("you must provide a model parameter"))?;
        let asked = match kind {
            Kind::Messages if body.max_tokens.is_none() => return Err(Fault::BadRequest("max_tokens: field required")),
            Kind::Chat | Kind::CountMessages | Kind::Messages => &body.messages,
            Kind::Completion => &body.prompt,
            Kind::Response | Kind::Embedding => &body.input,
            _ => return Err(Fault::NoSuchThing),
        };
        if asked.is_null() {
            return Err(Fault::BadRequest("there is nothing to answer"));
        }
        let inputs = asked.as_array().filter(|inputs| inputs.iter().all(Value::is_string)).map_or(1, Vec::len);
        let dimensions = body.dimensions.unwrap_or(DIMENSIONS);
        if kind == Kind::Embedding && (inputs > MAX_INPUTS || dimensions == 0 || dimensions > MAX_DIMENSIONS) {
            return Err(Fault::BadRequest("too many inputs or dimensions"));
        }
        let bytes = text_bytes(asked) + text_bytes(&body.instructions) + text_bytes(&body.system);
        Ok(Self {
            kind,
            model,
            prompt_tokens: u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN).max(1)).unwrap_or(u32::MAX),
            limit: body.max_completion_tokens.or(body.max_output_tokens).or(body.max_tokens).map(|limit| limit.max(1)),
            streamed: !matches!(kind, Kind::Embedding | Kind::CountMessages) && body.stream.unwrap_or(false),
            usage: body.stream_options.map_or(Asked::Nothing, |options| options.asked()),
            inputs,
            dimensions,
            base64: body.encoding_format.as_deref() == Some("base64"),
            tool: None,
        })
    }

    /// A call that asks for these texts to be answered.
    pub(super) fn of_texts(kind: Kind, model: String, texts: &[Value], limit: Option<u32>, streamed: bool) -> Self {
        let bytes: usize = texts.iter().map(text_bytes).sum();
        let prompt_tokens = u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN).max(1)).unwrap_or(u32::MAX);
        let (usage, inputs, dimensions, base64) = (Asked::AtEnd, 1, DIMENSIONS, false);
        Self { kind, model, prompt_tokens, limit, streamed, usage, inputs, dimensions, base64, tool: None }
    }

    /// How long the answer becomes: what the header ordered, or a draw that stops at the client's limit.
    pub(super) fn output_tokens(&self, ordered: Option<u32>, rng: &mut fastrand::Rng) -> u32 {
        use Kind::{Count, CountContents, CountMessages, EmbedContent, EmbedContents, Embedding};
        if matches!(self.kind, Embedding | EmbedContent | EmbedContents | Count | CountMessages | CountContents) {
            return 0;
        }
        let usual = Size {
            median: Positive::new(120.0).unwrap_or(Positive::ONE),
            spread: Spread::new(0.8).unwrap_or_default(),
            most: 2000,
        };
        let drawn = usual.draw(rng).min(self.limit.unwrap_or(u32::MAX));
        ordered.unwrap_or(drawn).clamp(1, MAX_OUTPUT_TOKENS)
    }
}

/// Bytes of text in a message, a list of messages, or a list of parts: whatever stands under `content`, `parts` or `text`.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => ["content", "parts", "text"].iter().filter_map(|key| fields.get(*key)).map(text_bytes).sum(),
        // A prompt may also be a list of token numbers, each as good as four bytes.
        Value::Number(_) => BYTES_PER_TOKEN,
        Value::Null | Value::Bool(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, body: &str) -> Call {
        Call::parse(kind, body.as_bytes()).unwrap()
    }

    #[test]
    fn counts_the_text_of_messages_and_of_nothing_else() {
        let plain = r#"{"model":"m","messages":[{"role":"system","content":"12345678"},{"role":"user","content":"1234"}]}"#;
        assert_eq!(parse(Kind::Chat, plain).prompt_tokens, 3);
        let parts =
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"12345678"},{"type":"image_url"}]}]}"#;
        assert_eq!(parse(Kind::Chat, parts).prompt_tokens, 2);
        assert_eq!(parse(Kind::Response, r#"{"model":"m","input":"1234","instructions":"12345"}"#).prompt_tokens, 3);
        assert_eq!(parse(Kind::Completion, r#"{"model":"m","prompt":[1,2,3]}"#).prompt_tokens, 3);
        assert_eq!(parse(Kind::Embedding, r#"{"model":"m","input":["a","b"]}"#).inputs, 2);
    }

    #[test]
    fn the_header_outranks_the_limit_and_the_limit_the_draw() {
        let call = parse(
            Kind::Chat,
            r#"{"model":"m","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#,
        );
        let mut rng = fastrand::Rng::with_seed(1);
        assert!((0..100).all(|_| (1..=5).contains(&call.output_tokens(None, &mut rng))));
        assert_eq!(call.output_tokens(Some(9), &mut rng), 9);
        assert_eq!(call.output_tokens(Some(0), &mut rng), 1);
        assert!(call.streamed && call.usage == Asked::AtEnd);
    }

    #[test]
    fn refuses_what_is_no_call() {
        for bad in ["", "[]", "{}", r#"{"model":7,"messages":[]}"#, r#"{"model":"m"}"#] {
            assert!(Call::parse(Kind::Chat, bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Call::parse(Kind::Embedding, br#"{"model":"m","input":"a","dimensions":9999}"#).is_err());
    }
}
