//! The classic paths of Azure OpenAI: `/deployments/{deployment}/{operation}?api-version=..`, with the model in the path.
//!
//! Its v1 API is OpenAI's own. Either side may speak either: what a client calls a deployment is a model here, and the version that counts
//! is the backend's, since it is the operator who knows which one that resource takes.

use http::Method;

use super::bedrock::segment;
use super::{Call, Named, Operation, decoded};

/// What comes before a deployment.
const DEPLOYMENTS: &str = "deployments";
/// The parameter that every classic call needs.
const VERSION: &str = "api-version";

/// The operations of a deployment, and what follows it in their paths.
const OPERATIONS: [(&str, Operation); 3] =
    [("chat/completions", Operation::Chat), ("completions", Operation::Completions), ("embeddings", Operation::Embeddings)];

/// What a call of a deployment is, by its method and the path below the route's prefix; `None` where the path has none.
pub(super) fn call(method: &Method, path: &str) -> Option<Call<'static>> {
    let path = decoded(path);
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (named, model) = (segments.next()? == DEPLOYMENTS, segments.next()?);
    let rest: Vec<&str> = segments.collect();
    let rest = rest.join("/");
    let (_, operation) = OPERATIONS.iter().find(|(name, _)| named && *name == rest)?;
    Some(match *method {
        Method::POST => Call::Named(Named { operation: *operation, model: model.into(), streamed: None }),
        _ => Call::MethodNotAllowed { allow: "POST" },
    })
}

/// Whether a path below a route's prefix names a deployment.
pub fn is_path(path: &str) -> bool {
    path.trim_start_matches('/').strip_prefix(DEPLOYMENTS).is_some_and(|rest| rest.starts_with('/'))
}

/// The path and the query of an operation: at a deployment, whose name is escaped already, where `version` is one, and OpenAI's own
/// otherwise. `query` is the client's.
pub fn path(
    operation: Operation,
    deployment: Option<&str>,
    model: &str,
    version: Option<&str>,
    query: Option<&str>,
) -> Option<String> {
    let of_deployment = OPERATIONS.iter().find(|(_, of)| *of == operation).map(|(name, _)| *name);
    let path = match (of_deployment, version) {
        (Some(name), Some(_)) => {
            let deployment = deployment.map_or_else(|| segment(model), str::to_owned);
            ["/", DEPLOYMENTS, "/", &deployment, "/", name].concat()
        }
        (Some(name), None) => ["/", name].concat(),
        // Without a deployment, here as well.
        (None, _) if operation == Operation::Responses => "/responses".to_owned(),
        (None, _) => return None,
    };
    Some(versioned(path, query, version))
}

/// A path with a query in which this is the version, or none if there is none.
pub fn versioned(mut path: String, query: Option<&str>, version: Option<&str>) -> String {
    let is_version = |part: &&str| part.split('=').next().is_some_and(|name| decoded(name).eq_ignore_ascii_case(VERSION));
    let kept = query.unwrap_or_default().split('&').filter(|part| !part.is_empty() && !is_version(part));
    let version = version.map(|version| [VERSION, "=", version].concat());
    for (nth, part) in kept.map(str::to_owned).chain(version).enumerate() {
        path.push(if nth == 0 { '?' } else { '&' });
        path.push_str(&part);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_told_by_its_path() {
        let named = |operation, model: &str| Some(Call::Named(Named { operation, model: model.into(), streamed: None }));
        for (path, expected) in [
            ("/deployments/gpt-4.1/chat/completions", named(Operation::Chat, "gpt-4.1")),
            ("//deployments/my%20gpt//chat/completions/", named(Operation::Chat, "my gpt")),
            ("/deployments/ada/embeddings", named(Operation::Embeddings, "ada")),
            ("/deployments/d/completions", named(Operation::Completions, "d")),
            ("/deployments/d/images/generations", None),
            ("/deployments/d", None),
            ("/deployments//chat/completions", named(Operation::Completions, "chat")),
            ("/chat/completions", None),
            ("", None),
        ] {
            assert_eq!(call(&Method::POST, path), expected, "{path}");
        }
        assert_eq!(call(&Method::GET, "/deployments/d/embeddings"), Some(Call::MethodNotAllowed { allow: "POST" }));
        assert!(is_path("/deployments/d") && !is_path("/deployments") && !is_path("/chat"));
    }

    #[test]
    fn a_path_has_the_deployment_and_the_version_of_the_backend() {
        let chat = |deployment, version, query| path(Operation::Chat, deployment, "a b", version, query).unwrap();
        assert_eq!(
            chat(Some("gpt%2041"), Some("2024-10-21"), None),
            "/deployments/gpt%2041/chat/completions?api-version=2024-10-21"
        );
        assert_eq!(chat(None, Some("v"), Some("api-version=old&x=1")), "/deployments/a%20b/chat/completions?x=1&api-version=v");
        assert_eq!(chat(None, None, Some("x=1&Api%2Dversion=old")), "/chat/completions?x=1");
        assert_eq!(chat(None, None, Some("api-version=old")), "/chat/completions");
        assert_eq!(path(Operation::Responses, None, "m", Some("v"), None).unwrap(), "/responses?api-version=v");
        assert_eq!(path(Operation::Converse, None, "m", Some("v"), None), None);
    }
}
