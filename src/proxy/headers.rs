//! What of a head crosses the proxy, in either direction.
//!
//! A field is either about the connection it came on, which ends here, or a credential, which is meant for the proxy alone
//! ([`crate::tables::WITHHELD_FIELDS`], and whatever field the plan has a backend's credential in), or it passes untouched.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body::Frame;
use smallvec::SmallVec;

use super::provenance::Provenance;
use crate::backend::{Backend, Credential};
use crate::dialect::Dialect;
use crate::tables::withholds_field;
use crate::wire::fields::{Fields, Name, Names};
use crate::wire::response::keep_trailers;
use crate::wire::sigv4;

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

/// The fates of names, with those of the known ones told once, by the rule itself.
struct Rule {
    of: fn(&str) -> Fate,
    ending: Names,
}

impl Rule {
    fn new(of: fn(&str) -> Fate) -> Self {
        let ending: Vec<Name> = Name::ALL.iter().copied().filter(|name| of(name.as_str()) != Fate::Passes).collect();
        Self { of, ending: Names::of(&ending) }
    }

    /// Whether a field passes whose name is not known, however it was sent. It is a token, and so of ASCII.
    fn passes(&self, name: &[u8]) -> bool {
        let lower: SmallVec<[u8; 64]> = name.iter().map(u8::to_ascii_lowercase).collect();
        std::str::from_utf8(&lower).is_ok_and(|name| (self.of)(name) == Fate::Passes)
    }
}

static OF_A_BACKEND: LazyLock<Rule> = LazyLock::new(|| Rule::new(of_a_backend));
static OF_A_CLIENT: LazyLock<Rule> = LazyLock::new(|| Rule::new(of_a_client));
static OF_A_READER: LazyLock<Rule> = LazyLock::new(|| Rule::new(of_a_reader));

/// Takes out what does not pass, what `Connection` names, and of `more` whatever is there.
fn sift(fields: &mut Fields, rule: &Rule, mut ending: Names, more: &[HeaderName]) {
    let (trailers, mut named) = (asks_for_trailers(fields), Vec::new());
    if fields.has(Name::Connection) {
        let names = fields.texts(Name::Connection).flat_map(|value| value.split(',')).map(|name| name.trim().as_bytes());
        for name in names {
            match Name::of(name) {
                // These have a fate of their own.
                Some(Name::Te | Name::Trailer) => {}
                Some(known) => ending.add(known),
                None => named.push(name.to_ascii_lowercase()),
            }
        }
    }
    // In order, since a head has room for thousands of names.
    named.sort_unstable();
    let is_named = |name: &[u8]| !named.is_empty() && named.binary_search(&name.to_ascii_lowercase()).is_ok();
    fields.sift(ending, |name| rule.passes(name) && !is_named(name));
    for name in more {
        fields.remove(name);
    }
    if trailers {
        fields.set_text(Name::Te, "trailers");
    }
}

pub(super) fn asks_for_trailers(fields: &Fields) -> bool {
    let mut codings = fields.texts(Name::Te).flat_map(|value| value.split(','));
    codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Takes out of a backend's fields every one that is about its connection, those named by `Connection` included, and what only this
/// Windward says to its clients.
///
/// `TE: trailers` is put back where the sender said so, and `Trailer` stays for a client that `takes_trailers`: they are forwarded to
/// it, and over HTTP/1.1 hyper sends those that are named there. No other client gets any, or is told of them.
pub(super) fn strip_hop_by_hop(fields: &mut Fields, takes_trailers: bool) {
    let mut ending = OF_A_BACKEND.ending;
    if !takes_trailers {
        ending.add(Name::Trailer);
    }
    sift(fields, &OF_A_BACKEND, ending, &[]);
}

/// The one field in which a client of that dialect puts its credential.
pub(super) const fn credential_field(dialect: Dialect) -> Name {
    match dialect {
        Dialect::Openai | Dialect::Bedrock => Name::Authorization,
        Dialect::AzureOpenai => Name::ApiKey,
        Dialect::Anthropic => Name::XApiKey,
        Dialect::Gemini => Name::XGoogApiKey,
    }
}

/// Makes of a client's fields those that every backend may see: nothing about the connection, no credential, no word to Windward.
/// `more` are fields in which this plan has a backend's credential, under names that nobody else gives one.
pub(super) fn clean(fields: &mut Fields, more: &[HeaderName]) {
    sift(fields, &OF_A_CLIENT, OF_A_CLIENT.ending, more);
}

/// The same for a call whose body is collected and whose answer is read.
pub(super) fn clean_to_read(fields: &mut Fields, more: &[HeaderName]) {
    sift(fields, &OF_A_READER, OF_A_READER.ending, more);
}

/// What of the trailers of a client's body may go on. A field that must not come so late is none there, and no credential leaves here
/// either.
pub(super) fn cleaned_frame(frame: Frame<Bytes>, more: &[HeaderName]) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            keep_trailers(&mut trailers);
            let mut fields = Fields::of_map(&trailers);
            clean(&mut fields, more);
            Frame::trailers(fields.to_map())
        }
        Err(frame) => frame,
    }
}

/// Takes the key out that a browser, whose WebSocket can set no other field, offers as a protocol to the realtime API.
pub(super) fn strip_protocol_key(fields: &mut Fields) {
    let is_key = |protocol: &str| protocol.trim_ascii_start().starts_with("openai-insecure-api-key.");
    let left = |text: &str| {
        let left: Vec<&str> = text.split(',').filter(|protocol| !is_key(protocol)).map(str::trim).collect();
        HeaderValue::from_str(&left.join(", ")).ok().filter(|value| !value.is_empty())
    };
    let offered: Vec<HeaderValue> = fields.texts(Name::SecWebsocketProtocol).filter_map(left).collect();
    fields.remove(Name::SecWebsocketProtocol);
    for value in offered {
        fields.append(Name::SecWebsocketProtocol, &value);
    }
}

/// Adds what one backend is to see: its name for itself, its own credential, and who the client is if it may know.
pub(super) fn addressed(
    fields: &mut Fields,
    backend: &Backend,
    client_credential: Option<&HeaderValue>,
    provenance: Option<&Provenance>,
) {
    fields.set(Name::Host, &backend.origin.authority);
    if let Some(provenance) = provenance.filter(|_| backend.forward_client) {
        provenance.tell(fields);
    }
    match &backend.credential {
        // These are set when all else is there.
        Credential::None | Credential::SigV4(_) | Credential::Renewed(_) => {}
        Credential::PassThrough => {
            if let Some(value) = client_credential {
                fields.set(credential_field(backend.dialect), value);
            }
        }
        Credential::Header(name, value) => fields.set(name, value),
    }
}

/// Takes out again what the next backend may not see.
pub(super) fn unaddressed(fields: &mut Fields, backend: &Backend) {
    if backend.forward_client {
        Provenance::take_back(fields);
    }
    match &backend.credential {
        Credential::None => {}
        Credential::PassThrough => fields.remove(credential_field(backend.dialect)),
        Credential::Header(name, _) => fields.remove(name),
        Credential::Renewed(how) => fields.remove(&how.name),
        Credential::SigV4(_) => {
            fields.remove(Name::Authorization);
            fields.remove(&sigv4::DATE);
            fields.remove(&sigv4::SECURITY_TOKEN);
        }
    }
}

/// What of trailers may be passed on.
pub(super) fn kept_trailers(trailers: Frame<Bytes>) -> Option<Frame<Bytes>> {
    let mut fields = trailers.into_trailers().ok()?;
    keep_trailers(&mut fields);
    (!fields.is_empty()).then(|| Frame::trailers(fields))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> Fields {
        Fields::of_map(&map(fields))
    }

    #[test]
    fn what_is_about_the_connection_ends_here() {
        let mut headers = fields(&[
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
        let mut silent = headers.clone();
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(headers.to_map(), map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
        strip_hop_by_hop(&mut silent, false);
        assert_eq!(silent.to_map(), map(&[("te", "trailers"), ("accept", "*/*")]));
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
        let mut cleaned = self::fields(&fields);
        clean(&mut cleaned, &own);
        assert_eq!(cleaned.to_map(), map(&passing));
        let mut cleaned = self::fields(&fields);
        clean_to_read(&mut cleaned, &own);
        assert_eq!(cleaned.to_map(), map(&passing[1..]));
    }

    #[test]
    fn a_name_has_the_same_fate_known_or_not() {
        for rule in [&OF_A_BACKEND, &OF_A_CLIENT, &OF_A_READER] {
            for name in Name::ALL {
                let upper = name.as_str().to_ascii_uppercase();
                assert!(rule.ending.has(*name) != rule.passes(upper.as_bytes()), "{upper}");
            }
        }
    }

    #[test]
    fn a_key_among_the_protocols_of_a_websocket_stays_here() {
        let mut headers = fields(&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-1,openai-beta.realtime-v1")]);
        strip_protocol_key(&mut headers);
        assert_eq!(headers.to_map(), map(&[("sec-websocket-protocol", "realtime, openai-beta.realtime-v1")]));
        let mut headers = fields(&[("sec-websocket-protocol", "openai-insecure-api-key.sk-1")]);
        strip_protocol_key(&mut headers);
        assert!(headers.is_empty());
    }
}
