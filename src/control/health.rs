//! Asks backends beside their traffic whether they work, where the configuration wants it.
//!
//! One task for all of them. It reads the snapshot anew each time, so that a reload needs no word to it, and what it finds goes where
//! the outcome of a request goes: into what is known live of the backend. No request waits for it, and none of its questions is in
//! the access log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backend::{Backend, Credential, HealthCheck};
use crate::clock::Clock;
use crate::config::Plan;
use crate::state::{Snapshot, State, set_signature};
use crate::upstream::{SendBody, SendErrorKind, Upstreams};
use crate::wire::sigv4::{PayloadHash, Subject};

/// Checks at one moment: enough for a thousand backends that are asked every ten seconds and all time out, and few descriptors.
const AT_ONCE: usize = 256;
/// A reload that brings new checks is seen within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Checks for as long as it is polled.
pub async fn run(state: Arc<State>, upstreams: Upstreams, clock: Arc<dyn Clock>) {
    let mut schedule = Schedule::new(fastrand::Rng::new());
    let mut running: JoinSet<Arc<str>> = JoinSet::new();
    loop {
        let snapshot = state.load();
        let now = Instant::now();
        for backend in schedule.take_due(&snapshot.plan, now, AT_ONCE.saturating_sub(running.len())) {
            running.spawn(check(Arc::clone(&snapshot), backend, upstreams.clone(), Arc::clone(&clock)));
        }
        tokio::select! {
            () = sleep_until(schedule.next(now)) => {}
            Some(done) = running.join_next() => match done {
                Ok(name) => schedule.ended(&name),
                // It has been reported. Whose it was nobody knows, and to ask one twice is better than never again.
                Err(_) => schedule.all_ended(),
            },
        }
    }
}

/// Who is to be asked when.
struct Schedule {
    random: fastrand::Rng,
    due: HashMap<Arc<str>, Instant>,
    running: HashSet<Arc<str>>,
}

impl Schedule {
    fn new(random: fastrand::Rng) -> Self {
        Self { random, due: HashMap::new(), running: HashSet::new() }
    }

    /// The backends that are due, at most so many of them, and none that is being asked. Each is due again a while later.
    fn take_due(&mut self, plan: &Plan, now: Instant, most: usize) -> Vec<Arc<Backend>> {
        let checked = || plan.backends.iter().filter_map(|backend| Some((backend, backend.health.as_ref()?)));
        let names: HashSet<&str> = checked().map(|(backend, _)| &*backend.name).collect();
        self.due.retain(|name, _| names.contains(&**name));
        let mut taken = Vec::new();
        for (backend, health) in checked() {
            let random = &mut self.random;
            // The first one at any moment of its interval: proxies that start together do not ask together.
            let due = self.due.entry(Arc::clone(&backend.name)).or_insert_with(|| now + health.every.mul_f64(random.f64()));
            // An interval that was shortened counts from now.
            *due = (*due).min(now + longest(health));
            if *due <= now && taken.len() < most && !self.running.contains(&backend.name) {
                *due = now + health.every.mul_f64(0.9 + 0.2 * random.f64());
                self.running.insert(Arc::clone(&backend.name));
                taken.push(Arc::clone(backend));
            }
        }
        taken
    }

    /// When there may be something to do. What is overdue waits for a place, which ends the wait as well.
    fn next(&self, now: Instant) -> Instant {
        let next = self.due.values().filter(|due| **due > now).min().copied();
        next.unwrap_or(now + LOOK_EVERY).min(now + LOOK_EVERY)
    }

    fn ended(&mut self, name: &str) {
        self.running.remove(name);
    }

    fn all_ended(&mut self) {
        self.running.clear();
    }
}

/// The longest time from one check to the next.
fn longest(health: &HealthCheck) -> Duration {
    health.every.mul_f64(1.1)
}

/// Asks a backend and books what came of it; gives back its name.
async fn check(snapshot: Arc<Snapshot>, backend: Arc<Backend>, upstreams: Upstreams, clock: Arc<dyn Clock>) -> Arc<str> {
    let name = Arc::clone(&backend.name);
    let Some(health) = &backend.health else { return name };
    let question = question(&snapshot, &backend, health, clock.wall());
    let sent = timeout(health.timeout, upstreams.send(&backend, question)).await;
    let (live, now) = (snapshot.live(backend.id), clock.monotonic());
    let (_, _, failed_before) = live.checks();
    let why = match sent {
        Ok(Ok(response)) if response.head.status.is_success() => {
            if failed_before > 0 {
                tracing::info!(backend = &*name, "a health check passed again");
            }
            live.passed_check(now, health.passes);
            return name;
        }
        // It has no room, or this machine has not: neither says whether it works.
        Ok(Ok(response)) if response.head.status == StatusCode::TOO_MANY_REQUESTS => return name,
        Ok(Err(error)) if error.kind == SendErrorKind::Exhausted => return name,
        Ok(Ok(response)) => response.head.status.to_string(),
        Ok(Err(error)) => format!("{}: {}", error.kind.as_str(), error.source),
        Err(_) => "no answer in time".to_owned(),
    };
    if failed_before == 0 {
        tracing::warn!(backend = &*name, why, "a health check failed");
    }
    // Its answer may come as late as its timeout.
    let next = longest(health) + health.timeout;
    live.failed_check(now, health.failures, next, || snapshot.remedy(backend.id, now));
    name
}

/// The request of a check, with the backend's own credential. One that is the client's to pass through is not here to be sent.
fn question(snapshot: &Snapshot, backend: &Backend, health: &HealthCheck, now: Timestamp) -> Request<SendBody> {
    let mut request = Request::new(SendBody::empty());
    *request.uri_mut() = Uri::from(health.target.clone());
    let fields = request.headers_mut();
    fields.insert(HOST, backend.origin.authority.clone());
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("windward/", env!("CARGO_PKG_VERSION"))));
    if let Credential::Header(name, value) = &backend.credential {
        fields.insert(name, value.clone());
    }
    if let Some((name, value)) = snapshot.token(backend.id).and_then(|token| token.field(now)) {
        fields.insert(name, value);
    }
    if let Credential::SigV4(how) = &backend.credential {
        let (payload, target) = (PayloadHash::of([]), health.target.as_str());
        let host = backend.origin.authority.to_str().unwrap_or_default();
        let subject = Subject { method: "GET", target, host, content_type: None, payload: &payload };
        if let Ok(signed) = snapshot.sign(backend.id, how, &subject, now) {
            set_signature(signed, |name, value| drop(fields.insert(name, value)));
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plan;

    const EVERY: Duration = Duration::from_secs(10);

    fn checked(name: &str, plan: &mut Plan) {
        let target = http::uri::PathAndQuery::from_static("/health");
        let health = HealthCheck { target, every: EVERY, timeout: Duration::from_secs(1), failures: 3, passes: 2 };
        let backend = Backend { name: Arc::from(name), health: Some(health), ..(*plan.backends[0]).clone() };
        plan.backends.push(Arc::new(backend));
    }

    #[test]
    fn each_is_asked_once_in_its_interval_and_never_twice_at_once() {
        let (mut plan, mut schedule) = (plan(), Schedule::new(fastrand::Rng::with_seed(1)));
        checked("a", &mut plan);
        checked("b", &mut plan);
        let begun = Instant::now();
        let mut asked: HashMap<Arc<str>, Vec<u64>> = HashMap::new();
        for ms in (0..100_000).step_by(100) {
            for backend in schedule.take_due(&plan, begun + Duration::from_millis(ms), 9) {
                assert!(&*backend.name != "north", "it has no check");
                asked.entry(Arc::clone(&backend.name)).or_default().push(ms);
                schedule.ended(&backend.name);
            }
        }
        for times in asked.values() {
            assert!(times[0] <= 10_000 && (9..=11).contains(&times.len()), "{times:?}");
            assert!(times.windows(2).all(|pair| (9_000..=11_100).contains(&(pair[1] - pair[0]))), "{times:?}");
        }
        assert_eq!(asked.len(), 2);

        let late = begun + Duration::from_secs(200);
        assert_eq!(schedule.take_due(&plan, late, 1).len(), 1, "no more than there are places");
        assert_eq!(schedule.take_due(&plan, late, 9).len(), 1);
        assert_eq!(schedule.take_due(&plan, late + EVERY * 2, 9).len(), 0, "both are being asked");
        assert!(schedule.next(late) > late);
        plan.backends.truncate(1);
        assert!(schedule.take_due(&plan, late, 9).is_empty() && schedule.due.is_empty(), "who is gone is forgotten");
    }
}
