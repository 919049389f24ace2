//! Signs what goes to a backend at AWS, as the last step before it is sent: again for each attempt, because host, date and keys may be
//! other ones.

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request};
use jiff::Timestamp;

use super::reject::Error;
use crate::backend::{Backend, Credential};
use crate::state::{Snapshot, set_signature};
use crate::upstream::SendBody;
use crate::wire::sigv4::{PayloadHash, Subject};

/// Signs the request, if its backend wants that. The body has to be there as a whole: a signature covers it.
pub(super) fn sign(request: &mut Request<SendBody>, backend: &Backend, snapshot: &Snapshot, now: Timestamp) -> Result<(), Error> {
    let (Credential::SigV4(how), Some(keyring)) = (&backend.credential, snapshot.keyring(backend.id)) else { return Ok(()) };
    let payload = PayloadHash::of(request.body().pieces().iter().map(|piece| &piece[..]));
    let fields = request.headers();
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (host, content_type) = (text(fields.get(HOST)).unwrap_or_default(), text(fields.get(CONTENT_TYPE)));
    let subject = Subject {
        method: request.method().as_str(),
        target: request.uri().path_and_query().map_or("/", |target| target.as_str()),
        host: &host,
        content_type: content_type.as_deref(),
        payload: &payload,
    };
    let signed = keyring.sign(how, &subject, now).ok_or(Error::BadTarget("the request cannot be signed for its backend"))?;
    set_signature(request.headers_mut(), signed);
    Ok(())
}
