//! What becomes of one connection.

use super::*;

#[test]
fn speaks_both_versions_on_a_plain_listener() {
    let server = running(|_| {});
    block_on(async {
        let (status, body) = ask_h1(server.connect().await, "GET", "/").await;
        assert_eq!(status, 200);
        assert!(body.contains("HTTP/1.1"), "{body}");
        assert_eq!(ask_h2(server.connect().await).await, "HTTP/2.0");
    });
    assert_eq!(server.end(), Ended { drained: true, log_complete: true, failed: false });
}

#[test]
fn speaks_both_versions_over_tls() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let shown = Shown::new(&crate::backend::Identity { chain: vec![own.cert.der().clone()], key }).unwrap();
    let tls = ListenerTls { certificate: "cert.pem".into(), key: "key.pem".into(), shown };
    let server = running(|plan| plan.boot.listeners[0].tls = Some(tls));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = builder.with_root_certificates(roots).with_no_client_auth();
    let connect = async |protocol: &str| {
        let mut client = client.clone();
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, server.connect().await).await.unwrap()
    };
    block_on(async {
        assert_eq!(ask_h2(connect("h2").await).await, "HTTP/2.0");
        assert!(ask_h1(connect("http/1.1").await, "GET", "/").await.1.contains("HTTP/1.1"));
        let mut several = connect("http/1.1").await;
        let post = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let (get, last) = ("GET / HTTP/1.1\r\nhost: test\r\n\r\n", "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        several.write_all([get, get, post, last].concat().as_bytes()).await.unwrap();
        let mut answers = String::new();
        several.read_to_string(&mut answers).await.expect("the end is said under TLS too");
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 4, "{answers}");
        let mut wrong = connect("http/1.1").await;
        wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut refusal = String::new();
        wrong.read_to_string(&mut refusal).await.expect("the end is said under TLS too");
        assert!(refusal.starts_with("HTTP/1.1 400 ") && refusal.contains("bad_host"), "{refusal}");
        let mut plain = server.connect().await;
        plain.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        read_to_end(&mut plain).await;
        while server.shared.metrics.handshake_errors.get() == 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(server.end().drained);
}

#[test]
fn connections_go_round_where_that_is_asked_for() {
    let mut plan = plan();
    plan.boot.workers = Some(3);
    plan.boot.listeners[0].balance = crate::config::Balance::RoundRobin;
    let clock = Arc::new(SystemClock);
    let serve = Serve { plan, config: None, clock, identity: Identity::new("test", 4), signals: false, background: None };
    let (sender, taken) = std::sync::mpsc::channel();
    let handle = start(serve, |shared| {
        let echo = Echo { log: shared.log.clone(), streams: mpsc::channel(1).0 };
        move |_peer| {
            sender.send(std::thread::current().id()).unwrap();
            let echo = echo.clone();
            tower::service_fn(move |request| echo.clone().answer(request))
        }
    });
    let handle = handle.unwrap();
    block_on(async {
        let mut open = Vec::new();
        for _ in 0..12 {
            let mut socket = TcpStream::connect(handle.addresses[0]).await.unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'H');
            open.push(socket);
        }
    });
    let mut counts = std::collections::HashMap::new();
    for worker in taken.try_iter() {
        *counts.entry(worker).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
    handle.shutdown();
    assert_eq!(handle.join(), Ended { drained: true, log_complete: true, failed: false });
}

#[test]
fn one_connection_too_many_is_closed_and_counted() {
    let server = running(|plan| plan.limits.connections = 1);
    block_on(async {
        let mut first = server.connect().await;
        first.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert_ne!(first.read_u8().await.unwrap(), 0);
        assert_eq!(read_to_end(&mut server.connect().await).await, "");
    });
    let metrics = Arc::clone(&server.shared.metrics);
    assert_eq!((metrics.accepted.get(), metrics.refused_connections.get()), (2, 1));
    assert!(server.end().drained);
    assert_eq!(metrics.connections.get(), 0);
}

#[test]
fn half_a_head_is_waited_for_when_the_server_stops() {
    let server = running(|plan| plan.boot.workers = Some(1));
    block_on(async {
        let mut socket = server.connect().await;
        socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nx: ").await.unwrap();
        let mut other = server.connect().await;
        other.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert_ne!(other.read_u8().await.unwrap(), 0);
        while server.shared.metrics.accepted.get() < 2 {
            tokio::task::yield_now().await;
        }
        server.handle.shutdown();
        read_to_end(&mut other).await;
        socket.write_all(b"y\r\n\r\n").await.unwrap();
        let answer = read_to_end(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
    });
    drop(server.streams);
    assert!(server.handle.join().drained);
}

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    let server = running(|plan| plan.limits.header_read = Duration::from_millis(20));
    let metrics = Arc::clone(&server.shared.metrics);
    block_on(async {
        for half in ["GET / HTTP/1.1\r\nhost: te", "P"] {
            let counted = metrics.bad_heads.get();
            // On a machine that is busy the first byte may come too late to be one, and then none is counted.
            while metrics.bad_heads.get() == counted {
                let mut slow = server.connect().await;
                let _ = slow.write_all(half.as_bytes()).await;
                assert_eq!(read_to_end(&mut slow).await, "");
                while metrics.connections.get() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        assert_eq!(read_to_end(&mut server.connect().await).await, "", "nothing at all is no reason to stay either");
    });
    assert!(server.end().drained);
}

#[test]
fn a_bad_head_is_answered_and_counted() {
    let server = running(|plan| plan.limits.head = 8 << 10);
    let metrics = Arc::clone(&server.shared.metrics);
    block_on(async {
        let mut bad = server.connect().await;
        bad.write_all(b"\0\0\0\0\0\0\r\n\r\n").await.unwrap();
        assert!(read_to_end(&mut bad).await.starts_with("HTTP/1.1 400 "));
        let mut large = server.connect().await;
        large.write_all(format!("GET / HTTP/1.1\r\nhost: {}", "x".repeat(9000)).as_bytes()).await.unwrap();
        assert!(read_to_end(&mut large).await.starts_with("HTTP/1.1 431 "));
        drop((bad, large));
        while metrics.bad_heads.get() < 2 {
            tokio::task::yield_now().await;
        }
    });
    assert!(server.end().drained);
}

#[test]
fn an_idle_connection_is_closed_but_never_a_request_in_progress() {
    let mut server = running(|plan| plan.limits.idle = Duration::from_millis(20));
    block_on(async {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let stream = server.streams.recv().await.unwrap();
        // Another connection lives through its whole idle time meanwhile.
        let mut idle = server.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert!(read_to_end(&mut idle).await.starts_with("HTTP/1.1 200 "));
        stream.send(Bytes::from_static(b"still here")).await.unwrap();
        drop(stream);
        let text = read_to_end(&mut socket).await;
        assert!(text.contains("still here") && text.ends_with("0\r\n\r\n"), "{text}");
    });
    assert!(server.end().drained);
}

#[test]
fn an_idle_http2_connection_is_told_to_go() {
    let server = running(|plan| plan.limits.idle = Duration::from_millis(20));
    block_on(async {
        let io = TokioIo::new(server.connect().await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
        connection.await.expect("a goodbye is no error");
        assert!(sender.is_closed());
    });
    assert!(server.end().drained);
}

#[test]
fn an_upgraded_connection_is_left_alone_and_waited_for() {
    let server = running(|plan| plan.limits.idle = Duration::from_millis(20));
    block_on(async {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let mut idle = server.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        read_to_end(&mut idle).await;
        server.handle.shutdown();
        while server.admin("GET", "/readyz").await.0 == 200 {}
        socket.write_all(b"echo").await.unwrap();
        let mut echo = [0; 4];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"echo");
        while server.shared.metrics.connections.get() != 1 {
            tokio::task::yield_now().await;
        }
    });
    assert!(server.handle.join().drained);
}
