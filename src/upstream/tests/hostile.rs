//! Byte streams that fail at a chosen byte, which no socket does twice in the same way.

use std::collections::VecDeque;
use std::io;

use tokio::io::ReadBuf;

use super::*;

/// What a read gives.
#[derive(Clone)]
enum Read {
    Bytes(&'static [u8]),
    /// Nothing yet; the reader is woken at once.
    Later,
    End,
}

/// Takes so many bytes and then fails to take more.
struct Scripted {
    takes: usize,
    reads: VecDeque<Read>,
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.reads.pop_front() {
            Some(Read::Bytes(bytes)) => {
                let (now, later) = bytes.split_at(bytes.len().min(into.remaining()));
                into.put_slice(now);
                if !later.is_empty() {
                    self.reads.push_front(Read::Bytes(later));
                }
            }
            Some(Read::Later) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Read::End) => {}
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.takes);
        self.takes -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// With connections that all go so; and how many were opened.
fn scripted(takes: usize, reads: &[Read]) -> (World, Arc<AtomicUsize>) {
    let (opened, reads) = (Arc::new(AtomicUsize::new(0)), reads.iter().cloned().collect::<VecDeque<_>>());
    let count = Arc::clone(&opened);
    let connector = Connector::new(tower::service_fn(move |_: Target| {
        count.fetch_add(1, Ordering::SeqCst);
        let io = Scripted { takes, reads: reads.clone() };
        async move { Ok(Box::new(io) as BoxIo) }
    }));
    (World::new(connector, backend_at("peer", 80)), opened)
}

const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";

#[tokio::test]
async fn an_answer_that_is_still_to_be_heard_of_when_sending_fails_is_the_answer() {
    let (world, opened) = scripted(60, &[Read::Later, Read::Later, Read::Later, Read::Bytes(TOO_LARGE), Read::End]);
    let body = SendBody::chunks(smallvec![Bytes::from(vec![b'a'; 1 << 20])]);
    let response = world.send(post(body)).await.unwrap();
    assert_eq!(response.head.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(response.body).await.unwrap(), "no");
    assert_eq!((world.idle(), opened.load(Ordering::SeqCst)), (0, 1), "a request that was not sent whole ends its connection");
}

#[tokio::test]
async fn a_request_that_was_sent_in_part_is_not_sent_again() {
    let (world, opened) = scripted(60, &[Read::Later, Read::Later, Read::End]);
    let error = world.send(post(hello())).await.unwrap_err();
    assert_eq!((error.kind, opened.load(Ordering::SeqCst)), (SendErrorKind::Broken, 1));
    assert!(error.request.is_none());
}

#[tokio::test]
async fn who_speaks_before_he_was_asked_gets_no_request_and_is_not_believed() {
    for reads in [&[Read::Bytes(TOO_LARGE)][..], &[Read::Later, Read::Bytes(TOO_LARGE)]] {
        let (world, _) = scripted(0, reads);
        let error = world.send(post(hello())).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::SentNothing);
        assert!(error.request.is_some());
    }
}

/// Surplus bytes in the same read, in a later one, and after a response that has no body.
#[tokio::test]
async fn surplus_bytes_reach_no_other_exchange() {
    for (asked, reply, later) in [
        (get(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", ""),
        (get(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"),
        (get(), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n", ""),
        (get(), "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", "bad"),
        (get(), "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", "3\r\nbad\r\n0\r\n\r\n"),
        (
            Request::head("/v1/models").header(HOST, "peer").body(SendBody::empty()).unwrap(),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            "bad",
        ),
    ] {
        let (world, mut connections) = World::in_memory();
        let exchange = tokio::spawn(async move {
            let response = world.send(asked).await.unwrap();
            let first = text(response.body).await.unwrap();
            (world, first)
        });
        let mut peer = within(connections.recv()).await.unwrap();
        answer(&mut peer, reply).await;
        let (world, first) = within(exchange).await.unwrap();
        assert!(first.is_empty() || first == "ok", "{reply:?} {first:?}");
        peer.write_all(later.as_bytes()).await.unwrap_or_default();
        let next = tokio::spawn(async move { text(world.send(get()).await.unwrap().body).await.unwrap() });
        let mut fresh = within(connections.recv()).await.expect("a connection of its own");
        answer(&mut fresh, OK).await;
        assert_eq!(within(next).await.unwrap(), "hello", "{reply:?}");
    }
}

#[tokio::test]
async fn both_bodies_may_be_larger_than_any_buffer_at_the_same_time() {
    let (world, mut connections) = World::in_memory();
    let size = 1 << 20;
    let exchange = tokio::spawn(async move {
        let body = SendBody::chunks((0..200).map(|_| Bytes::from(vec![b'a'; size / 200])).collect());
        let response = world.send(post(body)).await.unwrap();
        (text(response.body).await.unwrap().len(), world.idle())
    });
    let mut peer = within(connections.recv()).await.unwrap();
    // Says all it has to say before it reads more than the head.
    let mut some = [0; 64];
    within(peer.read_exact(&mut some)).await.unwrap();
    within(peer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes())).await.unwrap();
    let (mut reads, mut writes) = tokio::io::split(peer);
    let echo = async {
        for _ in 0..16 {
            writes.write_all(&vec![b'b'; size / 16]).await.unwrap();
        }
        let mut rest = Vec::new();
        reads.read_to_end(&mut rest).await.unwrap();
    };
    let ((), (length, idle)) = tokio::join!(within(echo), async { within(exchange).await.unwrap() });
    assert_eq!((length, idle), (size, 0), "the rest of the request is not worth sending any more");
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of the first stream.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, length[0], length[1], kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A response head: a status and fields, none of them in a table.
fn h2_head(status: &str, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let mut block = if status.is_empty() { Vec::new() } else { [vec![8], text(status)].concat() };
    for (name, value) in fields {
        block.extend([vec![0], text(name), text(value)].concat());
    }
    frame(HEADERS, END_HEADERS | flags, &block)
}

/// What comes of an HTTP/2 response that is not one: an error before the head, which forbids to send again, or a cut after it.
#[tokio::test]
async fn an_http2_peer_that_misbehaves_is_never_taken_for_whole() {
    let ok = h2_head("200", &[], 0);
    let sized = |length: &str| h2_head("200", &[("content-length", length)], 0);
    let (hello, end) = (frame(DATA, 0, b"hello"), frame(DATA, END_STREAM, b""));
    let whole =
        [(vec![ok.clone(), hello.clone(), end.clone()], "hello"), (vec![sized("5"), hello.clone(), end.clone()], "hello")];
    let cut = [
        vec![ok.clone(), hello.clone()],
        vec![ok.clone()],
        vec![sized("6"), hello.clone(), end.clone()],
        vec![sized("4"), hello.clone(), end.clone()],
        vec![sized("5"), hello.clone(), hello.clone(), end.clone()],
        vec![ok.clone(), hello.clone(), h2_head("", &[("x-sum", "1")], 0)],
        vec![ok.clone(), hello.clone(), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()],
    ];
    let refused = [
        vec![hello.clone(), end.clone()],
        vec![h2_head("", &[], 0), hello.clone(), end.clone()],
        vec![h2_head("abc", &[], 0), hello.clone(), end.clone()],
        vec![h2_head("101", &[], 0), hello.clone(), end.clone()],
        vec![h2_head("103", &[], END_STREAM)],
        vec![h2_head("103", &[], 0), hello.clone(), end.clone()],
        vec![h2_head("200", &[("transfer-encoding", "chunked")], 0), hello.clone(), end.clone()],
        vec![h2_head("200", &[("connection", "close")], 0), hello.clone(), end.clone()],
        vec![h2_head("200", &[("X-Upper", "1")], 0), hello.clone(), end.clone()],
        vec![h2_head("200", &[("x", "a\r\nb")], 0), hello.clone(), end.clone()],
        vec![h2_head("200", &[("content-length", "five")], 0), hello.clone(), end.clone()],
        vec![frame(HEADERS, END_HEADERS, &[0xff, 0xff, 0xff, 0xff, 0xff])],
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()],
    ];
    let cases = whole.into_iter().map(|(frames, text)| (frames, Some(Some(text))));
    let cases =
        cases.chain(cut.into_iter().map(|frames| (frames, Some(None)))).chain(refused.into_iter().map(|frames| (frames, None)));
    for (nth, (frames, want)) in cases.enumerate() {
        let mut backend = backend_at("peer", 80);
        backend.protocol = Protocol::Http2;
        let (world, mut connections) = World::in_memory_for(backend);
        let peer = tokio::spawn(async move {
            let io = connections.recv().await.unwrap();
            http2::http2_frames_after_a_request(io, &frames.concat()).await;
            connections
        });
        match (world.send(post(super::hello())).await, want) {
            (Ok(response), Some(text_wanted)) => assert_eq!(text(response.body).await.ok().as_deref(), text_wanted, "{nth}"),
            (Err(error), None) => assert!(!error.kind.nothing_done() && error.request.is_none(), "{nth}: {error:?}"),
            (Err(error), Some(None)) => assert!(!error.kind.nothing_done(), "{nth}: {error:?}"),
            (found, _) => panic!("{nth}: {found:?}"),
        }
        assert!(within(peer).await.unwrap().try_recv().is_err(), "{nth}: one connection, one request");
    }
}

/// A backend that goes on with what costs it nothing is left, and is not waited for until its time is over.
#[tokio::test]
async fn a_flood_from_an_http2_backend_ends_its_connection() {
    const PING: u8 = 6;
    let early = h2_head("103", &[("link", "</a>")], 0);
    let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], b"12345678"].concat();
    let answer = [h2_head("200", &[], 0), frame(DATA, END_STREAM, b"hello")].concat();
    let flooding = |part: &[u8]| part.repeat(1 << 20 >> 3);
    let some = |part: &[u8]| [part.repeat(200), answer.clone()].concat();
    // Of informational responses few are granted, as by HTTP/1.1, and it does not matter how slowly they come.
    let early_ones = |count| [early.repeat(count), answer.clone()].concat();
    for (frames, is_answered) in [
        (flooding(&early), false),
        (flooding(&ping), false),
        (early_ones(17), false),
        (early_ones(16), true),
        (some(&ping), true),
    ] {
        let mut backend = backend_at("peer", 80);
        backend.protocol = Protocol::Http2;
        let (world, mut connections) = World::in_memory_for(backend);
        let peer = tokio::spawn(async move {
            let mut io = connections.recv().await.unwrap();
            http2::until_a_request(&mut io).await;
            // Answers are not read: they are few, or the flood is over before there is no room for more.
            let sent = io.write_all(&frames).await;
            (sent, io)
        });
        match within(world.send(post(hello()))).await {
            Ok(response) => assert_eq!(within(text(response.body)).await.unwrap(), "hello"),
            Err(error) => assert_eq!((error.kind, is_answered), (SendErrorKind::Broken, false)),
        }
        let (sent, _io) = within(peer).await.unwrap();
        assert!(sent.is_ok() || !is_answered);
    }
}
