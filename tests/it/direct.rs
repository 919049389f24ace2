//! One connection from its first request to its last, whoever reads it: plain calls go without hyper, and everything else with it.

use std::io::{BufRead, BufReader, Read as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, respond};
use super::support::{Client, Harness, Peer, patiently};

const CALL: &str = r#"{"model":"m"}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;

/// A backend that answers with the body that it was sent, and to nothing with `none`.
fn echo() -> Peer {
    Peer::start(|seen, stream| {
        let body: &[u8] = if seen.body.is_empty() { b"none" } else { &seen.body };
        respond(stream, "200 OK", "content-type: application/octet-stream\r\n", body);
        Then::Next
    })
}

fn call(length: usize) -> Vec<u8> {
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: {length}\r\n\r\n");
    let body = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "y".repeat(length - 20));
    [head, body].concat().into_bytes()
}

#[test]
fn a_connection_carries_messages_of_every_kind_one_after_another() {
    let peer = echo();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    let chunked = b"POST /v1/files HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let expecting = b"POST /v1/files HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    for round in 0..3 {
        client.post("/v1/chat/completions", "", CALL);
        assert_eq!(client.answer().text(), CALL, "round {round}");
        client.get("/v1/files/f", "");
        assert_eq!(client.answer().text(), "none", "round {round}");
        if round > 0 {
            client.send(chunked);
            assert_eq!(client.answer().text(), "abc", "round {round}");
            client.send(expecting);
            assert_eq!(client.answer().status, 100);
            client.send(b"def");
            assert_eq!(client.answer().text(), "def", "round {round}");
        }
    }
    client.send(b"GET /v1/files/f HTTP/1.1\r\n\r\n");
    assert_eq!((client.answer().status, client.read_to_end().as_str()), (400, ""));
}

#[test]
fn who_waits_for_leave_to_send_is_given_it_at_once_on_a_new_connection() {
    let peer = echo();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send(CALL.as_bytes());
    assert_eq!(client.answer().text(), CALL);
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let peer = echo();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    let sizes = [21, 5000, 22, 40_000, 23];
    client.send(&sizes.map(call).concat());
    for size in sizes {
        assert_eq!(client.answer().body().len(), size);
    }
    // And however they are cut.
    for piece in sizes[..3].iter().flat_map(|size| call(*size)).collect::<Vec<u8>>().chunks(700) {
        client.send(piece);
    }
    for size in &sizes[..3] {
        assert_eq!(client.answer().body().len(), *size);
    }
}

#[test]
fn a_body_of_any_size_arrives_as_it_was_sent() {
    let peer = echo();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let (whole, piece) = (16 << 10, 256 << 10);
    for size in [whole - 1, whole, whole + 1, 40_000, whole + piece, whole + piece + 1, 3 << 20] {
        let mut client = Client::connect(proxy.address);
        let message = call(size);
        let (head, body) = message.split_at(message.len() - size);
        client.send(head);
        client.send(body);
        assert_eq!(client.answer().body(), body, "{size}");
    }
}

#[test]
fn an_answer_to_head_has_no_body_and_the_next_request_is_served() {
    let peer = Peer::start(|seen, stream| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\n";
        let text = if seen.head.starts_with("HEAD") { head.to_owned() } else { format!("{head}body") };
        let _ = std::io::Write::write_all(stream, text.as_bytes());
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    for path in ["/v1/files/f", "/v1/models"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: w\r\n\r\n").as_bytes());
        let head = client.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "{head}");
        let mut client = Client::connect(proxy.address);
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: w\r\n\r\nGET /v1/files/f HTTP/1.1\r\nhost: w\r\n\r\n").as_bytes());
        assert!(client.read_until("\r\n\r\nbody").matches("HTTP/1.1 200 ").count() == 2);
    }
}

#[test]
fn an_answer_without_content_says_no_length() {
    for (status, after) in [("204 No Content", ""), ("304 Not Modified", "content-length: 7\r\n")] {
        let peer = Peer::start(move |_, stream| {
            let text = format!("HTTP/1.1 {status}\r\n{after}\r\n");
            let _ = std::io::Write::write_all(stream, text.as_bytes());
            Then::Next
        });
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let mut client = Client::connect(proxy.address);
        for _ in 0..2 {
            client.get("/v1/files/f", "");
            let answer = client.answer();
            assert_eq!((answer.status.to_string().as_str(), answer.field("content-length")), (&status[..3], None));
            assert_eq!(answer.field("transfer-encoding"), None);
        }
    }
}

#[test]
fn a_client_that_wants_no_other_answer_gets_an_end() {
    let peer = echo();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "connection: x, close\r\n", CALL);
    client.get("/v1/files/f", "");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.field("connection")), (CALL, Some("close")));
    assert_eq!(client.read_to_end(), "", "what was asked after that is not answered");
    peer.next();
    assert!(!peer.saw_more());
}

#[test]
fn a_client_that_did_not_read_for_a_while_gets_all_of_it() {
    // More than the sockets between the two hold.
    const EVENTS: usize = 4 << 10;
    let event = |nth: usize| format!("data: {nth:08}{}\n\n", "z".repeat(8192 - 16));
    let (stalled, has_stalled) = channel();
    let stalled = Mutex::new(stalled);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        let mut waits = true;
        for nth in 0..EVENTS {
            let bytes = [b"2000\r\n", event(nth).as_bytes(), b"\r\n"].concat();
            let mut sent = 0;
            while sent < bytes.len() {
                // Once nobody takes a byte, the client may read.
                stream.set_write_timeout(waits.then_some(Duration::from_millis(200))).unwrap();
                match std::io::Write::write(stream, &bytes[sent..]) {
                    Ok(count) => sent += count,
                    Err(_) if waits => {
                        waits = false;
                        stalled.lock().unwrap().send(()).unwrap();
                    }
                    Err(_) => return Then::Close,
                }
            }
        }
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "usage: never\n    models: [m]")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    has_stalled.recv_timeout(PATIENCE).expect("the proxy does not take all of it");
    let mut all = BufReader::new(&client.stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        all.read_line(&mut line).unwrap();
    }
    let mut body = dechunked(&mut all);
    assert_eq!(body.len(), EVENTS * event(0).len());
    for nth in (0..EVENTS).rev() {
        assert!(body.split_off(nth * event(0).len()) == event(nth).as_bytes(), "event {nth}");
    }
    client.get("/v1/models", "");
    assert_eq!(client.answer().status, 200);
}

fn dechunked(from: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let begin = body.len();
        body.resize(begin + size + 2, 0);
        from.read_exact(&mut body[begin..]).unwrap();
        assert_eq!(body.split_off(begin + size), b"\r\n");
        if size == 0 {
            return body;
        }
    }
}

/// What a connection is doing when the server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Body,
    Waiting,
    Stream,
}

#[test]
fn a_drain_lets_every_phase_end() {
    let long = 100_000;
    let phases = [Phase::Idle, Phase::Head, Phase::Body, Phase::Waiting, Phase::Stream].map(|phase| (phase, STREAM.len()));
    for (phase, length) in [&phases[..], &[(Phase::Body, long), (Phase::Stream, long)]].concat() {
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let peer = Peer::start(move |seen, stream| {
            let streams = seen.head.contains("x-phase: Stream");
            if streams {
                begin_events(stream);
                chunk(stream, b"data: 1\n\n");
            }
            if seen.head.contains("x-phase: ") {
                let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
            }
            if streams {
                chunk(stream, b"data: 2\n\n");
                end_chunks(stream);
            } else {
                respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
            }
            Then::Next
        });
        let top = "limits: { drain_delay: 1ms, drain_deadline: 20s }";
        let proxy = Harness::with(top, &[("a", peer.address, "usage: never\n    models: [m]")], "");
        let address = proxy.address;
        let mut client = Client::connect(address);
        client.post("/v1/chat/completions", "", CALL);
        assert_eq!(client.answer().status, 200);
        peer.next();
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\nx-phase: {phase:?}\r\ncontent-length: {length}\r\n\r\n");
        let message = [head.as_str(), STREAM, &" ".repeat(length - STREAM.len())].concat();
        let sent = match phase {
            Phase::Idle => 0,
            Phase::Head => 20,
            Phase::Body => head.len() + length / 5,
            Phase::Waiting | Phase::Stream => message.len(),
        };
        client.send(&message.as_bytes()[..sent]);
        match phase {
            Phase::Waiting => drop(peer.next()),
            Phase::Stream => drop(client.read_until("data: 1")),
            // What was sent has to be read before the end is known: it is, once another connection of the same worker was answered.
            Phase::Idle | Phase::Head | Phase::Body => {
                for _ in 0..16 {
                    let mut other = Client::connect(address);
                    other.get("/v1/models", "connection: close\r\n");
                    assert_eq!(other.answer().status, 200);
                }
            }
        }
        let stopping = std::thread::spawn(move || proxy.stop());
        patiently("the end of the listener", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).err());
        let _ = go.send(());
        if sent > 0 {
            client.send(&message.as_bytes()[sent..]);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{phase:?}");
            if phase == Phase::Stream {
                assert_eq!(answer.text(), "data: 1\n\ndata: 2\n\n");
            } else {
                assert_eq!(answer.field("connection"), Some("close"), "{phase:?}");
            }
        }
        assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0, "{phase:?}: an end, and nothing after it");
        assert!(stopping.join().unwrap().drained, "{phase:?}");
    }
}

#[test]
fn trailers_go_to_who_asks_for_them_however_he_is_served() {
    let peer = Peer::start(|_, stream| {
        use std::io::Write;
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\nx-other: 1\r\n\r\n",
        );
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for upload in ["", "transfer-encoding: chunked\r\n"] {
        for te in ["", "te: trailers\r\nconnection: te\r\n"] {
            let mut client = Client::connect(proxy.address);
            let body = if upload.is_empty() { "" } else { "0\r\n\r\n" };
            client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{te}{upload}\r\n{body}").as_bytes());
            // Behind an upload it is hyper that writes, and no trailer that the head has not named.
            let wanted = match (te, upload) {
                ("", _) => "ok\r\n0\r\n\r\n",
                (_, "") => "ok\r\n0\r\nx-sum: 42\r\nx-other: 1\r\n\r\n",
                _ => "ok\r\n0\r\nx-sum: 42\r\n\r\n",
            };
            let all = client.read_until(wanted);
            assert!(all.ends_with(wanted) && all.contains("\r\ntrailer: x-sum") != te.is_empty(), "{all}");
        }
    }
}
