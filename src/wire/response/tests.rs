//! Heads and bodies, whole and cut anywhere.

use bytes::BytesMut;
use http::HeaderMap;
use proptest::prelude::*;

use super::decoder::MAX_CHUNK_LINE;
use super::*;

fn read(text: &str) -> Result<Head, Invalid> {
    let end = head_end(text.as_bytes(), 0)?.unwrap();
    head(&Bytes::copy_from_slice(&text.as_bytes()[..end]), false)
}

type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Data, trailers and what is left of a body that comes in pieces that end at `cuts`.
fn decoded(mut decoder: Decoder, body: &[u8], cuts: &[usize]) -> Result<Decoded, Invalid> {
    let (mut data, mut input, mut from) = (Vec::new(), BytesMut::new(), 0);
    for to in cuts.iter().copied().chain([body.len()]) {
        let to = to.clamp(from, body.len());
        if input.is_empty() {
            data.extend_from_slice(&decoder.take_from(&body[from..to], &mut input)?);
        } else {
            input.extend_from_slice(&body[from..to]);
        }
        from = to;
        while !input.is_empty() {
            let more = decoder.take(&mut input)?;
            data.extend_from_slice(&more);
            if more.is_empty() {
                break;
            }
        }
    }
    decoder.connection_ended()?;
    Ok((data, decoder.take_trailers(), input.to_vec()))
}

#[test]
fn a_head_says_how_its_body_is_framed() {
    let framing = |fields: &str| {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap();
        (head.body.left(), head.body.ends_with_connection(), head.keeps_alive)
    };
    assert_eq!(framing("content-length: 5\r\n"), (Some(5), false, true));
    assert_eq!(framing("Content-Length: 5, 5\r\ncontent-length: 5\r\n"), (Some(5), false, true));
    assert_eq!(framing("content-length: 0\r\n"), (Some(0), false, true));
    assert_eq!(framing("transfer-encoding: Chunked\r\n"), (None, false, true));
    assert_eq!(framing("transfer-encoding: chunked\r\nconnection: x, Close\r\n"), (None, false, false));
    assert_eq!(framing(""), (None, true, false));
    let bodyless = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(head(&bodyless, true).unwrap().body.left(), Some(0));
    assert_eq!(read("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n").unwrap().body.left(), Some(0));
    assert!(!read("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n").unwrap().keeps_alive);
}

#[test]
fn a_head_that_two_could_read_in_two_ways_is_refused() {
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: \r\n",
        "content-length: 5 5\r\n",
        "content-length: 99999999999999999999\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "folded: a\r\n b\r\n",
        "spaced : a\r\n",
        "nul: a\0b\r\n",
    ] {
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).is_err(), "{fields:?}");
    }
    for head in ["HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n"] {
        assert!(read(head).is_err(), "{head:?}");
    }
    assert!(head_end(b"HTTP/1.1 200 OK\r\n", 0).unwrap().is_none());
    assert!(head_end(&[b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'a'; MAX_HEAD]].concat(), 0).is_err());
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
    assert!(read(&many).is_err());
}

#[test]
fn a_reason_of_its_own_is_kept() {
    assert_eq!(read("HTTP/1.1 200 Fine By Me\r\n\r\n").unwrap().head.reason.unwrap(), "Fine By Me");
    assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap().head.reason, None);
}

#[test]
fn chunks_are_put_together_and_bad_ones_refused() {
    let body = b"5;a=\"b\"\r\nhello\r\n1 \r\n!\r\n000\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\nsurplus";
    let (data, trailers, left) = decoded(Decoder::chunked(), body, &[]).unwrap();
    assert_eq!((&data[..], &left[..]), (&b"hello!"[..], &b"surplus"[..]));
    let trailers = trailers.unwrap();
    assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"1"[..]));
    for bad in [
        "5\nhello\r\n0\r\n\r\n",
        "\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "11111111111111111\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "0\r\nno trailer\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nhell",
    ] {
        assert!(decoded(Decoder::chunked(), bad.as_bytes(), &[]).is_err(), "{bad:?}");
    }
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(MAX_CHUNK_LINE));
    assert!(decoded(Decoder::chunked(), long.as_bytes(), &[]).is_err());
}

#[test]
fn an_end_of_bare_line_feeds_is_refused_and_not_waited_for() {
    for head in ["HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", "HTTP/1.1 200 OK\r\na: b\n\r\nhello"] {
        for searched in [0, head.len() - 6] {
            assert!(head_end(head.as_bytes(), searched).is_err(), "{head:?}");
        }
    }
    for body in ["0\r\na: b\n\nhello", "0\r\na: b\n\r\n", "0\r\n\n", "0\r\na: b\nc: d\r\n\r\n"] {
        assert!(decoded(Decoder::chunked(), body.as_bytes(), &[]).is_err(), "{body:?}");
    }
}

#[test]
fn trailers_that_come_byte_by_byte_are_read_once() {
    let trailers = "a: b\r\n".repeat(MAX_FIELDS);
    let body = format!("0\r\n{trailers}\r\n");
    let cuts: Vec<usize> = (0..body.len()).collect();
    let (_, fields, left) = decoded(Decoder::chunked(), body.as_bytes(), &cuts).unwrap();
    assert_eq!((fields.unwrap().len(), left.len()), (MAX_FIELDS, 0));
    // A quarter of a megabyte in so many pieces: seconds, if each piece meant to read them all again.
    let long = [b"0\r\nx: ".as_slice(), &vec![b'a'; MAX_HEAD]].concat();
    let cuts: Vec<usize> = (0..long.len()).collect();
    assert!(decoded(Decoder::chunked(), &long, &cuts).is_err());
}

#[test]
fn what_must_not_come_late_is_no_trailer() {
    let late = "content-type: a\r\nConnection: x\r\nset-cookie: a=b\r\nkeep-alive: 1\r\nupgrade: h2c\r\n";
    let (_, fields, _) = decoded(Decoder::chunked(), format!("0\r\n{late}\r\n").as_bytes(), &[]).unwrap();
    assert_eq!(fields, None);
}

proptest! {
    #[test]
    fn cuts_make_no_difference(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), cuts in prop::collection::vec(0_usize..300, 0..12), trailers: bool) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(if trailers { b"0\r\na: b\r\n\r\n" } else { b"0\r\n\r\n" });
        let mut cuts = cuts;
        cuts.sort_unstable();
        let (data, fields, left) = decoded(Decoder::chunked(), &body, &cuts).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!((fields.is_some(), left.len()), (trailers, 0));
        let plain = chunks.concat();
        let whole = decoded(Decoder::length(plain.len() as u64), &plain, &cuts).unwrap();
        prop_assert_eq!(&whole.0, &plain);
        prop_assert_eq!(decoded(Decoder::until_close(), &plain, &cuts).unwrap().0, plain);
    }

    #[test]
    fn nothing_that_comes_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0_usize..200, 0..5), head_first: bool) {
        let bytes = if head_first { [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat() } else { bytes };
        if let Ok(Some(end)) = head_end(&bytes, 0) {
            let _ = head(&Bytes::copy_from_slice(&bytes[..end]), false);
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        let _ = decoded(Decoder::chunked(), &bytes, &cuts);
    }
}
