//! `SIGTERM`: whatever was begun is ended, nobody new is let in, and the program ends well with every line written.

use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::process::{access_log, serve_by, windward};
use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, respond};
use super::support::{Client, Harness, Peer, patiently};

const STREAM: &str = r#"{"model":"m","stream":true}"#;
const WHOLE: &str = r#"{"model":"m"}"#;
const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const LAST: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// A backend that begins streams at once, and ends them, and whole answers, only when it is let.
fn held() -> (Peer, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waits = Arc::clone(&gate);
    let peer = Peer::start(move |seen, stream| {
        let streams = seen.json()["stream"] == true;
        if streams {
            begin_events(stream);
            chunk(stream, FIRST.as_bytes());
        }
        let (open, changed) = &*waits;
        drop(changed.wait_timeout_while(open.lock().unwrap(), PATIENCE, |open| !*open).unwrap());
        if streams {
            chunk(stream, LAST.as_bytes());
            end_chunks(stream);
        } else {
            respond(stream, "200 OK", "content-type: application/json\r\n", OK.as_bytes());
        }
        Then::Next
    });
    (peer, gate)
}

fn let_go(gate: &(Mutex<bool>, Condvar)) {
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

/// Stops the program while it has so many streams, as many whole answers to come, and a crowd that says nothing.
fn drains(command: Command, calls: usize, crowd: usize) {
    let (backend, gate) = held();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.jsonl");
    let configuration = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 2\nlog: {{ access: '{}' }}\n\
         limits: {{ drain_delay: 1ms, drain_deadline: 60s }}\n\
         backends: [{{ name: a, url: 'http://{}', region: aws/eu-north-1, usage: never }}]\nroutes: [{{ name: all, backends: [a] }}]\n",
        log.display(),
        backend.address
    );
    let (mut proxy, address) = serve_by(command, folder.path(), &configuration);
    let begun = |body: &str| {
        let mut client = Client::connect(address);
        client.post("/v1/chat/completions", "", body);
        backend.next();
        client
    };
    let mut streams: Vec<Client> = (0..calls).map(|_| begun(STREAM)).collect();
    for client in &mut streams {
        client.read_until(FIRST);
    }
    let whole: Vec<Client> = (0..calls).map(|_| begun(WHOLE)).collect();
    let mut silent: Vec<TcpStream> = (0..crowd).map(|_| TcpStream::connect(address).unwrap()).collect();
    if crowd > 0 {
        proxy.wait_for(|line| line.contains("cannot accept connections").then_some(()));
    }

    proxy.terminate();
    // Of those that the kernel had accepted some are still taken in, and told that the connection ends.
    for client in &mut silent {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.read(&mut [0; 64]);
    }
    drop(silent);
    patiently("the end of the listener", || TcpStream::connect(address).err());
    let_go(&gate);
    for mut client in streams {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, format!("{FIRST}{LAST}")));
    }
    for mut client in whole {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, OK));
    }
    let (status, said) = proxy.finish();
    assert!(status.success(), "{status}\n{}", said.join("\n"));
    let records = access_log(folder.path());
    assert_eq!(records.len(), 2 * calls);
    assert!(records.iter().all(|record| record["ended"] == "complete"), "{records:?}");
    let mut numbers: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no line is missing: {numbers:?}");
}

#[test]
fn a_signal_lets_all_bodies_end_and_no_line_is_lost() {
    drains(windward([""; 0]), 50, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn it_does_so_as_well_without_a_descriptor_left_for_clients() {
    drains(super::descriptors::limited(), 10, 400);
}

/// Of one connection of HTTP/2, and of bodies in both directions.
#[test]
fn what_streams_over_http2_ends_whole_and_so_does_what_is_uploaded() {
    let (backend, gate) = held();
    let top = "limits: { drain_delay: 1ms, drain_deadline: 60s }";
    let proxy = Harness::with(top, &[("a", backend.address, "usage: never")], "");
    let address = proxy.address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stopping = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = |path: &str| http::Request::post(format!("http://w/v1/{path}")).body(()).unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (streamed, mut call) = sender.send_request(request("chat/completions"), false).unwrap();
        call.send_data(Bytes::from_static(STREAM.as_bytes()), true).unwrap();
        let mut events = streamed.await.unwrap().into_body();
        assert_eq!(events.data().await.unwrap().unwrap(), FIRST);
        let mut sender = sender.ready().await.unwrap();
        let (uploaded, mut upload) = sender.send_request(request("files"), false).unwrap();
        upload.send_data(Bytes::from_static(b"{\"half\":"), false).unwrap();

        let stopping = std::thread::spawn(move || proxy.stop());
        // Nobody is let in any more, and what is here goes on.
        let is_over = async {
            while TcpStream::connect(address).is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, is_over).await.expect("the end of the listener");
        upload.send_data(Bytes::from_static(b"\"whole\"}"), true).unwrap();
        let_go(&gate);
        assert_eq!(uploaded.await.unwrap().status(), 200);
        let mut rest = Vec::new();
        while let Some(data) = events.data().await {
            rest.extend_from_slice(&data.unwrap());
        }
        assert_eq!(rest, LAST.as_bytes());
        tokio::time::timeout(PATIENCE, connection).await.expect("the end of the connection").unwrap().unwrap();
        stopping
    });
    assert_eq!((backend.next().body, backend.next().body), (STREAM.into(), b"{\"half\":\"whole\"}".to_vec()));
    let ended = stopping.join().unwrap();
    assert!(ended.drained && ended.log_complete, "{ended:?}");
}
