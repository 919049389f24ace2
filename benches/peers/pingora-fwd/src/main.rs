//! Minimal Pingora reverse proxy: round robin, JSON access log buffered off the hot path.
//! --listen P --upstreams P,P,P --log FILE [--tls-listen P --cert F --key F] [--upstream-tls] [--workers N]
use async_trait::async_trait;
use pingora_core::prelude::*;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{http_proxy_service, ProxyHttp, Session};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

struct Fwd {
    ups: Vec<u16>,
    rr: AtomicUsize,
    tls: bool,
    log: &'static Mutex<(Vec<u8>, std::fs::File)>,
}
struct Ctx {
    start: Instant,
    up: u16,
}

#[async_trait]
impl ProxyHttp for Fwd {
    type CTX = Ctx;
    fn new_ctx(&self) -> Ctx {
        Ctx { start: Instant::now(), up: 0 }
    }
    async fn upstream_peer(&self, _s: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let i = self.rr.fetch_add(1, Ordering::Relaxed);
        ctx.up = self.ups[i % self.ups.len()];
        let mut p = HttpPeer::new(("127.0.0.1", ctx.up), self.tls, "localhost".into());
        if self.tls {
            p.options.verify_cert = false;
            p.options.verify_hostname = false;
        }
        Ok(Box::new(p))
    }
    async fn response_filter(&self, _s: &mut Session, _r: &mut ResponseHeader, _c: &mut Ctx) -> Result<()> {
        Ok(())
    }
    async fn logging(&self, s: &mut Session, _e: Option<&Error>, ctx: &mut Ctx) {
        let st = s.response_written().map_or(0, |r| r.status.as_u16());
        let h = s.req_header();
        let ts = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        let mut g = self.log.lock().unwrap();
        let _ = writeln!(
            g.0,
            "{{\"ts_us\":{ts},\"method\":\"{}\",\"path\":\"{}\",\"status\":{st},\"up\":{},\"bytes\":{},\"dur_us\":{}}}",
            h.method,
            h.uri.path(),
            ctx.up,
            s.body_bytes_sent(),
            ctx.start.elapsed().as_micros()
        );
        if g.0.len() > 65536 {
            let (b, f) = &mut *g;
            let _ = f.write_all(b);
            b.clear();
        }
    }
}
fn main() {
    let v: Vec<String> = std::env::args().collect();
    let get = |k: &str| v.iter().position(|x| x == k).and_then(|i| v.get(i + 1).cloned());
    let mut conf = ServerConf::default();
    conf.threads = get("--workers").and_then(|x| x.parse().ok()).unwrap_or(1);
    conf.upstream_keepalive_pool_size = 8192;
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let log = Box::leak(Box::new(Mutex::new((
        Vec::with_capacity(131072),
        std::fs::OpenOptions::new().create(true).append(true).open(get("--log").unwrap()).unwrap(),
    ))));
    let fwd = Fwd {
        ups: get("--upstreams").unwrap().split(',').map(|x| x.parse().unwrap()).collect(),
        rr: AtomicUsize::new(0),
        tls: v.iter().any(|x| x == "--upstream-tls"),
        log,
    };
    let mut svc = http_proxy_service(&server.configuration, fwd);
    svc.add_tcp(&format!("127.0.0.1:{}", get("--listen").unwrap()));
    if let Some(p) = get("--tls-listen") {
        let mut t =
            pingora_core::listeners::tls::TlsSettings::intermediate(&get("--cert").unwrap(), &get("--key").unwrap()).unwrap();
        t.enable_h2();
        svc.add_tls_with_settings(&format!("127.0.0.1:{p}"), None, t);
    }
    server.add_service(svc);
    server.run_forever();
}
