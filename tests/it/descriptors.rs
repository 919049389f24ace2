//! A process without a file descriptor left: it waits instead of turning round, blames nobody else, and goes on when there are some.
#![cfg(target_os = "linux")]

use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{Program, serve_by};
use super::support::peer::PATIENCE;
use super::support::{Client, Peer, patiently};

/// Of these the proxy itself needs some thirty.
const DESCRIPTORS: usize = 128;
const CLIENTS: usize = 400;
/// Enough for a backend to be left alone, were they its failures.
const TIMES: usize = 12;
const CALL: &str = r#"{"model":"m"}"#;

/// Processor time that a program has used. The kernel counts it in hundredths of a second on every machine.
fn used(program: &Program) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).expect("it is alive");
    // Its name may hold anything, and ends with the last parenthesis; then come the state and ten more.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

fn limited() -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_windward"));
    command
}

#[test]
fn without_descriptors_it_waits_and_blames_nobody_and_then_goes_on() {
    // Who has no descriptor left cannot look a name up either, and is told no more than that it is unknown.
    std::thread::scope(|threads| {
        for host in ["127.0.0.1", "localhost"] {
            threads.spawn(move || exhausted_towards(host));
        }
    });
}

fn exhausted_towards(host: &str) {
    let backend = Peer::answering("200 OK", "{}");
    let folder = tempfile::tempdir().unwrap();
    let configuration = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 2\nlog: {{ access: off }}\n\
         limits: {{ header_read: 5s, drain_delay: 1ms }}\n\
         policies: [{{ name: in_order, objective: listed_order }}]\n\
         backends:\n\
         - {{ name: a, url: 'http://{host}:{}', region: aws/eu-north-1 }}\n\
         - {{ name: b, url: 'http://{}', region: aws/eu-north-1 }}\n\
         routes: [{{ name: all, policy: in_order, backends: [a, b] }}]\n",
        backend.address.port(),
        Peer::nobody()
    );
    let (mut proxy, address) = serve_by(limited(), folder.path(), &configuration);
    assert!(proxy.has_said("LimitNOFILE"), "there are too few from the beginning");
    let mut early = Client::connect(address);
    early.get("/v1/models", "");
    assert_eq!(early.answer().status, 200);

    let mut silent: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    proxy.wait_for(|line| line.contains("cannot accept connections").then_some(()));
    let (begun, used_before) = (Instant::now(), used(&proxy));
    for nth in 0..TIMES {
        if nth % 2 == 0 {
            early.post("/v1/chat/completions", "", CALL);
        } else {
            early.get("/v1/files", "");
        }
        let answer = early.answer();
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{}", answer.text());
    }
    // The first of them has its time for a head, and nothing else happens meanwhile.
    let first = &mut silent[0];
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0);
    let (took, used) = (begun.elapsed(), used(&proxy).saturating_sub(used_before));
    assert!(used < took / 2, "it used {used:?} in {took:?}");

    drop(silent);
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
    assert!(freed.elapsed() < Duration::from_secs(10), "{:?}", freed.elapsed());
    let (status, said) = proxy.stop();
    assert!(status.success(), "{}", said.join("\n"));
}
