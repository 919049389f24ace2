//! What the parts of one connection tell each other: how many requests were begun and ended, and whether it is time to go.
//!
//! hyper does not say when a connection is idle, and a token to be cancelled would put a lock shared by all connections into every
//! poll of each. So every connection has a few atomics of its own; whoever wants it to end sets a mark and wakes its task.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::proxy::Limited;

/// What a response's body did when it was last asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyPolled {
    /// It was not asked.
    Not,
    /// It had nothing: a backend is waited for.
    Waits,
    /// It gave something, and was not asked again.
    Gave,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct ConnState {
    opened: Instant,
    begun: AtomicU32,
    ended: AtomicU32,
    received: AtomicBool,
    dismissed: AtomicBool,
    half_head: AtomicBool,
    uploads: AtomicBool,
    look: AtomicBool,
    refused: AtomicBool,
    switched: AtomicBool,
    flooded: AtomicBool,
    open_end: AtomicBool,
    body: AtomicU8,
    /// Milliseconds after `opened`, and none is [`NO_END`].
    body_until_ms: AtomicU64,
    task: OnceLock<Waker>,
}

/// A body that may take any time.
const NO_END: u64 = u64::MAX;

impl Default for ConnState {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            begun: AtomicU32::default(),
            ended: AtomicU32::default(),
            received: AtomicBool::default(),
            dismissed: AtomicBool::default(),
            half_head: AtomicBool::default(),
            uploads: AtomicBool::default(),
            look: AtomicBool::default(),
            refused: AtomicBool::default(),
            switched: AtomicBool::default(),
            flooded: AtomicBool::default(),
            open_end: AtomicBool::default(),
            body: AtomicU8::default(),
            body_until_ms: AtomicU64::new(NO_END),
            task: OnceLock::default(),
        }
    }
}

impl ConnState {
    /// Requests begun and ended so far.
    pub(super) fn requests(&self) -> (u32, u32) {
        (self.begun.load(Relaxed), self.ended.load(Relaxed))
    }

    /// Asks the connection's task to finish what it has and to close.
    pub(super) fn dismiss(&self) {
        self.dismissed.store(true, SeqCst);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.load(SeqCst)
    }

    /// Bytes arrived.
    pub(super) fn received(&self) {
        self.received.store(true, Relaxed);
    }

    /// Whether bytes arrived since this was last asked, or since the last request ended: what came before belonged to it.
    pub(super) fn take_received(&self) -> bool {
        self.received.load(Relaxed) && self.received.swap(false, Relaxed)
    }

    /// Whether part of a head is kept that nobody else knows of.
    pub(super) fn keeps_part_of_head(&self, keeps: bool) {
        self.half_head.store(keeps, Relaxed);
    }

    /// Whether a request's body is on its way.
    pub(super) fn uploads(&self, uploads: bool) {
        self.uploads.store(uploads, Relaxed);
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.uploads.load(Relaxed)
    }

    /// Asks whoever has the socket to look for its end.
    pub(super) fn look_for_end(&self) {
        self.look.store(true, Relaxed);
    }

    /// Whether that was asked since this was last called.
    pub(super) fn take_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    /// Whether it may be ended: not with half a head, whose sender counts on an answer as others do.
    pub(super) fn is_dismissible(&self) -> bool {
        !self.half_head.load(Relaxed)
    }

    /// A message was refused before it became a request.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Its peer sent too many frames that bring no stream forward.
    pub(super) fn flood(&self) {
        self.flooded.store(true, Relaxed);
    }

    pub(super) fn was_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// Whether a body is being sent of which only the end of the connection says that it is whole.
    fn within_open_end(&self, within: bool) {
        self.open_end.store(within, Relaxed);
    }

    pub(super) fn is_within_open_end(&self) -> bool {
        self.open_end.load(Relaxed)
    }

    /// Notes what a body did. One note is enough for all of a connection's streams: they are polled by one thread, one after another,
    /// and whoever polls one looks at once.
    pub(super) fn body_polled(&self, polled: BodyPolled) {
        self.body.store(polled as u8, Relaxed);
    }

    pub(super) fn last_body(&self) -> BodyPolled {
        match self.body.load(Relaxed) {
            1 => BodyPolled::Waits,
            2 => BodyPolled::Gave,
            _ => BodyPolled::Not,
        }
    }

    /// A response begins whose body has its time until then; noted and read as above.
    fn body_has_until(&self, until: Option<Instant>) {
        // Rounded up, so that it is over when the clock says so.
        let until_ms = until.map(|until| until.saturating_duration_since(self.opened).as_millis() as u64 + 1);
        self.body_until_ms.store(until_ms.unwrap_or(NO_END), Relaxed);
    }

    /// Until when the body has its time, of which that was said last; `None` once its request has ended.
    pub(super) fn body_until(&self) -> Option<Instant> {
        let until_ms = Some(self.body_until_ms.load(Relaxed)).filter(|until_ms| *until_ms != NO_END)?;
        self.opened.checked_add(Duration::from_millis(until_ms))
    }

    /// The same, said once: by whoever has many bodies.
    pub(super) fn take_body_until(&self) -> Option<Instant> {
        let until = self.body_until()?;
        self.body_until_ms.store(NO_END, Relaxed);
        Some(until)
    }

    /// Whether it speaks another protocol than HTTP, or will when the response is out that agrees to it.
    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Relaxed)
    }

    /// Notes the task to wake; a task's waker stays the same for its life.
    pub(super) fn run_by(&self, task: &Waker) {
        if self.task.get().is_none() {
            let _ = self.task.set(task.clone());
        }
    }
}

/// One request in progress, until dropped.
#[derive(Debug)]
pub(super) struct InProgress(Arc<ConnState>);

impl InProgress {
    pub(super) fn begin(state: &Arc<ConnState>) -> Self {
        state.begun.fetch_add(1, Relaxed);
        Self(Arc::clone(state))
    }

    /// Whether its connection is to end, and with it every later request on it.
    pub(super) fn is_the_last(&self) -> bool {
        self.0.is_dismissed()
    }

    /// Its response agrees to another protocol: what follows on the connection is not HTTP.
    pub(super) fn switch(&self) {
        self.0.switched.store(true, Relaxed);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.received.store(false, Relaxed);
        self.0.body_until_ms.store(NO_END, Relaxed);
        self.0.ended.fetch_add(1, Relaxed);
    }
}

pin_project! {
    /// A response body that counts as a request in progress until hyper has done with it.
    #[derive(Debug)]
    pub(super) struct TrackedBody<B> {
        #[pin]
        body: B,
        request: InProgress,
        // Whether the client takes the end of the connection for its end.
        open_end: bool,
    }
}

impl<B: Limited> TrackedBody<B> {
    /// `open_end` for a client that takes the end of the connection for the body's.
    pub(super) fn new(body: B, request: InProgress, open_end: bool) -> Self {
        request.0.body_has_until(body.until().map(Instant::from_std));
        Self { body, request, open_end }
    }
}

impl<B: Body<Data = Bytes>> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        this.request.0.body_polled(if frame.is_pending() { BodyPolled::Waits } else { BodyPolled::Gave });
        if *this.open_end
            && let Poll::Ready(ready) = &frame
        {
            this.request.0.within_open_end(ready.is_some());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.body.is_end_stream();
        // Who asks does not poll for the end after that.
        if ended && self.open_end {
            self.request.0.within_open_end(false);
        }
        ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The connections of one worker, so that all can be dismissed.
#[derive(Debug, Default)]
pub(super) struct Connections {
    next: AtomicU64,
    closing: AtomicBool,
    open: Mutex<HashMap<u64, Arc<ConnState>>>,
}

/// A connection's entry, until dropped.
#[derive(Debug)]
pub(super) struct Entry {
    key: u64,
    connections: Arc<Connections>,
    pub(super) state: Arc<ConnState>,
}

impl Connections {
    pub(super) fn enter(self: &Arc<Self>) -> Entry {
        let (key, state) = (self.next.fetch_add(1, Relaxed), Arc::new(ConnState::default()));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&state));
        if self.closing.load(SeqCst) {
            state.dismiss();
        }
        Entry { key, connections: Arc::clone(self), state }
    }

    /// Dismisses all, and those that come later at once.
    pub(super) fn dismiss_all(&self) {
        self.closing.store(true, SeqCst);
        let open: Vec<_> = self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for state in open {
            state.dismiss();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
