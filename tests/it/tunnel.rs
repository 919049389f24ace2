//! Tunnels: a WebSocket's bytes both ways, what becomes none, and one that carries nothing.

use std::io::{Read as _, Write as _};

use super::support::peer::{Then, wait_for_close};
use super::support::{Client, Harness, Peer};

#[test]
fn only_a_websocket_becomes_a_tunnel() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/realtime", "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(peer.next().field("upgrade"), None, "what runs in such a tunnel nobody decides and nobody records");
}

#[test]
fn a_websocket_becomes_a_tunnel() {
    let peer = Peer::start(|seen, stream| {
        assert_eq!(seen.field("upgrade"), Some("websocket"));
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        let mut bytes = [0; 5];
        let _ = stream.read_exact(&mut bytes);
        let _ = stream.write_all(&bytes);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/realtime?model=m", "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n");
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    client.send(b"hello");
    assert!(client.read_to_end().ends_with("hello"));
    assert_eq!(proxy.record()["http.response.body.size"], 5);
}

#[test]
fn a_tunnel_that_carries_nothing_is_given_up() {
    let peer = Peer::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "timeouts: { idle: 50ms }")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/realtime", "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n");
    client.read_to_end();
    let record = proxy.record();
    assert_eq!((&record["ended"], &record["error"]), (&"timed_out".into(), &"idle_timeout".into()), "{record}");
}
