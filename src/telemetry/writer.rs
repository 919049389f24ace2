//! The thread that writes the access log.
//!
//! It is the only one that waits for the disk. A write that fails is tried again from where it stopped, so that a disk that was
//! full for a minute costs only what did not fit into the queue meanwhile; the request threads notice nothing.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::buffer::Chunk;
use super::log::{FLUSH_EVERY, Shared, WAITING_BUFFERS};
use super::sink::LogSink;
use crate::clock::{Clock, SystemClock};

/// Between two attempts to write or to open when the sink fails.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// What the writer is sent.
#[derive(Debug)]
pub(super) enum Message {
    /// A buffer to write.
    Lines(Chunk),
    /// One of the marks in [`Shared`] was set.
    Look,
}

pub(super) struct Writer {
    sink: Box<dyn LogSink>,
    shared: Arc<Shared>,
    receive: Receiver<Message>,
    failing: bool,
    /// When the file that could not be opened anew is tried again.
    reopen_again: Option<Instant>,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn LogSink>, shared: Arc<Shared>, receive: Receiver<Message>) -> Self {
        Self { sink, shared, receive, failing: false, reopen_again: None }
    }

    /// Writes until the log is closed and everything is out.
    pub(super) fn run(mut self) {
        let mut swept = SystemClock.monotonic();
        loop {
            let closed = self.shared.closed.load(SeqCst);
            let since = SystemClock.monotonic().saturating_duration_since(swept);
            let message = self.receive.recv_timeout(if closed { Duration::ZERO } else { FLUSH_EVERY.saturating_sub(since) });
            self.reopen_if_asked();
            match message {
                Ok(Message::Lines(chunk)) => self.write(chunk),
                Ok(Message::Look) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            // Also while buffers keep coming, or a busy worker would keep another thread's line waiting for ever.
            if closed || since >= FLUSH_EVERY {
                self.sweep();
                swept = SystemClock.monotonic();
                if closed {
                    return;
                }
            }
        }
    }

    fn sweep(&mut self) {
        let strays = self.shared.take_strays();
        // What is in the queue was written before; at the end nothing comes after it.
        for message in self.receive.try_iter().take(WAITING_BUFFERS).collect::<Vec<_>>() {
            if let Message::Lines(chunk) = message {
                self.write(chunk);
            }
        }
        if strays.lines > 0 {
            self.write(strays);
        }
    }

    fn write(&mut self, chunk: Chunk) {
        let mut at = 0;
        while at < chunk.bytes.len() {
            if self.shared.reopen.load(SeqCst) {
                // A new file begins with a whole line, although the old one then ends with half of the same.
                at = start_of_line(&chunk.bytes, at);
                self.reopen_if_asked();
            }
            match self.sink.write(&chunk.bytes[at..]) {
                Ok(0) => self.failed(&ErrorKind::WriteZero.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.failed(&error),
            }
            if self.failing && at < chunk.bytes.len() {
                if self.shared.closed.load(SeqCst) {
                    self.shared.lost.fetch_add(count_lines(&chunk.bytes[at..]), Relaxed);
                    self.shared.written.fetch_add(count_lines(&chunk.bytes[..at]), Relaxed);
                    return;
                }
                std::thread::sleep(RETRY_EVERY);
                self.failing = false;
            }
        }
        if let Err(error) = self.sink.flush() {
            self.failed(&error);
        }
        self.failing = false;
        self.shared.written.fetch_add(chunk.lines, Relaxed);
        chunk.recycle();
    }

    fn failed(&mut self, error: &std::io::Error) {
        self.failing = true;
        if self.shared.write_errors.fetch_add(1, Relaxed).is_multiple_of(60) {
            tracing::error!(%error, "cannot write the access log; trying again, and numbering the lines that are lost meanwhile");
        }
    }

    /// Opens the file anew when that was asked for, and goes on trying when it fails: the folder may come back, and until then the
    /// lines go to a file that perhaps nobody can find any more.
    fn reopen_if_asked(&mut self) {
        let asked = self.shared.reopen.swap(false, SeqCst);
        let due = self.reopen_again.is_some_and(|due| due <= SystemClock.monotonic());
        if !asked && !due {
            return;
        }
        self.reopen_again = None;
        if let Err(error) = self.sink.reopen() {
            self.shared.write_errors.fetch_add(1, Relaxed);
            self.reopen_again = Some(SystemClock.monotonic() + RETRY_EVERY);
            if asked {
                tracing::error!(%error, "cannot reopen the access log; going on with the file that was open, and trying again");
            }
        }
    }
}

fn start_of_line(bytes: &[u8], at: usize) -> usize {
    memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1)
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
