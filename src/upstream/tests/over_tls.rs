//! Whom a request is sent to when the address is `https`.

use super::*;

/// A certificate authority, and a server's TLS with a certificate of its for `name`.
pub(super) fn authority(name: &str, alpn: &[&str]) -> (Arc<[CertificateDer<'static>]>, Arc<rustls::ServerConfig>) {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = parameters.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (Arc::from(vec![ca.der().clone()]), Arc::new(config))
}

pub(super) fn tls_backend(ca: Option<Arc<[CertificateDer<'static>]>>, protocol: Protocol) -> Backend {
    let mut backend = backend_at("localhost", 443);
    backend.origin.tls = true;
    backend.origin.ca = ca;
    backend.protocol = protocol;
    backend
}

#[tokio::test]
async fn tls_is_verified_and_resumed() {
    let (ca, server) = authority("localhost", &["http/1.1"]);
    let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http1));
    world.upstreams.prepare(&world.backend).unwrap();
    let peer = tokio::spawn(async move {
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let io = connections.recv().await.unwrap();
            let mut io = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(io).await.unwrap();
            kinds.push(io.get_ref().1.handshake_kind().unwrap());
            answer(&mut io, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello").await;
        }
        kinds
    });
    for _ in 0..2 {
        let response = world.send(get()).await.unwrap();
        assert!(response.connect.is_some());
        assert_eq!(text(response.body).await.unwrap(), "hello");
    }
    let kinds = within(peer).await.unwrap();
    assert_eq!(kinds[1], rustls::HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_gets_nothing() {
    let (ca, named_otherwise) = authority("elsewhere.example", &[]);
    let (_, unknown) = authority("localhost", &[]);
    let nobody: Arc<[CertificateDer<'static>]> = Arc::from(Vec::new());
    for (trusted, server) in [
        (Some(Arc::clone(&ca)), named_otherwise),
        (Some(ca), Arc::clone(&unknown)),
        (None, Arc::clone(&unknown)),
        (Some(nobody), unknown),
    ] {
        let (world, mut connections) = World::in_memory_for(tls_backend(trusted, Protocol::Http1));
        let peer = tokio::spawn(async move {
            let io = connections.recv().await?;
            let accepted = tokio_rustls::TlsAcceptor::from(server).accept(io).await;
            let mut seen = Vec::new();
            if let Ok(mut io) = accepted {
                let _ = io.read_to_end(&mut seen).await;
            }
            Some(seen)
        });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Tls);
        assert_eq!(within(error.request.unwrap().into_body().collect()).await.unwrap().to_bytes(), "hello");
        drop(world);
        assert_eq!(within(peer).await.unwrap().unwrap_or_default(), b"", "not one byte of the request arrived");
    }
}

#[tokio::test]
async fn a_version_before_1_2_is_refused() {
    // A ServerHello of TLS 1.1 with TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA.
    let server_hello = [[2, 0, 0, 38, 3, 2].as_slice(), &[7; 32], &[0, 0xc0, 0x13, 0]].concat();
    let record = [[22, 3, 2, 0, 42].as_slice(), &server_hello].concat();
    let (ca, _) = authority("localhost", &[]);
    let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http1));
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        let mut seen = vec![0; 5];
        io.read_exact(&mut seen).await.unwrap();
        io.write_all(&record).await.unwrap();
        io.read_to_end(&mut seen).await.unwrap();
        seen
    });
    let error = world.send(post(hello())).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Tls);
    assert!(format!("{:?}", error.source).contains("PeerIncompatible"), "{:?}", error.source);
    let seen = within(peer).await.unwrap();
    // The last thing is an alert: protocol_version.
    assert!(seen.ends_with(&[2, 70]), "{seen:?}");
    assert!(memchr::memmem::find(&seen, b"POST").is_none());
}

#[tokio::test]
async fn an_end_without_manners_is_a_cut_where_the_end_is_all_there_is() {
    for (manners, whole) in [(true, true), (false, false)] {
        let (ca, server) = authority("localhost", &["http/1.1"]);
        let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http1));
        let peer = tokio::spawn(async move {
            let io = connections.recv().await.unwrap();
            let mut io = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap();
            answer(&mut io, "HTTP/1.1 200 OK\r\n\r\nhello").await;
            io.flush().await.unwrap();
            if manners {
                io.shutdown().await.unwrap();
            }
        });
        let response = world.send(get()).await.unwrap();
        within(peer).await.unwrap();
        assert_eq!(text(response.body).await.is_ok(), whole, "who cuts the connection must not pass for the sender");
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_is_found_before_anybody_is_connected_to() {
    let (ca, _) = authority("localhost", &[]);
    let mut backend = tls_backend(Some(ca), Protocol::Http1);
    let made = || rcgen::generate_simple_self_signed(["windward".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    for (key, fits) in [(&one, true), (&other, false)] {
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        backend.origin.identity = Some(Arc::new(Identity { chain: vec![one.cert.der().clone()], key }));
        let (world, _) = World::in_memory_for(backend.clone());
        assert_eq!(world.upstreams.prepare(&backend).is_ok(), fits);
        assert!(!format!("{backend:?}").contains("key:"), "a key is never shown");
    }
}
