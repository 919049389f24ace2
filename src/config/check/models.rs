//! The lists of models that clients ask for, answered from the plan in the words of their API.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::Dialect;

/// When a model was made, which nobody here knows; clients want a time there.
const SOME_TIME: &str = "1970-01-01T00:00:00Z";

/// What may be asked of a model at Gemini's API.
const VERBS: [&str; 3] = ["generateContent", "streamGenerateContent", "countTokens"];

/// The answer to `GET /v1/models`.
pub(super) fn list(dialect: Dialect, names: &[Arc<str>]) -> Bytes {
    let models: Vec<Value> = names.iter().map(|id| model(dialect, id)).collect();
    let list = match dialect {
        Dialect::Anthropic => {
            let (first, last) = (names.first().map(|id| &**id), names.last().map(|id| &**id));
            json!({ "data": models, "has_more": false, "first_id": first, "last_id": last })
        }
        Dialect::Gemini => json!({ "models": models }),
        _ => json!({ "object": "list", "data": models }),
    };
    Bytes::from(list.to_string())
}

/// The answer to `GET /v1/models/{name}`.
pub fn model_json(dialect: Dialect, name: &str) -> Bytes {
    Bytes::from(model(dialect, name).to_string())
}

/// One model as that API lists it.
fn model(dialect: Dialect, id: &str) -> Value {
    match dialect {
        Dialect::Anthropic => json!({ "type": "model", "id": id, "display_name": id, "created_at": SOME_TIME }),
        Dialect::Gemini => json!({ "name": format!("models/{id}"), "displayName": id, "supportedGenerationMethods": VERBS }),
        _ => json!({ "id": id, "object": "model", "created": 0, "owned_by": "windward" }),
    }
}
