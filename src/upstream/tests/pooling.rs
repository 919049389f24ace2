//! Which connections are kept, which are used again, and when they are closed.

use super::*;

#[tokio::test]
async fn a_stale_connection_is_replaced_and_the_body_is_whole() {
    let (world, mut connections) = World::in_memory();
    let (close, closing) = oneshot::channel::<()>();
    let (done, closed) = oneshot::channel::<()>();
    let peer = tokio::spawn(async move {
        let mut first = connections.recv().await.unwrap();
        answer(&mut first, OK).await;
        closing.await.unwrap();
        drop((first, done));
        let mut second = connections.recv().await.unwrap();
        let request = answer(&mut second, OK).await;
        (request, second)
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(world.idle(), 1);
    close.send(()).unwrap();
    within(closed).await.unwrap_err();
    let (feed, body) = fed();
    feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    drop(feed);
    let response = world.send(post(body)).await.unwrap();
    assert!(!response.reused());
    assert_eq!(text(response.body).await.unwrap(), "hello");
    let ((_, sent), _second) = within(peer).await.unwrap();
    assert_eq!(sent, "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(world.idle(), 1);
}

#[tokio::test]
async fn bytes_out_of_turn_spoil_an_idle_connection() {
    let (world, mut connections) = World::in_memory();
    let (speak, speaking) = oneshot::channel::<()>();
    let (spoke, spoken) = oneshot::channel::<()>();
    let peer = tokio::spawn(async move {
        let mut first = connections.recv().await.unwrap();
        answer(&mut first, OK).await;
        speaking.await.unwrap();
        first.write_all(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        spoke.send(()).unwrap();
        let mut second = connections.recv().await.unwrap();
        answer(&mut second, OK).await;
        (first, second)
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(world.idle(), 1);
    speak.send(()).unwrap();
    within(spoken).await.unwrap();
    let response = world.send(get()).await.unwrap();
    assert_eq!(response.head.status, StatusCode::OK, "not the answer to a question nobody asked");
    text(response.body).await.unwrap();
    drop(within(peer).await.unwrap());
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let (world, listener) = World::on_socket().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let peer = tokio::spawn(async move {
        for reply in [OK, "HTTP/1.1 200 OK\r\nkeep-alive: timeout=2, max=100\r\ncontent-length: 0\r\n\r\n", OK] {
            let (mut io, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            answer(&mut io, reply).await;
            closed(&mut io).await;
        }
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    world.clock.advance(Duration::from_millis(3999));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 1);
    // Too old when it is wanted: closed instead of used, without a sweep.
    world.clock.advance(Duration::from_millis(1));
    let response = world.send(get()).await.unwrap();
    assert!(!response.reused());
    text(response.body).await.unwrap();
    assert_eq!((accepted.load(Ordering::Relaxed), world.idle()), (2, 1));
    // This one is announced to close after two seconds: after one it is closed from here.
    world.clock.advance(Duration::from_secs(1));
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 0);
    text(world.send(get()).await.unwrap().body).await.unwrap();
    assert_eq!(accepted.load(Ordering::Relaxed), 3);
    world.clock.advance(Duration::from_secs(9));
    world.upstreams.sweep(world.clock.monotonic());
    within(peer).await.unwrap();
}

#[tokio::test]
async fn a_sweep_finds_what_the_peer_has_closed() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, OK).await;
        io
    });
    text(world.send(get()).await.unwrap().body).await.unwrap();
    let io = within(peer).await.unwrap();
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 1);
    drop(io);
    world.upstreams.sweep(world.clock.monotonic());
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn the_pool_is_bounded_and_survives_a_reload() {
    let (mut world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..260 {
            let mut io = connections.recv().await.unwrap();
            answer(&mut io, OK).await;
            open.push(io);
        }
        open
    });
    let mut bodies = Vec::new();
    for _ in 0..260 {
        bodies.push(world.send(get()).await.unwrap().body);
    }
    for body in bodies {
        text(body).await.unwrap();
    }
    assert_eq!(world.idle(), 256);
    // The same backend as another object keeps them; one at another address has none.
    world.backend = Arc::new(Backend::clone(&world.backend));
    assert_eq!(world.idle(), 256);
    let mut moved = Backend::clone(&world.backend);
    moved.origin.port = 81;
    assert_eq!(pool::count(&world.upstreams.shared, &Arc::new(moved)), (0, 0));
    // So has another instance.
    let (other, _connections) = World::in_memory_for(backend_at("peer", 80));
    assert_eq!(other.idle(), 0);
    drop(within(peer).await.unwrap());
}

#[test]
fn an_announced_timeout_only_shortens() {
    let keep = |value: &'static str| {
        let mut fields = Fields::default();
        fields.set_text(Name::KeepAlive, value);
        h1::keep(Duration::from_secs(4), &fields)
    };
    assert_eq!(h1::keep(Duration::from_secs(4), &Fields::default()), Duration::from_secs(4));
    assert_eq!(keep("timeout=60"), Duration::from_secs(4));
    assert_eq!(keep("timeout=5, max=100"), Duration::from_secs(4));
    assert_eq!(keep("max=100, Timeout = \"3\""), Duration::from_secs(2));
    assert_eq!(keep("timeout=1"), Duration::from_millis(500));
    assert_eq!(keep("timeout=0"), Duration::ZERO);
    assert_eq!(keep("timeout=soon"), Duration::from_secs(4));
}
