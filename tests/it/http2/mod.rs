//! HTTP/2 from clients that keep no rule, over raw frames: what is malformed reaches no backend, what floods is contained, and who
//! behaves is served meanwhile.

mod cases;
mod floods;
#[cfg(target_os = "linux")]
mod memory;
mod windows;

use std::net::SocketAddr;
use std::time::Duration;

use cases::{Step, Want};

use super::support::h2::{End, H2Client};
use super::support::peer::{Then, respond};
use super::support::{Harness, Peer};

fn bench() -> (Peer, Harness) {
    let backend = Peer::start(|_, stream| {
        respond(stream, "200 OK", "content-type: application/json\r\n", b"{}");
        Then::Next
    });
    let proxy = Harness::start(&[("a", backend.address, "")], "");
    (backend, proxy)
}

#[test]
fn there_are_cases_enough_and_each_has_its_name() {
    let mut names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
    assert!(names.len() >= 180, "{}", names.len());
    names.sort();
    assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
}

/// Whoever reads the frames (h2) lets go of a pseudo-header in trailers before anybody else sees it, and without its tables of
/// compressed fields nobody can tell that it was there.
#[test]
fn one_thing_alone_is_answered_although_it_is_forbidden() {
    let answered: Vec<String> = cases::all().into_iter().filter(|case| case.forbidden).map(|case| case.name).collect();
    assert_eq!(answered, ["trailers with a pseudo-header"]);
}

#[test]
fn what_is_malformed_is_refused_and_reaches_no_backend() {
    let (backend, proxy) = bench();
    let (mut wrong, all) = (Vec::new(), cases::all());
    for cases::Case { name, rule, want, steps, stream, .. } in &all {
        let mut client = H2Client::connect(proxy.address);
        for step in steps {
            match step {
                Step::Send(bytes) => drop(client.send(bytes)),
                Step::Wait(stream) => drop(client.end(*stream)),
            }
        }
        let end = client.end(*stream);
        if ended_as(&end) != Some(*want) {
            wrong.push(format!("{name} ({rule}): {end:?}, not {want:?}"));
        } else if *want == Want::Ended {
            client.end_of_all();
        } else if !client.ping() {
            wrong.push(format!("{name}: the connection ended with the stream"));
        }
        let reached = backend.saw_more();
        if reached != (*want == Want::Answered(200)) || backend.saw_more() {
            wrong.push(format!("{name}: reached the backend: {reached}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

/// What an end is called in a case.
fn ended_as(end: &End) -> Option<Want> {
    match end {
        End::Answered(status) => Some(Want::Answered(*status)),
        End::Reset(_) => Some(Want::Reset),
        End::GoneAway(1..) => Some(Want::Ended),
        End::GoneAway(0) | End::Closed => None,
    }
}

/// Whether somebody who behaves is served, on a connection of his own.
fn serves(proxy: &Harness) -> bool {
    serves_at(proxy.address)
}

fn serves_at(address: SocketAddr) -> bool {
    let mut client = H2Client::connect(address);
    let begun = std::time::Instant::now();
    let served = client.call(1, r#"{"model":"m"}"#) && client.end(1) == End::Answered(200);
    served && begun.elapsed() < Duration::from_secs(10)
}
