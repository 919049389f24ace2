//! A client of HTTP/2 that writes its frames byte by byte, because a library would not send what has to be seen refused.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::peer::PATIENCE;

/// RFC 9113, 6: types of frames ..
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// .. and flags.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113, 3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame as it is sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 7541, 5.1: a number after a prefix of so many bits.
fn number(first: u8, bits: u8, value: usize, to: &mut Vec<u8>) {
    let limit = (1 << bits) - 1;
    if value < limit {
        to.push(first | value as u8);
        return;
    }
    to.push(first | limit as u8);
    let mut rest = value - limit;
    while rest >= 128 {
        to.push(rest as u8 | 128);
        rest /= 128;
    }
    to.push(rest as u8);
}

/// RFC 7541, 6.2.2: a field as it is, neither compressed nor remembered.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name.as_bytes(), value] {
        number(0, 7, text.len(), &mut bytes);
        bytes.extend(text);
    }
    bytes
}

/// RFC 7541, 6.2.1: the same, remembered as the newest of the table.
pub(crate) fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = literal(name, value);
    bytes[0] = 0x40;
    bytes
}

/// RFC 7541, 6.1: the newest field of the table.
pub(crate) const NEWEST: u8 = 0x80 | 0x3e;

/// Fields, as they are.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

/// The head of a call.
pub(crate) fn call() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":path", "/v1/chat/completions"), (":authority", "windward.test")])
}

/// How a stream or its connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A whole response with this status.
    Answered(u16),
    /// The stream alone was reset, with this code.
    Reset(u32),
    /// The connection was given up, with this code.
    GoneAway(u32),
    /// It ended without a word.
    Closed,
}

/// A connection to the proxy, past its preface.
pub(crate) struct H2Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl H2Client {
    /// Connects, with settings of its own and the windows wide open.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[], 1 << 30)
    }

    /// Connects with these settings, and the connection's window larger by `window`.
    pub(crate) fn with(address: SocketAddr, settings: &[(u16, u32)], window: u32) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let mut client = Self { stream, buffer: Vec::new() };
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()).collect();
        assert!(client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()));
        if window > 0 {
            assert!(client.send(&frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes())));
        }
        client
    }

    /// Sends bytes as they are; false when the proxy takes no more.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a whole call with this body.
    pub(crate) fn call(&mut self, stream: u32, body: &str) -> bool {
        self.send(&[frame(HEADERS, END_HEADERS, stream, &call()), frame(DATA, END_STREAM, stream, body.as_bytes())].concat())
    }

    /// The next frame; `None` when the connection ended.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        self.fill(9)?;
        let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
        self.fill(9 + length)?;
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    fn fill(&mut self, wanted: usize) -> Option<()> {
        let mut more = [0; 16 << 10];
        while self.buffer.len() < wanted {
            match self.stream.read(&mut more) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&more[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    panic!("neither a frame nor an end came")
                }
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Reads until a stream, or the whole, has ended.
    pub(crate) fn end(&mut self, stream: u32) -> End {
        let mut status = 0;
        loop {
            let Some(frame) = self.frame() else { return End::Closed };
            match frame.kind {
                GOAWAY => return End::GoneAway(code(&frame.payload[4..])),
                RST_STREAM if frame.stream == stream => return End::Reset(code(&frame.payload)),
                HEADERS if frame.stream == stream => status = status_of(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return End::Answered(status);
            }
        }
    }

    /// Reads until the proxy ends the connection, and gives the code if it said one.
    pub(crate) fn end_of_all(&mut self) -> Option<u32> {
        let mut said = None;
        while let Some(frame) = self.frame() {
            if frame.kind == GOAWAY {
                said = Some(code(&frame.payload[4..]));
            }
        }
        said
    }

    /// A PING and its answer: what was sent before has been read then.
    pub(crate) fn ping(&mut self) -> bool {
        let asked = self.send(&frame(PING, 0, 0, b"are here"));
        while asked && let Some(frame) = self.frame() {
            match frame.kind {
                PING if frame.flags & ACK != 0 && frame.payload == b"are here" => return true,
                GOAWAY => return false,
                _ => {}
            }
        }
        false
    }
}

/// The four bytes of an error code.
fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// The status, which is the first field of a response: one of the static table, or a literal with that name. Its digits may be
/// written with Huffman's code, in which those from 0 to 2 have five bits and the others six.
fn status_of(block: &[u8]) -> u16 {
    // What the encoder says about the size of its table comes first.
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap()..];
    if block[0] & 0x80 != 0 {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] & 0x7f) - 8];
    }
    assert!(matches!(block[0] & 0x3f, 8..=14), "the first field is the status: {block:?}");
    let length = usize::from(block[1] & 0x7f);
    let text = &block[2..2 + length];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(text).unwrap().parse().unwrap();
    }
    let mut bits = text.iter().fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * length);
    let mut status = 0;
    while status < 100 {
        let (digit, length) = if bits >> 59 <= 2 { (bits >> 59, 5) } else { ((bits >> 58) - 0x19 + 3, 6) };
        status = status * 10 + digit as u16;
        bits <<= length;
    }
    status
}
