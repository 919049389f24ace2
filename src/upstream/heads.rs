//! Heads of responses as hyper has them, with the reason, for which `http` has no place.

use bytes::Bytes;
use http::{Response, response};
use hyper::ext::ReasonPhrase;

use crate::wire::message::{Message, ResponseHead};

/// The head of a response that hyper read, or of one that was meant for it.
pub fn head_of(mut parts: response::Parts) -> ResponseHead {
    let reason = parts.extensions.remove::<ReasonPhrase>().map(Bytes::from);
    ResponseHead { reason, ..parts.into() }
}

/// A response for hyper to write.
pub fn for_hyper<B>(mut message: Message<ResponseHead, B>) -> Response<B> {
    let reason = message.head.reason.take().and_then(|reason| ReasonPhrase::try_from(reason).ok());
    let mut response = Response::from(message);
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}
