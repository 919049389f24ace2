//! Requests and frames that no client should send, each with the rule that it rests on and what it is to end with.

use super::super::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NEWEST, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, call,
    frame, literal, remembered,
};

use Want::{Answered, Ended, Reset};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// How it ends. That a fault of a stream is taken for one of the connection is allowed (RFC 9113, 5.4.2), and so the code is left to
/// whoever reads the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A response with this status.
    Answered(u16),
    /// The stream alone is reset.
    Reset,
    /// The connection is given up, with a code of an error.
    Ended,
}

/// What is sent after the settings, and how a stream, or all, ends. A case that is answered with 200 reaches the backend, no other.
pub(super) struct Case {
    pub name: &'static str,
    pub rule: &'static str,
    pub want: Want,
    pub sent: Vec<u8>,
    /// Whose end it is.
    pub stream: u32,
}

impl Case {
    const fn of_stream(mut self, stream: u32) -> Self {
        self.stream = stream;
        self
    }
}

fn case(name: &'static str, rule: &'static str, want: Want, frames: &[Vec<u8>]) -> Case {
    Case { name, rule, want, sent: frames.concat(), stream: 1 }
}

/// A head without a body.
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "windward.test")];

/// A good head with further fields.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    head(&[&GET, more].concat())
}

/// A good head with one pseudo-header of another value.
fn instead(name: &str, value: &str) -> Vec<u8> {
    head(&GET.map(|field| if field.0 == name { (field.0, value) } else { field }))
}

/// A good head without one pseudo-header, and with further fields.
fn without(name: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = GET.iter().copied().filter(|field| field.0 != name).collect();
    head(&[&fields, more].concat())
}

/// A good head as bytes, and what follows it in the same block.
fn and(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &[block(&GET), more.to_vec()].concat())
}

/// The head of a call with further fields, a body to follow.
fn open(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &[call(), block(more)].concat())
}

const BODY: &[u8] = br#"{"model":"m"}"#;

fn data(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, payload)
}

pub(super) fn all() -> Vec<Case> {
    [pseudo(), fields(), hosts(), lengths(), states(), closed(), passed_over(), sizes(), connection(), compression()]
        .into_iter()
        .flatten()
        .collect()
}

fn pseudo() -> Vec<Case> {
    let malformed = |name, frames| case(name, "RFC 9113, 8.3", Reset, &[frames]);
    let unreadable = |name, frames| case(name, "RFC 9113, 8.3", Ended, &[frames]);
    let twice = |name, value| with(&[(name, value)]);
    let mut last = GET;
    last.rotate_left(1);
    vec![
        case("a good request", "RFC 9113, 8.3.1", Answered(200), &[head(&GET)]),
        case("the order of pseudo-headers is free", "RFC 9113, 8.3.1", Answered(200), &[head(&last)]),
        malformed("no method", without(":method", &[])),
        malformed("no scheme", without(":scheme", &[])),
        malformed("no path", without(":path", &[])),
        case("no path and no authority", "RFC 9113, 8.3.1", Answered(400), &[head(&[GET[0], GET[1], ("host", "windward.test")])]),
        malformed("an empty path", instead(":path", "")),
        unreadable("an empty method", instead(":method", "")),
        unreadable("a method that is no token", instead(":method", "GE T")),
        malformed("method twice", twice(":method", "GET")),
        malformed("scheme twice", twice(":scheme", "http")),
        malformed("path twice", twice(":path", "/v1/files")),
        malformed("authority twice", twice(":authority", "windward.test")),
        malformed("path after a field", head(&[GET[0], GET[1], GET[3], ("x", "y"), GET[2]])),
        unreadable("an unknown pseudo-header", with(&[(":x", "y")])),
        malformed("a status", with(&[(":status", "200")])),
        malformed("a protocol without CONNECT", with(&[(":protocol", "websocket")])),
        malformed("a path with a blank", instead(":path", "/v1/a b")),
        malformed("a path with a line end", instead(":path", "/v1/a\r\nx: y")),
        malformed("a scheme that is none", instead(":scheme", "ht tp")),
        case("a path without a slash", "RFC 9113, 8.3.1", Reset, &[instead(":path", "v1/files")]),
        case("an asterisk for GET", "RFC 9113, 8.3.1", Answered(400), &[instead(":path", "*")]),
        case("a path that climbs", "policy", Answered(400), &[instead(":path", "/v1/../admin")]),
        case("CONNECT", "policy", Answered(405), &[head(&[(":method", "CONNECT"), (":authority", "windward.test:80")])]),
        malformed("CONNECT with a path", instead(":method", "CONNECT")),
        case(
            "CONNECT with a protocol",
            "RFC 8441, 3",
            Reset,
            &[head(&[&GET[1..], &[(":method", "CONNECT"), (":protocol", "websocket")]].concat())],
        ),
        case("TRACE", "policy", Answered(405), &[instead(":method", "TRACE")]),
    ]
}

fn fields() -> Vec<Case> {
    let malformed = |name, rule, frames| case(name, rule, Reset, &[frames]);
    let unreadable = |name, frames| case(name, "RFC 9113, 8.2.1", Ended, &[frames]);
    let about_connection = |name| malformed(name, "RFC 9113, 8.2.2", with(&[(name, "close")]));
    vec![
        about_connection("connection"),
        about_connection("keep-alive"),
        about_connection("proxy-connection"),
        about_connection("upgrade"),
        malformed("transfer-encoding", "RFC 9113, 8.2.2", with(&[("transfer-encoding", "chunked")])),
        malformed("te: gzip", "RFC 9113, 8.2.2", with(&[("te", "gzip")])),
        malformed("te: trailers, gzip", "RFC 9113, 8.2.2", with(&[("te", "trailers, gzip")])),
        case("te: trailers", "RFC 9113, 8.2.2", Answered(200), &[with(&[("te", "trailers")])]),
        unreadable("a name with capitals", with(&[("X-Y", "z")])),
        unreadable("a name with a blank", with(&[("x y", "z")])),
        unreadable("a name with a colon", with(&[("x:y", "z")])),
        unreadable("a name with a line end", with(&[("x\r\ny", "z")])),
        unreadable("an empty name", with(&[("", "z")])),
        unreadable("a value with a line feed", with(&[("x", "y\nz: 1")])),
        unreadable("a value with a carriage return", with(&[("x", "y\rz")])),
        unreadable("a value with NUL", with(&[("x", "y\0z")])),
        case("several cookies", "RFC 9113, 8.2.3", Answered(200), &[with(&[("cookie", "a=b"), ("cookie", "c=d")])]),
        case("bytes above ASCII", "RFC 9110, 5.5", Answered(200), &[and(&literal("x", b"\xff\x80"))]),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |value| with(&[("host", value)]);
    let alone = |value| without(":authority", &[("host", value)]);
    let (good, bad) = (Answered(200), Answered(400));
    vec![
        case("the same host", "RFC 9113, 8.3.1", good, &[host("windward.test")]),
        case("the same host with the default port", "RFC 3986, 6.2.3", Answered(200), &[host("Windward.test:80")]),
        case("a host alone", "RFC 9113, 8.3.1", Answered(200), &[alone("windward.test")]),
        case("another host", "RFC 9113, 8.3.1", bad, &[host("evil.test")]),
        case("another port", "RFC 9113, 8.3.1", Answered(400), &[host("windward.test:8080")]),
        case("an empty host", "RFC 9113, 8.3.1", Answered(400), &[host("")]),
        case("two hosts", "RFC 9110, 7.2", Answered(400), &[with(&[("host", "windward.test"), ("host", "windward.test")])]),
        case(
            "two hosts alone",
            "RFC 9110, 7.2",
            Answered(400),
            &[without(":authority", &[("host", "a.test"), ("host", "b.test")])],
        ),
        case("no host at all", "RFC 9113, 8.3.1", Answered(400), &[without(":authority", &[])]),
        case("a host that is none", "RFC 9110, 7.2", Answered(400), &[alone("a.test/x")]),
        case("a user in the authority", "RFC 9113, 8.3.1", Answered(400), &[instead(":authority", "me@windward.test")]),
        case("an empty authority", "RFC 9113, 8.3.1", Reset, &[instead(":authority", "")]),
        case("an authority with a path", "RFC 9113, 8.3.1", Reset, &[instead(":authority", "windward.test/x")]),
    ]
}

fn lengths() -> Vec<Case> {
    let malformed = |name, frames: &[Vec<u8>]| case(name, "RFC 9113, 8.1.1", Reset, frames);
    let length = |value| open(&[("content-length", value)]);
    vec![
        case("the length that it has", "RFC 9113, 8.1.1", Answered(200), &[length("13"), data(END_STREAM, BODY)]),
        case("no length", "RFC 9113, 8.1.1", Answered(200), &[open(&[]), data(0, BODY), data(END_STREAM, b"")]),
        malformed("more than its length", &[length("12"), data(END_STREAM, BODY)]),
        malformed("less than its length", &[length("14"), data(END_STREAM, BODY)]),
        malformed("less than its length, ended by an empty frame", &[length("14"), data(0, BODY), data(END_STREAM, b"")]),
        malformed("a length and no body", &[with(&[("content-length", "5")])]),
        malformed("a length that is no number", &[length("13x"), data(END_STREAM, BODY)]),
        malformed("a length with a sign", &[length("+13"), data(END_STREAM, BODY)]),
        malformed("two lengths", &[open(&[("content-length", "13"), ("content-length", "14")]), data(END_STREAM, BODY)]),
        case(
            "trailers",
            "RFC 9113, 8.1",
            Answered(200),
            &[open(&[]), data(0, BODY), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "1")]))],
        ),
        // Whoever reads the frames drops the pseudo-header, and of the request nothing is lost or gained.
        case(
            "trailers with a pseudo-header",
            "RFC 9113, 8.1, which asks for a refusal",
            Answered(200),
            &[open(&[]), data(0, BODY), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/x")]))],
        ),
        malformed(
            "trailers that do not end it",
            &[open(&[]), data(0, BODY), frame(HEADERS, END_HEADERS, 1, &block(&[("x-sum", "1")])), data(END_STREAM, b"")],
        ),
    ]
}

fn states() -> Vec<Case> {
    let gone = |name, rule, frames: &[Vec<u8>]| case(name, rule, Ended, frames);
    vec![
        gone("data on stream 0", "RFC 9113, 6.1", &[frame(DATA, 0, 0, b"x")]),
        gone("data before a head", "RFC 9113, 5.1", &[data(0, b"x")]),
        gone("a head on stream 0", "RFC 9113, 6.2", &[frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&GET))]),
        gone("an even stream", "RFC 9113, 5.1.1", &[frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&GET))]),
        case("data after the end", "RFC 9113, 5.1", Ended, &[open(&[]), data(END_STREAM, b"{"), data(0, b"}")]),
        gone(
            "a head after the end",
            "RFC 9113, 5.1",
            &[open(&[]), data(END_STREAM, b"{"), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "y")]))],
        ),
        gone("a reset before a head", "RFC 9113, 6.4", &[frame(RST_STREAM, 0, 1, &[0; 4])]),
        gone("a reset of stream 0", "RFC 9113, 6.4", &[frame(RST_STREAM, 0, 0, &[0; 4])]),
        gone("a window before a head", "RFC 9113, 5.1", &[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])]),
        gone("a promise", "RFC 9113, 8.4", &[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]),
        gone("the rest of a head that never began", "RFC 9113, 6.10", &[frame(CONTINUATION, END_HEADERS, 1, b"")]),
        gone(
            "another frame within a head",
            "RFC 9113, 6.2",
            &[frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(PING, 0, 0, &[0; 8])],
        ),
        gone(
            "another stream within a head",
            "RFC 9113, 6.10",
            &[frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(CONTINUATION, END_HEADERS, 3, b"")],
        ),
        case(
            "a head in pieces",
            "RFC 9113, 4.3",
            Answered(200),
            &[
                frame(HEADERS, END_STREAM, 1, &block(&GET)[..7]),
                frame(CONTINUATION, 0, 1, b""),
                frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[7..]),
            ],
        ),
        gone(
            "the rest of a head that has ended",
            "RFC 9113, 6.10",
            &[open(&[]), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))],
        ),
        gone(
            "the rest of a head after its data",
            "RFC 9113, 6.10",
            &[open(&[]), data(0, b"{"), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))],
        ),
        gone(
            "a priority within a head",
            "RFC 9113, 4.3",
            &[frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])],
        ),
        gone(
            "a head within a head",
            "RFC 9113, 4.3",
            &[frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&GET))],
        ),
        gone(
            "an unknown frame within a head",
            "RFC 9113, 5.5",
            &[frame(HEADERS, END_STREAM, 1, &block(&GET)), frame(0xfa, 0, 1, b"?"), frame(CONTINUATION, END_HEADERS, 1, b"")],
        ),
    ]
}

/// What comes for a stream that has ended, or never began.
fn closed() -> Vec<Case> {
    let gone = |name, rule, frames: &[Vec<u8>]| case(name, rule, Ended, frames);
    vec![
        gone("a head of a stream before the last one", "RFC 9113, 5.1.1", &[on(5), on(3)]),
        case("data of a stream before the last one", "RFC 9113, 5.1.1", Reset, &[on(5), frame(DATA, 0, 3, b"x")]).of_stream(3),
        case("data after a reset", "RFC 9113, 5.1", Reset, &[open(&[]), reset(8), data(0, b"x")]),
        gone("a head after a reset", "RFC 9113, 5.1", &[open(&[]), reset(8), head(&GET)]),
        gone(
            "the rest of a head after a reset",
            "RFC 9113, 5.1",
            &[open(&[]), reset(8), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))],
        ),
        gone("a reset of an even stream", "RFC 9113, 5.1", &[frame(RST_STREAM, 0, 2, &[0; 4])]),
        gone(
            "the rest of a head after the end",
            "RFC 9113, 5.1",
            &[open(&[]), data(END_STREAM, b"{"), frame(CONTINUATION, 4, 1, b"")],
        ),
    ]
}

/// The head of a call on another stream, a body to follow.
fn on(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call())
}

/// A good head on stream 3.
fn later() -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&GET))
}

/// Stream 1 is given up, with this code.
fn reset(code: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, 1, &[0, 0, 0, code])
}

/// What has to be passed over, and what nobody uses any more.
fn passed_over() -> Vec<Case> {
    let fine = |name, rule, frames: &[Vec<u8>]| case(name, rule, Answered(200), frames);
    let whole = END_HEADERS | END_STREAM;
    // RFC 9113, 4.1: the first bit of a stream's number.
    let mut reserved = head(&GET);
    reserved[5] |= 0x80;
    vec![
        fine("frames of an unknown type", "RFC 9113, 5.5", &[frame(0xfa, 0xff, 7, b"?"), head(&GET)]),
        fine(
            "an unknown frame on a stream that is open",
            "RFC 9113, 5.5",
            &[open(&[]), frame(0xfa, 0xff, 1, b"?"), data(END_STREAM, BODY)],
        ),
        fine("the reserved bit", "RFC 9113, 4.1", &[reserved]),
        fine("the reserved bit of a window", "RFC 9113, 6.9", &[frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 1]), head(&GET)]),
        fine("flags of a head that mean nothing", "RFC 9113, 4.1", &[frame(HEADERS, whole | 0x52, 1, &block(&GET))]),
        fine("flags of data that mean nothing", "RFC 9113, 4.1", &[open(&[]), data(END_STREAM | 0xf6, BODY)]),
        fine("flags of settings that mean nothing", "RFC 9113, 4.1", &[frame(SETTINGS, 0xfe, 0, b""), head(&GET)]),
        fine("flags of a ping that mean nothing", "RFC 9113, 4.1", &[frame(PING, 0xfe, 0, &[0; 8]), head(&GET)]),
        fine("an answer to a ping that nobody sent", "RFC 9113, 6.7", &[frame(PING, 1, 0, &[0; 8]), head(&GET)]),
        fine("a reset with an unknown code", "RFC 9113, 7", &[open(&[]), frame(RST_STREAM, 0, 1, &[0xff; 4]), later()])
            .of_stream(3),
        fine("priorities", "RFC 9113, 5.3.2", &[frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), head(&GET)]),
        fine(
            "a priority after a reset",
            "RFC 9113, 5.1",
            &[open(&[]), reset(8), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), later()],
        )
        .of_stream(3),
        fine(
            "a window after a reset",
            "RFC 9113, 5.1",
            &[open(&[]), reset(8), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), later()],
        )
        .of_stream(3),
        fine("a second reset", "RFC 9113, 5.1", &[open(&[]), reset(8), reset(8), later()]).of_stream(3),
        fine("streams left out", "RFC 9113, 5.1.1", &[later()]).of_stream(3),
        case("a priority of stream 0", "RFC 9113, 6.3", Ended, &[frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 9])]),
        case("a stream that depends on itself", "RFC 7540, 5.3.1", Reset, &[open(&[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])]),
        case(
            "a head that depends on itself",
            "RFC 7540, 5.3.1",
            Reset,
            &[frame(HEADERS, whole | HAS_PRIORITY, 1, &[vec![0, 0, 0, 1, 9], block(&GET)].concat())],
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let gone = |name, rule, frames: &[Vec<u8>]| case(name, rule, Ended, frames);
    let padded = |kind, flags, payload: &[u8]| frame(kind, flags | PADDED, 1, payload);
    vec![
        case(
            "padding",
            "RFC 9113, 6.1",
            Answered(200),
            &[open(&[]), padded(DATA, END_STREAM, &[&[9][..], BODY, &[0; 9]].concat())],
        ),
        gone("padding longer than the data", "RFC 9113, 6.1", &[open(&[]), padded(DATA, 0, &[9, 0])]),
        gone("padding longer than the head", "RFC 9113, 6.2", &[padded(HEADERS, END_HEADERS, &[9, 0])]),
        gone("a frame larger than allowed", "RFC 9113, 4.2", &[open(&[]), data(0, &[b'x'; 16_385])]),
        case(
            "a frame as large as allowed",
            "RFC 9113, 4.2",
            Answered(200),
            &[open(&[]), data(END_STREAM, &[BODY, &[b' '; 16_384 - BODY.len()]].concat())],
        ),
        gone("padding and nothing to pad", "RFC 9113, 6.1", &[open(&[]), padded(DATA, 0, b"")]),
        gone("padding as long as the data", "RFC 9113, 6.1", &[open(&[]), padded(DATA, 0, &[2, b'x'])]),
        gone("a head without its priority", "RFC 9113, 6.2", &[frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, &[0; 4])]),
        gone("settings larger than a frame", "RFC 9113, 4.2", &[frame(SETTINGS, 0, 0, &[0xfa; 16_386])]),
        gone("a ping of nine bytes", "RFC 9113, 6.7", &[frame(PING, 0, 0, &[0; 9])]),
        gone("an answer to a ping of seven bytes", "RFC 9113, 6.7", &[frame(PING, 1, 0, &[0; 7])]),
        gone("a reset of three bytes", "RFC 9113, 6.4", &[open(&[]), frame(RST_STREAM, 0, 1, &[0; 3])]),
        gone("a window of three bytes", "RFC 9113, 6.9", &[open(&[]), frame(WINDOW_UPDATE, 0, 1, &[0; 3])]),
        gone("a goodbye of seven bytes", "RFC 9113, 6.8", &[frame(GOAWAY, 0, 0, &[0; 7])]),
        gone("a head larger than allowed", "RFC 9113, 4.2", &[frame(HEADERS, END_HEADERS, 1, &[0; 16_385])]),
        gone("a ping of seven bytes", "RFC 9113, 6.7", &[frame(PING, 0, 0, &[0; 7])]),
        gone("a ping on a stream", "RFC 9113, 6.7", &[frame(PING, 0, 1, &[0; 8])]),
        gone("a reset of five bytes", "RFC 9113, 6.4", &[open(&[]), frame(RST_STREAM, 0, 1, &[0; 5])]),
        gone("a window of five bytes", "RFC 9113, 6.9", &[frame(WINDOW_UPDATE, 0, 0, &[0; 5])]),
        gone("settings of five bytes", "RFC 9113, 6.5", &[frame(SETTINGS, 0, 0, &[0; 5])]),
        gone("an acknowledgement that says something", "RFC 9113, 6.5", &[frame(SETTINGS, 1, 0, &[0; 6])]),
        gone("a priority of four bytes", "RFC 9113, 6.3", &[open(&[]), frame(PRIORITY, 0, 1, &[0; 4])]),
        gone("a goodbye on a stream", "RFC 9113, 6.8", &[frame(GOAWAY, 0, 1, &[0; 8])]),
    ]
}

fn connection() -> Vec<Case> {
    let setting = |id: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat());
    let gone = |name, rule, frames: &[Vec<u8>]| case(name, rule, Ended, frames);
    let most = 0x7fff_ffff_u32.to_be_bytes();
    vec![
        gone("no window on the connection", "RFC 9113, 6.9", &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        case("no window on a stream", "RFC 9113, 6.9", Ended, &[open(&[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        gone("a window too large", "RFC 9113, 6.9.1", &[frame(WINDOW_UPDATE, 0, 0, &most)]),
        case("a stream's window too large", "RFC 9113, 6.9.1", Reset, &[open(&[]), frame(WINDOW_UPDATE, 0, 1, &most)]),
        gone("settings on a stream", "RFC 9113, 6.5", &[frame(SETTINGS, 0, 1, b"")]),
        gone("push neither on nor off", "RFC 9113, 6.5.2", &[setting(2, 2)]),
        gone("a first window too large", "RFC 9113, 6.5.2", &[setting(4, 1 << 31)]),
        gone("frames too small", "RFC 9113, 6.5.2", &[setting(5, 1)]),
        gone("frames just too small", "RFC 9113, 6.5.2", &[setting(5, (1 << 14) - 1)]),
        gone("frames too large", "RFC 9113, 6.5.2", &[setting(5, 1 << 24)]),
        case("the smallest frames", "RFC 9113, 6.5.2", Answered(200), &[setting(5, 1 << 14), head(&GET)]),
        case("the largest frames", "RFC 9113, 6.5.2", Answered(200), &[setting(5, (1 << 24) - 1), head(&GET)]),
        case("the largest first window", "RFC 9113, 6.5.2", Answered(200), &[setting(4, (1 << 31) - 1), head(&GET)]),
        case("no table at all", "RFC 9113, 6.5.2", Answered(200), &[setting(1, 0), head(&GET)]),
        case("the largest table", "RFC 9113, 6.5.2", Answered(200), &[setting(1, u32::MAX), head(&GET)]),
        case("heads that may hardly be anything", "RFC 9113, 6.5.2", Answered(200), &[setting(6, 1), head(&GET)]),
        case("a promise that may not be sent", "RFC 9113, 6.5.2", Answered(200), &[setting(2, 0), head(&GET)]),
        case("an unknown setting", "RFC 9113, 6.5.2", Answered(200), &[setting(0xfa, 7), head(&GET)]),
        case(
            "a window made too large by a setting",
            "RFC 9113, 6.9.2",
            Ended,
            &[open(&[]), frame(WINDOW_UPDATE, 0, 1, &0x7fff_0000_u32.to_be_bytes()), setting(4, 0x7fff_ffff)],
        ),
        case("no preface after the first one", "RFC 9113, 3.4", Ended, &[b"GET / HTTP/1.1\r\n\r\n".to_vec()]),
    ]
}

fn compression() -> Vec<Case> {
    let broken = |name, rule, more: &[u8]| case(name, rule, Ended, &[and(more)]);
    let bomb = [remembered("x", &[b'y'; 4000]), vec![NEWEST; 10_000]].concat();
    let large: Vec<u8> = (0..9).flat_map(|_| literal("x", &[b'y'; 8000])).collect();
    let mut parts: Vec<Vec<u8>> = large.chunks(16_000).map(|part| frame(CONTINUATION, 0, 1, part)).collect();
    parts.insert(0, frame(HEADERS, END_STREAM, 1, &block(&GET)));
    parts.push(frame(CONTINUATION, END_HEADERS, 1, b""));
    vec![
        broken("an index that is none", "RFC 7541, 6.1", &[0x80]),
        broken("an index past the table", "RFC 7541, 2.3.3", &[0xff, 0x80, 0x01]),
        broken("a number without an end", "RFC 7541, 5.1", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        broken("a string longer than the block", "RFC 7541, 5.2", &[0, 0x7f, 0xff, 0x01, b'x']),
        broken("a table larger than agreed", "RFC 7541, 6.3", &[0x3f, 0xe2, 0x1f]),
        broken(
            "a number that overflows",
            "RFC 7541, 5.1",
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0],
        ),
        broken(
            "a number that overflows in a length",
            "RFC 7541, 5.1",
            &[0, 0x7f, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        broken("an empty index with a value", "RFC 7541, 6.2.1", &[0x7f, 0x80, 0x01, 1, b'x']),
        broken("a size of the table after a field", "RFC 7541, 4.2", &[0x20]),
        broken("a size of the table between fields", "RFC 7541, 4.2", &[&[0x3f, 0x21][..], &literal("x", b"y")].concat()),
        broken("a field that is not whole", "RFC 9113, 4.3", &[0x40, 1, b'x']),
        broken("padding of more than seven bits", "RFC 7541, 5.2", &[0, 1, b'x', 0x82, 0xf3, 0xff]),
        broken("padding of zeros", "RFC 7541, 5.2", &[0, 1, b'x', 0x81, 0xf0]),
        case("padding of one bits", "RFC 7541, 5.2", Answered(200), &[and(&[0, 1, b'x', 0x81, 0xf3])]),
        case(
            "a size of the table at the beginning",
            "RFC 7541, 4.2",
            Answered(200),
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[vec![0x20, 0x3f, 0xe1, 0x1f], block(&GET)].concat())],
        ),
        case(
            "a field that was forgotten",
            "RFC 7541, 4.3",
            Ended,
            &[
                frame(HEADERS, END_HEADERS, 1, &[call(), remembered("x", b"y")].concat()),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, &[vec![0x20], block(&GET), vec![NEWEST]].concat()),
            ],
        ),
        broken("a string of the end of strings", "RFC 7541, 5.2", &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x']),
        case("a field repeated ten thousand times", "limits.head", Ended, &[and(&bomb)]),
        case("a head beyond the limit", "limits.head", Answered(431), &parts),
    ]
}
