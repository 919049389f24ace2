//! What can go wrong with one exchange, sorted by the one question a proxy has to answer: may the request be sent again?
//!
//! The sorting is done here and not from error texts further up, because only this layer knows whether a byte may have left.

use std::io;

use http::Request;

use super::SendBody;
use crate::wire::response::Invalid;

/// A cause of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How an exchange failed before there was a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendErrorKind {
    /// No connection: refused, unreachable, unknown name. Nothing was sent.
    Connect,
    /// This machine is out of descriptors, ports or buffers; says nothing about the backend. Nothing was sent.
    Exhausted,
    /// The connection did not stand within the backend's connect timeout. Nothing was sent.
    ConnectTimeout,
    /// The TLS handshake failed, a certificate that does not verify included. Nothing was sent.
    Tls,
    /// HTTP/2 was asked for and the backend does not speak it. Nothing was sent.
    NotHttp2,
    /// The connection closed before the request was taken up. Nothing was sent.
    SentNothing,
    /// The backend said that it did not process the request (HTTP/2 only). It was sent, and may be sent again.
    Refused,
    /// The request's own body failed while it was read: the client's doing, not the backend's.
    RequestBody,
    /// The connection broke, and the backend may have seen the request.
    Broken,
    /// What came back is no response head that may be passed on.
    InvalidHead,
}

impl SendErrorKind {
    /// Whether it is certain that the backend has not seen one byte of the request.
    pub const fn nothing_sent(self) -> bool {
        !matches!(self, Self::Refused | Self::RequestBody | Self::Broken | Self::InvalidHead)
    }

    /// Whether it is certain that the backend has not acted on the request, so that sending it again is sending it once.
    pub const fn nothing_done(self) -> bool {
        self.nothing_sent() || matches!(self, Self::Refused)
    }

    /// The word in log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Exhausted => "exhausted",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::NotHttp2 => "not_http2",
            Self::SentNothing => "sent_nothing",
            Self::Refused => "refused",
            Self::RequestBody => "request_body",
            Self::Broken => "broken",
            Self::InvalidHead => "invalid_head",
        }
    }
}

/// An exchange that ended without a response head. It prints kind and cause, never the request.
#[derive(thiserror::Error)]
#[error("{}", .kind.as_str())]
pub struct SendError {
    /// What went wrong.
    pub kind: SendErrorKind,
    /// The request, body untouched, whenever [`SendErrorKind::nothing_sent`]; its framing fields may have been set.
    pub request: Option<Box<Request<SendBody>>>,
    /// Whether it was sent over a connection that was open before. Then [`SendErrorKind::Broken`] without a byte of an answer mostly
    /// means that the backend closed an idle connection just as the request left.
    pub reused: bool,
    /// The cause.
    #[source]
    pub source: BoxError,
}

impl SendError {
    /// Without the request.
    pub(super) fn lost(kind: SendErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, request: None, reused: false, source: source.into() }
    }

    /// From hyper, after the request was taken up and before a head came.
    pub(super) fn from_hyper(error: hyper::Error, body_failed: bool) -> Self {
        let kind = if body_failed {
            SendErrorKind::RequestBody
        } else if error.is_parse() {
            SendErrorKind::InvalidHead
        } else if is_refused(&error) {
            SendErrorKind::Refused
        } else {
            SendErrorKind::Broken
        };
        Self::lost(kind, error)
    }
}

impl std::fmt::Debug for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.kind)
            .field("reused", &self.reused)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Why a response body broke.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// On a connection that hyper runs.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The connection.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The framing.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The request's own body failed while the response was on its way: the client's doing, not the backend's.
    #[error("the request body broke off")]
    Upload,
}

/// A connection that does not stand.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .kind.as_str())]
pub struct ConnectError {
    /// Which phase failed; always one with nothing sent.
    pub kind: SendErrorKind,
    /// The cause.
    #[source]
    pub source: BoxError,
}

impl ConnectError {
    pub(super) fn new(kind: SendErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: source.into() }
    }

    /// From the operating system, while connecting.
    pub(super) fn from_io(error: io::Error) -> Self {
        let kind = if is_shortage(&error) {
            SendErrorKind::Exhausted
        } else if error.kind() == io::ErrorKind::TimedOut {
            SendErrorKind::ConnectTimeout
        } else {
            SendErrorKind::Connect
        };
        Self::new(kind, error)
    }
}

impl From<ConnectError> for SendError {
    fn from(error: ConnectError) -> Self {
        Self { kind: error.kind, request: None, reused: false, source: error.source }
    }
}

impl SendError {
    /// With the request that could not be sent.
    pub(super) fn with_request(self, request: Box<Request<SendBody>>) -> Self {
        Self { request: Some(request), ..self }
    }
}

/// Whether an HTTP/2 peer has said that it did not process the stream: refused outright (RFC 9113, 8.7), or begun after the last one
/// that it took before going away in order.
fn is_refused(error: &hyper::Error) -> bool {
    let Some(cause) = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>()) else { return false };
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    let gone = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
    cause.is_remote() && (refused || gone)
}

/// Out of file descriptors (the process's or the machine's), local ports or memory for sockets.
fn is_shortage(error: &io::Error) -> bool {
    // EMFILE and ENFILE have these numbers on every Unix; std has no kind for them.
    matches!(error.raw_os_error(), Some(23 | 24))
        || matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
}
