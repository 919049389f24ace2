//! Anthropic's messages, as Bedrock's InvokeModel takes them of Claude: nearly the same words, so what need not change passes as it was
//! written, and an answer in one piece passes whole.
//!
//! Said elsewhere there are the model and whether a stream is wanted, in the path, and the version and the betas, in the body. What only
//! Anthropic's own service does (tools that it runs, things that it fetches or keeps) is refused by name; what else its service may learn
//! to say is Bedrock's to judge, which refuses what it does not know.

use std::borrow::Cow;

use aws_smithy_types::event_stream::Message;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::super::json::members;
use super::Broken;
use super::document::{Object, Path, Raw, Refusal, list, written};

/// What a request says in its head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spoken<'a> {
    /// `anthropic-version`.
    pub version: Option<&'a str>,
    /// `anthropic-beta`: words with commas between them.
    pub betas: &'a [&'a str],
    /// `anthropic-user-profile-id`.
    pub profile: Option<&'a str>,
}

/// The version of the API that has another name there. One before it had other streams, and a later one has the same name in both:
/// Anthropic's own SDK for Bedrock (2.14.0) writes it into the body as others write it into the head.
const VERSION: &str = "2023-06-01";
/// That name.
const VERSION_THERE: &str = "bedrock-2023-05-31";
/// Who the user is, where the body says it.
const PROFILE: &str = "user_profile_id";
/// What a version looks like.
const VERSION_LENGTH: usize = "2023-06-01".len();

/// What has no counterpart, and with which values it says nothing.
const WITHOUT_COUNTERPART: [(&str, &[&str]); 16] = [
    ("anthropic_version", &[]),
    ("anthropic_beta", &[]),
    ("betas", &["[]"]),
    ("container", &[]),
    ("mcp_servers", &["[]"]),
    ("inference_geo", &[]),
    // As it is there.
    ("service_tier", &[r#""auto""#, r#""standard_only""#]),
    ("speed", &[r#""standard""#]),
    ("billing_policy", &[]),
    ("compaction", &[]),
    ("diagnostics", &[]),
    ("fallback_credit_token", &[]),
    ("fallbacks", &["[]"]),
    ("output_format", &[]),
    ("thread", &[]),
    ("workspace_id", &[]),
];
const NONE: &str = "has no counterpart in Bedrock's InvokeModel";

/// Tools that Anthropic's own service runs, by how their types begin.
const RUN_THERE: [&str; 4] = ["web_search_", "web_fetch_", "code_execution_", "mcp_toolset"];

/// Translates a request.
pub(super) fn translate(body: &[u8], spoken: Spoken<'_>) -> Result<Vec<u8>, Refusal> {
    let root = &Path::Root;
    let version = spoken.version.unwrap_or(VERSION);
    // Dates are in the order of their letters.
    if version < VERSION || version.len() != VERSION_LENGTH {
        return Err(root.member("anthropic-version").refuse(format!("must be {VERSION} or a later one")));
    }
    let version = if version == VERSION { VERSION_THERE } else { version };
    let mut asked = Object::of_body(body)?;
    asked.take("model");
    asked.take("stream");
    for (name, idle) in WITHOUT_COUNTERPART {
        asked.refuse_unless(name, idle, NONE, root)?;
    }
    let betas: Vec<&str> =
        spoken.betas.iter().flat_map(|betas| betas.split(',')).map(str::trim).filter(|beta| !beta.is_empty()).collect();
    let mut there = br#"{"anthropic_version":"#.to_vec();
    there.extend_from_slice(&written(&version));
    if !betas.is_empty() {
        there.extend_from_slice(br#","anthropic_beta":"#);
        there.extend_from_slice(&written(&betas));
    }
    if let Some(profile) = spoken.profile.filter(|_| asked.members().all(|(name, _)| name != PROFILE)) {
        there.extend_from_slice(br#","user_profile_id":"#);
        there.extend_from_slice(&written(&profile));
    }
    for (place, (name, value)) in asked.members().enumerate() {
        if place == MOST_MEMBERS {
            return Err(root.member(name).refuse("is one member too many"));
        }
        look_at(name, value)?;
        there.push(b',');
        there.extend_from_slice(&written(&name));
        there.push(b':');
        there.extend_from_slice(value.get().as_bytes());
    }
    there.push(b'}');
    Ok(there)
}

/// The most members of a request's object: more than twice as many as there are.
const MOST_MEMBERS: usize = 64;

/// Looks for what only Anthropic's service does.
fn look_at(name: &str, value: Raw<'_>) -> Result<(), Refusal> {
    let at = Path::Root.member(name);
    match name {
        "messages" => list(value, &at)?.into_iter().enumerate().try_for_each(|(place, message)| {
            let at = &at.element(place);
            let content = Object::read(message, at)?.take("content");
            content.map_or(Ok(()), |content| blocks(content, &at.member("content")))
        }),
        "tools" => list(value, &at)?.into_iter().enumerate().try_for_each(|(place, tool)| {
            let at = &at.element(place);
            let kind = Object::read(tool, at)?.text("type", at)?.unwrap_or_default();
            let runs_there = RUN_THERE.iter().any(|begin| kind.starts_with(begin));
            if runs_there {
                Err(at.member("type").refuse("is run by Anthropic's own service, and there is none behind Bedrock"))
            } else {
                Ok(())
            }
        }),
        _ => Ok(()),
    }
}

/// The same in content: a text, or a list of blocks, of which the result of a tool has such a list again.
fn blocks(content: Raw<'_>, at: &Path<'_>) -> Result<(), Refusal> {
    if !content.get().starts_with('[') {
        return Ok(());
    }
    for (place, block) in list(content, at)?.into_iter().enumerate() {
        let at = &at.element(place);
        let mut block = Object::read(block, at)?;
        let kind = block.text("type", at)?.unwrap_or_default();
        match &*kind {
            "image" | "document" => {
                let place = &at.member("source");
                let source = block.take("source").map(|source| Object::read(source, place)?.text("type", place)).transpose()?;
                if let Some(Some("url" | "file")) = source.as_ref().map(Option::as_deref) {
                    return Err(place.member("type").refuse("must be in the request itself: Bedrock fetches and keeps nothing"));
                }
            }
            "container_upload" => return Err(at.member("type").refuse(NONE)),
            "tool_result" => {
                if let Some(inner) = block.take("content") {
                    blocks(inner, &at.member("content"))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A streamed answer, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct MessagesStream {
    done: bool,
}

/// A piece of what the model says in its own words.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: Cow<'a, str>,
}

impl MessagesStream {
    /// Writes what becomes of a message.
    pub(super) fn take(&mut self, message: &Message, kind: &str, into: &mut Vec<u8>) -> Result<(), Broken> {
        if kind != "chunk" {
            return Ok(());
        }
        let chunk: Chunk<'_> =
            serde_json::from_slice(message.payload()).map_err(|_| Broken("a chunk is none of InvokeModel's"))?;
        let mut piece = STANDARD.decode(&*chunk.bytes).map_err(|_| Broken("a chunk is not in base64"))?;
        let is_event = piece.first() == Some(&b'{') && std::str::from_utf8(&piece).is_ok();
        let kind = members(&piece).find(|(name, _)| is_event && *name == b"type").map(|(_, value)| value);
        let kind = kind.and_then(|kind| kind.strip_prefix(b"\"")?.strip_suffix(b"\""));
        let plain = |kind: &&[u8]| !kind.is_empty() && kind.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
        let kind = kind.filter(plain).ok_or(Broken("a chunk is no event"))?.to_vec();
        // Between JSON's words one white space is as good as another, and a line's end would be one of the event.
        piece.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        for part in [b"event: ", &kind[..], b"\ndata: ", &piece, b"\n\n"] {
            into.extend_from_slice(part);
        }
        self.done |= matches!(&kind[..], b"message_stop" | b"error");
        Ok(())
    }

    /// Whether nothing follows.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(body: &str) -> Result<String, String> {
        let spoken = Spoken { version: Some(VERSION), betas: &["a, b", "", "c"], profile: Some("p") };
        translate(body.as_bytes(), spoken).map(|body| String::from_utf8(body).unwrap()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_need_not_change_passes_as_it_was_written() {
        let body = r#"{ "model":"c", "max_tokens": 1e2, "stream":true, "service_tier":"auto", "new_\u0061nd_unknown":[1.50 ,2],
            "messages":[{"role":"user", "content":[{"type":"image","source":{"type":"base64","data":"\/\/8="}}]}],"tools":[{"name":"t"}] }"#;
        let expected = r#"{"anthropic_version":"bedrock-2023-05-31","anthropic_beta":["a","b","c"],"user_profile_id":"p","max_tokens":1e2,"new_and_unknown":[1.50 ,2],"messages":[{"role":"user", "content":[{"type":"image","source":{"type":"base64","data":"\/\/8="}}]}],"tools":[{"name":"t"}]}"#;
        assert_eq!(there(body).as_deref(), Ok(expected));
    }

    #[test]
    fn what_only_anthropics_service_does_is_refused_by_its_name() {
        for (member, expected) in [
            (r#""inference_geo":"us""#, "`inference_geo` has no counterpart in Bedrock's InvokeModel"),
            (r#""mcp_servers":[{}]"#, "`mcp_servers` has no counterpart in Bedrock's InvokeModel"),
            (r#""anthropic_version":"x""#, "`anthropic_version` has no counterpart in Bedrock's InvokeModel"),
            (r#""top_k":1,"top_k":2"#, "`top_k` is given twice"),
            (r#""mcp_servers":[],"mcp_servers":[{}]"#, "`mcp_servers` is given twice"),
            (r#""anthropic_beta":null,"anthropic_b\u0065ta":["x"]"#, "`anthropic_beta` is given twice"),
            (r#""stream":false,"stream":true"#, "`stream` is given twice"),
            (
                r#""tools":[{"name":"f"},{"type":"web_search_20250305","name":"web_search"}]"#,
                "`tools[1].type` is run by Anthropic's own service, and there is none behind Bedrock",
            ),
            (
                r#""messages":[{"content":"x"},{"content":[{"type":"text"},{"type":"image","source":{"type":"url","url":"u"}}]}]"#,
                "`messages[1].content[1].source.type` must be in the request itself: Bedrock fetches and keeps nothing",
            ),
            (
                r#""messages":[{"content":[{"type":"tool_result","content":[{"type":"document","source":{"type":"file"}}]}]}]"#,
                "`messages[0].content[0].content[0].source.type` must be in the request itself: Bedrock fetches and keeps nothing",
            ),
            (
                r#""messages":[{"content":[{"type":"text","text":"x","type":"container_upload"}]}]"#,
                "`messages[0].content[0].type` is given twice",
            ),
            (
                r#""messages":[{"content":[{"type":"container_upload"}]}]"#,
                "`messages[0].content[0].type` has no counterpart in Bedrock's InvokeModel",
            ),
        ] {
            assert_eq!(there(&format!(r#"{{"model":"m",{member}}}"#)), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_version_has_its_name_there() {
        let of = |version| translate(b"{}", Spoken { version, ..Spoken::default() });
        for (version, expected) in
            [(None, "bedrock-2023-05-31"), (Some("2023-06-01"), "bedrock-2023-05-31"), (Some("2026-10-21"), "2026-10-21")]
        {
            assert_eq!(of(version).unwrap(), format!(r#"{{"anthropic_version":"{expected}"}}"#).as_bytes());
        }
        for version in ["2023-01-01", "", "newest", "2026-10-21, 2026-10-21"] {
            assert_eq!(of(Some(version)).unwrap_err().to_string(), "`anthropic-version` must be 2023-06-01 or a later one");
        }
    }
}
