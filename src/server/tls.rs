//! Certificates of listeners.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::state::State;

/// Shows what the snapshot in force holds for a listener, so that whoever connects after a reload sees what was renewed.
#[derive(Debug)]
struct InForce {
    state: Arc<State>,
    listener: usize,
}

impl ResolvesServerCert for InForce {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.state.load().shown(self.listener).map(|shown| Arc::clone(shown.key()))
    }
}

/// The server's side of TLS for the listener at a place of the plan. HTTP/2 is offered before HTTP/1.1.
pub(super) fn config(state: &Arc<State>, listener: usize) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(InForce { state: Arc::clone(state), listener }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
