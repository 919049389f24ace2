//! Who may come in, and where to: looked at before a byte of the body is read or anybody is contacted.

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;

use super::exchange::{Exchange, Proof};
use super::narrow::narrow;
use super::reject::Error;
use crate::config::Plan;
use crate::key::Keys;
use crate::route::Route;
use crate::wire::fields::{Fields, Name};
use crate::wire::message::RequestHead;
use crate::wire::sigv4::{Claim, PayloadHash, Received, could_be_signed, verify};
use crate::wire::{Call, call};

/// Where official clients put their key besides `Authorization`: the SDKs of Anthropic, of Azure OpenAI and of Gemini.
const KEY_FIELDS: [Name; 3] = [Name::XApiKey, Name::ApiKey, Name::XGoogApiKey];

/// What a request wants, by its head alone.
pub(super) struct Called<'a> {
    /// Its route ..
    pub(super) route: &'a Route,
    /// .. the path below that, and what it means.
    pub(super) below: &'a str,
    pub(super) call: Call<'a>,
}

/// What a request wants. All that can be refused without its body is refused here, and all that comes of it is noted in the exchange.
pub(super) fn request<'a>(head: &RequestHead, plan: &'a Plan, path: &'a str, x: &mut Exchange) -> Result<Called<'a>, Error> {
    acceptable(head, x)?;
    let fields = &head.fields;
    let route = crate::route::select(&plan.routes, path, |name, value| match value {
        Some(value) => fields.all(name).any(|seen| seen == value.as_bytes()),
        None => fields.has(name),
    });
    x.route = route.and_then(|route| plan.routes.iter().position(|r| std::ptr::eq(r, route)));
    // Before it is said that there is no route: who has no key learns nothing of the plan.
    let admitted = key(&plan.keys, fields)?;
    x.key = admitted.key;
    x.key_is = if admitted.by_signature { Proof::Claimed } else { Proof::Shown };
    let route = route.ok_or(Error::NoRoute)?;
    if !x.key_opens_route() {
        return Err(Error::KeyNotAllowed);
    }
    narrow(x, fields)?;
    let below = route.below(path).unwrap_or_default();
    let call = call(x.dialect(), &head.method, below);
    match call {
        // Whose key it is has to be proved before more is said.
        Call::MethodNotAllowed { allow } if x.key_is == Proof::Shown => return Err(Error::MethodNotAllowed { allow }),
        Call::Inference(_) | Call::Named(_) if fields.get(Name::ContentEncoding).is_some_and(|coding| coding != b"identity") => {
            return Err(Error::Encoded);
        }
        _ => {}
    }
    Ok(Called { route, below, call })
}

/// Refuses what nobody is asked about, whatever its route is.
fn acceptable(head: &RequestHead, x: &Exchange) -> Result<(), Error> {
    // The one makes a server repeat what it was sent, our credential included; the other asks for a tunnel past every rule.
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(Error::MethodNotAllowed { allow: "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT" });
    }
    if !x.http1 {
        crate::wire::framing::check(head, x.snapshot.plan.limits.fields).map_err(Error::Framing)?;
    }
    if crate::route::has_dot_segment(x.path.path()) {
        return Err(Error::BadTarget("the path has dot segments"));
    }
    Ok(())
}

/// A client's key, and how sure it is that it is the client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Admitted {
    /// Its place among the plan's keys; `None` when there are none, so that nobody needs one.
    key: Option<usize>,
    /// It was not shown. The request is signed with it, or claims to be, and its body is still to be held against that.
    by_signature: bool,
}

/// The client's key.
///
/// Some SDKs fill one field with a placeholder when the key is in another, so each is tried, in a fixed order.
fn key(keys: &Keys, fields: &Fields) -> Result<Admitted, Error> {
    if keys.is_empty() {
        return Ok(Admitted::default());
    }
    let mut refusal = Error::NoKey;
    for presented in presented(fields) {
        match keys.find(presented) {
            None => refusal = Error::WrongKey,
            found => return Ok(Admitted { key: found, by_signature: false }),
        }
    }
    let Some(claim) = claim(fields) else { return Err(refusal) };
    let (place, _) = keys.signing(claim.access_key_id).ok_or(Error::WrongKey)?;
    Ok(Admitted { key: Some(place), by_signature: true })
}

/// Refuses a request whose head shows already that it is not signed as it claims, before its body takes a place of anybody's.
pub(super) fn may_be_signed(request: &RequestHead, keys: &Keys, now: Timestamp) -> Result<(), Error> {
    let claimed = claim(&request.fields).and_then(|claim| keys.signing(claim.access_key_id));
    let (_, signs) = claimed.ok_or(Error::WrongKey)?;
    let authority = request.target.authority().map(http::uri::Authority::as_str);
    could_be_signed(&request.fields.to_map(), authority, signs, now).map_err(Error::WrongSignature)
}

/// Holds a request whose body is there to its signature. For which region and service it is signed is nobody's business: the client
/// takes this gateway for one of many.
pub(super) fn verified(request: &RequestHead, pieces: &[Bytes], keys: &Keys, now: Timestamp) -> Result<(), Error> {
    let claimed = claim(&request.fields).and_then(|claim| keys.signing(claim.access_key_id));
    let (_, signs) = claimed.ok_or(Error::WrongKey)?;
    let payload = PayloadHash::of(pieces.iter().map(|piece| &piece[..]));
    let received = Received {
        method: request.method.as_str(),
        target: request.target.path_and_query().map_or("/", |target| target.as_str()),
        authority: request.target.authority().map(http::uri::Authority::as_str),
        fields: &request.fields.to_map(),
        payload: &payload,
    };
    verify(&received, signs, None, now).map_err(Error::WrongSignature)
}

fn claim(fields: &Fields) -> Option<Claim<'_>> {
    Claim::parse(fields.get_text(Name::Authorization)?)
}

/// What the client has for keys.
fn presented(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    let bearer = fields.get(Name::Authorization).and_then(bearer);
    bearer.into_iter().chain(KEY_FIELDS.into_iter().filter_map(|name| fields.get(name)))
}

/// The token of `Bearer token`; the scheme in either case, as RFC 9110 has it.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.starts_with(b" ");
    is_bearer.then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;
    use crate::key::{Key, KeyDigest};

    fn keys() -> Keys {
        let key = |name: &str| Key {
            name: name.into(),
            digest: KeyDigest::of(format!("sk-{name}").as_bytes()),
            signs: None,
            routes: None,
            policy: None,
        };
        Keys::new(vec![key("a"), key("b")])
    }

    fn ask(fields: &[(&'static str, &'static str)]) -> Result<Option<usize>, &'static str> {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let key = key(&keys(), &Fields::of_map(&fields.collect::<HeaderMap>()));
        key.map(|admitted| admitted.key).map_err(|error| error.code())
    }

    #[test]
    fn a_key_is_taken_wherever_an_official_client_puts_it() {
        for fields in [
            ("authorization", "Bearer sk-b"),
            ("authorization", "bearer sk-b"),
            ("authorization", "BEARER   sk-b"),
            ("x-api-key", "sk-b"),
            ("api-key", "sk-b"),
            ("x-goog-api-key", "sk-b"),
        ] {
            assert_eq!(ask(&[fields]), Ok(Some(1)), "{fields:?}");
        }
        assert_eq!(ask(&[("authorization", "Bearer placeholder"), ("api-key", "sk-b")]), Ok(Some(1)));
        assert_eq!(ask(&[("authorization", "Bearer sk-a"), ("x-api-key", "sk-b")]), Ok(Some(0)), "the first that is one");
    }

    #[test]
    fn anything_else_is_none() {
        for (name, value) in [
            ("authorization", "Bearer sk-"),
            ("authorization", "Bearer sk-b2"),
            ("authorization", "Bearer sk-b, sk-a"),
            ("x-api-key", "Bearer sk-b"),
            ("api-key", "SK-B"),
            ("api-key", ""),
        ] {
            assert_eq!(ask(&[(name, value)]), Err("invalid_api_key"), "{name}: {value}");
        }
        for (name, value) in [
            ("authorization", "Basic c2stYg=="),
            ("authorization", "sk-b"),
            ("authorization", "Bearersk-b"),
            ("authorization", "Bearer"),
            ("proxy-authorization", "Bearer sk-b"),
            ("cookie", "api-key=sk-b"),
        ] {
            assert_eq!(ask(&[(name, value)]), Err("missing_api_key"), "{name}: {value}");
        }
        assert_eq!(ask(&[]), Err("missing_api_key"));
    }

    #[test]
    fn without_keys_nobody_needs_one() {
        assert!(matches!(key(&Keys::default(), &Fields::default()), Ok(Admitted { key: None, by_signature: false })));
    }
}
