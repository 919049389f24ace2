//! The API of Gemini and of Vertex AI: `POST ../models/{model}:{verb}`, with the model in the path.
//!
//! What stands before `models/` says whose models they are, and on Vertex AI in which project and where; that is the backend's own, and
//! belongs to its URL. A client may write anything there, since its SDK takes this gateway for one of many.

use std::borrow::Cow;
use std::ops::Range;

use http::Method;
use serde::Deserialize;

use super::bedrock::escaped;
use super::json::{Nest, Walk, after, members, skip_space};
use super::usage::{Usage, count};
use super::{Call, Named, Operation, decoded};

/// The collection that a model is in.
const MODELS: &str = "models";

/// Where Claude's tokens are counted on Vertex AI: this stands where a model's name does, and the body has that.
const COUNTING: &str = "count-tokens";
const COUNTING_VERB: &str = "rawPredict";
/// The same as a path below a backend's own.
const COUNTING_PATH: &str = "/models/count-tokens:rawPredict";

/// The verbs: their names, what they are, and whether they stream. `rawPredict` and its kin is how models of other suppliers are
/// asked in their own words, and are read here as Claude's.
const VERBS: [(&str, Operation, bool); 7] = [
    ("generateContent", Operation::GenerateContent, false),
    ("streamGenerateContent", Operation::GenerateContent, true),
    ("countTokens", Operation::CountTokens, false),
    ("embedContent", Operation::Embeddings, false),
    ("batchEmbedContents", Operation::Embeddings, false),
    ("rawPredict", Operation::Messages, false),
    ("streamRawPredict", Operation::Messages, true),
];

/// What a call is, by its method and the path below the route's prefix, without the query.
pub(super) fn call<'a>(method: &Method, path: &'a str) -> Call<'a> {
    let path = decoded(path);
    let segments = path.rsplit('/').filter(|segment| !segment.is_empty()).take(2).collect::<Vec<_>>();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match segments[..] {
        [MODELS, ..] if reads => Call::Models,
        [MODELS, ..] => Call::MethodNotAllowed { allow: "GET, HEAD" },
        [last, MODELS] => match last.rsplit_once(':') {
            None if reads => Call::Model(last.to_owned().into()),
            None => Call::Home,
            Some((model, verb)) => match VERBS.iter().find(|(name, _, _)| *name == verb).filter(|_| !model.is_empty()) {
                Some(_) if *method != Method::POST => Call::MethodNotAllowed { allow: "POST" },
                Some((COUNTING_VERB, _, _)) if model == COUNTING => Call::Inference(Operation::CountTokens),
                Some((_, operation, streamed)) => {
                    Call::Named(Named { operation: *operation, model: model.into(), streamed: Some(*streamed) })
                }
                None => Call::Stream,
            },
        },
        // Files, caches, operations and whatever else has an id.
        _ => Call::Home,
    }
}

/// The path of a verb on a model whose name is escaped already, below a backend's own: the verb that was `asked` by a path, where that
/// is one for this, else the first that is.
pub fn path(segment: &str, operation: Operation, streamed: bool, asked: &str) -> Option<String> {
    let asked = verb_of(asked);
    if operation == Operation::CountTokens && asked.as_deref() == Some(COUNTING_VERB) {
        return Some(COUNTING_PATH.to_owned());
    }
    let fits = || VERBS.iter().filter(|(_, of, streams)| (*of, *streams) == (operation, streamed));
    let (name, _, _) = fits().find(|(name, _, _)| asked.as_deref() == Some(*name)).or_else(|| fits().next())?;
    Some(["/", MODELS, "/", segment, ":", name].concat())
}

/// What comes before a model's name in a body.
const PREFIX: &str = "models/";
/// The most names in a body that are put right; the service takes a hundred requests in a batch.
const MOST_NAMES: usize = 1024;

/// Where a body for embeddings names that model once more: itself, or in the requests of a batch. In order, in bytes, with the quotes;
/// each is to become [`name_in_body`].
pub fn names_in(body: &[u8], model: &str) -> Vec<Range<usize>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let is_it = |value: &[u8]| {
        let name: Option<Text<'_>> = serde_json::from_slice(value).ok();
        name.is_some_and(|Text(name)| name.strip_prefix(PREFIX).is_some_and(|name| name == model))
    };
    // Slices of the body, so that the distance between their beginnings is a place in it.
    let place = |part: &[u8]| part.as_ptr().addr() - body.as_ptr().addr();
    let found = |value: &[u8]| is_it(value).then(|| place(value)..place(value) + value.len());
    let mut names = Vec::new();
    for (name, value) in members(body.trim_ascii_start()) {
        match name {
            b"model" => names.extend(found(value)),
            b"requests" => {
                let of_one =
                    |request: &[u8]| members(request).find(|(name, _)| *name == b"model").and_then(|(_, value)| found(value));
                names.extend(objects(value).take(MOST_NAMES).filter_map(of_one));
            }
            _ => {}
        }
    }
    names
}

/// The objects of an array, as long as there is nothing else in it.
fn objects(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = after(array, 0, b'[');
    std::iter::from_fn(move || {
        let from = skip_space(array, at?);
        let is_object = array.get(from) == Some(&b'{');
        // Only an opening bracket begins a nest.
        let Walk::Ended(end) = is_object.then(|| Nest::default().walk(array, from))? else { return None };
        at = after(array, end, b',');
        array.get(from..end)
    })
}

/// A model's name, given as a JSON string, as it stands in a body.
pub fn name_in_body(there: &[u8]) -> Vec<u8> {
    [b"\"", PREFIX.as_bytes(), there.strip_prefix(b"\"").unwrap_or(there)].concat()
}

/// The verb that a path ends in, whatever its query.
fn verb_of(path: &str) -> Option<String> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    decoded(path).trim_end_matches('/').rsplit_once(':').map(|(_, verb)| verb.to_owned())
}

/// A model's name as one segment of a path. A version behind an `@` stays as everybody writes it.
pub fn segment(model: &str) -> String {
    escaped(model, b"-._~@")
}

/// Whether a path is one of this API, for errors to clients of whom nothing else is known.
pub fn is_path(path: &str) -> bool {
    let verb = path.rsplit_once(':').map(|(_, verb)| verb);
    verb.is_some_and(|verb| VERBS.iter().any(|(name, _, _)| *name == verb))
}

/// Tokens as the chunks of an answer tell of them. Each chunk tells of what there is so far and may leave out what has not changed, so
/// that the parts are put together only at the end: what was thought stands beside what was said, and what tools returned beside the prompt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    prompt: Option<u64>,
    of_tools: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    cached: Option<u64>,
    total: Option<u64>,
}

impl Counts {
    /// Takes what a `usageMetadata` says; nothing of one with a count that is none.
    pub(super) fn take(&mut self, object: &[u8]) {
        let mut said = *self;
        for (name, value) in members(object) {
            let part = match name {
                b"promptTokenCount" => &mut said.prompt,
                b"toolUsePromptTokenCount" => &mut said.of_tools,
                b"candidatesTokenCount" => &mut said.candidates,
                b"thoughtsTokenCount" => &mut said.thoughts,
                b"cachedContentTokenCount" => &mut said.cached,
                b"totalTokenCount" => &mut said.total,
                _ => continue,
            };
            let Ok(tokens) = count(value) else { return };
            *part = tokens.or(*part);
        }
        *self = said;
    }

    /// What is known so far.
    pub(super) fn usage(&self) -> Option<Usage> {
        let input_tokens = self.prompt.map(|prompt| prompt.saturating_add(self.of_tools.unwrap_or(0)));
        let output_tokens = match (self.candidates, self.thoughts) {
            // Of an answer that was withheld only the total tells.
            (None, None) => self.total.zip(input_tokens).and_then(|(total, input)| total.checked_sub(input)),
            (said, thought) => Some(said.unwrap_or(0).saturating_add(thought.unwrap_or(0))),
        };
        (input_tokens.is_some() || output_tokens.is_some()).then_some(Usage {
            input_tokens,
            cached_tokens: self.cached,
            output_tokens,
            reasoning_tokens: self.thoughts,
        })
    }

    /// Whether the output was told of itself, and is not only what the total leaves for it.
    pub(super) const fn tells_output(&self) -> bool {
        self.candidates.is_some() || self.thoughts.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_before_the_model_is_passed_over() {
        let named =
            |operation, model: &str, streamed| Call::Named(Named { operation, model: model.into(), streamed: Some(streamed) });
        let vertex = "/v1/projects/p/locations/europe-west4/publishers";
        for (method, path, expected) in [
            (
                "POST",
                "/v1beta/models/gemini-2.5-flash:generateContent",
                named(Operation::GenerateContent, "gemini-2.5-flash", false),
            ),
            ("POST", "/models/m:streamGenerateContent", named(Operation::GenerateContent, "m", true)),
            ("POST", "//models//m%3AcountTokens/", named(Operation::CountTokens, "m", false)),
            ("POST", &format!("{vertex}/google/models/m:embedContent"), named(Operation::Embeddings, "m", false)),
            ("POST", &format!("{vertex}/google/models/m:batchEmbedContents"), named(Operation::Embeddings, "m", false)),
            ("POST", &format!("{vertex}/anthropic/models/count-tokens:rawPredict"), Call::Inference(Operation::CountTokens)),
            (
                "POST",
                &format!("{vertex}/anthropic/models/count-tokens:streamRawPredict"),
                named(Operation::Messages, "count-tokens", true),
            ),
            ("POST", &format!("{vertex}/anthropic/models/c@1:rawPredict"), named(Operation::Messages, "c@1", false)),
            ("POST", &format!("{vertex}/anthropic/models/c%401:streamRawPredict"), named(Operation::Messages, "c@1", true)),
            ("GET", "/models/m:generateContent", Call::MethodNotAllowed { allow: "POST" }),
            ("POST", "/models/m:predict", Call::Stream),
            ("POST", "/models/:generateContent", Call::Stream),
            ("GET", "/v1beta/models", Call::Models),
            ("POST", "/v1beta/models", Call::MethodNotAllowed { allow: "GET, HEAD" }),
            ("GET", "/v1beta/models/m", Call::Model("m".into())),
            ("DELETE", "/v1beta/models/m", Call::Home),
            ("POST", "/v1beta/cachedContents", Call::Home),
            ("GET", "", Call::Home),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(call(&method, path), expected, "{method} {path}");
        }
        assert!(is_path("/v1beta/models/m:generateContent") && !is_path("/v1/chat/completions") && !is_path("/model/m:0/invoke"));
    }

    #[test]
    fn the_verb_stays_that_which_was_asked() {
        let path = |operation, asked| path("m", operation, false, asked);
        assert_eq!(
            path(Operation::Embeddings, "/x/models/a%3AbatchEmbedContents?k=1:2").as_deref(),
            Some("/models/m:batchEmbedContents")
        );
        assert_eq!(path(Operation::Embeddings, "/models/a:embedContent").as_deref(), Some("/models/m:embedContent"));
        assert_eq!(path(Operation::Embeddings, "").as_deref(), Some("/models/m:embedContent"));
        assert_eq!(path(Operation::CountTokens, "/models/a:countTokens").as_deref(), Some("/models/m:countTokens"));
        assert_eq!(path(Operation::CountTokens, "/models/count-tokens:rawPredict").as_deref(), Some(COUNTING_PATH));
        assert_eq!(path(Operation::Converse, "/models/a:countTokens"), None);
    }

    #[test]
    fn a_body_may_name_its_model_again() {
        let renamed = |body: &str| {
            let mut text = body.to_owned();
            let with = String::from_utf8(name_in_body(b"\"there\\\"\"")).unwrap();
            names_in(body.as_bytes(), "m@1").into_iter().rev().for_each(|at| text.replace_range(at, &with));
            text
        };
        for (body, expected) in [
            (r#" {"model": "models/m@1" ,"content":{}}"#, r#" {"model": "models/there\"" ,"content":{}}"#),
            (
                r#"{"content":{"model":"models/m@1"},"model":"models\/m@1"}"#,
                r#"{"content":{"model":"models/m@1"},"model":"models/there\""}"#,
            ),
            (
                r#"{"requests":[{"model":"models/m@1"}, {"content":[{"model":"models/m@1"}],"model":"models/m@1"},{"model":"models/other"}]}"#,
                r#"{"requests":[{"model":"models/there\""}, {"content":[{"model":"models/m@1"}],"model":"models/there\""},{"model":"models/other"}]}"#,
            ),
        ] {
            assert_eq!(renamed(body), expected);
        }
        for same in
            [r#"{"model":"m@1"}"#, r#"{"model":"models/m"}"#, r#"{"requests":{"model":"models/m@1"}}"#, "", "[]", r#"{"model":"#]
        {
            assert_eq!(renamed(same), same);
        }
        let many = format!(r#"{{"requests":[{}]}}"#, vec![r#"{"model":"models/m@1"}"#; 2 * MOST_NAMES].join(","));
        assert_eq!(names_in(many.as_bytes(), "m@1").len(), MOST_NAMES);
    }

    #[test]
    fn parts_are_summed_at_the_end() {
        let read = |said: &[&str]| {
            let mut counts = Counts::default();
            for object in said {
                counts.take(object.as_bytes());
            }
            counts.usage().map(|usage| (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens))
        };
        let thinks = r#"{"promptTokenCount":10,"toolUsePromptTokenCount":2,"thoughtsTokenCount":5}"#;
        assert_eq!(read(&[thinks]), Some((Some(12), Some(5), Some(5))));
        assert_eq!(read(&[thinks, r#"{"candidatesTokenCount":20}"#]), Some((Some(12), Some(25), Some(5))));
        assert_eq!(
            read(&[r#"{"promptTokenCount":11}"#, thinks, r#"{"promptTokenCount":9}"#]),
            Some((Some(11), Some(5), Some(5)))
        );
        assert_eq!(read(&[r#"{"promptTokenCount":9,"totalTokenCount":9}"#]), Some((Some(9), Some(0), None)));
        assert_eq!(read(&[thinks, r#"{"candidatesTokenCount":7,"promptTokenCount":"1"}"#]), read(&[thinks]), "no count");
        assert_eq!(read(&["{}"]), None);
    }

    #[test]
    fn a_list_without_objects_has_no_names() {
        for body in [r#"{"requests":[]"#, r#"{"requests":[]}"#, r#"{"requests":[1]}"#, r#"{"requests":["#] {
            assert!(names_in(body.as_bytes(), "m").is_empty(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn names_lie_within_any_body(body in r#"(\{|\}|\[|\]|"model"|"requests"|"models/m"|:|,|"| |\\){0,40}"#) {
            let mut end = 0;
            for name in names_in(body.as_bytes(), "m") {
                prop_assert!(name.start >= end && &body[name.clone()] == "\"models/m\"");
                end = name.end;
            }
        }

        #[test]
        fn what_is_escaped_is_read_again(model in "[a-z0-9:@._ %é-]{1,30}") {
            let path = path(&segment(&model), Operation::GenerateContent, true, "").unwrap();
            prop_assert_eq!(call(&Method::POST, &path), Call::Named(Named { operation: Operation::GenerateContent, model: model.into(), streamed: Some(true) }));
        }
    }
}
