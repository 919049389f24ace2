//! The access log on the request path: every worker writes lines into a buffer of its own, one thread writes them out.
//!
//! Not `tracing`: a line is evidence that has to arrive whole, numbered and in bulk, at a cost of nanoseconds. A number is taken
//! before a line is written; whatever is lost afterwards leaves a gap. Full buffers go to the writer through a bounded queue, and
//! those for which it has no room are counted and dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::buffer::{self, Chunk};
use super::sink::{LogSink, Off, open};
use super::writer::{Message, Writer};
use crate::config::LogTarget;

pub use super::buffer::OwnBuffer;
pub use super::sink::{LogError, LogSink as Sink};

/// Full buffers that wait for the writer: 4 MiB, or about a second of the heaviest traffic on a disk that stalls.
pub(super) const WAITING_BUFFERS: usize = 16;
/// A line that waits in a buffer is written after this long at the latest: whoever holds an [`OwnBuffer`] flushes so often.
pub const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Who writes: it stands in every line, so that lines of several processes and restarts can be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The host's name, or the operator's word for this process.
    pub instance: Arc<str>,
    /// Differs between two starts of one instance.
    pub run: Arc<str>,
}

impl Identity {
    /// The identity of a start, made unique by 64 random bits.
    pub fn new(instance: &str, random: u64) -> Self {
        Self { instance: Arc::from(instance), run: Arc::from(format!("{random:016x}")) }
    }
}

/// The access log of one run. Clones are the same log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    identity: Identity,
}

/// What all threads touch.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) enabled: bool,
    seq: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) write_errors: AtomicU64,
    pub(super) closed: AtomicBool,
    pub(super) reopen: AtomicBool,
    pub(super) full: SyncSender<Message>,
    /// The lines of threads that have no buffer of their own; no request is served on one.
    strays: Mutex<Chunk>,
}

/// The writer thread, to be closed at the end.
#[derive(Debug)]
pub struct LogWriter {
    log: AccessLog,
    thread: Option<JoinHandle<()>>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl AccessLog {
    /// Opens the target and starts the writer. An error names the file that could not be opened.
    pub fn start(target: &LogTarget, identity: Identity) -> Result<(Self, LogWriter), LogError> {
        let sink = open(target)?;
        Self::start_with(sink, identity, !matches!(target, LogTarget::Off))
    }

    /// A log that keeps nothing, for what needs one but is not the proxy.
    pub fn off(identity: Identity) -> Self {
        let (full, _) = sync_channel(1);
        Self { shared: Arc::new(Shared::new(false, full)), identity }
    }

    /// Starts the writer on any sink.
    pub fn start_with(sink: Box<dyn LogSink>, identity: Identity, enabled: bool) -> Result<(Self, LogWriter), LogError> {
        let (full, receive) = sync_channel(WAITING_BUFFERS);
        let log = Self { shared: Arc::new(Shared::new(enabled, full)), identity };
        let (end, ended) = sync_channel(1);
        let writer = Writer::new(sink, Arc::clone(&log.shared), receive);
        let thread = std::thread::Builder::new()
            .name("windward-log".to_owned())
            .spawn(move || {
                writer.run();
                // The other side is gone when nobody waits for the end.
                let _ = end.try_send(());
            })
            .map_err(LogError::Thread)?;
        Ok((log.clone(), LogWriter { log, thread: Some(thread), ended }))
    }

    /// Who writes.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether anything is kept.
    pub fn is_enabled(&self) -> bool {
        self.shared.enabled
    }

    /// Gives this thread a buffer of its own, so that its lines take no lock. Whoever holds it calls [`AccessLog::flush`] on this
    /// thread every [`FLUSH_EVERY`], and drops it after everything that may still have a line to write.
    pub fn own_buffer(&self) -> OwnBuffer {
        OwnBuffer::of(&self.shared)
    }

    /// Writes one line: `line` appends it, without a line break, to the buffer that it is given, with the number that it is given.
    /// Numbers count from 1. What `line` appends has no line break in it, and `line` itself logs nothing here.
    pub fn append(&self, line: impl FnOnce(&mut Vec<u8>, u64)) {
        if !self.shared.enabled {
            return;
        }
        let seq = self.shared.seq.fetch_add(1, Relaxed) + 1;
        if !buffer::append(&self.shared, line, seq) {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// Hands what this thread has buffered to the writer; on a thread without a buffer of its own, what all such threads have.
    pub fn flush(&self) {
        if !buffer::flush(&self.shared) {
            self.shared.flush_strays();
        }
    }

    /// Opens the file anew before the next write, so that a file that was renamed is let go.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, SeqCst);
        self.shared.wake_writer();
    }

    /// Lines numbered so far.
    pub fn numbered(&self) -> u64 {
        self.shared.seq.load(Relaxed)
    }

    /// Lines that reached the sink.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Relaxed)
    }

    /// Lines that were numbered and never reached it.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Writes and reopenings that failed; a failed write is tried again.
    pub fn write_errors(&self) -> u64 {
        self.shared.write_errors.load(Relaxed)
    }
}

impl Shared {
    fn new(enabled: bool, full: SyncSender<Message>) -> Self {
        Self {
            enabled,
            seq: AtomicU64::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            full,
            strays: Mutex::new(Chunk::default()),
        }
    }

    /// Writes the line of a thread without a buffer of its own, for the writer to fetch. False when the log is closed.
    pub(super) fn append_stray(&self, line: impl FnOnce(&mut Vec<u8>, u64), seq: u64) -> bool {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: the writer takes this lock for the last time after the mark was set.
        if self.closed.load(SeqCst) {
            return false;
        }
        strays.push(line, seq);
        if strays.is_full() {
            self.send_or_lose(std::mem::take(&mut strays));
        }
        true
    }

    /// Takes over what a thread has at its end.
    pub(super) fn take_over(&self, chunk: &mut Chunk) {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(SeqCst) {
            self.lost.fetch_add(chunk.lines, Relaxed);
        } else {
            strays.absorb(chunk);
        }
    }

    /// What threads without a buffer of their own have written since.
    pub(super) fn take_strays(&self) -> Chunk {
        std::mem::take(&mut self.strays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn flush_strays(&self) {
        let strays = self.take_strays();
        if strays.lines > 0 {
            self.send_or_lose(strays);
        }
    }

    fn send_or_lose(&self, chunk: Chunk) {
        let lines = chunk.lines;
        if self.full.try_send(Message::Lines(chunk)).is_err() {
            self.lost.fetch_add(lines, Relaxed);
        }
    }

    fn wake_writer(&self) {
        // A full queue needs no waking: the writer is at work and looks at the marks after every buffer.
        let _ = self.full.try_send(Message::Look);
    }
}

impl LogWriter {
    /// Ends the writer when it has written what was handed to it, waiting `limit` at the most. Threads with a buffer of their own
    /// have dropped it before. Returns whether every line of the run is written; lines that come later are lost and counted.
    pub fn close(mut self, limit: Duration) -> bool {
        self.log.shared.closed.store(true, SeqCst);
        self.log.shared.wake_writer();
        if self.ended.recv_timeout(limit).is_err() {
            // The disk does not answer. The thread holds nothing that the end of the process would not free.
            return false;
        }
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        // And not only that none is counted as lost: a thread that is stuck keeps its lines.
        ended && self.log.written() == self.log.numbered()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Whoever did not close it still ends the thread.
        self.log.shared.closed.store(true, SeqCst);
        self.log.shared.wake_writer();
    }
}

/// A sink for [`LogTarget::Off`].
pub(super) fn no_sink() -> Box<dyn LogSink> {
    Box::new(Off)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
