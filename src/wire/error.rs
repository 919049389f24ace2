//! An error in the words of the client's dialect.
//!
//! An SDK makes its exception from the status and shows the message, so a body of another shape becomes a message that is empty or a
//! page of HTML. Only Windward's own errors are written here; those of a backend pass as they are.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::Dialect;

/// The JSON body of an error response. `code` is a short word for programs (`model_not_found`); dialects without a place for it do
/// without, and an empty one is none. `message` is for people; it must not hold a secret or a prompt.
pub fn error_body(dialect: Dialect, status: StatusCode, code: &str, message: &str, param: Option<&str>) -> Bytes {
    let named = Some(code).filter(|code| !code.is_empty());
    match dialect {
        Dialect::Openai | Dialect::AzureOpenai => {
            body(&OpenAi { error: OpenAiError { message, r#type: openai_type(status), param, code: named } })
        }
        Dialect::Anthropic => {
            body(&Anthropic { r#type: "error", error: AnthropicError { r#type: anthropic_type(status), message } })
        }
        Dialect::Bedrock => body(&Bedrock { message }),
        Dialect::Gemini => body(&Gemini { error: GeminiError { code: status.as_u16(), message, status: google_status(status) } }),
    }
}

fn body(error: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "structs of strings and numbers always serialise")]
    let json = serde_json::to_vec(error).expect("an error is JSON");
    Bytes::from(json)
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        503 => "service_unavailable_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// AWS SDKs take the exception's name from a header and only the message from the body.
#[derive(Serialize)]
struct Bedrock<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Gemini<'a> {
    error: GeminiError<'a>,
}

#[derive(Serialize)]
struct GeminiError<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
}

/// The canonical name that Google's APIs give a status.
fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_its_shape() {
        let message = "model \"a\\b\"\nis not served here";
        let table = [
            (
                Dialect::Openai,
                404,
                r#"{"error":{"message":"model \"a\\b\"\nis not served here","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            ),
            (
                Dialect::AzureOpenai,
                503,
                r#"{"error":{"message":"model \"a\\b\"\nis not served here","type":"service_unavailable_error","param":null,"code":"model_not_found"}}"#,
            ),
            (
                Dialect::Anthropic,
                404,
                r#"{"type":"error","error":{"type":"not_found_error","message":"model \"a\\b\"\nis not served here"}}"#,
            ),
            (Dialect::Bedrock, 404, r#"{"message":"model \"a\\b\"\nis not served here"}"#),
            (
                Dialect::Gemini,
                404,
                r#"{"error":{"code":404,"message":"model \"a\\b\"\nis not served here","status":"NOT_FOUND"}}"#,
            ),
        ];
        for (dialect, status, expected) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(error_body(dialect, status, "model_not_found", message, None), expected, "{dialect:?}");
        }
    }

    #[test]
    fn the_type_follows_the_status() {
        let openai = |status| openai_type(StatusCode::from_u16(status).expect("a status"));
        assert_eq!(openai(400), "invalid_request_error");
        assert_eq!(openai(401), "authentication_error");
        assert_eq!(openai(413), "invalid_request_error");
        assert_eq!(openai(429), "rate_limit_error");
        assert_eq!(openai(502), "server_error");
        assert_eq!(openai(504), "server_error");
    }
}
