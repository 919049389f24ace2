//! Somebody who pours and somebody who does not read, in both directions: what is between them is bounded.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use windward::clock::SimulatedClock;

use super::support::h2::{End, H2Client, HEADERS, WINDOW_UPDATE, frame};
use super::support::peer::{PATIENCE, Then};
use super::support::{Client, Harness, Peer};

/// Bytes that there are to give.
const ALL: usize = 200 << 20;
/// What may be taken from it: the buffers of two sockets' both ends and a few of the proxy's own.
const MOST: usize = 16 << 20;
const STREAM: &str = r#"{"model":"m","stream":true}"#;

/// Nobody takes a byte for so long when nobody will. A slow machine may take a pause for the end, and then less is counted, not more.
const STANDS_STILL: Duration = Duration::from_millis(300);

/// A backend that pours until nobody takes a byte for a while, and says then how many were taken.
fn pouring() -> (Peer, Receiver<usize>) {
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let peer = Peer::start(move |_, stream| {
        stream.set_write_timeout(Some(STANDS_STILL)).unwrap();
        report.lock().unwrap().send(pour(stream)).unwrap();
        Then::Close
    });
    (peer, reports)
}

fn pour(stream: &mut TcpStream) -> usize {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {ALL}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let event = [b"data: ".as_slice(), &[b'x'; 16_376], b"\n\n"].concat();
    let mut taken = 0;
    while taken < ALL {
        match stream.write(&event[taken % event.len()..]) {
            Ok(count) => taken += count,
            Err(_) => break,
        }
    }
    taken
}

#[test]
fn a_client_of_http1_that_does_not_read_costs_little() {
    let (peer, taken) = pouring();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    let taken = taken.recv_timeout(PATIENCE).unwrap();
    assert!(taken < MOST, "{taken} bytes were taken");
    assert!(client.read_until("data: x").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_client_of_http2_that_does_not_read_costs_little() {
    // Windows wide open and a full socket; the windows that a connection begins with; and no window at all.
    for (first_window, more) in [(Some(0x7fff_ffff), 1 << 30), (None, 0), (Some(0), 0)] {
        let (peer, taken) = pouring();
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let settings: Vec<(u16, u32)> = first_window.map(|window| (4, window)).into_iter().collect();
        let mut client = H2Client::with(proxy.address, &settings, more);
        assert!(client.call(1, STREAM));
        let taken = taken.recv_timeout(PATIENCE).unwrap();
        assert!(taken < MOST, "{taken} bytes were taken with a window of {first_window:?}");
        assert!(client.frame().is_some());
    }
}

/// Bytes of an upload that are taken of a client of HTTP/1.1.
fn poured(address: SocketAddr) -> usize {
    let mut client = Client::connect(address);
    client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: {ALL}\r\n\r\n").as_bytes());
    client.stream.set_write_timeout(Some(STANDS_STILL)).unwrap();
    let (piece, mut taken) = (vec![b'x'; 16 << 10], 0);
    while taken < ALL
        && let Ok(count) = client.stream.write(&piece)
    {
        taken += count;
    }
    taken
}

/// The same of one of HTTP/2, who sends as much as its windows allow.
fn poured_by_http2(address: SocketAddr) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://w/v1/files").body(()).unwrap();
        let (_response, mut body) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        let (piece, mut taken) = (Bytes::from(vec![b'x'; 16 << 10]), 0);
        while taken < ALL {
            body.reserve_capacity(piece.len());
            let room = tokio::time::timeout(STANDS_STILL, std::future::poll_fn(|cx| body.poll_capacity(cx))).await;
            let Ok(Some(Ok(room))) = room else { break };
            let sent = room.min(piece.len());
            body.send_data(piece.slice(..sent), false).unwrap();
            taken += sent;
        }
        taken
    })
}

#[test]
fn a_backend_that_takes_nothing_of_an_upload_costs_little() {
    for pour in [poured, poured_by_http2] {
        // Nobody even accepts there: the kernel does, and holds what its buffers hold.
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Harness::start(&[("a", backend.local_addr().unwrap(), "")], "");
        let taken = pour(proxy.address);
        assert!((1..MOST).contains(&taken), "{taken} bytes were taken");
    }
}

#[test]
fn a_client_that_does_not_read_for_a_while_makes_no_backend_look_slow() {
    let peer = Peer::start(|_, stream| {
        let events = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n".repeat(4000);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        // More than is read at once, and all of it there: whatever takes time from here on is the client's doing.
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{events}", events.len()).as_bytes()).unwrap();
        Then::Next
    });
    let clock = Arc::new(SimulatedClock::new(jiff::Timestamp::UNIX_EPOCH));
    let backends = [("a", peer.address, "usage: never\n    models: [m]")];
    let proxy = Harness::by(Arc::<SimulatedClock>::clone(&clock), &backends, "");
    let believed = || {
        let model = proxy.backend("a")["models"][0].clone();
        ["first_token_ms", "per_output_token_ms"].map(|of| model[of].as_f64().unwrap_or_else(|| panic!("{model}")))
    };
    let before = believed();
    for _ in 0..5 {
        let no_window = 0;
        let mut client = H2Client::with(proxy.address, &[(4, no_window)], 1 << 30);
        assert!(client.call(1, STREAM));
        assert!(std::iter::from_fn(|| client.frame()).any(|frame| frame.kind == HEADERS));
        clock.advance(Duration::from_mins(1));
        assert!(client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 16, 0, 0])));
        // Its head was read before.
        assert_eq!(client.end(1), End::Answered(0));
        assert_eq!(proxy.record()["ended"], "complete");
    }
    let after = believed();
    assert!(after[0] <= before[0] && (after[1] - before[1]).abs() < 1e-6, "{before:?} became {after:?}");
}
