//! The metered body: passes a response on, looks at what it has passed on, and finishes exactly once.
//!
//! A chunk is handed over first and looked at when the next one is asked for, so that no reading of ours delays a token. The
//! exchange lives in here; when the body ends, fails or is dropped because the client left, so does the exchange, and its record is
//! written then.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::edit::Edit;
use super::exchange::Exchange;
use super::forward::UsageEvent;
use super::headers;
use super::pinned::{self, Keeps};
use super::pool::Buffered;
use super::reject::Error;
use crate::dialect::Dialect;
use crate::record::Ended;
use crate::upstream::{BodyError, UpstreamBody};
use crate::wire::Operation;
use crate::wire::fields::{Fields, Name};
use crate::wire::strip::UsageStripper;
use crate::wire::translate::{self, Answer};
use crate::wire::usage::{Meter, StreamError};

/// The code of a stream in which the backend said that it failed ..
const BACKEND_ERROR_EVENT: &str = "backend_error_event";
/// .. and of one in which it found fault with the request.
const REQUEST_ERROR_EVENT: &str = "request_error_event";
/// The code of an exchange that had its time, although its backend was never silent for too long.
pub(super) const NO_END: &str = "total_timeout";
/// .. and of one whose backend was.
pub(super) const SILENT: &str = "idle_timeout";
/// The same of an answer in one piece that is an error under a status of success.
const BACKEND_ERROR_BODY: &str = "backend_error_body";
const REQUEST_ERROR_BODY: &str = "request_error_body";
/// The code of an answer that ended in the middle because it cannot be said in the client's dialect, or is none of the backend's.
const UNTRANSLATABLE: &str = "untranslatable_answer";
/// The code of one that ended so because there was no room to hold what has to be held of it until it can be translated.
const NO_ROOM: &str = "no_room_to_translate";

/// Whether a code says that the backend is not to blame: it found fault with the request, or had no part in it.
pub(super) fn clears_backend(code: Option<&str>) -> bool {
    matches!(code, Some(REQUEST_ERROR_EVENT | REQUEST_ERROR_BODY | NO_ROOM))
}

/// A response body that has its time, also when nobody asks it for more: a client that hardly reads asks for nothing, and would
/// otherwise have a backend's place for as long as it likes.
pub trait Limited: http_body::Body {
    /// When it is to be let go of at the latest, by whoever passes it on.
    fn until(&self) -> Option<Instant>;
}

/// A response body as the proxy sends it.
#[derive(Debug)]
pub enum Body {
    /// Bytes of Windward's own.
    Fixed(http_body_util::Full<Bytes>),
    /// A backend's, metered.
    Relay(Box<Metered>),
}

/// A backend's response body on its way to the client.
#[derive(Debug)]
pub struct Metered {
    upstream: UpstreamBody,
    exchange: Box<Exchange>,
    meter: Meter,
    edit: Option<Edit>,
    /// What the edit holds, among all that is held.
    held: Option<Buffered>,
    /// What the edit let go and nobody took yet.
    ready: VecDeque<Bytes>,
    /// Trailers, until what came before them is gone.
    trailers: Option<Frame<Bytes>>,
    /// Handed over, not yet looked at.
    unread: Option<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    progress: Instant,
    /// Whether the next frame is waited for: it was asked for and not there.
    waits: bool,
    /// How long frames lay ready that nobody asked for: the client's pace, and not the backend's.
    held_up: Duration,
    deadline: Instant,
    upstream_done: bool,
    /// It has said that it is over, or all of it is handed over. Official SDKs hang up here, before the body of a stream ends.
    said_done: bool,
    /// How it ended, once it has. After a break the error is handed over at the next poll.
    ended: Option<Ended>,
}

/// Why a body that was begun is cut.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The backend broke off.
    #[error("the backend broke off its response")]
    Upstream,
    /// The client broke off its request while it was answered.
    #[error("the client broke off its request")]
    Client,
    /// The backend sent nothing for too long, or the exchange took too long.
    #[error("the backend's response made no progress in time")]
    TimedOut,
}

/// What a body says when it is asked for more.
type Polled = Poll<Option<Result<Frame<Bytes>, Cut>>>;

impl Metered {
    /// A body whose head had these fields. `translated` is its way into the client's dialect, where that is another.
    pub(super) fn new(
        upstream: UpstreamBody,
        fields: &Fields,
        usage_event: UsageEvent,
        translated: Option<Box<Answer>>,
        mut exchange: Box<Exchange>,
    ) -> Box<Self> {
        let content = Content::of(fields);
        if matches!(content, Content::Events | Content::Frames) {
            exchange.let_go_of_heads();
        }
        let meter = meter_for(content, fields, &exchange);
        let strip = match usage_event {
            UsageEvent::Strip if content == Content::Events => Some(UsageStripper::new()),
            UsageEvent::StripEach if content == Content::Events => Some(UsageStripper::of_each()),
            _ => None,
        };
        let edit = translated.map(Edit::Translate).or_else(|| strip.map(Edit::Strip));
        let timeouts = exchange.serving.as_ref().map(|(backend, _)| backend.timeouts).unwrap_or_default();
        // Written where it stays, as the exchange is: named before, it would be copied. Its head came just now.
        let mut metered = Box::write(
            Box::new_uninit(),
            Self {
                upstream_done: upstream.is_end_stream(),
                deadline: exchange.begun + timeouts.total,
                idle: timeouts.idle,
                progress: exchange.attempts.last().map_or(exchange.begun, |attempt| attempt.ended),
                waits: false,
                held_up: Duration::ZERO,
                upstream,
                exchange,
                meter,
                edit,
                held: None,
                ready: VecDeque::new(),
                trailers: None,
                unread: None,
                wait: None,
                said_done: false,
                ended: None,
            },
        );
        if metered.upstream_done {
            metered.release_held();
            if metered.is_through() {
                metered.finish(Ended::Complete);
            }
        }
        metered
    }

    /// Whether the response is of another length than the backend's.
    pub(super) fn changes_length(&self) -> bool {
        self.edit.is_some()
    }

    /// Whether nothing is left to be handed over, and nothing is missing.
    fn is_through(&self) -> bool {
        let broken = self.edit.as_ref().is_some_and(|edit| edit.broken().is_some());
        self.upstream_done && self.ready.is_empty() && self.trailers.is_none() && !broken
    }

    fn look(&mut self) {
        if let Some(chunk) = self.unread.take() {
            self.meter.feed(&chunk);
            if self.exchange.keeps == Keeps::Answer {
                pinned::remember(&mut self.exchange, &mut self.meter, false);
            }
            self.said_done |= chunk.ends_with(b"data: [DONE]\n\n") || self.meter.saw_last_event();
            if self.exchange.first_token.is_none() && self.meter.saw_first_data() {
                self.exchange.held_up = self.held_up;
                self.exchange.saw_first_data(|| self.meter.error().is_none(), self.progress);
            }
        }
    }

    fn finish(&mut self, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(ended);
        self.look();
        self.exchange.held_up = self.held_up;
        self.exchange.usage = self.meter.finish();
        self.exchange.clocked = self.meter.clocked();
        self.exchange.ended = ended;
        if self.exchange.keeps != Keeps::Nothing && ended == Ended::Complete {
            pinned::remember(&mut self.exchange, &mut self.meter, true);
        }
        self.exchange.response_model = self.meter.model();
        if let Some(geo) = self.meter.inference_geo() {
            self.exchange.evidence = Some(format!("inference_geo={geo}").into());
        }
        // An error of any other status says so by that.
        let reads = self.meter.reads_events() || self.exchange.status.is_success();
        if let Some(error) = self.meter.error().filter(|_| reads && matches!(ended, Ended::Complete | Ended::ClientGone)) {
            // An SDK hangs up on it, and with or without its last chunk it is no answer. No byte of it is held back.
            self.exchange.ended = Ended::UpstreamBroke;
            self.exchange.error = Some(match (error, self.meter.reads_events()) {
                (StreamError::Request, true) => REQUEST_ERROR_EVENT,
                (StreamError::Request, false) => REQUEST_ERROR_BODY,
                (_, true) => BACKEND_ERROR_EVENT,
                (_, false) => BACKEND_ERROR_BODY,
            });
            if let StreamError::Full { whole } = error {
                self.exchange.is_full = Some(whole);
            }
        }
    }

    /// Hands a chunk over. The last one is looked at when the body is let go of, which is once it is written; but what a client may ask
    /// for by a name that it finds there has to be known before.
    fn hand_over(&mut self, chunk: Bytes) -> Polled {
        self.exchange.passed_on(&chunk);
        if self.is_through() {
            self.said_done = true;
            self.exchange.give_back_places();
            if self.exchange.keeps != Keeps::Nothing {
                self.finish(Ended::Complete);
            }
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.ended {
            Some(Ended::UpstreamBroke) => return Poll::Ready(Some(Err(Cut::Upstream))),
            Some(Ended::ClientGone) => return Poll::Ready(Some(Err(Cut::Client))),
            _ => {}
        }
        loop {
            self.look();
            if let Some(chunk) = self.ready.pop_front() {
                return self.hand_over(chunk);
            }
            if self.breaks() {
                // As below.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(trailers) = self.trailers.take() {
                // Nothing comes after them, and the body is dropped without being asked whether something does.
                self.finish(Ended::Complete);
                return Poll::Ready(Some(Ok(trailers)));
            }
            if self.ended.is_some() || self.upstream_done {
                self.finish(Ended::Complete);
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.upstream).poll_frame(cx) {
                Poll::Pending => {
                    self.waits = true;
                    return self.poll_wait(cx);
                }
                Poll::Ready(None) => {
                    self.upstream_done = true;
                    self.exchange.over.get_or_insert_with(|| self.exchange.shared.clock.monotonic());
                    self.release_held();
                }
                Poll::Ready(Some(Err(error))) => {
                    self.broke(&error);
                    // What came before the break may still be in hyper's buffer, and an error now would throw it away.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(handed) = self.arrived(frame) {
                        return handed;
                    }
                }
            }
        }
    }

    /// A frame has come: what the client gets of it as it is, or nothing yet.
    fn arrived(&mut self, frame: Frame<Bytes>) -> Option<Polled> {
        let now = self.exchange.shared.clock.monotonic();
        if !std::mem::take(&mut self.waits) {
            self.held_up += now - self.progress;
        }
        self.progress = now;
        self.upstream_done = self.upstream.is_end_stream();
        if self.progress >= self.deadline && !self.upstream_done {
            // Of a backend that always has something the wait for more never learns.
            self.exchange.error = Some(NO_END);
            self.finish(Ended::TimedOut);
            return Some(Poll::Ready(Some(Err(Cut::TimedOut))));
        }
        match frame.into_data() {
            Ok(chunk) => {
                self.unread = Some(chunk.clone());
                self.exchange.over = self.upstream_done.then_some(now);
                match &mut self.edit {
                    None => {
                        // Over HTTP/2 the end may come apart from the last byte that was announced, and who has that may leave.
                        self.said_done |= self.upstream.size_hint().exact() == Some(0);
                        return Some(self.hand_over(chunk));
                    }
                    Some(edit) => edit.feed(&chunk, &mut self.ready),
                }
                self.count_held();
                if self.upstream_done {
                    self.release_held();
                }
            }
            Err(trailers) => {
                // A chunked body from HTTP/1.1 does not say that it is over even now.
                self.upstream_done = true;
                self.release_held();
                self.trailers = self.exchange.takes_trailers.then(|| headers::kept_trailers(trailers)).flatten();
            }
        }
        None
    }

    /// Ends it where it cannot be translated, once all is handed over that could be.
    fn breaks(&mut self) -> bool {
        let Some(broken) = self.edit.as_ref().and_then(Edit::broken).filter(|_| self.ended.is_none()) else { return false };
        tracing::warn!(id = ?self.exchange.id, why = %broken, "an answer cannot be translated");
        self.exchange.error = Some(if broken == translate::NO_ROOM { NO_ROOM } else { UNTRANSLATABLE });
        self.finish(Ended::UpstreamBroke);
        true
    }

    /// The response ended before its end, or the request that it answers did.
    fn broke(&mut self, error: &BodyError) {
        let clients = matches!(error, BodyError::Upload);
        if let Some(upload) = self.exchange.upload.as_ref().filter(|_| clients) {
            let why = upload.why_failed();
            self.exchange.error = (!matches!(why, Error::ClientGone)).then(|| why.code());
        }
        self.finish(if clients { Ended::ClientGone } else { Ended::UpstreamBroke });
    }

    fn release_held(&mut self) {
        if let Some(edit) = &mut self.edit {
            edit.finish(&mut self.ready);
            self.count_held();
        }
    }

    /// Counts what is held of an answer among the bytes that all requests hold together.
    fn count_held(&mut self) {
        let Some(edit) = &mut self.edit else { return };
        let held = edit.held();
        if held == 0 && self.held.is_none() {
            return;
        }
        let buffered = self.held.get_or_insert_with(|| Buffered::none(&self.exchange.shared.buffered));
        if !buffered.hold(held, &self.exchange.snapshot.plan.limits) {
            edit.give_up();
            self.held = None;
        }
    }

    /// One timer for the whole body, set anew only when it fires early: most responses end before it ever does.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let first = self.idle.min(self.deadline.saturating_duration_since(self.progress));
            let clock = &self.exchange.shared.clock;
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(clock.timer(first))));
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = clock.monotonic();
            if self.exchange.upload.as_ref().is_some_and(|upload| upload.is_clients()) {
                // An answer that was begun may go on only when the client has; that wait has a limit of its own.
                self.progress = now;
            }
            let silent_until = self.progress + self.idle;
            let until = silent_until.min(self.deadline);
            if now >= until {
                self.exchange.error = Some(if now < silent_until { NO_END } else { SILENT });
                self.finish(Ended::TimedOut);
                return Poll::Ready(Some(Err(Cut::TimedOut)));
            }
            wait.as_mut().reset(tokio::time::Instant::now() + clock.timer(until - now));
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.look();
        let late = !self.said_done && self.exchange.shared.clock.monotonic() >= self.deadline;
        if late {
            self.exchange.error = Some(NO_END);
        }
        self.finish(match (self.said_done, late) {
            (true, _) => Ended::Complete,
            (false, true) => Ended::TimedOut,
            (false, false) => Ended::ClientGone,
        });
    }
}

/// What is here as a whole keeps nobody else waiting.
impl Limited for http_body_util::Full<Bytes> {
    fn until(&self) -> Option<Instant> {
        None
    }
}

impl Limited for Body {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Fixed(body) => body.until(),
            Self::Relay(body) => Some(body.deadline).filter(|_| body.ended.is_none() && !body.is_through()),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Fixed(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relay(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fixed(body) => body.is_end_stream(),
            Self::Relay(body) => {
                let cut = matches!(body.ended, None | Some(Ended::UpstreamBroke | Ended::ClientGone));
                body.is_through() || !cut && body.ready.is_empty()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fixed(body) => body.size_hint(),
            Self::Relay(body) if body.edit.is_some() => SizeHint::default(),
            Self::Relay(body) => body.upstream.size_hint(),
        }
    }
}

/// What a body is, as far as it can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Events,
    /// Events in AWS's frames.
    Frames,
    Json,
    Other,
}

impl Content {
    fn of(fields: &Fields) -> Self {
        match fields.get(Name::ContentType) {
            Some(value) if value.starts_with(b"text/event-stream") => Self::Events,
            Some(value) if value.starts_with(b"application/json") => Self::Json,
            Some(value) if value.starts_with(b"application/vnd.amazon.eventstream") => Self::Frames,
            _ => Self::Other,
        }
    }
}

/// What can be read of this body.
fn meter_for(content: Content, fields: &Fields, x: &Exchange) -> Meter {
    let encoded = fields.has(Name::ContentEncoding);
    let Some(operation) = x.operation_there() else {
        let reads = content == Content::Json && x.keeps == Keeps::Things && !encoded;
        return if reads { Meter::things() } else { Meter::off() };
    };
    match content {
        _ if encoded => Meter::off(),
        Content::Events => Meter::sse(operation).telling_id(x.keeps == Keeps::Answer),
        Content::Frames => Meter::event_stream(),
        Content::Json if operation == Operation::Embeddings && x.dialect() == Dialect::Gemini => Meter::embeddings_of_google(),
        Content::Json => Meter::json(operation, fields),
        Content::Other => Meter::off(),
    }
}
