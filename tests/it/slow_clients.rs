//! Clients that take their time, three hundred at once: each is gone when its limit is reached, and others are served meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::support::h2::PREFACE;
use super::support::peer::PATIENCE;
use super::support::{Client, Harness, Peer, in_the_middle};

/// Of each kind.
const CLIENTS: usize = 60;

/// A way to be slow: what is sent at once, and what piece by piece, again and again.
struct Kind {
    name: &'static str,
    first: &'static [u8],
    drip: &'static [u8],
    /// Sends a piece at one turn of so many: a body may come as slowly as a kilobyte in a second.
    every: usize,
}

const KINDS: [Kind; 5] = [
    Kind { name: "silent", first: b"", drip: b"", every: 1 },
    Kind { name: "a head that goes on", first: b"GET /v1/models HTTP/1.1\r\nx: ", drip: b"y", every: 1 },
    Kind { name: "half a preface", first: PREFACE.split_at(7).0, drip: b"", every: 1 },
    Kind { name: "HTTP/2 without a stream", first: PREFACE, drip: b"", every: 1 },
    Kind {
        name: "a body that goes on",
        first: b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000\r\n\r\n",
        drip: b" ",
        every: 16,
    },
];

struct Slow {
    kind: &'static Kind,
    stream: TcpStream,
}

impl Slow {
    fn connect(kind: &'static Kind, address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(kind.first).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { kind, stream }
    }

    /// Sends a piece if it is its turn, and says whether the connection is still there.
    fn goes_on(&mut self, turn: usize) -> bool {
        let sent = !turn.is_multiple_of(self.kind.every) || self.stream.write_all(self.kind.drip).is_ok();
        let mut answer = [0; 4096];
        let ended = loop {
            match self.stream.read(&mut answer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        sent && !ended
    }
}

#[test]
fn three_hundred_slow_clients_are_gone_within_their_limits_and_others_are_served_meanwhile() {
    let backend = Peer::answering("200 OK", "{}");
    // Long enough for all of them to be there before the first one is gone.
    let limits = "limits: { header_read: 5s, idle: 5s, body_progress: 5s }";
    let proxy = Harness::with(limits, &[("a", backend.address, "")], "");
    let mut slow: Vec<Slow> = (0..CLIENTS).flat_map(|_| KINDS.iter().map(|kind| Slow::connect(kind, proxy.address))).collect();
    let begun = Instant::now();
    let (mut turn, mut took) = (0, Vec::new());
    while !slow.is_empty() {
        // Each turn takes as long as somebody else's request.
        let asked = Instant::now();
        let mut other = Client::connect(proxy.address);
        other.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        assert_eq!(other.answer().status, 200);
        took.push(asked.elapsed());
        turn += 1;
        slow.retain_mut(|client| client.goes_on(turn));
        assert!(turn > 1 || slow.len() == KINDS.len() * CLIENTS, "somebody was served while all of them were there");
        let left: Vec<_> = slow.iter().map(|client| client.kind.name).collect();
        assert!(begun.elapsed() < PATIENCE, "still there: {left:?}");
    }
    assert!(in_the_middle(took) < Duration::from_secs(1), "others waited");
}
