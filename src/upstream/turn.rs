//! The order in which the tasks of a worker go.

use std::future::poll_fn;
use std::task::{Context, Poll};

/// Puts this task behind every one that is ready now.
///
/// What a worker does for a request falls into four parts: reading and deciding, sending, passing the answer on, closing the books. Of
/// requests that were read in one turn of the runtime it does each part for all of them before the next part of any: a client waits for
/// nobody's books, a backend or a client that sleeps is woken once, since by the second message it is awake, and the code of one part,
/// more than a core's first cache holds of all four, is fetched once. With nothing else to do it costs one more poll.
///
/// Finer parts were tried, and bring nothing. Keeping the answers of a turn to close their books step by step took 30 % of the misses of
/// code off a chat request (`benches/peers/instr.py --cache`), and no time in forty rounds of `benches/peers/compare.py` with both builds,
/// whether profiled (1.01) or plain (1.03): the second level is near enough.
pub(crate) async fn others_first() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        wake_after_others(cx);
        Poll::Pending
    })
    .await;
}

/// The same for who is polled and has to return: the task is woken behind the others.
pub(crate) fn wake_after_others(cx: &Context<'_>) {
    cx.waker().wake_by_ref();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn each_part_is_done_for_all_before_the_next_part_of_any() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let task = |done: Arc<Mutex<Vec<u8>>>| async move {
            for part in 1..=3 {
                done.lock().unwrap().push(part);
                others_first().await;
            }
        };
        let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(task(Arc::clone(&done)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*done.lock().unwrap(), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    }
}
