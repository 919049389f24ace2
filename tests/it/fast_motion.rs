//! `windward serve --faster`: a proxy whose time passes as much faster as that of the fleet behind it.

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use super::process::{Program, access_log, windward};
use super::support::{Client, Peer};

const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

fn configured(folder: &Path, peer: &Peer, backend: &str) -> String {
    let log = folder.join("access.jsonl");
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nworkers: 1\nlog: {{ access: {} }}\nlimits: {{ drain_delay: 0s }}\nbackends:\n  \
         - {{ name: a, url: \"http://{}/v1\", grid_zone: DE{backend} }}\n",
        log.display(),
        peer.address
    );
    let file = folder.join("windward.yaml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn its_day_begins_when_it_is_told_and_its_lines_make_no_claim() {
    let (folder, peer) = (tempfile::tempdir().unwrap(), Peer::answering("200 OK", OK));
    let file = configured(folder.path(), &peer, ", simulated: true");
    let fast = ["serve", "--json", "--faster", "10", "--day-faster", "240", "--day-from", "2022-05-03T08:00:00Z", "-c", &file];
    let mut proxy = Program::start("windward serve", &mut windward(fast));
    let address = proxy.wait_for(|line| {
        let said: Value = serde_json::from_str(line).ok()?;
        (said["message"] == "listening").then(|| said["address"].as_str()?.parse().ok()).flatten()
    });
    let mut client = Client::connect(address);
    let mut ask = || {
        let begun = Instant::now();
        client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        assert_eq!(client.answer().status, 200);
        (begun, Instant::now())
    };
    let asked: Vec<_> = (0..30).map(|_| ask()).collect();
    assert!(proxy.stop().0.success());
    let lines = access_log(folder.path());
    // Each came between its two moments, however slow the machine is.
    let at = |line: &Value| line["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let passed = at(&lines[29]).duration_since(at(&lines[0])).as_secs_f64();
    let least = asked[29].0.duration_since(asked[0].1).as_secs_f64();
    let most = asked[29].1.duration_since(asked[0].0).as_secs_f64();
    assert!((least * 239.9..most * 240.1).contains(&passed), "{passed} of {least} to {most}");
    // However slow the machine is: a day of this pace takes six minutes.
    assert!(lines[0]["time"].as_str().unwrap().starts_with("2022-05-0"), "{lines:?}");
    assert_eq!((lines.len(), &lines[0]["simulated"]), (30, &true.into()));
}

#[test]
fn nobody_runs_it_in_front_of_what_is_no_simulation() {
    let (folder, peer) = (tempfile::tempdir().unwrap(), Peer::answering("200 OK", OK));
    let file = configured(folder.path(), &peer, "");
    for (arguments, code, said) in [
        (["serve", "--faster", "10", "-c", &file], 1, "--faster is for backends that are `simulated`, and a is not"),
        (["serve", "--faster", "0", "-c", &file], 2, "expected a number from 1 to 1000"),
        (["serve", "--day-faster", "10", "-c", &file], 2, "--faster"),
    ] {
        let output = windward(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && error.contains(said), "{error}");
    }
}
