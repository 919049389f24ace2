//! Reads just enough of a request to decide.
//!
//! The body of a call that names a model is collected as the chunks it came in, scanned once as they come, and kept for another
//! attempt; nothing is copied and no tree is built. Everything is bounded: one body by `limits.body`, all of them together by
//! `limits.buffered`, the wait for each chunk by `limits.body_progress`, and the wait for the whole by a least rate, or by twice
//! that time where the request only claims to be signed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::exchange::{Exchange, Proof};
use super::pool::Buffered;
use super::reject::Error;
use super::request_body::RequestBody;
use super::{Received, admit};
use crate::affinity::{PrefixScan, Session, SessionKey};
use crate::estimate::Demand;
use crate::wire::fields::{Fields, Name};
use crate::wire::framing::USUAL_FIELDS;
use crate::wire::request::{RequestFields, RequestScan};
use crate::wire::{Named, Operation};

/// A body that was read whole, and what it says.
pub(super) struct Intake {
    pub(super) chunks: Chunks,
    pub(super) fields: RequestFields,
    /// The same in the dialect of candidates that speak another, if there are some and it can be said there.
    pub(super) translated: Option<Bytes>,
}

/// Bytes a second that a client has to send on the average, `limits.body_progress` granted beforehand: a byte now and then would
/// hold its place for ever. Apache's `RequestReadTimeout` asks for half as much by default.
const LEAST_RATE: u64 = 1 << 10;
/// So many `limits.body_progress` is the longest that a body may take of a request that only claims to be signed. At the least rate one
/// that holds the whole share of such requests would hold it for hours, and anybody can send one.
const UNPROVEN_PROGRESS: u32 = 2;
/// The chunks of a body. Most have one, and each inline one more makes every future on the way larger.
pub(super) type Chunks = SmallVec<[Bytes; 2]>;

/// So many chunks are kept as they came. It takes a large body, or a sender of crumbs, to need more.
const KEPT_AS_THEY_CAME: usize = 8;
/// Of the others those below this are put together: a chunk of one byte keeps a whole read buffer of 8 KiB in memory, which no
/// limit on the body's own bytes would see.
const CRUMB: usize = 4 << 10;
/// Crumbs are put together up to about this size.
const LOAF: usize = 64 << 10;

/// Collects and scans the body of an inference call, `by_path` where its path says which model is meant.
pub(super) async fn read(
    request: &mut Received,
    operation: Operation,
    by_path: Option<Named>,
    x: &mut Exchange,
) -> Result<Intake, Error> {
    let named = named(&request.head.fields, operation, x);
    // Left where it is, so that a refusal can see what of it is unread.
    let Some(body) = &mut request.body else { return Err(Error::BodyBroken) };
    let mut scan = RequestScan::recognising(named.as_ref().err().copied().flatten().map(PrefixScan::new)).asking(operation);
    if by_path.is_some() {
        scan = scan.of_named();
    }
    let chunks = collect(body, |chunk| scan.feed(chunk), x).await?;
    let mut fields = scan.finish().map_err(Error::Malformed)?;
    x.request_bytes = fields.length as u64;
    if let Some(Named { model, streamed, .. }) = by_path {
        if *fields.model != *model && streamed.is_some() {
            // A body of Bedrock's that names another model than its path is for the backend to judge, and not to be made to agree.
            fields.model_span = 0..0;
        }
        x.streamed = streamed.unwrap_or(fields.stream && operation != Operation::Embeddings);
        x.model = Some(model);
    } else {
        x.streamed = fields.stream && operation != Operation::Embeddings;
        x.model = Some(fields.model.as_str().into());
    }
    x.operation = Some(operation);
    let (model, client) = (x.model.as_deref().unwrap_or_default(), x.key().map_or("", |key| &key.name));
    x.session = named.ok().or(fields.session).map(|session| x.shared.own_session(session, model, client));
    x.demand = Some(Demand {
        body_bytes: fields.length,
        max_output_tokens: fields.max_output_tokens,
        streamed: x.streamed,
        embeddings: operation.has_no_output(),
    });
    Ok(Intake { chunks, fields, translated: None })
}

/// Drawn anew in every run, so that what is kept of one says nothing to whoever has another.
pub(super) fn session_key(run: u32) -> SessionKey {
    let mut random = [0; 16];
    // Without randomness nothing else here would work, and what is at stake is where a request goes.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        random.fill(run as u8);
    }
    let whole = u128::from_le_bytes(random);
    SessionKey::new([whole as u64, (whole >> 64) as u64])
}

/// What a field of the request calls the conversation, under a policy that counts who has something of it. Else the key with which the
/// body is looked through for that: none where nobody asks, because there is nothing to keep or nobody to choose from.
fn named(fields: &Fields, operation: Operation, x: &Exchange) -> Result<Session, Option<SessionKey>> {
    let counted = operation != Operation::Embeddings && x.snapshot.plan.backends.len() > 1;
    let Some(affinity) = x.policy().and_then(|policy| policy.affinity.as_ref()).filter(|_| counted) else { return Err(None) };
    let key = &x.shared.session_key;
    let name = affinity.header.as_ref().and_then(|field| fields.get(field)).filter(|name| !name.is_empty());
    name.map(|name| Session::called(key, name)).ok_or(Some(*key))
}

/// Collects the body of a signed request of another kind, holds both to the signature, and puts the body back.
pub(super) async fn verify(request: &mut Received, x: &mut Exchange) -> Result<(), Error> {
    let chunks = match &mut request.body {
        Some(body) => collect(body, |_| {}, x).await?,
        None => Chunks::new(),
    };
    admit::verified(&request.head, &chunks, &x.snapshot.plan.keys, x.wall)?;
    x.key_is_proved();
    request.body = Some(RequestBody::Whole(Bytes::from(chunks.concat())));
    Ok(())
}

/// Collects a body, within every limit, and shows each chunk as it comes.
pub(super) async fn collect<B>(mut body: B, mut show: impl FnMut(&[u8]), x: &mut Exchange) -> Result<Chunks, Error>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Unpin,
{
    let limits = x.snapshot.plan.limits;
    let too_large = || Error::TooLarge { limit: limits.body as u64 };
    if body.size_hint().lower() > limits.body as u64 {
        return Err(too_large());
    }
    let mut chunks = Collected::default();
    let mut length = 0usize;
    let buffered = x.buffered.insert(Buffered::none(&x.shared.buffered));
    // When it was first waited for: a body that came with its head needs neither clock nor timer.
    let mut begun = None;
    loop {
        let frame = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let now = Instant::now();
                let due = due(*begun.get_or_insert(now), now, length, limits.body_progress, x.key_is);
                tokio::time::timeout_at(due, body.frame()).await.map_err(|_| Error::BodyStalled)?
            }
        };
        let Some(frame) = frame else { break };
        let chunk = match frame.map_err(|error| broken(&error))?.into_data() {
            Ok(chunk) => chunk,
            Err(trailers) if fits(&trailers) => continue, // They mean nothing to the APIs and are not passed on.
            Err(_) => return Err(Error::BodyBroken),
        };
        length += chunk.len();
        if length > limits.body {
            return Err(too_large());
        }
        if !buffered.grow(chunk.len(), x.key_is, &limits) {
            return Err(Error::Busy);
        }
        show(&chunk);
        chunks.push(chunk);
    }
    Ok(chunks.finish())
}

/// Whether a frame is one of data, or trailers of no more fields than may be. Those of HTTP/1.1 were counted as they came; of
/// HTTP/2 whoever read them counted the bytes alone.
pub(super) fn fits(frame: &Frame<Bytes>) -> bool {
    frame.trailers_ref().is_none_or(|trailers| trailers.len() <= USUAL_FIELDS as usize)
}

/// Why a client's body failed. That its connection or its stream ended is its right; all else is its mistake.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Error {
    let left = std::iter::successors(Some(error), |error| error.source()).any(|cause| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let h2 = cause.downcast_ref::<h2::Error>();
        let by_stream = h2.is_some_and(|error| error.is_remote() && error.is_reset());
        // That of a connection of streams is within their error, and not behind it.
        let by_io = cause.downcast_ref::<io::Error>().or_else(|| h2?.get_io()).map(io::Error::kind);
        by_stream || matches!(by_io, Some(UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe))
    });
    if left { Error::ClientGone } else { Error::BodyBroken }
}

/// Most that is read of the body of a request that was refused without it, to keep the connection: what a client has mostly sent
/// with its head.
const DRAINED: u64 = 64 << 10;
/// How often the connection gets its turn for that. It hands over what it has read in one or two pieces, and waits for none.
const DRAIN_TURNS: usize = 8;

/// Whether a request's body is read to its end, now that what little there is of it has been, so that the connection can take the
/// next request. Of a body that went on to a backend nobody knows.
pub(super) async fn is_read(request: &mut Received) -> bool {
    // Who waits for leave to send is not told to go on only to be refused.
    let waits = request.head.fields.has(Name::Expect);
    let Some(body) = &mut request.body else { return false };
    if body.is_end_stream() {
        return true;
    }
    if waits || body.size_hint().lower() > DRAINED {
        return false;
    }
    for _ in 0..DRAIN_TURNS {
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Err(_))) => return false,
            Poll::Ready(Some(Ok(_))) if body.is_end_stream() => return true,
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    false
}

/// When the next chunk has to be here, `length` bytes being there `now`.
pub(super) fn due(begun: Instant, now: Instant, length: usize, progress: Duration, proof: Proof) -> Instant {
    let due = (now + progress).min(begun + progress + Duration::from_secs(length as u64 / LEAST_RATE));
    match proof {
        Proof::Shown => due,
        Proof::Claimed => due.min(begun + progress * UNPROVEN_PROGRESS),
    }
}

/// The chunks of a body, in no more memory than a small multiple of their bytes.
#[derive(Default)]
struct Collected {
    chunks: Chunks,
    crumbs: BytesMut,
}

impl Collected {
    fn push(&mut self, chunk: Bytes) {
        if self.chunks.len() < KEPT_AS_THEY_CAME || chunk.len() >= CRUMB {
            self.gather();
            self.chunks.push(chunk);
            return;
        }
        self.crumbs.extend_from_slice(&chunk);
        if self.crumbs.len() >= LOAF {
            self.gather();
        }
    }

    fn gather(&mut self) {
        if !self.crumbs.is_empty() {
            self.chunks.push(self.crumbs.split().freeze());
        }
    }

    fn finish(mut self) -> Chunks {
        self.gather();
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_collected_is_what_came(sizes in prop::collection::vec(0_usize..6000, 0..40)) {
            let mut collected = Collected::default();
            let mut whole = Vec::new();
            for (nth, size) in sizes.into_iter().enumerate() {
                let chunk = vec![nth as u8; size];
                whole.extend_from_slice(&chunk);
                collected.push(chunk.into());
            }
            prop_assert_eq!(collected.finish().concat(), whole);
        }
    }

    #[test]
    fn a_sender_of_crumbs_takes_no_more_memory_than_others() {
        let mut collected = Collected::default();
        (0..1_000_000).for_each(|_| collected.push(Bytes::from_static(b"x")));
        let chunks = collected.finish();
        assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), 1_000_000);
        assert!(chunks.len() < 30, "{} chunks", chunks.len());
    }

    #[test]
    fn a_body_has_to_go_on_and_at_a_least_rate() {
        let (begun, progress) = (Instant::now(), Duration::from_secs(30));
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let shown = |now, length, progress| due(begun, now, length, progress, Proof::Shown);
        assert_eq!(shown(at(0), 0, progress), at(30));
        assert_eq!(shown(at(10), 1 << 20, progress), at(40), "who is quick enough has the time for a chunk");
        assert_eq!(shown(at(29), 1, progress), at(30), "a byte now and then earns nothing");
        assert_eq!(shown(at(50), 40 << 10, progress), at(70));
        assert_eq!(shown(at(50), 1 << 20, progress), at(80));
        let claims = |now| due(begun, now, 1 << 20, progress, Proof::Claimed);
        assert_eq!((claims(at(10)), claims(at(50)), claims(at(90))), (at(40), at(60), at(60)), "a claim earns no more than this");
    }
}
