//! AWS's signature version 4: made for what goes to a backend, and checked of what comes from a client.
//!
//! The rules are AWS's own crate's. What is ours is to sign little: the host, the content's type, the date and the session token. A
//! field that a proxy on the way may touch has no place in a signature.

mod authority;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use self::authority::AUTHORITY;
use crate::backend::AwsKeys;

/// The field with the time of a signature.
pub const DATE: HeaderName = HeaderName::from_static("x-amz-date");
/// The field with the token of keys that end.
pub const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// The field with the hash of the body; most services do without it.
const CONTENT_SHA256: &str = "x-amz-content-sha256";
/// The one algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the clocks of both sides may be apart: AWS takes a signature for so long.
const SKEW: Duration = Duration::from_mins(5);

/// SHA-256 of a body, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadHash(String);

impl PayloadHash {
    /// Of a body in pieces.
    pub fn of<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Self {
        let mut context = Context::new(&SHA256);
        for piece in pieces {
            context.update(piece);
        }
        let mut hex = String::with_capacity(64);
        for byte in context.finish().as_ref() {
            for nibble in [byte >> 4, byte & 15] {
                hex.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        Self(hex)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What of a request goes into its signature.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub target: &'a str,
    /// The `Host` field.
    pub host: &'a str,
    /// The `Content-Type` field.
    pub content_type: Option<&'a str>,
    /// The body.
    pub payload: &'a PayloadHash,
}

/// The fields that a signed request has besides.
#[derive(Clone, Debug)]
pub struct Signed {
    /// `Authorization`.
    pub authorization: HeaderValue,
    /// [`DATE`].
    pub date: HeaderValue,
    /// [`SECURITY_TOKEN`].
    pub security_token: Option<HeaderValue>,
}

/// Keys, ready to sign with. It has no `Debug`.
#[derive(Clone)]
pub struct Signer {
    identity: Identity,
}

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `bedrock`, for one.
    pub service: &'a str,
    /// `us-west-2`, for one.
    pub region: &'a str,
}

impl Signer {
    /// With these keys.
    pub fn new(keys: &AwsKeys) -> Self {
        let token = keys.session_token.as_ref().map(|token| token.expose().to_owned());
        let secret = keys.secret_access_key.expose();
        Self { identity: Credentials::new(&*keys.access_key_id, secret, token, None, "windward").into() }
    }

    /// Signs a request at that time. `None` for what no request can be: a host or a target that is none, or keys that no field can
    /// carry; and for a query that is no text, see `is_text`.
    pub fn sign(&self, scope: Scope<'_>, subject: &Subject<'_>, at: Timestamp) -> Option<Signed> {
        let Subject { method, target, host, content_type, payload } = *subject;
        let fields = content_type.map(|value| ("content-type", value)).into_iter().chain([("host", host)]);
        let mut signed =
            Signed { authorization: HeaderValue::from_static(""), date: HeaderValue::from_static(""), security_token: None };
        let (instructions, _) = self.calculate(scope, method, target, fields, payload, SystemTime::from(at))?;
        for (name, value) in instructions.headers() {
            let mut value = HeaderValue::from_str(value).ok()?;
            match name {
                "authorization" => {
                    value.set_sensitive(true);
                    signed.authorization = value;
                }
                "x-amz-date" => signed.date = value,
                "x-amz-security-token" => {
                    value.set_sensitive(true);
                    signed.security_token = Some(value);
                }
                _ => {}
            }
        }
        Some(signed)
    }

    fn calculate<'a>(
        &'a self,
        scope: Scope<'a>,
        method: &'a str,
        target: &'a str,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
        payload: &PayloadHash,
        at: SystemTime,
    ) -> Option<(aws_sigv4::http_request::SigningInstructions, String)> {
        if !is_text(target) {
            return None;
        }
        let mut settings = SigningSettings::default();
        // What is signed is chosen here, field by field.
        settings.excluded_headers = None;
        let params = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(scope.region)
            .name(scope.service)
            .time(at)
            .settings(settings)
            .build()
            .ok()?
            .into();
        let body = SignableBody::Precomputed(payload.0.clone());
        let request = SignableRequest::new(method, target, fields, body).ok()?;
        Some(sign(request, &params).ok()?.into_parts())
    }
}

/// Whether a target's query stands for text. The signer reads it as such and puts a mark in the place of every byte that is none: it
/// would sign another query than the one that is sent, and take one signature for all queries that differ in such bytes only.
fn is_text(target: &str) -> bool {
    let Some((_, query)) = target.split_once('?').filter(|(_, query)| query.contains('%')) else { return true };
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut rest) = (Vec::with_capacity(query.len()), query.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if let (b'%', Some(high), Some(low)) = (first, digit(after.first()), digit(after.get(1))) {
            decoded.push((high * 16 + low) as u8);
            rest = after.get(2..).unwrap_or_default();
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

/// What an `Authorization` field of this kind claims, before anything of it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Whose key it is said to be.
    pub access_key_id: &'a str,
    /// The day, as eight digits.
    pub day: &'a str,
    /// For which region.
    pub region: &'a str,
    /// For which service.
    pub service: &'a str,
    /// Names of the fields that are signed, in lower case and in order, with `;` between them.
    pub signed_fields: &'a str,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    /// Of a field's value; `None` where it is of another kind, or not well made.
    pub fn parse(authorization: &'a str) -> Option<Self> {
        let rest = authorization.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut signed_fields, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_fields,
                "Signature" => &mut signature,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let mut scope = credential?.split('/');
        let (access_key_id, day) = (scope.next()?, scope.next()?);
        let (region, service, end) = (scope.next()?, scope.next()?, scope.next()?);
        if end != "aws4_request" || scope.next().is_some() || access_key_id.is_empty() {
            return None;
        }
        Some(Self { access_key_id, day, region, service, signed_fields: signed_fields?, signature: signature? })
    }
}

/// Why a signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistrust {
    /// The field is not there, or of another kind.
    #[error("the request is not signed with AWS4-HMAC-SHA256")]
    Unsigned,
    /// It is for another region.
    #[error("the signature is for another region")]
    Region,
    /// It is for another service.
    #[error("the signature is for another service")]
    Service,
    /// There is no date, it is not the claim's, or it is too far from now.
    #[error("the signature has expired, or its date is none")]
    Date,
    /// A field is sent that has to be signed and is not, or the list of those that are is out of order.
    #[error("`host` and every `x-amz-*` field have to be signed")]
    Fields,
    /// It is sent with another body.
    #[error("the body is not the one that was signed")]
    Payload,
    /// Another one is right.
    #[error("the signature does not match the request")]
    Signature,
}

/// A request as it came, to be held against its signature.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Whom the client meant to reach, where that is no field (HTTP/2).
    pub authority: Option<&'a str>,
    /// All fields.
    pub fields: &'a HeaderMap,
    /// The body.
    pub payload: &'a PayloadHash,
}

/// Whether a request could be signed by these keys, by its head alone, for whatever region and service the client thinks it calls: what
/// [`verify`] would refuse with any body.
pub fn could_be_signed(fields: &HeaderMap, authority: Option<&str>, keys: &AwsKeys, now: Timestamp) -> Result<(), Mistrust> {
    // Nothing of these is looked at.
    let (method, target, payload) = ("", "", &PayloadHash(String::new()));
    by_head(&Received { method, target, authority, fields, payload }, keys, None, now).map(drop)
}

/// Holds a request to its signature: by these keys, for this region and service (`None`: for whatever the client thinks it calls), now.
pub fn verify(received: &Received<'_>, keys: &AwsKeys, scope: Option<Scope<'_>>, now: Timestamp) -> Result<(), Mistrust> {
    let (claim, fields, at) = by_head(received, keys, scope, now)?;
    let said = received.fields.get(CONTENT_SHA256);
    if said.is_some_and(|said| said.as_bytes() != received.payload.as_str().as_bytes()) {
        return Err(Mistrust::Payload);
    }
    let right = right(received, &fields, &claim, keys, at).ok_or(Mistrust::Signature)?;
    verify_slices_are_equal(right.as_bytes(), claim.signature.as_bytes()).map_err(|_| Mistrust::Signature)
}

/// Fields by name and value, in the order in which they are signed.
type SignedFields<'a> = Vec<(&'a str, &'a str)>;

/// What a request claims, over which fields and since when, unless its head alone shows that its signature cannot be right.
fn by_head<'a>(
    received: &Received<'a>,
    keys: &AwsKeys,
    scope: Option<Scope<'_>>,
    now: Timestamp,
) -> Result<(Claim<'a>, SignedFields<'a>, SystemTime), Mistrust> {
    let authorization = received.fields.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(Mistrust::Unsigned)?;
    let claim = Claim::parse(authorization).filter(|claim| claim.access_key_id == &*keys.access_key_id);
    let claim = claim.ok_or(Mistrust::Unsigned)?;
    if scope.is_some_and(|scope| scope.region != claim.region) {
        return Err(Mistrust::Region);
    }
    if scope.is_some_and(|scope| scope.service != claim.service) {
        return Err(Mistrust::Service);
    }
    let at = dated(received.fields, &claim, now).ok_or(Mistrust::Date)?;
    let fields = signed(received, &claim).ok_or(Mistrust::Fields)?;
    let token = received.fields.get(SECURITY_TOKEN).map(HeaderValue::as_bytes);
    if token != keys.session_token.as_ref().map(|token| token.expose().as_bytes()) {
        return Err(Mistrust::Signature);
    }
    Ok((claim, fields, at))
}

/// The signature that it has to have.
fn right(received: &Received<'_>, fields: &[(&str, &str)], claim: &Claim<'_>, keys: &AwsKeys, at: SystemTime) -> Option<String> {
    if fields.iter().any(|(name, _)| *name == AUTHORITY) {
        return authority::signature(received, fields, claim, keys, at);
    }
    let scope = Scope { service: claim.service, region: claim.region };
    let fields = fields.iter().map(|(name, value)| (*name, *value));
    let calculated = Signer::new(keys).calculate(scope, received.method, received.target, fields, received.payload, at);
    calculated.map(|(_, right)| right)
}

/// When it was signed, if the field and the claim agree and that is not too far from now.
fn dated(fields: &HeaderMap, claim: &Claim<'_>, now: Timestamp) -> Option<SystemTime> {
    let mut dates = fields.get_all(DATE).iter();
    let date = dates.next()?.to_str().ok().filter(|_| dates.next().is_none())?;
    let at = DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let apart = now.duration_since(at).unsigned_abs();
    (date.get(..8) == Some(claim.day) && apart <= SKEW).then(|| SystemTime::from(at))
}

/// The fields that are signed, with their values; `None` when one is missing that has to be among them.
fn signed<'a>(received: &Received<'a>, claim: &Claim<'a>) -> Option<SignedFields<'a>> {
    let names: Vec<&str> = claim.signed_fields.split(';').collect();
    let listed = |name: &str| names.binary_search(&name).is_ok();
    let in_order = names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]);
    let all_amz = received.fields.keys().all(|name| !name.as_str().starts_with("x-amz-") || listed(name.as_str()));
    // One of the two: with both, one of them could be another host than the one that was meant.
    let host = listed(HOST.as_str()) != listed(AUTHORITY);
    if !in_order || !all_amz || !host || !listed(DATE.as_str()) {
        return None;
    }
    let mut fields = Vec::with_capacity(names.len());
    for name in names {
        if name == AUTHORITY {
            fields.push((name, received.authority?));
            continue;
        }
        let mut values = received.fields.get_all(name).iter().peekable();
        if values.peek().is_none() {
            let authority = received.authority.filter(|_| name == HOST)?;
            fields.push((name, authority));
        }
        for value in values {
            fields.push((name, value.to_str().ok()?));
        }
    }
    Some(fields)
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
