//! Clients that send without end what costs them nothing, that open more than they may, and that never read.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::super::support::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, H2Client, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    call, frame, literal,
};
use super::super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, wait_for_close};
use super::super::support::{Harness, Peer, in_the_middle, patiently};
use super::{bench, serves};

const STREAM: &str = r#"{"model":"m","stream":true}"#;

/// What ends a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// The limit on frames without progress.
    Guard,
    /// A limit of whoever reads the frames.
    Reader,
    /// Whichever of these is reached first: they lie close together, and what has been answered by then decides.
    Either,
}

/// What a flood begins with, and its `n`th part.
pub(super) struct Flood {
    pub name: &'static str,
    by: EndedBy,
    pub first: Vec<u8>,
    pub part: fn(u32) -> Vec<u8>,
}

pub(super) fn floods() -> Vec<Flood> {
    let open = frame(HEADERS, END_HEADERS, 1, &call());
    let many: Vec<u8> = (0..256).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &call())).collect();
    let by_guard = |name, part| Flood { name, by: EndedBy::Guard, first: Vec::new(), part };
    vec![
        by_guard("SETTINGS", |_| frame(SETTINGS, 0, 0, b"")),
        by_guard("PING", |_| frame(PING, 0, 0, b"12345678")),
        by_guard("answers to PINGs that nobody sent", |_| frame(PING, ACK, 0, b"12345678")),
        by_guard("PRIORITY", |n| frame(2, 0, 2 * (n % 1000) + 1, &[0, 0, 0, 0, 9])),
        by_guard("WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        by_guard("frames of unknown types", |n| frame(0xa0 | n as u8 & 15, 0, n & 0xff, b"?")),
        Flood {
            name: "WINDOW_UPDATE of a stream",
            by: EndedBy::Guard,
            first: open.clone(),
            part: |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        },
        Flood {
            name: "streams beyond the limit",
            by: EndedBy::Reader,
            first: many,
            part: |n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 513, &call()),
        },
        Flood { name: "empty DATA", by: EndedBy::Reader, first: open, part: |_| frame(DATA, 0, 1, b"") },
        Flood {
            name: "CONTINUATION",
            by: EndedBy::Reader,
            first: frame(HEADERS, 0, 1, &call()),
            part: |_| frame(CONTINUATION, 0, 1, &literal("x", b"y")),
        },
        Flood {
            name: "streams that are reset at once",
            by: EndedBy::Either,
            first: Vec::new(),
            part: |n| {
                let head = frame(HEADERS, END_HEADERS, 2 * n + 1, &call());
                [head, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
            },
        },
        // CVE-2025-8671: each of them is begun, and reset by the server because of what follows.
        Flood {
            name: "streams whose windows are made too large",
            by: EndedBy::Either,
            first: Vec::new(),
            part: |n| {
                let head = frame(HEADERS, END_HEADERS, 2 * n + 1, &call());
                [head, frame(WINDOW_UPDATE, 0, 2 * n + 1, &0x7fff_ffff_u32.to_be_bytes())].concat()
            },
        },
        Flood {
            name: "streams whose bodies are longer than they say",
            by: EndedBy::Reader,
            first: Vec::new(),
            part: |n| {
                let head = [call(), literal("content-length", b"1")].concat();
                [frame(HEADERS, END_HEADERS, 2 * n + 1, &head), frame(DATA, END_STREAM, 2 * n + 1, b"{}")].concat()
            },
        },
        Flood {
            name: "streams that are malformed",
            by: EndedBy::Reader,
            first: Vec::new(),
            part: |n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block(&[(":method", "GET")])),
        },
    ]
}

/// Floods ended by the guard so far.
fn counted(proxy: &Harness) -> u64 {
    let text = proxy.ask_admin("/metrics").text();
    text.lines().find_map(|line| line.strip_prefix("windward_http2_floods_total ")).unwrap().parse().unwrap()
}

/// Reads what comes until the end, so that nobody waits for this side.
pub(super) fn drain(mut stream: TcpStream) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut scratch = [0; 16 << 10];
        while stream.read(&mut scratch).is_ok_and(|count| count > 0) {}
    })
}

#[test]
fn a_flood_is_ended_and_others_are_served_meanwhile() {
    let (_backend, proxy) = bench();
    // By the guard are ended at least and at most so many.
    let (mut least, mut most) = (0, 0);
    for Flood { name, by, first, part } in floods() {
        let mut client = H2Client::connect(proxy.address);
        let reading = drain(client.stream.try_clone().unwrap());
        assert!(client.send(&first), "{name}");
        let (begun, mut next) = (Instant::now(), 0);
        loop {
            let parts: Vec<u8> = (next..next + 500).flat_map(part).collect();
            if !client.send(&parts) {
                break;
            }
            if next == 500 {
                assert!(serves(&proxy), "{name}");
            }
            next += 500;
            assert!(begun.elapsed() < PATIENCE, "{name} goes on after {next}");
        }
        reading.join().unwrap();
        least += u64::from(by == EndedBy::Guard);
        most += u64::from(by != EndedBy::Reader);
        // A connection is counted when its task is over, which may be after its socket.
        patiently(name, || (counted(&proxy) >= least).then_some(()));
        assert!(serves(&proxy), "{name}");
        assert!(counted(&proxy) <= most, "{name}");
    }
}

/// Between a call and its answer no more of a flood is taken than so much, in bytes: a few sockets' buffers and what a worker reads
/// before it turns to others ..
const MOST_MEANWHILE: u64 = 16 << 20;
/// .. and no more time goes by, of which a machine takes a few milliseconds.
const LONGEST_MEANWHILE: Duration = Duration::from_secs(1);
/// Calls to each flood. The one in the middle counts, since the machine may turn to others than to us.
const CALLS: usize = 9;

#[test]
fn others_wait_for_little_of_a_flood() {
    let (_backend, proxy) = bench();
    for Flood { name, first, part, .. } in floods() {
        let (taken, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let meanwhile: (Vec<u64>, Vec<Duration>) = std::thread::scope(|threads| {
            threads.spawn(|| {
                let parts: Vec<u8> = (0..500).flat_map(part).collect();
                // As soon as one is cut the next begins.
                while !over.load(SeqCst) {
                    let mut client = H2Client::connect(proxy.address);
                    let reading = drain(client.stream.try_clone().unwrap());
                    let mut goes_on = client.send(&first);
                    while goes_on && !over.load(SeqCst) {
                        goes_on = client.send(&parts);
                        taken.fetch_add(parts.len() as u64, SeqCst);
                    }
                    let _ = client.stream.shutdown(std::net::Shutdown::Both);
                    reading.join().unwrap();
                }
            });
            let call = |_| {
                let before = patiently("the flood", || Some(taken.load(SeqCst)).filter(|taken| *taken > 0));
                let begun = Instant::now();
                assert!(serves(&proxy), "{name}");
                (taken.load(SeqCst) - before, begun.elapsed())
            };
            let meanwhile = (0..CALLS).map(call).unzip();
            over.store(true, SeqCst);
            meanwhile
        });
        let (mut bytes, took) = meanwhile;
        bytes.sort_unstable();
        assert!(bytes[CALLS / 2] < MOST_MEANWHILE, "{name}: {bytes:?}");
        assert!(in_the_middle(took) < LONGEST_MEANWHILE, "{name}");
    }
}

#[test]
fn what_many_clients_do_is_no_flood() {
    let (backend, proxy) = bench();
    let mut client = H2Client::connect(proxy.address);
    // All streams at once, all reset at once, as when a page is closed, and a PING for each answer that is read.
    let streams: Vec<u32> = (0..100).map(|n| 2 * n + 1).collect();
    for stream in &streams {
        assert!(client.send(&frame(HEADERS, END_HEADERS, *stream, &call())));
    }
    assert!(client.ping(), "they are all open");
    for stream in &streams {
        assert!(client.send(&frame(RST_STREAM, 0, *stream, &[0, 0, 0, 8])));
    }
    for n in 100..2000 {
        let stream = 2 * n + 1;
        assert!(client.call(stream, r#"{"model":"m"}"#));
        assert_eq!(client.end(stream), End::Answered(200), "{n}");
        assert!(client.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 2])));
        assert!(client.ping());
        backend.next();
    }
    assert_eq!(counted(&proxy), 0);
}

#[test]
fn one_stream_more_than_allowed_is_refused_and_the_others_go_on() {
    let (backend, proxy) = {
        let backend = Peer::answering("200 OK", "{}");
        let proxy = Harness::with("limits: { streams: 100 }", &[("a", backend.address, "")], "");
        (backend, proxy)
    };
    let mut client = H2Client::connect(proxy.address);
    // The settings have to be known before they can be broken.
    assert!(client.ping());
    for n in 0..=100 {
        assert!(client.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &call())));
    }
    assert_eq!(client.end(201), End::Reset(7), "REFUSED_STREAM says that nothing was done");
    assert!(!backend.saw_more());
    for stream in [1, 199] {
        assert!(client.send(&frame(DATA, END_STREAM, stream, br#"{"model":"m"}"#)));
        assert_eq!(client.end(stream), End::Answered(200));
    }
}

#[test]
fn a_stream_without_a_window_holds_nobody_else_and_ends_with_its_connection() {
    let (closed, was_closed) = channel();
    let closed = Mutex::new(closed);
    let backend = Peer::start(move |seen, stream| {
        begin_events(stream);
        chunk(stream, b"data: 1\n\n");
        if seen.json()["user"] == "stalled" {
            wait_for_close(stream);
            closed.lock().unwrap().send(()).unwrap();
            return Then::Close;
        }
        chunk(stream, b"data: [DONE]\n\n");
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("a", backend.address, "")], "");
    let first_window = 4;
    let mut client = H2Client::with(proxy.address, &[(first_window, 0)], 0);
    assert!(client.call(1, r#"{"model":"m","stream":true,"user":"stalled"}"#));
    assert!(client.call(3, STREAM));
    let headed = std::iter::from_fn(|| client.frame()).find(|frame| frame.kind == HEADERS).unwrap().stream;
    let mut other = H2Client::connect(proxy.address);
    assert!(other.call(1, STREAM));
    assert_eq!(other.end(1), End::Answered(200));
    // Of its two streams one gets a window, and is served beside the other.
    assert!(client.send(&frame(WINDOW_UPDATE, 0, 3, &[0, 0, 4, 0])));
    let done = std::iter::from_fn(|| client.frame()).find(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0).unwrap();
    assert_eq!((done.stream, [1, 3].contains(&headed)), (3, true));
    drop(client);
    was_closed.recv_timeout(PATIENCE).unwrap();
}
