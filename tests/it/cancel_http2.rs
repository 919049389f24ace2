//! Clients of HTTP/2 that leave: by a reset of the stream, with which the connection goes on, and with their connection.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cancel::{
    CALL, Happened, PHASES, PROTOCOLS, Phase, TIMES, WITHIN, backend, before, check, happens, in_time_each_way, is_served,
};
use super::support::h2::{DATA, END_HEADERS, END_STREAM, H2Client, HEADERS, RST_STREAM, block, call, frame};
use super::support::peer::PATIENCE;
use super::support::{Harness, Peer, in_the_middle};

#[test]
fn a_stream_that_is_reset_ends_the_exchange_in_every_phase() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (phase, protocol) in PHASES.into_iter().flat_map(|phase| PROTOCOLS.map(|protocol| (phase, protocol))) {
        let (address, happened) = backend(phase, protocol);
        let proxy = before(address, protocol);
        runtime.block_on(async {
            let mut took = Vec::new();
            let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
            let connection = tokio::spawn(connection);
            for _ in 0..TIMES {
                let request = http::Request::post(format!("http://w{}", phase.path())).body(()).unwrap();
                sender = sender.ready().await.unwrap();
                let (response, mut body) = sender.send_request(request, false).unwrap();
                let data = if phase.is_upload() { "abc" } else { CALL };
                body.send_data(Bytes::from_static(data.as_bytes()), !phase.is_upload()).unwrap();
                let mut kept = None;
                if let Some((wanted, _)) = phase.answer() {
                    let mut incoming = response.await.unwrap().into_body();
                    let mut got = Vec::new();
                    while got.len() < wanted.len() {
                        got.extend_from_slice(&incoming.data().await.unwrap().unwrap());
                    }
                    kept = Some(incoming);
                }
                // The connection is driven by this thread, which must not wait for the backend in the meantime.
                let happened = &happened;
                let poll = |what| async move {
                    while happened.try_recv() != Ok(what) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::time::timeout(PATIENCE, poll(Happened::Asked)).await.expect("the backend is asked");
                let left = Instant::now();
                body.send_reset(h2::Reason::CANCEL);
                tokio::time::timeout(PATIENCE, poll(Happened::Ended)).await.expect("the backend's exchange ends");
                took.push(left.elapsed());
                drop(kept);
            }
            assert!(in_the_middle(took) < WITHIN, "{phase:?} {protocol}");
            (0..TIMES).for_each(|_| check(&proxy, phase));
            assert!(!connection.is_finished(), "one stream is not the connection");
        });
        is_served(&proxy);
    }
}

/// A request whose client has all that it will get, on a connection of its own.
fn begun(client: &mut H2Client, phase: Phase) {
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":path", phase.path()), (":authority", "w")]);
    let (flags, data) = if phase.is_upload() { (0, "abc") } else { (END_STREAM, CALL) };
    assert!(client.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, flags, 1, data.as_bytes())].concat()));
    let (wanted, mut got) = (phase.answer().map_or(0, |(wanted, _)| wanted.len()), 0);
    while got < wanted {
        let frame = client.frame().expect("it goes on");
        got += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
}

#[test]
fn a_connection_of_streams_that_is_closed_or_reset_ends_the_exchange_in_every_phase() {
    for phase in PHASES {
        let (address, happened) = backend(phase, "protocol: http1");
        let proxy = before(address, "protocol: http1");
        let mut took = [const { Vec::new() }; 2];
        for nth in 0..TIMES {
            let mut client = H2Client::connect(proxy.address);
            begun(&mut client, phase);
            happens(&happened, Happened::Asked);
            if nth % 2 == 1 {
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            let left = Instant::now();
            drop(client);
            happens(&happened, Happened::Ended);
            took[nth % 2].push(left.elapsed());
        }
        in_time_each_way(took, phase);
        (0..TIMES).for_each(|_| check(&proxy, phase));
        is_served(&proxy);
    }
}

/// Of a body that is collected nobody hears before it is whole.
#[test]
fn a_client_that_leaves_within_a_body_that_is_collected_was_not_refused() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for by in ["a reset of the stream", "a close of the connection", "a reset of the connection"] {
        let mut client = H2Client::connect(proxy.address);
        assert!(client.send(&[frame(HEADERS, END_HEADERS, 1, &call()), frame(DATA, 0, 1, b"{\"model\"")].concat()));
        assert!(client.ping(), "it was read");
        match by {
            "a reset of the stream" => assert!(client.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]))),
            "a reset of the connection" => socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => {}
        }
        let kept = by.ends_with("stream").then_some(client);
        let record = proxy.record();
        assert_eq!((&record["ended"], record.get("error")), (&"client_gone".into(), None), "{by}: {record}");
        drop(kept);
    }
    assert_eq!(peer.connections(), 0);
}
