//! A new file is in force for the next request; a bad one changes nothing and is said loudly; nothing in flight notices either.

use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks};
use super::support::{Client, Harness, Peer, patiently};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m"}"#;

fn backend(proxy: &Harness) -> (String, u64) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", BODY);
    let answer = client.answer();
    (answer.field("x-windward-backend").unwrap().to_owned(), proxy.record()["generation"].as_u64().unwrap())
}

fn post_reload(proxy: &Harness) -> (u16, String) {
    let mut client = Client::connect(proxy.admin);
    client.post("/reload", "", "");
    let answer = client.answer();
    (answer.status, answer.text())
}

#[test]
fn a_changed_file_is_in_force_for_the_next_request() {
    let (one, two) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let proxy = Harness::start(&[("one", one.address, ""), ("two", two.address, "")], "policy: in_order");
    assert_eq!(backend(&proxy), ("one".into(), 1));
    proxy.rewrite(|text| text.replace("backends: [one, two]", "backends: [two, one]"));
    proxy.wait_for_status("the second generation", |status| status["generation"] == 2);
    assert_eq!(backend(&proxy), ("two".into(), 2));
}

#[test]
fn a_bad_file_changes_nothing_and_is_said_until_it_is_mended() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("one", peer.address, "")], "");
    proxy.rewrite(|text| text.replace("backends: [one]", "backends: [once]"));
    let (status, problems) = post_reload(&proxy);
    assert_eq!(status, 422);
    assert!(problems.contains("once") && problems.contains("one"), "{problems}");
    assert_eq!(backend(&proxy), ("one".into(), 1));
    let seen = proxy.wait_for_status("the problem", |status| status["last_reload"]["ok"] == false);
    assert_eq!(seen["generation"], 1);
    assert!(proxy.ask_admin("/metrics").text().contains("windward_config_good 0"), "{}", proxy.ask_admin("/metrics").text());
    proxy.rewrite(|text| text.replace("backends: [once]", "backends: [one] # mended"));
    assert_eq!(post_reload(&proxy).0, 200);
    // As below, the watch may have been quicker.
    let (name, generation) = backend(&proxy);
    assert!(name == "one" && generation >= 2, "{name} {generation}");
    assert!(proxy.ask_admin("/metrics").text().contains("windward_config_good 1"));
}

#[test]
fn a_stream_survives_the_removal_of_its_backend() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let old = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        chunk(stream, b"data: [DONE]\n\n");
        end_chunks(stream);
        Then::Next
    });
    let new = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("old", old.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
    client.read_until("\"a\"");
    let new_url = format!("http://{}/base", new.address);
    let old_url = format!("http://{}/base", old.address);
    proxy.rewrite(|text| text.replace("name: old", "name: new").replace("[old]", "[new]").replace(&old_url, &new_url));
    assert_eq!(post_reload(&proxy).0, 200);
    go.send(()).unwrap();
    assert!(client.answer().text().ends_with("data: [DONE]\n\n"));
    let record = proxy.record();
    assert_eq!((&record["backend"], &record["generation"], &record["ended"]), (&"old".into(), &1.into(), &"complete".into()));
    // The watch may have been quicker than the one who asked; then his was the third.
    let (name, generation) = backend(&proxy);
    assert!(name == "new" && generation >= 2, "{name} {generation}");
}

#[test]
fn what_needs_a_restart_is_named() {
    let peer = Peer::answering("200 OK", OK);
    let proxy = Harness::start(&[("one", peer.address, "")], "");
    proxy.rewrite(|text| text.replace("workers: 2", "workers: 3"));
    let (status, said) = post_reload(&proxy);
    assert_eq!(status, 200);
    assert!(said.contains("workers"), "{said}");
}

#[test]
fn what_is_in_flight_still_counts_after_a_reload_that_changes_the_models() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: {}\n\n");
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("one", peer.address, "models: [m]")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
    client.read_until("data");
    proxy.rewrite(|text| text.replace("models: [m]", "models: [m, n]"));
    proxy.wait_for_status("the second generation", |status| status["generation"] == 2);
    assert_eq!(proxy.in_flight("one"), 1);
    go.send(()).unwrap();
    client.answer();
    proxy.record();
    assert_eq!(proxy.in_flight("one"), 0);
}

/// Writes a new certificate and its key, and says which it is.
fn renew(files: &Path) -> rustls_pki_types::CertificateDer<'static> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // A look between the two finds a pair that does not fit, and the next one the whole.
    std::fs::write(files.join("cert.pem"), own.cert.pem()).unwrap();
    std::fs::write(files.join("key.pem"), own.signing_key.serialize_pem()).unwrap();
    own.cert.der().clone()
}

/// Whether a new connection is shown this certificate.
fn shows(proxy: &Harness, certificate: &rustls_pki_types::CertificateDer<'static>) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(proxy.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    while client.is_handshaking() {
        if client.complete_io(&mut socket).is_err() {
            return false;
        }
    }
    true
}

fn over_tls(peer: &Peer, files: &Path) -> Harness {
    let tls = format!("tls: {{ certificate: {0}/cert.pem, key: {0}/key.pem }}", files.display());
    Harness::of(|log| {
        let text = super::support::text(log, "", &[("one", peer.address, "")], "");
        text.replace("[{ address: 127.0.0.1:0 }]", &format!("[{{ address: 127.0.0.1:0, {tls} }}]"))
    })
}

#[test]
fn a_renewed_certificate_is_shown_after_a_reload_and_a_bad_one_never() {
    let (peer, files) = (Peer::answering("200 OK", OK), tempfile::tempdir().unwrap());
    let first = renew(files.path());
    let proxy = over_tls(&peer, files.path());
    assert!(shows(&proxy, &first));
    let second = renew(files.path());
    let (status, said) = post_reload(&proxy);
    assert!(status == 200 && said.contains("\"restart_needed\":[]"), "{said}");
    assert!(shows(&proxy, &second) && !shows(&proxy, &first));
    let lone = rcgen::KeyPair::generate().unwrap();
    std::fs::write(files.path().join("key.pem"), lone.serialize_pem()).unwrap();
    let (status, said) = post_reload(&proxy);
    assert!(status == 422 && said.contains("this is not the key of the certificate") && said.contains("tls.key"), "{said}");
    assert!(shows(&proxy, &second));
    assert!(proxy.ask_admin("/metrics").text().contains("windward_config_good 0"));
    proxy.rewrite(|text| text.replace("cert.pem", "elsewhere.pem").replace("key.pem", "own.pem"));
    let third = renew(files.path());
    for (from, to) in [("cert.pem", "elsewhere.pem"), ("key.pem", "own.pem")] {
        std::fs::copy(files.path().join(from), files.path().join(to)).unwrap();
    }
    let (status, said) = post_reload(&proxy);
    assert!(status == 200 && said.contains("listeners"), "other files need a restart: {said}");
    assert!(shows(&proxy, &second) && !shows(&proxy, &third));
}

#[test]
fn a_renewed_certificate_is_noticed_by_itself() {
    let (peer, files) = (Peer::answering("200 OK", OK), tempfile::tempdir().unwrap());
    let first = renew(files.path());
    let proxy = over_tls(&peer, files.path());
    assert!(shows(&proxy, &first));
    let second = renew(files.path());
    patiently("the renewed certificate", || shows(&proxy, &second).then_some(()));
}
