//! The access log on the request path: every thread writes lines into a buffer of its own, one thread writes them out.
//!
//! Not `tracing`: a line is evidence that has to arrive whole, numbered and in bulk, at a cost of nanoseconds. Each thread's buffer
//! stands behind a mutex that is contended only for the moment in which the writer takes a buffer away, so that a quiet thread
//! needs no timer of its own and the end of the process can collect what every thread still holds. A number is taken before a line
//! is written; whatever is lost afterwards leaves a gap.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::sink::{LogSink, Off, open};
use super::writer::{Message, Writer};
use crate::config::LogTarget;

pub use super::sink::{LogError, LogSink as Sink};

/// Bytes after which a buffer is handed to the writer: about a hundred lines, so that one write system call costs each of them
/// next to nothing.
pub(super) const BUFFER_BYTES: usize = 64 << 10;
/// Full buffers that wait for the writer: 4 MiB, or about a second of the heaviest traffic on a disk that stalls.
pub(super) const WAITING_BUFFERS: usize = 64;
/// A line that waits in a buffer is written after this long at the latest.
pub(super) const FLUSH_EVERY: Duration = Duration::from_millis(200);

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

/// What request threads and the writer both touch.
#[derive(Debug)]
pub(super) struct Shared {
    /// Tells one log from another in the thread-local list; a process has several only in tests.
    key: u64,
    enabled: bool,
    seq: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) write_errors: AtomicU64,
    pub(super) closed: AtomicBool,
    pub(super) reopen: AtomicBool,
    full: SyncSender<Message>,
    buffers: Mutex<Vec<Arc<Mutex<Chunk>>>>,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Whole lines on their way.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// The writer thread, to be closed at the end.
#[derive(Debug)]
pub struct LogWriter {
    log: AccessLog,
    thread: Option<JoinHandle<()>>,
    ended: std::sync::mpsc::Receiver<()>,
}

thread_local! {
    static OWN: RefCell<Vec<(u64, Arc<Mutex<Chunk>>)>> = const { RefCell::new(Vec::new()) };
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

    /// Writes one line: `line` appends it, without a line break, to the buffer that it is given, with the number that it is given.
    /// Numbers count from 1. What `line` appends has no line break in it, and `line` itself logs nothing here, since it holds the
    /// thread's buffer.
    pub fn append(&self, line: impl FnOnce(&mut Vec<u8>, u64)) {
        if !self.shared.enabled {
            return;
        }
        let seq = self.shared.seq.fetch_add(1, Relaxed) + 1;
        let kept = self.with_own(|own| {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            // Looked at under the buffer's lock: the last sweep takes this lock after it set the mark.
            if self.shared.closed.load(SeqCst) {
                return false;
            }
            line(&mut own.bytes, seq);
            own.bytes.push(b'\n');
            own.lines += 1;
            if own.bytes.len() >= BUFFER_BYTES {
                self.shared.hand_over(&mut own);
            }
            true
        });
        if kept != Some(true) {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// Hands what this thread has buffered to the writer, which does so by itself every 200 ms.
    pub fn flush_this_thread(&self) {
        self.with_own(|own| self.shared.hand_over(&mut own.lock().unwrap_or_else(PoisonError::into_inner)));
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

    /// Runs `use_it` on this thread's buffer, made at the first use; `None` when the thread is at its end and has none any more.
    fn with_own<T>(&self, use_it: impl FnOnce(&Mutex<Chunk>) -> T) -> Option<T> {
        let own = OWN.try_with(|list| {
            let mut list = list.borrow_mut();
            if let Some((_, own)) = list.iter().find(|(key, _)| *key == self.shared.key) {
                return Arc::clone(own);
            }
            let own = Arc::new(Mutex::new(Chunk::default()));
            self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&own));
            list.push((self.shared.key, Arc::clone(&own)));
            own
        });
        own.ok().map(|own| use_it(&own))
    }
}

impl Shared {
    fn new(enabled: bool, full: SyncSender<Message>) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        Self {
            key: KEYS.fetch_add(1, Relaxed),
            enabled,
            seq: AtomicU64::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            full,
            buffers: Mutex::new(Vec::new()),
            spare: Mutex::new(Vec::new()),
        }
    }

    /// Takes what every thread has buffered, oldest thread first, and forgets threads that ended.
    pub(super) fn take_all(&self) -> Vec<Chunk> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        buffers.retain(|buffer| {
            let mut own = buffer.lock().unwrap_or_else(PoisonError::into_inner);
            if own.lines > 0 {
                taken.push(self.exchange(&mut own));
            }
            // Only this list holds the buffer of a thread that ended.
            Arc::strong_count(buffer) > 1
        });
        taken
    }

    /// Keeps an emptied buffer for the next thread that needs one.
    pub(super) fn recycle(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // A line of unusual length must not keep its memory for good.
        if spare.len() < WAITING_BUFFERS && bytes.capacity() <= 4 * BUFFER_BYTES {
            spare.push(bytes);
        }
    }

    fn hand_over(&self, own: &mut Chunk) {
        if own.lines == 0 {
            return;
        }
        match self.full.try_send(Message::Lines(self.exchange(own))) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Lines(chunk) = message {
                    self.lost.fetch_add(chunk.lines, Relaxed);
                    self.recycle(chunk.bytes);
                }
            }
        }
    }

    fn exchange(&self, own: &mut Chunk) -> Chunk {
        // The writer holds this lock for a push; should it be held just now, a new buffer is made.
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        std::mem::replace(own, Chunk { bytes: spare.unwrap_or_default(), lines: 0 })
    }

    fn wake_writer(&self) {
        // A full queue needs no waking: the writer is at work and looks at the marks after every buffer.
        let _ = self.full.try_send(Message::Look);
    }
}

impl LogWriter {
    /// Writes what every thread still holds and ends the writer, waiting `limit` at the most. Returns whether every line of the run
    /// is written; lines that come later are lost and counted.
    pub fn close(mut self, limit: Duration) -> bool {
        self.log.shared.closed.store(true, SeqCst);
        self.log.shared.wake_writer();
        if self.ended.recv_timeout(limit).is_err() {
            // The disk does not answer. The thread holds nothing that the end of the process would not free.
            return false;
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok()) && self.log.lost() == 0
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
