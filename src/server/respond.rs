//! Writes a response of a [`Link`] as it comes: what a body has ready is put together, written at once, and never held back.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::accepted::SeesEnd;
use super::date;
use super::direct::Link;
use super::guard::WRITE_STALL;
use super::outgoing::Outgoing;
use crate::proxy::Limited;
use crate::upstream::{others_first, wake_after_others};
use crate::wire::message::{Message, ResponseHead};
use crate::wire::reply::{self, Framed, Size};

/// What a response answers.
pub(super) struct Occasion {
    pub(super) method: Method,
    /// Whether another request may follow, as far as the client and this server are concerned.
    pub(super) keeps_alive: bool,
}

/// What became of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is out, and another request may come.
    KeepsAlive,
    /// It is out, and was the last.
    Closes,
    /// It is not out, and cannot be: the client left or takes nothing, or the body broke.
    Broken,
}

/// A response on its way out.
struct Sending {
    framed: Framed,
    outgoing: Outgoing,
    /// Whether the body ended otherwise than announced.
    broken: bool,
    /// Whether something was written since the last flush.
    unflushed: bool,
    end: End,
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The body may have more.
    Open,
    /// It gave all that it had, and others go first.
    Over,
    /// Others have.
    Next,
}

/// What a body did when it was asked for more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathered {
    /// It has nothing for now.
    Waits,
    /// There is enough for one write.
    Enough,
    /// There is no more.
    All,
}

impl<IO: AsyncRead + AsyncWrite + SeesEnd + Unpin> Link<IO> {
    /// Writes a response to its end, and lets go of its body only then: with it the books of the exchange are closed, for which the
    /// client does not wait. Dropping the future drops the body.
    pub(super) async fn respond<B: Limited<Data = Bytes>>(
        &mut self,
        response: Message<ResponseHead, B>,
        occasion: Occasion,
    ) -> Written {
        self.write_until = response.body.until().map(Instant::from_std);
        let (mut sending, body) = begin(response, &occasion);
        let mut body = pin!(body);
        let written = poll_fn(|cx| self.poll_sending(&mut sending, body.as_mut(), cx)).await;
        if body.is_some() {
            others_first().await;
        }
        written
    }

    fn poll_sending<B: Body<Data = Bytes>>(
        &mut self,
        sending: &mut Sending,
        mut body: Pin<&mut Option<B>>,
        cx: &mut Context<'_>,
    ) -> Poll<Written> {
        let mut waits = false;
        loop {
            if !waits && !sending.outgoing.is_full() {
                waits = sending.gather(body.as_mut(), cx) == Gathered::Waits;
            }
            if sending.end == End::Over {
                sending.end = End::Next;
                wake_after_others(cx);
                return Poll::Pending;
            }
            if !sending.outgoing.is_empty() {
                let since = &mut self.write_since;
                match sending.outgoing.poll_write(&mut self.socket, cx, || *since = None) {
                    Poll::Ready(Ok(())) => sending.unflushed = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Written::Broken),
                    Poll::Pending => {
                        sending.let_go(body);
                        return self.poll_stalled(cx);
                    }
                }
            }
            let ended = sending.end != End::Open || body.is_none();
            if !ended && !waits {
                continue;
            }
            if sending.unflushed {
                match Pin::new(&mut self.socket).poll_flush(cx) {
                    Poll::Ready(Ok(())) => (sending.unflushed, self.write_since) = (false, None),
                    Poll::Ready(Err(_)) => return Poll::Ready(Written::Broken),
                    Poll::Pending => {
                        sending.let_go(body);
                        return self.poll_stalled(cx);
                    }
                }
            }
            if !ended {
                return self.poll_left(cx).map(|()| Written::Broken);
            }
            return Poll::Ready(match (sending.broken, sending.framed.keeps_alive) {
                (true, _) => Written::Broken,
                (false, true) => Written::KeepsAlive,
                (false, false) => Written::Closes,
            });
        }
    }

    /// The client takes nothing for now: whether it is there at all, and whether it may still be waited for.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Written> {
        if self.poll_left(cx).is_pending() {
            let since = *self.write_since.get_or_insert_with(Instant::now);
            let stalled = since + WRITE_STALL;
            ready!(self.write_timer.poll(self.write_until.map_or(stalled, |until| until.min(stalled)), cx));
        }
        Poll::Ready(Written::Broken)
    }
}

/// Puts the head in place. Of what remains of the response, the body is all that is kept.
fn begin<B: Body<Data = Bytes>>(response: Message<ResponseHead, B>, occasion: &Occasion) -> (Sending, Option<B>) {
    let Message { mut head, body } = response;
    let size = if head.status.is_informational() {
        // A service has one answer to a request, and this is none.
        head.status = StatusCode::INTERNAL_SERVER_ERROR;
        Size::None
    } else if body.is_end_stream() {
        Size::None
    } else {
        body.size_hint().exact().map_or(Size::Unknown, Size::Known)
    };
    let occasion = reply::Occasion { method: &occasion.method, keeps_alive: occasion.keeps_alive, date: &date::now() };
    let mut outgoing = Outgoing::default();
    let framed = reply::head(outgoing.end(), &head, size, occasion);
    // What is not wanted is let go at once: its exchange is over.
    let body = (!framed.is_full()).then_some(body);
    (Sending { framed, outgoing, broken: false, unflushed: false, end: End::Open }, body)
}

impl Sending {
    /// Asks the body for what it has ready, until there is enough.
    fn gather<B: Body<Data = Bytes>>(&mut self, mut body: Pin<&mut Option<B>>, cx: &mut Context<'_>) -> Gathered {
        while self.end == End::Open
            && let Some(asked) = body.as_mut().as_pin_mut()
        {
            if self.outgoing.is_full() {
                return Gathered::Enough;
            }
            let Poll::Ready(frame) = asked.poll_frame(cx) else { return Gathered::Waits };
            let over = match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    self.add(data);
                    self.framed.is_full() || body.as_ref().as_pin_ref().is_some_and(|body| body.is_end_stream())
                }
                Some(Ok(Err(frame))) => {
                    body.set(None);
                    self.end(frame.into_trailers().ok());
                    return Gathered::All;
                }
                Some(Err(_)) => {
                    body.set(None);
                    // What came before it is written, and no end.
                    self.broken = true;
                    return Gathered::All;
                }
                None => true,
            };
            if over {
                self.end = End::Over;
                self.end(None);
            }
        }
        Gathered::All
    }

    /// Lets go of a body that gave all that it had: its exchange is over, however long the client takes.
    fn let_go<B>(&self, mut body: Pin<&mut Option<B>>) {
        if self.end != End::Open {
            body.set(None);
        }
    }

    fn add(&mut self, mut data: Bytes) {
        let count = self.framed.before(self.outgoing.end(), data.len());
        if count > 0 {
            data.truncate(count);
            self.outgoing.push(data);
            let after = self.framed.after();
            self.outgoing.end().extend_from_slice(after);
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.broken |= !self.framed.end(self.outgoing.end(), trailers);
    }
}
