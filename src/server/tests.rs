//! A server of its own for each test, with a service inside that does what the test wants.

mod connections;
mod running;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::proxy::{Limited, RequestBody};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::SystemClock;
use crate::config::{Limits, ListenerTls, LogTarget, Shown};
use crate::testing::plan;

/// A body of what is sent into a channel.
struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

impl Limited for Chunks {
    fn until(&self) -> Option<std::time::Instant> {
        None
    }
}

/// Answers `/` with one chunk; hands the sending end of any other response's body to the test.
#[derive(Clone)]
struct Echo {
    log: AccessLog,
    streams: mpsc::Sender<mpsc::Sender<Bytes>>,
}

impl Echo {
    async fn answer(self, request: Request<RequestBody>) -> Result<Response<Chunks>, Infallible> {
        let (send, receive) = mpsc::channel(4);
        let path = request.uri().path().to_owned();
        self.log.append(|line, _| line.extend_from_slice(path.as_bytes()));
        if path == "/upgrade" {
            let upgraded = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            let mut response = Response::new(Chunks(receive));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(http::header::UPGRADE, http::HeaderValue::from_static("echo"));
            return Ok(response);
        }
        if path == "/" {
            send.send(Bytes::from(format!("{:?}", request.version()))).await.unwrap();
        } else {
            self.streams.send(send).await.unwrap();
        }
        Ok(Response::new(Chunks(receive)))
    }
}

struct Running {
    handle: Handle,
    shared: Shared,
    streams: mpsc::Receiver<mpsc::Sender<Bytes>>,
}

fn running_with(plan: Plan, config: Option<ConfigFile>, signals: bool) -> Running {
    let serve =
        Serve { plan, config, clock: Arc::new(SystemClock), identity: Identity::new("test", 1), signals, background: None };
    let (sender, streams) = mpsc::channel(16);
    let mut kept = None;
    let handle = start(serve, |shared| {
        kept = Some(shared.clone());
        let echo = Echo { log: shared.log.clone(), streams: sender };
        move |_peer| {
            let echo = echo.clone();
            tower::service_fn(move |request| echo.clone().answer(request))
        }
    });
    Running { handle: handle.unwrap(), shared: kept.unwrap(), streams }
}

#[cfg(unix)]
fn signal(name: &str) {
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn running(change: impl FnOnce(&mut Plan)) -> Running {
    let mut plan = plan();
    change(&mut plan);
    running_with(plan, None, false)
}

impl Running {
    fn end(self) -> Ended {
        self.handle.shutdown();
        drop(self.streams);
        self.handle.join()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.handle.addresses[0]).await.unwrap()
    }

    async fn admin(&self, method: &str, path: &str) -> (u16, serde_json::Value) {
        let socket = TcpStream::connect(self.handle.admin.unwrap()).await.unwrap();
        let (status, body) = ask_h1(socket, method, path).await;
        (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
    }
}

async fn ask_h1<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, method: &str, path: &str) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.get(9..12).unwrap().parse().unwrap(), body.to_owned())
}

async fn ask_h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: S) -> Bytes {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    connection.await.unwrap().unwrap();
    body
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("the test hangs") })
}

async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = socket.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}
