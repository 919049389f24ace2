//! Replicas that share a backend: its limit holds for all of them together, and nobody can make one worse than alone.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use windward::clock::{Clock, SystemClock};

use super::support::peer::PATIENCE;
use super::support::{Client, Harness, Peer, patiently, text};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const BODY: &str = r#"{"model":"m"}"#;
const SECRET: &str = "known-to-both-of-them";

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A replica that prefers `near`, which takes two requests at once.
fn replica(listen: SocketAddr, others: &[SocketAddr], secret: &str, near: SocketAddr, far: SocketAddr) -> Harness {
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    replica_by(Arc::new(SystemClock), listen, &others, secret, [near, far])
}

/// The same by a clock of its own, with the others as the file names them.
fn replica_by(clock: Arc<dyn Clock>, listen: SocketAddr, others: &[String], secret: &str, to: [SocketAddr; 2]) -> Harness {
    let others: Vec<String> = others.iter().map(|other| format!("\"{other}\"")).collect();
    let top = format!(
        "peers: {{ listen: \"{listen}\", others: [{}], secret: {secret}, fast: 10ms, slow: 50ms }}\nlimits: {{ drain_delay: 0s }}",
        others.join(", ")
    );
    Harness::run(clock, |log| text(log, &top, &[("near", to[0], "max_in_flight: 2"), ("far", to[1], "")], "policy: in_order"))
}

/// A clock that was set wrong.
struct Wrong {
    monotonic_ahead: Duration,
    wall_ahead: SignedDuration,
}

impl Clock for Wrong {
    fn monotonic(&self) -> Instant {
        SystemClock.monotonic() + self.monotonic_ahead
    }

    fn wall(&self) -> Timestamp {
        SystemClock.wall() + self.wall_ahead
    }
}

fn wait_for_others(replica: &Harness, heard: u64) {
    replica.wait_for_status("the other replica", |status| status["peers"]["heard"] == heard);
}

fn wait_for_elsewhere(replica: &Harness, near: u64) {
    replica.wait_for_status("its requests", |status| status["backends"][0]["in_flight_elsewhere"] == near);
}

/// Messages of which that became.
fn messages(replica: &Harness, result: &str) -> u64 {
    let (text, name) = (replica.ask_admin("/metrics").text(), format!("windward_peer_messages_total{{result=\"{result}\"}} "));
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[test]
fn a_backends_limit_holds_for_all_replicas_together() {
    let ((release, near), far) = (Peer::when_told(OK), Peer::answering("200 OK", OK));
    let (at_a, at_b) = (free_port(), free_port());
    // Each has the list of all, itself included, as a name gives it.
    let a = replica(at_a, &[at_a, at_b], SECRET, near.address, far.address);
    let b = replica(at_b, &[at_a, at_b], SECRET, near.address, far.address);
    wait_for_others(&a, 1);
    wait_for_others(&b, 1);
    a.wait_for_status("its own address", |status| status["peers"]["expected"] == 1);
    a.wait_for_status("the site of the other", |status| status["peers"]["replicas"][0]["same_site"] == true);

    a.wait_for_status("how far the other is", |status| status["peers"]["replicas"][0]["way_ms"].is_u64());

    let mut first: Vec<Client> = (0..2).map(|_| Client::connect(a.address)).collect();
    for client in &mut first {
        client.post("/v1/chat/completions", "", BODY);
        near.next();
    }
    wait_for_elsewhere(&b, 2);
    assert_eq!(b.in_flight("near"), 0);
    let mut third = Client::connect(b.address);
    third.post("/v1/chat/completions", "", BODY);
    assert_eq!(third.answer().status, 200);
    let record = b.record();
    assert_eq!((&record["backend"], &record["decision"]["candidates"][0]["verdict"]), (&"far".into(), &"no_capacity".into()));

    (0..3).for_each(|_| release.send(()).unwrap());
    for client in &mut first {
        assert_eq!(client.answer().status, 200);
    }
    wait_for_elsewhere(&b, 0);
    third.post("/v1/chat/completions", "", BODY);
    assert_eq!((third.answer().status, &b.record()["backend"]), (200, &"near".into()));

    // Whoever ends says so, and the other is alone.
    a.stop();
    wait_for_others(&b, 0);
    wait_for_elsewhere(&b, 0);
}

#[test]
fn forged_repeated_and_recorded_messages_change_nothing() {
    let (near, far) = (Peer::answering("200 OK", OK), Peer::answering("200 OK", OK));
    let hostile = UdpSocket::bind("127.0.0.1:0").unwrap();
    hostile.set_read_timeout(Some(PATIENCE)).unwrap();
    let listens = hostile.local_addr().unwrap();
    let (at_a, at_b) = (free_port(), free_port());
    let a = replica(at_a, &[at_b, listens], SECRET, near.address, far.address);
    let b = replica(at_b, &[at_a, listens], SECRET, near.address, far.address);
    wait_for_others(&b, 1);
    wait_for_others(&a, 1);
    let mut recorded = Vec::new();
    let mut buffer = [0; 2048];
    patiently("a message of the other", || {
        let (length, from) = hostile.recv_from(&mut buffer).unwrap();
        recorded.extend((from == at_a).then(|| buffer[..length].to_vec()));
        (recorded.len() == 5).then_some(())
    });

    let stranger = replica(free_port(), &[at_b], "a secret of its own", near.address, far.address);
    patiently("a message under another secret", || (messages(&b, "forged") > 0).then_some(()));
    for message in &recorded {
        hostile.send_to(message, at_b).unwrap();
        let mut forged = message.clone();
        forged[20] ^= 1;
        hostile.send_to(&forged, at_b).unwrap();
        hostile.send_to(&message[..message.len() / 2], at_b).unwrap();
    }
    hostile.send_to(&[], at_b).unwrap();
    hostile.send_to(&[0x55; 1400], at_b).unwrap();
    patiently("the repeated ones", || (messages(&b, "repeated") >= 5).then_some(()));
    let status = b.wait_for_status("the other", |status| status["peers"]["heard"] == 1);
    assert_eq!(status["peers"]["replicas"].as_array().unwrap().len(), 1);
    assert_eq!(stranger.ask_admin("/status").json()["peers"]["heard"], 0);

    // What was recorded of one that has ended does not bring it back.
    a.stop();
    wait_for_others(&b, 0);
    let before = messages(&b, "repeated");
    for message in &recorded {
        hostile.send_to(message, at_b).unwrap();
    }
    patiently("the recorded ones", || (messages(&b, "repeated") >= before + 5).then_some(()));
    assert_eq!(b.ask_admin("/status").json()["peers"]["heard"], 0);
    let mut client = Client::connect(b.address);
    client.post("/v1/chat/completions", "", BODY);
    assert_eq!((client.answer().status, &b.record()["backend"]), (200, &"near".into()));
}

/// What is sent to `near` through one of them counts at the other.
fn share_a_limit(a: &Harness, b: &Harness, near: &Peer, release: &Sender<()>) {
    let mut first: Vec<Client> = (0..2).map(|_| Client::connect(a.address)).collect();
    for client in &mut first {
        client.post("/v1/chat/completions", "", BODY);
        near.next();
    }
    wait_for_elsewhere(b, 2);
    let mut third = Client::connect(b.address);
    third.post("/v1/chat/completions", "", BODY);
    assert_eq!((third.answer().status, &b.record()["backend"]), (200, &"far".into()));
    (0..2).for_each(|_| release.send(()).unwrap());
    for client in &mut first {
        assert_eq!((client.answer().status, &a.record()["backend"]), (200, &"near".into()));
    }
    wait_for_elsewhere(b, 0);
}

#[test]
fn replicas_of_one_name_share_a_limit_however_wrong_their_clocks_are() {
    let ((release, near), far) = (Peer::when_told(OK), Peer::answering("200 OK", OK));
    let (at_a, at_b) = (free_port(), free_port());
    let named = [at_a, at_b].map(|at| format!("localhost:{}", at.port()));
    let [hours, days] = [Duration::from_hours(5), Duration::from_hours(70)];
    let wrong = Wrong { monotonic_ahead: hours, wall_ahead: -SignedDuration::try_from(days).unwrap() };
    let a = replica_by(Arc::new(wrong), at_a, &named, SECRET, [near.address, far.address]);
    let b = replica_by(Arc::new(SystemClock), at_b, &named, SECRET, [near.address, far.address]);
    wait_for_others(&a, 1);
    wait_for_others(&b, 1);
    share_a_limit(&a, &b, &near, &release);
    share_a_limit(&b, &a, &near, &release);
}

#[test]
fn a_replica_that_begins_anew_is_heard_again() {
    let ((release, near), far) = (Peer::when_told(OK), Peer::answering("200 OK", OK));
    let (at_a, at_b) = (free_port(), free_port());
    let b = replica(at_b, &[at_a, at_b], SECRET, near.address, far.address);
    for _ in 0..2 {
        let a = replica(at_a, &[at_a, at_b], SECRET, near.address, far.address);
        wait_for_others(&a, 1);
        wait_for_others(&b, 1);
        share_a_limit(&a, &b, &near, &release);
        a.stop();
        wait_for_others(&b, 0);
    }
}
