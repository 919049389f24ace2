//! Idle connections, one small stack per backend and core.
//!
//! A connection never leaves the core whose reactor watches it, so the stacks are thread-local and need no lock; they are touched
//! only between two awaits, and nothing is dropped while they are borrowed. The last connection in is the first one out: it is the
//! warmest, and those that a falling load no longer needs grow old at the bottom. A shared pool (hyper-util's client) was measured at
//! 7 to 10 % more CPU per request at saturation.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Instant;

use smallvec::SmallVec;
use tokio::sync::Semaphore;

use super::Shared;
use super::direct::Direct;
use super::h1::Slot;
use super::h2::{Handle, Lease};
use crate::backend::Backend;

/// Idle HTTP/1.1 connections kept for one backend on one core. More than that are left over from a burst, and a descriptor each is
/// dearer than a handshake at the next one.
const MAX_IDLE: usize = 256;
/// HTTP/2 connections to one backend on one core; with the usual 100 streams on each that is 800 exchanges at once. Beyond it
/// streams queue for a place.
const MAX_SHARED: usize = 8;

thread_local! {
    /// A few dozen backends at most, so that a scan over pointers beats a hash of their names.
    static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) };
}

struct Pool {
    owner: Weak<Shared>,
    /// As of the last request: after a reload the first request puts the new object here.
    backend: Arc<Backend>,
    idle: Vec<Idle>,
    shared: Vec<Handle>,
    dialing: Arc<Semaphore>,
}

struct Idle {
    connection: Parked,
    until: Instant,
}

/// An idle HTTP/1.1 connection.
pub(super) enum Parked {
    /// Without hyper.
    Direct(Box<Direct>),
    /// With hyper. What hyper has read ahead cannot be had back, so it stays with it.
    Hyper(Box<Slot>),
}

impl Parked {
    /// As of the last look.
    fn is_open(&self) -> bool {
        match self {
            Self::Direct(connection) => connection.is_open(),
            Self::Hyper(slot) => slot.is_open(),
        }
    }

    /// Whether the peer has neither closed nor spoken out of turn.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Direct(connection) => connection.look_idle(cx).is_ok(),
            Self::Hyper(slot) => slot.poll_idle(cx),
        }
    }
}

/// Takes the warmest connection that may still be used, of those that `fits` says yes to.
pub(super) fn take(owner: &Arc<Shared>, backend: &Arc<Backend>, now: Instant, fits: impl Fn(&Parked) -> bool) -> Option<Parked> {
    let mut stale: SmallVec<[Idle; 4]> = SmallVec::new();
    let found = with(|pools| {
        let pool = find(pools, owner, backend)?;
        while let Some(index) = pool.idle.iter().rposition(|idle| fits(&idle.connection)) {
            // Mostly the last one, which costs nothing.
            let idle = pool.idle.remove(index);
            if idle.until > now && idle.connection.is_open() {
                return Some(idle.connection);
            }
            stale.push(idle);
        }
        None
    });
    drop(stale);
    found.flatten()
}

/// Takes a connection back until the given time, unless there are enough.
pub(super) fn put(owner: &Arc<Shared>, backend: &Arc<Backend>, connection: Parked, until: Instant) {
    let mut idle = Some(Idle { connection, until });
    with(|pools| {
        let pool = find_or_add(pools, owner, backend);
        if pool.idle.len() < MAX_IDLE {
            pool.idle.extend(idle.take());
        }
    });
    drop(idle);
}

/// A place on an HTTP/2 connection: on the first with a free one; when all are full, `None` while another may be opened, else a place
/// in the queue of the one with the fewest streams.
pub(super) fn lease(owner: &Arc<Shared>, backend: &Arc<Backend>, now: Instant) -> Option<Lease> {
    let mut dead: Vec<Handle> = Vec::new();
    let found = with(|pools| {
        let pool = find(pools, owner, backend)?;
        dead.extend(pool.shared.extract_if(.., |handle| handle.is_closed()));
        let all_full = pool.shared.iter().all(|handle| !handle.has_room());
        let handle = if !all_full {
            pool.shared.iter_mut().find(|handle| handle.has_room())
        } else if pool.shared.len() < MAX_SHARED {
            None
        } else {
            pool.shared.iter_mut().min_by_key(|handle| handle.streams())
        };
        handle.map(|handle| handle.lease(now))
    });
    drop(dead);
    found.flatten()
}

/// Adds an HTTP/2 connection.
pub(super) fn share(owner: &Arc<Shared>, backend: &Arc<Backend>, handle: Handle) {
    with(|pools| find_or_add(pools, owner, backend).shared.push(handle));
}

/// Who holds its one permit opens the next HTTP/2 connection to this backend from this core; the others wait and use that one.
pub(super) fn dialing(owner: &Arc<Shared>, backend: &Arc<Backend>) -> Option<Arc<Semaphore>> {
    with(|pools| Arc::clone(&find_or_add(pools, owner, backend).dialing))
}

/// Drops what has been idle too long or was closed by the peer, and forgets backends with nothing left.
pub(super) fn sweep(owner: &Arc<Shared>, now: Instant) {
    let mut idle: Vec<Idle> = Vec::new();
    let mut shared: Vec<Handle> = Vec::new();
    with(|pools| {
        pools.retain_mut(|pool| {
            if pool.owner.strong_count() == 0 {
                idle.append(&mut pool.idle);
                shared.append(&mut pool.shared);
            } else if pool.owner.as_ptr() == Arc::as_ptr(owner) {
                // Nobody is woken for an idle connection, so it is asked here whether it still stands.
                let mut context = Context::from_waker(Waker::noop());
                idle.extend(pool.idle.extract_if(.., |idle| idle.until <= now || !idle.connection.poll_idle(&mut context)));
                let keep = pool.backend.keep_idle;
                shared.extend(pool.shared.extract_if(.., |handle| handle.is_closed() || handle.idle_for(now) >= keep));
            }
            !(pool.idle.is_empty() && pool.shared.is_empty() && Arc::strong_count(&pool.dialing) == 1)
        });
    });
    drop((idle, shared));
}

/// Idle connections of this core to a backend: HTTP/1.1 waiting, HTTP/2 open.
#[cfg(test)]
pub(super) fn count(owner: &Arc<Shared>, backend: &Arc<Backend>) -> (usize, usize) {
    with(|pools| find(pools, owner, backend).map(|pool| (pool.idle.len(), pool.shared.len()))).flatten().unwrap_or_default()
}

/// `None` only while the thread is ending, when there is no pool any more.
fn with<T>(f: impl FnOnce(&mut Vec<Pool>) -> T) -> Option<T> {
    POOLS.try_with(|pools| f(&mut pools.borrow_mut())).ok()
}

fn find<'a>(pools: &'a mut [Pool], owner: &Arc<Shared>, backend: &Arc<Backend>) -> Option<&'a mut Pool> {
    let index = position(pools, owner, backend)?;
    pools.get_mut(index)
}

fn find_or_add<'a>(pools: &'a mut Vec<Pool>, owner: &Arc<Shared>, backend: &Arc<Backend>) -> &'a mut Pool {
    let index = position(pools, owner, backend).unwrap_or_else(|| {
        pools.push(Pool {
            owner: Arc::downgrade(owner),
            backend: Arc::clone(backend),
            idle: Vec::new(),
            shared: Vec::new(),
            dialing: Arc::new(Semaphore::new(1)),
        });
        pools.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "found above, or pushed just now")]
    &mut pools[index]
}

/// By pointer first. After a reload the same backend is another object: then by name and origin, so that its connections stay.
fn position(pools: &mut [Pool], owner: &Arc<Shared>, backend: &Arc<Backend>) -> Option<usize> {
    let ours = |pool: &Pool| pool.owner.as_ptr() == Arc::as_ptr(owner);
    if let Some(index) = pools.iter().position(|pool| ours(pool) && Arc::ptr_eq(&pool.backend, backend)) {
        return Some(index);
    }
    let same = |old: &Backend| old.name == backend.name && old.protocol == backend.protocol && old.origin == backend.origin;
    let index = pools.iter().position(|pool| ours(pool) && same(&pool.backend))?;
    pools.get_mut(index)?.backend = Arc::clone(backend);
    Some(index)
}
