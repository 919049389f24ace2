//! Requests and responses as the proxy works with them, whoever read them and whoever will write them.

use bytes::Bytes;
use http::{Method, StatusCode, Uri, Version, request, response};

use super::fields::Fields;

/// A head and the way to the rest.
#[derive(Debug)]
pub struct Message<H, B> {
    /// The head.
    pub head: H,
    /// The body.
    pub body: B,
}

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target.
    pub target: Uri,
    /// The version of HTTP in which it came.
    pub version: Version,
    /// The fields.
    pub fields: Fields,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The version of HTTP in which it came.
    pub version: Version,
    /// The reason, where it is another than the usual one.
    pub reason: Option<Bytes>,
    /// The fields.
    pub fields: Fields,
}

impl<H, B> Message<H, B> {
    /// The same with another body.
    pub fn map<C>(self, make: impl FnOnce(B) -> C) -> Message<H, C> {
        Message { head: self.head, body: make(self.body) }
    }
}

impl From<request::Parts> for RequestHead {
    fn from(parts: request::Parts) -> Self {
        let fields = Fields::of_map(&parts.headers);
        Self { method: parts.method, target: parts.uri, version: parts.version, fields }
    }
}

impl From<response::Parts> for ResponseHead {
    fn from(parts: response::Parts) -> Self {
        Self { status: parts.status, version: parts.version, reason: None, fields: Fields::of_map(&parts.headers) }
    }
}

impl<B> From<http::Response<B>> for Message<ResponseHead, B> {
    fn from(response: http::Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self { head: head.into(), body }
    }
}

impl<B> From<Message<RequestHead, B>> for http::Request<B> {
    fn from(message: Message<RequestHead, B>) -> Self {
        let Message { head, body } = message;
        let mut request = Self::new(body);
        *request.headers_mut() = head.fields.to_map();
        *request.method_mut() = head.method;
        *request.uri_mut() = head.target;
        *request.version_mut() = head.version;
        request
    }
}

impl<B> From<Message<ResponseHead, B>> for http::Response<B> {
    fn from(message: Message<ResponseHead, B>) -> Self {
        let Message { head, body } = message;
        let mut response = Self::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.fields.to_map();
        response
    }
}
