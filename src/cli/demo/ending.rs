//! How the demonstration ends: by its time, by a signal, by a second one, or because nobody reads any more.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

/// How long answers under way are waited for once the end was asked for. Whoever presses Ctrl-C waits for that; most of the short
/// ones come to their end in it.
const GRACE: Duration = Duration::from_secs(1);

/// The signals that ask for the end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes them over, so that none of them ends the process with its files left behind; to be called within a runtime.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            Some(()) = self.interrupt.recv() => {}
            Some(()) = self.terminate.recv() => {}
            else => std::future::pending().await,
        }
    }
}

/// Waits for the last answers, for a moment only and not at all once told again, and breaks off what is left.
pub(super) async fn last_answers<T>(mut traffic: JoinHandle<T>, told_again: impl Future<Output = ()>) {
    tokio::select! {
        // How it ended is of no interest any more.
        _ = &mut traffic => return,
        () = tokio::time::sleep(GRACE) => {}
        () = told_again => {}
    }
    traffic.abort();
    let _ = traffic.await;
}

/// When the last request is sent in a demonstration that takes `whole`: so long before the end that nearly all answers are there by
/// then, since what is broken off counts as waste and would be made up by the demonstration itself.
pub(super) fn last_request(whole: Duration) -> Duration {
    /// Four of five answers of the simulated regions take less.
    const ANSWERS: Duration = Duration::from_secs(5);
    whole.saturating_sub(ANSWERS.min(whole / 4))
}

/// Whether it failed because whoever read its output has gone away, as `head` does when it has seen enough.
pub(super) fn nobody_reads(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use super::*;

    /// How long it is waited for traffic that never ends, on a clock that moves only when everybody sleeps.
    async fn waited(told_again: impl Future<Output = ()>) -> Duration {
        let held = Arc::new(());
        let by_traffic = Arc::clone(&held);
        let traffic = tokio::spawn(async move {
            pending::<()>().await;
            drop(by_traffic);
        });
        let begun = tokio::time::Instant::now();
        last_answers(traffic, told_again).await;
        assert_eq!(Arc::strong_count(&held), 1, "what is left is broken off");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answers_are_waited_for_but_not_long() {
        let begun = tokio::time::Instant::now();
        last_answers(tokio::spawn(async {}), pending()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(waited(pending()).await, GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_twice_waits_for_nothing() {
        assert_eq!(waited(ready(())).await, Duration::ZERO);
    }

    #[test]
    fn the_last_request_is_sent_before_the_end() {
        for (whole, last) in [(60, 55), (20, 15), (4, 3), (0, 0)] {
            assert_eq!(last_request(Duration::from_secs(whole)), Duration::from_secs(last));
        }
    }

    #[test]
    fn a_reader_who_leaves_is_told_from_a_full_disk() {
        let failed = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind)).context("while drawing");
        assert!(nobody_reads(&failed(io::ErrorKind::BrokenPipe)));
        assert!(!nobody_reads(&failed(io::ErrorKind::StorageFull)));
    }
}
