//! What becomes of the whole: draining, reloading, signals, failures.

use super::*;

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
        assert_eq!(status["backends"][0]["models"][0]["first_token_ms"], 795.0);
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
