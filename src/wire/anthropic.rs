//! Anthropic's API: messages, and what is said of their tokens.
//!
//! A stream says twice how many tokens there were: what was read with its first event, and what was written, as a running total, with
//! the last but one. Both are kept, each from when it comes, so that a stream that breaks off still says what its prompt was.

use http::Method;

use super::json::members;
use super::usage::{Usage, count, detail};
use super::{Call, Operation, decoded, inference, model_name};

/// The first path segments under which things live that a backend gave ids to.
const HOMES: [&str; 5] = ["environments", "files", "organizations", "sessions", "skills"];

/// What a call is, by its method and the path below the route's prefix (`/messages` for `/v1/messages`), without the query. Segments
/// are read as those of [`super::call`] are.
pub(super) fn call<'a>(method: &Method, path_below_prefix: &'a str) -> Call<'a> {
    if *method == Method::POST && path_below_prefix == "/messages" {
        return Call::Inference(Operation::Messages);
    }
    let path = decoded(path_below_prefix);
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    match (segments.next().unwrap_or_default(), segments.next(), segments.next()) {
        ("messages", None, None) => inference(method, Operation::Messages),
        ("messages", Some("count_tokens"), None) => inference(method, Operation::CountTokens),
        // Batches, and the results of one.
        ("messages", Some(_), _) => Call::Home,
        ("models", None, None) => match *method {
            Method::GET | Method::HEAD => Call::Models,
            _ => Call::MethodNotAllowed { allow: "GET, HEAD" },
        },
        ("models", Some(_), _) => match *method {
            Method::GET | Method::HEAD => Call::Model(model_name(path_below_prefix, path)),
            _ => Call::MethodNotAllowed { allow: "GET, HEAD" },
        },
        (first, _, _) if HOMES.contains(&first) => Call::Home,
        _ => Call::Stream,
    }
}

/// Tokens as the events of a stream tell of them. The parts of the input are kept apart, because a later event may tell of some of
/// them again.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Neither read from a cache nor written to one.
    plain: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    output: Option<u64>,
    /// The part of the output that was thought and not said.
    thinking: Option<u64>,
    /// Where the model ran.
    pub(super) geo: Option<Box<str>>,
    /// The output that was said is that of the whole answer so far, and not of its first event, which says 1 whatever comes.
    saw_delta: bool,
}

impl Snapshot {
    /// Takes what an event says, if it is one of the two that do.
    pub(super) fn take(&mut self, event: &[u8]) {
        let member = |object, wanted: &[u8]| {
            let found = members(object).find(|(name, _)| *name == wanted).map(|(_, value)| value);
            found.filter(|value: &&[u8]| value.first() == Some(&b'{'))
        };
        if event.first() != Some(&b'{') {
            return;
        }
        if let Some(usage) = member(event, b"usage") {
            self.update(usage);
            self.saw_delta |= self.output.is_some();
        } else if let Some(usage) = member(event, b"message").and_then(|message| member(message, b"usage")) {
            self.update(usage);
        }
    }

    fn update(&mut self, usage: &[u8]) {
        self.geo = geo_in(usage).or_else(|| self.geo.take());
        for (name, value) in members(usage) {
            let part = match name {
                b"input_tokens" => &mut self.plain,
                b"cache_read_input_tokens" => &mut self.read,
                b"cache_creation_input_tokens" => &mut self.written,
                b"output_tokens" => &mut self.output,
                b"output_tokens_details" if let Ok(Some(tokens)) = detail(value, b"thinking_tokens") => {
                    self.thinking = Some(tokens);
                    continue;
                }
                _ => continue,
            };
            if let Ok(Some(tokens)) = count(value) {
                *part = Some(tokens);
            }
        }
    }

    /// What is known, and whether all that will be is. Of an answer whose end did not come the output is not.
    pub(super) fn usage(&self) -> (Usage, bool) {
        let beside = self.read.unwrap_or(0).saturating_add(self.written.unwrap_or(0));
        let usage = Usage {
            input_tokens: self.plain.map(|plain| plain.saturating_add(beside)),
            cached_tokens: self.read,
            output_tokens: self.output.filter(|_| self.saw_delta),
            reasoning_tokens: self.thinking.filter(|_| self.saw_delta),
        };
        (usage, self.saw_delta)
    }
}

/// The longest word for a place that is taken; those known are `us` and `global`.
const LONGEST_GEO: usize = 32;

/// Where a usage object says that the model ran: a plain word.
pub(super) fn geo_in(usage: &[u8]) -> Option<Box<str>> {
    let (_, value) = members(usage).find(|(name, _)| *name == b"inference_geo")?;
    let word = std::str::from_utf8(value.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()?;
    let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (plain && (1..=LONGEST_GEO).contains(&word.len())).then(|| word.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        for (method, path, expected) in [
            ("POST", "/messages", Call::Inference(Operation::Messages)),
            ("POST", "//%6Dessages/", Call::Inference(Operation::Messages)),
            ("GET", "/messages", Call::MethodNotAllowed { allow: "POST" }),
            ("POST", "/messages/count_tokens", Call::Inference(Operation::CountTokens)),
            ("GET", "/messages/count_tokens", Call::MethodNotAllowed { allow: "POST" }),
            ("POST", "/messages/batches", Call::Home),
            ("GET", "/messages/batches/msgbatch_1/results", Call::Home),
            ("GET", "/models", Call::Models),
            ("POST", "/models", Call::MethodNotAllowed { allow: "GET, HEAD" }),
            ("GET", "/models/claude-opus-4-1", Call::Model("claude-opus-4-1".into())),
            ("DELETE", "/models/claude-opus-4-1", Call::MethodNotAllowed { allow: "GET, HEAD" }),
            ("GET", "/files/file_1/content", Call::Home),
            ("GET", "/organizations/users", Call::Home),
            ("POST", "/complete", Call::Stream),
            ("POST", "/chat/completions", Call::Stream),
            ("POST", "", Call::Stream),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(call(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn where_it_ran_is_one_plain_word() {
        for (usage, expected) in [
            (r#"{"input_tokens":1,"inference_geo":"us"}"#, Some("us")),
            (r#"{"inference_geo":null}"#, None),
            (r#"{"inference_geo":"us\n"}"#, None),
            (r#"{"inference_geo":""}"#, None),
            (r#"{"cache_creation":{"inference_geo":"us"}}"#, None),
            (&format!(r#"{{"inference_geo":"{}"}}"#, "u".repeat(33)), None),
        ] {
            assert_eq!(geo_in(usage.as_bytes()).as_deref(), expected, "{usage}");
        }
    }

    #[test]
    fn what_an_event_leaves_out_stays_as_it_was() {
        let mut snapshot = Snapshot::default();
        let start = br#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":7,"cache_creation_input_tokens":100,
            "cache_read_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":100},"output_tokens":1}}}"#;
        snapshot.take(start);
        let of_input = Usage { input_tokens: Some(1107), cached_tokens: Some(1000), ..Usage::default() };
        assert_eq!(snapshot.usage(), (of_input, false), "the 1 is no count");
        snapshot.take(br#"{"type":"message_delta","usage":{"output_tokens":20}}"#);
        assert_eq!(snapshot.usage(), (Usage { output_tokens: Some(20), ..of_input }, true));
        snapshot.take(
            br#"{"type":"message_delta","usage":{"input_tokens":9,"cache_read_input_tokens":null,"output_tokens":31,
            "output_tokens_details":{"thinking_tokens":11}}}"#,
        );
        let last = Usage { input_tokens: Some(1109), output_tokens: Some(31), reasoning_tokens: Some(11), ..of_input };
        assert_eq!(snapshot.usage(), (last, true), "the cached ones are still beside it");
        for other in [&b"null"[..], b"", b"[]", br#"{"usage":7,"message":{"usage":[]}}"#, br#"{"usage":{"output_tokens":"9"}}"#] {
            snapshot.take(other);
        }
        assert_eq!(snapshot.usage(), (last, true));
    }
}
