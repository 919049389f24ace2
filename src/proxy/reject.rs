//! Every fault becomes a response here, in the client's dialect, and nowhere else.
//!
//! An error answers four questions: whose fault it is, whether it is worth another try, what the client sees, and what the log
//! says. The client sees a stable code and a sentence without inner names; the log has the code and, on the attempt, the cause.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::exchange::Exchange;
use super::narrow;
use crate::decide::{NoCandidate, Standing};
use crate::dialect::Dialect;
use crate::wire::bedrock::{self, ERROR_TYPE};
use crate::wire::error::error_body;
use crate::wire::sigv4::Mistrust;
use crate::wire::translate::Refusal;

/// When another try makes sense where nobody said: the places that were taken are mostly given back within a second or so.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Why a request got no answer from a backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No route takes the path.
    #[error("no route takes this path")]
    NoRoute,
    /// The gateway has keys, and the request brought none.
    #[error("this gateway asks for a key: send it as `Authorization: Bearer`, `x-api-key`, `api-key` or `x-goog-api-key`")]
    NoKey,
    /// What the request brought is none of them.
    #[error("the key that was sent is none of this gateway's")]
    WrongKey,
    /// It is not signed with the key that it names.
    #[error("{0}")]
    WrongSignature(Mistrust),
    /// Its key does not open the route.
    #[error("this key does not open this route")]
    KeyNotAllowed,
    /// The path is known with another method.
    #[error("this path does not take that method")]
    MethodNotAllowed {
        /// What it takes.
        allow: &'static str,
    },
    /// The target cannot be forwarded as it is.
    #[error("{0}")]
    BadTarget(&'static str),
    /// What it asks for beyond its policy is nothing that can be asked for.
    #[error("{0}")]
    BadNarrowing(&'static str),
    /// It came through here before.
    #[error("the request came back to a gateway that it had passed: a backend's URL leads to one")]
    Loop,
    /// The head is ambiguous.
    #[error("{0}")]
    Framing(crate::wire::framing::Refusal),
    /// The body is no request.
    #[error("{0}")]
    Malformed(crate::wire::request::Malformed),
    /// The body's encoding cannot be read, so the model cannot be known.
    #[error("a request body with a content-encoding cannot be routed; send it as it is")]
    Encoded,
    /// The body is over the limit.
    #[error("the request body is over the limit of {limit} bytes")]
    TooLarge {
        /// `limits.body`, or `limits.upload` of one that is not held.
        limit: u64,
    },
    /// The client stopped sending its body.
    #[error("the request body made no progress")]
    BodyStalled,
    /// The client's body broke.
    #[error("the request body was not well formed")]
    BodyBroken,
    /// The client left within its body. It may have closed only its own side, so it is answered; nobody refused it.
    #[error("the request body ended early")]
    ClientGone,
    /// It cannot be said in the words of whoever would serve it.
    #[error("{0}")]
    Untranslatable(Box<Refusal>),
    /// Nobody on the route serves the model.
    #[error("no backend of this route serves the model")]
    UnknownModel,
    /// Too many requests, or too many bytes of them, are being worked on.
    #[error("the gateway is working on as much as it may; try again")]
    Busy,
    /// It would come too late everywhere, and its policy has it refused then.
    #[error("all backends are too busy to answer in time")]
    Shed,
    /// Every candidate is excluded.
    #[error("{why}")]
    NoCandidate {
        /// Why not.
        why: NoCandidate,
        /// When it may be otherwise.
        after: Duration,
    },
    /// No backend could be reached.
    #[error("no backend could be reached")]
    Unreachable,
    /// A backend broke the exchange or spoke no HTTP.
    #[error("the backend gave no valid answer")]
    BadGateway,
    /// A backend refused the credential that the gateway has for it.
    #[error("the backend refused this gateway's own credential, which is not the client's and has to be mended by the operator")]
    CredentialRefused,
    /// The gateway has no credential for a backend at present.
    #[error("this gateway has no valid token for the backend, which has to be mended by the operator")]
    NoToken,
    /// What the request names is kept by a backend that is no more.
    #[error("what this request names was made by a backend that is no longer there")]
    PinGone,
    /// What the request names is kept by a backend that it may not use.
    #[error("what this request names is kept by a backend that this route, key or policy does not allow")]
    PinElsewhere,
    /// A backend did not begin its answer in time.
    #[error("the backend did not answer in time")]
    UpstreamTimeout,
}

impl Error {
    /// Why nobody may serve it: where only those are left that it cannot be translated for, or that its client left out, that is what
    /// the client can mend.
    pub(super) fn no_candidate(why: NoCandidate, x: &Exchange, now: Instant) -> Self {
        let is_for_ever = matches!(why, NoCandidate::AllExcluded { no_capacity: 0, .. });
        let untranslatable = || {
            let any = x.candidates.iter().any(|candidate| candidate.standing == Standing::Untranslatable);
            any.then(|| x.untranslatable()).flatten()
        };
        let mendable = || untranslatable().or_else(|| narrow::left_nobody(x, x.candidates.iter().map(|it| it.backend)));
        let refusal = is_for_ever.then(mendable).flatten();
        refusal.unwrap_or_else(|| Self::NoCandidate { why, after: room_after(x, now) })
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Framing(refusal) => refusal.status(),
            Self::NoRoute | Self::UnknownModel | Self::PinGone => StatusCode::NOT_FOUND,
            Self::NoKey | Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::KeyNotAllowed | Self::WrongSignature(_) | Self::PinElsewhere => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadTarget(_)
            | Self::BadNarrowing(_)
            | Self::Malformed(_)
            | Self::Untranslatable(_)
            | Self::BodyBroken
            | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::Shed => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::NoCandidate { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::BadGateway | Self::CredentialRefused | Self::NoToken => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRoute => "route_not_found",
            Self::NoKey => "missing_api_key",
            Self::WrongKey => "invalid_api_key",
            Self::WrongSignature(_) => "invalid_signature",
            Self::KeyNotAllowed => "key_not_allowed",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BadTarget(_) => "bad_target",
            Self::BadNarrowing(_) => "bad_narrowing",
            Self::Loop => "loop_detected",
            Self::Framing(refusal) => refusal.code(),
            Self::Malformed(crate::wire::request::Malformed::NoModel) => "model_missing",
            Self::Malformed(_) => "malformed_body",
            Self::Encoded => "encoded_body",
            Self::TooLarge { .. } => "body_too_large",
            Self::BodyStalled => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::ClientGone => "client_gone",
            Self::Untranslatable(_) => "untranslatable",
            Self::UnknownModel => "model_not_found",
            Self::Busy => "overloaded",
            Self::Shed => "shed",
            Self::NoCandidate { .. } => "no_candidate",
            Self::Unreachable => "backend_unreachable",
            Self::BadGateway => "bad_gateway",
            Self::CredentialRefused => "backend_credential_refused",
            Self::PinGone => "pinned_backend_gone",
            Self::PinElsewhere => "pinned_elsewhere",
            Self::NoToken => "backend_token_missing",
            Self::UpstreamTimeout => "backend_timeout",
        }
    }

    /// The field that it is about, where it is about one.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Untranslatable(refusal) => Some(&refusal.field),
            _ => None,
        }
    }

    /// After how long another try makes sense, where it does.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Shed => Some(SOON),
            // Where nobody may serve it, waiting changes nothing.
            Self::NoCandidate { why: NoCandidate::AllExcluded { no_capacity: 0, .. } | NoCandidate::NoneServes, .. } => None,
            Self::NoCandidate { after, .. } => Some(*after),
            _ => None,
        }
    }

    /// Whether the connection cannot be used again, whatever of a body was read: it will not be read to its end, or nothing that
    /// follows a target like that one should be believed.
    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::BadTarget(_) | Self::TooLarge { .. } | Self::BodyStalled | Self::BodyBroken | Self::ClientGone)
    }

    /// The response: JSON in the client's dialect. `closes` where the rest of the client's body is left unread, so that the connection
    /// cannot be used again: a client that is told so reads its answer, and one that is not may see its next request fail.
    pub fn response(&self, dialect: Dialect, closes: bool) -> Response<Bytes> {
        let mut response = Response::new(error_body(dialect, self.status(), self.code(), &self.to_string(), self.param()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if dialect == Dialect::Bedrock {
            let by_status = bedrock::exception(self.status());
            let name = if matches!(self, Self::WrongSignature(_)) { "InvalidSignatureException" } else { by_status };
            headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(self, Self::NoKey | Self::WrongKey) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000) as u64));
        }
        if closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// When the first of the candidates without room may have some: when it said, or soon where it is only full of our own requests.
fn room_after(x: &Exchange, now: Instant) -> Duration {
    let all = x.candidates.iter().zip(x.deployments.iter().flat_map(|all| all.iter()));
    let full = all.filter(|(candidate, _)| candidate.standing == Standing::NoCapacity);
    let spans = full.map(|(candidate, deployment)| {
        let live = x.snapshot.live(candidate.backend);
        let of_model = live.model(&deployment.model).map_or(0, |model| model.full_for_ms(live.millis(now)));
        let longest = live.full_for(now).unwrap_or_default().max(Duration::from_millis(of_model));
        if longest.is_zero() { SOON } else { longest }
    });
    spans.min().unwrap_or(SOON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_speaks_the_clients_dialect_and_says_what_to_do() {
        let response = Error::Busy.response(Dialect::Openai, false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
        let response = Error::Shed.response(Dialect::Bedrock, false);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["x-amzn-errortype"], "ThrottlingException");
        assert_eq!(*response.body(), r#"{"message":"all backends are too busy to answer in time"}"#);
    }

    #[test]
    fn a_connection_with_an_unread_body_is_closed() {
        let error = Error::TooLarge { limit: 10 };
        assert_eq!(error.response(Dialect::Openai, true).headers()["connection"], "close");
        assert!(!error.response(Dialect::Openai, false).headers().contains_key("connection"));
    }
}
