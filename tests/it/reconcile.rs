//! `windward reconcile`: a log of the proxy's own, and a trail that says where its request ran.

use std::io::Write as _;

use serde_json::Value;

use super::process::windward;
use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const ID: &str = "6f1c8c5e-0b1f-4a52-9d0e-1f2a3b4c5d6e";
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;

#[test]
fn what_ran_elsewhere_is_restated() {
    let peer = Peer::start(|_, stream| {
        respond(stream, "200 OK", &format!("content-type: application/json\r\nx-amzn-requestid: {ID}\r\n"), OK.as_bytes());
        Then::Next
    });
    let place = "models: [m]\n    region: aws/us-east-1\n    placement: geo\n    grid_zone: [US-NW-PACW, US-MIDA-PJM]";
    let proxy = Harness::start(&[("profile", peer.address, place)], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","messages":[]}"#);
    assert_eq!(client.answer().status, 200);
    let record = proxy.record();
    assert_eq!((&record["provider_request_id"], &record["grid_zone"]), (&ID.into(), &"US-MIDA-PJM".into()));

    let folder = tempfile::tempdir().unwrap();
    let [log, plain, packed] = ["access.jsonl", "trail.json", "trail.json.gz"].map(|name| folder.path().join(name));
    std::fs::write(&log, format!("{record}\nnot a record\n")).unwrap();
    let event = |id: &str, region: &str| {
        format!(
            r#"{{"eventSource":"bedrock.amazonaws.com","awsRegion":"us-east-1","requestID":"{id}","additionalEventData":{{"inferenceRegion":"{region}"}}}}"#
        )
    };
    let other = "11111111-1111-1111-1111-111111111111";
    std::fs::write(&plain, format!(r#"{{"Records":[{}]}}"#, event(other, "us-east-1"))).unwrap();
    let mut packer = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    packer.write_all(format!(r#"{{"Records":[{}]}}"#, event(ID, "us-west-2")).as_bytes()).unwrap();
    packer.finish().unwrap();

    let run = |trail: &[&std::path::Path], json: bool| {
        let mut command = windward(["reconcile"]);
        command.arg(&log).arg("--cloudtrail").args(trail);
        let output = if json { command.arg("--json") } else { &mut command }.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, json) = run(&[&plain, &packed], true);
    let result: Value = serde_json::from_str(&json).unwrap();
    let counts = ["records", "joined", "not_restated", "by_yearly_figure", "bad_lines"].map(|name| result[name].as_u64());
    assert_eq!((code, counts), (Some(0), [1, 1, 0, 1, 1].map(Some)), "{json}");
    let number = |name: &str| result[name].as_f64().unwrap();
    assert!((number("live_grams") - record["emissions"]["grams"].as_f64().unwrap()).abs() < 1e-12);
    assert!(number("restated_grams") < number("live_grams"), "Oregon is cleaner than Virginia: {json}");
    let off = number("live_grams") - number("restated_grams");
    assert!((number("off_grams") - off).abs() < 1e-12);
    let ran = &result["regions"]["aws/us-west-2"];
    assert_eq!((&ran["requests"], &ran["elsewhere"]), (&1.into(), &1.into()));
    let (code, text) = run(&[&packed], false);
    assert!(code == Some(0) && text.contains("the live figure was off by +") && text.contains("aws/us-west-2"), "{text}");
    assert_eq!(run(&[&plain], false).0, Some(1), "nothing of the log is there");
}
