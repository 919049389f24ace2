//! The API of Gemini and of Vertex AI: `POST ../models/{model}:{verb}`, with the model in the path.
//!
//! What stands before `models/` says whose models they are, and on Vertex AI in which project and where; that is the backend's own, and
//! belongs to its URL. A client may write anything there, since its SDK takes this gateway for one of many.

use http::Method;

use super::bedrock::escaped;
use super::{Call, Named, Operation, decoded};

/// The collection that a model is in.
const MODELS: &str = "models";

/// The verbs: their names, what they are, and whether they stream. `rawPredict` and its kin is how models of other suppliers are
/// asked in their own words, and are read here as Claude's.
const VERBS: [(&str, Operation, bool); 6] = [
    ("generateContent", Operation::GenerateContent, false),
    ("streamGenerateContent", Operation::GenerateContent, true),
    ("countTokens", Operation::CountTokens, false),
    ("embedContent", Operation::Embeddings, false),
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

/// The path of a verb on a model whose name is escaped already, below a backend's own.
pub fn path(segment: &str, operation: Operation, streamed: bool) -> Option<String> {
    let (name, _, _) = VERBS.iter().find(|(_, of, streams)| (*of, *streams) == (operation, streamed))?;
    Some(["/", MODELS, "/", segment, ":", name].concat())
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

    proptest! {
        #[test]
        fn what_is_escaped_is_read_again(model in "[a-z0-9:@._ %é-]{1,30}") {
            let path = path(&segment(&model), Operation::GenerateContent, true).unwrap();
            prop_assert_eq!(call(&Method::POST, &path), Call::Named(Named { operation: Operation::GenerateContent, model: model.into(), streamed: Some(true) }));
        }
    }
}
