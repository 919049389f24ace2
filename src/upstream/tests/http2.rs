//! Many exchanges on one HTTP/2 connection.

use super::over_tls::{authority, tls_backend};
use super::*;

/// A response body of two events that then stands still until it is dropped, which `Guard` reports.
struct Standing {
    left: u8,
    _dropped: oneshot::Sender<Infallible>,
}

impl Body for Standing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"event")))))
    }
}

type H2Reply = Response<http_body_util::Either<http_body_util::Full<Bytes>, Standing>>;

/// Serves HTTP/2: `/stand` stands still and reports its end, everything else echoes method, authority and body.
async fn serve_h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S, streams: u32, ended: mpsc::Sender<()>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let ended = ended.clone();
        async move {
            if request.uri().path() == "/stand" {
                let (dropped, seen) = oneshot::channel();
                tokio::spawn(async move {
                    let _ = seen.await;
                    let _ = ended.send(()).await;
                });
                return Ok::<H2Reply, hyper::Error>(Response::new(http_body_util::Either::Right(Standing {
                    left: 2,
                    _dropped: dropped,
                })));
            }
            let (head, body) = request.into_parts();
            let mut echo = format!("{} {} ", head.method, head.uri).into_bytes();
            echo.extend_from_slice(&body.collect().await?.to_bytes());
            Ok(Response::new(http_body_util::Either::Left(Bytes::from(echo).into())))
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(streams);
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

/// A plain HTTP/2 backend whose connections are served until a message asks to drop the first of them.
pub(super) fn h2_world(streams: u32) -> (World, Arc<AtomicUsize>, mpsc::Receiver<()>, Vec<oneshot::Sender<()>>) {
    let mut backend = backend_at("peer", 80);
    backend.protocol = Protocol::Http2;
    let (world, mut connections) = World::in_memory_for(backend);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let (report, ended) = mpsc::channel(16);
    let (kill, mut killed): (Vec<_>, Vec<_>) = (0..16).map(|_| oneshot::channel::<()>()).unzip();
    killed.reverse();
    tokio::spawn(async move {
        while let Some(io) = connections.recv().await {
            count.fetch_add(1, Ordering::Relaxed);
            let kill = killed.pop().unwrap();
            let report = report.clone();
            tokio::spawn(async move {
                tokio::select! { () = serve_h2(io, streams, report) => {}, _ = kill => {} }
            });
        }
    });
    (world, accepted, ended, kill)
}

fn stand() -> Request<SendBody> {
    Request::get("/stand").header(HOST, "peer").body(SendBody::empty()).unwrap()
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let (world, accepted, _ended, _kill) = h2_world(100);
    let (feed, body) = fed();
    feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    drop(feed);
    let (one, two, three) = tokio::join!(world.send(post(hello())), world.send(post(body)), world.send(get()));
    for (response, expected) in [
        (one, "POST http://peer:80/v1/chat hello"),
        (two, "POST http://peer:80/v1/chat hello"),
        (three, "GET http://peer:80/v1/models "),
    ] {
        assert_eq!(text(response.unwrap().body).await.unwrap(), expected);
    }
    assert!(world.send(get()).await.unwrap().reused());
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (1, 1));
    // Idle for long enough, it is closed; in use it never is.
    let mut standing = world.send(stand()).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.shared(), 1);
    within(standing.body.frame()).await.unwrap().unwrap();
    drop(standing);
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.shared(), 0);
    world.upstreams.shared.tasks.close();
    within(world.upstreams.shared.tasks.wait()).await;
}

#[tokio::test]
async fn dropping_an_http2_body_resets_its_stream_only() {
    let (world, accepted, mut ended, _kill) = h2_world(100);
    let mut dropped = world.send(stand()).await.unwrap();
    let mut kept = world.send(stand()).await.unwrap();
    within(dropped.body.frame()).await.unwrap().unwrap();
    drop(dropped);
    within(ended.recv()).await.unwrap();
    within(kept.body.frame()).await.unwrap().unwrap();
    assert!(ended.try_recv().is_err());
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_broken_http2_connection_is_replaced() {
    let (world, accepted, _ended, mut kill) = h2_world(100);
    let mut standing = world.send(stand()).await.unwrap();
    kill.remove(0).send(()).unwrap();
    while let Some(Ok(_)) = within(standing.body.frame()).await {}
    assert_eq!(text(world.send(get()).await.unwrap().body).await.unwrap(), "GET http://peer:80/v1/models ");
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (2, 1));
}

#[tokio::test]
async fn a_full_http2_connection_gets_company() {
    let (world, accepted, _ended, _kill) = h2_world(1);
    text(world.send(get()).await.unwrap().body).await.unwrap();
    let _standing = world.send(stand()).await.unwrap();
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!((accepted.load(Ordering::Relaxed), world.shared()), (2, 2));
}

#[tokio::test]
async fn http2_over_tls_is_agreed_upon() {
    let (ca, server) = authority("localhost", &["h2"]);
    let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http2));
    tokio::spawn(async move {
        let io = connections.recv().await.unwrap();
        let io = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap();
        serve_h2(io, 100, mpsc::channel(1).0).await;
    });
    let response = world.send(post(hello())).await.unwrap();
    assert_eq!(text(response.body).await.unwrap(), "POST https://localhost:443/v1/chat hello");
}

#[tokio::test]
async fn http2_that_is_not_spoken_is_said_so() {
    for alpn in [&["http/1.1"] as &[&str], &[], &["spdy/3"]] {
        let (ca, server) = authority("localhost", alpn);
        let (world, mut connections) = World::in_memory_for(tls_backend(Some(ca), Protocol::Http2));
        let peer = tokio::spawn(async move {
            let accepted = tokio_rustls::TlsAcceptor::from(server).accept(connections.recv().await.unwrap()).await;
            if let Ok(mut io) = accepted {
                closed(&mut io).await;
            }
        });
        let error = world.send(get()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::NotHttp2);
        assert!(error.source.to_string().contains("ALPN"), "{}", error.source);
        assert!(error.request.is_some());
        within(peer).await.unwrap();
    }
}

/// Speaks HTTP/2 just far enough to read until the first request, and then writes these frames and closes.
pub(super) async fn http2_frames_after_a_request(mut io: DuplexStream, frames: &[u8]) {
    until_a_request(&mut io).await;
    io.write_all(frames).await.unwrap();
}

/// Speaks HTTP/2 just far enough to read until the first request.
pub(super) async fn until_a_request(io: &mut DuplexStream) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut seen = vec![0; PREFACE];
    io.read_exact(&mut seen).await.unwrap();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
}

#[tokio::test]
async fn what_an_http2_peer_did_not_process_may_be_sent_again() {
    let refused: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    let cancelled: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    let gone_before: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let gone_after: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    for (frames, kind) in [
        (refused, SendErrorKind::Refused),
        (gone_before, SendErrorKind::Refused),
        (cancelled, SendErrorKind::Broken),
        (gone_after, SendErrorKind::Broken),
        (&[], SendErrorKind::Broken),
    ] {
        let mut backend = backend_at("peer", 80);
        backend.protocol = Protocol::Http2;
        let (world, mut connections) = World::in_memory_for(backend);
        tokio::spawn(async move { http2_frames_after_a_request(connections.recv().await.unwrap(), frames).await });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, kind, "{frames:?}: {}", error.source);
        assert_eq!(error.kind.nothing_done(), kind == SendErrorKind::Refused);
        assert!(error.request.is_none() && !error.reused);
    }
}

#[tokio::test]
async fn waiting_for_another_handshake_is_bounded() {
    let never = Connector::new(tower::service_fn(|_: Target| std::future::pending()));
    let mut impatient = backend_at("peer", 80);
    impatient.timeouts.connect = Duration::from_millis(1);
    impatient.protocol = Protocol::Http2;
    let world = World::new(never, impatient);
    let (one, two) = tokio::join!(world.send(post(hello())), world.send(post(hello())));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(error.kind, SendErrorKind::ConnectTimeout);
        assert!(error.request.is_some());
    }
}
