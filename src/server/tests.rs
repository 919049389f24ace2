use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::SystemClock;
use crate::config::{Limits, ListenerTls, LogTarget};
use crate::testing::plan;

/// A body of what is sent into a channel.
struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Answers `/` with one chunk; hands the sending end of any other response's body to the test.
#[derive(Clone)]
struct Echo {
    log: AccessLog,
    streams: mpsc::Sender<mpsc::Sender<Bytes>>,
}

impl Echo {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Chunks>, Infallible> {
        let (send, receive) = mpsc::channel(4);
        let path = request.uri().path().to_owned();
        self.log.append(|line, _| line.extend_from_slice(path.as_bytes()));
        if path == "/upgrade" {
            let upgraded = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            let mut response = Response::new(Chunks(receive));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(http::header::UPGRADE, http::HeaderValue::from_static("echo"));
            return Ok(response);
        }
        if path == "/" {
            send.send(Bytes::from(format!("{:?}", request.version()))).await.unwrap();
        } else {
            self.streams.send(send).await.unwrap();
        }
        Ok(Response::new(Chunks(receive)))
    }
}

struct Running {
    handle: Handle,
    shared: Shared,
    streams: mpsc::Receiver<mpsc::Sender<Bytes>>,
}

fn running_with(plan: Plan, config: Option<ConfigFile>, signals: bool) -> Running {
    let serve =
        Serve { plan, config, clock: Arc::new(SystemClock), identity: Identity::new("test", 1), signals, background: None };
    let (sender, streams) = mpsc::channel(16);
    let mut kept = None;
    let handle = start(serve, |shared| {
        kept = Some(shared.clone());
        let echo = Echo { log: shared.log.clone(), streams: sender };
        move |_peer| {
            let echo = echo.clone();
            tower::service_fn(move |request| echo.clone().answer(request))
        }
    });
    Running { handle: handle.unwrap(), shared: kept.unwrap(), streams }
}

#[cfg(unix)]
fn signal(name: &str) {
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn running(change: impl FnOnce(&mut Plan)) -> Running {
    let mut plan = plan();
    change(&mut plan);
    running_with(plan, None, false)
}

impl Running {
    fn end(self) -> Ended {
        self.handle.shutdown();
        drop(self.streams);
        self.handle.join()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.handle.addresses[0]).await.unwrap()
    }

    async fn admin(&self, method: &str, path: &str) -> (u16, serde_json::Value) {
        let socket = TcpStream::connect(self.handle.admin.unwrap()).await.unwrap();
        let (status, body) = ask_h1(socket, method, path).await;
        (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
    }
}

async fn ask_h1<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, method: &str, path: &str) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.get(9..12).unwrap().parse().unwrap(), body.to_owned())
}

async fn ask_h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: S) -> Bytes {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    connection.await.unwrap().unwrap();
    body
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("the test hangs") })
}

async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = socket.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

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
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = ListenerTls { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&tls.certificate, own.cert.pem()).unwrap();
    std::fs::write(&tls.key, own.signing_key.serialize_pem()).unwrap();
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
fn a_head_that_does_not_end_is_cut_off() {
    let server = running(|plan| plan.limits.header_read = Duration::from_millis(20));
    let metrics = Arc::clone(&server.shared.metrics);
    block_on(async {
        for half in ["GET / HTTP/1.1\r\nhost: te", "P"] {
            let mut slow = server.connect().await;
            slow.write_all(half.as_bytes()).await.unwrap();
            assert_eq!(read_to_end(&mut slow).await, "");
        }
        assert_eq!(read_to_end(&mut server.connect().await).await, "", "nothing at all is no reason to stay either");
        // The first byte may have come too late to be one, on a machine that is busy.
        while metrics.connections.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(metrics.bad_heads.get() <= 2);
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

#[test]
fn draining_ends_idle_connections_and_waits_for_streams() {
    let mut server = running(|plan| plan.boot.workers = Some(1));
    block_on(async {
        let mut idle = server.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        idle.read_u8().await.unwrap();
        let mut socket = server.connect().await;
        socket.write_all(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let stream = server.streams.recv().await.unwrap();
        stream.send(Bytes::from_static(b"one")).await.unwrap();
        server.handle.shutdown();
        read_to_end(&mut idle).await;
        let (status, _) = server.admin("GET", "/readyz").await;
        assert_eq!(status, 503);
        let mut refused = TcpStream::connect(server.handle.addresses[0]).await;
        if let Ok(socket) = &mut refused {
            assert_eq!(read_to_end(socket).await, "");
        }
        stream.send(Bytes::from_static(b"two")).await.unwrap();
        drop(stream);
        let text = read_to_end(&mut socket).await;
        assert!(text.contains("one") && text.contains("two") && text.ends_with("0\r\n\r\n"), "{text}");
    });
    let ended = server.handle.join();
    assert_eq!(ended, Ended { drained: true, log_complete: true, failed: false });
}

#[test]
fn what_is_still_open_at_the_deadline_is_cut_and_the_log_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let mut server = running(|plan| {
        plan.boot.drain_deadline = Duration::ZERO;
        plan.boot.access_log = LogTarget::File(path.clone());
    });
    let open = block_on(async {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        (server.streams.recv().await.unwrap(), socket.into_std().unwrap())
    });
    server.handle.shutdown();
    let ended = server.handle.join();
    assert_eq!(ended, Ended { drained: false, log_complete: true, failed: false });
    assert!(open.0.is_closed(), "the response's body was dropped");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "/stream\n");
}

#[test]
fn asking_twice_skips_the_delay_and_the_drain() {
    let mut server = running(|plan| {
        plan.boot.drain_delay = Duration::from_hours(1);
        plan.boot.drain_deadline = Duration::from_hours(1);
    });
    let open = block_on(async {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let stream = server.streams.recv().await.unwrap();
        server.handle.shutdown();
        while server.admin("GET", "/readyz").await.0 == 200 {}
        assert_eq!(ask_h1(server.connect().await, "GET", "/").await.0, 200, "until the delay is over requests are served");
        (stream, socket.into_std().unwrap())
    });
    server.handle.shutdown();
    assert!(!server.handle.join().drained);
    drop(open);
}

#[test]
fn a_port_in_use_is_refused_before_anything_runs() {
    let first = running(|_| {});
    let mut plan = plan();
    plan.boot.listeners[0].address = first.handle.addresses[0];
    let serve = Serve {
        plan,
        config: None,
        clock: Arc::new(SystemClock),
        identity: Identity::new("test", 2),
        signals: false,
        background: None,
    };
    let log = first.shared.log.clone();
    let error = start(serve, |_| {
        let echo = Echo { log, streams: mpsc::channel(1).0 };
        move |_| {
            let echo = echo.clone();
            tower::service_fn(move |request| echo.clone().answer(request))
        }
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another process") && error.contains(&first.handle.addresses[0].to_string()), "{error}");
    assert!(first.end().drained);
}

#[test]
fn the_admin_address_answers_what_it_has_and_nothing_else() {
    let server = running(|_| {});
    block_on(async {
        assert_eq!(server.admin("GET", "/healthz").await.0, 200);
        assert_eq!(server.admin("GET", "/readyz").await.0, 200);
        let (status, text) = server.admin("GET", "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.as_str().unwrap().contains("windward_config_generation 1.0\n"), "{text}");
        let (_, status) = server.admin("GET", "/status").await;
        assert_eq!((&status["instance"], &status["generation"]), (&"test".into(), &1.into()));
        assert_eq!(status["backends"][0]["models"][0]["first_token_ms"], 662.5);
        assert_eq!(status["grid"][0]["grid_zone"], "SE-SE1");
        assert_eq!(server.admin("POST", "/status").await.0, 405);
        assert_eq!(server.admin("GET", "/reload").await.0, 405);
        assert_eq!(server.admin("GET", "/").await.0, 404);
        assert_eq!(server.admin("POST", "/reload").await.0, 422, "there is no file");
    });
    assert!(server.end().drained);
}

#[test]
fn a_reload_is_in_force_when_it_is_answered_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("windward.yaml");
    std::fs::write(&path, "1").unwrap();
    let loader = |text: &str| {
        let mut plan = plan();
        plan.limits.streams = text.parse().map_err(|error| format!("1:1: {error}"))?;
        plan.boot.workers = Some(9);
        Ok(plan)
    };
    let config = ConfigFile { path: path.clone(), text: "1".to_owned(), loader: Box::new(loader) };
    let server = running_with(plan(), Some(config), false);
    let streams = || server.shared.state.load().plan.limits.streams;
    block_on(async {
        std::fs::write(&path, "two").unwrap();
        let (status, answer) = server.admin("POST", "/reload").await;
        assert_eq!(status, 422);
        assert_eq!(answer["error"]["message"], "1:1: invalid digit found in string");
        assert_eq!((streams(), server.shared.metrics.config_good.get()), (Limits::default().streams, 0));
        let (_, status) = server.admin("GET", "/status").await;
        assert_eq!(status["last_reload"]["ok"], false);
        std::fs::write(&path, "2").unwrap();
        let (status, answer) = server.admin("POST", "/reload").await;
        assert_eq!((status, streams()), (200, 2));
        assert_eq!(answer["restart_needed"], serde_json::json!(["workers"]));
        let (_, status) = server.admin("GET", "/status").await;
        assert_eq!(status["last_reload"]["ok"], true);
        // No one asks now: the watch does.
        std::fs::write(dir.path().join("new"), "3").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        while streams() != 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(server.shared.metrics.config_good.get(), 1);
    assert!(server.end().drained);
}

#[cfg(unix)]
#[test]
fn signals_reopen_the_log_reload_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("access.jsonl"), dir.path().join("access.jsonl.1"));
    let path = dir.path().join("windward.yaml");
    std::fs::write(&path, "same").unwrap();
    let config = ConfigFile { path, text: "same".to_owned(), loader: Box::new(|_| Ok(plan())) };
    let mut first = plan();
    first.boot.access_log = LogTarget::File(log.clone());
    let server = running_with(first, Some(config), true);
    let shared = server.shared.clone();
    block_on(async {
        signal("-HUP");
        while shared.state.load().generation == 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::rename(&log, &old).unwrap();
        signal("-USR1");
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ask_h1(server.connect().await, "GET", "/").await.0, 200);
    });
    signal("-TERM");
    assert_eq!(server.handle.join(), Ended { drained: true, log_complete: true, failed: false });
    assert_eq!(std::fs::read_to_string(log).unwrap(), "/\n");
    assert_eq!(std::fs::read_to_string(old).unwrap(), "");
}

#[test]
fn a_worker_that_fails_ends_the_server_and_says_so() {
    let mut plan = plan();
    plan.boot.workers = Some(2);
    let serve = Serve {
        plan,
        config: None,
        clock: Arc::new(SystemClock),
        identity: Identity::new("test", 3),
        signals: false,
        background: Some(Arc::new(|| panic!("no background today"))),
    };
    let handle = start(serve, |shared| {
        let echo = Echo { log: shared.log.clone(), streams: mpsc::channel(1).0 };
        move |_| {
            let echo = echo.clone();
            tower::service_fn(move |request| echo.clone().answer(request))
        }
    });
    assert!(handle.unwrap().join().failed);
}
