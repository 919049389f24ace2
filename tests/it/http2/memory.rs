//! What a flood makes the whole program hold, as the system counts it, while others are served.

use std::io::Write as _;
use std::net::SocketAddr;

use super::super::process::{Program, serve_by, windward};
use super::super::support::Peer;
use super::super::support::h2::{END_HEADERS, END_STREAM, H2Client, HEADERS, NEWEST, call, frame, remembered};
use super::super::support::peer::{Then, begin_events, respond, wait_for_close};
use super::floods::{Flood, drain, floods};
use super::serves_at;

/// More than this no client makes the program hold, on however many streams it does it.
const MOST: u64 = 32 << 20;
/// Frames of each flood: far more than it takes to be ended, and than the buffers on the way hold until that is known.
const FRAMES: u32 = 5_000_000;
/// Of as many streams as a connection may have at once, most.
const STREAMS: u32 = 200;

fn proxy(folder: &std::path::Path, backend: SocketAddr) -> (Program, SocketAddr) {
    let configuration = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 2\nlog: {{ access: off }}\nlimits: {{ drain_delay: 1ms }}\n\
         backends: [{{ name: a, url: 'http://{backend}', region: aws/eu-north-1, max_in_flight: 1000 }}]\n"
    );
    serve_by(windward([""; 0]), folder, &configuration)
}

/// Sends it until the connection is ended, or it has all been taken.
fn send(address: SocketAddr, flood: &Flood) {
    let mut client = H2Client::connect(address);
    let reading = drain(client.stream.try_clone().unwrap());
    assert!(client.send(&flood.first), "{}", flood.name);
    let mut parts = (0..FRAMES).step_by(500).map(|from| (from..from + 500).flat_map(flood.part).collect::<Vec<u8>>());
    assert!(!parts.all(|part| client.send(&part)), "{} is taken without end", flood.name);
    reading.join().unwrap();
}

/// A head of a few bytes that stands for as much as there is room for in a frame: one field of 4 KB, named again and again.
fn bombs(address: SocketAddr) {
    let bomb = [call(), remembered("x", &[b'y'; 4000]), vec![NEWEST; 12_000]].concat();
    for _ in 0..STREAMS {
        let mut client = H2Client::connect(address);
        let reading = drain(client.stream.try_clone().unwrap());
        for nth in 0..10 {
            client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * nth + 1, &bomb));
        }
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        reading.join().unwrap();
    }
}

#[test]
fn no_flood_makes_the_program_hold_much_and_others_are_served_meanwhile() {
    let backend = Peer::start(|seen, stream| {
        if seen.json()["stream"] != true {
            respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
            return Then::Next;
        }
        // As much as is taken.
        begin_events(stream);
        let event = [b"data: ".as_slice(), &[b'x'; 0x4000 - 8], b"\n\n"].concat();
        let chunk = [b"4000\r\n".as_slice(), &event, b"\r\n"].concat();
        stream.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        while stream.write_all(&chunk).is_ok() {}
        wait_for_close(stream);
        Then::Close
    });
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = proxy(folder.path(), backend.address);
    (0..20).for_each(|_| assert!(serves_at(address)));
    let before = program.peak_memory();
    let mut held = Vec::new();
    let mut look = |what: &'static str| held.push((what, program.peak_memory().saturating_sub(before)));

    for flood in floods() {
        std::thread::scope(|threads| {
            threads.spawn(|| send(address, &flood));
            assert!(serves_at(address), "{}", flood.name);
        });
        look(flood.name);
    }
    std::thread::scope(|threads| {
        threads.spawn(|| bombs(address));
        assert!(serves_at(address));
    });
    look("heads that stand for more");
    // Streams of which the client takes nothing.
    let first_window = 4;
    let mut client = H2Client::with(address, &[(first_window, 0)], 0);
    for nth in 0..STREAMS {
        assert!(client.call(2 * nth + 1, r#"{"model":"m","stream":true}"#));
    }
    let mut heads = 0;
    while heads < STREAMS {
        heads += u32::from(client.frame().unwrap().kind == HEADERS);
    }
    assert!(serves_at(address));
    look("streams without a window");
    let over: Vec<_> = held.iter().filter(|(_, bytes)| *bytes > MOST).collect();
    assert!(over.is_empty(), "{over:?} of {held:?}");
}
