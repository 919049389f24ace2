//! Azure's classic API: `/openai/deployments/{deployment}/{operation}` and `/openai/responses`, with the version in the query. Its v1 API
//! is OpenAI's own.

use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::json;

use super::call::{Call, Kind};
use super::openai::Fault;
use crate::wire::{self, Dialect, Named, Operation};

/// Where a client without a token shows its key.
pub(super) const KEY: HeaderName = HeaderName::from_static("api-key");
/// Where the service says in which region it worked.
const REGION: HeaderName = HeaderName::from_static("x-ms-region");
/// What every classic call has in its query.
const VERSION: &str = "api-version";

/// A call of the classic API.
pub(super) struct Called {
    kind: Kind,
    /// `None` where the body has the model.
    deployment: Option<Box<str>>,
    versioned: bool,
}

/// What a classic call is; `None` for any other.
pub(super) fn call(method: &Method, uri: &Uri) -> Option<Called> {
    let below = uri.path().strip_prefix("/openai")?;
    let (operation, deployment) = match wire::call(Dialect::AzureOpenai, method, below) {
        wire::Call::Named(Named { operation, model, .. }) => (operation, Some(model)),
        wire::Call::Inference(Operation::Responses) => (Operation::Responses, None),
        _ => return None,
    };
    let kind = match operation {
        Operation::Chat => Kind::Chat,
        Operation::Completions => Kind::Completion,
        Operation::Embeddings => Kind::Embedding,
        Operation::Responses => Kind::Response,
        _ => return None,
    };
    let is_version = |part: &str| part.split_once('=').is_some_and(|(name, value)| name == VERSION && !value.is_empty());
    Some(Called { kind, deployment, versioned: uri.query().is_some_and(|query| query.split('&').any(is_version)) })
}

impl Called {
    /// Reads the body. What it says of a model counts as little as on the service.
    pub(super) fn parse(self, body: &[u8]) -> Result<Call, Fault> {
        if !self.versioned {
            // As the service has it: there is nothing at a path without a version.
            return Err(Fault::NoSuchThing);
        }
        Call::of_deployment(self.kind, self.deployment.as_deref(), body)
    }
}

/// Whether a region of that name is one of Azure's.
pub(super) fn is_region(name: &str) -> bool {
    name.starts_with("azure/")
}

/// The field that says where it worked, of a region of Azure's.
pub(super) fn says_region(name: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((REGION, HeaderValue::from_str(name.strip_prefix("azure/")?).ok()?))
}

/// The event that comes before the answer.
pub(super) fn filter_event() -> String {
    let filter = json!({"prompt_index": 0, "content_filter_results": {}});
    let event = json!({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [filter]});
    format!("data: {event}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_the_model_and_a_version_has_to_be_there() {
        let ask = |target: &str, body: &str| {
            let called = call(&Method::POST, &target.parse().unwrap())?;
            Some(called.parse(body.as_bytes()).map(|call| (call.kind, call.model)))
        };
        let chat = "/openai/deployments/gpt/chat/completions";
        let versioned = &format!("{chat}?api-version=2024-10-21");
        assert_eq!(ask(versioned, r#"{"messages":[]}"#), Some(Ok((Kind::Chat, "gpt".to_owned()))));
        assert_eq!(ask(versioned, r#"{"model":"other","messages":[]}"#), Some(Ok((Kind::Chat, "gpt".to_owned()))));
        for target in [chat, &format!("{chat}?api-version="), &format!("{chat}?version=1")] {
            assert_eq!(ask(target, r#"{"messages":[]}"#), Some(Err(Fault::NoSuchThing)), "{target}");
        }
        let response = ask("/openai/responses?api-version=preview", r#"{"model":"m","input":"x"}"#);
        assert_eq!(response, Some(Ok((Kind::Response, "m".to_owned()))));
        for other in ["/openai/v1/chat/completions?api-version=1", "/deployments/gpt/chat/completions", "/openai/files"] {
            assert!(ask(other, "{}").is_none(), "{other}");
        }
    }
}
