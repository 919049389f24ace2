//! Who may speak: a message ends with an HMAC of all before it, under the secret that the replicas share.

use aws_lc_rs::hmac;

use super::message::{MOST_BYTES, SEAL_BYTES};
use crate::backend::Secret;

/// Seals messages, and opens those of whoever has the same secret. What they say is not hidden: it is counts, and hashes of names.
#[derive(Clone)]
pub struct Seal(hmac::Key);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// With that secret.
    pub fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()))
    }

    /// Seals a message.
    pub fn close(&self, message: &mut Vec<u8>) {
        let seal = hmac::sign(&self.0, message);
        message.extend_from_slice(seal.as_ref());
    }

    /// The message in a sealed one; `None` when somebody else sealed it, or nobody.
    pub fn open<'m>(&self, sealed: &'m [u8]) -> Option<&'m [u8]> {
        let length = sealed.len().checked_sub(SEAL_BYTES).filter(|_| sealed.len() <= MOST_BYTES)?;
        let (message, seal) = sealed.split_at_checked(length)?;
        hmac::verify(&self.0, message, seal).is_ok().then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_is_heard() {
        let (ours, theirs) = (Seal::new(&Secret::new("one secret of many")), Seal::new(&Secret::new("another")));
        let mut sealed = b"hello".to_vec();
        ours.close(&mut sealed);
        assert_eq!(ours.open(&sealed), Some(&b"hello"[..]));
        assert_eq!(theirs.open(&sealed), None);
        assert_eq!(ours.open(&sealed[1..]), None);
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ours.open(&forged), None, "bit {bit}");
        }
        let mut long = vec![0; MOST_BYTES];
        ours.close(&mut long);
        assert_eq!(ours.open(&long), None, "none is longer than a message is");
        assert_eq!(ours.open(b""), None);
    }
}
