//! Shared bits of the bench tools: raw epoll, a plain-or-TLS transport, clocks, CPU accounting.
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::sync::Arc;

pub fn now_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// CPU time of a whole process (all threads, dead ones too) in ns, from its CPU clock.
pub fn proc_cpu_ns(pid: i32) -> u64 {
    let clk = (!(pid as libc::clockid_t)) << 3 | 2;
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    if unsafe { libc::clock_gettime(clk, &mut ts) } != 0 {
        return 0;
    }
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// utime+stime of /proc/PID/stat in ns (10 ms ticks): a cross-check for proc_cpu_ns, and the user share.
pub fn proc_stat_ticks(pid: i32) -> (u64, u64) {
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some(p) = s.rfind(')') else { return (0, 0) };
    let f: Vec<&str> = s[p + 2..].split_whitespace().collect();
    (f[11].parse().unwrap_or(0), f[12].parse().unwrap_or(0))
}

pub fn ctx_switches(pid: i32) -> (u64, u64) {
    let mut v = 0;
    let mut n = 0;
    if let Ok(rd) = std::fs::read_dir(format!("/proc/{pid}/task")) {
        for t in rd.flatten() {
            let s = std::fs::read_to_string(t.path().join("status")).unwrap_or_default();
            for l in s.lines() {
                if let Some(x) = l.strip_prefix("voluntary_ctxt_switches:") {
                    v += x.trim().parse::<u64>().unwrap_or(0)
                }
                if let Some(x) = l.strip_prefix("nonvoluntary_ctxt_switches:") {
                    n += x.trim().parse::<u64>().unwrap_or(0)
                }
            }
        }
    }
    (v, n)
}

pub fn rss_kb(pid: i32) -> u64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    s.lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|x| x.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0)
}

pub struct Ep(pub RawFd);
impl Ep {
    pub fn new() -> Ep {
        Ep(unsafe { libc::epoll_create1(0) })
    }
    pub fn ctl(&self, op: i32, fd: RawFd, ev: u32, key: u64) {
        let mut e = libc::epoll_event { events: ev, u64: key };
        unsafe { libc::epoll_ctl(self.0, op, fd, &mut e) };
    }
    pub fn add(&self, fd: RawFd, ev: i32, key: u64) {
        self.ctl(libc::EPOLL_CTL_ADD, fd, ev as u32, key)
    }
    pub fn modi(&self, fd: RawFd, ev: i32, key: u64) {
        self.ctl(libc::EPOLL_CTL_MOD, fd, ev as u32, key)
    }
    /// timeout_ns None = block
    pub fn wait(&self, evs: &mut [libc::epoll_event], timeout_ns: Option<u64>) -> usize {
        let ts = timeout_ns.map(|t| libc::timespec { tv_sec: (t / 1_000_000_000) as i64, tv_nsec: (t % 1_000_000_000) as i64 });
        let p = ts.as_ref().map_or(std::ptr::null(), |t| t as *const _);
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0,
                evs.as_mut_ptr(),
                evs.len() as i32,
                p,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        if n < 0 {
            0
        } else {
            n as usize
        }
    }
}

pub fn nodelay(fd: RawFd) {
    let one: i32 = 1;
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one as *const _ as *const _, 4) };
}

pub fn sockaddr(port: u16) -> libc::sockaddr_in {
    let mut a: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    a.sin_family = libc::AF_INET as u16;
    a.sin_port = port.to_be();
    a.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    a
}

pub fn listen(port: u16, reuseport: bool) -> RawFd {
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        let one: i32 = 1;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &one as *const _ as *const _, 4);
        if reuseport {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &one as *const _ as *const _, 4);
        }
        let a = sockaddr(port);
        if libc::bind(fd, &a as *const _ as *const _, 16) != 0 || libc::listen(fd, 8192) != 0 {
            panic!("listen {port}: {}", io::Error::last_os_error());
        }
        fd
    }
}

/// Connects to 127.0.0.1:port; blocking=false returns while the connect is under way.
pub fn connect(port: u16, blocking: bool) -> io::Result<RawFd> {
    unsafe {
        let fl = if blocking { 0 } else { libc::SOCK_NONBLOCK };
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | fl | libc::SOCK_CLOEXEC, 0);
        let a = sockaddr(port);
        if libc::connect(fd, &a as *const _ as *const _, 16) != 0 {
            let e = io::Error::last_os_error();
            if e.raw_os_error() != Some(libc::EINPROGRESS) {
                libc::close(fd);
                return Err(e);
            }
        }
        if blocking {
            let f = libc::fcntl(fd, libc::F_GETFL);
            libc::fcntl(fd, libc::F_SETFL, f | libc::O_NONBLOCK);
        }
        nodelay(fd);
        Ok(fd)
    }
}

pub fn raw_read(fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    let n = unsafe { libc::read(fd, buf.as_mut_ptr() as *mut _, buf.len()) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n as usize)
    }
}
pub fn raw_write(fd: RawFd, buf: &[u8]) -> io::Result<usize> {
    let n = unsafe { libc::send(fd, buf.as_ptr() as *const _, buf.len(), libc::MSG_NOSIGNAL) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n as usize)
    }
}

struct Fd(RawFd);
impl Read for Fd {
    fn read(&mut self, b: &mut [u8]) -> io::Result<usize> {
        raw_read(self.0, b)
    }
}
impl Write for Fd {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        raw_write(self.0, b)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A non-blocking socket, with or without rustls on it.
pub struct Transport {
    pub fd: RawFd,
    pub tls: Option<Box<rustls::Connection>>,
}
impl Transport {
    pub fn plain(fd: RawFd) -> Self {
        Transport { fd, tls: None }
    }
    pub fn client(fd: RawFd, cfg: &Arc<rustls::ClientConfig>) -> Self {
        let mut c = rustls::ClientConnection::new(cfg.clone(), "localhost".try_into().unwrap()).unwrap();
        c.set_buffer_limit(None);
        Transport { fd, tls: Some(Box::new(rustls::Connection::Client(c))) }
    }
    pub fn server(fd: RawFd, cfg: &Arc<rustls::ServerConfig>) -> Self {
        let mut c = rustls::ServerConnection::new(cfg.clone()).unwrap();
        c.set_buffer_limit(None);
        Transport { fd, tls: Some(Box::new(rustls::Connection::Server(c))) }
    }
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(t) = self.tls.as_mut() else { return raw_read(self.fd, buf) };
        loop {
            match t.reader().read(buf) {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            let n = t.read_tls(&mut Fd(self.fd))?;
            if n == 0 {
                return Ok(0);
            }
            t.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::Other, e))?;
            while t.wants_write() {
                match t.write_tls(&mut Fd(self.fd)) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
        }
    }
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.tls.as_mut() {
            None => raw_write(self.fd, data),
            Some(t) => {
                let n = t.writer().write(data)?;
                self.flush()?;
                Ok(n)
            }
        }
    }
    /// true: nothing left to flush
    pub fn flush(&mut self) -> io::Result<bool> {
        if let Some(t) = self.tls.as_mut() {
            while t.wants_write() {
                match t.write_tls(&mut Fd(self.fd)) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(true)
    }
    pub fn tls_pending(&self) -> bool {
        self.tls.as_ref().map_or(false, |t| t.wants_write() && !t.is_handshaking())
    }
}

#[derive(Debug)]
struct NoVerify;
impl rustls::client::danger::ServerCertVerifier for NoVerify {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "ring")]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(feature = "ring"))]
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS 1.3 only, no certificate check: loopback bench only.
pub fn client_cfg(alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut c = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoVerify))
        .with_no_client_auth();
    c.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    Arc::new(c)
}

pub fn server_cfg(cert: &str, key: &str, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
    let certs = rustls_pemfile::certs(&mut &std::fs::read(cert).unwrap()[..]).collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls_pemfile::private_key(&mut &std::fs::read(key).unwrap()[..]).unwrap().unwrap();
    let mut c = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .unwrap();
    c.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    Arc::new(c)
}

/// `--key value` and bare `--flag` arguments.
pub struct Args(std::collections::HashMap<String, String>);
impl Args {
    pub fn parse() -> Self {
        let v: Vec<String> = std::env::args().skip(1).collect();
        let mut m = std::collections::HashMap::new();
        let mut i = 0;
        while i < v.len() {
            let k = v[i].trim_start_matches("--").to_string();
            if i + 1 < v.len() && !v[i + 1].starts_with("--") {
                m.insert(k, v[i + 1].clone());
                i += 2;
            } else {
                m.insert(k, "1".into());
                i += 1;
            }
        }
        Args(m)
    }
    pub fn get(&self, k: &str) -> Option<&str> {
        self.0.get(k).map(|s| s.as_str())
    }
    pub fn num<T: std::str::FromStr>(&self, k: &str, d: T) -> T {
        self.get(k).and_then(|s| s.parse().ok()).unwrap_or(d)
    }
    pub fn list(&self, k: &str) -> Vec<String> {
        self.get(k).map(|s| s.split(',').filter(|x| !x.is_empty()).map(String::from).collect()).unwrap_or_default()
    }
}

pub fn hist() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(100, 120_000_000_000, 3).unwrap()
}
pub fn hist_json(h: &hdrhistogram::Histogram<u64>) -> String {
    if h.len() == 0 {
        return "null".into();
    }
    let q = |x| h.value_at_quantile(x) as f64 / 1e3;
    format!(
        "{{\"n\":{},\"mean\":{:.1},\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
        h.len(),
        h.mean() / 1e3,
        q(0.5),
        q(0.9),
        q(0.99),
        q(0.999),
        h.max() as f64 / 1e3
    )
}

/// Request bodies. `mock:EVENTS,DELAY_US;` inside the prompt steers the mock upstream. `sse-unasked` is a stream whose client does
/// not ask for usage, so that a gateway that wants to know it has to ask, and to take the answer out again.
pub fn body(workload: &str, events: u32, delay_us: u64, model: &str) -> Vec<u8> {
    let stream = match workload {
        "sse" => "\"stream\":true,\"stream_options\":{\"include_usage\":true},",
        "sse-unasked" => "\"stream\":true,",
        _ => "",
    };
    let target = match workload {
        "big" => 512 * 1024,
        "mid" => 32 * 1024,
        _ => 1500,
    };
    let head = format!(
        "{{\"model\":\"{model}\",{stream}\"temperature\":0.7,\"max_tokens\":256,\"user\":\"user-7f3a\",\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant for the planning team. Answer briefly and cite the paragraph you used. mock:{events},{delay_us};\"}},{{\"role\":\"user\",\"content\":\""
    );
    let tail = "\"}]}";
    let mut b = head.into_bytes();
    let filler = b"The quick brown fox jumps over the lazy dog while the grid runs on wind. ";
    let mut i = 0;
    while b.len() + tail.len() < target {
        b.push(filler[i % filler.len()]);
        i += 1;
    }
    b.extend_from_slice(tail.as_bytes());
    b
}

pub fn h1_request(path: &str, body: &[u8], extra: &str) -> Vec<u8> {
    let mut r = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway.local\r\nUser-Agent: OpenAI/Python 1.99.0\r\nAccept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-bench-0123456789abcdef0123456789abcdef\r\nX-Stainless-Lang: python\r\nX-Stainless-Runtime: CPython\r\n{extra}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    r.extend_from_slice(body);
    r
}
