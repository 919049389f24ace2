//! Long bodies, read while their requests are answered. Time passes only when nobody has anything to do.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, sleep};

use super::*;
use crate::proxy::{self, Limited, RequestBody, RequestBodyError};
use crate::server::connection::Outcome;
use crate::server::direct::tests::{case, served_by};

const LONG: usize = 3 * PIECE + 12_345;

fn head(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

fn body(length: usize) -> String {
    (0..length).map(|at| char::from(b'a' + (at % 23) as u8)).collect()
}

/// Sends back what it is sent, as it comes.
struct Echo(RequestBody);

impl Limited for Echo {
    fn until(&self) -> Option<std::time::Instant> {
        None
    }
}

impl http_body::Body for Echo {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        Pin::new(&mut self.get_mut().0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_body_is_read_however_it_comes_and_another_request_may_follow() {
    for pieces in [1, 7, 1000] {
        let mut case = case(&[], 1 << 16);
        let sent = [head(LONG), body(LONG)].concat();
        for _ in 0..2 {
            for piece in sent.as_bytes().chunks(sent.len() / pieces) {
                case.client.write_all(piece).await.unwrap();
            }
            let said = case.until("0\r\n\r\n").await;
            assert!(said.contains(&format!("\r\n{LONG}\r\n")) && !said.contains("connection: close"), "{pieces}: {said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_long_body_at_once_is_the_next_request() {
    let mut case = case(&[], 1 << 20);
    let last = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    case.send(&[&head(LONG), &body(LONG), &head(5), "hello", last].concat()).await;
    let (said, outcome, _) = case.rest().await;
    let lengths = [LONG, 5, 0].map(|length| said.contains(&format!("\r\n{length}\r\n")));
    assert_eq!((lengths, said.matches("HTTP/1.1 200").count(), said.contains("hyper")), ([true; 3], 3, false), "{said}");
    assert_eq!(outcome, Outcome::Fine);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_within_a_long_body_is_answered() {
    let mut case = case(&[], 1 << 20);
    case.send(&[head(LONG), body(LONG / 2)].concat()).await;
    case.client.shutdown().await.unwrap();
    let (said, ..) = case.rest().await;
    assert!(said.contains("broken") && !said.contains("hyper") && said.contains("connection: close"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_that_nobody_asks_for() {
    const PAUSE: Duration = Duration::from_secs(5);
    let service = tower::service_fn(|request: Request<RequestBody>| async {
        sleep(PAUSE).await;
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        Ok::<_, Infallible>(Response::new(proxy::Body::Fixed(Full::from(length.to_string()))))
    });
    let room = 1 << 10;
    let mut case = served_by(service, room, Arc::default());
    let begun = Instant::now();
    case.send(&head(LONG)).await;
    // So much is read with the head, and so much has room on the way.
    case.send(&body(room)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    case.send(&body(LONG - room)).await;
    assert_eq!(begun.elapsed(), PAUSE);
    assert!(case.until(&LONG.to_string()).await.contains("200 OK"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_the_beginning_of_a_body_is_the_last() {
    let service = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(proxy::Body::Fixed(Full::from("no"))))
    });
    let mut case = served_by(service, 1 << 16, Arc::default());
    case.send(&[head(LONG), body(100)].concat()).await;
    let said = case.until("no").await;
    assert!(said.contains("connection: close"), "{said}");
    // Who is still sending is listened to, so that the answer is not overtaken by a reset.
    case.send(&body(LONG - 100)).await;
    assert_eq!(case.rest().await.1, Outcome::Fine);
}

#[tokio::test(start_paused = true)]
async fn a_body_may_be_answered_while_it_comes() {
    let service = tower::service_fn(|request: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(Echo(request.into_body())))
    });
    let mut case = served_by(service, 1 << 16, Arc::default());
    let sent = body(LONG);
    case.send(&head(LONG)).await;
    let said = case.until("\r\n\r\n").await;
    assert!(said.contains(&format!("content-length: {LONG}")), "{said}");
    for piece in sent.as_bytes().chunks(LONG / 9 + 1) {
        let mut back = vec![0; piece.len()];
        let (read, write) = (&mut case.client, piece);
        read.write_all(write).await.unwrap();
        read.read_exact(&mut back).await.unwrap();
        assert!(back == piece);
    }
    // Though it was read to its end: when the answer began nobody knew that it would be.
    assert_eq!(case.rest().await.1, Outcome::Fine);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_body_is_no_request() {
    let parked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let park = Arc::clone(&parked);
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        park.lock().unwrap().push(request.into_body());
        async { Ok::<_, Infallible>(Response::new(proxy::Body::Fixed(Full::from("no")))) }
    });
    let mut case = served_by(service, 1 << 20, Arc::default());
    let within = [head(5), "hello".to_owned()].concat();
    case.send(&[head(LONG), within.clone()].concat()).await;
    let said = case.until("no").await;
    assert!(said.contains("connection: close"), "{said}");
    case.send(&within).await;
    let (said, ..) = case.rest().await;
    assert_eq!((said.as_str(), parked.lock().unwrap().len()), ("", 1), "though somebody still holds it");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_little_now_and_then_holds_little_more_than_it_sent() {
    let (mut client, mut far) = tokio::io::duplex(PIECE);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (sent, copied) in [(1, true), (PIECE / 4 * 3 - 1, true), (PIECE / 4 * 3, false), (PIECE, false)] {
        client.write_all(&vec![b'x'; sent]).await.unwrap();
        let Poll::Ready(Ok(piece)) = read_piece(&mut far, &mut cx, u64::MAX) else { panic!("{sent} are there") };
        assert_eq!(piece.len(), sent);
        let kept = SPARE.take();
        assert_eq!((kept.capacity() >= PIECE, kept.is_empty()), (copied, true), "{sent}");
        SPARE.set(kept);
    }
    assert!(read_piece(&mut far, &mut cx, 10).is_pending());
    client.write_all(b"one two").await.unwrap();
    let Poll::Ready(Ok(piece)) = read_piece(&mut far, &mut cx, 3) else { panic!("something is there") };
    assert_eq!(piece, "one", "and no more than was asked for");
    drop(client);
    assert!(matches!(read_piece(&mut far, &mut cx, 10), Poll::Ready(Ok(piece)) if piece == " two"));
    assert!(matches!(read_piece(&mut far, &mut cx, 10), Poll::Ready(Ok(piece)) if piece.is_empty()), "the end");
}
