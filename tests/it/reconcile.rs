//! `windward reconcile`: a log of the proxy's own, and a trail that says where its request ran.

use std::io::Write as _;

use serde_json::Value;

use super::process::windward;
use super::support::peer::{Then, respond};
use super::support::{Client, Harness, Peer};

const ID: &str = "6f1c8c5e-0b1f-4a52-9d0e-1f2a3b4c5d6e";
const FAILED: &str = "7a1c8c5e-0b1f-4a52-9d0e-1f2a3b4c5d6f";
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;

#[test]
fn what_ran_elsewhere_is_restated() {
    let peer = Peer::start(|_, stream| {
        respond(stream, "200 OK", &format!("content-type: application/json\r\nx-amzn-requestid: {ID}\r\n"), OK.as_bytes());
        Then::Next
    });
    // One that breaks after it has read the prompt, and is held to have burned it.
    let failing = Peer::start(|_, stream| {
        respond(stream, "500 Oops", &format!("content-type: application/json\r\nx-amzn-requestid: {FAILED}\r\n"), b"{}");
        Then::Next
    });
    let place = "models: [m]\n    region: aws/us-east-1\n    placement: geo\n    grid_zone: [US-NW-PACW, US-MIDA-PJM]";
    let proxy =
        Harness::start(&[("failing", failing.address, place), ("profile", peer.address, place)], "policy: unsafe_in_order");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m","messages":[]}"#);
    assert_eq!(client.answer().status, 200);
    let record = proxy.record();
    assert_eq!((&record["provider_request_id"], &record["grid_zone"]), (&ID.into(), &"US-MIDA-PJM".into()));
    assert_eq!(record["attempts"][0]["provider_request_id"], FAILED);
    assert_eq!(record["attempts"][1].get("provider_request_id"), None, "it is the record's");

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
    packer
        .write_all(format!(r#"{{"Records":[{}]}}"#, [event(ID, "us-west-2"), event(FAILED, "us-west-1")].join(",")).as_bytes())
        .unwrap();
    packer.finish().unwrap();

    let run = |trail: &[&std::path::Path], json: bool| {
        let mut command = windward(["reconcile"]);
        command.arg(&log).arg("--cloudtrail").args(trail);
        let output = if json { command.arg("--json") } else { &mut command }.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, json) = run(&[&plain, &packed], true);
    let result: Value = serde_json::from_str(&json).unwrap();
    let counts =
        ["records", "joined", "attempts", "not_restated", "by_yearly_figure", "bad_lines"].map(|name| result[name].as_u64());
    assert_eq!((code, counts), (Some(0), [1, 1, 2, 0, 2, 1].map(Some)), "{json}");
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {json}"));
    let near = |path: &str, expected: f64| assert!((number(path) - expected).abs() < 1e-12, "{path}, {expected}: {json}");
    let emissions = &record["emissions"];
    for (name, field) in
        [("emitted", "grams"), ("waste", "waste_grams"), ("baseline", "baseline_grams"), ("saved", "saved_grams")]
    {
        near(&format!("/{name}/live_grams"), emissions[field].as_f64().unwrap());
    }
    assert!(number("/emitted/restated_grams") < number("/emitted/live_grams"), "Oregon is cleaner than Virginia: {json}");
    assert!(
        number("/waste/restated_grams") > 0.0 && number("/waste/restated_grams") < number("/waste/live_grams"),
        "so is California"
    );
    near("/saved/restated_grams", number("/baseline/restated_grams") - number("/emitted/restated_grams"));
    near("/off_grams", number("/emitted/live_grams") - number("/emitted/restated_grams"));
    assert!(number("/emitted/restated_grams_low") < number("/emitted/restated_grams"));
    assert!(number("/emitted/restated_grams_high") > number("/emitted/restated_grams"));
    for region in ["us-west-2", "us-west-1"] {
        let ran = &result["regions"][format!("aws/{region}")];
        assert_eq!((&ran["attempts"], &ran["elsewhere"]), (&1.into(), &1.into()), "{region}");
        assert!(ran["least_off"].as_f64().is_some_and(|off| off > 0.0) && ran["least_off"] == ran["most_off"], "{ran}");
    }
    let (code, text) = run(&[&packed], false);
    assert!(code == Some(0) && text.contains("the live figure was off by +") && text.contains("aws/us-west-2"), "{text}");
    assert_eq!(run(&[&plain], false).0, Some(1), "nothing of the log is there");
}
