//! The answer to a message that never became a request: hyper's own would be empty, and for most of what is refused there is none.

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::wire::Dialect;
use crate::wire::error::error_body;
use crate::wire::framing::Refusal;

/// The whole response, after which the connection is closed. Nothing is known of the route, so it speaks the commonest dialect.
/// To `HEAD` it has no body.
pub(super) fn response(refusal: Refusal, to_head: bool, now: Timestamp) -> Vec<u8> {
    let status = refusal.status();
    let body = error_body(Dialect::Openai, status, refusal.code(), &refusal.to_string(), None);
    let mut response = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut field = |name: http::HeaderName, value: &str| {
        for part in [name.as_str(), ": ", value, "\r\n"] {
            response.push_str(part);
        }
    };
    field(CONTENT_TYPE, "application/json");
    field(CONTENT_LENGTH, &body.len().to_string());
    field(CONNECTION, "close");
    if refusal == Refusal::MethodNotAllowed {
        field(ALLOW, "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
    }
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
        field(DATE, &date);
    }
    let mut response = response.into_bytes();
    response.extend_from_slice(b"\r\n");
    if !to_head {
        response.extend_from_slice(&body);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_response_that_closes() {
        let text = String::from_utf8(response(Refusal::Host, false, Timestamp::UNIX_EPOCH)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\nconnection: close\r\n", body.len())), "{head}");
        assert!(head.ends_with("\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "bad_host");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }

    #[test]
    fn a_head_is_answered_without_a_body_and_a_method_with_those_that_are() {
        let text = String::from_utf8(response(Refusal::MethodNotAllowed, true, Timestamp::UNIX_EPOCH)).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nallow: DELETE, GET") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert!(!text.contains("\r\ncontent-length: 0\r\n"), "the length is that of the body it would have had");
    }
}
