//! Signatures over `:authority`.
//!
//! AWS's SDK for JavaScript speaks HTTP/2 to Bedrock, where the host is no field but a pseudo-header, and signs that under its own name
//! (seen of its version 3.1164). AWS's crate has fields only, and adds a `host` where it finds none; so the one text that is signed is
//! put together here, by the steps that AWS documents, and only the arithmetic is the crate's.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};

use super::{ALGORITHM, Claim, DATE, PayloadHash, Received};
use crate::backend::AwsKeys;

/// The name under which it stands in the list of signed fields.
pub(super) const AUTHORITY: &str = ":authority";

/// The signature that this request has to have, signed over these fields at that time. `None` for one with a query, which no operation
/// has that is called so.
pub(super) fn signature(
    received: &Received<'_>,
    fields: &[(&str, &str)],
    claim: &Claim<'_>,
    keys: &AwsKeys,
    at: SystemTime,
) -> Option<String> {
    let canonical = canonical(received, fields, claim)?;
    let date = received.fields.get(DATE)?.to_str().ok()?;
    let Claim { day, region, service, .. } = *claim;
    let hash = PayloadHash::of([canonical.as_bytes()]);
    let to_sign = format!("{ALGORITHM}\n{date}\n{day}/{region}/{service}/aws4_request\n{}", hash.as_str());
    let key = generate_signing_key(keys.secret_access_key.expose(), at, region, service);
    Some(calculate_signature(key, to_sign.as_bytes()))
}

fn canonical(received: &Received<'_>, fields: &[(&str, &str)], claim: &Claim<'_>) -> Option<String> {
    if received.target.contains('?') {
        return None;
    }
    let mut text = format!("{}\n", received.method);
    // As it is sent it is encoded once; what is signed is encoded once more, a segment's own slash (`%2F`) with it.
    for byte in received.target.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").ok()?;
        }
    }
    text.push_str("\n\n");
    let mut before = None;
    for (name, value) in fields {
        // White space counts once, and at the ends not at all; a field that is there twice has one line.
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if before == Some(name) {
            text.pop();
            write!(text, ",{value}").ok()?;
        } else {
            write!(text, "{name}:{value}").ok()?;
        }
        text.push('\n');
        before = Some(name);
    }
    write!(text, "\n{}\n{}", claim.signed_fields, received.payload.as_str()).ok()?;
    Some(text)
}
