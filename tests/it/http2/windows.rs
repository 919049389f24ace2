//! A response goes out as its client's windows allow, whatever settings and updates make of them.

use super::super::support::h2::{
    ACK, DATA, END_HEADERS, END_STREAM, End, GOAWAY, H2Client, HEADERS, PING, SETTINGS, WINDOW_UPDATE, call, frame,
};
use super::super::support::{Harness, Peer};

const FIRST_WINDOW: u16 = 4;
const BODY: &str = r#"{"a":"0123456789"}"#;

/// Calls, with this as the stream's first window.
fn begun(first_window: u32) -> (Peer, Harness, H2Client) {
    let backend = Peer::answering("200 OK", BODY);
    let proxy = Harness::start(&[("a", backend.address, "")], "");
    let mut client = H2Client::with(proxy.address, &[(FIRST_WINDOW, first_window)], 1 << 20);
    assert!(client.call(1, r#"{"model":"m"}"#));
    while client.frame().unwrap().kind != HEADERS {}
    (backend, proxy, client)
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// What of the body comes up to the answer to a PING, and whether that is the end of it. A PING may overtake what there is a window
/// for, so that `at_least` is waited for.
fn more(client: &mut H2Client, at_least: usize) -> (String, bool) {
    let (mut text, mut ended, mut pinged) = (Vec::new(), false, false);
    while !pinged || text.len() < at_least {
        if text.len() >= at_least && !std::mem::replace(&mut pinged, true) {
            assert!(client.send(&frame(PING, 0, 0, b"are here")));
        }
        loop {
            let frame = client.frame().unwrap();
            if frame.kind == DATA {
                text.extend(frame.payload);
                ended |= frame.flags & END_STREAM != 0;
                if !pinged {
                    break;
                }
            } else if frame.kind == PING {
                break;
            }
        }
    }
    (String::from_utf8(text).unwrap(), ended)
}

#[test]
fn a_stream_gets_what_its_window_is_for_and_not_a_byte_more() {
    let (_backend, _proxy, mut client) = begun(1);
    assert_eq!(more(&mut client, 1), ("{".to_owned(), false));
    assert!(client.send(&window(1, 3)));
    assert_eq!(more(&mut client, 3), (r#""a""#.to_owned(), false));
    assert!(client.send(&window(1, 100)));
    assert_eq!(more(&mut client, BODY.len() - 4), (BODY[4..].to_owned(), true));
}

#[test]
fn a_setting_moves_the_windows_of_streams_that_are_open_also_below_zero() {
    let (_backend, _proxy, mut client) = begun(0);
    assert_eq!(more(&mut client, 0), (String::new(), false));
    // RFC 9113, 6.5.3: of two values the last one counts.
    assert!(client.send(&settings(&[(FIRST_WINDOW, 100), (FIRST_WINDOW, 3)])));
    assert_eq!(more(&mut client, 3), (BODY[..3].to_owned(), false));
    // RFC 9113, 6.9.2: of a window that is used up two less is -2, and 0 after the first update.
    assert!(client.send(&[settings(&[(FIRST_WINDOW, 1)]), window(1, 2)].concat()));
    assert_eq!(more(&mut client, 0), (String::new(), false));
    assert!(client.send(&window(1, 1)));
    assert_eq!(more(&mut client, 1), (BODY[3..4].to_owned(), false));
    assert!(client.send(&settings(&[(FIRST_WINDOW, 1000)])));
    assert_eq!(more(&mut client, BODY.len() - 4), (BODY[4..].to_owned(), true));
}

#[test]
fn settings_are_acknowledged_each_time() {
    let backend = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", backend.address, "")], "");
    let mut client = H2Client::connect(proxy.address);
    assert!(client.send(&[settings(&[(FIRST_WINDOW, 100)]), settings(&[])].concat()));
    // Those of the beginning, and these two.
    let acknowledged = std::iter::from_fn(|| client.frame()).filter(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0);
    assert_eq!(acknowledged.take(3).filter(|frame| frame.payload.is_empty()).count(), 3);
}

#[test]
fn who_says_goodbye_gets_the_answers_to_what_it_asked() {
    let backend = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", backend.address, "")], "");
    let mut client = H2Client::connect(proxy.address);
    // RFC 9113, 7: a code that nobody knows means nothing.
    let goodbye = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let body = frame(DATA, END_STREAM, 1, br#"{"model":"m"}"#);
    assert!(client.send(&[frame(HEADERS, END_HEADERS, 1, &call()), goodbye, body].concat()));
    assert_eq!(client.end(1), End::Answered(200));
    assert!(matches!(client.end_of_all(), None | Some(0)), "and nothing is wrong");
}
