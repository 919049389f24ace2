use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::{Reporter, SourceStatus, Sources};
use super::*;
use crate::clock::SimulatedClock;
use crate::config::SourcePlan;
use crate::control::{Control, Message};
use crate::state::{Snapshot, State};
use crate::telemetry::metrics::Metrics;
use crate::testing::plan;

fn service(url: &str) -> Service {
    Service::new(url, &Secret::new("s3cr3t"), Basis::Lifecycle).unwrap()
}

#[test]
fn takes_a_base_url_apart() {
    let usual = service("https://api.electricitymaps.com/v4");
    assert_eq!(usual.place, Place { tls: true, host: "api.electricitymaps.com".to_owned(), port: 443 });
    assert_eq!((usual.prefix.as_str(), usual.version), ("", Version::V4));
    let own = service("http://[::1]:8080/em/v3/");
    assert_eq!(own.place, Place { tls: false, host: "::1".to_owned(), port: 8080 });
    assert_eq!((own.prefix.as_str(), own.version), ("/em", Version::V3));
    assert!(Service::new("ftp://x", &Secret::new("t"), Basis::Lifecycle).is_err());
    let error = Service::new("http://x", &Secret::new("s3cr3t\n"), Basis::Lifecycle).unwrap_err().to_string();
    assert!(!error.contains("s3cr3t"));
}

#[test]
fn asks_less_where_asking_cannot_help() {
    let minute = Duration::from_mins(1);
    let error = |kind| SourceError::new(kind, "");
    assert_eq!(pause(&error(SourceErrorKind::Credential), minute), minute * PATIENCE);
    assert_eq!(pause(&error(SourceErrorKind::Unreachable), minute), Duration::ZERO);
    let asked = error(SourceErrorKind::TooManyRequests).with_retry_after(Some(minute * 3));
    assert_eq!(pause(&asked, minute), minute * 3);
}

/// Answers each connection with the next of `answers` and gives the heads that came.
async fn stand_in(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v4", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    (url, task)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}", body.len())
}

async fn ask(answers: Vec<String>) -> (Vec<Message>, Vec<SourceStatus>, Vec<String>) {
    let count = answers.len();
    let (base_url, heads) = stand_in(answers).await;
    let mut plan = plan();
    let interval = Duration::from_millis(1);
    plan.carbon.sources =
        vec![SourcePlan::ElectricityMaps { base_url: Arc::from(base_url), token: Secret::new("s3cr3t"), interval }];
    let clock = Arc::new(SimulatedClock::new("2026-03-02T10:30:00Z".parse::<Timestamp>().unwrap()));
    let now = Clock::monotonic(&*clock);
    let state = Arc::new(State::new(Snapshot::first(Arc::new(plan.clone()), now)));
    let metrics = Arc::new(Metrics::default());
    let (control, handle) = Control::new(state, None, Arc::<SimulatedClock>::clone(&clock), Arc::clone(&metrics));
    let first = control.start_sources();
    drop(first);
    let (messages, mut received) = tokio::sync::mpsc::channel(16);
    let reporter = Reporter { messages, status: Arc::clone(handle.status()), metrics: Arc::clone(&metrics), clock };
    let sources = Sources::start(&plan, 1, &reporter);
    let heads = heads.await.unwrap();
    while metrics.carbon_ok.get() + metrics.carbon_failed.get() < count as u64 {
        tokio::task::yield_now().await;
    }
    drop((sources, reporter, control));
    received.close();
    let mut all = Vec::new();
    while let Some(message) = received.recv().await {
        all.push(message);
    }
    (all, handle.status().sources(), heads)
}

#[test]
fn a_reading_is_sent_and_an_error_is_only_noted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = r#"{"zone":"SE-SE1","carbonIntensity":23,"datetime":"2026-03-02T10:00:00Z"}"#;
    let answers = vec![
        answer("200 OK", body),
        answer("302 Found", ""),
        answer("500 Oops", "s3cr3t"),
        "HTTP/1.1 200 OK\r\n\r\n{".to_owned(),
    ];
    let (messages, status, heads) = runtime.block_on(ask(answers));
    assert_eq!(messages.len(), 1);
    let Message::Readings { source: 0, readings, .. } = &messages[0] else { panic!("{messages:?}") };
    assert_eq!(readings[0].1.intensity, crate::units::GramsPerKwh::saturating(23.0));
    let error = status[0].last_error.as_deref().unwrap();
    assert!(error.contains("SE-SE1") && !error.contains("s3cr3t"), "{error}");
    for head in heads {
        assert!(head.starts_with("GET /v4/carbon-intensity/latest?zone=SE-SE1&"), "{head}");
        assert!(head.contains("auth-token: s3cr3t\r\n"), "{head}");
    }
}

#[test]
fn a_few_zones_are_asked_at_once_and_no_more() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v4", listener.local_addr().unwrap());
        let zones: Vec<GridZone> = (0..11).map(|n| GridZone::new(&format!("Z-{n}"))).collect();
        let (messages, mut received) = tokio::sync::mpsc::channel(16);
        let clock = Arc::new(SimulatedClock::new("2026-03-02T10:30:00Z".parse::<Timestamp>().unwrap()));
        let state = Arc::new(State::new(Snapshot::first(Arc::new(plan()), Clock::monotonic(&*clock))));
        let metrics = Arc::new(Metrics::default());
        let (_control, handle) = Control::new(state, None, Arc::<SimulatedClock>::clone(&clock), Arc::clone(&metrics));
        let reporter = Reporter { messages, status: Arc::clone(handle.status()), metrics, clock };
        let line = Line { reporter, epoch: 1, source: 0, jitter: fastrand::Rng::new() };
        let asking = run(service(&base_url), zones.clone(), Duration::from_hours(1), line);
        let serving = async {
            let (mut open, mut most) = (Vec::new(), 0);
            for left in (0..zones.len()).rev() {
                open.push(listener.accept().await.unwrap().0);
                most = most.max(open.len());
                // Nobody is answered before as many have come as may, and then one for each that comes.
                while open.len() == AT_ONCE || (left == 0 && !open.is_empty()) {
                    // Whoever else is on the way gets here first.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    let more = std::future::poll_fn(|cx| std::task::Poll::Ready(listener.poll_accept(cx).is_ready())).await;
                    assert!(!more, "one more than {AT_ONCE}");
                    answer_one(&mut open).await;
                }
            }
            most
        };
        let receiving = async {
            let mut zones = Vec::new();
            while zones.len() < 11 {
                let Some(Message::Readings { readings, .. }) = received.recv().await else { panic!("it ended") };
                zones.extend(readings.into_iter().map(|(zone, _)| zone));
            }
            zones
        };
        let both = async { tokio::join!(serving, receiving) };
        let (most, mut answered) = tokio::select! {
            () = asking => panic!("it goes on for ever"),
            both = both => both,
        };
        answered.sort_unstable();
        let mut expected = zones;
        expected.sort_unstable();
        assert_eq!((most, answered), (AT_ONCE, expected));
    });
}

async fn answer_one(open: &mut Vec<tokio::net::TcpStream>) {
    let mut socket = open.remove(0);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let zone = head.split("zone=").nth(1).unwrap().split(['&', ' ']).next().unwrap();
    let body = format!(r#"{{"zone":"{zone}","carbonIntensity":23,"datetime":"2026-03-02T10:00:00Z"}}"#);
    socket.write_all(answer("200 OK", &body).as_bytes()).await.unwrap();
}
