//! A response body that is written while it is read.
//!
//! The generation is one future, which tells its story from the first token to the last; the body polls it and passes on what it
//! says. A task with a channel would do as well, but would outlive the client by one token: here dropping the body *is* the end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::openai::Voice;
use super::site::{Cut, Exchange};

/// What a story says goes out at once; the channel is only the place where it is handed over.
const HANDOVER: usize = 1;

/// The generation, until it has ended.
type Story = Pin<Box<dyn Future<Output = Result<(), Cut>> + Send>>;

/// The body of a streamed answer.
pub(super) struct Stream {
    story: Option<Story>,
    said: mpsc::Receiver<Bytes>,
    broken: bool,
}

impl Stream {
    /// Streams that answer; the exchange ends with it.
    pub(super) fn new(exchange: Exchange, voice: Voice, tokens_per_chunk: u32) -> Self {
        let (say, said) = mpsc::channel(HANDOVER);
        Self { story: Some(Box::pin(tell(exchange, voice, tokens_per_chunk, say))), said, broken: false }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Poll::Ready(Some(bytes)) = self.said.poll_recv(cx) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(story) = &mut self.story
            && let Poll::Ready(end) = story.as_mut().poll(cx)
        {
            self.broken = end.is_err();
            self.story = None;
        }
        match self.said.poll_recv(cx) {
            Poll::Ready(Some(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(None) if std::mem::take(&mut self.broken) => Poll::Ready(Some(Err(Cut))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn tell(mut exchange: Exchange, voice: Voice, tokens_per_chunk: u32, say: mpsc::Sender<Bytes>) -> Result<(), Cut> {
    let end = speak(&mut exchange, &voice, tokens_per_chunk, &say).await;
    if end.is_ok() {
        exchange.finish();
    } else {
        exchange.give_up();
        // One turn for the connection, so that what was said before the cut also leaves before it.
        tokio::task::yield_now().await;
    }
    end
}

async fn speak(exchange: &mut Exchange, voice: &Voice, tokens_per_chunk: u32, say: &mpsc::Sender<Bytes>) -> Result<(), Cut> {
    exchange.first_token().await?;
    put(say, [voice.opening_bytes(), voice.delta_bytes(0..1)].concat()).await?;
    let mut sent = 1;
    while sent < voice.output_tokens {
        if voice.full_after.is_some_and(|most| sent >= most) {
            return put(say, voice.failing_bytes()).await;
        }
        let next = voice.output_tokens.min(sent + tokens_per_chunk);
        exchange.more_tokens(next - sent).await?;
        put(say, voice.delta_bytes(sent..next)).await?;
        sent = next;
    }
    put(say, voice.closing_bytes()).await
}

async fn put(say: &mpsc::Sender<Bytes>, bytes: Vec<u8>) -> Result<(), Cut> {
    say.send(Bytes::from(bytes)).await.map_err(|_| Cut)
}

/// The same for an answer in one piece: waits until all of it is there.
pub(super) async fn whole(exchange: &mut Exchange, voice: &Voice, tokens_per_chunk: u32) -> Result<(), Cut> {
    exchange.first_token().await?;
    let mut made = 1;
    while made < voice.output_tokens {
        let next = voice.output_tokens.min(made + tokens_per_chunk);
        exchange.more_tokens(next - made).await?;
        made = next;
    }
    Ok(())
}
