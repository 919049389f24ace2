//! Mock model endpoint: raw epoll, HTTP/1.1 keep-alive, optional TLS 1.3.
//! --ports 9101,9102,9103 [--tls-ports 9201,...] --cert F --key F
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use wbench::*;

enum St {
    Head,
    BodyLen(usize),
    BodyChunked,
}
struct Conn {
    t: Transport,
    st: St,
    head: Vec<u8>,
    body: Vec<u8>,
    blen: usize,
    out: Vec<u8>,
    opos: usize,
    want_out: bool,
    sse_left: u32,
    with_usage: bool,
    delay: u64,
    due: u64,
    gen: u64,
}

const HDR_SSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-request-id: req_0123456789abcdef\r\ntransfer-encoding: chunked\r\n\r\n";

fn event(now: u64) -> Vec<u8> {
    let mut e = format!("data: {{\"id\":\"chatcmpl-{now:020}\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"mock-model\",\"system_fingerprint\":\"fp_44709\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" tokens\"}},\"finish_reason\":null}}]}}\n\n").into_bytes();
    chunk(&mut e);
    e
}
fn chunk(e: &mut Vec<u8>) {
    let mut c = format!("{:x}\r\n", e.len()).into_bytes();
    c.append(e);
    c.extend_from_slice(b"\r\n");
    *e = c;
}
fn json_response(len: usize) -> Vec<u8> {
    let head = "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    let tail = "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":312,\"completion_tokens\":187,\"total_tokens\":499,\"prompt_tokens_details\":{\"cached_tokens\":0}},\"system_fingerprint\":\"fp_44709\"}";
    let mut b = head.to_string();
    let filler = "Wind covers the evening peak in the north, so the batch job may wait for it. ";
    let mut i = 0;
    while b.len() + tail.len() < len {
        b.push(filler.as_bytes()[i % filler.len()] as char);
        i += 1;
    }
    b.push_str(tail);
    let mut r = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0123456789abcdef\r\nopenai-processing-ms: 12\r\nx-ratelimit-remaining-requests: 9999\r\ncontent-length: {}\r\n\r\n", b.len()).into_bytes();
    r.extend_from_slice(b.as_bytes());
    r
}

struct Srv {
    ep: Ep,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    active: VecDeque<(usize, u64)>,
    timers: BinaryHeap<Reverse<(u64, usize, u64)>>,
    small: Vec<u8>,
    mid: Vec<u8>,
    usage: Vec<u8>,
    done: Vec<u8>,
    gen: u64,
}

fn find_hdr<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    for l in head.split(|b| *b == b'\n') {
        if l.len() > name.len() && l[..name.len()].eq_ignore_ascii_case(name) && l[name.len()] == b':' {
            return Some(l[name.len() + 1..].trim_ascii());
        }
    }
    None
}

impl Srv {
    fn close(&mut self, i: usize) {
        if let Some(c) = self.conns[i].take() {
            unsafe { libc::close(c.t.fd) };
            self.free.push(i);
        }
    }
    fn send(&mut self, i: usize, data: &[u8]) -> io::Result<()> {
        let c = self.conns[i].as_mut().unwrap();
        let mut done = 0;
        if c.out.is_empty() {
            match c.t.write(data) {
                Ok(n) => done = n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        if done < data.len() {
            c.out.extend_from_slice(&data[done..]);
        }
        if (!c.out.is_empty() || c.t.tls_pending()) && !c.want_out {
            c.want_out = true;
            self.ep.modi(c.t.fd, libc::EPOLLIN | libc::EPOLLOUT, i as u64);
        }
        Ok(())
    }
    fn flush(&mut self, i: usize) -> io::Result<()> {
        let c = self.conns[i].as_mut().unwrap();
        while c.opos < c.out.len() {
            match c.t.write(&c.out[c.opos..]) {
                Ok(n) => c.opos += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        c.out.clear();
        c.opos = 0;
        if c.t.flush()? {
            c.want_out = false;
            self.ep.modi(c.t.fd, libc::EPOLLIN, i as u64);
        }
        Ok(())
    }
    fn respond(&mut self, i: usize) -> io::Result<()> {
        let c = self.conns[i].as_mut().unwrap();
        c.st = St::Head;
        let stream = memchr::memmem::find(&c.body, b"\"stream\":true").is_some()
            || memchr::memmem::find(&c.body, b"\"stream\": true").is_some();
        if !stream {
            let big = c.blen > 100_000;
            c.body.clear();
            c.blen = 0;
            let r = std::mem::take(if big { &mut self.mid } else { &mut self.small });
            let x = self.send(i, &r);
            if big {
                self.mid = r
            } else {
                self.small = r
            };
            return x;
        }
        c.with_usage = memchr::memmem::find(&c.body, b"\"include_usage\":true").is_some();
        let (mut ev, mut delay) = (100u32, 0u64);
        if let Some(p) = memchr::memmem::find(&c.body, b"mock:") {
            let s = &c.body[p + 5..(p + 40).min(c.body.len())];
            let s = String::from_utf8_lossy(s);
            if let Some(s) = s.split(';').next() {
                let mut it = s.split(',');
                ev = it.next().and_then(|x| x.parse().ok()).unwrap_or(ev);
                delay = it.next().and_then(|x| x.parse().ok()).unwrap_or(0);
            }
        }
        c.body.clear();
        c.blen = 0;
        c.sse_left = ev;
        c.delay = delay * 1000;
        let g = c.gen;
        self.send(i, HDR_SSE)?;
        if delay == 0 {
            self.active.push_back((i, g));
        } else {
            let c = self.conns[i].as_mut().unwrap();
            c.due = now_ns();
            let d = c.due;
            self.timers.push(Reverse((d, i, g)));
        }
        Ok(())
    }
    /// one event; true while more are to come
    fn step(&mut self, i: usize, g: u64) -> io::Result<bool> {
        let Some(c) = self.conns[i].as_mut() else { return Ok(false) };
        if c.gen != g || c.sse_left == 0 {
            return Ok(false);
        }
        if c.want_out && c.delay == 0 {
            return Ok(true); // back-pressure
        }
        c.sse_left -= 1;
        let fin = c.sse_left == 0;
        let with_usage = c.with_usage;
        let e = event(now_ns());
        self.send(i, &e)?;
        if fin {
            let usage = if with_usage { &self.usage[..] } else { &[] };
            let last = [usage, &self.done].concat();
            self.send(i, &last)?;
        }
        Ok(!fin)
    }
    fn on_data(&mut self, i: usize, mut d: &[u8]) -> io::Result<()> {
        while !d.is_empty() {
            let Some(c) = self.conns[i].as_mut() else { return Ok(()) };
            match c.st {
                St::Head => {
                    let old = c.head.len();
                    c.head.extend_from_slice(d);
                    let from = old.saturating_sub(3);
                    let Some(p) = memchr::memmem::find(&c.head[from..], b"\r\n\r\n") else { return Ok(()) };
                    let end = from + p + 4;
                    d = &d[end - old..];
                    let h = &c.head[..end];
                    let cl = find_hdr(h, b"content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
                    let ch = cl.is_none() && find_hdr(h, b"transfer-encoding").is_some();
                    c.head.clear();
                    c.body.clear();
                    c.blen = 0;
                    if ch {
                        c.st = St::BodyChunked;
                    } else {
                        let n = cl.unwrap_or(0);
                        if n == 0 {
                            self.respond(i)?;
                        } else {
                            c.st = St::BodyLen(n);
                        }
                    }
                }
                St::BodyLen(left) => {
                    let n = left.min(d.len());
                    if c.body.len() < 8192 {
                        let k = n.min(8192 - c.body.len());
                        c.body.extend_from_slice(&d[..k]);
                    }
                    c.blen += n;
                    d = &d[n..];
                    if n == left {
                        self.respond(i)?;
                    } else {
                        c.st = St::BodyLen(left - n);
                    }
                }
                St::BodyChunked => {
                    // rare (some gateways): keep the raw tail, look for the terminator
                    c.blen += d.len();
                    if c.body.len() < 16384 {
                        c.body.extend_from_slice(&d[..d.len().min(16384)]);
                    }
                    c.head.extend_from_slice(&d[d.len().saturating_sub(7)..]);
                    let done = c.head.ends_with(b"0\r\n\r\n");
                    let k = c.head.len();
                    if k > 14 {
                        c.head.drain(..k - 7);
                    }
                    d = &[];
                    if done {
                        c.head.clear();
                        self.respond(i)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn main() {
    let a = Args::parse();
    let ep = Ep::new();
    const L: u64 = 1 << 40;
    let scfg = a.get("cert").map(|c| server_cfg(c, a.get("key").unwrap(), &[b"http/1.1"]));
    let mut listeners = vec![];
    for (k, tls) in [("ports", false), ("tls-ports", true)] {
        for p in a.list(k) {
            let fd = listen(p.parse().unwrap(), false);
            ep.add(fd, libc::EPOLLIN, L + listeners.len() as u64);
            listeners.push((fd, tls));
        }
    }
    let usage = {
        let mut u = format!("data: {{\"id\":\"chatcmpl-{:020}\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"mock-model\",\"choices\":[],\"usage\":{{\"prompt_tokens\":312,\"completion_tokens\":100,\"total_tokens\":412}}}}\n\n", 0).into_bytes();
        chunk(&mut u);
        u
    };
    let mut done = b"data: [DONE]\n\n".to_vec();
    chunk(&mut done);
    done.extend_from_slice(b"0\r\n\r\n");
    let mut s = Srv {
        ep,
        conns: vec![],
        free: vec![],
        active: VecDeque::new(),
        timers: BinaryHeap::new(),
        small: json_response(1200),
        mid: json_response(2048),
        usage,
        done,
        gen: 0,
    };
    let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
    let mut buf = vec![0u8; 256 * 1024];
    loop {
        let to =
            if !s.active.is_empty() { Some(0) } else { s.timers.peek().map(|Reverse((d, _, _))| d.saturating_sub(now_ns())) };
        let n = s.ep.wait(&mut evs, to);
        for e in &evs[..n] {
            let (key, ev) = (e.u64, e.events as i32);
            if key >= L {
                let (lfd, tls) = listeners[(key - L) as usize];
                for _ in 0..64 {
                    let fd = unsafe {
                        libc::accept4(lfd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                    };
                    if fd < 0 {
                        break;
                    }
                    nodelay(fd);
                    let t = if tls { Transport::server(fd, scfg.as_ref().unwrap()) } else { Transport::plain(fd) };
                    s.gen += 1;
                    let c = Conn {
                        t,
                        st: St::Head,
                        head: vec![],
                        body: vec![],
                        blen: 0,
                        out: vec![],
                        opos: 0,
                        want_out: false,
                        sse_left: 0,
                        with_usage: false,
                        delay: 0,
                        due: 0,
                        gen: s.gen,
                    };
                    let i = s.free.pop().unwrap_or_else(|| {
                        s.conns.push(None);
                        s.conns.len() - 1
                    });
                    s.conns[i] = Some(c);
                    s.ep.add(fd, libc::EPOLLIN, i as u64);
                }
                continue;
            }
            let i = key as usize;
            if s.conns[i].is_none() {
                continue;
            }
            let mut r: io::Result<()> = Ok(());
            if ev & libc::EPOLLOUT != 0 {
                r = s.flush(i);
            }
            if r.is_ok() && ev & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                loop {
                    let Some(c) = s.conns[i].as_mut() else { break };
                    match c.t.read(&mut buf) {
                        Ok(0) => {
                            r = Err(io::ErrorKind::UnexpectedEof.into());
                            break;
                        }
                        Ok(n) => {
                            let tls = c.t.tls.is_some();
                            r = s.on_data(i, &buf[..n]);
                            if r.is_err() || (n < buf.len() && !tls) {
                                break;
                            }
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) => {
                            r = Err(e);
                            break;
                        }
                    }
                }
            }
            if r.is_err() {
                s.close(i);
            }
        }
        for _ in 0..s.active.len() {
            let (i, g) = s.active.pop_front().unwrap();
            match s.step(i, g) {
                Ok(true) => s.active.push_back((i, g)),
                Ok(false) => {}
                Err(_) => s.close(i),
            }
        }
        if !s.timers.is_empty() {
            let now = now_ns();
            while let Some(&Reverse((d, i, g))) = s.timers.peek() {
                if d > now {
                    break;
                }
                s.timers.pop();
                match s.step(i, g) {
                    Ok(true) => {
                        let delay = s.conns[i].as_ref().unwrap().delay;
                        s.timers.push(Reverse((d + delay, i, g)));
                    }
                    Ok(false) => {}
                    Err(_) => s.close(i),
                }
            }
        }
    }
}
