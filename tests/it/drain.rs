//! `SIGTERM`: whatever was begun is ended, nobody new is let in, and the program ends well with every line written.

use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use super::process::{access_log, serve_by, windward};
use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, respond};
use super::support::{Client, Peer, patiently};

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
    let (open, changed) = &*gate;
    *open.lock().unwrap() = true;
    changed.notify_all();
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
