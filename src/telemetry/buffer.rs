//! The buffer that a worker thread writes its lines into: the thread's alone, so that a line costs no lock and no shared cache line
//! but the one of its number.
//!
//! Nobody else can reach into such a buffer, so its thread has to part with what is in it: when it is full, when its holder says so
//! (every 200 ms, which keeps a quiet thread's line from waiting), and at its end. A thread without one is served by the log itself,
//! behind a lock; that is for threads that serve no requests.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::log::Shared;
use super::writer::Message;

/// Bytes after which a buffer is handed to the writer: about a hundred lines, so that its waking and its write system call cost each of
/// them next to nothing. With 64 KiB there were two futex calls in ten requests, on both sides of the queue.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// What is allocated: the line that makes a buffer full fits too, unless it is of unusual length.
const CAPACITY: usize = BUFFER_BYTES + (8 << 10);
/// Emptied buffers that come back to their thread: what a thread fills while the writer writes. More are freed.
const SPARES: usize = 2;

/// Whole lines on their way.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
    /// Where the bytes' memory goes when they are written.
    home: Option<SyncSender<Vec<u8>>>,
}

impl Chunk {
    /// Appends a line and its break.
    pub(super) fn push(&mut self, line: impl FnOnce(&mut Vec<u8>, u64), seq: u64) {
        line(&mut self.bytes, seq);
        self.bytes.push(b'\n');
        self.lines += 1;
    }

    /// Whether it is worth a write.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BUFFER_BYTES
    }

    /// Adds another's lines behind its own.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        self.bytes.append(&mut other.bytes);
        self.lines += std::mem::take(&mut other.lines);
    }

    /// Gives the memory back to the thread that filled it.
    pub(super) fn recycle(mut self) {
        self.bytes.clear();
        // A line of unusual length must not keep its memory for good. A thread that has enough, or has ended, takes none.
        if let Some(home) = self.home
            && self.bytes.capacity() <= 4 * BUFFER_BYTES
        {
            let _ = home.try_send(self.bytes);
        }
    }
}

/// What one thread has not yet handed over.
struct Own {
    shared: Arc<Shared>,
    chunk: Chunk,
    spares: Receiver<Vec<u8>>,
    home: SyncSender<Vec<u8>>,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// This thread's buffer, for as long as this lives; then what is in it goes to the writer. It stays on its thread.
#[derive(Debug)]
pub struct OwnBuffer {
    made: bool,
    _of_this_thread: PhantomData<*const ()>,
}

impl OwnBuffer {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        let made = shared.enabled
            && OWN.with_borrow_mut(|own| {
                // A thread writes one log. Should it be asked to write another, that one's lines go the way of other threads'.
                let free = own.is_none();
                if free {
                    *own = Some(Own::new(Arc::clone(shared)));
                }
                free
            });
        Self { made, _of_this_thread: PhantomData }
    }
}

impl Drop for OwnBuffer {
    fn drop(&mut self) {
        if self.made {
            // What is inside parts with its lines when it is dropped; without a thread-local it has been already.
            drop(OWN.try_with(RefCell::take));
        }
    }
}

/// Writes a line into this thread's buffer, or else to the lines of threads without one. False when the log is closed.
pub(super) fn append(shared: &Arc<Shared>, line: impl FnOnce(&mut Vec<u8>, u64), seq: u64) -> bool {
    let kept = OWN.try_with(|own| match own.try_borrow_mut().as_deref_mut() {
        Ok(Some(own)) if Arc::ptr_eq(&own.shared, shared) => {
            own.chunk.push(line, seq);
            if own.chunk.is_full() {
                own.hand_over();
            }
            true
        }
        _ => shared.append_stray(line, seq),
    });
    // Without a thread-local the thread is past its end, and so is this line.
    kept.unwrap_or(false)
}

/// Hands over what this thread has, however little. What the queue has no room for stays until there is some. Returns whether this
/// thread has a buffer.
pub(super) fn flush(shared: &Arc<Shared>) -> bool {
    let flushed = OWN.try_with(|own| match own.try_borrow_mut().as_deref_mut() {
        Ok(Some(own)) if Arc::ptr_eq(&own.shared, shared) => {
            own.send();
            true
        }
        _ => false,
    });
    flushed.unwrap_or(false)
}

impl Own {
    fn new(shared: Arc<Shared>) -> Self {
        let (home, spares) = sync_channel(SPARES);
        let chunk = Chunk { bytes: Vec::with_capacity(CAPACITY), lines: 0, home: Some(home.clone()) };
        Self { shared, chunk, spares, home }
    }

    /// Parts with a full buffer, whatever becomes of it: a request does not wait for a disk.
    fn hand_over(&mut self) {
        if !self.send() {
            self.shared.lost.fetch_add(self.chunk.lines, Relaxed);
            self.chunk.bytes.clear();
            self.chunk.lines = 0;
        }
    }

    /// Sends what there is; false when the queue is full, and then it is all still here.
    fn send(&mut self) -> bool {
        if self.chunk.lines == 0 {
            return true;
        }
        match self.shared.full.try_send(Message::Lines(std::mem::take(&mut self.chunk))) {
            Ok(()) => {
                self.chunk.bytes = self.spares.try_recv().unwrap_or_else(|_| Vec::with_capacity(CAPACITY));
                self.chunk.home = Some(self.home.clone());
                true
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Lines(chunk) = message {
                    self.chunk = chunk;
                }
                false
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // The last lines of a thread are few and nobody waits for it: a queue that is full just now does not cost them.
        if !self.send() {
            self.shared.take_over(&mut self.chunk);
        }
    }
}
