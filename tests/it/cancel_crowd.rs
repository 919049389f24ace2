//! A crowd of clients of whom most leave, at any moment and in any way, while their requests are tried, tried again or answered, and under
//! a policy that also holds and hedges: whatever happened, nothing stays counted at any backend.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use super::support::peer::{Then, begin_events, chunk, end_chunks, respond, wait_for_close};
use super::support::{Client, Harness, Peer};

const CLIENTS: u64 = 16;
const EACH: usize = 25;
const CALL: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"How are you today, my good machine?"}]}"#;
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
/// Few places, so that requests may be held; late after 12 ms, so that a second one may be asked after 488.
const BACKEND: &str = "max_in_flight: 6\n    expect: { first_token: 10ms, per_prompt_token: 1us, tokens_per_second: 1000 }";
const POLICY: &str = "  - { name: all, objective: round_robin, latency_budget: { first_token: 500ms }, overload: hold_then_shed, \
                      attempts: { max: 3, retry_unsafe: true }, hedge: { at_most: 1, extra_mg_at_most: 100000 } }\nbackends:\n";
/// Longer than a hedge waits.
const LONG: Duration = Duration::from_millis(600);

/// Answers whole, falls silent before or within its answer, or breaks off, each in turn.
fn unsteady() -> Peer {
    let nth = AtomicUsize::new(0);
    Peer::start(move |_, stream| {
        match nth.fetch_add(1, Relaxed) % 5 {
            0 => wait_for_close(stream),
            1 => {
                begin_events(stream);
                chunk(stream, EVENT.as_bytes());
                wait_for_close(stream);
            }
            2 => respond(stream, "500 Internal Server Error", "", b""),
            3 => {}
            _ => {
                begin_events(stream);
                chunk(stream, EVENT.as_bytes());
                chunk(stream, b"data: [DONE]\n\n");
                end_chunks(stream);
            }
        }
        Then::Close
    })
}

/// One that asks and leaves, as chance has it: within its request, at once, while it waits, or when it has waited long.
fn come_and_go(address: SocketAddr, random: &mut fastrand::Rng) {
    let mut client = Client::connect(address);
    if random.u8(..3) == 0 {
        // Its end is a reset.
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let wait = match random.u8(..5) {
        0 => {
            let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n", CALL.len());
            client.send(head.as_bytes());
            return client.send(&CALL.as_bytes()[..random.usize(..CALL.len())]);
        }
        1 => None,
        2 | 3 => Some(Duration::from_micros(random.u64(1..60_000))),
        _ => Some(LONG),
    };
    client.post("/v1/chat/completions", "", CALL);
    if let Some(wait) = wait {
        client.stream.set_read_timeout(Some(wait)).unwrap();
        while client.stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_nothing_counted() {
    let peers = ["a", "b", "c"].map(|name| (name, unsteady()));
    let backends = peers.each_ref().map(|(name, peer)| (*name, peer.address, BACKEND));
    let proxy = Harness::of(|log| super::support::text(log, "", &backends, "policy: all").replacen("backends:\n", POLICY, 1));
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let address = proxy.address;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..EACH).for_each(|_| come_and_go(address, &mut random));
            });
        }
    });
    let nothing = |backend: &Value| backend["in_flight"] == 0 && backend["pending_prompt_tokens"] == 0;
    let status = proxy.wait_for_status("nothing in flight", |status| {
        status["in_flight"] == 0 && status["backends"].as_array().unwrap().iter().all(nothing)
    });
    assert!(status["backends"].as_array().unwrap().iter().all(|backend| backend["requests"].as_u64() > Some(0)), "{status:#}");
    let (records, _) = proxy.stop_and_read();
    let some = |what: &str, is: &dyn Fn(&Value) -> bool| {
        assert!(records.iter().any(is), "no request was {what}, of {}", records.len());
    };
    let attempts = |record: &Value| record["attempts"].as_array().unwrap().clone();
    some("left", &|record| record["ended"] == "client_gone" && attempts(record).len() == 1);
    some("answered", &|record| record["ended"] == "complete");
    some("tried again", &|record| attempts(record).iter().any(|attempt| attempt["outcome"] == "broken"));
}
