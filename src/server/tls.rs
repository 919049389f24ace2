//! Certificates of listeners.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::ListenerTls;

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or has nothing of the kind in it.
    #[error("cannot read {what} from {}: {error}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it was not found.
        error: rustls_pki_types::pem::Error,
    },
    /// A file without a certificate.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// They do not fit each other, or cannot be used.
    #[error("certificate {} and key {} cannot be used: {error}", certificate.display(), key.display())]
    Unusable {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        error: rustls::Error,
    },
}

/// Reads a listener's certificate and key. HTTP/2 is offered before HTTP/1.1.
pub(super) fn load(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |what, path: &Path| {
        let path = path.to_path_buf();
        move |error| TlsError::Pem { what, path, error }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(pem("a certificate chain", &tls.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(tls.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(pem("a private key", &tls.key))?;
    let unusable = |error| TlsError::Unusable { certificate: tls.certificate.clone(), key: tls.key.clone(), error };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_file_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (own, other) = (
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap(),
        );
        std::fs::write(at("cert.pem"), own.cert.pem()).unwrap();
        std::fs::write(at("key.pem"), own.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("other.pem"), other.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("empty.pem"), "").unwrap();
        let load = |certificate: &str, key: &str| load(&ListenerTls { certificate: at(certificate), key: at(key) });
        assert!(load("cert.pem", "key.pem").is_ok());
        for (certificate, key, named) in [
            ("absent.pem", "key.pem", "absent.pem"),
            ("empty.pem", "key.pem", "empty.pem"),
            ("cert.pem", "empty.pem", "empty.pem"),
            ("cert.pem", "other.pem", "other.pem"),
        ] {
            let error = load(certificate, key).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
