//! A request body that is passed on as it comes, and the wait for the answer to it.
//!
//! Two parties can hold up an upload, and each has a limit of its own: the client, who sends the next piece within
//! `limits.body_progress`, and the backend, which takes it, or begins its answer, within `timeouts.first_byte`. So it is written
//! down whose turn it is; else a client on a slow line would cost a backend its health, or a dead backend would hide behind one.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::exchange::Proof;
use super::intake::{broken, due, fits};
use super::reject::Error;
use crate::config::Limits;
use crate::upstream::BoxError;

/// Whose turn it is while a body is on its way: the backend's since a moment, or the client's.
#[derive(Debug)]
pub(super) struct Turn {
    begun: Instant,
    /// Microseconds from `begun` to when the backend was last given something, or [`CLIENTS`].
    backends_since: AtomicU64,
    /// Bytes that the client has sent.
    carried: AtomicU64,
    /// Why the body failed, if it did. Of a body that fails on its way over HTTP/2 hyper tells no more than that.
    failed: OnceLock<Error>,
}

/// It is the client's turn.
const CLIENTS: u64 = u64::MAX;

impl Turn {
    /// The backend's, from `begun` on.
    pub(super) fn new(begun: Instant) -> Arc<Self> {
        Arc::new(Self { begun, backends_since: AtomicU64::new(0), carried: AtomicU64::new(0), failed: OnceLock::new() })
    }

    fn to_client(&self) {
        self.backends_since.store(CLIENTS, Relaxed);
    }

    fn to_backend(&self, now: Instant) {
        let since = now.saturating_duration_since(self.begun).as_micros();
        self.backends_since.store(u64::try_from(since).unwrap_or(CLIENTS - 1), Relaxed);
    }

    /// Bytes that came so far.
    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Relaxed)
    }

    /// What to tell the client whose body failed.
    pub(super) fn why_failed(&self) -> Error {
        match self.failed.get() {
            Some(Error::TooLarge { limit }) => Error::TooLarge { limit: *limit },
            Some(Error::BodyStalled) => Error::BodyStalled,
            Some(Error::ClientGone) => Error::ClientGone,
            _ => Error::BodyBroken,
        }
    }

    /// Whether the client is to go on; the backend may have begun its answer and wait for it too.
    pub(super) fn is_clients(&self) -> bool {
        self.backends_since().is_none()
    }

    /// Since when it is the backend's; `None` while it is the client's.
    fn backends_since(&self) -> Option<Instant> {
        let since = Some(self.backends_since.load(Relaxed)).filter(|since| *since != CLIENTS)?;
        Some(self.begun + Duration::from_micros(since))
    }
}

/// Whose time was up before there was an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// The backend's, to take the next piece or to begin its answer.
    Backend,
    /// That of the whole exchange, while neither waited for too long.
    Whole,
}

/// Waits for `answer`: for the backend `first_byte` from whenever it was last given something, and never beyond `whole`. The
/// client's own limit ends the body, and with it the answer.
pub(super) async fn in_time<T>(
    answer: impl Future<Output = T>,
    turn: &Turn,
    first_byte: Duration,
    whole: Instant,
) -> Result<T, Late> {
    let mut answer = pin!(answer);
    loop {
        // While it is the client's turn the backend's time has not begun.
        let due = turn.backends_since().unwrap_or_else(Instant::now) + first_byte;
        if let Ok(answer) = timeout_at(due.min(whole), &mut answer).await {
            return Ok(answer);
        }
        let (now, since) = (Instant::now(), turn.backends_since());
        match since {
            Some(since) if now >= since + first_byte => return Err(Late::Backend),
            _ if now >= whole => return Err(Late::Whole),
            _ => {}
        }
    }
}

/// A body whose sender has to go on, and not for ever.
#[derive(Debug)]
pub(super) struct Paced<B> {
    body: B,
    turn: Arc<Turn>,
    /// `limits.body_progress`.
    progress: Duration,
    /// `limits.upload`.
    most: u64,
    /// Bytes that came.
    length: u64,
    /// How long they were waited for, the time in which the backend took none not counted.
    waited: Duration,
    waiting_since: Option<Instant>,
    /// Set anew only when it fires early: most chunks come before it ever does.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, limits: &Limits, turn: &Arc<Turn>) -> Self {
        let (turn, progress, most) = (Arc::clone(turn), limits.body_progress, limits.upload);
        Self { body, turn, progress, most, length: 0, waited: Duration::ZERO, waiting_since: None, timer: None }
    }

    fn came(&mut self, bytes: usize) {
        let now = Instant::now();
        self.waited += self.waiting_since.take().map_or(Duration::ZERO, |since| now - since);
        self.length += bytes as u64;
        self.turn.carried.store(self.length, Relaxed);
        self.turn.to_backend(now);
    }

    /// Ends it, for that reason unless there was one before.
    fn fail(&self, why: Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Err(self.turn.failed.get_or_init(|| why).to_string().into())))
    }

    /// Whether a frame is one byte too many.
    fn is_too_much(&self, frame: &Frame<Bytes>) -> bool {
        frame.data_ref().is_some_and(|data| self.length + data.len() as u64 > self.most)
    }

    /// Ready when the client has had its time.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        self.turn.to_client();
        let begun = since.checked_sub(self.waited).unwrap_or(since);
        // What is signed has been read whole before it goes on.
        let due = due(begun, since, self.length as usize, self.progress, Proof::Shown);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = self.get_mut();
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if !fits(&frame) => me.fail(Error::BodyBroken),
            Poll::Ready(Some(Ok(frame))) if me.is_too_much(&frame) => me.fail(Error::TooLarge { limit: me.most }),
            Poll::Ready(frame) => {
                me.came(frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| {
                        let error = error.into();
                        me.turn.failed.get_or_init(|| broken(&*error));
                        error
                    })
                }))
            }
            Poll::Pending => {
                ready!(me.poll_wait(cx));
                me.fail(Error::BodyStalled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Paced<B> {
    /// Nobody wants more of it: what there is to wait for is the answer.
    fn drop(&mut self) {
        self.turn.to_backend(Instant::now());
    }
}

/// A body of which `clean` looks through the trailers. It says how long it is, as the client did: without that it would go out in
/// chunks, which not every backend takes.
#[derive(Debug)]
pub(super) struct Cleaned<B, F> {
    pub(super) body: B,
    pub(super) clean: F,
}

impl<B, F> Body for Cleaned<B, F>
where
    B: Body<Data = Bytes> + Unpin,
    F: Fn(Frame<Bytes>) -> Frame<Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let me = self.get_mut();
        let frame = ready!(Pin::new(&mut me.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| if frame.is_trailers() { (me.clean)(frame) } else { frame })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;

    use super::*;

    const PROGRESS: Duration = Duration::from_secs(30);
    const FIRST_BYTE: Duration = Duration::from_mins(5);

    struct Sent(mpsc::Receiver<Bytes>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn upload() -> (mpsc::Sender<Bytes>, Paced<Sent>, Arc<Turn>) {
        let (sender, chunks) = mpsc::channel(1);
        let turn = Turn::new(Instant::now());
        (sender, Paced::new(Sent(chunks), &limits(), &turn), turn)
    }

    fn limits() -> Limits {
        Limits { body_progress: PROGRESS, upload: 4 << 20, ..Limits::default() }
    }

    #[tokio::test]
    async fn a_body_ends_with_the_piece_that_is_too_much() {
        let (sender, mut body, turn) = upload();
        for fits in [true, true, false] {
            sender.send(Bytes::from(vec![b'a'; 2 << 20])).await.unwrap();
            assert_eq!(body.frame().await.unwrap().is_ok(), fits);
        }
        assert!(matches!(turn.why_failed(), Error::TooLarge { limit: 0x40_0000 }));
        assert_eq!(turn.carried(), 4 << 20, "what is too much is not passed on");
    }

    #[tokio::test]
    async fn trailers_of_more_fields_than_may_be_end_it_as_broken() {
        let name = http::HeaderName::from_static("x");
        for (fields, fits) in [(100, true), (101, false)] {
            let trailers = std::iter::repeat_n((name.clone(), http::HeaderValue::from_static("y")), fields).collect();
            let sent = http_body_util::Empty::<Bytes>::new().with_trailers(std::future::ready(Some(Ok(trailers))));
            let turn = Turn::new(Instant::now());
            let mut body = Paced::new(sent, &limits(), &turn);
            assert_eq!(body.frame().await.unwrap().is_ok(), fits, "{fields}");
            assert_eq!(turn.failed.get().is_some_and(|error| matches!(error, Error::BodyBroken)), !fits, "{fields}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_ends_by_its_own_limit() {
        let (sender, mut body, turn) = upload();
        sender.send(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert_eq!(turn.carried(), 3);
        let begun = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), Error::BodyStalled.to_string());
        assert!(matches!(turn.why_failed(), Error::BodyStalled));
        assert_eq!(begun.elapsed().as_secs(), PROGRESS.as_secs());
        drop(body);
        assert_eq!(turn.backends_since(), Some(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_no_progress() {
        let (sender, mut body, _turn) = upload();
        let begun = Instant::now();
        tokio::spawn(async move {
            while sender.send(Bytes::from_static(b"a")).await.is_ok() {
                tokio::time::sleep(PROGRESS / 2).await;
            }
        });
        while body.frame().await.unwrap().is_ok() {}
        assert!(begun.elapsed() < 2 * PROGRESS, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_the_backend_takes_nothing_is_not_the_clients() {
        let (sender, mut body, _turn) = upload();
        for _ in 0..10 {
            sender.send(Bytes::from_static(b"a")).await.unwrap();
            tokio::time::sleep(PROGRESS).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_backend_has_its_time_from_the_last_piece_on() {
        let (sender, mut body, turn) = upload();
        let begun = Instant::now();
        let whole = begun + 10 * FIRST_BYTE;
        tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(PROGRESS * 29 / 30).await;
                sender.send(Bytes::from(vec![b'a'; 64 << 10])).await.unwrap();
            }
        });
        tokio::spawn(async move { while body.frame().await.is_some() {} });
        assert_eq!(in_time(pending::<()>(), &turn, FIRST_BYTE, whole).await, Err(Late::Backend));
        assert_eq!(begun.elapsed().as_secs(), 20 * 29 + FIRST_BYTE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_ends_it_whoever_is_to_go_on() {
        let (_sender, mut body, turn) = upload();
        let whole = Instant::now() + PROGRESS / 2;
        assert_eq!(in_time(pending::<()>(), &turn, FIRST_BYTE, whole).await, Err(Late::Whole));
        poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
        assert_eq!(in_time(pending::<()>(), &turn, FIRST_BYTE, whole).await, Err(Late::Whole));
        assert_eq!(in_time(async {}, &turn, FIRST_BYTE, whole).await, Ok(()), "an answer that is there is taken");
    }
}
