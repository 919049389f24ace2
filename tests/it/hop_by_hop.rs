//! What is about one connection ends with it, in both directions, in whatever version of HTTP and on whichever way through the proxy.

use std::io::Write as _;

use super::support::peer::{Seen, Then};
use super::support::{Client, Harness, Peer};

/// Of these nothing passes but `trailers`; `Connection` names one of an application's, and others that it may not take away.
const ABOUT_THE_CONNECTION: &str = "connection: keep-alive, X-Named, content-type\r\nconnection: te, host, content-length\r\n\
    x-named: LEAK\r\nkeep-alive: LEAK=5\r\nproxy-connection: LEAK\r\nproxy-authenticate: LEAK\r\nproxy-authorization: LEAK\r\n\
    upgrade: LEAK\r\nte: LEAK;q=0.5, trailers\r\nx-kept: 1\r\n";
const BODY: &str = r#"{"model":"m"}"#;

fn is_clean(seen: &Seen, case: &str) {
    let head = &seen.head;
    assert!(!head.contains("LEAK"), "{case}: {head}");
    for name in ["x-named", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "upgrade"] {
        assert_eq!(seen.field(name), None, "{case}: {head}");
    }
    let named = seen.fields("connection").join(",").to_ascii_lowercase();
    assert!(named.split(',').all(|name| matches!(name.trim(), "" | "te" | "keep-alive")), "{case}: {head}");
    assert_eq!(seen.field("x-kept"), Some("1"), "{case}");
}

#[test]
fn what_a_client_says_of_its_connection_ends_here() {
    for (case, request, body) in [
        (
            "a call that is read",
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\n{ABOUT_THE_CONNECTION}content-length: 13\r\n\r\n{BODY}"),
            BODY,
        ),
        (
            "a call that is passed on",
            format!("POST /v1/files HTTP/1.1\r\nhost: w\r\n{ABOUT_THE_CONNECTION}content-length: 13\r\n\r\n{BODY}"),
            BODY,
        ),
        (
            "one in chunks",
            format!(
                "POST /v1/files HTTP/1.1\r\nhost: w\r\n{ABOUT_THE_CONNECTION}trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx-sum: 1\r\n\r\n"
            ),
            "{}",
        ),
        ("one without a body", format!("GET /v1/files HTTP/1.1\r\nhost: w\r\n{ABOUT_THE_CONNECTION}\r\n"), ""),
    ] {
        let peer = Peer::answering("200 OK", "{}");
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let mut client = Client::connect(proxy.address);
        client.send(request.as_bytes());
        assert_eq!(client.answer().status, 200, "{case}");
        let seen = peer.next();
        is_clean(&seen, case);
        assert_eq!((seen.field("te"), String::from_utf8_lossy(&seen.body).as_ref()), (Some("trailers"), body), "{case}");
        assert_eq!(seen.field("host"), Some(&*peer.address.to_string()), "{case}: what has to be there is");
        let chunked = case == "one in chunks";
        let length = body.len().to_string();
        let said = (!chunked && !body.is_empty()).then_some(&*length);
        assert_eq!(seen.field("content-length"), said, "{case}: a length that was known is still");
        assert_eq!(
            (seen.field("trailer"), seen.field("transfer-encoding").is_some()),
            (chunked.then_some("x-sum"), chunked),
            "{case}"
        );
    }
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/files", "te: gzip\r\nconnection: te\r\n", BODY);
    assert_eq!(client.answer().status, 200);
    assert_eq!(peer.next().field("te"), None, "who takes no trailers is not said to");
}

/// A backend that says much of its connection, and ends its body with a trailer that would be a field.
fn talkative() -> Peer {
    Peer::start(|_, stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nconnection: x-named, keep-alive, content-type\r\nx-named: LEAK\r\nkeep-alive: timeout=LEAK\r\n\
              proxy-connection: LEAK\r\nproxy-authenticate: LEAK\r\nupgrade: LEAK\r\nte: LEAK\r\nx-kept: 1\r\ntrailer: x-late\r\n\
              transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-late: 1\r\nset-cookie: LEAK\r\ncontent-length: 7\r\n\r\n",
        );
        Then::Next
    })
}

#[test]
fn what_a_backend_says_of_its_connection_ends_here_and_no_trailer_becomes_a_field() {
    let peer = talkative();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for path in ["/v1/chat/completions", "/v1/files"] {
        for te in ["", "te: trailers\r\nconnection: te, close\r\n", "connection: close\r\n"] {
            let mut client = Client::connect(proxy.address);
            client.post(path, te, BODY);
            let answer = client.answer();
            let case = format!("{path} {te}");
            assert_eq!((answer.status, answer.text().as_str(), answer.field("x-kept")), (200, "{}", Some("1")), "{case}");
            for name in
                ["x-named", "keep-alive", "proxy-connection", "proxy-authenticate", "upgrade", "te", "x-late", "set-cookie"]
            {
                assert_eq!(answer.field(name), None, "{case} {name}");
            }
            let named = answer.fields("connection").join(",");
            assert!(matches!(named.as_str(), "" | "close" | "keep-alive"), "{case}: {named}");
        }
    }
}

#[test]
fn it_ends_here_for_a_client_of_http2_as_well() {
    let peer = talkative();
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        for path in ["/v1/chat/completions", "/v1/files"] {
            let request =
                http::Request::post(format!("http://w{path}")).header("te", "trailers").header("x-kept", "1").body(()).unwrap();
            sender = sender.ready().await.unwrap();
            let (response, mut upload) = sender.send_request(request, false).unwrap();
            upload.send_data(bytes::Bytes::from_static(BODY.as_bytes()), true).unwrap();
            // What is left of the fields of a connection is malformed there, and would be an error here.
            let response = response.await.unwrap();
            assert!(response.headers().values().all(|value| !value.as_bytes().windows(4).any(|part| part == b"LEAK")));
            assert!(!response.headers().contains_key("x-late") && response.headers()["x-kept"] == "1", "{path}");
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                data.unwrap();
            }
            if let Some(trailers) = body.trailers().await.unwrap() {
                assert!(trailers.keys().all(|name| name == "x-late"), "{trailers:?}");
            }
            is_clean(&peer.next(), path);
        }
    });
}
