//! HTTP/1.1 load generator, plain or TLS 1.3. Open loop (--rate R, Poisson arrivals, latency from the intended
//! send time) or closed loop (--rate 0). Reads the CPU clocks of --pids at both ends of the measured window.
//! --hold N: opens N slow SSE streams, waits for each one's first event, prints the proxies' RSS.
use std::collections::VecDeque;
use std::io;
use wbench::*;

#[derive(PartialEq, Clone, Copy)]
enum Body {
    Head,
    Len(usize),
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    Trailer,
    Eof,
}
struct Conn {
    t: Option<Transport>,
    busy: bool,
    intended: u64,
    wpos: usize,
    want_out: bool,
    st: Body,
    head: Vec<u8>,
    first: bool,
    nl: bool,
    status: u16,
    close_after: bool,
    csize: usize,
    line: Vec<u8>,
}
#[derive(Default, Clone, Copy)]
struct Snap {
    cpu: u64,
    ut: u64,
    st: u64,
    vcs: u64,
    ncs: u64,
    cpu0: u64,
    done: u64,
    events: u64,
    err: u64,
    bytes: u64,
}

fn cpu0_busy() -> u64 {
    let s = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    for l in s.lines() {
        if l.starts_with("cpu0 ") {
            let f: Vec<u64> = l.split_whitespace().skip(1).map(|x| x.parse().unwrap_or(0)).collect();
            return f[0] + f[1] + f[2] + f[5] + f[6];
        }
    }
    0
}
fn main() {
    let a = Args::parse();
    let port: u16 = a.num("port", 8080);
    let wl = a.get("workload").unwrap_or("chat").to_string();
    let nconn: usize = a.num("conns", 32);
    let rate: f64 = a.num("rate", 0.0);
    let warm = (a.num("warmup", 1.0f64) * 1e9) as u64;
    let dur = (a.num("duration", 4.0f64) * 1e9) as u64;
    let pids: Vec<i32> = a.list("pids").iter().filter_map(|s| s.parse().ok()).collect();
    let path = a.get("path").unwrap_or("/v1/chat/completions").to_string();
    let extra: String = a.get("headers").map(|h| h.split("||").map(|x| format!("{x}\r\n")).collect()).unwrap_or_default();
    let hold: usize = a.num("hold", 0);
    let (events, delay) = if hold > 0 { (100_000, 2_000_000) } else { (a.num("events", 100u32), a.num("delay-us", 0u64)) };
    let b = body(&wl, events, delay, a.get("model").unwrap_or("mock-model"));
    let req = h1_request(&path, &b, &extra);
    let tls = a.get("tls").map(|_| client_cfg(&[b"http/1.1"]));
    let nconn = if hold > 0 { hold } else { nconn };
    let ep = Ep::new();
    let mut conns: Vec<Conn> = vec![];
    let mk = |i: usize, ep: &Ep| -> io::Result<Transport> {
        let fd = connect(port, true)?;
        ep.add(fd, libc::EPOLLIN, i as u64);
        Ok(match &tls {
            Some(c) => Transport::client(fd, c),
            None => Transport::plain(fd),
        })
    };
    for i in 0..nconn {
        let t = mk(i, &ep).unwrap_or_else(|e| {
            eprintln!("connect: {e}");
            std::process::exit(2)
        });
        conns.push(Conn {
            t: Some(t),
            busy: false,
            intended: 0,
            wpos: 0,
            want_out: false,
            st: Body::Head,
            head: vec![],
            first: false,
            nl: false,
            status: 0,
            close_after: false,
            csize: 0,
            line: vec![],
        });
    }
    let mut idle: VecDeque<usize> = (0..nconn).collect();
    let mut queue: VecDeque<u64> = VecDeque::new();
    let (mut h_lat, mut h_ttfb, mut h_ev) = (hist(), hist(), hist());
    let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
    let mut buf = vec![0u8; 256 * 1024];
    let start = now_ns();
    let (w0, w1) = (start + warm, start + warm + dur);
    let mut rng: u64 = a.num("seed", 0x9E3779B97F4A7C15u64);
    let mut next = start;
    let mut cur = Snap::default();
    let mut s0: Option<Snap> = None;
    let mut first_seen = 0usize;
    let mut reconnects = 0u64;
    let mut err_sample = String::new();
    let mut maxq = 0usize;
    let snap = |cur: &Snap| -> Snap {
        let mut s = *cur;
        for p in &pids {
            s.cpu += proc_cpu_ns(*p);
            let (u, k) = proc_stat_ticks(*p);
            s.ut += u;
            s.st += k;
            let (v, n) = ctx_switches(*p);
            s.vcs += v;
            s.ncs += n;
        }
        s.cpu0 = cpu0_busy();
        s
    };
    macro_rules! start_req {
        ($i:expr, $int:expr) => {{
            let i = $i;
            let c = &mut conns[i];
            c.busy = true;
            c.intended = $int;
            c.wpos = 0;
            c.st = Body::Head;
            c.head.clear();
            c.first = false;
            c.status = 0;
            c.close_after = false;
            c.line.clear();
            if c.t.is_none() {
                match mk(i, &ep) {
                    Ok(t) => {
                        c.t = Some(t);
                        c.want_out = false;
                        reconnects += 1
                    }
                    Err(_) => {}
                }
            }
            pump(c, &req, &ep, i);
        }};
    }
    fn pump(c: &mut Conn, req: &[u8], ep: &Ep, i: usize) {
        let Some(t) = c.t.as_mut() else { return };
        while c.wpos < req.len() {
            match t.write(&req[c.wpos..]) {
                Ok(n) => c.wpos += n,
                Err(_) => break,
            }
        }
        let need = c.wpos < req.len() || t.tls_pending();
        if need != c.want_out {
            c.want_out = need;
            ep.modi(t.fd, libc::EPOLLIN | if need { libc::EPOLLOUT } else { 0 }, i as u64);
        }
    }
    let mut ramp = 0usize;
    if rate <= 0.0 && hold == 0 {
        while let Some(i) = idle.pop_front() {
            start_req!(i, now_ns());
        }
    }
    let mut w1_snap = Snap::default();
    loop {
        let now = now_ns();
        if hold > 0 {
            // ramp: at most 200 streams on the way at once
            while ramp < nconn && ramp - first_seen < 200 {
                start_req!(ramp, now_ns());
                ramp += 1;
            }
            if first_seen >= nconn || now > start + 60_000_000_000 {
                let t_end = now + 3_000_000_000;
                // let it settle for 3 s while events keep coming
                let mut peak = 0;
                let mut last = 0;
                while now_ns() < t_end {
                    let n = ep.wait(&mut evs, Some(100_000_000));
                    for e in &evs[..n] {
                        if let Some(t) = conns[e.u64 as usize].t.as_mut() {
                            if let Ok(0) = t.read(&mut buf) {
                                ep.ctl(libc::EPOLL_CTL_DEL, t.fd, 0, 0)
                            }
                        }
                    }
                    last = pids.iter().map(|p| rss_kb(*p)).sum::<u64>();
                    peak = peak.max(last);
                }
                println!(
                    "{{\"hold\":{},\"open\":{},\"rss_kb\":{},\"rss_peak_kb\":{},\"errors\":{}}}",
                    hold, first_seen, last, peak, cur.err
                );
                return;
            }
        } else {
            if s0.is_none() && now >= w0 {
                s0 = Some(snap(&cur));
            }
            if now >= w1 {
                if w1_snap.cpu0 == 0 {
                    w1_snap = snap(&cur);
                }
                // drain: open loop latencies of the window need their completions
                if rate <= 0.0 || now > w1 + 2_000_000_000 || conns.iter().all(|c| !c.busy) {
                    break;
                }
            }
            if rate > 0.0 && now < w1 {
                while next <= now {
                    if let Some(i) = idle.pop_front() {
                        start_req!(i, next);
                    } else {
                        queue.push_back(next);
                        maxq = maxq.max(queue.len());
                    }
                    rng ^= rng << 13;
                    rng ^= rng >> 7;
                    rng ^= rng << 17;
                    let u = ((rng >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
                    next += (-u.ln() / rate * 1e9) as u64;
                }
            }
        }
        let to = if rate > 0.0 && now < w1 { next.saturating_sub(now_ns()) } else { 50_000_000 };
        let n = ep.wait(&mut evs, Some(to.min(50_000_000)));
        for k in 0..n {
            let i = evs[k].u64 as usize;
            let ev = evs[k].events as i32;
            if ev & libc::EPOLLOUT != 0 {
                let c = &mut conns[i];
                if let Some(t) = c.t.as_mut() {
                    let _ = t.flush();
                }
                if c.busy {
                    pump(c, &req, &ep, i)
                }
            }
            if ev & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) == 0 {
                continue;
            }
            loop {
                let c = &mut conns[i];
                let Some(t) = c.t.as_mut() else { break };
                let is_tls = t.tls.is_some();
                let r = t.read(&mut buf);
                let n = match r {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        if c.busy && is_tls {
                            pump(c, &req, &ep, i)
                        }
                        break;
                    }
                    Err(_) => 0,
                };
                if n == 0 {
                    unsafe { libc::close(t.fd) };
                    c.t = None;
                    if c.busy {
                        if c.st == Body::Eof {
                            c.busy = false;
                            cur.done += 1;
                        } else {
                            cur.err += 1;
                            c.busy = false;
                        }
                        if rate <= 0.0 && hold == 0 {
                            start_req!(i, now_ns());
                        } else if hold == 0 {
                            idle.push_back(i);
                        }
                    }
                    break;
                }
                cur.bytes += n as u64;
                let now = now_ns();
                let mut d = &buf[..n];
                let mut finished = false;
                while !d.is_empty() && c.busy {
                    match c.st {
                        Body::Head => {
                            let old = c.head.len();
                            c.head.extend_from_slice(d);
                            let from = old.saturating_sub(3);
                            let Some(p) = memchr::memmem::find(&c.head[from..], b"\r\n\r\n") else { break };
                            let end = from + p + 4;
                            d = &d[end - old..];
                            let h = &c.head[..end];
                            c.status = std::str::from_utf8(&h[9..12]).ok().and_then(|s| s.parse().ok()).unwrap_or(0);
                            let mut st = Body::Eof;
                            for l in h.split(|b| *b == b'\n') {
                                if l.len() > 15 && l[..15].eq_ignore_ascii_case(b"content-length:") {
                                    st = Body::Len(std::str::from_utf8(l[15..].trim_ascii()).unwrap().parse().unwrap());
                                } else if l.len() > 18 && l[..18].eq_ignore_ascii_case(b"transfer-encoding:") {
                                    st = Body::ChunkSize;
                                } else if l.len() > 11
                                    && l[..11].eq_ignore_ascii_case(b"connection:")
                                    && l[11..].trim_ascii().eq_ignore_ascii_case(b"close")
                                {
                                    c.close_after = true;
                                }
                            }
                            c.st = st;
                            if c.status != 200 && err_sample.is_empty() {
                                err_sample = String::from_utf8_lossy(&c.head[..c.head.len().min(600)]).into_owned();
                            }
                            if st == Body::Len(0) {
                                finished = true
                            }
                        }
                        Body::Len(l) => {
                            let n = l.min(d.len());
                            scan(&d[..n], c, now, w0, w1, &mut cur, &mut h_ev, &mut h_ttfb, &mut first_seen);
                            d = &d[n..];
                            c.st = Body::Len(l - n);
                            if l == n {
                                finished = true
                            }
                        }
                        Body::Eof => {
                            scan(d, c, now, w0, w1, &mut cur, &mut h_ev, &mut h_ttfb, &mut first_seen);
                            d = &[];
                        }
                        Body::ChunkSize => match memchr::memchr(b'\n', d) {
                            None => {
                                c.line.extend_from_slice(d);
                                d = &[]
                            }
                            Some(p) => {
                                c.line.extend_from_slice(&d[..p]);
                                d = &d[p + 1..];
                                let s = c.line.trim_ascii();
                                let mut v = 0usize;
                                for b in s {
                                    match (*b as char).to_digit(16) {
                                        Some(x) => v = v * 16 + x as usize,
                                        None => break,
                                    }
                                }
                                c.line.clear();
                                c.csize = v;
                                c.st = if v == 0 { Body::Trailer } else { Body::ChunkData(v) };
                            }
                        },
                        Body::ChunkData(l) => {
                            let n = l.min(d.len());
                            scan(&d[..n], c, now, w0, w1, &mut cur, &mut h_ev, &mut h_ttfb, &mut first_seen);
                            d = &d[n..];
                            c.st = if n == l { Body::ChunkEnd } else { Body::ChunkData(l - n) };
                        }
                        Body::ChunkEnd => {
                            if d[0] == b'\n' {
                                c.st = Body::ChunkSize
                            }
                            d = &d[1..];
                        }
                        Body::Trailer => match memchr::memchr(b'\n', d) {
                            None => {
                                c.line.extend_from_slice(d);
                                d = &[]
                            }
                            Some(p) => {
                                c.line.extend_from_slice(&d[..p]);
                                d = &d[p + 1..];
                                if c.line.trim_ascii().is_empty() {
                                    finished = true
                                }
                                c.line.clear();
                            }
                        },
                    }
                    if finished {
                        break;
                    }
                }
                if finished {
                    c.busy = false;
                    if c.status == 200 {
                        cur.done += 1
                    } else {
                        cur.err += 1
                    }
                    if c.intended >= w0 && c.intended < w1 && c.status == 200 {
                        let _ = h_lat.record(now.saturating_sub(c.intended).max(100));
                    }
                    if c.close_after {
                        unsafe { libc::close(c.t.as_ref().unwrap().fd) };
                        c.t = None;
                    }
                    if hold == 0 {
                        if rate <= 0.0 {
                            start_req!(i, now);
                        } else if let Some(int) = queue.pop_front() {
                            start_req!(i, int);
                        } else {
                            idle.push_back(i);
                        }
                    }
                }
                if n < buf.len() && !is_tls {
                    break;
                }
            }
        }
    }
    let s1 = w1_snap;
    let s0 = s0.unwrap();
    let secs = dur as f64 / 1e9;
    let done = s1.done - s0.done;
    let evn = s1.events - s0.events;
    let cpu = (s1.cpu - s0.cpu) as f64 / 1e3;
    let per = |x: f64, n: u64| if n == 0 { "null".to_string() } else { format!("{:.3}", x / n as f64) };
    println!(
        "{{\"workload\":\"{wl}\",\"rate\":{rate},\"conns\":{nconn},\"secs\":{secs},\"done\":{done},\"rps\":{:.1},\"errors\":{},\"events\":{evn},\"mb_s\":{:.1},\"cpu_us\":{:.0},\"cpu_frac\":{:.3},\"cpu_us_per_req\":{},\"cpu_us_per_event\":{},\"utime_ticks\":{},\"stime_ticks\":{},\"cpu0_busy_ticks\":{},\"vcs_per_req\":{},\"ncs_per_req\":{},\"reconnects\":{reconnects},\"maxq\":{maxq},\"total\":{},\"rss_kb\":{},\"lat\":{},\"ttfb\":{},\"ev_delay\":{},\"err_sample\":{:?}}}",
        done as f64 / secs, s1.err - s0.err, (s1.bytes - s0.bytes) as f64 / secs / 1e6, cpu, cpu / 1e6 / secs,
        per(cpu, done), per(cpu, evn), s1.ut - s0.ut, s1.st - s0.st, s1.cpu0 - s0.cpu0,
        per((s1.vcs - s0.vcs) as f64, done), per((s1.ncs - s0.ncs) as f64, done),
        cur.done,
        pids.iter().map(|p| rss_kb(*p)).sum::<u64>(),
        hist_json(&h_lat), hist_json(&h_ttfb), hist_json(&h_ev), err_sample
    );
}

#[allow(clippy::too_many_arguments)]
fn scan(
    d: &[u8],
    c: &mut Conn,
    now: u64,
    w0: u64,
    w1: u64,
    cur: &mut Snap,
    h_ev: &mut hdrhistogram::Histogram<u64>,
    h_ttfb: &mut hdrhistogram::Histogram<u64>,
    first_seen: &mut usize,
) {
    if !c.first {
        c.first = true;
        *first_seen += 1;
        if c.intended >= w0 && c.intended < w1 {
            let _ = h_ttfb.record(now.saturating_sub(c.intended).max(100));
        }
    }
    // blank lines end events
    let mut from = 0;
    while let Some(p) = memchr::memchr(b'\n', &d[from..]) {
        let at = from + p;
        if c.nl && at == 0 || at > 0 && d[at - 1] == b'\n' {
            cur.events += 1;
        }
        from = at + 1;
    }
    c.nl = d.last() == Some(&b'\n');
    if now >= w0 && now < w1 {
        for p in memchr::memmem::find_iter(d, b"chatcmpl-") {
            if let Some(s) = d.get(p + 9..p + 29) {
                let mut v = 0u64;
                let mut ok = true;
                for b in s {
                    if !b.is_ascii_digit() {
                        ok = false;
                        break;
                    }
                    v = v.wrapping_mul(10).wrapping_add((b - b'0') as u64);
                }
                if ok && v > 0 && now > v {
                    let _ = h_ev.record((now - v).max(100));
                }
            }
        }
    }
}
