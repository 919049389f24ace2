//! Keeps a task from waking itself.
//!
//! A connection that is polled by the user of its own response talks to that user through channels, and every message through them
//! wakes the task that is just running: it is then polled once more for nothing. Half of all polls of an exchange were of that kind
//! (four instead of two, counted over sockets). So the connection is given this waker, which is shut while its user is about to
//! look at the other end of the channel anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};

const OPEN: u8 = 0;
const SHUT: u8 = 1;
/// Shut, and somebody knocked.
const KNOCKED: u8 = 2;

/// A waker that can be shut. Nothing is lost: who opens it learns whether it was used meanwhile.
pub(super) struct Gate {
    inner: Arc<Inner>,
    waker: Waker,
}

struct Inner {
    state: AtomicU8,
    task: Waker,
}

impl Gate {
    /// In front of a task, and shut.
    pub(super) fn new(task: Waker) -> Self {
        let inner = Arc::new(Inner { state: AtomicU8::new(SHUT), task });
        Self { waker: Waker::from(Arc::clone(&inner)), inner }
    }

    /// Stands in front of this task from now on; shut, if that is another one than before.
    pub(super) fn lead_to(&mut self, task: &Waker) {
        if !self.inner.task.will_wake(task) {
            *self = Self::new(task.clone());
        }
    }

    /// What the other side wakes.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Wakes go nowhere from now on. Only for as long as the task is going to look for itself.
    pub(super) fn shut(&self) {
        self.inner.state.store(SHUT, Ordering::Release);
    }

    /// Wakes reach the task again; whether one came while it was shut. A wake that crosses with this is either reported here or
    /// reaches the task, because both are exchanges of the same word.
    pub(super) fn open(&self) -> bool {
        self.inner.state.swap(OPEN, Ordering::AcqRel) == KNOCKED
    }
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let knock = self.state.compare_exchange(SHUT, KNOCKED, Ordering::AcqRel, Ordering::Acquire);
        if knock == Err(OPEN) {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_is_passed_on_or_reported() {
        let count = Arc::new(Count::default());
        let gate = Gate::new(Waker::from(Arc::clone(&count)));
        let waker = gate.waker().clone();
        assert!(!gate.open());
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        gate.shut();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(gate.open());
        assert!(!gate.open());
        waker.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn it_follows_the_task_that_polls() {
        let (old, new) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (one, two) = (Waker::from(Arc::clone(&old)), Waker::from(Arc::clone(&new)));
        let mut gate = Gate::new(one.clone());
        gate.lead_to(&one);
        gate.lead_to(&two);
        gate.open();
        gate.waker().wake_by_ref();
        assert_eq!((old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)), (0, 1));
    }

    /// One thread knocks while another opens: it is passed on or reported, whichever comes first.
    #[test]
    fn a_crossing_wake_is_not_lost() {
        for _ in 0..500 {
            let count = Arc::new(Count::default());
            let gate = Gate::new(Waker::from(Arc::clone(&count)));
            let waker = gate.waker().clone();
            let knocking = std::thread::spawn(move || waker.wake());
            let reported = gate.open();
            knocking.join().unwrap();
            assert!(reported || count.0.load(Ordering::Relaxed) == 1);
        }
    }
}
