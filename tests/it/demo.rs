//! The demonstration, as a stranger starts it: whatever stands between its parts, it has to run to its report, however it is ended,
//! and leaves nothing behind.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::process::{Program, windward};
use super::support::Client;

/// So long that it ends because it was told to, or the test does not.
const FOR_EVER: [&str; 3] = ["demo", "--duration", "24h"];
/// The ports that a demonstration takes when they are free.
const USUAL: [u16; 2] = [8080, 9090];
/// Of the tests here one at a time uses [`USUAL`].
static PORTS: Mutex<()> = Mutex::new(());

/// That command with its files in a folder of the test's.
fn within(folder: &Path, mut command: Command) -> Command {
    command.current_dir(folder).env("TMPDIR", folder);
    command
}

/// The address after this word of its welcome.
fn address(program: &mut Program, word: &str) -> SocketAddr {
    program.wait_for(|line| {
        let rest = line.trim().strip_prefix(word)?.trim().strip_prefix("http://")?;
        rest.split('/').next()?.parse().ok()
    })
}

/// Waits until the view has seen a request that is over.
fn until_served(program: &mut Program) {
    program.wait_for(|line| (line.contains("| emitted ") && !line.contains("| emitted 0.0 mg,")).then_some(()));
}

fn left_behind(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_demonstration_runs_to_its_report() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    // Named as one does who stands in a folder: from there.
    let command = windward(["demo", "--duration", "3s", "--seed", "7", "--log", "access.jsonl"]);
    let (status, said) = Program::start("windward demo", &mut within(folder.path(), command)).finish();
    let said = said.join("\n");
    assert!(status.success(), "{said}");
    assert!(said.contains("http://127.0.0.1:") && said.contains("simulated") && said.contains("saved"), "{said}");
    let lines = std::fs::read_to_string(folder.path().join("access.jsonl")).unwrap();
    let mut served = 0;
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["simulated"], true, "{line}");
        served += u32::from(line["http.response.status_code"] == 200 && !line["emissions"].is_null());
    }
    assert!(served > 0, "{lines}");
    assert_eq!(left_behind(folder.path()), ["access.jsonl"]);
}

#[test]
fn whoever_asks_it_to_end_gets_the_report_and_nothing_is_left_behind() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = Program::start("windward demo", &mut within(folder.path(), windward(FOR_EVER)));
        until_served(&mut demo);
        demo.signal(signal);
        let (status, said) = demo.finish();
        let said = said.join("\n");
        assert!(status.success() && said.contains("Simulated traffic, "), "SIG{signal}: {status}\n{said}");
        assert_eq!(left_behind(folder.path()), [""; 0], "SIG{signal}");
    }
}

#[test]
fn whoever_asks_twice_is_heard_the_second_time_too() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Program::start("windward demo", &mut within(folder.path(), windward(FOR_EVER)));
    until_served(&mut demo);
    demo.signal("INT");
    demo.wait_for(|line| line.contains("no more traffic").then_some(()));
    demo.signal("INT");
    // With the report or, where that was being made already, without it: it is not killed, and tidies up.
    let (status, said) = demo.finish();
    assert!(status.code().is_some(), "{status}\n{}", said.join("\n"));
    assert_eq!(left_behind(folder.path()), [""; 0]);
}

#[test]
fn ports_that_are_taken_do_not_stop_it() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    // Where that fails, somebody else has it, which is as good.
    let held = USUAL.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Program::start("windward demo", &mut within(folder.path(), windward(FOR_EVER)));
    let found = ["proxy", "admin"].map(|word| address(&mut demo, word));
    for (found, held) in found.iter().zip(&held) {
        assert!(held.as_ref().is_ok_and(|held| held.local_addr().unwrap() != *found) || held.is_err(), "{found}");
    }
    let mut admin = Client::connect(found[1]);
    admin.get("/status", "connection: close\r\n");
    assert_eq!(admin.answer().status, 200);
    until_served(&mut demo);
    demo.signal("INT");
    assert!(demo.finish().0.success());
}

#[test]
fn without_traffic_it_serves_what_one_sends_oneself() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Program::start("windward demo", &mut within(folder.path(), windward(["demo", "--no-traffic"])));
    let mut client = Client::connect(address(&mut demo, "proxy"));
    let body = r#"{"model":"gpt-oss-120b","messages":[{"role":"user","content":"hello"}],"max_tokens":3}"#;
    client.post("/v1/chat/completions", "", body);
    assert_eq!(client.answer().status, 200);
    client.get("/v1/models", "");
    assert_eq!(client.answer().status, 200);
    client.post("/v1/chat/completions", "connection: close\r\n", "{");
    assert_eq!(client.answer().status, 400);
    demo.signal("INT");
    let (status, said) = demo.finish();
    let said = said.join("\n");
    assert!(status.success(), "{said}");
    // One's own three and no more, and all of them made up.
    assert!(said.contains("requests     3: "), "{said}");
    assert!(said.contains("SIMULATED DATA: no claim can be made"), "{said}");
}

#[test]
fn whoever_has_read_enough_of_it_ends_it_quietly() {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut command = within(folder.path(), windward(FOR_EVER));
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("simulated regions"), "{first}");
    // The pipe is closed now.
    let ended = demo.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", ended.status);
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(left_behind(folder.path()), [""; 0]);
}
