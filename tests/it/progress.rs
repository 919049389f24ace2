//! Exchanges that do not go on, and exchanges that do not end: each has its limit, and whoever was to go on is at fault.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender};

use super::support::h2::{DATA, END_HEADERS, End, H2Client, HEADERS, block, call, frame};
use super::support::peer::{PATIENCE, Then, begin_events, by_http2, chunk, conversing, respond, wait_for_close};
use super::support::{Client, Harness, Peer};

const STREAM: &str = r#"{"model":"m","stream":true}"#;
const CALL: &str = r#"{"model":"m"}"#;
/// Enough for a backend to be left alone, were they its failures.
const TIMES: usize = 12;

/// Two backends of which the second is nobody: who is asked next shows whether the first is blamed.
fn harness(top: &str, first: SocketAddr, more: &str) -> Harness {
    Harness::with(top, &[("a", first, more), ("b", Peer::nobody(), "")], "policy: in_order")
}

fn is_not_blamed(proxy: &Harness) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "x-next: 1\r\n", CALL);
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("a")), "its health is none the worse");
    assert_eq!(proxy.record()["ended"], "complete");
    assert_eq!(proxy.in_flight("a"), 0);
}

/// That many clients at once: each takes as long as a limit that a slow machine needs, too.
fn at_once(client: impl Fn() + Sync) {
    std::thread::scope(|threads| {
        for _ in 0..TIMES {
            threads.spawn(&client);
        }
    });
}

/// A backend that says when an upload has begun to arrive, and when its connection or stream has ended.
fn uploads(http2: bool) -> (SocketAddr, Receiver<&'static str>) {
    conversing(move |stream, say| if http2 { take_by_http2(stream, say) } else { take(stream, say) })
}

fn take(mut stream: TcpStream, say: &Sender<&'static str>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut seen, mut more) = (Vec::new(), [0; 4096]);
    let has = |seen: &[u8], what: &[u8]| memchr::memmem::find(seen, what).is_some();
    while !has(&seen, b"abc") {
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.extend_from_slice(&more[..count]),
        }
        if has(&seen, b"x-next: 1") {
            respond(&mut stream, "200 OK", "content-type: application/json\r\n", b"{}");
        }
    }
    say.send("begun").unwrap();
    wait_for_close(&mut stream);
    say.send("ended").unwrap();
}

fn take_by_http2(stream: TcpStream, say: &Sender<&'static str>) {
    by_http2(stream, |request, mut answer| {
        let say = say.clone();
        async move {
            if request.headers().contains_key("x-next") {
                answer.send_response(http::Response::new(()), true).unwrap();
                return;
            }
            let mut body = request.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "abc");
            say.send("begun").unwrap();
            assert!(body.data().await.is_none_or(|data| data.is_err()));
            say.send("ended").unwrap();
        }
    });
}

#[test]
fn an_upload_that_stalls_ends_by_its_own_limit_and_is_the_clients_fault() {
    let begin: [fn(&mut Client); 3] = [
        |client| client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 9\r\n\r\nabc"),
        |client| client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 100000\r\n\r\nabc"),
        |client| client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    ];
    for http2 in [false, true] {
        let (address, said) = uploads(http2);
        let protocol = if http2 { "protocol: http2" } else { "" };
        // A backend that is slow to answer has all the time that it was given, and is not the one who is slow.
        let proxy = harness("limits: { body_progress: 100ms }", address, protocol);
        for nth in 0..TIMES {
            let mut client = Client::connect(proxy.address);
            begin[nth % begin.len()](&mut client);
            assert_eq!(said.recv_timeout(PATIENCE), Ok("begun"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
            assert_eq!(answer.json()["error"]["code"], "body_timeout");
            assert_eq!(said.recv_timeout(PATIENCE), Ok("ended"), "nobody waits for the rest of it");
            client.read_to_end();
        }
        for record in (0..TIMES).map(|_| proxy.record()) {
            assert_eq!((&record["ended"], &record["error"]), (&"rejected".into(), &"body_timeout".into()), "{record}");
            assert_eq!(record["attempts"][0]["outcome"], "abandoned", "{record}");
        }
        is_not_blamed(&proxy);
    }
}

/// A backend that has begun its answer may wait for the rest of the upload to go on with it.
#[test]
fn a_backend_that_answers_an_upload_which_stalls_is_not_the_one_who_is_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = [0; 2000];
                let count = stream.read(&mut head).unwrap();
                if memchr::memmem::find(&head[..count], b"x-next").is_some() {
                    return respond(&mut stream, "200 OK", "content-type: application/json\r\n", b"{}");
                }
                begin_events(&mut stream);
                wait_for_close(&mut stream);
            });
        }
    });
    let proxy = harness("limits: { body_progress: 3s }", address, "timeouts: { idle: 100ms }");
    let framings = ["transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "content-length: 100000\r\n\r\nabc"];
    at_once(|| {
        let mut clients = framings.map(|framing| {
            let mut client = Client::connect(proxy.address);
            client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{framing}").as_bytes());
            client
        });
        for client in &mut clients {
            assert!(client.read_to_end().starts_with("HTTP/1.1 200 "));
        }
    });
    for record in (0..TIMES * framings.len()).map(|_| proxy.record()) {
        assert_eq!((&record["ended"], &record["error"]), (&"client_gone".into(), &"body_timeout".into()), "{record}");
    }
    is_not_blamed(&proxy);
}

#[test]
fn a_stream_whose_upload_stalls_ends_and_the_connection_goes_on() {
    let (address, said) = uploads(false);
    let proxy = harness("limits: { body_progress: 100ms }", address, "");
    let upload = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "w")]);
    for (head, data) in [(upload, "abc"), (call(), "{\"model\":")] {
        let mut client = H2Client::connect(proxy.address);
        assert!(client.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, data.as_bytes())].concat()));
        assert_eq!(client.end(1), End::Answered(408));
        assert_eq!(proxy.record()["error"], "body_timeout");
        assert!(client.ping());
    }
    assert_eq!((said.recv_timeout(PATIENCE), said.recv_timeout(PATIENCE)), (Ok("begun"), Ok("ended")));
    is_not_blamed(&proxy);
}

/// What is declared to be too much is refused before it is read and reaches nobody; of what is not, nothing is passed on of the piece
/// that is too much.
#[test]
fn an_upload_over_its_limit_is_refused_before_it_is_read_or_ends_with_what_is_too_much() {
    let too_much = "x".repeat(1024);
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "w")];
    for http2 in [false, true] {
        let (address, said) = uploads(http2);
        let proxy = harness("limits: { upload: 1KiB }", address, if http2 { "protocol: http2" } else { "" });
        let refused = |attempts: usize| {
            let record = proxy.record();
            assert_eq!((&record["ended"], &record["error"]), (&"rejected".into(), &"body_too_large".into()), "{record}");
            assert_eq!(record["attempts"].as_array().map_or(0, Vec::len), attempts, "{record}");
        };
        // Who waits for leave to send is not given it first.
        for fields in ["expect: 100-continue\r\ncontent-length: 1025", "content-length: 100000"] {
            let mut client = Client::connect(proxy.address);
            client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{fields}\r\n\r\n").as_bytes());
            let answer = client.read_to_end();
            assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
            refused(0);
        }
        let mut client = H2Client::connect(proxy.address);
        let declared = block(&[&fields[..], &[("content-length", "1025")]].concat());
        assert!(client.send(&frame(HEADERS, END_HEADERS, 1, &declared)));
        assert_eq!(client.end(1), End::Answered(413));
        refused(0);
        assert!(said.try_recv().is_err() && client.ping());

        let mut client = H2Client::connect(proxy.address);
        assert!(client.send(&[frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, 0, 1, b"abc")].concat()));
        assert_eq!(said.recv_timeout(PATIENCE), Ok("begun"));
        assert!(client.send(&frame(DATA, 0, 1, too_much.as_bytes())));
        assert_eq!(client.end(1), End::Answered(413));
        assert_eq!(said.recv_timeout(PATIENCE), Ok("ended"), "nothing more of it comes");
        refused(1);
        assert!(client.ping(), "one stream is not the connection");
        for nth in 0..TIMES {
            let mut client = Client::connect(proxy.address);
            client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
            assert_eq!(said.recv_timeout(PATIENCE), Ok("begun"), "{nth}");
            client.send(format!("400\r\n{too_much}\r\n").as_bytes());
            let answer = client.answer();
            assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
            assert_eq!(answer.json()["error"]["code"], "body_too_large");
            assert_eq!(said.recv_timeout(PATIENCE), Ok("ended"), "nothing more of it comes");
        }
        (0..TIMES).for_each(|_| refused(1));
        is_not_blamed(&proxy);
    }
}

#[test]
fn a_call_whose_body_stalls_reaches_nobody() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = harness("limits: { body_progress: 100ms }", peer.address, "");
    for framing in [
        "content-length: 100\r\n\r\n{\"model\"",
        "transfer-encoding: chunked\r\n\r\n100\r\n{\"model\"",
        "content-length: 9\r\n\r\n",
        "content-length: 20000\r\n\r\n{\"model\"",
        "content-length: 100000\r\n\r\n",
    ] {
        let mut client = Client::connect(proxy.address);
        client.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\n{framing}").as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (408, Some("close")), "{framing}");
        client.read_to_end();
        let record = proxy.record();
        assert_eq!((&record["ended"], &record["error"]), (&"rejected".into(), &"body_timeout".into()), "{record}");
    }
    assert_eq!(peer.connections(), 0);
    is_not_blamed(&proxy);
}

/// A backend whose streams go on as long as they are taken, and that answers a request with `x-next` at once.
fn endless() -> Peer {
    Peer::start(|seen, stream| {
        if seen.field("x-next").is_some() {
            respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
            return Then::Next;
        }
        begin_events(stream);
        let event = [b"data: ".as_slice(), &[b'x'; 8000], b"\n\n"].concat();
        while stream.write_all(&[format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat()).is_ok() {}
        Then::Close
    })
}

#[test]
fn a_stream_without_an_end_ends_with_the_time_of_its_exchange() {
    let peer = endless();
    let proxy = harness("", peer.address, "timeouts: { total: 1s }");
    at_once(|| {
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
        client.read_until("data: xxx");
        let (mut more, mut last) = (vec![0; 64 << 10], Vec::new());
        while let Ok(count @ 1..) = client.stream.read(&mut more) {
            last = more[..count].to_vec();
        }
        assert!(!last.ends_with(b"0\r\n\r\n"), "it is cut, and seen to be");
    });
    for record in (0..TIMES).map(|_| proxy.record()) {
        assert_eq!((&record["ended"], &record["error"]), (&"timed_out".into(), &"total_timeout".into()), "{record}");
    }
    is_not_blamed(&proxy);
}

/// The end is not seen by whoever reads the backend, who is not asked for more: it is whoever writes to the client that has to see it.
#[test]
fn a_client_that_does_not_read_has_the_time_of_its_exchange_and_no_more() {
    let peer = endless();
    let proxy = harness("", peer.address, "timeouts: { total: 1s }");
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{STREAM}\r\n0\r\n\r\n",
        STREAM.len()
    );
    let plain = |client: &mut Client| client.post("/v1/chat/completions", "", STREAM);
    let by_hyper = |client: &mut Client| client.send(chunked.as_bytes());
    let mut clients: Vec<Client> = (0..TIMES).map(|_| Client::connect(proxy.address)).collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        if nth % 2 == 0 { plain(client) } else { by_hyper(client) }
    }
    let mut by_http2: Vec<H2Client> = (0..TIMES).map(|_| H2Client::connect(proxy.address)).collect();
    for client in &mut by_http2 {
        assert!(client.call(1, STREAM));
    }
    for record in (0..2 * TIMES).map(|_| proxy.record()) {
        assert_eq!((&record["ended"], &record["error"]), (&"timed_out".into(), &"total_timeout".into()), "{record}");
    }
    for mut client in clients {
        let said = client.read_to_end();
        assert!(said.starts_with("HTTP/1.1 200 ") && !said.ends_with("0\r\n\r\n"), "it is cut, and seen to be");
    }
    is_not_blamed(&proxy);
}

#[test]
fn an_upload_without_an_end_ends_with_the_time_of_its_exchange() {
    let (address, said) = uploads(false);
    let proxy = harness("", address, "timeouts: { total: 1s }");
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let framings = [
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", chunk),
        ("content-length: 2000000000\r\n\r\nabc", vec![b'x'; 0x1000]),
    ];
    let turn = AtomicUsize::new(0);
    at_once(|| {
        let (begin, piece) = framings[turn.fetch_add(1, Relaxed) % framings.len()].clone();
        let mut client = Client::connect(proxy.address);
        client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{begin}").as_bytes());
        let mut sending = client.stream.try_clone().unwrap();
        // Until the proxy takes no more.
        let sending = std::thread::spawn(move || while sending.write_all(&piece).is_ok() {});
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (504, Some("close")));
        let _ = client.stream.shutdown(Shutdown::Both);
        sending.join().unwrap();
    });
    let said: Vec<_> = (0..2 * TIMES).map(|_| said.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(said.iter().filter(|said| **said == "ended").count(), TIMES, "nobody waits for the rest of them");
    for record in (0..TIMES).map(|_| proxy.record()) {
        assert_eq!((&record["ended"], &record["error"]), (&"rejected".into(), &"backend_timeout".into()), "{record}");
    }
    is_not_blamed(&proxy);
}

#[test]
fn a_backend_that_takes_no_more_of_an_upload_is_blamed_for_it() {
    let peer = Peer::start(|_, stream| {
        chunk(stream, b"");
        Then::Close
    });
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Harness::start(
        &[("a", stuck.local_addr().unwrap(), "timeouts: { first_byte: 100ms }"), ("b", peer.address, "")],
        "policy: in_order",
    );
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000000\r\n\r\n");
    let mut sending = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || while sending.write_all(&vec![0; 64 << 10]).is_ok() {});
    assert_eq!(client.answer().status, 504);
    let _ = client.stream.shutdown(Shutdown::Both);
    sending.join().unwrap();
    assert_eq!(proxy.record()["attempts"][0]["outcome"], "timed_out");
    assert_eq!(proxy.backend("a")["failures"], 1, "{}", proxy.backend("a"));
}

/// Over HTTP/2, an answer with all the bytes that its head has announced, and no end.
fn whole_without_an_end(stream: TcpStream) {
    by_http2(stream, |request, mut answer| async move {
        let mut body = request.into_body();
        while body.data().await.is_some() {}
        let head = http::Response::builder().header("content-type", "application/json").header("content-length", 2);
        let mut sending = answer.send_response(head.body(()).unwrap(), false).unwrap();
        sending.send_data(bytes::Bytes::from_static(b"{}"), false).unwrap();
        drop(std::future::poll_fn(|cx| sending.poll_reset(cx)).await);
    });
}

#[test]
fn an_answer_with_all_of_its_bytes_is_whole_though_its_end_comes_apart() {
    let (address, _) = conversing::<()>(|stream, _| whole_without_an_end(stream));
    let proxy = harness("", address, "protocol: http2");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", CALL);
    assert_eq!(client.answer().text(), "{}");
    assert_eq!(proxy.record()["ended"], "complete");
    assert_eq!(proxy.in_flight("a"), 0);
}
