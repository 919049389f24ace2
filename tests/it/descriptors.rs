//! A process without a file descriptor left: it waits instead of turning round, blames nobody else, and goes on when there are some.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{Program, serve_by};
use super::support::peer::{PATIENCE, Then, respond, wait_for_close};
use super::support::{Client, Peer, patiently};

/// Of these the proxy itself needs some thirty.
const DESCRIPTORS: usize = 128;
const CLIENTS: usize = 400;
/// Enough for a backend to be left alone, were they its failures.
const TIMES: usize = 12;
const CALL: &str = r#"{"model":"m"}"#;
/// One that its backend holds.
const HELD: &str = r#"{"model":"m","user":"held"}"#;

/// It serves again so soon after there are descriptors.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Processor time that a program has used. The kernel counts it in hundredths of a second on every machine.
fn used(program: &Program) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).expect("it is alive");
    // Its name may hold anything, and ends with the last parenthesis; then come the state and ten more.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// `windward` with few of them.
pub(super) fn limited() -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_windward"));
    command
}

#[test]
fn without_descriptors_it_waits_and_blames_nobody_and_then_goes_on() {
    // Who has no descriptor left cannot look a name up either, and is told no more than that it is unknown.
    let back_after = std::thread::scope(|threads| {
        let runs = ["127.0.0.1", "localhost"].map(|host| threads.spawn(move || exhausted_towards(host)));
        runs.map(|run| run.join().unwrap())
    });
    // In the other one the machine may have turned to somebody else meanwhile.
    assert!(back_after.iter().any(|after| *after < BACK_WITHIN), "{back_after:?}");
}

/// A backend that holds a call for as long as its client waits, if it asks for that.
fn patient() -> Peer {
    Peer::start(|seen, stream| {
        if seen.body.ends_with(HELD.as_bytes()) {
            wait_for_close(stream);
            return Then::Close;
        }
        // Closed, so that every call needs a connection of its own.
        respond(stream, "200 OK", "content-type: application/json\r\nconnection: close\r\n", b"{}");
        Then::Close
    })
}

/// A backend there, and one that nobody can reach.
fn configuration(host: &str, port: u16) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 2\nlog: {{ access: off }}\n\
         limits: {{ header_read: 5s, drain_delay: 1ms }}\n\
         policies: [{{ name: in_order, objective: listed_order }}]\n\
         backends:\n\
         - {{ name: a, url: 'http://{host}:{}', region: aws/eu-north-1, models: [m] }}\n\
         - {{ name: b, url: 'http://{}', region: aws/eu-north-1, models: [m] }}\n\
         routes: [{{ name: all, policy: in_order, backends: [a, b] }}]\n",
        port,
        Peer::nobody()
    )
}

/// Gives how long it takes to serve again once there are descriptors.
fn exhausted_towards(host: &str) -> Duration {
    let backend = patient();
    let folder = tempfile::tempdir().unwrap();
    let configuration = configuration(host, backend.address.port());
    let (mut proxy, address) = serve_by(limited(), folder.path(), &configuration);
    assert!(proxy.has_said("LimitNOFILE"), "there are too few from the beginning");
    let admin = proxy.wait_for(|line| {
        let said: serde_json::Value = serde_json::from_str(line).ok()?;
        (said["message"] == "admin").then(|| said["address"].as_str()?.parse().ok()).flatten()
    });
    let mut early = Client::connect(address);
    early.get("/v1/models", "");
    assert_eq!(early.answer().status, 200);

    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    proxy.wait_for(|line| line.contains("cannot accept connections").then_some(()));
    let (begun, used_before) = (Instant::now(), used(&proxy));
    // What clients are left none of is still there for the call of one of them ..
    early.post("/v1/chat/completions", "", CALL);
    assert_eq!(early.answer().status, 200);
    // .. until others have it. Every second client calls, the others stay silent.
    for client in clients.iter_mut().step_by(2) {
        client.write_all(held().as_bytes()).unwrap();
    }
    patiently("a refusal", || {
        early.post("/v1/chat/completions", "", CALL);
        let answer = early.answer();
        (answer.status == 503 && answer.field("retry-after") == Some("1")).then_some(())
    });
    for nth in 0..TIMES {
        // How many are left from one moment to the next is for those who come and go to say; that it answers is not.
        if nth % 2 == 0 {
            early.post("/v1/chat/completions", "", CALL);
        } else {
            early.get("/v1/files", "");
        }
        let answer = early.answer();
        assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
        for path in ["/healthz", "/metrics"] {
            let mut scraper = Client::connect(admin);
            scraper.get(path, "");
            assert_eq!(scraper.answer().status, 200, "{path}");
        }
    }
    // Whoever is silent has its time for a head, and nothing else happens meanwhile.
    let silent = &mut clients[1];
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    let (took, used) = (begun.elapsed(), used(&proxy).saturating_sub(used_before));
    assert!(used < took / 2, "it used {used:?} in {took:?}");

    drop(clients);
    let freed = Instant::now();
    let mut late = Client::connect(address);
    for client in [&mut late, &mut early] {
        // They are free when the proxy has read the ends of all those connections.
        patiently("an answer", || {
            client.post("/v1/chat/completions", "", CALL);
            let answer = client.answer();
            (answer.status == 200 && answer.field("x-windward-backend") == Some("a")).then_some(())
        });
    }
    let back_after = freed.elapsed();
    let mut scraper = Client::connect(admin);
    scraper.get("/status", "");
    let backends = scraper.answer().json()["backends"].clone();
    assert_eq!((&backends[0]["name"], &backends[0]["failures"]), (&"a".into(), &0.into()), "nothing was its fault: {backends}");
    let minutes = begun.elapsed().as_secs() / 60 + 1;
    let (status, said) = proxy.stop();
    assert!(status.success(), "{}", said.join("\n"));
    let complaints = said.iter().filter(|line| line.contains("cannot accept connections")).count() as u64;
    assert!((1..=2 * minutes).contains(&complaints), "each of two workers says so once a minute: {complaints}");
    back_after
}

/// A call that its backend holds.
fn held() -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n{HELD}", HELD.len())
}
