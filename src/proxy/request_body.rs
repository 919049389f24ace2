//! The body of a client's request, as the proxy is given it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http::header::UPGRADE;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::fed::Fed;
use crate::wire::message::RequestHead;

/// A request on its way through the phases.
pub(super) struct Received {
    pub(super) head: RequestHead,
    /// Until somebody takes it.
    pub(super) body: Option<RequestBody>,
    /// The connection's bytes, if it changes its protocol.
    pub(super) upgrade: Option<OnUpgrade>,
}

impl<B: Into<RequestBody>> From<Request<B>> for Received {
    fn from(mut request: Request<B>) -> Self {
        let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        Self { head: head.into(), body: Some(body.into()), upgrade }
    }
}

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// All of it.
    Whole(Bytes),
    /// What hyper reads, as it comes.
    Incoming(Incoming),
    /// What the connection reads without hyper, as it comes.
    Fed(Fed),
}

/// Why a request's body broke.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// On a connection that hyper runs.
    #[error("the request body broke off: {0}")]
    Hyper(#[source] hyper::Error),
    /// The connection.
    #[error("the request body broke off: {0}")]
    Io(#[source] io::Error),
}

impl From<Bytes> for RequestBody {
    fn from(whole: Bytes) -> Self {
        Self::Whole(whole)
    }
}

impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        Self::Incoming(incoming)
    }
}

impl From<Fed> for RequestBody {
    fn from(fed: Fed) -> Self {
        Self::Fed(fed)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(RequestBodyError::Hyper)))
            }
            Self::Fed(fed) => Pin::new(fed).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(RequestBodyError::Io))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Fed(fed) => fed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) => incoming.size_hint(),
            Self::Fed(fed) => fed.size_hint(),
        }
    }
}
