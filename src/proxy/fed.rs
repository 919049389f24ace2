//! The body of a request that is read by whoever has its connection, while the request is answered.
//!
//! The two halves of a body that is collected are polled by the same task, one after the other, so that a piece goes from hand to hand
//! without a wake; one that is passed on as it comes is polled by whoever runs the connection to its backend. A piece is only asked for
//! when the one before it was taken: what a backend does not take stays with the client.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What both halves have. Its lock is taken twice for each piece, and by the same thread but in the rarest cases.
#[derive(Debug, Default)]
struct Slot {
    piece: Option<io::Result<Bytes>>,
    /// Whom to wake when there is a piece: somebody waits for it.
    eater: Option<Waker>,
    /// Whom to wake when one is wanted.
    feeder: Option<Waker>,
    /// Nobody wants another.
    gone: bool,
}

fn locked(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    // Nothing that can panic is done under the lock.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes another task; this one is about to look anyway.
fn wake(task: Option<Waker>, cx: &Context<'_>) {
    if let Some(task) = task
        && !task.will_wake(cx.waker())
    {
        task.wake();
    }
}

/// The half of the one who reads.
#[derive(Debug)]
pub struct Feeder(Arc<Mutex<Slot>>);

/// What the other half does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// It waits for a piece.
    Hungry,
    /// It has one that it did not look at yet, or does something else.
    Sated,
    /// There is none any more.
    Gone,
}

impl Feeder {
    /// Whether a piece is waited for; if not, this task is woken when one is.
    pub fn appetite(&self, cx: &Context<'_>) -> Appetite {
        let mut slot = locked(&self.0);
        if slot.gone {
            return Appetite::Gone;
        }
        if slot.piece.is_none() && slot.eater.is_some() {
            return Appetite::Hungry;
        }
        if !slot.feeder.as_ref().is_some_and(|feeder| feeder.will_wake(cx.waker())) {
            slot.feeder = Some(cx.waker().clone());
        }
        Appetite::Sated
    }

    /// Gives the next piece, or says why there is none; to be called by the task that looks at the body next, if it is the same.
    pub fn give(&self, piece: io::Result<Bytes>, cx: &Context<'_>) {
        let mut slot = locked(&self.0);
        slot.piece = Some(piece);
        let eater = slot.eater.take();
        drop(slot);
        wake(eater, cx);
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let mut slot = locked(&self.0);
        slot.piece.get_or_insert_with(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let eater = slot.eater.take();
        drop(slot);
        if let Some(eater) = eater {
            eater.wake();
        }
    }
}

/// The body.
#[derive(Debug)]
pub struct Fed {
    slot: Arc<Mutex<Slot>>,
    /// What came with the head.
    first: Bytes,
    /// Bytes to come, those included.
    left: u64,
}

/// A body of that `length` which begins with `first`, and who gives the rest of it, in pieces of a byte at least.
pub fn fed(first: Bytes, length: u64) -> (Feeder, Fed) {
    let slot = Arc::<Mutex<Slot>>::default();
    (Feeder(Arc::clone(&slot)), Fed { slot, first, left: length })
}

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let me = self.get_mut();
        if me.left == 0 {
            return Poll::Ready(None);
        }
        let piece = if me.first.is_empty() {
            let mut slot = locked(&me.slot);
            let Some(piece) = slot.piece.take() else {
                slot.eater = Some(cx.waker().clone());
                let feeder = slot.feeder.take();
                drop(slot);
                wake(feeder, cx);
                return Poll::Pending;
            };
            piece
        } else {
            Ok(std::mem::take(&mut me.first))
        };
        // After a failure there is nothing to come.
        me.left = piece.as_ref().map_or(0, |piece| me.left.saturating_sub(piece.len() as u64));
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        locked(&self.slot).gone = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn polled(body: &mut Fed, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::ErrorKind>>> {
        let frame = Pin::new(body).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()).map_err(|error| error.kind())))
    }

    #[test]
    fn a_piece_is_asked_for_when_the_one_before_was_taken() {
        let mut cx = Context::from_waker(Waker::noop());
        let (feeder, mut body) = fed(Bytes::from_static(b"one"), 9);
        assert_eq!((feeder.appetite(&cx), body.size_hint().exact()), (Appetite::Sated, Some(9)));
        for (given, left) in [("two", 6), ("end", 3)] {
            assert!(matches!(polled(&mut body, &mut cx), Poll::Ready(Some(Ok(_)))));
            assert_eq!((feeder.appetite(&cx), body.size_hint().exact()), (Appetite::Sated, Some(left)), "nobody waits yet");
            assert_eq!((polled(&mut body, &mut cx), feeder.appetite(&cx)), (Poll::Pending, Appetite::Hungry));
            feeder.give(Ok(Bytes::from_static(given.as_bytes())), &cx);
            assert_eq!(feeder.appetite(&cx), Appetite::Sated);
        }
        assert_eq!(polled(&mut body, &mut cx), Poll::Ready(Some(Ok(Bytes::from_static(b"end")))));
        assert_eq!((polled(&mut body, &mut cx), body.is_end_stream()), (Poll::Ready(None), true));
        drop(body);
        assert_eq!(feeder.appetite(&cx), Appetite::Gone);
    }

    #[test]
    fn halves_of_two_tasks_wake_each_other_and_those_of_one_do_not() {
        let (one, other) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (ours, theirs) = (Waker::from(Arc::clone(&one)), Waker::from(Arc::clone(&other)));
        for (waker, wakes) in [(&ours, [0, 0]), (&theirs, [1, 1])] {
            let (feeder, mut body) = fed(Bytes::new(), 6);
            let (here, mut there) = (Context::from_waker(&ours), Context::from_waker(waker));
            assert_eq!(feeder.appetite(&here), Appetite::Sated);
            assert_eq!(polled(&mut body, &mut there), Poll::Pending);
            feeder.give(Ok(Bytes::from_static(b"abc")), &here);
            assert_eq!([&one, &other].map(|task| task.0.swap(0, Relaxed)), wakes);
        }
    }

    #[tokio::test]
    async fn a_reader_that_ends_breaks_the_body() {
        let (feeder, mut body) = fed(Bytes::from_static(b"one"), 6);
        let task = tokio::spawn(async move {
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            (first, body.frame().await.unwrap().unwrap_err().kind(), body.frame().await.is_none())
        });
        tokio::task::yield_now().await;
        drop(feeder);
        assert_eq!(task.await.unwrap(), (Bytes::from_static(b"one"), io::ErrorKind::UnexpectedEof, true));
        let mut cx = Context::from_waker(Waker::noop());
        let (feeder, mut body) = fed(Bytes::new(), 3);
        feeder.give(Ok(Bytes::from_static(b"end")), &cx);
        drop(feeder);
        assert_eq!(polled(&mut body, &mut cx), Poll::Ready(Some(Ok(Bytes::from_static(b"end")))), "what was given stays");
    }
}
