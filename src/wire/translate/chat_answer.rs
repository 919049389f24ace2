//! What Converse answers, in the words of a chat completion: in one piece, or event by event.

use std::borrow::Cow;

use aws_smithy_types::event_stream::Message;
use serde::Serialize;
use serde_json::value::RawValue;

use super::converse::{Answer, BlockDelta, BlockStart, BlockStop, Delta, MessageStop, Metadata, Said, Start, TokenUsage};
use super::document::Raw;
use super::{Broken, Occasion};

/// The most calls of tools in one answer; models make a handful.
const MOST_CALLS: usize = 1024;

/// A finished answer.
#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Reply<'a>,
    logprobs: (),
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct Reply<'a> {
    role: &'static str,
    content: Option<Box<RawValue>>,
    refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: Cow<'a, str>,
    /// JSON as a text.
    arguments: &'a str,
}

/// Tokens in the words of a chat.
#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Clone, Copy, Serialize)]
struct PromptTokens {
    cached_tokens: u64,
}

impl From<TokenUsage> for Usage {
    /// Bedrock counts what came from a cache and what went to one beside the input, and a chat within it.
    fn from(there: TokenUsage) -> Self {
        let beside = [there.read, there.written].into_iter().flatten();
        let prompt_tokens = beside.fold(there.input, u64::saturating_add);
        Self {
            prompt_tokens,
            completion_tokens: there.output,
            total_tokens: prompt_tokens.saturating_add(there.output),
            prompt_tokens_details: there.read.map(|cached_tokens| PromptTokens { cached_tokens }),
        }
    }
}

/// Why it ended. What a chat has no word for (a model that wrote no call that can be read) is an answer that failed: to call it by
/// another would be a lie, and SDKs take no word that they do not know.
fn finish_reason(stop: &str) -> Result<&'static str, Broken> {
    Ok(match stop {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "guardrail_intervened" | "content_filtered" => "content_filter",
        _ => return Err(Broken("it ended for a reason that a chat has no word for")),
    })
}

/// Translates an answer in one piece.
pub(super) fn whole(body: &[u8], of: &Occasion) -> Result<Vec<u8>, Broken> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|_| Broken("the answer is none of Converse's"))?;
    let (mut content, mut tool_calls) = (None, Vec::new());
    for said in answer.output.message.content {
        match said {
            Said::Text(text) => {
                let inside = text.get().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                content.get_or_insert_with(|| "\"".to_owned()).push_str(inside.ok_or(Broken("a text is none"))?);
            }
            Said::ToolUse { tool_use_id: id, name, input } => {
                tool_calls.push(Call { id, r#type: "function", function: Function { name, arguments: input.get() } });
            }
            Said::ReasoningContent(_) => {}
        }
    }
    if tool_calls.is_empty() {
        content.get_or_insert_with(|| "\"".to_owned());
    }
    let content = content.map(|text| RawValue::from_string(text + "\"")).transpose().map_err(|_| Broken("a text is none"))?;
    let message = Reply { role: "assistant", content, refusal: (), tool_calls };
    let finish_reason = finish_reason(&answer.stop_reason)?;
    Ok(super::document::written(&Completion {
        id: &of.id,
        object: "chat.completion",
        created: of.created,
        model: &of.model,
        choices: [Choice { index: 0, message, logprobs: (), finish_reason }],
        usage: answer.usage.into(),
        service_tier: answer.service_tier.map(|tier| tier.r#type),
    }))
}

/// An event of a streamed answer.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [Change<'a>],
    #[serde(skip_serializing_if = "Told::is_unasked")]
    usage: Told,
}

/// What a client is told of the usage.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Told {
    /// Nothing: it did not ask.
    Unasked,
    /// That it comes: `null`.
    Later(()),
    Now(Usage),
}

impl Told {
    const fn is_unasked(&self) -> bool {
        matches!(self, Self::Unasked)
    }
}

#[derive(Serialize)]
struct Change<'a> {
    index: u32,
    delta: ReplyDelta<'a>,
    logprobs: (),
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct ReplyDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: Arguments<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Arguments<'a> {
    /// As they were written.
    Piece(Raw<'a>),
    /// Of a function without parameters the model writes nothing; a client reads JSON.
    Own(&'static str),
}

/// How far a streamed answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Before,
    Speaking,
    /// It has said why it ends; the usage is still to come.
    Stopped,
    Done,
}

/// A streamed answer, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct ChatStream {
    stage: Stage,
    /// The calls so far: in which block each one is, and whether it has arguments.
    calls: Vec<(u32, bool)>,
}

impl ChatStream {
    /// Writes what becomes of a message.
    pub(super) fn take(&mut self, message: &Message, kind: &str, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        let payload = &message.payload()[..];
        match (kind, self.stage) {
            ("messageStart", Stage::Before) => {
                self.stage = Stage::Speaking;
                let content = RawValue::from_string(r#""""#.to_owned()).ok();
                let delta = ReplyDelta { role: Some("assistant"), content: content.as_deref(), tool_calls: None };
                say(delta, None, of, into);
            }
            ("contentBlockStart", Stage::Speaking) => self.begin(&read(payload)?, of, into)?,
            ("contentBlockDelta", Stage::Speaking) => self.go_on(&read(payload)?, of, into)?,
            ("contentBlockStop", Stage::Speaking) => self.end(&read(payload)?, of, into),
            ("messageStop", Stage::Speaking) => {
                self.stage = Stage::Stopped;
                let MessageStop { stop_reason } = read(payload)?;
                say(ReplyDelta::default(), Some(finish_reason(&stop_reason)?), of, into);
            }
            ("metadata", Stage::Stopped) => {
                let Metadata { usage } = read(payload)?;
                if of.include_usage {
                    put(&chunk(&[], Told::Now(usage.into()), of), into);
                }
                self.finish(into);
            }
            ("messageStart" | "contentBlockStart" | "contentBlockDelta" | "contentBlockStop" | "messageStop" | "metadata", _) => {
                return Err(Broken("the stream's events are in no order"));
            }
            // One that tells of something else. None of those known has a part of the answer.
            _ => {}
        }
        Ok(())
    }

    /// Whether nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The stream has ended without a fault.
    pub(super) fn end_of_stream(&mut self, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        match self.stage {
            Stage::Done => Ok(()),
            // All was said; only the count is missing, and nobody asked for it.
            Stage::Stopped if !of.include_usage => {
                self.finish(into);
                Ok(())
            }
            _ => Err(Broken("the stream ended before its answer did")),
        }
    }

    fn finish(&mut self, into: &mut Vec<u8>) {
        self.stage = Stage::Done;
        into.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn begin(&mut self, start: &BlockStart<'_>, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        let Start::ToolUse { tool_use_id, name } = &start.start;
        if self.calls.len() == MOST_CALLS {
            return Err(Broken("there is no end of calls"));
        }
        let index = self.calls.len();
        self.calls.push((start.content_block_index, false));
        let function = FunctionDelta { name: Some(name), arguments: Arguments::Own("") };
        call(CallDelta { index, id: Some(tool_use_id), r#type: Some("function"), function }, of, into);
        Ok(())
    }

    fn go_on(&mut self, piece: &BlockDelta<'_>, of: &Occasion, into: &mut Vec<u8>) -> Result<(), Broken> {
        match &piece.delta {
            Delta::Text(text) if super::document::is_string(text) => {
                say(ReplyDelta { content: Some(text), ..ReplyDelta::default() }, None, of, into);
            }
            Delta::ToolUse { input } if super::document::is_string(input) => {
                let index = self.call_in(piece.content_block_index).ok_or(Broken("arguments of no call"))?;
                if let Some((_, has_arguments)) = self.calls.get_mut(index) {
                    *has_arguments |= input.get() != r#""""#;
                }
                let function = FunctionDelta { name: None, arguments: Arguments::Piece(input) };
                call(CallDelta { index, id: None, r#type: None, function }, of, into);
            }
            Delta::ReasoningContent(_) => {}
            Delta::Text(_) | Delta::ToolUse { .. } => return Err(Broken("a piece of text is none")),
        }
        Ok(())
    }

    fn end(&self, stop: &BlockStop, of: &Occasion, into: &mut Vec<u8>) {
        let index = self.call_in(stop.content_block_index);
        let empty = index.filter(|index| self.calls.get(*index).is_some_and(|(_, has_arguments)| !has_arguments));
        if let Some(index) = empty {
            let function = FunctionDelta { name: None, arguments: Arguments::Own("{}") };
            call(CallDelta { index, id: None, r#type: None, function }, of, into);
        }
    }

    /// The latest call in that block.
    fn call_in(&self, block: u32) -> Option<usize> {
        self.calls.iter().rposition(|(other, _)| *other == block)
    }
}

fn read<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Broken> {
    serde_json::from_slice(payload).map_err(|_| Broken("an event has no counterpart in a chat"))
}

fn call(call: CallDelta<'_>, of: &Occasion, into: &mut Vec<u8>) {
    say(ReplyDelta { tool_calls: Some([call]), ..ReplyDelta::default() }, None, of, into);
}

fn say(delta: ReplyDelta<'_>, finish_reason: Option<&str>, of: &Occasion, into: &mut Vec<u8>) {
    let change = Change { index: 0, delta, logprobs: (), finish_reason };
    let usage = if of.include_usage { Told::Later(()) } else { Told::Unasked };
    put(&chunk(&[change], usage, of), into);
}

fn chunk<'a>(choices: &'a [Change<'a>], usage: Told, of: &'a Occasion) -> Chunk<'a> {
    Chunk { id: &of.id, object: "chat.completion.chunk", created: of.created, model: &of.model, choices, usage }
}

fn put(chunk: &Chunk<'_>, into: &mut Vec<u8>) {
    into.extend_from_slice(b"data: ");
    // Into memory, and nothing of it can fail.
    let _ = serde_json::to_writer(&mut *into, chunk);
    into.extend_from_slice(b"\n\n");
}
