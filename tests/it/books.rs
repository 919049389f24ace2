//! When the books of an exchange are closed, in a proxy that somebody embeds: at once, or when its thread says that it rests.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use windward::clock::{Clock, SystemClock};
use windward::config::{Env, LogTarget};
use windward::proxy::{self, KeepsBooks, Parts, Proxy};
use windward::state::{Snapshot, State};
use windward::telemetry::log::{AccessLog, Identity, LogWriter};
use windward::telemetry::metrics::Metrics;
use windward::upstream::{Names, Upstreams, system_roots, tcp};

use super::bad_input::Nothing;
use super::support::Peer;
use super::support::peer::{Then, begin_events, chunk, end_chunks};

/// Answers that a thread keeps at most.
const MOST: usize = 32;

struct Embedded {
    proxy: Proxy,
    log: AccessLog,
    metrics: Arc<Metrics>,
    folder: tempfile::TempDir,
    writer: LogWriter,
}

fn embedded(peer: &Peer) -> Embedded {
    let text = format!(
        "backends:\n- {{ name: a, url: 'http://{}/v1', region: aws/eu-north-1, models: [m] }}\nroutes: [{{ name: r, backends: [a] }}]\n",
        peer.address
    );
    let plan = windward::config::load("c", &text, &Env::default(), &Nothing).map_err(|errors| errors.to_string()).unwrap().plan;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let folder = tempfile::tempdir().unwrap();
    let (log, writer) = AccessLog::start(&LogTarget::File(folder.path().join("log")), Identity::new("embedded", 0)).unwrap();
    let (tasks, metrics) = (TaskTracker::new(), Arc::new(Metrics::default()));
    let proxy = Proxy::new(Parts {
        state: Arc::new(State::new(Snapshot::first(Arc::new(plan), clock.monotonic()))),
        upstreams: Upstreams::new(tcp(Names::of_this_system(), || Ok(())), system_roots, tasks.clone(), Arc::clone(&clock)),
        log: log.clone(),
        metrics: Arc::clone(&metrics),
        cut: CancellationToken::new(),
        run: 0,
        tasks,
        clock,
    });
    Embedded { proxy, log, metrics, folder, writer }
}

impl Embedded {
    /// Asks, and takes the answer to its end.
    async fn ask(&mut self, id: usize) {
        let answer = self.begin(id).await;
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "{}");
        assert_eq!(self.metrics.in_flight.get(), 0, "what others wait for is given back at once");
    }

    async fn begin(&mut self, id: usize) -> proxy::Body {
        let request = http::Request::post("/v1/chat/completions").header("host", "h").header("x-request-id", id.to_string());
        let request = request.body(Bytes::from_static(b"{\"model\":\"m\"}")).unwrap();
        self.proxy.call(request).await.unwrap().into_body()
    }

    /// The ids of the lines of its log, which is closed.
    fn ids(self) -> Vec<String> {
        assert!(self.writer.close(std::time::Duration::from_mins(1)));
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let id = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["client_request_id"].as_str().unwrap().to_owned()
        };
        log.lines().map(id).collect()
    }
}

#[test]
fn a_thread_that_does_not_say_when_it_rests_closes_them_at_once() {
    let peer = Peer::answering("200 OK", "{}");
    let mut embedded = embedded(&peer);
    run(async {
        for id in 1..=3 {
            embedded.ask(id).await;
            assert_eq!(embedded.log.numbered(), id as u64);
        }
        proxy::close_books();
        assert_eq!(embedded.log.numbered(), 3);
    });
}

#[test]
fn a_thread_that_does_keeps_them_until_then_in_their_order_and_never_more_than_so_many() {
    let peer = Peer::answering("200 OK", "{}");
    let mut embedded = embedded(&peer);
    let total = MOST + 3;
    run(async {
        let keeps = KeepsBooks::here();
        embedded.ask(1).await;
        embedded.ask(2).await;
        assert_eq!(embedded.log.numbered(), 0);
        proxy::close_books();
        assert_eq!(embedded.log.numbered(), 2);
        for id in 3..=total {
            embedded.ask(id).await;
            assert_eq!(embedded.log.numbered() as usize, if id < MOST + 2 { 2 } else { MOST + 2 });
        }
        // What did not end as it should waits for nobody.
        drop(embedded.begin(total + 1).await);
        assert_eq!(embedded.log.numbered() as usize, MOST + 3);
        drop(keeps);
        assert_eq!(embedded.log.numbered() as usize, total + 1);
    });
    let mut expected: Vec<_> = (1..=total).map(|id| id.to_string()).collect();
    expected.insert(total - 1, (total + 1).to_string());
    assert_eq!(embedded.ids(), expected);
}

#[test]
fn what_others_wait_for_is_given_back_also_where_the_end_of_an_answer_comes_by_itself() {
    let (told, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let peer = Peer::start(move |_, stream| {
        begin_events(stream);
        chunk(stream, b"data: [DONE]\n\n");
        wait.lock().unwrap().recv().unwrap();
        end_chunks(stream);
        Then::Next
    });
    let mut embedded = embedded(&peer);
    run(async {
        let _keeps = KeepsBooks::here();
        let mut answer = embedded.begin(1).await;
        assert!(answer.frame().await.unwrap().unwrap().is_data());
        assert_eq!(embedded.metrics.in_flight.get(), 1);
        told.send(()).unwrap();
        assert!(answer.frame().await.is_none());
        drop(answer);
        assert_eq!((embedded.metrics.in_flight.get(), embedded.log.numbered()), (0, 0));
    });
}

fn run(task: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task);
}
