//! Credentials that may be other ones at each attempt: a token as it is now, or the signature of what goes to a backend at AWS, with its
//! host, date and keys. They are set as the last step before it is sent.

use jiff::Timestamp;

use super::reject::Error;
use crate::backend::{Backend, Credential};
use crate::state::{Snapshot, Unsigned, set_signature};
use crate::upstream::SendBody;
use crate::wire::fields::Name;
use crate::wire::message::{Message, RequestHead};
use crate::wire::sigv4::{PayloadHash, Subject};

/// Sets the token or signs the request, if its backend wants either. For a signature the body has to be there as a whole: a signature
/// covers it.
pub(super) fn sign(
    request: &mut Message<RequestHead, SendBody>,
    backend: &Backend,
    snapshot: &Snapshot,
    now: impl FnOnce() -> Timestamp,
) -> Result<(), Error> {
    let Credential::SigV4(how) = &backend.credential else {
        if let Some(token) = snapshot.token(backend.id) {
            let (name, value) = token.field(now()).ok_or(Error::NoToken)?;
            request.head.fields.set(name, &value);
        }
        return Ok(());
    };
    let Message { head, body } = request;
    let payload = PayloadHash::of(body.pieces().iter().map(|piece| &piece[..]));
    // Of several the service signs all, joined; of those that differ it takes none.
    let mut content_types = head.fields.all(Name::ContentType);
    let one = content_types.next().is_some() && content_types.next().is_none();
    drop(content_types);
    let subject = Subject {
        method: head.method.as_str(),
        target: head.target.path_and_query().map_or("/", |target| target.as_str()),
        host: head.fields.get_text(Name::Host).unwrap_or_default(),
        content_type: head.fields.get_text(Name::ContentType).filter(|_| one),
        payload: &payload,
    };
    let signed = snapshot.sign(backend.id, how, &subject, now()).map_err(|why| match why {
        Unsigned::NoKeys => Error::NoToken,
        Unsigned::Unfit => Error::BadTarget("the request cannot be signed for its backend"),
    })?;
    set_signature(signed, |name, value| head.fields.set(&name, &value));
    Ok(())
}
