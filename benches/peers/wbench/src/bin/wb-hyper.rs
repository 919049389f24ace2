//! Minimal hyper 1.x forwarder: the floor of Windward's own stack, no features but round robin and an access log.
//! --listen P --upstreams P,P,P --log FILE --workers N --mode mt|percore --client legacy|raw|inline
//! [--tls-listen P --cert F --key F] [--upstream-tls]
use bytes::Bytes;
use http::{header, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1 as c1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};
use tokio::net::TcpStream;
use wbench::*;

#[cfg(feature = "mi")]
#[global_allocator]
static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[cfg(feature = "je")]
#[global_allocator]
static G: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Err = Box<dyn std::error::Error + Send + Sync>;
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Legacy,
    Raw,
    Inline,
}
struct Cfg {
    ups: Vec<u16>,
    kind: Kind,
    log: String,
    tls: Option<Arc<rustls::ClientConfig>>,
}
type Conn = c1::Connection<TokioIo<Box<dyn Io>>, Incoming>;
struct Slot {
    send: c1::SendRequest<Incoming>,
    conn: Option<Conn>,
}

struct Log {
    buf: Vec<u8>,
    file: std::fs::File,
}
thread_local! {
    static RR: Cell<usize> = const { Cell::new(0) };
    static POOL: RefCell<Vec<Vec<Slot>>> = const { RefCell::new(Vec::new()) };
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}
fn put(up: usize, s: Slot) {
    POOL.with_borrow_mut(|p| {
        while p.len() <= up {
            p.push(vec![])
        }
        p[up].push(s)
    })
}
fn take(up: usize) -> Option<Slot> {
    POOL.with_borrow_mut(|p| p.get_mut(up)?.pop())
}
struct Meta {
    cfg: Arc<Cfg>,
    start: Instant,
    path: http::uri::PathAndQuery,
    method: http::Method,
    status: u16,
    up: usize,
    bytes: u64,
}
impl Drop for Meta {
    fn drop(&mut self) {
        LOG.with_borrow_mut(|l| {
            let l = l.get_or_insert_with(|| Log {
                buf: Vec::with_capacity(80 << 10),
                file: std::fs::OpenOptions::new().create(true).append(true).open(&self.cfg.log).unwrap(),
            });
            let ts = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
            let _ = writeln!(
                l.buf,
                "{{\"ts_us\":{ts},\"method\":\"{}\",\"path\":\"{}\",\"status\":{},\"up\":{},\"bytes\":{},\"dur_us\":{}}}",
                self.method,
                self.path,
                self.status,
                self.up,
                self.bytes,
                self.start.elapsed().as_micros()
            );
            if l.buf.len() > 64 << 10 {
                let _ = l.file.write_all(&l.buf);
                l.buf.clear();
            }
        })
    }
}
struct Out {
    inner: Incoming,
    slot: Option<Slot>,
    meta: Meta,
    done: bool,
}
impl Body for Out {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let me = &mut *self;
        let mut r = Pin::new(&mut me.inner).poll_frame(cx);
        if r.is_pending() {
            if let Some(c) = me.slot.as_mut().and_then(|s| s.conn.as_mut()) {
                if Pin::new(c).poll(cx).is_ready() {
                    me.slot = None
                }
                r = Pin::new(&mut me.inner).poll_frame(cx);
            }
        }
        match &r {
            Poll::Ready(Some(Ok(f))) => {
                if let Some(d) = f.data_ref() {
                    me.meta.bytes += d.len() as u64
                }
                if me.inner.is_end_stream() {
                    me.finish(cx)
                }
            }
            Poll::Ready(None) => me.finish(cx),
            _ => {}
        }
        r
    }
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
impl Out {
    fn finish(&mut self, cx: &mut Context<'_>) {
        if self.done {
            return;
        }
        self.done = true;
        if let Some(mut s) = self.slot.take() {
            if let Some(c) = s.conn.as_mut() {
                if !s.send.is_ready() && Pin::new(c).poll(cx).is_ready() {
                    return;
                }
            }
            put(self.meta.up, s);
        }
    }
}
async fn dial(cfg: &Cfg, up: usize) -> Result<Slot, Err> {
    let s = TcpStream::connect(("127.0.0.1", cfg.ups[up])).await?;
    s.set_nodelay(true)?;
    let io: Box<dyn Io> = match &cfg.tls {
        Some(t) => Box::new(tokio_rustls::TlsConnector::from(t.clone()).connect("localhost".try_into()?, s).await?),
        None => Box::new(s),
    };
    let (send, conn) = c1::Builder::new().handshake(TokioIo::new(io)).await?;
    if cfg.kind == Kind::Inline {
        Ok(Slot { send, conn: Some(conn) })
    } else {
        tokio::spawn(async move {
            let _ = conn.await;
        });
        Ok(Slot { send, conn: None })
    }
}
type Legacy = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Incoming>;

async fn handle(mut req: Request<Incoming>, cfg: Arc<Cfg>, legacy: Option<Legacy>) -> Result<Response<Out>, Err> {
    let up = RR.with(|c| {
        let v = c.get();
        c.set(v + 1);
        v % cfg.ups.len()
    });
    let path = req.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut meta = Meta {
        start: Instant::now(),
        path: path.clone(),
        method: req.method().clone(),
        status: 0,
        up,
        bytes: 0,
        cfg: cfg.clone(),
    };
    let h2 = req.version() == http::Version::HTTP_2;
    for k in [header::CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        req.headers_mut().remove(k);
    }
    if h2 {
        *req.version_mut() = http::Version::HTTP_11;
        if !req.headers().contains_key(header::HOST) {
            req.headers_mut().insert(header::HOST, header::HeaderValue::from_static("gateway.local"));
        }
    }
    if let Some(c) = legacy {
        let mut p = http::uri::Parts::default();
        p.scheme = Some(http::uri::Scheme::HTTP);
        p.authority = Some(http::uri::Authority::try_from(format!("127.0.0.1:{}", cfg.ups[up]))?);
        p.path_and_query = Some(path);
        *req.uri_mut() = Uri::from_parts(p)?;
        let r = c.request(req).await?;
        meta.status = r.status().as_u16();
        let (mut p, b) = r.into_parts();
        if h2 {
            p.headers.remove(header::TRANSFER_ENCODING);
            p.headers.remove(header::CONNECTION);
            p.version = http::Version::HTTP_2
        }
        return Ok(Response::from_parts(p, Out { inner: b, slot: None, meta, done: false }));
    }
    if h2 {
        let mut p = http::uri::Parts::default();
        p.path_and_query = Some(path);
        *req.uri_mut() = Uri::from_parts(p)?;
    }
    let mut slot = loop {
        match take(up) {
            None => break dial(&cfg, up).await?,
            Some(s) if s.send.is_closed() => continue,
            Some(s) if s.send.is_ready() => break s,
            Some(mut s) => {
                // the connection finishes its last exchange first
                let ok = match s.conn.as_mut() {
                    None => s.send.ready().await.is_ok(),
                    Some(_) => {
                        std::future::poll_fn(|cx| {
                            let c = s.conn.as_mut().unwrap();
                            if Pin::new(c).poll(cx).is_ready() {
                                return Poll::Ready(false);
                            }
                            s.send.poll_ready(cx).map(|r| r.is_ok())
                        })
                        .await
                    }
                };
                if ok {
                    break s;
                }
            }
        }
    };
    let r = {
        let Slot { send, conn } = &mut slot;
        let mut f = std::pin::pin!(send.send_request(req));
        match conn {
            None => f.await?,
            Some(c) => {
                let mut c = Pin::new(c);
                let mut dead = false;
                std::future::poll_fn(|cx| {
                    if let Poll::Ready(r) = f.as_mut().poll(cx) {
                        return Poll::Ready(r);
                    }
                    if !dead && c.as_mut().poll(cx).is_ready() {
                        dead = true
                    }
                    f.as_mut().poll(cx)
                })
                .await?
            }
        }
    };
    meta.status = r.status().as_u16();
    let (mut p, b) = r.into_parts();
    if h2 {
        p.headers.remove(header::TRANSFER_ENCODING);
        p.headers.remove(header::CONNECTION);
        p.version = http::Version::HTTP_2
    }
    Ok(Response::from_parts(p, Out { inner: b, slot: Some(slot), meta, done: false }))
}

async fn serve(port: u16, cfg: Arc<Cfg>, tls: Option<Arc<rustls::ServerConfig>>, reuse: bool) {
    let fd = listen(port, reuse);
    let l: std::net::TcpListener = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    let l = tokio::net::TcpListener::from_std(l).unwrap();
    let legacy: Option<Legacy> = (cfg.kind == Kind::Legacy).then(|| {
        let mut c = hyper_util::client::legacy::connect::HttpConnector::new();
        c.set_nodelay(true);
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(usize::MAX).build(c)
    });
    loop {
        let Ok((s, _)) = l.accept().await else { continue };
        let _ = s.set_nodelay(true);
        let (cfg, legacy, tls) = (cfg.clone(), legacy.clone(), tls.clone());
        tokio::spawn(async move {
            let svc = hyper::service::service_fn(move |r| handle(r, cfg.clone(), legacy.clone()));
            match tls {
                None => {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(s), svc).await;
                }
                Some(t) => {
                    let Ok(s) = tokio_rustls::TlsAcceptor::from(t).accept(s).await else { return };
                    if s.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let mut b = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        b.max_concurrent_streams(256);
                        let _ = b.serve_connection(TokioIo::new(s), svc).await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(s), svc).await;
                    }
                }
            }
        });
    }
}

fn main() {
    let a = Args::parse();
    let n: usize = a.num("workers", 1);
    let kind = match a.get("client").unwrap_or("legacy") {
        "raw" => Kind::Raw,
        "inline" => Kind::Inline,
        _ => Kind::Legacy,
    };
    let cfg = Arc::new(Cfg {
        ups: a.list("upstreams").iter().map(|s| s.parse().unwrap()).collect(),
        kind,
        log: a.get("log").unwrap_or("/dev/null").into(),
        tls: a.get("upstream-tls").map(|_| client_cfg(&[b"http/1.1"])),
    });
    let port: u16 = a.num("listen", 8080);
    let tport: u16 = a.num("tls-listen", 0);
    let scfg = a.get("cert").map(|c| server_cfg(c, a.get("key").unwrap(), &[b"h2", b"http/1.1"]));
    let all = move |reuse: bool| {
        let (cfg, scfg) = (cfg.clone(), scfg.clone());
        async move {
            let t = scfg.clone();
            if tport != 0 {
                tokio::spawn(serve(tport, cfg.clone(), t, reuse));
            }
            serve(port, cfg, None, reuse).await
        }
    };
    if a.get("mode") == Some("percore") {
        let hs: Vec<_> = (0..n)
            .map(|_| {
                let all = all.clone();
                std::thread::spawn(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(async move { tokio::spawn(all(true)).await.unwrap() })
                })
            })
            .collect();
        for h in hs {
            h.join().unwrap()
        }
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(n)
            .enable_all()
            .build()
            .unwrap()
            .block_on(async move { tokio::spawn(all(false)).await.unwrap() })
    }
}
