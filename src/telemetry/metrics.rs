//! Every metric's name, unit and labels in one table, and the counters that the request path adds to.
//!
//! The counters are relaxed atomics of our own, read only at a scrape: the metric types of the Prometheus client take a lock for
//! each label set and each histogram, which is a lock for each request. What other parts count anyway (a backend's requests, the
//! lines of the log, the grid) is not counted twice but read where it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;

use super::exposition;
use super::log::AccessLog;
use crate::peers::Refused;
use crate::state::Snapshot;
use crate::units::{Grams, GramsSaved};

/// Nanograms in a gram: whole ones are added up, so that a sum is one atomic addition. 64 bits of them hold 9,000 tonnes.
const NANOGRAMS: f64 = 1e9;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `change`, which may be negative.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// Puts it to `value`.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// How many.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A sum of grams, or of their differences.
#[derive(Debug, Default)]
pub struct GramsSum(AtomicI64);

impl GramsSum {
    fn add(&self, grams: f64) {
        // A cast saturates, so a sum beyond belief is wrong rather than fatal.
        self.0.fetch_add((grams * NANOGRAMS) as i64, Relaxed);
    }

    /// The sum in gCO2e.
    pub fn get(&self) -> f64 {
        self.0.load(Relaxed) as f64 / NANOGRAMS
    }
}

/// Buckets of a histogram but for the last, which has no upper bound: each is twice as wide as the one before.
const BUCKETS: usize = 14;

/// Times in buckets whose bounds double from `first_us` microseconds on.
#[derive(Debug)]
pub struct Histogram {
    first_us: u64,
    buckets: [AtomicU64; BUCKETS + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    const fn from_us(first_us: u64) -> Self {
        Self { first_us, buckets: [const { AtomicU64::new(0) }; BUCKETS + 1], sum_us: AtomicU64::new(0) }
    }

    /// Counts one time.
    pub fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let index = (0..BUCKETS).position(|bucket| us <= self.first_us << bucket).unwrap_or(BUCKETS);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Each bucket's upper bound in seconds and its own count, and the sum in seconds.
    pub(super) fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let bound = |bucket: usize| if bucket < BUCKETS { (self.first_us << bucket) as f64 / 1e6 } else { f64::INFINITY };
        let buckets = self.buckets.iter().enumerate().map(|(index, count)| (bound(index), count.load(Relaxed))).collect();
        (buckets, self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

/// What the proxy counts itself. Shared by all threads; every method is a few relaxed atomic operations.
#[derive(Debug)]
pub struct Metrics {
    by_status_class: [Counter; 5],
    emitted: GramsSum,
    waste: GramsSum,
    saved: GramsSum,
    first_token: Histogram,
    overhead: Histogram,
    /// Exchanges begun and not ended.
    pub in_flight: Gauge,
    /// Requests refused because there were too many.
    pub shed: Counter,
    /// Requests without a key where one is needed ..
    pub keys_missing: Counter,
    /// .. with one that is none of the gateway's ..
    pub keys_wrong: Counter,
    /// .. and with one that does not open the route.
    pub keys_elsewhere: Counter,
    /// Attempts after a request's first.
    pub retries: Counter,
    /// Attempts that were not made because the budget for them was spent.
    pub retries_withheld: Counter,
    /// Requests of which a second backend was asked before the first had answered.
    pub hedges: Counter,
    /// Of these, those that the second one answered.
    pub hedges_won: Counter,
    /// Hedges that were not made because the share of them was spent.
    pub hedges_withheld: Counter,
    /// Connections open.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections closed at once because there were too many.
    pub refused_connections: Counter,
    /// Attempts to accept a connection that failed, mostly for want of file descriptors.
    pub accept_errors: Counter,
    /// TLS handshakes that failed or took too long.
    pub handshake_errors: Counter,
    /// Connections that ended with a head that was no head, or that took too long.
    pub bad_heads: Counter,
    /// HTTP/2 connections that were closed for too many frames without progress.
    pub floods: Counter,
    /// Reloads that were published.
    pub reloads_ok: Counter,
    /// Reloads that were refused; the plan before stays.
    pub reloads_failed: Counter,
    /// 1 while the file is as the plan in force, 0 while it is refused.
    pub config_good: Gauge,
    /// When a plan was last published, in seconds since 1970.
    pub last_reload: Gauge,
    /// Messages to and from other replicas.
    pub peers: PeerMetrics,
    /// Times that what was learned was written to its file ..
    pub state_written: Counter,
    /// .. and that it could not be.
    pub state_failed: Counter,
    /// Times that prices could not be found and the ones before stayed.
    pub prices_kept: Counter,
    /// Answers of carbon sources that were taken.
    pub carbon_ok: Counter,
    /// Questions to carbon sources that failed.
    pub carbon_failed: Counter,
}

/// Messages to and from other replicas.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    /// Replicas that are heard.
    pub heard: Gauge,
    /// Messages sent, once for each replica.
    pub sent: Counter,
    /// Messages that could not be sent.
    pub unsent: Counter,
    /// Messages taken in.
    pub taken: Counter,
    /// Messages refused, in the order of [`Refused`].
    refused: [Counter; 7],
}

impl PeerMetrics {
    /// A message was refused.
    pub fn refuse(&self, why: Refused) {
        if let Some(counter) = self.refused.get(why as usize) {
            counter.add_one();
        }
    }

    /// All by what became of them.
    pub fn messages(&self) -> Vec<(&'static str, u64)> {
        let refused = Refused::ALL.iter().zip(&self.refused).map(|(why, counter)| (why.as_str(), counter.get()));
        let ours = [("sent", &self.sent), ("unsent", &self.unsent), ("taken", &self.taken)];
        ours.into_iter().map(|(name, counter)| (name, counter.get())).chain(refused).collect()
    }
}

impl Default for Metrics {
    /// All zero. First tokens are sorted from 10 ms to 82 s, overhead from 10 us to 82 ms.
    fn default() -> Self {
        Self {
            by_status_class: Default::default(),
            emitted: GramsSum::default(),
            waste: GramsSum::default(),
            saved: GramsSum::default(),
            first_token: Histogram::from_us(10_000),
            overhead: Histogram::from_us(10),
            in_flight: Gauge::default(),
            shed: Counter::default(),
            keys_missing: Counter::default(),
            keys_wrong: Counter::default(),
            keys_elsewhere: Counter::default(),
            retries: Counter::default(),
            retries_withheld: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            hedges_withheld: Counter::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused_connections: Counter::default(),
            accept_errors: Counter::default(),
            handshake_errors: Counter::default(),
            bad_heads: Counter::default(),
            floods: Counter::default(),
            reloads_ok: Counter::default(),
            reloads_failed: Counter::default(),
            config_good: Gauge(AtomicI64::new(1)),
            last_reload: Gauge::default(),
            peers: PeerMetrics::default(),
            state_written: Counter::default(),
            state_failed: Counter::default(),
            prices_kept: Counter::default(),
            carbon_ok: Counter::default(),
            carbon_failed: Counter::default(),
        }
    }
}

impl Metrics {
    /// An exchange was answered with that status.
    pub fn answered(&self, status: StatusCode) {
        if let Some(class) = self.by_status_class.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.add_one();
        }
    }

    /// An exchange that emitted so much, of which `waste` on work that nobody got, and saved so much.
    pub fn emitted(&self, grams: Grams, waste: Grams, saved: GramsSaved) {
        self.emitted.add(grams.get());
        self.waste.add(waste.get());
        self.saved.add(saved.get());
    }

    /// A response's first token came so long after its request.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after);
    }

    /// The proxy itself took so long between the request's head and sending it on.
    pub fn overhead(&self, time: Duration) {
        self.overhead.observe(time);
    }

    /// The exposition for Prometheus (OpenMetrics text) of these counters, the snapshot in force and the log.
    pub fn render(self: &std::sync::Arc<Self>, snapshot: &std::sync::Arc<Snapshot>, log: &AccessLog, now: Timestamp) -> String {
        exposition::render(exposition::Scrape {
            metrics: std::sync::Arc::clone(self),
            snapshot: std::sync::Arc::clone(snapshot),
            log: log.clone(),
            now,
        })
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.by_status_class.iter().map(Counter::get))
    }

    pub(super) fn sums(&self) -> (f64, f64, f64) {
        (self.emitted.get(), self.waste.get(), self.saved.get())
    }

    pub(super) fn histograms(&self) -> (&Histogram, &Histogram) {
        (&self.first_token, &self.overhead)
    }
}
