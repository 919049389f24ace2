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

use http::header::{Entry, GetAll, HOST, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};

use super::reject::Error;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Through whom it came, nearest last.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Whether the client used TLS.
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What the client called the server.
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

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
    fn after(&self, version: Version, given: &GetAll<'_, HeaderValue>) -> Option<HeaderValue> {
        let entries = given.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
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
pub(super) fn mark(fields: &mut HeaderMap, version: Version, id: &HeaderValue, own: &Pseudonym) -> Result<(), Error> {
    let passed = match fields.get_all(VIA) {
        // Nearly always.
        given if given.iter().next().is_none() => own.field(version).clone(),
        given => own.after(version, &given).ok_or(Error::Loop)?,
    };
    fields.insert(VIA, passed);
    trace(fields, id);
    Ok(())
}

/// Leaves a trace that goes on as it is, or begins one.
fn trace(fields: &mut HeaderMap, id: &HeaderValue) {
    let entry = fields.entry(TRACEPARENT);
    if let Entry::Occupied(given) = &entry
        && given.iter().count() == 1
        && is_traceparent(given.get().as_bytes())
    {
        return;
    }
    let Some(made) = traceparent(id, fastrand::u64(..)) else { return };
    match entry {
        Entry::Occupied(mut given) => drop(given.insert(made)),
        Entry::Vacant(none) => drop(none.insert(made)),
    }
    // The state of a trace that is not known means nothing.
    fields.remove(TRACESTATE);
}

/// The beginning of a trace (W3C Trace Context, version 00). Its parent is the exchange, under the id that the record has, and the
/// flag says that there is a record: without it a backend that traces would drop its part.
fn traceparent(id: &HeaderValue, random: u64) -> Option<HeaderValue> {
    let mut text = *b"00-0000000000000000rrrrrrrrrrrrrrrr-pppppppppppppppp-01";
    let (_, rest) = text.split_at_mut(3);
    let (trace, rest) = rest.split_at_mut(16);
    let (chance, rest) = rest.split_at_mut(16);
    let (parent, _) = rest.get_mut(1..)?.split_at_mut_checked(16)?;
    let id: &[u8; 16] = id.as_bytes().try_into().ok()?;
    trace.copy_from_slice(id);
    // Samplers look at the last digits, which have to be random.
    chance.copy_from_slice(&super::hex(random));
    parent.copy_from_slice(id);
    HeaderValue::from_bytes(&text).ok()
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
    pub(super) fn of<B>(request: &Request<B>, client: Client) -> Self {
        let fields = request.headers();
        let said = |name: &HeaderName| fields.get(name).filter(|_| client.trusted);
        let address = client.address.ip().to_canonical().to_string();
        let before = fields.get_all(&FORWARDED_FOR).iter().filter(|_| client.trusted).map(HeaderValue::as_bytes);
        let addresses = before.chain([address.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
        let proto = said(&FORWARDED_PROTO).filter(|proto| *proto == "http" || *proto == "https");
        let authority = || request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        Self {
            addresses: HeaderValue::from_bytes(&addresses).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            proto: proto.cloned().unwrap_or_else(|| HeaderValue::from_static(if client.tls { "https" } else { "http" })),
            host: said(&FORWARDED_HOST).or_else(|| fields.get(HOST)).cloned().or_else(authority),
        }
    }

    /// Tells a backend.
    pub(super) fn tell(&self, fields: &mut HeaderMap) {
        fields.insert(FORWARDED_FOR, self.addresses.clone());
        fields.insert(FORWARDED_PROTO, self.proto.clone());
        if let Some(host) = &self.host {
            fields.insert(FORWARDED_HOST, host.clone());
        }
    }

    /// Takes it back, before another backend is addressed.
    pub(super) fn take_back(fields: &mut HeaderMap) {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
            fields.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn told(fields: &[(&'static str, &'static str)], tls: bool, trusted: bool) -> [String; 3] {
        let mut request = Request::new(());
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        request.headers_mut().extend(fields);
        let client = Client { address: "[::ffff:192.0.2.7]:4000".parse().unwrap(), tls, trusted };
        let mut told = HeaderMap::new();
        Provenance::of(&request, client).tell(&mut told);
        let shown = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST]
            .map(|name| told.get(&name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned()));
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
        let (id, own) = (HeaderValue::from_static("77df26e60000005d"), Pseudonym::new(0xbeef));
        let marked = |given: &[&'static str]| {
            let mut fields: HeaderMap = given.iter().map(|value| (VIA, HeaderValue::from_static(value))).collect();
            mark(&mut fields, Version::HTTP_11, &id, &own).ok().map(|()| fields[VIA].to_str().unwrap().to_owned())
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
        let id = HeaderValue::from_static("77df26e60000005d");
        let marked = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let mut fields: HeaderMap = fields.collect();
            mark(&mut fields, Version::HTTP_2, &id, &Pseudonym::new(0xbeef)).unwrap();
            assert_eq!(fields[VIA], "2 windward-0000beef");
            fields
        };
        let passed = marked(&[("traceparent", GIVEN), ("tracestate", "a=1")]);
        assert_eq!(
            (&passed[TRACEPARENT], &passed[TRACESTATE]),
            (&HeaderValue::from_static(GIVEN), &HeaderValue::from_static("a=1"))
        );
        let twice = [("traceparent", GIVEN), ("traceparent", GIVEN), ("tracestate", "a=1")];
        for fields in [&[("tracestate", "a=1")][..], &[("traceparent", "00-x"), ("tracestate", "a=1")], &twice] {
            let made = marked(fields);
            let text = made[TRACEPARENT].to_str().unwrap();
            assert!(is_traceparent(text.as_bytes()) && made.get_all(TRACEPARENT).iter().count() == 1, "{text}");
            assert!(text.starts_with("00-77df26e60000005d") && text.ends_with("-77df26e60000005d-01"), "{text}");
            assert!(!made.contains_key(TRACESTATE));
            assert_ne!(marked(fields)[TRACEPARENT], made[TRACEPARENT]);
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
