//! What of a head crosses the proxy, in either direction.
//!
//! A field is either about the connection it came on, which ends here, or a credential, which is meant for the proxy alone, or it
//! passes untouched. The lists are short and closed on purpose; everything not named passes, because a gateway that knows every
//! field of every SDK is out of date the next morning.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::backend::{Backend, Credential};
use crate::dialect::Dialect;

// Names as constants, because `HeaderMap` reads a name that is given as text anew at every use.
/// The id that client, Windward and backend all log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Who served.
pub(super) const BACKEND: HeaderName = HeaderName::from_static("x-windward-backend");
/// In which region.
pub(super) const REGION: HeaderName = HeaderName::from_static("x-windward-region");
/// Why it was chosen.
pub(super) const DECISION: HeaderName = HeaderName::from_static("x-windward-decision");
/// How clean its grid was, in gCO2e/kWh.
pub(super) const INTENSITY: HeaderName = HeaderName::from_static("x-windward-carbon-intensity");
/// How long Windward itself took until the request was on its way, in microseconds.
pub(super) const OVERHEAD: HeaderName = HeaderName::from_static("x-windward-overhead-us");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes out every field that is about one connection, those named by `Connection` included.
///
/// `TE: trailers` is put back where the sender said so, and `Trailer` stays, because trailers are forwarded and hyper sends them
/// only when both are there.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(|name| name != TE && name != TRAILER)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// The one field in which a client of that dialect puts its credential.
pub(super) fn credential_field(dialect: Dialect) -> HeaderName {
    match dialect {
        Dialect::Openai | Dialect::Bedrock => AUTHORIZATION,
        Dialect::AzureOpenai => HeaderName::from_static("api-key"),
        Dialect::Anthropic => HeaderName::from_static("x-api-key"),
        Dialect::Gemini => HeaderName::from_static("x-goog-api-key"),
    }
}

/// Makes of a client's fields those that every backend may see: nothing about the connection, no credential, no word to Windward.
pub(super) fn cleaned(mut headers: HeaderMap) -> HeaderMap {
    strip_hop_by_hop(&mut headers);
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH, EXPECT] {
        headers.remove(name);
    }
    let private = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-")
            && (name.starts_with("x-windward-") || name.starts_with("x-amz-") || name == "x-api-key" || name == "x-goog-api-key")
            || name == "api-key"
    };
    // Most requests carry none of these, and looking costs less than collecting.
    if headers.keys().any(private) {
        let named: Vec<HeaderName> = headers.keys().filter(|name| private(name)).cloned().collect();
        for name in named {
            headers.remove(name);
        }
    }
    headers
}

/// Adds what one backend is to see: its name for itself and its own credential.
pub(super) fn addressed(headers: &mut HeaderMap, backend: &Backend, client_credential: Option<&HeaderValue>) {
    headers.insert(HOST, backend.origin.authority.clone());
    match &backend.credential {
        Credential::None => {}
        Credential::PassThrough => {
            if let Some(value) = client_credential {
                headers.insert(credential_field(backend.dialect), value.clone());
            }
        }
        Credential::Header(name, value) => {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Asks for bytes that can be read: the usage of a compressed answer could not be.
pub(super) fn ask_for_identity(headers: &mut HeaderMap) {
    headers.remove(ACCEPT_ENCODING);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_about_the_connection_ends_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-secret-hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, Trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn no_credential_of_a_client_leaves() {
        let headers = cleaned(map(&[
            ("authorization", "Bearer k"),
            ("x-api-key", "k"),
            ("api-key", "k"),
            ("x-goog-api-key", "k"),
            ("x-amz-security-token", "k"),
            ("cookie", "k"),
            ("proxy-authorization", "k"),
            ("x-windward-objective", "least_latency"),
            ("openai-organization", "org"),
        ]));
        assert_eq!(headers, map(&[("openai-organization", "org")]));
    }
}
