//! Errors of Bedrock's in the words of another dialect.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;

use super::super::Dialect;
use super::super::error::error_body;

/// The body of an error, of which AWS writes the name in two ways.
#[derive(Default, Deserialize)]
struct Fault {
    #[serde(alias = "Message")]
    message: Option<String>,
    #[serde(rename = "__type")]
    name: Option<String>,
}

/// The status that says to a client of another dialect what this one says to one of Bedrock's: what failed in a model is no fault of
/// the request, and worth another try.
pub fn status_of(there: StatusCode) -> StatusCode {
    match there {
        StatusCode::FAILED_DEPENDENCY => StatusCode::BAD_GATEWAY,
        StatusCode::REQUEST_TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
        other => other,
    }
}

/// An error in the words of a dialect. `named` is the exception's name as the response's head has it.
pub(super) fn whole(body: &[u8], dialect: Dialect, status: StatusCode, named: Option<&str>) -> Bytes {
    let fault: Fault = serde_json::from_slice(body).unwrap_or_default();
    let message = fault.message.unwrap_or_else(|| format!("the backend answered {} and said nothing of why", status.as_u16()));
    let name = named.or(fault.name.as_deref()).unwrap_or_default();
    error_body(dialect, status, &bare(name), &message, None)
}

/// The name alone: it may come with its namespace before it, and a URL behind it. In a stream it begins with a small letter.
fn bare(name: &str) -> String {
    let name = name.split(':').next().unwrap_or_default();
    let mut bare = name.rsplit('#').next().unwrap_or_default().to_owned();
    if let Some(first) = bare.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    bare
}

/// An exception within a stream, as one error event. `said` is its message where that is no part of the payload.
pub(super) fn event(payload: &[u8], said: Option<&str>, dialect: Dialect, exception: &str, into: &mut Vec<u8>) {
    let status = match exception {
        "validationException" => StatusCode::BAD_REQUEST,
        "accessDeniedException" => StatusCode::FORBIDDEN,
        "resourceNotFoundException" => StatusCode::NOT_FOUND,
        "throttlingException" => StatusCode::TOO_MANY_REQUESTS,
        "serviceUnavailableException" => StatusCode::SERVICE_UNAVAILABLE,
        "modelTimeoutException" => StatusCode::GATEWAY_TIMEOUT,
        "modelStreamErrorException" => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if dialect == Dialect::Anthropic {
        into.extend_from_slice(b"event: error\n");
    }
    into.extend_from_slice(b"data: ");
    let body = match said {
        Some(said) => error_body(dialect, status, &bare(exception), said, None),
        None => whole(payload, dialect, status, Some(exception)),
    };
    into.extend_from_slice(&body);
    into.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_message_and_its_name() {
        let null = serde_json::Value::Null;
        for (body, named, code, message) in [
            (r#"{"message":"no"}"#, Some("throttlingException"), "ThrottlingException".into(), "no"),
            (r#"{"message":"no"}"#, Some("ValidationException:http://internal/"), "ValidationException".into(), "no"),
            (r#"{"Message":"no","__type":"com.amazon.coral#AccessDeniedException"}"#, None, "AccessDeniedException".into(), "no"),
            ("<html>", None, null, "the backend answered 400 and said nothing of why"),
        ] {
            let body = whole(body.as_bytes(), Dialect::Openai, StatusCode::BAD_REQUEST, named);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["error"]["code"], &body["error"]["message"]), (&code, &message.into()));
        }
    }

    #[test]
    fn an_exception_becomes_an_error_event() {
        let mut events = Vec::new();
        event(br#"{"message":"slow down"}"#, None, Dialect::Anthropic, "throttlingException", &mut events);
        let expected =
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}\n\n";
        assert_eq!(String::from_utf8(events).unwrap(), expected);
    }
}
