//! The demonstration's clients: a seeded series of requests, sent to one base URL over a few kept connections.
//!
//! What is asked and when is drawn by [`Arrivals`], which is pure; here are only the sockets. A load generator that waits for
//! answers before it asks again would go easy on a slow server, so requests leave on time, up to a bound on those under way; what
//! the bound holds back is counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::fleet::{Arrivals, Ask, TrafficShape};

/// Idle connections kept; more than are busy in a quiet moment would only be closed by the other side.
const MAX_IDLE: usize = 64;
/// No request of the demonstration is worth waiting longer for.
const LONGEST: Duration = Duration::from_mins(2);
/// Letters that make one token of a prompt, as the simulated regions count.
const LETTERS_PER_TOKEN: usize = 4;

/// Where and what to send.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The server.
    pub address: SocketAddr,
    /// The model asked for.
    pub model: String,
    /// What is sent as bearer, for show: nothing behind the demonstration checks it.
    pub key: Option<HeaderValue>,
    /// How much of what, and when.
    pub shape: TrafficShape,
    /// Requests under way at most.
    pub at_most: usize,
    /// How long the answers under way at the end are waited for.
    pub linger: Duration,
}

/// What one request looked like to its client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// What was asked.
    pub ask: Ask,
    /// The answer's status; `None` when there was no whole answer.
    pub status: Option<StatusCode>,
    /// From sending to the first byte of the body.
    pub first_token: Option<Duration>,
    /// From sending to the end.
    pub total: Duration,
}

/// What became of all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sent.
    pub sent: u64,
    /// Not sent because too many were under way.
    pub held_back: u64,
    /// Samples that the reader was too slow for.
    pub unread: u64,
}

impl Traffic {
    /// Sends until told to stop, then waits up to `linger` for what is under way and breaks off the rest. Samples go to `samples`,
    /// and are dropped when it is full.
    pub async fn run(self, seed: u64, clock: Arc<dyn Clock>, stop: CancellationToken, samples: mpsc::Sender<Sample>) -> Totals {
        let started = clock.monotonic();
        let permits = Arc::new(Semaphore::new(self.at_most));
        let client = Arc::new(Client::new(&self, clock));
        let mut totals = Totals::default();
        let mut under_way = JoinSet::new();
        for ask in Arrivals::new(self.shape, seed) {
            let due = started.checked_add(ask.at).unwrap_or(started);
            let waited = stop.run_until_cancelled(tokio::time::sleep_until(due.into())).await;
            while let Some(ended) = under_way.try_join_next() {
                totals.count(ended.ok());
            }
            if waited.is_none() {
                break;
            }
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                totals.held_back += 1;
                continue;
            };
            totals.sent += 1;
            let (client, samples) = (Arc::clone(&client), samples.clone());
            under_way.spawn(async move {
                let sample = client.send(ask).await;
                drop(permit);
                samples.try_send(sample).is_ok()
            });
        }
        let _ = tokio::time::timeout(self.linger, async {
            while let Some(ended) = under_way.join_next().await {
                totals.count(ended.ok());
            }
        })
        .await;
        under_way.abort_all();
        while let Some(ended) = under_way.join_next().await {
            totals.count(ended.ok());
        }
        totals
    }
}

impl Totals {
    /// Counts a request that ended; one that was broken off has no result.
    fn count(&mut self, read: Option<bool>) {
        if read == Some(false) {
            self.unread += 1;
        }
    }
}

/// One base URL and the connections to it.
struct Client {
    address: SocketAddr,
    host: String,
    model: String,
    key: Option<HeaderValue>,
    clock: Arc<dyn Clock>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    /// Drives every connection; dropping it ends them.
    connections: Mutex<JoinSet<()>>,
}

impl Client {
    fn new(traffic: &Traffic, clock: Arc<dyn Clock>) -> Self {
        Self {
            address: traffic.address,
            host: traffic.address.to_string(),
            model: traffic.model.clone(),
            key: traffic.key.clone(),
            clock,
            idle: Mutex::new(Vec::new()),
            connections: Mutex::new(JoinSet::new()),
        }
    }

    async fn send(&self, ask: Ask) -> Sample {
        let sent_at = self.clock.monotonic();
        let mut sample = Sample { ask, status: None, first_token: None, total: Duration::ZERO };
        let answer = tokio::time::timeout(LONGEST, self.exchange(&ask, sent_at, &mut sample.first_token)).await;
        sample.status = answer.ok().flatten();
        sample.total = self.clock.monotonic().saturating_duration_since(sent_at);
        sample
    }

    /// The status of an answer that came whole.
    async fn exchange(&self, ask: &Ask, sent_at: Instant, first_token: &mut Option<Duration>) -> Option<StatusCode> {
        let request = self.request(ask)?;
        let mut connection = self.connection().await?;
        let response = connection.send_request(request).await.ok()?;
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.ok()?;
            first_token.get_or_insert_with(|| self.clock.monotonic().saturating_duration_since(sent_at));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
        Some(status)
    }

    fn request(&self, ask: &Ask) -> Option<Request<Full<Bytes>>> {
        let prompt = "tell ".repeat((ask.prompt_tokens as usize * LETTERS_PER_TOKEN).div_ceil("tell ".len()));
        let body = json!({
            "model": self.model, "stream": ask.streamed, "max_tokens": ask.output_tokens,
            "messages": [{"role": "user", "content": prompt}],
        });
        let mut request = Request::post("/v1/chat/completions")
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header("x-mock-output-tokens", ask.output_tokens);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        request.body(Full::new(Bytes::from(body.to_string()))).ok()
    }

    /// An idle connection that is still good, or a new one.
    async fn connection(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = idle else { break };
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
        let stream = TcpStream::connect(self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                // What goes wrong with it shows in the request that uses it.
                let _ = connection.await;
            });
        }
        sender.ready().await.ok()?;
        Some(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::RuntimeClock;
    use crate::config::fleet::FleetPlan;
    use crate::fleet::{Positive, Share, Size, Spread};

    #[tokio::test(start_paused = true)]
    async fn a_minute_of_traffic_reaches_the_fleet_and_is_measured() {
        let plan = FleetPlan::parse("models: [m]\nregions:\n  - {region: here, rtt_ms: 10, replicas: 4}\n").unwrap();
        let fleet = crate::mock::start(&plan, Arc::new(RuntimeClock), 1).await.unwrap();
        let size = |median| Size { median: Positive::new(median).unwrap(), spread: Spread::new(0.5).unwrap(), most: 500 };
        let shape = TrafficShape {
            per_second: Positive::new(4.0).unwrap(),
            wave: Share::ZERO,
            day_length: Duration::from_mins(1),
            first_hour: 0.0,
            prompt: size(100.0),
            output: size(20.0),
            streamed: Share::new(0.5).unwrap(),
        };
        let traffic = Traffic {
            address: fleet.address("here").unwrap(),
            model: "m".to_owned(),
            key: None,
            shape,
            at_most: 100,
            linger: Duration::ZERO,
        };
        let (samples, mut seen) = mpsc::channel(1000);
        let stop = CancellationToken::new();
        let running = tokio::spawn(traffic.run(5, Arc::new(RuntimeClock), stop.clone(), samples));
        let mut all = Vec::new();
        while all.len() < 200 {
            all.push(seen.recv().await.unwrap());
        }
        stop.cancel();
        let totals = running.await.unwrap();
        assert!(totals.sent >= 200 && totals.held_back == 0 && totals.unread == 0, "{totals:?}");
        assert!(all.iter().all(|sample| sample.status == Some(StatusCode::OK)));
        assert!(all.iter().all(|sample| sample.first_token.is_some_and(|first| first <= sample.total)));
        assert!(all.iter().any(|sample| sample.ask.streamed && sample.first_token < Some(sample.total)));
        let rows = fleet.ledger();
        assert!(rows.iter().any(|row| row.output_tokens == all[0].ask.output_tokens));
        fleet.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_at_home_is_a_sample_without_a_status() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let size = Size { median: Positive::ONE, spread: Spread::default(), most: 1 };
        let shape = TrafficShape {
            per_second: Positive::ONE,
            wave: Share::ZERO,
            day_length: Duration::from_mins(1),
            first_hour: 0.0,
            prompt: size,
            output: size,
            streamed: Share::ZERO,
        };
        let traffic = Traffic { address: free, model: "m".to_owned(), key: None, shape, at_most: 1, linger: Duration::ZERO };
        let (samples, mut seen) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let running = tokio::spawn(traffic.run(5, Arc::new(RuntimeClock), stop.clone(), samples));
        let sample = seen.recv().await.unwrap();
        assert_eq!((sample.status, sample.first_token), (None, None));
        stop.cancel();
        running.await.unwrap();
    }
}
