//! What a listener shows of itself under TLS.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::backend::Identity;

/// A certificate and a key that belong together, ready to sign with.
#[derive(Clone)]
pub struct Shown(Arc<CertifiedKey>);

/// Why a certificate and a key cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// Each may be good, but not for the other.
    #[error("this is not the key of the certificate")]
    Apart,
    /// One of them is of a kind that is not known, or is damaged.
    #[error("this key and its certificate cannot be used: {0}")]
    Unusable(rustls::Error),
}

impl Shown {
    /// Of what was read.
    pub fn new(read: &Identity) -> Result<Self, Unfit> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let made = CertifiedKey::from_der(read.chain.clone(), read.key.clone_key(), &provider);
        made.map(|key| Self(Arc::new(key))).map_err(|error| match error {
            rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => Unfit::Apart,
            other => Unfit::Unusable(other),
        })
    }

    /// As the TLS library takes it.
    pub const fn key(&self) -> &Arc<CertifiedKey> {
        &self.0
    }
}

/// Says nothing of the key.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("certificates", &self.0.cert.len()).finish_non_exhaustive()
    }
}
