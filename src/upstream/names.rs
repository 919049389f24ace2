//! The addresses of names, as the system's resolver has them.
//!
//! A lookup opens files and sockets and may take seconds, and under load hundreds of connections to one name are opened at once. So one
//! lookup at a time serves everybody who wants that name, its answer counts for a few seconds, and the last good one goes on counting
//! when no lookup succeeds: a resolver that is restarted, or a process without descriptors, should not take the backends along. The
//! resolver does not say for how long an answer holds, hence the short time.
//!
//! What the system's resolver fails with does not tell reliably a name that is gone from a resolver that is (`getaddrinfo` has one code
//! for both on some systems, and std passes on only its text). So a name that was taken away counts like a resolver that is down, and an
//! address that somebody else has by now is told by its certificate, or, where there is none, is not used for long.

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
/// So long a lookup is waited for at most while there are addresses from before; it goes on alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// So long addresses are used after the last lookup that succeeded where TLS proves who is there: a resolver is mended in that time.
const KEPT: Duration = Duration::from_mins(10);
/// The same over plain http, where whoever got the address since would get prompts and credentials: the restart of a resolver, and less
/// than the time in which a cluster hands an address on to another pod.
const KEPT_UNPROVEN: Duration = Duration::from_secs(30);
/// So often it is said that a name cannot be looked up.
const SAID_EVERY: Duration = Duration::from_mins(1);
/// More names than a plan has hosts. Beyond it those go that would be looked up again in any case.
const MOST_NAMES: usize = 1024;

/// What came of a lookup. Shared, since many may wait for it.
type Answer = Result<Arc<[IpAddr]>, Arc<io::Error>>;
/// A lookup that is under way.
type Asked = watch::Receiver<Option<Answer>>;
type Lookup = dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync;

/// What is known of names. The lock is taken once for each connection that is opened, for the time of a look into a map.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

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
    /// Somebody with addresses from before has waited for it as long as one does, so that nobody else has to.
    in_vain: bool,
    /// How often the answer was used.
    used: usize,
    /// When it was last said that it cannot be looked up.
    said: Option<Instant>,
}

/// What is left to who finds no fresh addresses.
struct Stale {
    /// The last ones, if they still count.
    good: Option<Vec<IpAddr>>,
    /// The lookup to wait for.
    answer: Asked,
    /// Whose turn it is in its answer.
    turn: usize,
}

impl Names {
    /// By the system's resolver.
    pub fn of_this_system() -> Self {
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
    /// the answers of a resolver that is asked each time. `within` is the time there is to connect, of which at most half is waited while
    /// there are addresses from before; `proven` says that TLS will tell whether the right one was reached.
    pub(super) async fn addresses(&self, name: &Arc<str>, within: Duration, proven: bool) -> io::Result<Vec<IpAddr>> {
        let kept = if proven { KEPT } else { KEPT_UNPROVEN };
        let Stale { good, mut answer, turn } = match self.known_or_asked(name, kept) {
            Ok(fresh) => return Ok(fresh),
            Err(stale) => stale,
        };
        let patience = if good.is_some() { PATIENCE.min(within / 2) } else { Duration::MAX };
        let waited =
            timeout(patience, answer.wait_for(Option::is_some)).await.map(|heard| heard.ok().and_then(|heard| heard.clone()));
        if waited.is_err() {
            self.note_in_vain(name, &answer);
        }
        // It is told nothing when the runtime that looked it up has ended.
        match (waited.ok().flatten(), good) {
            (Some(Ok(found)), _) => Ok(in_turn(&found, turn)),
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
            // A lookup that hangs is worth a wait again, too.
            (known.again, known.in_vain) = (now(), false);
        }
    }

    /// This lookup was waited for in vain.
    fn note_in_vain(&self, name: &str, answer: &Asked) {
        if let Some(known) = self.lock().get_mut(name) {
            known.in_vain |= known.asked.as_ref().is_some_and(|asked| asked.same_channel(answer));
        }
    }

    /// The addresses where they are fresh, or as fresh as they get; they count for so long.
    fn known_or_asked(&self, name: &Arc<str>, kept: Duration) -> Result<Vec<IpAddr>, Stale> {
        let (mut names, now) = (self.lock(), now());
        if names.len() >= MOST_NAMES && !names.contains_key(name) {
            names.retain(|_, known| known.asked.is_some() || now < known.again);
        }
        let unknown = || Known { good: None, again: now, asked: None, in_vain: false, used: 0, said: None };
        let known = names.entry(Arc::clone(name)).or_insert_with(unknown);
        let turn = known.used;
        known.used = turn.wrapping_add(1);
        let good = known.good.as_ref().filter(|(_, since)| now.duration_since(*since) < kept);
        let good = good.map(|(addresses, _)| in_turn(addresses, turn));
        // Whose asker is gone is asked for again.
        let asked = known.asked.take_if(|asked| asked.has_changed().is_ok());
        let hangs = known.in_vain && asked.is_some();
        if let Some(good) = good.clone().filter(|_| hangs || now < known.again) {
            known.asked = asked;
            return Ok(good);
        }
        let answer = asked.unwrap_or_else(|| {
            known.in_vain = false;
            self.ask(name)
        });
        known.asked = Some(answer.clone());
        Err(Stale { good, answer, turn })
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
        let error = match found {
            Ok(found) => {
                let (mut names, now) = (self.lock(), now());
                if let Some(known) = names.get_mut(name) {
                    (known.good, known.again) = (Some((Arc::clone(&found), now)), now + FRESH);
                    (known.asked, known.in_vain) = (None, false);
                }
                return Ok(found);
            }
            Err(error) => error,
        };
        // Outside of the lock, since whoever reads the log may be slow.
        if let Some(age) = self.note_failure(name) {
            tracing::warn!(
                name, %error, age_s = age.as_secs(),
                "the name cannot be looked up; its last addresses are used until they are {} s old, over plain http {} s",
                KEPT.as_secs(), KEPT_UNPROVEN.as_secs()
            );
        }
        Err(Arc::new(error))
    }

    /// A lookup has failed. The age of the addresses that are used meanwhile, where that is to be said; where there are none, whoever
    /// wanted to connect says what came of it.
    fn note_failure(&self, name: &str) -> Option<Duration> {
        let (mut names, now) = (self.lock(), now());
        let known = names.get_mut(name)?;
        (known.asked, known.in_vain) = (None, false);
        let age = now.duration_since(known.good.as_ref()?.1);
        known.again = now + AGAIN;
        if age >= KEPT || known.said.is_some_and(|said| now.duration_since(said) < SAID_EVERY) {
            return None;
        }
        known.said = Some(now);
        Some(age)
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
