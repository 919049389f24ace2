//! The runtime API of Amazon Bedrock: `POST /model/{id}/{operation}`, with the model in the path.
//!
//! An id may hold colons (`openai.gpt-oss-120b-1:0`) and, as an ARN, slashes. SDKs escape both; people who write the path by hand
//! escape neither, and the service takes it. What goes out is always escaped, because it is what is signed.

use http::{HeaderName, Method, StatusCode};

use super::{Call, Named, Operation, decoded};

/// Where an AWS SDK reads which exception to raise.
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What comes before the model's id.
const MODEL: &str = "/model/";

/// The operations of a model: the last segment of their paths, what they are, and whether they stream.
const OPERATIONS: [(&str, Operation, bool); 5] = [
    ("invoke", Operation::InvokeModel, false),
    ("invoke-with-response-stream", Operation::InvokeModel, true),
    ("converse", Operation::Converse, false),
    ("converse-stream", Operation::Converse, true),
    ("count-tokens", Operation::CountTokens, false),
];

/// What a call is, by its method and the path below the route's prefix, without the query.
pub(super) fn call<'a>(method: &Method, path: &'a str) -> Call<'a> {
    let path = decoded(path);
    let path = path.trim_start_matches('/').trim_end_matches('/');
    let named =
        path.strip_prefix(MODEL.trim_matches('/')).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.rsplit_once('/'));
    let Some((model, last)) = named.map(|(model, last)| (model.trim_matches('/'), last)) else { return Call::Stream };
    let found = OPERATIONS.iter().find(|(name, _, _)| *name == last).filter(|_| !model.is_empty());
    match found {
        Some(_) if *method != Method::POST => Call::MethodNotAllowed { allow: "POST" },
        Some((_, operation, streamed)) => {
            Call::Named(Named { operation: *operation, model: model.into(), streamed: Some(*streamed) })
        }
        None => Call::Stream,
    }
}

/// The path of an operation on a model whose id is escaped already.
pub fn path(segment: &str, operation: Operation, streamed: bool) -> Option<String> {
    let (name, _, _) = OPERATIONS.iter().find(|(_, of, streams)| (*of, *streams) == (operation, streamed))?;
    Some([MODEL, segment, "/", name].concat())
}

/// An id as one segment of a path: all but unreserved characters escaped, as SDKs do it.
pub fn segment(model: &str) -> String {
    escaped(model, b"-._~")
}

/// A text with all escaped but letters, digits and these.
pub(super) fn escaped(text: &str, plain: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
            escaped.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    escaped
}

/// Whether a path is one of this API, for errors to clients of whom nothing else is known.
pub fn is_path(path: &str) -> bool {
    path.starts_with(MODEL)
}

/// The exception that an AWS SDK makes of an error: the value of `x-amzn-errortype`.
///
/// A backend that is full and one that is away are both said by the names that SDKs try again for.
pub const fn exception(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 | 504 => "ModelTimeoutException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        500.. => "InternalServerException",
        _ => "ValidationException",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(path: &str) -> Option<(Operation, String, bool)> {
        match call(&Method::POST, path) {
            Call::Named(Named { operation, model, streamed }) => Some((operation, model.into(), streamed?)),
            _ => None,
        }
    }

    #[test]
    fn operations_are_told_by_the_last_segment() {
        let arn = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc";
        let escaped = "arn%3Aaws%3Abedrock%3Aus-west-2%3A123456789012%3Aapplication-inference-profile%2Fabc";
        for (path, expected) in [
            ("/model/openai.gpt-oss-120b-1:0/converse", Some((Operation::Converse, "openai.gpt-oss-120b-1:0", false))),
            ("/model/openai.gpt-oss-120b-1%3A0/converse-stream", Some((Operation::Converse, "openai.gpt-oss-120b-1:0", true))),
            ("/model/m/invoke", Some((Operation::InvokeModel, "m", false))),
            ("//model/m/invoke-with-response-stream/", Some((Operation::InvokeModel, "m", true))),
            ("/%6Dodel/m/count-tokens", Some((Operation::CountTokens, "m", false))),
            (&format!("/model/{escaped}/invoke"), Some((Operation::InvokeModel, arn, false))),
            (&format!("/model/{arn}/invoke"), Some((Operation::InvokeModel, arn, false))),
            ("/model/m/other", None),
            ("/model/invoke", None),
            ("/model//invoke", None),
            ("/models/m/invoke", None),
            ("/async-invoke", None),
            ("", None),
        ] {
            assert_eq!(
                named(path),
                expected.map(|(operation, model, streamed)| (operation, model.to_owned(), streamed)),
                "{path}"
            );
        }
        assert_eq!(call(&Method::GET, "/model/m/invoke"), Call::MethodNotAllowed { allow: "POST" });
        assert_eq!(call(&Method::GET, "/model/m/other"), Call::Stream);
    }

    #[test]
    fn ids_are_escaped_once() {
        assert_eq!(segment("openai.gpt-oss-120b-1:0"), "openai.gpt-oss-120b-1%3A0");
        assert_eq!(segment("arn:aws:x/é"), "arn%3Aaws%3Ax%2F%C3%A9");
        assert_eq!(path("m%3A0", Operation::Converse, true).as_deref(), Some("/model/m%3A0/converse-stream"));
        assert_eq!(path("m", Operation::Chat, false), None);
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_read_again(model in "[a-z0-9:/._ %é-]{1,30}") {
            prop_assume!(model.trim_matches('/') == model);
            let path = path(&segment(&model), Operation::InvokeModel, true).unwrap();
            prop_assert_eq!(named(&path), Some((Operation::InvokeModel, model, true)));
        }
    }
}
