//! Bytes in, values out: what has to be read of a request and of a response, and nothing more.
//!
//! A gateway that builds a tree of every body spends more on reading than on forwarding. Here a request body is skipped through
//! once and gives a handful of fields with their places ([`request`]); what must change is cut in without copying the rest
//! ([`splice`]); a response is looked at after it has been forwarded ([`usage`]), and only a usage event that the client did not
//! ask for is taken out ([`strip`]). Everything works on chunks as they come, and no result depends on where they were cut. Before
//! any of it, a message of HTTP/1.1 is held to the letter ([`framing`]), and frames of HTTP/2 that lead nowhere are counted ([`frames`]);
//! after it, a response of HTTP/1.1 becomes bytes again ([`reply`]). The fields of both stay where they were received ([`fields`]).

use std::borrow::Cow;

use http::Method;
use serde::{Deserialize, Serialize};

pub use crate::dialect::Dialect;

pub mod allowance;
pub mod anthropic;
pub mod azure;
pub mod bedrock;
mod beginning;
mod elements;
pub mod error;
mod event_frames;
mod event_stream;
mod events;
pub mod fields;
pub mod frames;
pub mod framing;
pub mod gemini;
mod json;
mod leave_out;
mod limit;
pub mod message;
mod names;
pub mod query;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod response;
mod search;
pub mod sigv4;
pub mod splice;
pub mod sse;
pub mod stored;
pub mod stream_options;
pub mod strip;
mod totals;
pub mod translate;
pub mod usage;

/// What an inference call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /chat/completions`
    Chat,
    /// `POST /completions`, the elder form without turns.
    Completions,
    /// `POST /responses`
    Responses,
    /// `POST /embeddings`
    Embeddings,
    /// Bedrock's `POST /model/{id}/invoke` and `/invoke-with-response-stream`: in the model's own words.
    InvokeModel,
    /// Bedrock's `POST /model/{id}/converse` and `/converse-stream`: in words that all models have in common.
    Converse,
    /// Anthropic's `POST /messages`
    Messages,
    /// Gemini's `POST /models/{model}:generateContent` and `:streamGenerateContent`
    GenerateContent,
    /// Bedrock's `POST /model/{id}/count-tokens`, Anthropic's `POST /messages/count_tokens` and Gemini's `:countTokens`: no model runs
    /// for it.
    CountTokens,
}

impl Operation {
    /// OpenTelemetry's `gen_ai.operation.name`.
    ///
    /// A call of the Responses API is `chat` too: the convention has no word of its own for it and asks for the nearest predefined
    /// value in that case. [`Operation::api_type`] tells the two apart.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Converse | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            // It may be any of the others; this is the word for content of whatever kind.
            Self::InvokeModel | Self::GenerateContent => "generate_content",
            Self::CountTokens => "count_tokens",
        }
    }

    /// OpenTelemetry's `openai.api.type`, where it has a value.
    pub const fn api_type(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("chat_completions"),
            Self::Responses => Some("responses"),
            _ => None,
        }
    }

    /// Whether a stream reports usage only when `stream_options.include_usage` asks for it. The Responses API always reports, and
    /// refuses the option; embeddings do not stream.
    pub const fn usage_needs_asking(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Whether the response has no output tokens.
    pub const fn has_no_output(self) -> bool {
        matches!(self, Self::Embeddings | Self::CountTokens)
    }

    /// Whether no model runs for it, so that it shows nothing of one, and costs nothing.
    pub const fn runs_no_model(self) -> bool {
        matches!(self, Self::CountTokens)
    }
}

/// A call whose path names the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What is asked for.
    pub operation: Operation,
    /// The model as the client names it, without escapes.
    pub model: Box<str>,
    /// Whether a stream is asked for; `None` where the body says that.
    pub streamed: Option<bool>,
}

/// What a request is, as far as its treatment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// A JSON call that names a model: the body is collected and a backend is chosen.
    Inference(Operation),
    /// The same with the model in the path.
    Named(Named),
    /// The list of models, answered from the plan.
    Models,
    /// One model, by its (percent-decoded) name; answered from the plan.
    Model(Cow<'a, str>),
    /// Lists or names things that live in one backend: pinned where the id is known, else the route's `home`.
    Home,
    /// Anything else: streamed through unread.
    Stream,
    /// A path that is known with a method that it does not have.
    MethodNotAllowed {
        /// The value of the response's `allow` header.
        allow: &'static str,
    },
}

/// The first path segments under which a backend keeps things that it gave ids to.
const HOMES: [&str; 14] = [
    "assistants",
    "batches",
    "chatkit",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine-tunes",
    "fine_tuning",
    "organization",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

/// What a call is, in the API that the route's backends speak, by its method and the path below the route's prefix
/// (`/chat/completions` for `/v1/chat/completions`), without the query.
pub fn call<'a>(dialect: Dialect, method: &Method, path_below_prefix: &'a str) -> Call<'a> {
    match dialect {
        Dialect::Bedrock => bedrock::call(method, path_below_prefix),
        Dialect::Anthropic => anthropic::call(method, path_below_prefix),
        Dialect::Gemini => gemini::call(method, path_below_prefix),
        Dialect::AzureOpenai => azure::call(method, path_below_prefix).unwrap_or_else(|| openai_call(method, path_below_prefix)),
        Dialect::Openai => openai_call(method, path_below_prefix),
    }
}

/// What a call of the OpenAI API is.
///
/// Empty segments are passed over and percent-encoding is undone first, because many a server does both before it routes: neither a
/// doubled slash nor `%63hat` may carry an inference call past the reading of its model. Dot segments are not resolved here; a
/// target that has any should be refused before.
fn openai_call<'a>(method: &Method, path_below_prefix: &'a str) -> Call<'a> {
    if *method == Method::POST && path_below_prefix == "/chat/completions" {
        // What most calls are, before it is taken apart.
        return Call::Inference(Operation::Chat);
    }
    let path = decoded(path_below_prefix);
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let head = (segments.next().unwrap_or_default(), segments.next(), segments.next());
    match head {
        ("chat", Some("completions"), None) => match *method {
            Method::POST => Call::Inference(Operation::Chat),
            Method::GET | Method::HEAD => Call::Home,
            _ => Call::MethodNotAllowed { allow: "GET, HEAD, POST" },
        },
        ("completions", None, None) => inference(method, Operation::Completions),
        ("embeddings", None, None) => inference(method, Operation::Embeddings),
        ("responses", None, None) => inference(method, Operation::Responses),
        // Also `/responses/compact` and `/responses/input_tokens`: both may go on from a stored response.
        ("chat", Some("completions"), Some(_)) | ("responses", Some(_), _) => Call::Home,
        ("models", None, None) => match *method {
            Method::GET | Method::HEAD => Call::Models,
            _ => Call::MethodNotAllowed { allow: "GET, HEAD" },
        },
        ("models", Some(_), _) => match *method {
            Method::GET | Method::HEAD => Call::Model(model_name(path_below_prefix, path)),
            // Deletes a model that was tuned there.
            Method::DELETE => Call::Home,
            _ => Call::MethodNotAllowed { allow: "DELETE, GET, HEAD" },
        },
        (first, _, _) if HOMES.contains(&first) => Call::Home,
        _ => Call::Stream,
    }
}

fn inference<'a>(method: &Method, operation: Operation) -> Call<'a> {
    if *method == Method::POST { Call::Inference(operation) } else { Call::MethodNotAllowed { allow: "POST" } }
}

/// What follows `models/`: names contain slashes (`meta-llama/Llama-3.3-70B`), and some clients encode these and some do not.
fn model_name<'a>(written: &'a str, decoded: Cow<'a, str>) -> Cow<'a, str> {
    fn name(path: &str) -> &str {
        let path = path.trim_matches('/');
        path.split_once('/').map_or("", |(_, name)| name.trim_start_matches('/'))
    }
    match decoded {
        Cow::Borrowed(_) => Cow::Borrowed(name(written)),
        Cow::Owned(path) => Cow::Owned(name(&path).to_owned()),
    }
}

/// Percent-decoded where need be. What is not UTF-8 afterwards, or no valid escape, stays as written.
fn decoded(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        match others {
            [high, low, after @ ..] if *first == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(nibble(*high) << 4 | nibble(*low));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// The value of an ASCII hexadecimal digit.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let table: &[(&str, &str, Call<'_>)] = &[
            ("POST", "/chat/completions", Call::Inference(Operation::Chat)),
            ("POST", "//chat//completions/", Call::Inference(Operation::Chat)),
            ("POST", "/%63hat%2Fcompletions", Call::Inference(Operation::Chat)),
            ("GET", "/chat/completions", Call::Home),
            ("DELETE", "/chat/completions", Call::MethodNotAllowed { allow: "GET, HEAD, POST" }),
            ("POST", "/chat/completions/chatcmpl-1", Call::Home),
            ("GET", "/chat/completions/chatcmpl-1/messages", Call::Home),
            ("POST", "/completions", Call::Inference(Operation::Completions)),
            ("GET", "/completions", Call::MethodNotAllowed { allow: "POST" }),
            ("POST", "/responses", Call::Inference(Operation::Responses)),
            ("GET", "/responses", Call::MethodNotAllowed { allow: "POST" }),
            ("GET", "/responses/resp_1", Call::Home),
            ("POST", "/responses/resp_1/cancel", Call::Home),
            ("POST", "/responses/input_tokens", Call::Home),
            ("POST", "/embeddings", Call::Inference(Operation::Embeddings)),
            ("PUT", "/embeddings", Call::MethodNotAllowed { allow: "POST" }),
            ("GET", "/models", Call::Models),
            ("GET", "/models/", Call::Models),
            ("POST", "/models", Call::MethodNotAllowed { allow: "GET, HEAD" }),
            ("GET", "/models/gpt-6-sol", Call::Model("gpt-6-sol".into())),
            ("GET", "/models/meta-llama/Llama-3.3-70B", Call::Model("meta-llama/Llama-3.3-70B".into())),
            ("GET", "/models/meta-llama%2FLlama-3.3-70B", Call::Model("meta-llama/Llama-3.3-70B".into())),
            ("DELETE", "/models/ft:gpt-6", Call::Home),
            ("PATCH", "/models/ft:gpt-6", Call::MethodNotAllowed { allow: "DELETE, GET, HEAD" }),
            ("GET", "/files", Call::Home),
            ("GET", "/files/file-1/content", Call::Home),
            ("POST", "/batches/batch_1/cancel", Call::Home),
            ("POST", "/conversations", Call::Home),
            ("POST", "/vector_stores/vs_1/search", Call::Home),
            ("GET", "/fine_tuning/jobs", Call::Home),
            ("POST", "/threads/t/runs", Call::Home),
            ("POST", "/uploads/u/parts", Call::Home),
            ("GET", "/evals/e/runs", Call::Home),
            ("POST", "/containers", Call::Home),
            ("POST", "/audio/transcriptions", Call::Stream),
            ("POST", "/images/generations", Call::Stream),
            ("POST", "/moderations", Call::Stream),
            ("GET", "/realtime", Call::Stream),
            ("POST", "/chat", Call::Stream),
            ("POST", "/completions/x", Call::Stream),
            ("GET", "/", Call::Stream),
            ("GET", "", Call::Stream),
            ("GET", "/%zz%", Call::Stream),
            ("GET", "/%ff", Call::Stream),
        ];
        for (method, path, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(call(Dialect::Openai, &method, path), *expected, "{method} {path}");
        }
    }

    #[test]
    fn names_are_the_ones_in_the_configuration() {
        for dialect in [Dialect::Openai, Dialect::AzureOpenai, Dialect::Anthropic, Dialect::Bedrock, Dialect::Gemini] {
            assert_eq!(serde_json::to_value(dialect).expect("a string"), dialect.name());
        }
        assert_eq!(Operation::Completions.name(), "text_completion");
        assert_eq!(Operation::Responses.name(), "chat");
    }
}
