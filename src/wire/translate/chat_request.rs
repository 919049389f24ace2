//! A chat completion asked for in OpenAI's words, as Bedrock's Converse is asked for it.
//!
//! Every member is either put into Converse's words, or says no more than what would be so without it, or is refused by its name.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::converse::{
    Block, Empty, InferenceConfig, Nothing, OutputConfig, Request, Schema, Source, Structure, TextFormat, Tier, Tool, ToolChoice,
    ToolConfig, Turn,
};
use super::document::{
    Object, Path, Raw, Refusal, count, flag, is_blank, is_object, is_string, is_text, list, share, text, written,
};

/// What has no counterpart, why not, and with which values it says nothing.
const WITHOUT_COUNTERPART: [(&str, &[&str], &str); 19] = [
    ("n", &["1"], "can only be 1: Converse gives one answer"),
    ("logprobs", &["false"], NO_PROBABILITIES),
    ("top_logprobs", &["0"], NO_PROBABILITIES),
    ("logit_bias", &["{}"], NONE),
    ("frequency_penalty", &["0", "0.0"], NONE),
    ("presence_penalty", &["0", "0.0"], NONE),
    ("seed", &[], NONE),
    ("safety_identifier", &[], NONE),
    ("store", &["false"], "cannot be true: nothing is kept behind Converse"),
    ("modalities", &[r#"["text"]"#, "[]"], "can only be text"),
    ("audio", &[], NONE),
    ("prediction", &[], NONE),
    ("moderation", &[], NONE),
    ("web_search_options", &[], NONE),
    ("verbosity", &[r#""medium""#], NONE),
    ("prompt_cache_options", &[], NONE),
    ("prompt_cache_retention", &[], NONE),
    ("functions", &["[]"], "is the elder form of `tools`, and only that is translated"),
    ("function_call", &[], "is the elder form of `tool_choice`, and only that is translated"),
];
const NONE: &str = "has no counterpart in Bedrock's Converse";
const NO_PROBABILITIES: &str = "cannot be had from Bedrock's Converse, which tells no probabilities";

/// What Converse bears, of what a chat may have more of or longer: "API reference", `InferenceConfiguration`, `ToolUseBlock` and
/// `Converse` (`requestMetadata`).
const MOST_STOPS: usize = 2500;
const MOST_METADATA: usize = 16;
const LONGEST_METADATA: usize = 256;
const LONGEST_TOOL: usize = 64;

/// Efforts that Converse has too.
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// Translates a request.
pub(super) fn translate(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let root = &Path::Root;
    let mut asked = Object::of_body(body)?;
    let mut request = Request::default();
    // It stands in the path, and so does whether a stream is wanted.
    asked.take("model");
    let streamed = asked.take("stream").map(|value| flag(value, &root.member("stream"))).transpose()?;
    stream_options(asked.take("stream_options"), streamed == Some(true), &root.member("stream_options"))?;
    // Windward itself keeps a conversation where its cache is, by either; there is nothing else that they would be good for.
    asked.take("prompt_cache_key");
    asked.text("user", root)?;

    let messages = root.member("messages");
    let turns = asked.take("messages").ok_or_else(|| messages.refuse("is missing"))?;
    for (place, message) in list(turns, &messages)?.into_iter().enumerate() {
        turn(message, &mut request, &messages.element(place))?;
    }
    if request.messages.is_empty() {
        return Err(messages.refuse("has nobody say anything but the system"));
    }
    request.inference_config = inference_config(&mut asked)?;
    request.tool_config = tool_config(&mut asked)?;
    if request.tool_config.is_none() && has_tool_blocks(&request) {
        return Err(root.member("tools").refuse("is missing: beside calls and their results Bedrock wants the tools told"));
    }
    request.output_config = output_config(&mut asked)?;
    request.metadata = metadata(asked.take("metadata"), &root.member("metadata"))?;
    request.service_tier = service_tier(&mut asked)?;
    for (name, idle, why) in WITHOUT_COUNTERPART {
        asked.refuse_unless(name, idle, why, root)?;
    }
    asked.done(root)?;
    Ok(written(&request))
}

fn stream_options(value: Option<Raw<'_>>, streamed: bool, at: &Path<'_>) -> Result<(), Refusal> {
    let Some(value) = value else { return Ok(()) };
    if !streamed {
        return Err(at.refuse("is for streams alone"));
    }
    let mut options = Object::read(value, at)?;
    if let Some(usage) = options.take("include_usage") {
        flag(usage, &at.member("include_usage"))?;
    }
    options.refuse_unless("include_obfuscation", &["false"], "cannot be had of this backend", at)?;
    options.done(at)
}

/// Whether somebody called a tool, or was answered by one.
fn has_tool_blocks(request: &Request<'_>) -> bool {
    let mut blocks = request.messages.iter().flat_map(|turn| &turn.content);
    blocks.any(|block| matches!(block, Block::ToolUse { .. } | Block::ToolResult { .. }))
}

fn turn<'a>(value: Raw<'a>, into: &mut Request<'a>, at: &Path<'_>) -> Result<(), Refusal> {
    let mut message = Object::read(value, at)?;
    let role = message.text("role", at)?.ok_or_else(|| at.member("role").refuse("is missing"))?;
    if role == "tool" {
        // It repeats whose result it is, which the call's id says.
        message.text("name", at)?;
    } else {
        message.refuse_unless("name", &[], "has no counterpart in Bedrock's Converse, where only roles speak", at)?;
    }
    match &*role {
        "system" | "developer" => {
            let said = content(&mut message, at)?;
            if !into.messages.is_empty() && !said.is_empty() {
                // Converse has a role for it, which most of its models refuse; and moved to the beginning it would say something else.
                return Err(at.member("role").refuse(format!("cannot be {role} once the conversation has begun")));
            }
            into.system.extend(said);
        }
        "user" => {
            let said = user_content(&mut message, at)?;
            if said.is_empty() && into.messages.last().is_none_or(|turn| turn.role != "user") {
                return Err(at.member("content").refuse("is blank, and Bedrock takes no turn without content"));
            }
            say("user", said, into);
        }
        // A model that said nothing, as it may be told in an answer of ours: there is nothing to repeat.
        "assistant" => say("assistant", assistant_content(&mut message, at)?, into),
        "tool" => {
            let place = &at.member("tool_call_id");
            let tool_use_id = tool_word(message.required("tool_call_id", at)?, place)?;
            let result = Block::ToolResult { tool_use_id, content: content(&mut message, at)? };
            say("user", vec![result], into);
        }
        _ => return Err(at.member("role").refuse("must be system, developer, user, assistant or tool")),
    }
    message.done(at)
}

/// A tool's name, or the id of a call of one.
fn tool_word<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    let word = text(value, at)?;
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=LONGEST_TOOL).contains(&word.len()) && word.bytes().all(fine) {
        return Ok(value);
    }
    Err(at.refuse(format!("must have 1 to {LONGEST_TOOL} of a-z, A-Z, 0-9, _ and -: Bedrock takes no other")))
}

/// Adds to what a side says; it has to be the other's turn in between.
fn say<'a>(role: &'static str, content: Vec<Block<'a>>, into: &mut Request<'a>) {
    match into.messages.last_mut() {
        _ if content.is_empty() => {}
        Some(turn) if turn.role == role => turn.content.extend(content),
        _ => into.messages.push(Turn { role, content }),
    }
}

/// Content that is text: a string, or a list of texts.
fn content<'a>(message: &mut Object<'a>, at: &Path<'_>) -> Result<Vec<Block<'a>>, Refusal> {
    let content = message.take("content").ok_or_else(|| at.member("content").refuse("is missing"))?;
    parts(content, at, not_text)
}

fn not_text<'a>(_: &str, _: &mut Object<'a>, at: &Path<'_>) -> Result<Block<'a>, Refusal> {
    Err(at.member("type").refuse("must be text here"))
}

/// What of a user, who may also show pictures.
fn user_content<'a>(message: &mut Object<'a>, at: &Path<'_>) -> Result<Vec<Block<'a>>, Refusal> {
    let content = message.take("content").ok_or_else(|| at.member("content").refuse("is missing"))?;
    parts(content, at, |kind, part, at| match kind {
        "image_url" => image(part, at),
        _ => Err(at.member("type").refuse("must be text or image_url: nothing else is translated")),
    })
}

/// What of a model: its text, and whatever it called.
fn assistant_content<'a>(message: &mut Object<'a>, at: &Path<'_>) -> Result<Vec<Block<'a>>, Refusal> {
    let why = "has no counterpart in Bedrock's Converse";
    for (name, idle) in [("refusal", &[][..]), ("audio", &[]), ("function_call", &[]), ("annotations", &["[]"])] {
        message.refuse_unless(name, idle, why, at)?;
    }
    let calls_at = at.member("tool_calls");
    let calls = message.take("tool_calls").map_or_else(|| Ok(Vec::new()), |calls| list(calls, &calls_at))?;
    // Beside calls it is often there and blank.
    let mut said = match message.take("content") {
        Some(content) => parts(content, at, not_text)?,
        None if calls.is_empty() => return Err(at.member("content").refuse("is missing")),
        None => Vec::new(),
    };
    for (place, call) in calls.into_iter().enumerate() {
        said.push(tool_call(call, &calls_at.element(place))?);
    }
    Ok(said)
}

fn tool_call<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Block<'a>, Refusal> {
    let mut call = Object::read(value, at)?;
    let tool_use_id = tool_word(call.required("id", at)?, &at.member("id"))?;
    call.refuse_unless("type", &[r#""function""#], "must be function: nothing else is translated", at)?;
    let place = at.member("function");
    let mut function = Object::read(call.take("function").ok_or_else(|| place.refuse("is missing"))?, &place)?;
    let name = tool_word(function.required("name", &place)?, &place.member("name"))?;
    let arguments = function.text("arguments", &place)?.unwrap_or_default();
    // Some models write nothing for a function without parameters.
    let arguments = if arguments.trim().is_empty() { Cow::Borrowed("{}") } else { arguments };
    let fault = || place.member("arguments").refuse("must be the text of a JSON object");
    let input = Some(arguments.trim()).filter(|text| text.starts_with('{')).ok_or_else(fault)?;
    let input = RawValue::from_string(input.to_owned()).map_err(|_| fault())?;
    function.done(&place)?;
    call.done(at)?;
    Ok(Block::ToolUse { tool_use_id, name, input })
}

/// Content as a string or as parts, of which `other` reads those that are no text. Blank texts are left out: they say nothing, and
/// Bedrock takes none.
fn parts<'a>(
    value: Raw<'a>,
    at: &Path<'_>,
    other: impl Fn(&str, &mut Object<'a>, &Path<'_>) -> Result<Block<'a>, Refusal>,
) -> Result<Vec<Block<'a>>, Refusal> {
    let at = &at.member("content");
    if is_string(value) {
        return Ok(if is_blank(value) { Vec::new() } else { vec![Block::Text(value)] });
    }
    let parts = list(value, at).map_err(|_| at.refuse("must be a string or an array"))?;
    let mut blocks = Vec::with_capacity(parts.len());
    for (place, value) in parts.into_iter().enumerate() {
        let at = &at.element(place);
        let mut part = Object::read(value, at)?;
        let kind = part.text("type", at)?.ok_or_else(|| at.member("type").refuse("is missing"))?;
        if kind == "text" {
            let text = part.required("text", at)?;
            if !is_blank(text) {
                blocks.push(Block::Text(text));
            }
        } else {
            blocks.push(other(&kind, &mut part, at)?);
        }
        part.done(at)?;
    }
    Ok(blocks)
}

/// A picture, which has to come along: nobody here fetches one.
fn image<'a>(part: &mut Object<'a>, at: &Path<'_>) -> Result<Block<'a>, Refusal> {
    let at = &at.member("image_url");
    let mut image = Object::read(part.take("image_url").ok_or_else(|| at.refuse("is missing"))?, at)?;
    // How closely to look at it. Converse shows a picture as it is, which is what all but one of the words ask for.
    if image.text("detail", at)?.is_some_and(|detail| detail == "low") {
        return Err(at
            .member("detail")
            .refuse("cannot be low: Converse has no word for it, and would charge for the whole picture"));
    }
    let url = image.text("url", at)?.ok_or_else(|| at.member("url").refuse("is missing"))?;
    image.done(at)?;
    let at = &at.member("url");
    let remote = || at.refuse("must be a data URL (`data:image/png;base64,..`): a picture that lies elsewhere is not fetched");
    let (kind, _) = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")).ok_or_else(remote)?;
    let format = match kind {
        "image/png" => "png",
        "image/jpeg" | "image/jpg" => "jpeg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        _ => return Err(at.refuse("must be a PNG, JPEG, GIF or WebP")),
    };
    let begin = "data:".len() + kind.len() + ";base64,".len();
    let bytes = match url {
        Cow::Borrowed(url) => Cow::Borrowed(url.get(begin..).unwrap_or_default()),
        Cow::Owned(mut url) => Cow::Owned(url.split_off(begin)),
    };
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = bytes.strip_suffix("==").or_else(|| bytes.strip_suffix('=')).unwrap_or(&bytes);
    if digits.is_empty() || !digits.bytes().all(fine) {
        return Err(at.refuse("is not in base64"));
    }
    Ok(Block::Image { format, source: Source { bytes } })
}

fn inference_config<'a>(asked: &mut Object<'a>) -> Result<InferenceConfig<'a>, Refusal> {
    let root = &Path::Root;
    let mut limit = |name| asked.take(name).map(|value| count(value, &root.member(name))).transpose();
    let (elder, newer) = (limit("max_tokens")?, limit("max_completion_tokens")?);
    if elder.is_some() && newer.is_some() {
        return Err(root.member("max_tokens").refuse("cannot be given beside `max_completion_tokens`"));
    }
    let mut figure = |name| asked.take(name).map(|value| share(value, &root.member(name))).transpose();
    let (temperature, top_p) = (figure("temperature")?, figure("top_p")?);
    let at = &root.member("stop");
    let stop_sequences = match asked.take("stop") {
        None => Vec::new(),
        Some(one) if is_string(one) => vec![stop(one, at)?],
        Some(several) => {
            let several = list(several, at).map_err(|_| at.refuse("must be a string or an array"))?;
            if several.len() > MOST_STOPS {
                return Err(at.refuse(format!("must be {MOST_STOPS} at most")));
            }
            several.into_iter().enumerate().map(|(place, one)| stop(one, &at.element(place))).collect::<Result<_, _>>()?
        }
    };
    Ok(InferenceConfig { max_tokens: newer.or(elder), temperature, top_p, stop_sequences })
}

/// A text at which to stop.
fn stop<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Raw<'a>, Refusal> {
    if text(value, at)?.is_empty() { Err(at.refuse("is empty, and Bedrock takes no such stop")) } else { Ok(value) }
}

fn tool_config<'a>(asked: &mut Object<'a>) -> Result<Option<ToolConfig<'a>>, Refusal> {
    let root = &Path::Root;
    let at = &root.member("tools");
    let tools = asked.take("tools").map_or_else(|| Ok(Vec::new()), |tools| list(tools, at))?;
    let tools: Vec<Tool<'a>> =
        tools.into_iter().enumerate().map(|(place, value)| tool(value, &at.element(place))).collect::<Result<_, _>>()?;
    let at = &root.member("tool_choice");
    let tool_choice = match asked.take("tool_choice") {
        None => None,
        // What is so without tools.
        Some(choice) if tools.is_empty() && matches!(choice.get(), r#""none""# | r#""auto""#) => None,
        Some(_) if tools.is_empty() => return Err(at.refuse("asks for a tool, and there are no `tools`")),
        Some(choice) => Some(chosen(choice, at)?),
    };
    if !tools.is_empty() {
        asked.refuse_unless("parallel_tool_calls", &["true"], "cannot be false: Converse has no word for it", root)?;
    } else if let Some(parallel) = asked.take("parallel_tool_calls") {
        // Of none there are no two at once.
        flag(parallel, &root.member("parallel_tool_calls"))?;
    }
    Ok((!tools.is_empty()).then_some(ToolConfig { tools, tool_choice }))
}

/// The function of a tool, or of the choice of one, with its name checked; `place` is where it stands.
fn function_of<'a>(outer: &mut Object<'a>, at: &Path<'_>, place: &Path<'_>) -> Result<(Object<'a>, Raw<'a>), Refusal> {
    if outer.text("type", at)?.is_none_or(|kind| kind != "function") {
        return Err(at.member("type").refuse("must be function: nothing else is translated"));
    }
    let mut function = Object::read(outer.take("function").ok_or_else(|| place.refuse("is missing"))?, place)?;
    let name = tool_word(function.required("name", place)?, &place.member("name"))?;
    Ok((function, name))
}

fn tool<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<Tool<'a>, Refusal> {
    let mut tool = Object::read(value, at)?;
    let place = &at.member("function");
    let (mut function, name) = function_of(&mut tool, at, place)?;
    let description = function.take("description").map(|value| is_text(value, &place.member("description"))).transpose()?;
    let input_schema = match function.take("parameters").map(|json| is_object(json, &place.member("parameters"))).transpose()? {
        Some(json) if !says_nothing(json) => Schema::Given { json },
        // A function that takes nothing, in two ways: Bedrock wants the schema of an object.
        _ => Schema::None { json: Empty { r#type: "object", properties: Nothing {} } },
    };
    let strict = function.take("strict").map(|value| flag(value, &place.member("strict"))).transpose()?.unwrap_or(false);
    function.done(place)?;
    tool.done(at)?;
    let blank = description.is_none_or(is_blank);
    Ok(Tool::ToolSpec { name, description: description.filter(|_| !blank), input_schema, strict })
}

/// Whether it is `{}`, in which white space makes no difference.
fn says_nothing(object: Raw<'_>) -> bool {
    object.get().bytes().all(|byte| matches!(byte, b'{' | b'}') || byte.is_ascii_whitespace())
        && object.get().matches('{').count() == 1
}

fn chosen<'a>(value: Raw<'a>, at: &Path<'_>) -> Result<ToolChoice<'a>, Refusal> {
    if is_string(value) {
        return match &*text(value, at)? {
            "auto" => Ok(ToolChoice::Auto(Nothing {})),
            "required" => Ok(ToolChoice::Any(Nothing {})),
            "none" => Err(at.refuse("cannot be none beside `tools`: Converse has no word for it")),
            _ => Err(at.refuse("must be auto or required, or name a function")),
        };
    }
    let mut choice = Object::read(value, at)?;
    let place = &at.member("function");
    let (function, name) = function_of(&mut choice, at, place)?;
    function.done(place)?;
    choice.done(at)?;
    Ok(ToolChoice::Tool { name })
}

fn output_config<'a>(asked: &mut Object<'a>) -> Result<OutputConfig<'a>, Refusal> {
    let root = &Path::Root;
    let effort = asked.text("reasoning_effort", root)?;
    if effort.as_ref().is_some_and(|effort| !EFFORTS.contains(&&**effort)) {
        return Err(root.member("reasoning_effort").refuse(format!("must be one of {} there", EFFORTS.join(", "))));
    }
    let at = &root.member("response_format");
    let Some(format) = asked.take("response_format") else { return Ok(OutputConfig { effort, text_format: None }) };
    let mut format = Object::read(format, at)?;
    let text_format = match format.text("type", at)?.as_deref() {
        Some("text") => None,
        Some("json_schema") => Some(json_schema(&mut format, at)?),
        _ => return Err(at.member("type").refuse("must be text or json_schema: Converse has no other")),
    };
    format.done(at)?;
    Ok(OutputConfig { effort, text_format })
}

fn json_schema<'a>(format: &mut Object<'a>, at: &Path<'_>) -> Result<TextFormat<'a>, Refusal> {
    let at = &at.member("json_schema");
    let mut wanted = Object::read(format.take("json_schema").ok_or_else(|| at.refuse("is missing"))?, at)?;
    let schema = wanted.take("schema").ok_or_else(|| at.member("schema").refuse("is missing"))?;
    let schema = is_object(schema, &at.member("schema"))?.get();
    let mut named = |name| wanted.take(name).map(|value| is_text(value, &at.member(name))).transpose();
    let (name, description) = (named("name")?, named("description")?);
    // Converse is always strict, and what is strict is also what was asked for where it need not be.
    if let Some(strict) = wanted.take("strict") {
        flag(strict, &at.member("strict"))?;
    }
    wanted.done(at)?;
    Ok(TextFormat { r#type: "json_schema", structure: Structure::JsonSchema { schema, name, description } })
}

/// Words for whoever looks at the requests later.
fn metadata<'a>(value: Option<Raw<'a>>, at: &Path<'_>) -> Result<Option<Raw<'a>>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let words = Object::read(value, at)?;
    if words.members().count() > MOST_METADATA {
        return Err(at.refuse(format!("must be {MOST_METADATA} pairs at most")));
    }
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b":_@$#=/+,-.".contains(&byte);
    for (name, value) in words.members() {
        let at = &at.member(name);
        let word = text(value, at)?;
        let short = name.len() <= LONGEST_METADATA && word.len() <= LONGEST_METADATA;
        if name.is_empty() || !short || !name.bytes().chain(word.bytes()).all(fine) {
            return Err(at.refuse(format!(
                "must have {LONGEST_METADATA} characters at most, of letters, digits, white space and :_@$#=/+,-. (its name too)"
            )));
        }
    }
    Ok(words.members().next().map(|_| value))
}

fn service_tier<'a>(asked: &mut Object<'a>) -> Result<Option<Tier<'a>>, Refusal> {
    let root = &Path::Root;
    match asked.text("service_tier", root)? {
        None => Ok(None),
        Some(tier) if tier == "auto" => Ok(None),
        Some(tier) if matches!(&*tier, "default" | "flex" | "priority") => Ok(Some(Tier { r#type: tier })),
        Some(_) => Err(root.member("service_tier").refuse("must be auto, default, flex or priority there")),
    }
}

#[cfg(test)]
#[path = "chat_request_tests.rs"]
mod tests;
