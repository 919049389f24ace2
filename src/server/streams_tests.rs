//! A stream whose client takes nothing, and its neighbours on the same connection. Time passes only when nobody has anything to do.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::proxy::{Limited, RequestBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::io::DuplexStream;

use super::*;
use crate::config::Limits;
use crate::server::connection::{Outcome, Setting, run};
use crate::server::detect::{Prefix, Version};
use crate::server::guard::Held;
use crate::server::listener::Place;
use crate::server::tracked::Connections;
use crate::telemetry::metrics::Metrics;

/// The windows that a client begins with.
const WINDOW: usize = 65_535;

/// A body that gives a chunk whenever it is asked, `pause` apart; it counts itself while it lives.
struct Endless {
    pause: Duration,
    until: Option<Instant>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    alive: Arc<AtomicUsize>,
}

impl Endless {
    fn new(pause: Duration, until: Option<Instant>, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Relaxed);
        Self { pause, until, sleep: None, alive: Arc::clone(alive) }
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.pause.is_zero() {
            let pause = self.pause;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1000])))))
    }
}

impl Limited for Endless {
    fn until(&self) -> Option<std::time::Instant> {
        self.until.map(Instant::into_std)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

fn setting() -> Setting {
    let metrics = Arc::new(Metrics::default());
    let held = Held {
        entry: Arc::new(Connections::default()).enter(),
        _place: Place::take(&Arc::default(), 1, &metrics).unwrap(),
        _tracked: tokio_util::task::TaskTracker::new().token(),
    };
    Setting { limits: Limits::default(), metrics, tls: None, held }
}

/// A client of a connection whose every answer is endless, `/slow` with a chunk each 40 seconds.
async fn client(alive: &Arc<AtomicUsize>) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Outcome>) {
    client_with(alive, WINDOW as u32, None).await
}

/// One whose streams begin with such a window, and whose answers have so much time.
async fn client_with(
    alive: &Arc<AtomicUsize>,
    first_window: u32,
    time: Option<Duration>,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Outcome>) {
    let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 20);
    let alive = Arc::clone(alive);
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let pause = if request.uri().path() == "/slow" { Duration::from_secs(40) } else { Duration::ZERO };
        std::future::ready(Ok::<_, Infallible>(Response::new(Endless::new(
            pause,
            time.map(|time| Instant::now() + time),
            &alive,
        ))))
    });
    let serving = tokio::spawn(run(Version::Http2, far, Prefix::default(), service, setting(), Instant::now()));
    let (send, connection) = h2::client::Builder::new().initial_window_size(first_window).handshake(near).await.unwrap();
    tokio::spawn(connection);
    (send, serving)
}

async fn ask(client: &mut h2::client::SendRequest<Bytes>, path: &str) -> h2::RecvStream {
    let request = Request::get(format!("http://h{path}")).body(()).unwrap();
    client.clone().ready().await.unwrap();
    client.send_request(request, true).unwrap().0.await.unwrap().into_body()
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_takes_nothing_is_reset_after_a_minute() {
    let alive = Arc::default();
    let (mut client, _serving) = client(&alive).await;
    let mut body = ask(&mut client, "/").await;
    let begun = Instant::now();
    let mut taken = 0;
    let reading = async {
        loop {
            match body.data().await.unwrap() {
                // Read, and never given back as window.
                Ok(data) => taken += data.len(),
                Err(error) => break error.reason(),
            }
        }
    };
    let reason = tokio::time::timeout(WRITE_STALL * 2, reading).await.expect("it is reset");
    assert_eq!((taken, reason), (WINDOW, Some(h2::Reason::CANCEL)));
    assert_eq!(begun.elapsed().as_secs(), WRITE_STALL.as_secs());
    assert_eq!(alive.load(Relaxed), 0, "its backend is let go");
    assert!(client.ready().await.is_ok(), "the connection goes on");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_something_now_and_then_keeps_its_stream() {
    let alive = Arc::default();
    let (mut client, _serving) = client(&alive).await;
    let mut body = ask(&mut client, "/").await;
    for _ in 0..5 {
        tokio::time::sleep(WRITE_STALL * 9 / 10).await;
        let mut window = 0;
        while window < WINDOW {
            let read = body.data().await.unwrap().unwrap().len();
            window += read;
        }
        body.flow_control().release_capacity(window).unwrap();
    }
    assert_eq!(alive.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_waited_for_is_not_the_clients_fault() {
    let alive = Arc::default();
    let (mut client, _serving) = client(&alive).await;
    let mut body = ask(&mut client, "/slow").await;
    // Its chunks come 40 seconds apart, and of the stall of an earlier one nothing is left.
    for _ in 0..60 {
        assert_eq!(body.data().await.unwrap().unwrap().len(), 1000);
    }
    assert_eq!(alive.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_the_time_of_its_exchange_however_its_client_reads() {
    // Not even a first byte; and a little again and again.
    for (first_window, trickles, minutes) in [(0, false, 1), (1000, true, 3)] {
        let alive = Arc::default();
        let (mut client, _serving) = client_with(&alive, first_window, Some(WRITE_STALL * 3)).await;
        let mut body = ask(&mut client, "/").await;
        let begun = Instant::now();
        let reason = loop {
            assert!(begun.elapsed() < WRITE_STALL * 4);
            let next = tokio::time::timeout(WRITE_STALL / 2, body.data()).await;
            match next {
                Ok(data) => match data.unwrap() {
                    Ok(_) => {}
                    Err(error) => break error.reason(),
                },
                Err(_) if trickles => body.flow_control().release_capacity(1000).unwrap(),
                Err(_) => {}
            }
        };
        assert_eq!((reason, begun.elapsed().as_secs()), (Some(h2::Reason::CANCEL), minutes * 60));
        assert_eq!(alive.load(Relaxed), 0, "its backend is let go");
    }
}
