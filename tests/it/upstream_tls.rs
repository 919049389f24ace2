//! Backends over https: who cannot prove who he is gets no request, and who asks for Windward's own certificate is shown it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

use super::support::peer::PATIENCE;
use super::support::{Client, Harness};

const CALL: &str = r#"{"model":"m"}"#;

/// An authority that signs.
struct Authority {
    pem: String,
    der: rustls_pki_types::CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

/// A certificate and its key.
struct Leaf {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// A certificate for `name`, valid in these years.
    fn signs(&self, name: &str, from: i32, to: i32) -> Leaf {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        Leaf { certificate: parameters.signed_by(&key, &self.issuer).unwrap(), key }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Arc::new(roots)
    }
}

/// A backend over TLS, which asks for a certificate of `clients` when there are any; the requests that it could read come out of the
/// receiver.
fn backend(leaf: &Leaf, clients: Option<&Authority>) -> (SocketAddr, Receiver<String>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = Arc::new(builder.with_single_cert(vec![leaf.certificate.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (say, seen) = channel();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (config, say) = (Arc::clone(&config), say.clone());
            std::thread::spawn(move || {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                let Some(request) = read(&mut stream) else { return };
                let _ = say.send(request);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}");
                let _ = stream.flush();
                let _ = read(&mut stream);
            });
        }
    });
    (address, seen)
}

fn read(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Option<String> {
    let (mut seen, mut more) = (Vec::new(), [0; 4096]);
    while !seen.ends_with(CALL.as_bytes()) {
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return (!seen.is_empty()).then(|| String::from_utf8_lossy(&seen).into_owned()),
            Ok(count) => seen.extend_from_slice(&more[..count]),
        }
    }
    String::from_utf8(seen).ok()
}

/// A proxy before it that trusts `ca`, with further keys of the backend.
fn proxy(files: &Path, address: SocketAddr, ca: &Authority, more: &str) -> Harness {
    std::fs::write(files.join("ca.pem"), &ca.pem).unwrap();
    let (ca, port) = (files.join("ca.pem"), address.port());
    Harness::of(|log| {
        format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\nlog: {{ access: {log} }}\n\
             backends:\n  - name: a\n    url: https://localhost:{port}/v1\n    region: aws/eu-north-1\n    ca_file: {}\n    {more}\n",
            ca.display()
        )
    })
}

fn ask(proxy: &Harness) -> u16 {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", CALL);
    client.answer().status
}

#[test]
fn who_cannot_prove_who_he_is_gets_no_request() {
    let (files, ca, stranger) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    for (what, leaf) in [
        ("of an unknown authority", stranger.signs("localhost", 2020, 2100)),
        ("of another name", ca.signs("elsewhere.example", 2020, 2100)),
        ("expired", ca.signs("localhost", 2020, 2021)),
        ("not yet valid", ca.signs("localhost", 2099, 2100)),
    ] {
        let (address, seen) = backend(&leaf, None);
        let proxy = proxy(files.path(), address, &ca, "");
        assert_eq!(ask(&proxy), 502, "{what}");
        let record = proxy.record();
        assert_eq!(record["attempts"][0]["outcome"], "unreachable", "{what}: {record}");
        assert!(seen.try_recv().is_err(), "{what}");
    }
    let (address, seen) = backend(&ca.signs("localhost", 2020, 2100), None);
    assert_eq!(ask(&proxy(files.path(), address, &ca, "")), 200);
    assert!(seen.recv_timeout(PATIENCE).unwrap().starts_with("POST /v1/chat/completions "));
}

/// RFC 4346, 7.4.1.3: the record in which a server says hello and chooses TLS 1.1, which is the highest that it speaks.
fn hello_of_tls_1_1() -> Vec<u8> {
    let hello = [&[3, 2][..], &[7; 32], &[0], &[0, 0x2f], &[0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length][..], &hello].concat()
}

/// One record; `None` at the end.
fn record(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut payload).ok()?;
    Some((head[0], payload))
}

#[test]
fn who_speaks_no_tls_that_is_safe_gets_no_request() {
    const HANDSHAKE: u8 = 22;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (say, said) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (kind, _) = record(&mut stream).unwrap();
            assert_eq!(kind, HANDSHAKE);
            stream.write_all(&hello_of_tls_1_1()).unwrap();
            say.send(std::iter::from_fn(|| record(&mut stream)).collect::<Vec<_>>()).unwrap();
        }
    });
    let (files, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let proxy = proxy(files.path(), address, &ca, "");
    assert_eq!(ask(&proxy), 502);
    assert_eq!(proxy.record()["attempts"][0]["outcome"], "unreachable");
    // RFC 8446, 6: an alert (21), fatal (2), about the version (70).
    assert_eq!(said.recv_timeout(PATIENCE).unwrap(), [(21, vec![2, 70])], "and not a byte more");
}

#[test]
fn a_backend_that_asks_who_connects_is_shown_the_certificate() {
    let (files, ca, clients) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (address, seen) = backend(&ca.signs("localhost", 2020, 2100), Some(&clients));
    for (nth, (leaf, status)) in [
        (Some(clients.signs("windward", 2020, 2100)), 200),
        (Some(ca.signs("windward", 2020, 2100)), 502),
        (Some(clients.signs("windward", 2020, 2021)), 502),
        (None, 502),
    ]
    .into_iter()
    .enumerate()
    {
        let more = leaf.map_or(String::new(), |leaf| {
            let (certificate, key) = (files.path().join(format!("{nth}.pem")), files.path().join(format!("{nth}.key")));
            std::fs::write(&certificate, leaf.certificate.pem()).unwrap();
            std::fs::write(&key, leaf.key.serialize_pem()).unwrap();
            format!("tls: {{ certificate: {}, key: {} }}", certificate.display(), key.display())
        });
        let proxy = proxy(files.path(), address, &ca, &more);
        assert_eq!(ask(&proxy), status, "{nth}");
        if status == 200 {
            seen.recv_timeout(PATIENCE).expect("the request was read");
        }
        assert!(seen.try_recv().is_err(), "{nth}: a request was read that should not, or twice");
    }
}
