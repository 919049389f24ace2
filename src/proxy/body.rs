//! A response body as the proxy sends it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::afterwards;
use super::relay::Metered;

/// What a body says when it is asked for more.
pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, Cut>>>;

/// A response body that has its time, also when nobody asks it for more: a client that hardly reads asks for nothing, and would
/// otherwise have a backend's place for as long as it likes.
pub trait Limited: http_body::Body {
    /// When it is to be let go of at the latest, by whoever passes it on.
    fn until(&self) -> Option<Instant>;
}

/// A response body as the proxy sends it.
#[derive(Debug)]
pub enum Body {
    /// Bytes of Windward's own.
    Fixed(http_body_util::Full<Bytes>),
    /// A backend's, metered.
    Relay(Relayed),
}

/// A metered body; when it is let go of, its books are closed. It is there until then.
#[derive(Debug)]
pub struct Relayed(Option<Box<Metered>>);

impl Relayed {
    pub(super) fn new(metered: Box<Metered>) -> Self {
        Self(Some(metered))
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if let Some(metered) = self.0.take() {
            afterwards::let_go(metered);
        }
    }
}

/// Why a body that was begun is cut.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The backend broke off.
    #[error("the backend broke off its response")]
    Upstream,
    /// The client broke off its request while it was answered.
    #[error("the client broke off its request")]
    Client,
    /// The backend sent nothing for too long, or the exchange took too long.
    #[error("the backend's response made no progress in time")]
    TimedOut,
}

/// What is here as a whole keeps nobody else waiting.
impl Limited for http_body_util::Full<Bytes> {
    fn until(&self) -> Option<Instant> {
        None
    }
}

impl Limited for Body {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Fixed(body) => body.until(),
            Self::Relay(body) => body.0.as_ref().and_then(|body| body.until()),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Fixed(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relay(body) => body.0.as_mut().map_or(Poll::Ready(None), |body| body.poll(cx)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fixed(body) => body.is_end_stream(),
            Self::Relay(body) => body.0.as_ref().is_none_or(|body| body.is_at_end()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fixed(body) => body.size_hint(),
            Self::Relay(body) => body.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint()),
        }
    }
}
