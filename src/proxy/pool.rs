//! What all requests of a proxy share that have a body to be collected: bytes of memory, and places for those of which it is not known
//! yet whose they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::exchange::Proof;
use crate::config::Limits;

/// Bytes of bodies that are being held for decision and retry, over the whole process.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// All of them ..
    all: AtomicUsize,
    /// .. and among them those of requests that only claim to be signed.
    unproven: AtomicUsize,
    /// Requests that only claim to be signed.
    claims: AtomicUsize,
}

/// Of the bytes and of the requests at once, one part of so many is for those that only claim to be signed; of bytes the largest body
/// has to fit. Anybody can claim that who knows an access key's id, which is no secret: such bodies have to be collected to be judged,
/// and must not take the place of those whose key was shown. One such request may have all of the bytes for as long as a body may take
/// (`intake::due`): less for each would refuse the largest bodies, and who wants the whole share only sends more of them.
const UNPROVEN: usize = 16;

/// What one request holds of a pool.
#[derive(Debug)]
pub(super) struct Buffered {
    pool: Arc<Pool>,
    bytes: usize,
    unproven: usize,
}

impl Buffered {
    /// Nothing yet.
    pub(super) fn none(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), bytes: 0, unproven: 0 }
    }

    /// Counts `more` bytes in; false when that is beyond what there is for such a request.
    pub(super) fn grow(&mut self, more: usize, proof: Proof, limits: &Limits) -> bool {
        self.bytes += more;
        let fits = self.pool.all.fetch_add(more, Relaxed) + more <= limits.buffered;
        if proof == Proof::Shown {
            return fits;
        }
        self.unproven += more;
        fits & (self.pool.unproven.fetch_add(more, Relaxed) + more <= (limits.buffered / UNPROVEN).max(limits.body))
    }

    /// Counts out `less` bytes, which are held no more.
    pub(super) fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.pool.all.fetch_sub(less, Relaxed);
        let unproven = less.min(self.unproven);
        self.unproven -= unproven;
        self.pool.unproven.fetch_sub(unproven, Relaxed);
    }

    /// Holds so many from now on, more or less than before; false as above.
    pub(super) fn hold(&mut self, bytes: usize, limits: &Limits) -> bool {
        self.shrink(self.bytes.saturating_sub(bytes));
        bytes == self.bytes || self.grow(bytes - self.bytes, Proof::Shown, limits)
    }

    /// It is signed as it claimed.
    pub(super) fn proved(&mut self) {
        self.pool.unproven.fetch_sub(std::mem::take(&mut self.unproven), Relaxed);
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.proved();
        self.pool.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// The place of one request that only claims to be signed, until that is proved or the request is done with.
#[derive(Debug)]
pub(super) struct Claiming {
    pool: Arc<Pool>,
}

impl Claiming {
    /// A place, unless all that there are for such requests are taken.
    pub(super) fn take(pool: &Arc<Pool>, limits: &Limits) -> Option<Self> {
        let place = Self { pool: Arc::clone(pool) };
        let before = pool.claims.fetch_add(1, Relaxed);
        (before < (limits.in_flight / UNPROVEN).max(1)).then_some(place)
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.pool.claims.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_no_more_is_free_for_others() {
        let (pool, limits) = (Arc::new(Pool::default()), Limits::default());
        let mut one = Buffered::none(&pool);
        assert!(one.grow(10, Proof::Claimed, &limits) && one.grow(20, Proof::Shown, &limits));
        one.shrink(25);
        assert_eq!((pool.all.load(Relaxed), pool.unproven.load(Relaxed)), (5, 0));
        one.shrink(usize::MAX);
        assert!(one.hold(limits.buffered, &limits) && !one.hold(limits.buffered + 1, &limits));
        assert!(one.hold(7, &limits) && pool.all.load(Relaxed) == 7);
        drop(one);
        assert_eq!((pool.all.load(Relaxed), pool.unproven.load(Relaxed)), (0, 0));
    }
}
