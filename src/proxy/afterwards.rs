//! What can wait until the bytes are gone: the books of answers that have been passed on whole.
//!
//! An answer that ended as it should owes its client nothing more. What is left to be done is a third of all that a short request takes:
//! its usage is read, the estimates learn, grams are counted, a line is written. That is twice the code that a core's first cache holds,
//! and runs straight through, so that each answer fetched all of it anew. A thread that serves therefore keeps such answers until it has
//! nothing else to do, and takes each step for all of them before the next step of any. Of 3,400 misses of a first cache of 32 KiB that a
//! chat request had, that took 800, in a build without LTO, and of 2,370 in a profiled one 720 (`benches/peers/instr.py --cache`); to keep
//! them and close them one by one took none. In time it was 2 to 12 % of a plain build's, beside the build before in turns; of a profiled
//! one's nothing that could be told from noise.
//!
//! Whatever was not passed on whole is booked at once, and so is everything on a thread that does not say when it rests. What others wait
//! for, the places at a backend and the connection to it, is given back before.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::account::Books;
use super::relay::Metered;

/// Answers that are kept at most. Each holds its last bytes, mostly a few kilobytes.
const MOST: usize = 32;
/// Books that are open at once. Each takes two kilobytes, and more than this would leave the first cache for data.
const TOGETHER: usize = 8;

/// Answers that have ended, kept as they came: to move them would be to copy a kilobyte.
type Kept = Vec<Box<Metered>>;

thread_local! {
    /// `None` on a thread that does not say when it rests.
    static KEPT: Cell<Option<Kept>> = const { Cell::new(None) };
}

/// As long as this lives, its thread keeps answers that have ended until it calls [`close_books`]; then it closes what is left.
#[derive(Debug)]
pub struct KeepsBooks {
    _of_this_thread: PhantomData<*const ()>,
}

impl KeepsBooks {
    /// For the thread that calls this.
    pub fn here() -> Self {
        KEPT.set(Some(Vec::with_capacity(MOST)));
        Self { _of_this_thread: PhantomData }
    }
}

impl Drop for KeepsBooks {
    fn drop(&mut self) {
        close_books();
        // Without a thread-local there is nothing.
        drop(KEPT.try_with(Cell::take));
    }
}

/// Closes the books of what this thread has kept, in the order in which it ended.
pub fn close_books() {
    let Ok(Some(mut kept)) = KEPT.try_with(Cell::take) else { return };
    if !kept.is_empty() {
        // A fault in one exchange's books is no end of a thread that serves others, as it would be none in a task.
        let closed = catch_unwind(AssertUnwindSafe(|| close(&mut kept)));
        if closed.is_err() {
            tracing::error!("the books of {} answers could not all be closed", kept.len());
            for answer in kept.drain(..) {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(answer)));
            }
        }
    }
    KEPT.set(Some(kept));
}

/// An answer has been passed on and let go of: its books are closed now, or soon.
pub(super) fn let_go(mut answer: Box<Metered>) {
    if !answer.can_wait() {
        return;
    }
    // Mostly they have been, with the last byte; but the end of a body may come apart from it.
    answer.exchange_mut().give_back_places();
    if let Ok(Some(mut kept)) = KEPT.try_with(Cell::take) {
        kept.push(answer);
        let is_full = kept.len() >= MOST;
        KEPT.set(Some(kept));
        if is_full {
            close_books();
        }
    }
}

// Apart, so that the look whether there is anything to do stays a small one.
#[inline(never)]
fn close(kept: &mut Kept) {
    for some in kept.chunks_mut(TOGETHER) {
        for answer in &mut *some {
            answer.end();
        }
        for answer in &mut *some {
            answer.exchange_mut().teach();
        }
        let mut books = Vec::with_capacity(TOGETHER);
        books.extend(some.iter().filter_map(|answer| answer.exchange().books()));
        books.iter_mut().for_each(Books::write);
    }
    kept.clear();
}
