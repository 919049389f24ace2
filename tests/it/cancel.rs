//! Clients that leave, in every phase of an exchange and in every way there is: the backend's exchange ends, the record says so, and
//! the backend's health is none the worse.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::support::peer::{PATIENCE, by_http2, conversing, respond, wait_for_close};
#[cfg(target_os = "linux")]
use super::support::queues::Queues;
use super::support::{Client, Harness, in_the_middle, patiently};

/// Where in an exchange the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Upload,
    /// The backend answers what it has not got the whole of.
    AnsweredUpload,
    BeforeTheFirstByte,
    Body,
    Stream,
}

pub(super) const PHASES: [Phase; 5] =
    [Phase::Upload, Phase::AnsweredUpload, Phase::BeforeTheFirstByte, Phase::Body, Phase::Stream];
pub(super) const CALL: &str = r#"{"model":"abc"}"#;
const BODY: &str = r#"{"part":"Hel"#;
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
/// From the end of a client to that of its backend's exchange.
pub(super) const WITHIN: Duration = Duration::from_secs(1);

impl Phase {
    pub(super) fn is_upload(self) -> bool {
        matches!(self, Self::Upload | Self::AnsweredUpload)
    }

    pub(super) fn path(self) -> &'static str {
        if self.is_upload() { "/v1/files" } else { "/v1/chat/completions" }
    }

    /// What comes of the response before the client leaves, and the whole of its bytes.
    pub(super) fn answer(self) -> Option<(&'static str, String)> {
        match self {
            Self::Upload | Self::BeforeTheFirstByte => None,
            Self::AnsweredUpload | Self::Body => {
                Some((BODY, format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{BODY}")))
            }
            Self::Stream => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                Some((EVENT, format!("{head}{:x}\r\n{EVENT}\r\n", EVENT.len())))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// The request, or its beginning, is here.
    Asked,
    /// The connection has ended.
    Ended,
}

/// A backend that answers as far as the phase goes, and says when its connections end, or its streams.
pub(super) fn backend(phase: Phase, protocol: &str) -> (SocketAddr, Receiver<Happened>) {
    let http2 = protocol.ends_with("http2");
    conversing(move |stream, say| {
        if http2 {
            by_http2(stream, |request, answer| answer_a_stream(phase, request, answer, say.clone()));
        } else {
            converse(phase, stream, say);
        }
    })
}

async fn answer_a_stream(
    phase: Phase,
    request: http::Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
    say: Sender<Happened>,
) {
    if request.headers().contains_key("x-next") {
        answer.send_response(http::Response::new(()), true).unwrap();
        return;
    }
    let (mut body, mut seen) = (request.into_body(), Vec::new());
    while memchr::memmem::find(&seen, b"abc").is_none() {
        seen.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    let _ = say.send(Happened::Asked);
    match phase.answer() {
        None => drop(std::future::poll_fn(|cx| answer.poll_reset(cx)).await),
        Some((bytes, _)) => {
            let kind = if phase == Phase::Stream { "text/event-stream" } else { "application/json" };
            let head = http::Response::builder().header("content-type", kind).body(()).unwrap();
            let mut sending = answer.send_response(head, false).unwrap();
            sending.send_data(Bytes::from_static(bytes.as_bytes()), false).unwrap();
            drop(std::future::poll_fn(|cx| sending.poll_reset(cx)).await);
        }
    }
    let _ = say.send(Happened::Ended);
}

fn converse(phase: Phase, mut stream: TcpStream, say: &Sender<Happened>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut seen, mut more) = (Vec::new(), [0; 4096]);
    let has = |seen: &[u8], what: &[u8]| memchr::memmem::find(seen, what).is_some();
    while !has(&seen, b"abc") {
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.extend_from_slice(&more[..count]),
        }
    }
    if has(&seen, b"x-next: 1") {
        respond(&mut stream, "200 OK", "content-type: application/json\r\n", b"{}");
        return wait_for_close(&mut stream);
    }
    let _ = say.send(Happened::Asked);
    if let Some((_, bytes)) = phase.answer() {
        let _ = stream.write_all(bytes.as_bytes());
    }
    wait_for_close(&mut stream);
    let _ = say.send(Happened::Ended);
}

pub(super) fn happens(happened: &Receiver<Happened>, what: Happened) {
    assert_eq!(happened.recv_timeout(PATIENCE), Ok(what));
}

/// How a call is sent: as most are, or so that hyper has its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Plain,
    InChunks,
}

/// A request whose client has all that it will get.
fn begun(proxy: &Harness, phase: Phase, sent: Sent) -> Client {
    let mut client = Client::connect(proxy.address);
    let in_chunks = format!("POST {} HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n", phase.path());
    if phase.is_upload() {
        client.send(format!("{in_chunks}3\r\nabc\r\n").as_bytes());
    } else if sent == Sent::InChunks {
        client.send(format!("{in_chunks}{:x}\r\n{CALL}\r\n0\r\n\r\n", CALL.len()).as_bytes());
    } else {
        client.post(phase.path(), "", CALL);
    }
    if phase.answer().is_some() {
        client.read_until("Hel");
    }
    client
}

/// The record of one that left, and that the backend is still the first to be asked.
pub(super) fn check(proxy: &Harness, phase: Phase) {
    let record = proxy.record();
    let received = phase.answer().map_or(0, |(body, _)| body.len());
    assert_eq!(record["ended"], "client_gone", "{phase:?}: {record}");
    assert_eq!(record["attempts"][0]["outcome"], "abandoned", "{phase:?}: {record}");
    assert_eq!(record["http.response.body.size"].as_u64().unwrap_or(0), received as u64, "{phase:?}: {record}");
    if !phase.is_upload() {
        let emissions = &record["emissions"];
        assert!(emissions["waste_grams"].as_f64().unwrap() > 0.0, "{phase:?}: {record}");
        assert_eq!(emissions["waste_grams"], emissions["grams"], "all of it is waste: {record}");
    }
}

pub(super) fn is_served(proxy: &Harness) {
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "x-next: 1\r\n", CALL);
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("a")), "its health is none the worse");
    assert_eq!(proxy.record()["ended"], "complete");
    let backend = proxy.backend("a");
    assert_eq!((&backend["in_flight"], &backend["pending_prompt_tokens"]), (&0.into(), &0.into()));
}

/// Enough for a backend to be shut, were they failures.
pub(super) const TIMES: usize = 12;
/// A plain call or one in chunks, whose connection is closed or reset: each its share of the times.
const WAYS: usize = 4;

/// Looks at the middle of each way on its own: among those of others a late one would be left out.
pub(super) fn in_time_each_way<const WAYS: usize>(took: [Vec<Duration>; WAYS], phase: Phase) {
    for (way, took) in took.into_iter().enumerate() {
        assert!(in_the_middle(took) < WITHIN, "{phase:?}, way {way}");
    }
}

/// What a backend is spoken to by.
pub(super) const PROTOCOLS: [&str; 2] = ["protocol: http1", "protocol: http2"];

/// A proxy before that backend, beside which there is nobody.
pub(super) fn before(address: SocketAddr, protocol: &str) -> Harness {
    Harness::start(&[("a", address, protocol), ("b", super::support::Peer::nobody(), "")], "policy: in_order")
}

/// Leaves by a reset, or in good order; gives how long it takes until the backend's exchange has ended.
fn leave(client: Client, by_reset: bool, happened: &Receiver<Happened>) -> Duration {
    if by_reset {
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let left = Instant::now();
    drop(client);
    happens(happened, Happened::Ended);
    left.elapsed()
}

/// Clients that leave in a phase in every way, after they have said something more.
fn leave_in_every_way(phase: Phase, protocol: &str, more: &[u8]) {
    let (address, happened) = backend(phase, protocol);
    let proxy = before(address, protocol);
    let mut took = [const { Vec::new() }; WAYS];
    for nth in 0..TIMES {
        let mut client = begun(&proxy, phase, if nth % WAYS < 2 { Sent::Plain } else { Sent::InChunks });
        happens(&happened, Happened::Asked);
        client.send(more);
        took[nth % WAYS].push(leave(client, nth % 2 == 1, &happened));
    }
    in_time_each_way(took, phase);
    (0..TIMES).for_each(|_| check(&proxy, phase));
    is_served(&proxy);
}

#[test]
fn a_connection_that_is_closed_or_reset_ends_the_exchange_in_every_phase() {
    for (phase, protocol) in PHASES.into_iter().flat_map(|phase| PROTOCOLS.map(|protocol| (phase, protocol))) {
        leave_in_every_way(phase, protocol, b"");
    }
}

#[test]
fn a_hundred_that_leave_at_once_leave_nothing_behind() {
    let (address, happened) = backend(Phase::Stream, "protocol: http1");
    let proxy = before(address, "protocol: http1");
    let took = (0..3).map(|_| {
        let clients: Vec<Client> = (0..100).map(|_| begun(&proxy, Phase::Stream, Sent::Plain)).collect();
        assert_eq!(proxy.in_flight("a"), 100);
        (0..100).for_each(|_| happens(&happened, Happened::Asked));
        let left = Instant::now();
        drop(clients);
        (0..100).for_each(|_| happens(&happened, Happened::Ended));
        let took = left.elapsed();
        (0..100).for_each(|_| check(&proxy, Phase::Stream));
        patiently("nothing in flight", || (proxy.in_flight("a") == 0).then_some(()));
        took
    });
    assert!(in_the_middle(took.collect()) < 2 * WITHIN);
    is_served(&proxy);
}

/// What is said ahead of an answer is read only in part, and the end lies behind it.
#[test]
fn a_client_that_leaves_is_noticed_however_much_it_had_said_before() {
    let ahead = format!("POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(50_000));
    for phase in [Phase::BeforeTheFirstByte, Phase::Body] {
        leave_in_every_way(phase, "protocol: http1", ahead.as_bytes());
    }
}

/// A backend that takes next to nothing of an upload until it is let.
fn taking_nothing() -> (SocketAddr, Receiver<Happened>, Sender<()>) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (address, happened) = conversing(move |mut stream, say| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        say.send(Happened::Asked).unwrap();
        let _ = wait.lock().unwrap().recv();
        wait_for_close(&mut stream);
        say.send(Happened::Ended).unwrap();
    });
    (address, happened, release)
}

/// How long nothing is taken of what is sent until it is believed that nothing will be. On a slow machine it may be believed too soon:
/// then the end of the connection is easier to see, and no test fails for it.
const STANDS_STILL: Duration = Duration::from_millis(300);

/// Clients that send until nobody takes any more of it and then leave.
fn break_off_uploads(by_reset: bool, fill: fn(&mut Client)) {
    let (address, happened, release) = taking_nothing();
    let proxy = before(address, "protocol: http1");
    let mut took = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(proxy.address);
        client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000000\r\n\r\n");
        happens(&happened, Happened::Asked);
        fill(&mut client);
        if by_reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let left = Instant::now();
        drop(client);
        let record = proxy.record();
        took.push(left.elapsed());
        assert_eq!(
            (&record["ended"], &record["attempts"][0]["outcome"]),
            (&"client_gone".into(), &"abandoned".into()),
            "{record}"
        );
        assert_eq!(proxy.in_flight("a"), 0);
        release.send(()).unwrap();
        happens(&happened, Happened::Ended);
    }
    assert!(in_the_middle(took) < WITHIN);
    assert_eq!(proxy.backend("a")["failures"], 0, "its health is none the worse");
}

/// Of a body that its backend does not take nothing more is read, and the end lies behind what is not.
#[test]
fn a_client_that_breaks_off_an_upload_which_nobody_takes_is_noticed() {
    break_off_uploads(true, |client| {
        client.stream.set_write_timeout(Some(STANDS_STILL)).unwrap();
        while client.stream.write_all(&vec![b'x'; 64 << 10]).is_ok() {}
    });
}

/// A good end comes when all before it has come. It cannot be seen while a client's own kernel still has some of that, because the
/// proxy's has no room for it.
#[cfg(target_os = "linux")]
#[test]
fn so_is_one_that_ends_it_in_good_order_when_all_of_it_has_come() {
    break_off_uploads(false, |client| {
        let (own, peer) = (client.stream.local_addr().unwrap(), client.stream.peer_addr().unwrap());
        loop {
            client.send(&[b'x'; 16 << 10]);
            patiently("all of it has come", || (Queues::at(own, peer).to_send == 0).then_some(()));
            let begun = Instant::now();
            while Queues::at(peer, own).unread > 0 {
                if begun.elapsed() > STANDS_STILL {
                    return;
                }
                std::thread::yield_now();
            }
        }
    });
}

/// What a client of TLS trusts, and the listener that it is, as the configuration has it.
fn tls(files: &Path) -> (Arc<rustls::ClientConfig>, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (files.join("certificate.pem"), files.join("key.pem"));
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let listener = format!("address: 127.0.0.1:0, tls: {{ certificate: {}, key: {} }}", certificate.display(), key.display());
    (Arc::new(config.with_root_certificates(roots).with_no_client_auth()), listener)
}

#[test]
fn a_client_that_leaves_through_tls_is_noticed_with_a_goodbye_and_without() {
    let files = tempfile::tempdir().unwrap();
    let (config, listener) = tls(files.path());
    for phase in PHASES {
        let (address, happened) = backend(phase, "protocol: http1");
        let backends = [("a", address, ""), ("b", super::support::Peer::nobody(), "")];
        let plain = "listeners: [{ address: 127.0.0.1:0 }]";
        let proxy = Harness::of(|log| {
            super::support::text(log, "", &backends, "policy: in_order").replace(plain, &format!("listeners: [{{ {listener} }}]"))
        });
        let mut took = [const { Vec::new() }; 3];
        for nth in 0..TIMES {
            let socket = TcpStream::connect(proxy.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let client = rustls::ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap()).unwrap();
            let mut client = rustls::StreamOwned::new(client, socket);
            // Bodies that are waited for, and some that are read as they are passed on.
            let (length, said) = if phase.is_upload() { ([500, 100_000][nth / 3 % 2], "abc") } else { (CALL.len(), CALL) };
            let head = format!("POST {} HTTP/1.1\r\nhost: w\r\ncontent-length: {length}\r\n\r\n", phase.path());
            client.write_all(format!("{head}{said}").as_bytes()).unwrap();
            happens(&happened, Happened::Asked);
            let (mut seen, mut more) = (Vec::new(), [0; 4096]);
            while phase.answer().is_some() && memchr::memmem::find(&seen, b"Hel").is_none() {
                let count = client.read(&mut more).unwrap();
                seen.extend_from_slice(&more[..count]);
            }
            match nth % 3 {
                0 => client.conn.send_close_notify(),
                1 => socket2::SockRef::from(&client.sock).set_linger(Some(Duration::ZERO)).unwrap(),
                _ => {}
            }
            let left = Instant::now();
            let _ = client.flush();
            drop(client);
            happens(&happened, Happened::Ended);
            took[nth % 3].push(left.elapsed());
        }
        in_time_each_way(took, phase);
        (0..TIMES).for_each(|_| check(&proxy, phase));
        assert_eq!((proxy.in_flight("a"), &proxy.backend("a")["failures"]), (0, &0.into()), "its health is none the worse");
    }
}

#[test]
fn a_client_that_leaves_a_stream_which_is_translated_ends_it() {
    let (address, happened) = conversing(|mut stream, say| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            let mut more = [0; 4096];
            let count = stream.read(&mut more).unwrap();
            seen.extend_from_slice(&more[..count]);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n";
        let begun = super::support::frames::frames(
            br#"{"event":"messageStart","payload":{"role":"assistant"}}
{"event":"contentBlockDelta","payload":{"delta":{"text":"Hel"},"contentBlockIndex":0}}"#,
        );
        stream.write_all(&[head.as_bytes(), format!("{:x}\r\n", begun.len()).as_bytes(), &begun, b"\r\n"].concat()).unwrap();
        wait_for_close(&mut stream);
        let _ = say.send(Happened::Ended);
    });
    let bedrock = "dialect: bedrock\n    translate: [openai]\n    models: { claude: a.claude }";
    let proxy = before(address, bedrock);
    let took = (0..TIMES).map(|_| {
        let mut client = Client::connect(proxy.address);
        let said = r#"{"model":"claude","stream":true,"messages":[{"role":"user","content":"abc"}]}"#;
        client.post("/v1/chat/completions", "", said);
        client.read_until("Hel");
        let left = Instant::now();
        drop(client);
        happens(&happened, Happened::Ended);
        let record = proxy.record();
        assert_eq!(
            (&record["ended"], &record["attempts"][0]["outcome"]),
            (&"client_gone".into(), &"abandoned".into()),
            "{record}"
        );
        assert_eq!(record["emissions"]["waste_grams"], record["emissions"]["grams"], "all of it is waste: {record}");
        left.elapsed()
    });
    assert!(in_the_middle(took.collect()) < WITHIN);
    assert_eq!(proxy.backend("a")["failures"], 0, "its health is none the worse");
}
