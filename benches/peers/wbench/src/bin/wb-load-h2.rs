//! HTTP/2 load generator over TLS 1.3 (or --plain h2c). Open loop by a timerfd, or closed loop (--rate 0).
use bytes::{Buf, Bytes};
use std::cell::{Cell, RefCell};
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use wbench::*;

struct Sh {
    hist: RefCell<hdrhistogram::Histogram<u64>>,
    ttfb: RefCell<hdrhistogram::Histogram<u64>>,
    done: Cell<u64>,
    err: Cell<u64>,
    events: Cell<u64>,
    w0: u64,
    w1: u64,
    sample: RefCell<String>,
}

async fn one(mut s: h2::client::SendRequest<Bytes>, req: http::Request<()>, body: Bytes, intended: u64, sh: Rc<Sh>) {
    let r: Result<(), String> = async {
        s = s.ready().await.map_err(|e| e.to_string())?;
        let (resp, mut tx) = s.send_request(req, false).map_err(|e| e.to_string())?;
        let mut b = body;
        while b.has_remaining() {
            tx.reserve_capacity(b.len());
            let n = std::future::poll_fn(|cx| tx.poll_capacity(cx)).await.ok_or("closed")?.map_err(|e| e.to_string())?;
            let k = n.min(b.len());
            let part = b.split_to(k);
            tx.send_data(part, b.is_empty()).map_err(|e| e.to_string())?;
        }
        let resp = resp.await.map_err(|e| e.to_string())?;
        let status = resp.status();
        let mut rb = resp.into_body();
        let mut first = true;
        let mut nl = false;
        while let Some(d) = rb.data().await {
            let d = d.map_err(|e| e.to_string())?;
            if first {
                first = false;
                if intended >= sh.w0 && intended < sh.w1 {
                    let _ = sh.ttfb.borrow_mut().record((now_ns() - intended).max(100));
                }
            }
            let mut e = 0;
            for c in d.iter() {
                if *c == b'\n' {
                    if nl {
                        e += 1;
                    }
                    nl = true
                } else {
                    nl = false
                }
            }
            sh.events.set(sh.events.get() + e);
            let _ = rb.flow_control().release_capacity(d.len());
        }
        if status != 200 {
            return Err(format!("status {status}"));
        }
        Ok(())
    }
    .await;
    match r {
        Ok(()) => {
            sh.done.set(sh.done.get() + 1);
            if intended >= sh.w0 && intended < sh.w1 {
                let _ = sh.hist.borrow_mut().record((now_ns() - intended).max(100));
            }
        }
        Err(e) => {
            sh.err.set(sh.err.get() + 1);
            if sh.sample.borrow().is_empty() {
                *sh.sample.borrow_mut() = e
            }
        }
    }
}

fn main() {
    let a = Args::parse();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ls = tokio::task::LocalSet::new();
    ls.block_on(&rt, async move {
        let port: u16 = a.num("port", 8443);
        let nconn: usize = a.num("conns", 1);
        let streams: usize = a.num("streams", 100);
        let rate: f64 = a.num("rate", 0.0);
        let wl = a.get("workload").unwrap_or("chat").to_string();
        let warm = (a.num("warmup", 1.0f64) * 1e9) as u64;
        let dur = (a.num("duration", 4.0f64) * 1e9) as u64;
        let pids: Vec<i32> = a.list("pids").iter().filter_map(|s| s.parse().ok()).collect();
        let b = Bytes::from(body(&wl, a.num("events", 100u32), a.num("delay-us", 0u64), a.get("model").unwrap_or("mock-model")));
        let req = http::Request::builder().method("POST").uri("https://gateway.local/v1/chat/completions").version(http::Version::HTTP_2)
            .header("user-agent", "OpenAI/Python 1.99.0").header("accept", "application/json").header("content-type", "application/json")
            .header("authorization", "Bearer sk-bench-0123456789abcdef0123456789abcdef").header("x-stainless-lang", "python").header("x-stainless-runtime", "CPython")
            .header("content-length", b.len()).body(()).unwrap();
        let mut cs = vec![];
        for _ in 0..nconn {
            let s = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            s.set_nodelay(true).unwrap();
            let mut bl = h2::client::Builder::new();
            bl.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
            let c = if a.get("plain").is_some() {
                let (c, k) = bl.handshake(s).await.unwrap();
                tokio::task::spawn_local(async move { let _ = k.await; });
                c
            } else {
                let t = tokio_rustls::TlsConnector::from(client_cfg(&[b"h2"])).connect("localhost".try_into().unwrap(), s).await.unwrap();
                let (c, k) = bl.handshake(t).await.unwrap();
                tokio::task::spawn_local(async move { let _ = k.await; });
                c
            };
            cs.push(c);
        }
        let start = now_ns();
        let sh = Rc::new(Sh { hist: RefCell::new(hist()), ttfb: RefCell::new(hist()), done: Cell::new(0), err: Cell::new(0), events: Cell::new(0), w0: start + warm, w1: start + warm + dur, sample: RefCell::new(String::new()) });
        if rate <= 0.0 {
            for c in &cs { for _ in 0..streams {
                let (c, req, b, sh) = (c.clone(), req.clone(), b.clone(), sh.clone());
                tokio::task::spawn_local(async move { while now_ns() < sh.w1 + 200_000_000 && sh.err.get() < 1000 { one(c.clone(), req.clone(), b.clone(), now_ns(), sh.clone()).await } });
            } }
        } else {
            let (cs, req, b, sh) = (cs.clone(), req.clone(), b.clone(), sh.clone());
            tokio::task::spawn_local(async move {
                // The runtime's own timer has a millisecond's grain.
                let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) };
                let owned: OwnedFd = unsafe { FromRawFd::from_raw_fd(fd) };
                let af = unsafe { tokio::io::unix::AsyncFd::register(owned) }.unwrap();
                let mut rng: u64 = 0x9E3779B97F4A7C15;
                let mut next = now_ns();
                let mut k = 0;
                while next < sh.w1 {
                    let now = now_ns();
                    if next > now {
                        let its = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: libc::timespec { tv_sec: (next / 1_000_000_000) as i64, tv_nsec: (next % 1_000_000_000) as i64 } };
                        unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &its, std::ptr::null_mut()) };
                        let mut g = af.readable().await.unwrap();
                        let mut x = 0u64;
                        unsafe { libc::read(fd, &mut x as *mut _ as *mut _, 8) };
                        g.clear_ready();
                        continue;
                    }
                    tokio::task::spawn_local(one(cs[k % cs.len()].clone(), req.clone(), b.clone(), next, sh.clone()));
                    k += 1;
                    rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17;
                    let u = ((rng >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
                    next += (-u.ln() / rate * 1e9) as u64;
                }
            });
        }
        let snap = || { let mut v = (0u64, 0u64, 0u64); for p in &pids { v.0 += proc_cpu_ns(*p); let (u, s) = proc_stat_ticks(*p); v.1 += u; v.2 += s; } (v, sh.done.get(), sh.err.get(), sh.events.get()) };
        let sl = |t: u64| tokio::time::sleep(std::time::Duration::from_nanos(t.saturating_sub(now_ns())));
        sl(sh.w0).await;
        let (t0, a0) = (now_ns(), snap());
        sl(sh.w1).await;
        let (t1, a1) = (now_ns(), snap());
        if rate > 0.0 { tokio::time::sleep(std::time::Duration::from_millis(300)).await }
        let secs = (t1 - t0) as f64 / 1e9;
        let done = a1.1 - a0.1;
        let evn = a1.3 - a0.3;
        let cpu = (a1.0.0 - a0.0.0) as f64 / 1e3;
        let per = |n: u64| if n == 0 { "null".to_string() } else { format!("{:.3}", cpu / n as f64) };
        println!("{{\"workload\":\"{wl}\",\"rate\":{rate},\"conns\":{nconn},\"streams\":{streams},\"secs\":{secs:.3},\"done\":{done},\"rps\":{:.1},\"errors\":{},\"events\":{evn},\"cpu_us\":{cpu:.0},\"cpu_frac\":{:.3},\"cpu_us_per_req\":{},\"cpu_us_per_event\":{},\"utime_ticks\":{},\"stime_ticks\":{},\"rss_kb\":{},\"lat\":{},\"ttfb\":{},\"ev_delay\":null,\"err_sample\":{:?}}}",
            done as f64 / secs, a1.2 - a0.2, cpu / 1e6 / secs, per(done), per(evn), a1.0.1 - a0.0.1, a1.0.2 - a0.0.2, pids.iter().map(|p| rss_kb(*p)).sum::<u64>(), hist_json(&sh.hist.borrow()), hist_json(&sh.ttfb.borrow()), sh.sample.borrow());
    });
}
