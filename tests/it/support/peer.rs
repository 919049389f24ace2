//! A backend that does what a test tells it to, byte by byte: raw sockets and blocking threads, because a client library would hide
//! exactly what has to be seen and could not stall, cut or lie.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An upper bound on every wait of a test; nothing waits that long unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and fields, as text.
    pub head: String,
    /// The body, chunked coding undone.
    pub body: Vec<u8>,
}

impl Seen {
    /// The value of a field, if it is there.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Every value of a field, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The request target.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// What a script wants with the connection afterwards.
pub(crate) enum Then {
    /// Read the next request on it.
    Next,
    /// Close it.
    Close,
}

/// A scripted backend. It lives until the test process ends.
pub(crate) struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Receiver<Seen>,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    /// Starts a backend that runs `script` on every request.
    pub(crate) fn start(script: impl Fn(&Seen, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, seen) = channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, count) = (Arc::new(script), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, SeqCst);
                let (script, sender) = (Arc::clone(&script), sender.clone());
                std::thread::spawn(move || converse(stream, &*script, &sender));
            }
        });
        Self { address, seen, connections }
    }

    /// A backend that answers every request with this JSON.
    pub(crate) fn answering(status: &'static str, body: &'static str) -> Self {
        Self::start(move |_, stream| {
            respond(stream, status, "content-type: application/json\r\n", body.as_bytes());
            Then::Next
        })
    }

    /// Answers one request, and closes, each time that it is told to.
    pub(crate) fn when_told(body: &'static str) -> (Sender<()>, Self) {
        let (tell, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let peer = Self::start(move |_, socket| {
            let _ = wait.lock().unwrap().recv();
            respond(socket, "200 OK", "content-type: application/json\r\n", body.as_bytes());
            Then::Close
        });
        (tell, peer)
    }

    /// An address where nobody listens.
    pub(crate) fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound")
    }

    /// The next request that arrived.
    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("the backend sees a request")
    }

    /// Whether a request arrived that was not asked for with [`Peer::next`].
    pub(crate) fn saw_more(&self) -> bool {
        self.seen.try_recv().is_ok()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// A backend that is nothing but a conversation, held on every connection by a thread of its own, which may say how it goes.
pub(crate) fn conversing<T: Send + 'static>(
    converse: impl Fn(TcpStream, &Sender<T>) + Send + Sync + 'static,
) -> (SocketAddr, Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ((say, said), converse) = (channel(), Arc::new(converse));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (say, converse) = (say.clone(), Arc::clone(&converse));
            std::thread::spawn(move || converse(stream, &say));
        }
    });
    (address, said)
}

/// Speaks HTTP/2 on a connection until it ends, and answers each of its streams in a task.
pub(crate) fn by_http2<F: Future<Output = ()> + Send + 'static>(
    stream: TcpStream,
    answer: impl Fn(http::Request<h2::RecvStream>, h2::server::SendResponse<bytes::Bytes>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    stream.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, response))) = connection.accept().await {
            tokio::spawn(answer(request, response));
        }
    });
}

/// Writes a response with a length.
pub(crate) fn respond(stream: &mut TcpStream, status: &str, fields: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

/// Begins a response of server-sent events.
pub(crate) fn begin_events(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
}

/// Writes one chunk.
pub(crate) fn chunk(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat());
}

/// Ends a chunked body.
pub(crate) fn end_chunks(stream: &mut TcpStream) {
    let _ = stream.write_all(b"0\r\n\r\n");
}

/// Waits until the other side has closed the connection, one way or another.
pub(crate) fn wait_for_close(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut rest = [0; 1024];
    while let Ok(read) = stream.read(&mut rest) {
        if read == 0 {
            return;
        }
    }
}

fn converse(mut stream: TcpStream, script: &dyn Fn(&Seen, &mut TcpStream) -> Then, sender: &Sender<Seen>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_message(&mut stream, &mut buffer) {
        let _ = sender.send(seen.clone());
        if matches!(script(&seen, &mut stream), Then::Close) {
            return;
        }
    }
}

/// Reads one HTTP/1.1 message; `None` when the connection ends first.
pub(crate) fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = fill_until(stream, buffer, |bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4))?;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut seen = Seen { head, body: Vec::new() };
    if let Some(length) = seen.field("content-length").and_then(|length| length.parse::<usize>().ok()) {
        fill_until(stream, buffer, |bytes| (bytes.len() >= length).then_some(length))?;
        seen.body = buffer.drain(..length).collect();
    } else if seen.field("transfer-encoding").is_some() {
        loop {
            let line = fill_until(stream, buffer, |bytes| find(bytes, b"\r\n").map(|at| at + 2))?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&buffer[..line]).trim(), 16).ok()?;
            let whole = line + size + 2;
            fill_until(stream, buffer, |bytes| (bytes.len() >= whole).then_some(whole))?;
            seen.body.extend_from_slice(&buffer[line..line + size]);
            buffer.drain(..whole);
            if size == 0 {
                break;
            }
        }
    }
    Some(seen)
}

fn fill_until(stream: &mut TcpStream, buffer: &mut Vec<u8>, done: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut more = [0; 16 << 10];
    loop {
        if let Some(end) = done(buffer) {
            return Some(end);
        }
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&more[..read]),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
