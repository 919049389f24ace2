//! HTTP/1.1 to one backend: how a request and its response pass, whole or broken.

use super::http2::h2_world;
use super::*;

#[test]
fn futures_and_bodies_may_cross_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn types<T: Send + 'static>() {}
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Upstreams>();
    types::<UpstreamBody>();
    types::<UpstreamResponse>();
    types::<SendError>();
    types::<Arc<SendError>>();
    let (world, _connections) = World::in_memory();
    let future = world.upstreams.send(&world.backend, get());
    is_send(&future);
    // It is made on the stack, copied into its allocation, and kept for as long as the backend thinks.
    assert!(size_of_val(&future) < 1024, "{} bytes", size_of_val(&future));
}

#[tokio::test]
async fn one_connection_carries_every_kind_of_response() {
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        answer(&mut io, OK).await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 204 No Content\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        answer(&mut io, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
        answer(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await;
        closed(&mut io).await;
        // Nobody else came.
        std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_pending())).await
    });
    let bodies = ["hello", "hello", "", "", "no"];
    for (count, expected) in bodies.into_iter().enumerate() {
        let response = world.send(post(hello())).await.unwrap();
        assert_eq!(response.reused(), count > 0);
        assert_eq!(text(response.body).await.unwrap(), expected);
        assert_eq!(world.idle(), 1);
    }
    let head = world.send(Request::head("/").header(HOST, "peer").body(SendBody::empty()).unwrap()).await.unwrap();
    assert!(head.body.is_end_stream());
    assert_eq!(world.idle(), 1, "a body that is known to be empty is not polled, and still gives its connection back");
    drop(head);
    assert_eq!(world.idle(), 1);
    world.clock.advance(Duration::from_secs(5));
    world.upstreams.sweep(world.clock.monotonic());
    assert!(within(peer).await.unwrap());
}

#[tokio::test]
async fn a_connection_goes_back_exactly_once() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, OK).await;
        io
    });
    let mut body = world.send(get()).await.unwrap().body;
    assert_eq!(world.idle(), 0);
    let frame = within(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    assert_eq!(world.idle(), 1, "the length says that this was the end");
    assert!(within(body.frame()).await.is_none());
    assert!(within(body.frame()).await.is_none());
    drop(body);
    assert_eq!(world.idle(), 1);
    drop(within(peer).await.unwrap());
}

#[tokio::test]
async fn bodies_are_framed_by_what_they_are() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(answer(&mut io, OK).await);
        }
        seen
    });
    let mut lying = post(hello());
    lying.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
    lying.headers_mut().insert(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let (feed, streamed) = fed();
    let (feed_get, streamed_get) = fed();
    for feed in [feed, feed_get] {
        feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
    }
    let get_with_body = Request::get("/").header(HOST, "peer").body(streamed_get).unwrap();
    for request in [lying, post(SendBody::empty()), get(), post(streamed), get_with_body] {
        text(world.send(request).await.unwrap().body).await.unwrap();
    }
    let seen = within(peer).await.unwrap();
    assert!(seen[0].0.contains("content-length: 5\r\n") && !seen[0].0.contains("transfer-encoding"), "{}", seen[0].0);
    assert_eq!(seen[0].1, "hello");
    assert!(seen[1].0.contains("content-length: 0\r\n"), "{}", seen[1].0);
    assert!(!seen[2].0.contains("content-length") && !seen[2].0.contains("transfer-encoding"), "{}", seen[2].0);
    for streamed in [&seen[3], &seen[4]] {
        assert!(streamed.0.contains("transfer-encoding: chunked\r\n"), "{}", streamed.0);
        assert_eq!(streamed.1, "5\r\nhello\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn dropping_the_body_closes_the_connection_at_once() {
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        closed(&mut io).await;
    });
    let mut response = world.send(get()).await.unwrap();
    within(response.body.frame()).await.unwrap().unwrap();
    drop(response);
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn dropping_the_send_future_closes_the_connection_at_once() {
    let (world, listener) = World::on_socket().await;
    let (arrived, seen) = oneshot::channel();
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        read_request(&mut io).await;
        arrived.send(()).unwrap();
        closed(&mut io).await;
    });
    tokio::select! {
        response = world.send(get()) => panic!("nobody answered, but {response:?}"),
        seen = within(seen) => seen.unwrap(),
    }
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}

#[tokio::test]
async fn a_cut_body_ends_with_an_error() {
    let cuts = [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ];
    for cut in cuts {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move { answer(&mut connections.recv().await.unwrap(), cut).await });
        let mut body = world.send(get()).await.unwrap().body;
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "hello");
        assert!(within(body.frame()).await.unwrap().is_err(), "{cut}");
        within(peer).await.unwrap();
        assert_eq!(world.idle(), 0);
    }
}

#[tokio::test]
async fn a_trickle_is_passed_on_as_it_comes() {
    let (world, mut connections) = World::in_memory();
    let (go, mut may) = mpsc::channel::<()>(1);
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while may.recv().await.is_some() {
            io.write_all(b"3\r\none\r\n").await.unwrap();
        }
        io.write_all(b"0\r\n\r\n").await.unwrap();
        io
    });
    let mut body = world.send(get()).await.unwrap().body;
    for _ in 0..20 {
        go.send(()).await.unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
    }
    drop(go);
    assert!(within(body.frame()).await.is_none());
    assert_eq!(world.idle(), 1);
    within(peer).await.unwrap();
}

#[tokio::test]
async fn what_must_not_be_reused_is_not() {
    let replies = [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhellosurplus",
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 5\r\n\r\nhello",
    ];
    for reply in replies {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            answer(&mut io, reply).await;
            closed(&mut io).await;
        });
        assert_eq!(text(world.send(get()).await.unwrap().body).await.unwrap(), "hello");
        assert_eq!(world.idle(), 0, "{reply}");
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_may_not_be_passed_on_is_refused() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(300 << 10));
    let heads = [
        "220 mail.example ESMTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        &huge,
    ];
    for head in heads {
        let (world, mut connections) = World::in_memory();
        let reply = head.to_owned();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            read_request(&mut io).await;
            // A head that is too long is refused before it has all been written.
            let _ = io.write_all(reply.as_bytes()).await;
            closed(&mut io).await;
        });
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::InvalidHead, "{}", &head[..head.len().min(80)]);
        assert!(error.request.is_none());
        assert_eq!(world.idle(), 0);
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_repeated_length_becomes_one() {
    for head in ["content-length: 5\r\ncontent-length: 5", "content-length: 5, 5"] {
        let (world, mut connections) = World::in_memory();
        let reply = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello");
        let peer = tokio::spawn(async move { answer(&mut connections.recv().await.unwrap(), &reply).await });
        let response = world.send(get()).await.unwrap();
        let lengths: Vec<_> = response.head.fields.texts(Name::ContentLength).collect();
        assert_eq!(lengths, ["5"]);
        assert_eq!(text(response.body).await.unwrap(), "hello");
        within(peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_is_not_tried_again() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        read_request(&mut connections.recv().await.unwrap()).await;
        connections
    });
    let error = world.send(post(hello())).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Broken);
    assert!(error.request.is_none() && !error.kind.nothing_sent());
    assert!(within(peer).await.unwrap().try_recv().is_err(), "no second connection");
}

#[tokio::test]
async fn what_was_not_sent_is_given_back_whole() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let refused = World::new(tcp(Names::of_this_system(), || Ok(())), backend_at("127.0.0.1", free));
    let never = Connector::new(tower::service_fn(|_: Target| std::future::pending()));
    let mut impatient = backend_at("peer", 80);
    impatient.timeouts.connect = Duration::from_millis(1);
    let silent = World::new(never, impatient);
    let gone = Connector::new(tower::service_fn(|_: Target| async { Ok(Box::new(tokio::io::duplex(64).0) as BoxIo) }));
    let closing = World::new(gone, backend_at("peer", 80));
    let short = Connector::new(tower::service_fn(|_: Target| async { Err(std::io::Error::from_raw_os_error(24)) }));
    let short = World::new(short, backend_at("peer", 80));
    for (world, kind) in [
        (refused, SendErrorKind::Connect),
        (silent, SendErrorKind::ConnectTimeout),
        (closing, SendErrorKind::SentNothing),
        (short, SendErrorKind::Exhausted),
    ] {
        let (feed, body) = fed();
        feed.try_send(Ok(Bytes::from_static(b"hello"))).unwrap();
        drop(feed);
        let error = world.send(post(body)).await.unwrap_err();
        assert_eq!(error.kind, kind);
        let body = error.request.unwrap().into_body();
        assert_eq!(within(body.collect()).await.unwrap().to_bytes(), "hello");
    }
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_clients_doing() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move { closed(&mut connections.recv().await.unwrap()).await });
    let (feed, body) = fed();
    feed.try_send(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))).unwrap();
    let error = world.send(post(body)).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::RequestBody);
    within(peer).await.unwrap();
    let (world, _accepted, _ended, _kill) = h2_world(100);
    let (feed, body) = fed();
    feed.try_send(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))).unwrap();
    assert_eq!(world.send(post(body)).await.unwrap_err().kind, SendErrorKind::RequestBody);
}

/// The peer answers after the first chunk; then the client goes on uploading far more than any buffer holds, without reading.
#[tokio::test]
async fn an_early_answer_does_not_stop_the_upload() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 256;
    let (world, listener) = World::on_socket().await;
    let peer = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"first").is_none() {
            assert!(io.read_buf(&mut seen).await.unwrap() > 0);
        }
        io.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n").await.unwrap();
        let mut uploaded = 0;
        while !seen.ends_with(b"0\r\n\r\n") {
            seen.clear();
            let read = io.read_buf(&mut seen).await.unwrap();
            assert!(read > 0);
            uploaded += read;
        }
        assert!(uploaded > CHUNK * CHUNKS);
        io.write_all(b"4\r\nlate\r\n0\r\n\r\n").await.unwrap();
        closed(&mut io).await;
    });
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let response = world.send(post(body)).await.unwrap();
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    for _ in 0..CHUNKS {
        within(feed.send(Ok(chunk.clone()))).await.unwrap();
    }
    drop(feed);
    assert_eq!(text(response.body).await.unwrap(), "earlylate");
    within(peer).await.unwrap();
}

#[tokio::test]
async fn an_unfinished_upload_ends_with_the_response() {
    // An answer that is whole at once, one that ends later, and one that is dropped on the way.
    for (reply, read) in [
        ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nlarge", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nearly", false),
    ] {
        let (world, mut connections) = World::in_memory();
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            let mut seen = Vec::new();
            while memchr::memmem::find(&seen, b"first").is_none() {
                assert!(io.read_buf(&mut seen).await.unwrap() > 0);
            }
            io.write_all(reply.as_bytes()).await.unwrap();
            closed(&mut io).await;
        });
        let (feed, body) = fed();
        feed.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
        let response = world.send(post(body)).await.unwrap();
        if read {
            text(response.body).await.unwrap();
        } else {
            drop(response);
        }
        within(peer).await.unwrap();
        within(feed.closed()).await;
        assert_eq!(world.idle(), 0);
        world.upstreams.shared.tasks.close();
        within(world.upstreams.shared.tasks.wait()).await;
    }
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_hands_over_the_bytes() {
    let (world, mut connections) = World::in_memory();
    let peer = tokio::spawn(async move {
        let mut io = connections.recv().await.unwrap();
        answer(&mut io, "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nhi").await;
        let mut heard = [0; 5];
        io.read_exact(&mut heard).await.unwrap();
        io.write_all(&heard).await.unwrap();
    });
    let mut request = get();
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
    request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    let response = world.send(request).await.unwrap();
    assert_eq!(response.head.status, StatusCode::SWITCHING_PROTOCOLS);
    drop(response.body);
    let mut io = TokioIo::new(within(response.upgrade.unwrap()).await.unwrap());
    io.write_all(b"world").await.unwrap();
    let mut heard = String::new();
    within(io.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "hiworld");
    within(peer).await.unwrap();
    assert_eq!(world.idle(), 0);
}
