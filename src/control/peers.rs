//! Carries the messages of [`crate::peers`] by UDP.
//!
//! A datagram is a message: nobody waits for it, nothing is kept for whoever is away, and what is lost is said again in 20 ms. Over HTTP
//! each of them would cost a request and its answer, and one replica that stalls would hold the sender's connections. As measured by
//! `benches/exchange.py` (four replicas, eight backends, a busy core), a message costs 74 us of processor by UDP, sent and received, sealed
//! and with all that is in it; a small request by HTTP costs 43 us to receive and answer, its sending not counted.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::Status;
use crate::clock::Clock;
use crate::config::PeersPlan;
use crate::peers::{Exchange, MOST_BYTES, MOST_PEERS, PeerSeen, Refused, Seal};
use crate::state::State;
use crate::telemetry::metrics::Metrics;

/// How often names are looked up again: a replica that is new is spoken to within this time.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
/// Addresses that are spoken to: those that can be heard, and one's own.
const MOST_ADDRESSES: usize = MOST_PEERS + 1;
/// Datagrams that are read between two messages of one's own, so that a flood of them is the kernel's to drop and does not keep this
/// thread from its other work. Each replica sends one, and now and then seventeen.
const MOST_READ: u32 = 64 * MOST_PEERS as u32;
/// A replica with another secret is spoken of so often.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// What `/status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeersStatus {
    /// The random number of this process among them.
    pub run: String,
    /// Replicas that should be there beside this one.
    pub expected: usize,
    /// Those that are heard.
    pub heard: usize,
    /// Each.
    pub replicas: Vec<PeerStatus>,
}

/// Another replica.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The random number of its process.
    pub run: String,
    /// How long ago it was last heard; null when it does not hear this one.
    pub heard_ms_ago: Option<u64>,
    /// How long words take to it and back; null while that is not known. From 0.7 s on it does not count, until it is 0.4 s.
    pub way_ms: Option<u64>,
    /// Requests that it has in flight.
    pub in_flight: u32,
    /// Whether its `peers.site` is that of this one, so that they share what they learn of first tokens; null while it has not said.
    pub same_site: Option<bool>,
}

/// The socket and what goes through it.
pub struct Link {
    /// As configured.
    pub plan: PeersPlan,
    /// Bound, and not blocking.
    pub socket: StdSocket,
    /// What backends are shared.
    pub state: Arc<State>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What people read.
    pub status: Arc<Status>,
}

/// Speaks and listens until `stop`, and takes leave. A socket that cannot be used is reported, and then it runs alone.
pub async fn run(link: Link, stop: CancellationToken) {
    let Link { plan, socket, state, clock, metrics, status } = link;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "other replicas cannot be spoken to"),
    };
    let (sender, others) = watch::channel(Vec::new());
    let looking = look_up(plan.others.clone(), sender);
    let exchange = Exchange::new(fastrand::Rng::new().u64(1..), &state.load()).at(&plan.site);
    let speaker = Speaker {
        seal: Seal::new(&plan.secret),
        socket,
        others,
        exchange,
        state,
        clock,
        metrics,
        status,
        own: None,
        heard: 0,
        warned: None,
    };
    tokio::select! {
        () = looking => {}
        () = speaker.speak(&plan, stop) => {}
    }
}

/// Keeps the list of addresses. Where a name has none, or nobody can say, the ones before stay.
async fn look_up(names: Vec<(Arc<str>, u16)>, found: watch::Sender<Vec<SocketAddr>>) {
    let mut too_many = 0;
    loop {
        let (mut addresses, mut complete) = (Vec::new(), true);
        for (host, port) in &names {
            match lookup_host((&**host, *port)).await {
                Ok(of_name) => addresses.extend(of_name),
                Err(error) => {
                    complete = false;
                    tracing::debug!(%host, %error, "a replica's name is not known");
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let left_out = addresses.len().saturating_sub(MOST_ADDRESSES);
        if left_out != std::mem::replace(&mut too_many, left_out) && left_out > 0 {
            tracing::error!(
                found = addresses.len(),
                left_out,
                "`peers.others` has more than {MOST_ADDRESSES} addresses: those left out are not spoken to, so that limits do not hold for \
                 all replicas together; run {MOST_ADDRESSES} of them at most, or put them into groups with a secret and a share of the \
                 limits each"
            );
        }
        addresses.truncate(MOST_ADDRESSES);
        if complete || !addresses.is_empty() {
            found.send_replace(addresses);
        }
        sleep(LOOK_UP_EVERY).await;
    }
}

struct Speaker {
    seal: Seal,
    socket: UdpSocket,
    others: watch::Receiver<Vec<SocketAddr>>,
    exchange: Exchange,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    /// This process's own address among the others, once a message of its own came back.
    own: Option<SocketAddr>,
    heard: usize,
    warned: Option<Instant>,
}

impl Speaker {
    async fn speak(mut self, plan: &PeersPlan, stop: CancellationToken) {
        let (mut fast, mut slow) = (every(self.clock.timer(plan.fast)), every(self.clock.timer(plan.slow)));
        let (mut left, mut buffer) = (MOST_READ, [0; MOST_BYTES + 1]);
        loop {
            tokio::select! {
                // The end first, and what is to be said before what is to be heard.
                biased;
                () = stop.cancelled() => break,
                _ = fast.tick() => {
                    left = MOST_READ;
                    let snapshot = self.state.load();
                    self.exchange.look(&snapshot, self.clock.monotonic(), self.expected());
                    let messages = self.exchange.loads(&snapshot);
                    self.send(messages);
                    self.tell();
                }
                _ = slow.tick() => {
                    self.exchange.it_is(self.clock.monotonic());
                    let messages = self.exchange.lessons(&self.state.load());
                    self.send(messages);
                }
                received = self.socket.recv_from(&mut buffer), if left > 0 => {
                    left -= 1;
                    if let Ok((length, from)) = received {
                        self.take(buffer.get(..length).unwrap_or_default(), from);
                    }
                }
            }
        }
        let messages = self.exchange.farewell();
        self.send(messages);
    }

    fn send(&self, messages: Vec<Vec<u8>>) {
        let others = self.others.borrow();
        for mut message in messages {
            self.seal.close(&mut message);
            for other in others.iter() {
                // A full buffer is a lost message like any other.
                match self.socket.try_send_to(&message, *other) {
                    Ok(_) => self.metrics.peers.sent.add_one(),
                    Err(_) => self.metrics.peers.unsent.add_one(),
                }
            }
        }
    }

    fn take(&mut self, sealed: &[u8], from: SocketAddr) {
        let taken = match self.seal.open(sealed) {
            None => Err(Refused::Forged),
            Some(message) => self.exchange.take(message, &self.state.load(), self.clock.monotonic()),
        };
        match taken {
            Ok(()) => self.metrics.peers.taken.add_one(),
            Err(why) => {
                self.metrics.peers.refuse(why);
                match why {
                    Refused::Own => self.own = Some(from),
                    Refused::Forged | Refused::Version | Refused::Crowded => self.warn(why, from),
                    Refused::Malformed | Refused::Repeated | Refused::Unmet => {}
                }
            }
        }
    }

    fn warn(&mut self, why: Refused, from: SocketAddr) {
        let now = Instant::now();
        if self.warned.is_none_or(|before| now.duration_since(before) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%from, why = why.as_str(), "a message to this replica is refused; others may be, too");
        }
    }

    /// How many others there should be.
    fn expected(&self) -> usize {
        self.others.borrow().iter().filter(|other| Some(**other) != self.own).count()
    }

    /// Makes known who is heard.
    fn tell(&mut self) {
        let (heard, expected) = (self.exchange.heard(), self.expected());
        if heard != self.heard {
            tracing::info!(heard, expected, "other replicas are heard");
            self.heard = heard;
        }
        self.metrics.peers.heard.set(i64::try_from(heard).unwrap_or(i64::MAX));
        let one = |seen: &PeerSeen| PeerStatus {
            run: format!("{:016x}", seen.run),
            heard_ms_ago: seen.heard.map(|span| span.as_millis() as u64),
            way_ms: seen.way.map(|span| span.as_millis() as u64),
            in_flight: seen.in_flight,
            same_site: seen.same_site,
        };
        let replicas = self.exchange.seen(self.clock.monotonic()).iter().map(one).collect();
        self.status.set_peers(PeersStatus { run: format!("{:016x}", self.exchange.run()), expected, heard, replicas });
    }
}

/// From now on; what was missed is not made up for.
fn every(span: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now(), span);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
