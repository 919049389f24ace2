//! What an open stream costs in memory, as the system counts it of the whole program.
#![cfg(target_os = "linux")]

use super::process::{serve_by, windward};
use super::support::peer::{Then, begin_events, chunk, wait_for_close};
use super::support::{Client, Peer};

/// Before the others, so that what is there once for all of them is there.
const FIRST: usize = 50;
/// Streams that are counted.
const STREAMS: usize = 250;
/// For each of them, with a connection on either side; HAProxy needs 5 KiB, nginx 18.
const MOST: u64 = 15 << 10;

#[test]
fn an_open_stream_takes_little_memory() {
    let backend = Peer::start(|_, stream| {
        begin_events(stream);
        chunk(stream, b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
        wait_for_close(stream);
        Then::Close
    });
    let folder = tempfile::tempdir().unwrap();
    let configuration = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 2\nlog: {{ access: off }}\nlimits: {{ drain_delay: 1ms }}\n\
         backends: [{{ name: a, url: 'http://{}', region: aws/eu-north-1, max_in_flight: 1000 }}]\n",
        backend.address
    );
    let (program, address) = serve_by(windward([""; 0]), folder.path(), &configuration);
    let open = || {
        let mut client = Client::connect(address);
        client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
        client.read_until("\"a\"");
        client
    };
    let first: Vec<Client> = (0..FIRST).map(|_| open()).collect();
    program.peak_memory();
    let before = program.peak_memory();
    let streams: Vec<Client> = (0..STREAMS).map(|_| open()).collect();
    let each = program.peak_memory().saturating_sub(before) / STREAMS as u64;
    assert!(each > 0 && each < MOST, "{each} bytes for each");
    drop((first, streams));
}
