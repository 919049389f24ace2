//! A connection of plain requests, and what it makes of others. Time passes only when nobody has anything to do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::proxy::{self, Limited};
use crate::server::connection::{Setting, run};
use crate::server::detect::Version;
use crate::server::guard::WRITE_STALL;
use crate::server::listener::Place;
use crate::server::tracked::Connections;
use crate::telemetry::metrics::Metrics;
use crate::wire::fields::Name;

/// What a body does, step by step.
#[derive(Clone, Debug)]
pub(in crate::server) enum Step {
    Give(Bytes),
    Wait(Duration),
    Break,
}

/// A body of steps; it counts itself while it lives.
struct Steps {
    left: VecDeque<Step>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    until: Instant,
    alive: Arc<AtomicUsize>,
}

/// What an answer may take.
const TIME: Duration = Duration::from_hours(1);

impl Limited for Steps {
    fn until(&self) -> Option<std::time::Instant> {
        Some(self.until.into_std())
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match self.left.front() {
                None => return Poll::Ready(None),
                Some(Step::Break) => return Poll::Ready(Some(Err(io::ErrorKind::Other.into()))),
                Some(Step::Give(bytes)) => {
                    let bytes = bytes.clone();
                    self.left.pop_front();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(pause)) => {
                    let pause = *pause;
                    let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
                    ready!(sleep.as_mut().poll(cx));
                    self.sleep = None;
                    self.left.pop_front();
                }
            }
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

pub(in crate::server) struct Case {
    pub(in crate::server) client: DuplexStream,
    serving: JoinHandle<Outcome>,
    alive: Arc<AtomicUsize>,
    state: Arc<ConnState>,
}

/// A connection whose every answer has a body of these steps, begun after the request's own body was read and its length said.
pub(in crate::server) fn case(steps: &[Step], room: usize) -> Case {
    let (alive, steps) = (Arc::<AtomicUsize>::default(), VecDeque::from(steps.to_vec()));
    let count = Arc::clone(&alive);
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let (mut steps, count) = (steps.clone(), Arc::clone(&count));
        async move {
            let (by_hyper, length) = (matches!(request.body(), RequestBody::Incoming(_)), request.into_body().collect().await);
            let length = length.map_or_else(|_| "broken".to_owned(), |body| body.to_bytes().len().to_string());
            steps.push_front(Step::Give(format!("{length}{}", if by_hyper { " by hyper" } else { "" }).into()));
            count.fetch_add(1, Relaxed);
            Ok::<_, Infallible>(Response::new(Steps { left: steps, sleep: None, until: Instant::now() + TIME, alive: count }))
        }
    });
    served_by(service, room, alive)
}

/// A connection to this service, whose bodies count themselves.
pub(in crate::server) fn served_by(service: impl Answers, room: usize, alive: Arc<AtomicUsize>) -> Case {
    let (client, far) = tokio::io::duplex(room);
    let metrics = Arc::new(Metrics::default());
    let held = Held {
        entry: Arc::new(Connections::default()).enter(),
        _place: Place::take(&Arc::default(), 1, &metrics).unwrap(),
        _tracked: tokio_util::task::TaskTracker::new().token(),
    };
    let state = Arc::clone(&held.entry.state);
    let setting = Setting { limits: Limits::default(), metrics, tls: None, held };
    let serving = tokio::spawn(run(Version::Http1, far, Prefix::default(), service, setting, Instant::now()));
    Case { client, serving, alive, state }
}

impl Case {
    pub(in crate::server) async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `end` has come.
    pub(in crate::server) async fn until(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        while !said.ends_with(end.as_bytes()) {
            said.push(self.client.read_u8().await.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&said))));
        }
        String::from_utf8(said).unwrap()
    }

    pub(in crate::server) async fn rest(mut self) -> (String, Outcome, Arc<AtomicUsize>) {
        let mut said = Vec::new();
        let _ = self.client.read_to_end(&mut said).await;
        drop(self.client);
        (String::from_utf8(said).unwrap(), self.serving.await.unwrap(), self.alive)
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
const END: &str = "0\r\n\r\n";

fn give(text: &'static str) -> Step {
    Step::Give(Bytes::from_static(text.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn messages_are_answered_one_after_another_by_whom_they_are_for() {
    let mut case = case(&[], 1 << 16);
    case.send(&[GET, POST, "hello", CHUNKED, GET, LAST, GET].concat()).await;
    let (said, outcome, _) = case.rest().await;
    let bodies: Vec<&str> = said.match_indices("\r\n\r\n").filter_map(|(at, _)| said[at + 4..].split("\r\n").nth(1)).collect();
    let bodies: Vec<&str> = bodies.into_iter().filter(|body| body.starts_with(char::is_numeric)).collect();
    assert_eq!(bodies, ["0", "5", "3 by hyper", "0 by hyper", "0 by hyper"], "{said}");
    assert_eq!((said.matches("connection: close").count(), said.matches("date: ").count(), outcome), (1, 5, Outcome::Fine));
}

#[tokio::test(start_paused = true)]
async fn a_body_may_come_after_its_head_and_one_that_is_late_is_waited_for_elsewhere() {
    for (pause, by_hyper) in [(BODY_SOON / 2, false), (BODY_SOON * 2, true)] {
        let mut case = case(&[], 1 << 16);
        for piece in [POST, "he", "llo"] {
            case.send(piece).await;
            tokio::time::sleep(pause / 2).await;
        }
        let said = case.until(END).await;
        assert_eq!((said.contains("\r\n5"), said.contains("by hyper")), (true, by_hyper), "{said}");
    }
}

/// Refuses what asks for `/no`, and answers everything by `a`.
#[derive(Clone)]
struct Refusing<A>(A);

impl<A: Answers> Answers for Refusing<A> {
    type Body = A::Body;

    async fn answer(&mut self, request: Request<RequestBody>) -> Response<A::Body> {
        self.0.answer(request).await
    }

    async fn answer_plain(&mut self, request: Box<Message<RequestHead, RequestBody>>) -> Message<ResponseHead, A::Body> {
        self.0.answer_plain(request).await
    }

    fn refuses(&mut self, head: &RequestHead) -> bool {
        head.target.path() == "/no" && head.fields.get(Name::Host) == Some(b"h")
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_wait_for_a_body_that_is_late() {
    let service = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(proxy::Body::Fixed(Full::default())))
    });
    for (path, within) in [("/no", ASKED_AFTER), ("/", BODY_SOON)] {
        let mut case = served_by(Refusing(service), 1 << 16, Arc::default());
        let begun = Instant::now();
        case.send(&format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")).await;
        assert!(case.until("\r\n\r\n").await.contains(" 200 "));
        assert_eq!(begun.elapsed(), within, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_within_its_body_is_answered() {
    let mut case = case(&[], 1 << 16);
    case.send(&[POST, "he"].concat()).await;
    case.client.shutdown().await.unwrap();
    let (said, ..) = case.rest().await;
    assert!(said.contains("broken by hyper"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_time_and_a_connection_without_one_another() {
    let limits = Limits::default();
    for (sent, outcome, after) in [
        ("", Outcome::Fine, limits.header_read),
        ("GET / HT", Outcome::BadHead, limits.header_read),
        (GET, Outcome::Fine, limits.idle),
        (&[GET, "GET"].concat(), Outcome::BadHead, limits.header_read),
    ] {
        let mut case = case(&[], 1 << 16);
        let begun = Instant::now();
        case.send(sent).await;
        let (_, ended, _) = case.rest().await;
        assert_eq!((ended, begun.elapsed().as_secs()), (outcome, after.as_secs()), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_after_a_minute_and_one_that_waits_is_not() {
    let much = || Step::Give(Bytes::from(vec![b'x'; 100_000]));
    let mut full = case(&[much()], 1 << 10);
    let begun = Instant::now();
    full.send(GET).await;
    assert_eq!((full.serving.await.unwrap(), begun.elapsed().as_secs()), (Outcome::Fine, WRITE_STALL.as_secs()));
    assert_eq!(full.alive.load(Relaxed), 0, "its backend is let go");

    let mut slow = case(&[Step::Wait(WRITE_STALL * 3), give("late"), much()], 1 << 10);
    slow.send(LAST).await;
    slow.until("late\r\n").await;
    // Who takes something now and then may take his time.
    for _ in 0..3 {
        tokio::time::sleep(WRITE_STALL * 9 / 10).await;
        slow.client.read_exact(&mut [0; 2000]).await.unwrap();
    }
    let (said, ..) = slow.rest().await;
    assert!(said.ends_with("x\r\n0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_what_is_done_for_it_though_it_had_said_more() {
    for more in ["", GET, "\0\0"] {
        let mut case = case(&[give("one"), Step::Wait(Duration::from_hours(1))], 1 << 16);
        case.send(&[GET, more].concat()).await;
        case.until("one\r\n").await;
        let begun = Instant::now();
        drop(case.client);
        assert_eq!((case.serving.await.unwrap(), case.alive.load(Relaxed)), (Outcome::Fine, 0));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_goes_before_what_is_not() {
    let mut case = case(&[give("one"), give("two"), Step::Wait(Duration::from_secs(5)), give("three")], 1 << 16);
    let begun = Instant::now();
    case.send(GET).await;
    assert!(case.until("two\r\n").await.ends_with("0\r\n3\r\none\r\n3\r\ntwo\r\n"));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(case.until(END).await, "5\r\nthree\r\n0\r\n\r\n");
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_passed_on_up_to_there_and_has_no_end() {
    let mut case = case(&[give("one"), Step::Break], 1 << 16);
    case.send(GET).await;
    let (said, _, alive) = case.rest().await;
    assert!(said.ends_with("3\r\none\r\n") && alive.load(Relaxed) == 0, "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_dismissed_connection_finishes_what_it_has() {
    // Nothing; half a head; a head without its body; an answer that has begun.
    for (sent, rest, says_close) in [("", "", false), ("GET /", &GET[5..], true), (POST, "hello", true), (GET, "", false)] {
        let mut case = case(&[Step::Wait(BODY_SOON / 4), give("end")], 1 << 16);
        case.send(sent).await;
        tokio::time::sleep(BODY_SOON / 8).await;
        case.state.dismiss();
        tokio::time::sleep(BODY_SOON / 8).await;
        case.send(rest).await;
        let begun = Instant::now();
        let (said, outcome, _) = case.rest().await;
        assert_eq!((said.is_empty(), said.contains("connection: close")), (sent.is_empty(), says_close), "{sent}: {said}");
        assert!(sent.is_empty() || said.ends_with("3\r\nend\r\n0\r\n\r\n"), "{sent}: {said}");
        assert_eq!((outcome, begun.elapsed() < BODY_SOON), (Outcome::Fine, true));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_its_time_however_little_of_it_is_read_at_once() {
    let much = |bytes| Step::Give(Bytes::from(vec![b'x'; bytes]));
    // One that is still coming, one of which the last byte is here already; and by either way.
    for (sent, steps) in [(GET, vec![much(4_000_000); 100]), (GET, vec![much(4_000_000)]), (CHUNKED, vec![much(4_000_000); 100])]
    {
        let mut case = case(&steps, 1 << 10);
        let begun = Instant::now();
        case.send(sent).await;
        while !case.serving.is_finished() {
            tokio::time::sleep(WRITE_STALL / 2).await;
            let _ = case.client.read(&mut [0; 100]).await;
            assert!(begun.elapsed() < TIME * 2, "{sent}");
        }
        let minutes = begun.elapsed().as_secs() / 60;
        assert_eq!((case.serving.await.unwrap(), minutes, case.alive.load(Relaxed)), (Outcome::Fine, 60, 0), "{sent}");
    }
}
