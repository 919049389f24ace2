//! What a backend is told of where a request comes from.
//!
//! Every backend learns that it came through Windward, and of which trace it is a part. Who the client is is nobody's business unless
//! the configuration makes it so: most backends are somebody else's, and an address is personal data. So whatever the client's side
//! says of itself (`Forwarded`, `X-Forwarded-For` and their kin) ends here, and for a backend with `forward_client` is written
//! anew. Only of a trusted proxy is the word taken.
//!
//! Of a client's `Via` only what Windwards wrote goes on, for that names no place: RFC 9110 (7.6.3) wants a gateway to add itself, and
//! lets one that guards a network keep that network's names. It is what ends a loop, which would otherwise run until every place
//! for a request is taken.

use std::net::SocketAddr;

use http::{HeaderValue, Version};

use super::id::Id;
use super::reject::Error;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::RequestHead;

/// Through whom it came, nearest last.
const FORWARDED_FOR: Name = Name::XForwardedFor;
/// Whether the client used TLS.
const FORWARDED_PROTO: Name = Name::XForwardedProto;
/// What the client called the server.
const FORWARDED_HOST: Name = Name::XForwardedHost;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it is a proxy whose word on its own clients is taken.
    pub trusted: bool,
}

/// Windward's entry in the `Via` of an answer that came in that version of HTTP.
pub(super) fn via(version: Version) -> HeaderValue {
    /// Constants, because such a value is looked through wherever it is made.
    const OF_10: HeaderValue = HeaderValue::from_static("1.0 windward");
    const OF_11: HeaderValue = HeaderValue::from_static("1.1 windward");
    const OF_2: HeaderValue = HeaderValue::from_static("2 windward");
    match version {
        Version::HTTP_10 => OF_10,
        Version::HTTP_2 => OF_2,
        _ => OF_11,
    }
}

/// The most Windwards before this one. Two stand behind each other in some places, and three hardly anywhere; a loop through several
/// proxies that are behind one name is ended here if none of them sees itself.
const MOST_HOPS: usize = 8;

/// The name of this run of Windward in the `Via` of a request, so that it knows one that comes back: a pseudonym, since its host is
/// nobody's business.
#[derive(Debug)]
pub(super) struct Pseudonym {
    name: String,
    /// The whole field, for requests that came by HTTP/1.0, 1.1 and 2.
    fields: [HeaderValue; 3],
}

impl Pseudonym {
    pub(super) fn new(run: u32) -> Self {
        let name = format!("windward-{run:08x}");
        let field = |version| HeaderValue::from_str(&format!("{version} {name}"));
        let fields = ["1.0", "1.1", "2"].map(|version| field(version).unwrap_or_else(|_| via(Version::HTTP_11)));
        Self { name, fields }
    }

    fn field(&self, version: Version) -> &HeaderValue {
        let [http10, http11, http2] = &self.fields;
        match version {
            Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        }
    }

    /// The field to send on with a request that came with `given`; `None` when it has been here, or through too many.
    fn after(&self, version: Version, given: &Fields) -> Option<HeaderValue> {
        let entries = given.texts(Name::Via).flat_map(|value| value.split(','));
        let by = |entry: &str| entry.split_ascii_whitespace().nth(1).map(str::to_owned);
        let mut hops: Vec<&str> = entries.map(str::trim).filter(|entry| by(entry).is_some_and(|by| is_ours(&by))).collect();
        if hops.len() >= MOST_HOPS || hops.iter().any(|entry| by(entry).is_some_and(|by| by == self.name)) {
            return None;
        }
        hops.extend(self.field(version).to_str().ok());
        HeaderValue::from_str(&hops.join(", ")).ok()
    }
}

/// Whether a name in `Via` is that of a Windward.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("windward").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Adds to a client's cleaned fields what every backend is told. `id` is the exchange's own: 16 hexadecimal digits. A request that
/// comes back is refused.
pub(super) fn mark(fields: &mut Fields, version: Version, id: Id, own: &Pseudonym) -> Result<(), Error> {
    if fields.has(Name::Via) {
        let passed = own.after(version, fields).ok_or(Error::Loop)?;
        fields.set(Name::Via, &passed);
    } else {
        fields.append(Name::Via, own.field(version));
    }
    trace(fields, id);
    Ok(())
}

/// Leaves a trace that goes on as it is, or begins one.
fn trace(fields: &mut Fields, id: Id) {
    let mut given = fields.all(Name::Traceparent);
    if given.next().is_some_and(is_traceparent) && given.next().is_none() {
        return;
    }
    drop(given);
    let made = traceparent(id, fastrand::u64(..));
    fields.set_text(Name::Traceparent, std::str::from_utf8(&made).unwrap_or_default());
    // The state of a trace that is not known means nothing.
    fields.remove(Name::Tracestate);
}

/// The beginning of a trace (W3C Trace Context, version 00). Its parent is the exchange, under the id that the record has, and the
/// flag says that there is a record: without it a backend that traces would drop its part.
fn traceparent(id: Id, random: u64) -> [u8; 55] {
    let mut text = *b"00-0000000000000000rrrrrrrrrrrrrrrr-pppppppppppppppp-01";
    let (_, rest) = text.split_at_mut(3);
    let (trace, rest) = rest.split_at_mut(16);
    let (chance, rest) = rest.split_at_mut(16);
    let (parent, _) = rest.split_at_mut(17);
    trace.copy_from_slice(id.digits());
    // Samplers look at the last digits, which have to be random.
    chance.copy_from_slice(Id::of(random).digits());
    if let Some(parent) = parent.last_chunk_mut() {
        *parent = *id.digits();
    }
    text
}

/// Whether a `traceparent` is one: a later version may be longer, and is passed on as it is.
fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(55) else { return false };
    let hex = |part: &[u8]| part.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let something = |part: &[u8]| part.iter().any(|digit| *digit != b'0');
    let mut parts = known.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let sizes = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2];
    let digits = [version, trace, parent, flags].into_iter().all(hex);
    let end = rest.is_empty() || (version != b"00" && rest.starts_with(b"-"));
    sizes && digits && end && version != b"ff" && something(trace) && something(parent)
}

/// The client, as a backend that is to know it is told.
#[derive(Debug)]
pub(super) struct Provenance {
    addresses: HeaderValue,
    proto: HeaderValue,
    host: Option<HeaderValue>,
}

impl Provenance {
    /// Of a request as it came.
    pub(super) fn of(request: &RequestHead, client: Client) -> Self {
        let fields = &request.fields;
        let said = |name: Name| fields.value(name).filter(|_| client.trusted);
        let address = client.address.ip().to_canonical().to_string();
        let before = fields.all(FORWARDED_FOR).filter(|_| client.trusted);
        let addresses = before.chain([address.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
        let proto = said(FORWARDED_PROTO).filter(|proto| proto == "http" || proto == "https");
        let authority = || request.target.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        Self {
            addresses: HeaderValue::from_bytes(&addresses).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            proto: proto.unwrap_or_else(|| HeaderValue::from_static(if client.tls { "https" } else { "http" })),
            host: said(FORWARDED_HOST).or_else(|| fields.value(Name::Host)).or_else(authority),
        }
    }

    /// Tells a backend.
    pub(super) fn tell(&self, fields: &mut Fields) {
        fields.set(FORWARDED_FOR, &self.addresses);
        fields.set(FORWARDED_PROTO, &self.proto);
        if let Some(host) = &self.host {
            fields.set(FORWARDED_HOST, host);
        }
    }

    /// Takes it back, before another backend is addressed.
    pub(super) fn take_back(fields: &mut Fields) {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
            fields.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> Fields {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Fields::of_map(&fields.collect::<HeaderMap>())
    }

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn told(fields: &[(&'static str, &'static str)], tls: bool, trusted: bool) -> [String; 3] {
        let request = RequestHead { fields: map(fields), ..RequestHead::default() };
        let client = Client { address: "[::ffff:192.0.2.7]:4000".parse().unwrap(), tls, trusted };
        let mut told = Fields::default();
        Provenance::of(&request, client).tell(&mut told);
        let shown =
            [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST].map(|name| told.get_text(name).unwrap_or_default().to_owned());
        Provenance::take_back(&mut told);
        assert!(told.is_empty());
        shown
    }

    #[test]
    fn only_of_a_trusted_proxy_is_the_word_taken() {
        let fields = [
            ("host", "gateway"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer"),
        ];
        assert_eq!(told(&fields, false, false), ["192.0.2.7", "http", "gateway"]);
        assert_eq!(told(&fields, false, true), ["198.51.100.1, 192.0.2.7", "https", "outer"]);
        assert_eq!(told(&[("host", "gateway")], true, true), ["192.0.2.7", "https", "gateway"]);
        assert_eq!(told(&[("x-forwarded-proto", "gopher")], false, true), ["192.0.2.7", "http", ""]);
    }

    #[test]
    fn a_request_that_comes_back_is_known() {
        let (id, own) = (Id::of(0x77df_26e6_0000_005d), Pseudonym::new(0xbeef));
        let marked = |given: &[&'static str]| {
            let mut fields = map(&given.iter().map(|value| ("via", *value)).collect::<Vec<_>>());
            mark(&mut fields, Version::HTTP_11, id, &own).ok()?;
            assert_eq!(fields.len(), 2, "and a trace");
            fields.get_text(Name::Via).map(str::to_owned)
        };
        let others = "1.1 windward-1, 2 windward-2, 1.1 windward";
        for (given, passed) in [
            (&[][..], Some("1.1 windward-0000beef".to_owned())),
            (&["1.1 edge.example, 1.1 windwardly", "windward-0000beef", "", ","], Some("1.1 windward-0000beef".to_owned())),
            (&["1.1 edge.example", "2 windward-1 (comment)"], Some("2 windward-1 (comment), 1.1 windward-0000beef".to_owned())),
            (&["1.1 edge.example, 2   windward-0000beef ,1.1 other"], None),
            (&[others, others, "1.1 windward"], Some(format!("{others}, {others}, 1.1 windward, 1.1 windward-0000beef"))),
            (&[others, others, "1.1 windward, 1.1 windward"], None),
        ] {
            assert_eq!(marked(given), passed, "{given:?}");
        }
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        let id = Id::of(0x77df_26e6_0000_005d);
        let marked = |fields: &[(&'static str, &'static str)]| {
            let mut fields = map(fields);
            mark(&mut fields, Version::HTTP_2, id, &Pseudonym::new(0xbeef)).unwrap();
            assert_eq!(fields.get_text(Name::Via), Some("2 windward-0000beef"));
            fields
        };
        let passed = marked(&[("traceparent", GIVEN), ("tracestate", "a=1")]);
        let (parent, state) = (passed.get_text(Name::Traceparent), passed.get_text(Name::Tracestate));
        assert_eq!((parent, state), (Some(GIVEN), Some("a=1")));
        let twice = [("traceparent", GIVEN), ("traceparent", GIVEN), ("tracestate", "a=1")];
        for fields in [&[("tracestate", "a=1")][..], &[("traceparent", "00-x"), ("tracestate", "a=1")], &twice] {
            let made = marked(fields);
            let text = made.get_text(Name::Traceparent).unwrap();
            assert!(is_traceparent(text.as_bytes()) && made.all(Name::Traceparent).count() == 1, "{text}");
            assert!(text.starts_with("00-77df26e60000005d") && text.ends_with("-77df26e60000005d-01"), "{text}");
            assert!(!made.has(Name::Tracestate));
            assert_ne!(marked(fields).get_text(Name::Traceparent), Some(text));
        }
    }

    #[test]
    fn what_is_no_traceparent_is_not_passed_on() {
        let at = |place: usize, text: &str| format!("{}{text}{}", &GIVEN[..place], &GIVEN[place + text.len()..]);
        assert!(is_traceparent(GIVEN.as_bytes()) && is_traceparent(format!("{}-more", at(0, "01")).as_bytes()));
        for bad in [
            String::new(),
            at(0, "ff"),
            at(3, &"0".repeat(32)),
            at(36, &"0".repeat(16)),
            at(10, "F"),
            at(2, "_"),
            at(40, "-"),
            format!("{GIVEN}-more"),
            format!("{}more", at(0, "01")),
            GIVEN[..54].to_owned(),
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            is_traceparent(&bytes);
        }
    }
}
