//! Backends that misbehave, case by case over raw sockets: what cannot be trusted is a 502, or a cut once the head is out; no request
//! is sent twice, and no byte reaches another exchange.
//!
//! The cases are data, in `tests/cases/upstream`. A case is a block of lines:
//!
//! ```text
//! name cl-twice
//! rule the section of an RFC, or the policy, that it rests on
//! want 502             the client's status, or `cut`: the connection ends within the response
//! gets hello           the body that the client gets; of one that is cut, what comes of it
//! upload 200 hello     where hyper reads the response, because the request is still coming: another status and body
//! ask head             the request: `head`, `get`, or, when left out, a collected one and a streamed one
//! end close            what the backend does then: `close`, `reset`, or, when left out, wait for the next request
//! | HTTP/1.1 200 OK\r\n    what the backend sends
//! + surplus                and what once the client has its answer
//! ```
//!
//! The escapes are in `support/cases.rs`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::cases::{blocks, unescaped};
use super::support::peer::{PATIENCE, Then, respond};
use super::support::{Harness, Peer, text};

/// What the client is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    /// `None` for a response that is cut.
    status: Option<u16>,
    body: Option<Vec<u8>>,
}

/// How the request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// A call of a model, collected before it is sent.
    Call,
    /// An upload that is passed on as it comes.
    Upload,
    Get,
    Head,
}

/// What the backend does after its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Waits,
    Closes,
    Resets,
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    name: String,
    want: Want,
    upload: Option<Want>,
    ask: Option<Ask>,
    end: End,
    /// What the backend sends.
    pub raw: Vec<u8>,
    later: Vec<u8>,
}

impl Case {
    /// Whether it is passed on.
    pub(crate) fn passes(&self) -> bool {
        self.want.status.is_some_and(|status| status != 502)
    }
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    blocks("upstream").iter().map(|lines| case(lines)).collect()
}

fn case(lines: &[(String, String)]) -> Case {
    let mut rule = "";
    let want = Want { status: None, body: None };
    let (raw, later) = (Vec::new(), Vec::new());
    let mut case = Case { name: String::new(), want, upload: None, ask: None, end: End::Waits, raw, later };
    for (key, text) in lines {
        match (&**key, &**text) {
            ("name", name) => name.clone_into(&mut case.name),
            ("rule", text) => rule = text,
            ("want", "cut") => {}
            ("want", status) => case.want.status = Some(status.parse().unwrap()),
            ("gets", body) => case.want.body = Some(unescaped(body)),
            ("upload", text) => {
                let (status, body) = text.split_once(' ').unwrap_or((text, ""));
                let status: u16 = status.parse().unwrap();
                case.upload = Some(Want { status: Some(status), body: (status != 502).then(|| unescaped(body)) });
            }
            ("ask", word) => case.ask = Some(if word == "head" { Ask::Head } else { Ask::Get }),
            ("end", word) => case.end = if word == "close" { End::Closes } else { End::Resets },
            ("|", text) => case.raw.extend(unescaped(text)),
            ("+", text) => case.later.extend(unescaped(text)),
            (key, _) => panic!("{}: what is {key:?}?", case.name),
        }
    }
    assert!(!rule.is_empty(), "{} has no rule", case.name);
    let passes = case.want.status.is_some_and(|status| status != 502);
    assert!(!passes || case.want.body.is_some(), "{} passes and does not say with what", case.name);
    case
}

/// How the bytes of a case are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    EveryByte,
}

/// A backend that answers as the case says that the request names, and the proxy before it, under two names: a request that was sent
/// again would be seen, to whomever.
struct Bench {
    proxy: Harness,
    backend: Peer,
    go_on: Sender<()>,
    gone_on: Receiver<()>,
}

/// What is asked of the next exchange, and answered to no other.
const NEXT: &str = r#"{"next":"answer"}"#;

impl Bench {
    fn new(cases: &[Case], cut: Cut) -> Self {
        let cases: Arc<[Case]> = cases.into();
        let (go_on, wait) = channel();
        let (say, gone_on) = channel();
        let (wait, say) = (Mutex::new(wait), Mutex::new(say));
        let backend = Peer::start(move |seen, stream| {
            let Some(case) = seen.field("x-case").and_then(|name| cases.iter().find(|case| case.name == name)) else {
                respond(stream, "200 OK", "content-type: application/json\r\n", NEXT.as_bytes());
                return Then::Next;
            };
            let _ = stream.set_nodelay(true);
            let size = if cut == Cut::EveryByte { 1 } else { case.raw.len().max(1) };
            // Who is refused may not get rid of the rest.
            let _ = case.raw.chunks(size).try_for_each(|piece| stream.write_all(piece));
            let _ = say.lock().unwrap().send(());
            if !case.later.is_empty() {
                let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
                let _ = stream.write_all(&case.later);
                let _ = say.lock().unwrap().send(());
            }
            match case.end {
                End::Waits => return Then::Next,
                End::Closes => {}
                End::Resets => socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap(),
            }
            Then::Close
        });
        Self { proxy: proxy(backend.address), backend, go_on, gone_on }
    }

    /// Runs a case and says what is not as it was to be.
    fn run(&self, case: &Case, ask: Ask) -> Result<(), String> {
        let want = case.upload.as_ref().filter(|_| ask == Ask::Upload).unwrap_or(&case.want);
        let mut client = Raw::connect(self.proxy.address);
        client.ask(ask, &case.name);
        let got = client.response(ask == Ask::Head);
        // What was sent before a reset may be lost with it.
        if !(case.end == End::Resets && want.status.is_none() && got.status == 502 && got.body.is_some()) {
            got.fits(want, ask)?;
        }
        let _ = self.backend.next();
        // What comes behind an answer has to be there before the next one is asked for: nobody could tell it from that.
        self.gone_on.recv_timeout(PATIENCE).map_err(|_| "the backend could not answer")?;
        if !case.later.is_empty() {
            self.go_on.send(()).unwrap();
            self.gone_on.recv_timeout(PATIENCE).map_err(|_| "the backend could not go on")?;
        }
        if got.body.is_none() || got.closes {
            client = Raw::connect(self.proxy.address);
        }
        client.ask(Ask::Call, "next");
        let next = client.response(false);
        if next.status != 200 || next.body.as_deref() != Some(NEXT.as_bytes()) {
            return Err(format!("the next exchange got {next:?}"));
        }
        let _ = self.backend.next();
        if self.backend.saw_more() { Err("a request was sent twice".to_owned()) } else { Ok(()) }
    }
}

/// One worker, so that every exchange could get the connection that the one before left.
fn proxy(backend: SocketAddr) -> Harness {
    let backends = [("a", backend, ""), ("b", backend, "")];
    Harness::of(|log| text(log, "", &backends, "policy: in_order").replace("workers: 2", "workers: 1"))
}

/// A response as its bytes came.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    /// `None` when the connection ended within it.
    body: Option<Vec<u8>>,
    /// What came of it when it did, without the framing of whole chunks.
    part: Vec<u8>,
    closes: bool,
}

impl Got {
    fn fits(&self, want: &Want, ask: Ask) -> Result<(), String> {
        let body = self.body.as_deref();
        match (want.status, body) {
            (None, Some(_)) => return Err(format!("a whole response {}", self.status)),
            (None, None) => {
                let part = want.body.as_deref().unwrap_or_default();
                let found = part.is_empty() || memchr::memmem::find(&self.part, part).is_some();
                if self.status != 200 || !found {
                    return Err(format!("{} and {:?}", self.status, String::from_utf8_lossy(&self.part)));
                }
            }
            (Some(_), None) => return Err(format!("a cut response {}: {}", self.status, self.head)),
            (Some(502), Some([])) if self.status == 502 && ask == Ask::Head => {}
            (Some(502), Some(body)) if self.status == 502 => {
                let answer: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
                if answer["error"]["code"].as_str().is_none_or(str::is_empty) {
                    return Err("502 without a code".to_owned());
                }
            }
            (Some(status), Some(body)) => {
                if self.status != status || want.body.as_deref() != Some(body) {
                    return Err(format!("{} and {:?}", self.status, String::from_utf8_lossy(&body[..body.len().min(200)])));
                }
            }
        }
        let head = self.head.to_ascii_lowercase();
        let leaks = ["x-hop:", "keep-alive:", "upgrade:", "proxy-authenticate:", "backend: other", "x-request-id: other"];
        leaks.iter().find(|leak| head.contains(&format!("\n{leak}"))).map_or(Ok(()), |leak| Err(format!("{leak} passed")))
    }
}

/// A client that takes nothing for granted.
struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn ask(&mut self, ask: Ask, case: &str) {
        let fields = format!("HTTP/1.1\r\nhost: w\r\nx-case: {case}\r\n");
        let request = match ask {
            Ask::Call => format!("POST /v1/chat/completions {fields}content-length: 13\r\n\r\n{{\"model\":\"m\"}}"),
            Ask::Upload => format!("POST /v1/files {fields}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            Ask::Get => format!("GET /v1/files {fields}\r\n"),
            Ask::Head => format!("HEAD /v1/files {fields}\r\n"),
        };
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    /// Until the buffer is as wanted, or the connection has ended.
    fn fill(&mut self, done: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        let mut more = [0; 16 << 10];
        loop {
            if let Some(end) = done(&self.buffer) {
                return Some(end);
            }
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&more[..count]),
            }
        }
    }

    fn response(&mut self, bodyless: bool) -> Got {
        let end = self.fill(|bytes| memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4));
        let head: Vec<u8> = self.buffer.drain(..end.unwrap_or(0)).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
        let body = if end.is_none() {
            None
        } else if bodyless || matches!(status, 204 | 304) {
            Some(Vec::new())
        } else if let Some(length) = field("content-length:") {
            let length = length.parse().unwrap();
            self.fill(|bytes| (bytes.len() >= length).then_some(length)).map(|length| self.buffer.drain(..length).collect())
        } else if field("transfer-encoding:").is_some() {
            self.chunks()
        } else {
            panic!("a response without framing: {head}");
        };
        let part = if body.is_none() { std::mem::take(&mut self.buffer) } else { Vec::new() };
        Got { status, body, part, closes: field("connection:").as_deref() == Some("close"), head }
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let whole = self.fill(|bytes| memchr::memmem::find(bytes, b"\r\n").map(|at| at + 2)).and_then(|line| {
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line]).unwrap().trim(), 16).unwrap();
                self.fill(|bytes| (bytes.len() >= line + size + 2).then_some((line, size).1 + line + 2))
                    .map(|end| (line, size, end))
            });
            let Some((line, size, end)) = whole else {
                body.append(&mut self.buffer);
                self.buffer = body;
                return None;
            };
            body.extend_from_slice(&self.buffer[line..line + size]);
            self.buffer.drain(..end);
            if size == 0 {
                return Some(body);
            }
        }
    }
}

fn run_all(cut: Cut, how: impl Fn(&Case) -> Option<Ask> + Sync) {
    let chosen: Vec<(Case, Ask)> = cases().into_iter().filter_map(|case| how(&case).map(|ask| (case, ask))).collect();
    assert!(chosen.len() > 50);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for part in chosen.chunks(chosen.len().div_ceil(4)) {
            let wrong = &wrong;
            scope.spawn(move || {
                let cases: Vec<Case> = part.iter().map(|(case, _)| case.clone()).collect();
                let mut bench = Bench::new(&cases, cut);
                for (case, ask) in part {
                    if let Err(error) = bench.run(case, *ask) {
                        wrong.lock().unwrap().push(format!("{}: {error}", case.name));
                    }
                    // Failures shut a backend out, which is another matter.
                    if bench.backend.saw_more() || case.want.status.is_none_or(|status| status >= 500) {
                        bench = Bench::new(&cases, cut);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} ({cut:?}):\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
}

#[test]
fn there_are_cases_enough_and_each_has_its_name() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    assert!(names.len() >= 200, "{}", names.len());
    names.sort();
    assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
}

#[test]
fn every_answer_at_once() {
    run_all(Cut::Whole, |case| Some(case.ask.unwrap_or(Ask::Call)));
}

#[test]
fn short_answers_byte_by_byte() {
    run_all(Cut::EveryByte, |case| (case.raw.len() < 400).then(|| case.ask.unwrap_or(Ask::Call)));
}

#[test]
fn every_answer_to_an_upload() {
    run_all(Cut::Whole, |case| case.ask.is_none().then_some(Ask::Upload));
}
