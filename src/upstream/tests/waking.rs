//! No task is woken for nothing, and none is forgotten.

use super::*;

/// A front like the proxy's, counting how often its task is polled.
async fn serve_counted(io: DuplexStream, upstreams: Upstreams, backend: Arc<Backend>, polls: Arc<AtomicUsize>) {
    let service = hyper::service::service_fn(move |_: Request<Incoming>| {
        let (upstreams, backend) = (upstreams.clone(), Arc::clone(&backend));
        async move { upstreams.send(&backend, post(hello())).await.map(|response| Response::new(response.body)) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let counted = std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        serving.as_mut().poll(cx)
    });
    let _ = counted.await;
}

#[tokio::test]
async fn nobody_wakes_himself_but_once_to_let_others_go_first() {
    const EVENTS: usize = 10;
    let (world, mut connections) = World::in_memory();
    let (mut client, front) = tokio::io::duplex(64 << 10);
    let polls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve_counted(front, world.upstreams.clone(), Arc::clone(&world.backend), Arc::clone(&polls)));
    let (go, mut may) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        for _ in 0..3 {
            answer(&mut io, OK).await;
        }
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nevent\r\n").await;
        while may.recv().await.is_some() {
            io.write_all(b"5\r\nevent\r\n").await.unwrap();
        }
    });
    // Counts the polls from here until a response, or one event of it, is through and everybody is at rest.
    let mut before = 0;
    let mut settle = async |client: &mut DuplexStream, end: &[u8]| {
        let mut seen = Vec::new();
        while !seen.ends_with(end) {
            assert!(within(client.read_buf(&mut seen)).await.unwrap() > 0);
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let now = polls.load(Ordering::Relaxed);
        now - std::mem::replace(&mut before, now)
    };
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    for warm in [false, true, true] {
        client.write_all(request).await.unwrap();
        let polled = settle(&mut client, b"hello").await;
        assert!(polled == 3 || !warm, "{polled} polls: for the request, for its turn to be sent, and for the response");
    }
    client.write_all(request).await.unwrap();
    settle(&mut client, b"event\r\n").await;
    for _ in 0..EVENTS {
        go.send(()).await.unwrap();
        assert_eq!(settle(&mut client, b"event\r\n").await, 1, "one for the event");
    }
}

/// What was read in one turn leaves in the next: a request is not written before all that were ready with it have been looked at.
#[tokio::test]
async fn requests_that_were_read_together_leave_together() {
    let (world, mut connections) = World::in_memory();
    let at_once = |number: usize| {
        let (upstreams, backend) = (world.upstreams.clone(), Arc::clone(&world.backend));
        (0..number).map(move |_| {
            let (upstreams, backend) = (upstreams.clone(), Arc::clone(&backend));
            Box::pin(async move { upstreams.send(&backend, post(hello())).await.unwrap().body.collect().await.unwrap() })
        })
    };
    // Two connections, idle afterwards.
    let (first, second) = within(async {
        let asked: Vec<_> = at_once(2).map(tokio::spawn).collect();
        let mut ends = (connections.recv().await.unwrap(), connections.recv().await.unwrap());
        tokio::join!(answer(&mut ends.0, OK), answer(&mut ends.1, OK));
        for asked in asked {
            asked.await.unwrap();
        }
        ends
    })
    .await;
    assert_eq!(world.idle(), 2);
    let mut ends = [first, second];
    let mut came = || {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0; 1];
        ends.each_mut().map(|end| Pin::new(end).poll_read(&mut context, &mut tokio::io::ReadBuf::new(&mut byte)).is_ready())
    };
    let mut asked: Vec<_> = at_once(2).collect();
    let mut context = Context::from_waker(std::task::Waker::noop());
    for request in &mut asked {
        assert!(request.as_mut().poll(&mut context).is_pending());
        assert_eq!(came(), [false, false], "nothing is written in the turn in which it was read");
    }
    for request in &mut asked {
        assert!(request.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(came(), [true, true]);
}

/// Megabytes both ways, many at once, through socket buffers far smaller than that: no wake is lost, and no byte.
#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    const SIZE: usize = 3 << 20;
    const AT_ONCE: usize = 6;
    let (world, listener) = World::on_socket().await;
    tokio::spawn(async move {
        let service = hyper::service::service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
        }
    });
    let pattern: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    let pattern = Bytes::from(pattern);
    for round in 0..3 {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..AT_ONCE {
            let (upstreams, backend, pattern) = (world.upstreams.clone(), Arc::clone(&world.backend), pattern.clone());
            running.spawn(async move {
                let body = if number % 2 == 0 {
                    SendBody::chunks(smallvec![pattern.slice(..SIZE / 3), pattern.slice(SIZE / 3..)])
                } else {
                    let (feed, body) = fed();
                    let pattern = pattern.clone();
                    tokio::spawn(async move {
                        for start in (0..SIZE).step_by(50_000) {
                            feed.send(Ok(pattern.slice(start..SIZE.min(start + 50_000)))).await.unwrap();
                        }
                    });
                    body
                };
                let response = within(upstreams.send(&backend, post(body))).await.unwrap();
                let echo = within(response.body.collect()).await.unwrap().to_bytes();
                assert!(echo == pattern);
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
        assert!(world.idle() <= AT_ONCE, "round {round}");
    }
}
