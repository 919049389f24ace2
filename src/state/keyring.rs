//! The AWS keys of a backend as they are now. A control task renews them; a request only loads them and signs.

use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::Snapshot;
use crate::backend::{AwsKeys, BackendId, SigV4};
use crate::wire::sigv4::{DATE, SECURITY_TOKEN, Scope, Signed, Signer, Subject};

/// The keys with which one backend's requests are signed. Nothing of them is shown.
pub struct Keyring {
    current: ArcSwap<(AwsKeys, Signer)>,
}

impl Keyring {
    /// With the keys that the plan has.
    pub fn new(keys: AwsKeys) -> Self {
        let signer = Signer::new(&keys);
        Self { current: ArcSwap::from_pointee((keys, signer)) }
    }

    /// Signs a request to the backend. `None` where no field can carry what would have to be said.
    pub fn sign(&self, how: &SigV4, subject: &Subject<'_>, at: Timestamp) -> Option<Signed> {
        self.current.load().1.sign(Scope { service: &how.service, region: &how.region }, subject, at)
    }

    /// Takes newer keys; whether they are other ones than before.
    pub fn renew(&self, keys: AwsKeys) -> bool {
        if self.current.load().0 == keys {
            return false;
        }
        let signer = Signer::new(&keys);
        self.current.store(std::sync::Arc::new((keys, signer)));
        true
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

/// Why a request is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// There are no keys, or none that are still good.
    NoKeys,
    /// No field can carry what would have to be said.
    Unfit,
}

impl Snapshot {
    /// Signs a request to a backend with the keys that it has now, wherever they come from.
    pub fn sign(&self, id: BackendId, how: &SigV4, subject: &Subject<'_>, at: Timestamp) -> Result<Signed, Unsigned> {
        if let Some(keyring) = self.keyring(id) {
            return keyring.sign(how, subject, at).ok_or(Unsigned::Unfit);
        }
        let token = self.token(id).filter(|token| token.is_good(at)).ok_or(Unsigned::NoKeys)?;
        token.sign(how, subject, at).ok_or(Unsigned::Unfit)
    }
}

/// Sets the fields of a signature.
pub fn set_signature(signed: Signed, mut set: impl FnMut(HeaderName, HeaderValue)) {
    let Signed { authorization, date, security_token } = signed;
    set(AUTHORIZATION, authorization);
    set(DATE, date);
    if let Some(token) = security_token {
        set(SECURITY_TOKEN, token);
    }
}
