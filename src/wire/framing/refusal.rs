//! Why a message is not passed on, and what its sender is told.

use http::StatusCode;

/// What is wrong with a message, by the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// RFC 9112, 3: not `method SP target SP version CRLF`.
    #[error("the request line is not well formed")]
    RequestLine,
    /// RFC 9110, 9.1: a method that nobody serves; the names are case-sensitive.
    #[error("the method is not known here")]
    Method,
    /// The one makes a server repeat what it was sent, our credential included; the other asks for a tunnel past every rule.
    #[error("this method is not served here")]
    MethodNotAllowed,
    /// RFC 9112, 3.2: a target of a form that this method does not take, or with characters that no URI has.
    #[error("the request target is not well formed")]
    Target,
    /// RFC 9112, 3: longer than any that is served.
    #[error("the request target is too long")]
    TargetTooLong,
    /// RFC 9110, 2.5: another protocol than HTTP/1.0 and 1.1.
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken on this connection")]
    Version,
    /// RFC 9112, 2.2 and 5: a line that is no field, or that a lenient reader would see as two.
    #[error("a header field is not well formed")]
    Field,
    /// RFC 9112, 3.2: no host, several, none that could be one, or another one than in the target.
    #[error("exactly one valid Host is needed, and the same as in the target")]
    Host,
    /// RFC 9112, 6.3: no number, or several.
    #[error("Content-Length must be one number, and not stand beside Transfer-Encoding")]
    ContentLength,
    /// More than can be counted.
    #[error("the request body is too long")]
    BodyTooLong,
    /// RFC 9112, 6.3: whose body has no certain end.
    #[error("the only Transfer-Encoding of a request is chunked, once, and under HTTP/1.1")]
    TransferEncoding,
    /// RFC 9112, 6.1: a coding that is known and not served.
    #[error("the only Transfer-Encoding served here is chunked")]
    Coding,
    /// RFC 9110, 10.1.1.
    #[error("the only expectation that can be met is 100-continue")]
    Expectation,
    /// RFC 6585, 5.
    #[error("the request head is too large or has too many fields")]
    HeadTooLarge,
    /// RFC 9112, 7.1: a size that is none, a malformed extension, or data that do not end where they were to.
    #[error("the chunked body is not well formed")]
    Chunk,
    /// RFC 9110, 6.5.1: a trailer that is no field, or that may only stand in a head.
    #[error("a trailer field is not well formed, or not one that may be a trailer")]
    Trailer,
}

impl Refusal {
    /// The status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::RequestLine
            | Self::Target
            | Self::Field
            | Self::Host
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::Chunk
            | Self::Trailer => StatusCode::BAD_REQUEST,
            Self::Method | Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// The stable code, for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "bad_request_line",
            Self::Method => "unknown_method",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Target => "bad_target",
            Self::TargetTooLong => "target_too_long",
            Self::Version => "unknown_version",
            Self::Field => "bad_field",
            Self::Host => "bad_host",
            Self::ContentLength => "bad_content_length",
            Self::BodyTooLong => "body_too_large",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::Coding => "unknown_transfer_encoding",
            Self::Expectation => "unknown_expectation",
            Self::HeadTooLarge => "head_too_large",
            Self::Chunk => "bad_chunk",
            Self::Trailer => "bad_trailer",
        }
    }
}
