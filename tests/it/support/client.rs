//! A client of raw bytes, so that a test sees every byte the proxy sends and can send what no library would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::peer::{PATIENCE, Seen, read_message};

/// A response as it arrived.
pub(crate) struct Answer {
    /// Status.
    pub status: u16,
    message: Seen,
}

impl Answer {
    /// The value of a field, if it is there.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.message.field(name)
    }

    /// Every value of a field, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        self.message.fields(name)
    }

    /// The body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.message.body
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.message.json()
    }
}

/// A connection to the proxy.
pub(crate) struct Client {
    /// The socket.
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the proxy reads");
    }

    /// Sends a JSON body.
    pub(crate) fn post(&mut self, path: &str, fields: &str, body: &str) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: windward.test\r\ncontent-type: application/json\r\n{fields}content-length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
    }

    /// Sends a request without a body.
    pub(crate) fn get(&mut self, path: &str, fields: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: windward.test\r\n{fields}\r\n").as_bytes());
    }

    /// Reads one whole response; `None` when the connection ends before it does.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let message = read_message(&mut self.stream, &mut self.buffer)?;
        let status = message.head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, message })
    }

    /// Reads one whole response.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("a whole response")
    }

    /// Reads until the bytes received so far contain `text`, and gives them.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut more = [0; 16 << 10];
        loop {
            let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let read = self.stream.read(&mut more).expect("more to come");
            assert!(read > 0, "the connection ended before {text:?} came: {so_far}");
            self.buffer.extend_from_slice(&more[..read]);
        }
    }

    /// Reads until the proxy closes, and gives everything.
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        self.buffer.extend_from_slice(&rest);
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}
