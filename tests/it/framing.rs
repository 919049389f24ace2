//! The framing guard, case by case over raw sockets: what is ambiguous is refused and reaches no backend, what is only odd passes.
//!
//! The cases are data, in `tests/cases/framing`. A case is a block of lines:
//!
//! ```text
//! name cl-twice
//! rule the section of an RFC, or the policy, that it rests on
//! want 400            one word for each response, in order, see `Want`
//! sees {"model":"m"}  the body of each request that reaches a backend, in order
//! | POST / HTTP/1.1\r\n   what is sent: the lines one after another, with the escapes below and no line ends but those
//! ```
//!
//! The escapes are in `support/cases.rs`. `tests/framing_peers.py` reads the same files and sends them through other proxies, and so it does
//! those of `upstream` and `http2`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::cases::{blocks, unescaped};
use super::support::h2::{END_HEADERS, END_STREAM, End, H2Client, HEADERS, block, frame};
use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, read_message, respond, wait_for_close};
use super::support::{Client, Harness, Peer, patiently};

/// What is to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// `ok`: the backend's answer.
    Ok,
    /// `400`: a refusal, after which the connection is closed.
    Refused(u16),
    /// `404-open`: an answer of Windward's own after which it is not.
    Answered(u16),
    /// `close`: the end, without a response.
    Close,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    name: String,
    want: Vec<Want>,
    sees: Vec<Vec<u8>>,
    /// What is sent.
    pub raw: Vec<u8>,
}

impl Case {
    /// Whether something of it reaches a backend.
    pub(crate) fn passes(&self) -> bool {
        self.want.contains(&Want::Ok)
    }
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    blocks("framing").iter().map(|lines| case(lines)).collect()
}

fn case(lines: &[(String, String)]) -> Case {
    let mut case = Case { name: String::new(), want: Vec::new(), sees: Vec::new(), raw: Vec::new() };
    let mut rule = "";
    for (key, text) in lines {
        match &**key {
            "name" => case.name.clone_from(text),
            "rule" => rule = text,
            "want" => case.want = text.split(' ').map(want).collect(),
            "sees" => case.sees.push(unescaped(text)),
            "|" => case.raw.extend(unescaped(text)),
            _ => panic!("{}: what is {key:?}?", case.name),
        }
    }
    assert!(!rule.is_empty() && !case.want.is_empty() && !case.raw.is_empty(), "{} is not whole", case.name);
    assert_eq!(case.sees.len(), case.want.iter().filter(|want| **want == Want::Ok).count(), "{}", case.name);
    case
}

fn want(word: &str) -> Want {
    match (word, word.strip_suffix("-open")) {
        ("ok", _) => Want::Ok,
        ("close", _) => Want::Close,
        (_, Some(status)) => Want::Answered(status.parse().unwrap()),
        (status, None) => Want::Refused(status.parse().unwrap()),
    }
}

/// How the bytes of a case are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    /// Between the two bytes of every line end.
    LineEnds,
    EveryByte,
}

impl Cut {
    fn pieces(self, raw: &[u8]) -> Vec<&[u8]> {
        match self {
            Self::Whole => vec![raw],
            Self::LineEnds => raw.split_inclusive(|byte| *byte == b'\r').collect(),
            Self::EveryByte => raw.chunks(1).collect(),
        }
    }
}

struct Bench {
    proxy: Harness,
    backend: Peer,
    /// Requests that the backend got to see, also those that nobody waited for ..
    seen: Arc<AtomicUsize>,
    /// .. and those that it was to see.
    wanted: AtomicUsize,
    /// From each refusal of the last case to the end of its connection.
    ended_after: Mutex<Vec<Duration>>,
}

/// A connection ends so soon after its refusal ..
const FIN_WITHIN: Duration = Duration::from_secs(2);
/// .. in one of so many runs of its case: in the others the machine may have turned to somebody else meanwhile.
const RUNS: usize = 3;

impl Bench {
    fn new() -> Self {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let backend = Peer::start(move |_, stream| {
            count.fetch_add(1, SeqCst);
            respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
            Then::Next
        });
        let proxy = Harness::with("limits: { body: 1MiB }", &[("a", backend.address, "")], "");
        Self { proxy, backend, seen, wanted: AtomicUsize::new(0), ended_after: Mutex::default() }
    }

    /// Runs a case, and again if an end was late.
    fn run_in_time(&self, case: &Case, cut: Cut) -> Result<(), String> {
        let mut slowest = Duration::ZERO;
        for _ in 0..RUNS {
            self.wanted.fetch_add(case.sees.len(), SeqCst);
            let ran = self.run(case, cut);
            while self.backend.saw_more() {}
            ran?;
            slowest = std::mem::take(&mut *self.ended_after.lock().unwrap()).into_iter().max().unwrap_or_default();
            if slowest < FIN_WITHIN {
                return Ok(());
            }
        }
        Err(format!("the end came {slowest:?} after the refusal"))
    }

    /// Sends a case and says what is not as it was to be.
    fn run(&self, case: &Case, cut: Cut) -> Result<(), String> {
        let mut stream = TcpStream::connect(self.proxy.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for piece in cut.pieces(&case.raw) {
            // Who is refused before he has said all may not get rid of the rest.
            if stream.write_all(piece).is_err() {
                break;
            }
        }
        let mut buffer = Vec::new();
        for (nth, want) in case.want.iter().enumerate() {
            self.check(&mut stream, &mut buffer, *want).map_err(|wrong| format!("response {nth}: {wrong}"))?;
        }
        for (nth, body) in case.sees.iter().enumerate() {
            let seen = self.backend.next();
            if !seen.target().starts_with('/') {
                return Err(format!("request {nth} reached the backend as {}", seen.head));
            }
            if seen.body != *body {
                return Err(format!("request {nth} reached the backend with {:?}", String::from_utf8_lossy(&seen.body)));
            }
        }
        if self.backend.saw_more() { Err("more reached the backend".to_owned()) } else { Ok(()) }
    }

    /// Reads one response, and the end after one that is the last.
    fn check(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>, want: Want) -> Result<(), String> {
        check(stream, buffer, want)?;
        if matches!(want, Want::Refused(_)) {
            let refused = Instant::now();
            closed(stream, buffer)?;
            self.ended_after.lock().unwrap().push(refused.elapsed());
        }
        Ok(())
    }
}

fn check(stream: &mut TcpStream, buffer: &mut Vec<u8>, want: Want) -> Result<(), String> {
    if want == Want::Close {
        return closed(stream, buffer);
    }
    let (status, response) = loop {
        let response = read_message(stream, buffer).ok_or("the connection ended")?;
        let status: u16 = response.head.get(9..12).and_then(|status| status.parse().ok()).ok_or("no response")?;
        if status != 100 {
            break (status, response);
        }
    };
    let wanted = match want {
        Want::Ok => 200,
        Want::Refused(status) | Want::Answered(status) => status,
        Want::Close => 0,
    };
    if status != wanted {
        return Err(format!("{status}, not {wanted}: {}", String::from_utf8_lossy(&response.body)));
    }
    if want == Want::Ok {
        return Ok(());
    }
    if response.json()["error"]["code"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{status} without a code"));
    }
    if matches!(want, Want::Refused(_)) && response.field("connection") != Some("close") {
        return Err(format!("{status} without `Connection: close`"));
    }
    Ok(())
}

/// Nothing more comes but the end.
fn closed(stream: &mut TcpStream, buffer: &[u8]) -> Result<(), String> {
    if !buffer.is_empty() {
        return Err(format!("{} bytes too many", buffer.len()));
    }
    match stream.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Ok(count) => Err(format!("{count} bytes too many")),
        Err(error) => Err(format!("no end: {error}")),
    }
}

fn run_all(cut: Cut, choose: impl Fn(&Case) -> bool) {
    let bench = Bench::new();
    let mut wrong = Vec::new();
    let chosen: Vec<Case> = cases().into_iter().filter(choose).collect();
    for case in &chosen {
        if let Err(error) = bench.run_in_time(case, cut) {
            wrong.push(format!("{}: {error}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} ({cut:?}):\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
    // What a backend sees of a refused request it may see late.
    assert_eq!(bench.seen.load(SeqCst), bench.wanted.load(SeqCst), "more reached the backend ({cut:?})");
}

#[test]
fn there_are_cases_enough_and_each_has_its_name() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    assert!(names.len() >= 300, "{}", names.len());
    names.sort();
    let duplicate = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(duplicate, None);
}

#[test]
fn every_case_as_it_was_sent() {
    run_all(Cut::Whole, |_| true);
}

#[test]
fn every_case_in_pieces_that_end_within_line_ends() {
    run_all(Cut::LineEnds, |case| case.raw.len() < 16 << 10);
}

#[test]
fn short_cases_byte_by_byte() {
    run_all(Cut::EveryByte, |case| case.raw.len() < 130);
}

#[test]
fn a_head_has_as_many_fields_as_the_configuration_says() {
    // Fewer than what is usual, and more; as most requests are, and as hyper reads them; and over HTTP/2, where bytes alone are counted.
    for most in [20, 300] {
        let backend = Peer::answering("200 OK", "{}");
        let proxy = Harness::with(&format!("limits: {{ fields: {most} }}"), &[("a", backend.address, "")], "");
        for (fields, status) in [(most, 200), (most + 1, 431)] {
            for framed in ["content-length: 2\r\n\r\n{}", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"] {
                let mut client = Client::connect(proxy.address);
                let others = "x: y\r\n".repeat(fields - 2);
                client.send(format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{others}{framed}").as_bytes());
                assert_eq!(client.answer().status, status, "{fields} {framed}");
            }
            let get = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "w")];
            let head = [block(&get), block(&[("x", "y")]).repeat(fields)].concat();
            let mut client = H2Client::connect(proxy.address);
            assert!(client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)));
            assert_eq!(client.end(1), End::Answered(status), "{fields}");
        }
    }
}

const STREAM: &str = r#"{"model":"m","stream":true}"#;

#[test]
fn a_refusal_waits_for_the_response_before_it() {
    let (go_on, gone_on) = channel::<()>();
    let gone_on = Mutex::new(gone_on);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: 1\n\n");
        let _ = gone_on.lock().unwrap().recv();
        chunk(stream, b"data: 2\n\n");
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", STREAM);
    client.send(b"GARBAGE\r\n\r\n");
    assert!(client.read_until("data: 1").starts_with("HTTP/1.1 200 "));
    client.send(b"and more of it");
    go_on.send(()).unwrap();
    let all = client.read_to_end();
    let (first, second) = all.split_once("0\r\n\r\n").unwrap();
    assert!(first.contains("data: 2"), "{first}");
    assert!(second.starts_with("HTTP/1.1 400 Bad Request\r\n") && second.ends_with('}'), "{second}");
    peer.next();
    assert!(!peer.saw_more());
}

#[test]
fn a_client_that_leaves_is_noticed_though_it_had_said_more() {
    let peer = Peer::start(|_, stream| {
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    client.get("/v1/files", "");
    peer.next();
    drop(client);
    assert_eq!(proxy.record()["ended"], "client_gone");
    assert!(!peer.saw_more());
}

#[test]
fn bytes_after_a_question_for_an_upgrade_wait_for_the_answer() {
    let peer = Peer::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        let mut bytes = [0; 13];
        let _ = stream.read_exact(&mut bytes);
        let _ = stream.write_all(&bytes);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/realtime", "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n");
    client.send(b"\x81\x00\nhello");
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    client.send(b"there");
    assert!(client.read_to_end().ends_with("\x00\nhellothere"));
}

fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let mut more = [0; 512];
        let count = stream.read(&mut more).unwrap();
        assert!(count > 0, "the connection ended after {seen:?}");
        seen.extend_from_slice(&more[..count]);
    }
}

#[test]
fn a_broken_upload_ends_the_attempt_and_is_the_clients_fault() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Harness::start(&[("a", backend.local_addr().unwrap(), "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let (mut upstream, _) = backend.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    read_until(&mut upstream, b"3\r\nabc\r\n");
    client.send(b"3 \r\nabc\r\n0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("body_broken")));
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(client.read_to_end(), "");
    let mut rest = Vec::new();
    let _ = upstream.read_to_end(&mut rest);
    assert_eq!(rest, b"", "no chunk, and above all no last one");
    let record = proxy.record();
    assert_eq!(
        (record["ended"].as_str(), record["http.response.status_code"].as_u64()),
        (Some("rejected"), Some(400)),
        "{record}"
    );
}

#[test]
fn a_response_that_has_begun_is_cut_when_the_upload_breaks() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Harness::start(&[("a", backend.local_addr().unwrap(), "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let (mut upstream, _) = backend.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    read_until(&mut upstream, b"3\r\nabc\r\n");
    begin_events(&mut upstream);
    chunk(&mut upstream, b"data: 1\n\n");
    client.read_until("data: 1");
    client.send(b"x\r\n");
    let all = client.read_to_end();
    assert!(all.ends_with("data: 1\n\n\r\n"), "neither an end nor another response: {all}");
    wait_for_close(&mut upstream);
}

#[test]
fn a_refused_head_is_counted_and_the_method_is_named_that_is_not() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"TRACE /v1/x HTTP/1.1\r\nhost: h\r\n\r\n");
    let answer = client.answer();
    assert!(answer.field("allow").is_some_and(|allow| allow.contains("POST")) && answer.field("date").is_some());
    let mut client = Client::connect(proxy.address);
    client.send(b"HEAD /v1/x HTTP/1.1\r\n\r\n");
    let all = client.read_to_end();
    assert!(all.starts_with("HTTP/1.1 400 ") && all.ends_with("\r\n\r\n"), "no body for HEAD: {all}");
    patiently("the count of bad heads", || {
        proxy.ask_admin("/metrics").text().lines().find(|line| line.starts_with("windward_bad_heads_total 2")).map(drop)
    });
}
