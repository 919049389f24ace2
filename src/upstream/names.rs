//! The addresses of names, as the system's resolver has them.
//!
//! A lookup opens files and sockets and may take seconds, and under load hundreds of connections to one name are opened at once. So one
//! lookup at a time serves everybody who wants that name, its answer counts for a few seconds, and the last good one goes on counting
//! when no lookup succeeds: a resolver that is restarted, or a process without descriptors, should not take the backends along. The
//! resolver does not say for how long an answer holds, hence the short time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// For so long nobody looks up a name again: less than who moves a name to another address waits before the old one is switched off.
const FRESH: Duration = Duration::from_secs(5);
/// So long after a lookup that failed it is tried again while there are addresses from before.
const AGAIN: Duration = Duration::from_secs(1);
/// So long a lookup is waited for while there are addresses from before; it goes on alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// So long addresses are used after no lookup succeeds any more: a resolver is mended in that time, and an address is hardly given to
/// somebody else.
const KEPT: Duration = Duration::from_mins(10);
/// More names than a plan has hosts. Beyond it those go that would be looked up again in any case.
const MOST_NAMES: usize = 1024;

/// What came of a lookup. Shared, since many may wait for it.
type Answer = Result<Arc<[IpAddr]>, Arc<io::Error>>;
/// A lookup that is under way.
type Asked = watch::Receiver<Option<Answer>>;
type Lookup = dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync;

/// What is known of names. The lock is taken once for each connection that is opened, for the time of a look into a map.
#[derive(Clone)]
pub(super) struct Names(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    known: Mutex<HashMap<Arc<str>, Known>>,
}

struct Known {
    /// The last good answer, and when it came.
    good: Option<(Arc<[IpAddr]>, Instant)>,
    /// Not before then it is looked up again.
    again: Instant,
    /// The lookup that is under way.
    asked: Option<Asked>,
    /// How often the answer was used.
    used: usize,
}

impl Names {
    /// By the system's resolver.
    pub(super) fn of_this_system() -> Self {
        Self::by(|name| {
            Box::pin(async move {
                // The port is none of the resolver's business.
                let found = tokio::net::lookup_host((&*name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    fn by(
        lookup: impl Fn(Arc<str>) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared { lookup: Box::new(lookup), known: Mutex::default() }))
    }

    /// The addresses of a name in the resolver's order, but for those at its head that are of one kind: they take turns, as they do in
    /// the answers of a resolver that is asked each time.
    pub(super) async fn addresses(&self, name: &Arc<str>) -> io::Result<Vec<IpAddr>> {
        let (good, mut answer) = match self.known_or_asked(name) {
            Ok(fresh) => return Ok(fresh),
            Err(waiting) => waiting,
        };
        let patience = if good.is_some() { PATIENCE } else { Duration::MAX };
        // It is told nothing when the runtime that looked it up has ended.
        let heard =
            timeout(patience, answer.wait_for(Option::is_some)).await.ok().and_then(Result::ok).and_then(|heard| heard.clone());
        match (heard, good) {
            (Some(Ok(found)), _) => Ok(found.to_vec()),
            (_, Some(good)) => Ok(good),
            (Some(Err(error)), None) => Err(error
                .raw_os_error()
                .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)),
            (None, None) => Err(io::Error::other("the lookup was given up")),
        }
    }

    /// At none of its addresses anybody was reached: they may be others by now.
    pub(super) fn doubt(&self, name: &str) {
        if let Some(known) = self.lock().get_mut(name) {
            known.again = now();
        }
    }

    /// The addresses where they are fresh. Where not: the last ones, if they still count, and the lookup to wait for.
    fn known_or_asked(&self, name: &Arc<str>) -> Result<Vec<IpAddr>, (Option<Vec<IpAddr>>, Asked)> {
        let (mut names, now) = (self.lock(), now());
        if names.len() >= MOST_NAMES && !names.contains_key(name) {
            names.retain(|_, known| known.asked.is_some() || now < known.again);
        }
        let unknown = || Known { good: None, again: now, asked: None, used: 0 };
        let known = names.entry(Arc::clone(name)).or_insert_with(unknown);
        let good = known.good.as_ref().filter(|(_, since)| now.duration_since(*since) < KEPT);
        let good = good.map(|(addresses, _)| in_turn(addresses, known.used));
        known.used = known.used.wrapping_add(1);
        if let Some(good) = good.clone().filter(|_| now < known.again) {
            return Ok(good);
        }
        // Whose asker is gone is asked for again.
        let asked = known.asked.clone().filter(|asked| asked.has_changed().is_ok());
        let answer = asked.unwrap_or_else(|| self.ask(name));
        known.asked = Some(answer.clone());
        Err((good, answer))
    }

    /// Looks a name up in a task of its own, which nobody who stops waiting for it ends.
    fn ask(&self, name: &Arc<str>) -> Asked {
        let (tell, answer) = watch::channel(None);
        let (names, name) = (self.clone(), Arc::clone(name));
        tokio::spawn(async move {
            let found = (names.0.lookup)(Arc::clone(&name)).await;
            let answer = names.note(&name, found);
            let _ = tell.send(Some(answer));
        });
        answer
    }

    fn note(&self, name: &str, found: io::Result<Vec<IpAddr>>) -> Answer {
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let found = found.and_then(|found| if found.is_empty() { Err(none()) } else { Ok(Arc::from(found)) });
        let (mut names, now) = (self.lock(), now());
        let Some(known) = names.get_mut(name) else { return found.map_err(Arc::new) };
        known.asked = None;
        match found {
            Ok(found) => {
                (known.good, known.again) = (Some((Arc::clone(&found), now)), now + FRESH);
                Ok(found)
            }
            Err(error) => {
                if known.good.is_some() {
                    tracing::warn!(name, %error, "the name cannot be looked up; its last addresses are used for a while");
                    known.again = now + AGAIN;
                }
                Err(Arc::new(error))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses with those at the head that are of one kind moved on by so many.
fn in_turn(addresses: &[IpAddr], turn: usize) -> Vec<IpAddr> {
    let mut addresses = addresses.to_vec();
    let alike =
        addresses.iter().take_while(|address| addresses.first().is_some_and(|first| first.is_ipv4() == address.is_ipv4()));
    let alike = alike.count();
    if let (Some(head), Some(by)) = (addresses.get_mut(..alike), turn.checked_rem(alike)) {
        head.rotate_left(by);
    }
    addresses
}

/// The runtime's clock, as for its timers.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
