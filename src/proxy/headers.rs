//! What of a head crosses the proxy, in either direction.
//!
//! A field is either about the connection it came on, which ends here, or a credential, which is meant for the proxy alone
//! ([`crate::tables::WITHHELD_FIELDS`], and whatever field the plan has a backend's credential in), or it passes untouched.

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL,
    SERVER, TE, TRAILER, USER_AGENT,
};
use http_body::Frame;
use smallvec::SmallVec;

use super::provenance::Provenance;
use crate::backend::{Backend, Credential};
use crate::dialect::Dialect;
use crate::tables::withholds_field;
use crate::wire::response::keep_trailers;
use crate::wire::sigv4;

// Names as constants, because `HeaderMap` reads a name that is given as text anew at every use.
/// The id that client, Windward and backend all log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What AWS calls it, by which its own logs know a request.
pub(super) const AWS_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
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

/// A number as a value. The conversion that there is makes a buffer that could grow, and shares it.
pub(super) fn number(value: u64) -> HeaderValue {
    HeaderValue::from_str(itoa::Buffer::new().format(value)).unwrap_or_else(|_| HeaderValue::from(value))
}

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It passes.
    Passes,
    /// It ends here.
    Ends,
    /// It ends here, and so do the fields that it names.
    Names,
    /// Of it `trailers` passes.
    Trailers,
}

/// What becomes of a field that is about one connection.
fn hop_by_hop(name: &str) -> Fate {
    match name {
        "connection" => Fate::Names,
        "te" => Fate::Trailers,
        "keep-alive" | "proxy-connection" | "proxy-authenticate" | "transfer-encoding" | "upgrade" => Fate::Ends,
        _ => Fate::Passes,
    }
}

/// What becomes of a backend's field. `x-windward-*` is what this proxy says of its choice: one behind it, or a liar, is not heard.
fn of_a_backend(name: &str) -> Fate {
    if name.starts_with("x-windward-") { Fate::Ends } else { hop_by_hop(name) }
}

/// What becomes of a client's field: as above, and no credential leaves, be it for this gateway or for one that stands before it,
/// nor a word that was meant for Windward, nor one about the client's own network. `Host` is another one for each backend, and is
/// replaced there, and so is `Via` ([`super::provenance::mark`]).
fn of_a_client(name: &str) -> Fate {
    match name {
        "content-length" | "expect" => Fate::Ends,
        _ if withholds_field(name) => Fate::Ends,
        _ => hop_by_hop(name),
    }
}

/// What becomes of a field of a call whose body is collected and whose answer is read: the usage of a compressed one could not be.
/// The length is the collected body's in any case, and is replaced in its place.
fn of_a_reader(name: &str) -> Fate {
    match name {
        // Beside it none of these is a WebSocket, in whose protocols a browser's client puts its key.
        "accept-encoding" | "sec-websocket-protocol" => Fate::Ends,
        "content-length" => Fate::Passes,
        _ => of_a_client(name),
    }
}

/// Takes out what does not pass. One look at every name costs less than a search for each that there might be.
fn sift(headers: &mut HeaderMap, fate: fn(&str) -> Fate) {
    let mut ending: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for name in headers.keys() {
        // What nearly every head has, known without its text.
        let passes = matches!(*name, ACCEPT | CONTENT_TYPE | DATE | HOST | SERVER | USER_AGENT);
        match if passes { Fate::Passes } else { fate(name.as_str()) } {
            Fate::Passes => {}
            Fate::Names => {
                ending.push(name.clone());
                ending.extend(named(headers));
            }
            Fate::Trailers if asks_for_trailers(headers) => {}
            Fate::Ends | Fate::Trailers => ending.push(name.clone()),
        }
    }
    for name in ending {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The fields that `Connection` names. `TE` and `Trailer` have a fate of their own.
fn named(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    names.filter(|name| name != TE && name != TRAILER)
}

pub(super) fn asks_for_trailers(headers: &HeaderMap) -> bool {
    if !headers.contains_key(TE) {
        return false;
    }
    let mut codings = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Takes out of a backend's fields every one that is about its connection, those named by `Connection` included, and what only this
/// Windward says to its clients.
///
/// `TE: trailers` is put back where the sender said so, and `Trailer` stays, because trailers are forwarded and hyper sends them
/// only when both are there.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    sift(headers, of_a_backend);
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
/// `more` are fields in which this plan has a backend's credential, under names that nobody else gives one.
pub(super) fn cleaned(headers: HeaderMap, more: &[HeaderName]) -> HeaderMap {
    without(headers, of_a_client, more)
}

/// The same for a call whose body is collected and whose answer is read.
pub(super) fn cleaned_to_read(headers: HeaderMap, more: &[HeaderName]) -> HeaderMap {
    without(headers, of_a_reader, more)
}

fn without(mut headers: HeaderMap, fate: fn(&str) -> Fate, more: &[HeaderName]) -> HeaderMap {
    sift(&mut headers, fate);
    for name in more {
        headers.remove(name);
    }
    headers
}

/// What of the trailers of a client's body may go on. A field that must not come so late is none there, and no credential leaves here
/// either.
pub(super) fn cleaned_frame(frame: Frame<Bytes>, more: &[HeaderName]) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            keep_trailers(&mut trailers);
            Frame::trailers(cleaned(trailers, more))
        }
        Err(frame) => frame,
    }
}

/// Takes the key out that a browser, whose WebSocket can set no other field, offers as a protocol to the realtime API.
pub(super) fn strip_protocol_key(headers: &mut HeaderMap) {
    let is_key = |protocol: &str| protocol.trim_ascii_start().starts_with("openai-insecure-api-key.");
    let offered: Vec<HeaderValue> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for value in offered {
        let Ok(text) = value.to_str() else { continue };
        let left: Vec<&str> = text.split(',').filter(|protocol| !is_key(protocol)).map(str::trim).collect();
        if let Some(value) = HeaderValue::from_str(&left.join(", ")).ok().filter(|value| !value.is_empty()) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Adds what one backend is to see: its name for itself, its own credential, and who the client is if it may know.
pub(super) fn addressed(
    headers: &mut HeaderMap,
    backend: &Backend,
    client_credential: Option<&HeaderValue>,
    provenance: Option<&Provenance>,
) {
    headers.insert(HOST, backend.origin.authority.clone());
    if let Some(provenance) = provenance.filter(|_| backend.forward_client) {
        provenance.tell(headers);
    }
    match &backend.credential {
        // A signature is made when all else is there.
        Credential::None | Credential::SigV4(_) => {}
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

/// Takes out again what the next backend may not see.
pub(super) fn unaddressed(headers: &mut HeaderMap, backend: &Backend) {
    if backend.forward_client {
        Provenance::take_back(headers);
    }
    match &backend.credential {
        Credential::None => {}
        Credential::PassThrough => {
            headers.remove(credential_field(backend.dialect));
        }
        Credential::Header(name, _) => {
            headers.remove(name);
        }
        Credential::SigV4(_) => {
            for name in [AUTHORIZATION, sigv4::DATE, sigv4::SECURITY_TOKEN] {
                headers.remove(name);
            }
        }
    }
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
            ("x-windward-carbon-intensity", "1"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn no_credential_of_a_client_leaves() {
        let fields = [
            ("authorization", "Bearer k"),
            ("x-api-key", "k"),
            ("api-key", "k"),
            ("x-goog-api-key", "k"),
            ("x-amz-security-token", "k"),
            ("x-amzn-oidc-accesstoken", "k"),
            ("x-ms-token-aad-access-token", "k"),
            ("x-goog-iap-jwt-assertion", "k"),
            ("ocp-apim-subscription-key", "k"),
            ("cf-access-jwt-assertion", "k"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-access-token", "k"),
            ("x-real-ip", "192.0.2.1"),
            ("true-client-ip", "192.0.2.1"),
            ("cookie", "k"),
            ("proxy-authorization", "k"),
            ("x-windward-objective", "least_latency"),
            ("x-tenant-pass", "k"),
            ("accept-encoding", "gzip"),
            ("connection", "openai-beta"),
            ("openai-beta", "1"),
            ("openai-organization", "org"),
            ("x-amzn-bedrock-guardrailidentifier", "g"),
            ("x-stainless-lang", "python"),
        ];
        let passing = [
            ("accept-encoding", "gzip"),
            ("openai-organization", "org"),
            ("x-amzn-bedrock-guardrailidentifier", "g"),
            ("x-stainless-lang", "python"),
        ];
        let own = [HeaderName::from_static("x-tenant-pass")];
        assert_eq!(cleaned(map(&fields), &own), map(&passing));
        assert_eq!(cleaned_to_read(map(&fields), &own), map(&passing[1..]));
    }

    #[test]
    fn what_passes_without_a_look_would_pass_with_one() {
        for name in [ACCEPT, CONTENT_TYPE, DATE, HOST, SERVER, USER_AGENT] {
            for fate in [of_a_backend, of_a_client, of_a_reader] {
                assert!(fate(name.as_str()) == Fate::Passes, "{name}");
            }
        }
    }

    #[test]
    fn a_key_among_the_protocols_of_a_websocket_stays_here() {
        let mut headers = map(&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-1,openai-beta.realtime-v1")]);
        strip_protocol_key(&mut headers);
        assert_eq!(headers, map(&[("sec-websocket-protocol", "realtime, openai-beta.realtime-v1")]));
        let mut headers = map(&[("sec-websocket-protocol", "openai-insecure-api-key.sk-1")]);
        strip_protocol_key(&mut headers);
        assert_eq!(headers, HeaderMap::new());
    }
}
