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

/// An event as CloudTrail writes it of a call of a model, and one of a call that is none.
fn event(id: &str, operation: &str, region: &str) -> String {
    format!(
        r#"{{"eventVersion":"1.11","userIdentity":{{"type":"AssumedRole","principalId":"AROAEXAMPLE:windward",
        "arn":"arn:aws:sts::123456789012:assumed-role/models/windward","accountId":"123456789012","accessKeyId":"ASIAEXAMPLE",
        "sessionContext":{{"sessionIssuer":{{"type":"Role","userName":"models"}},"attributes":{{"creationDate":"2026-11-20T09:55:00Z","mfaAuthenticated":"false"}}}}}},
        "eventTime":"2026-11-20T10:00:00Z","eventSource":"bedrock.amazonaws.com","eventName":"{operation}","awsRegion":"us-east-1",
        "sourceIPAddress":"192.0.2.1","userAgent":"windward","requestParameters":{{"modelId":"us.openai.gpt-6-sol"}},"responseElements":null,
        "additionalEventData":{{"inferenceRegion":"{region}"}},"requestID":"{id}","eventID":"3038ebd2-c98a-4c65-9b6e-e22506292313",
        "readOnly":true,"resources":[{{"accountId":"123456789012","type":"AWS::Bedrock::Model","ARN":"arn:aws:bedrock:us-east-1::foundation-model/openai.gpt-6-sol"}}],
        "eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"123456789012","eventCategory":"Management",
        "tlsDetails":{{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"bedrock-runtime.us-east-1.amazonaws.com"}}}}"#
    )
}

const STRANGE: &str = r#"{"eventVersion":"1.11","userIdentity":{"type":"AWSService","invokedBy":"s3.amazonaws.com"},"eventTime":"2026-11-20T10:00:00Z",
    "eventSource":"sts.amazonaws.com","eventName":"AssumeRole","awsRegion":"us-east-1","errorCode":"AccessDenied","requestParameters":null,
    "responseElements":null,"requestID":"7a1c8c5e-0b1f-4a52-9d0e-000000000000","eventID":"x","readOnly":true,"eventType":"AwsApiCall"}"#;

/// A day as an account has it: many packed files, a call in each, and among them events of every other service. Two logs, of which the
/// second repeats a part of the first and was cut off.
#[test]
fn a_day_of_trails_and_logs_is_joined_and_what_is_wrong_with_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let id = |n: usize| format!("00000000-0000-4000-8000-{n:012x}");
    let line = |n: usize| {
        let id = id(n);
        format!(
            r#"{{"time":"2026-11-20T10:00:00Z","instance":"i","run":"r","seq":{n},"generation":1,"id":"x{n}","provider_request_id":"{id}","http.request.method":"POST","url.path":"/model/m/converse","http.response.status_code":200,"backend":"states","grid_zone":"US-MIDA-PJM","decision":{{"reason":"least_carbon","baseline":"states","candidates":[]}},"carbon":{{"chosen":{{"grid_zone":"US-MIDA-PJM"}},"baseline":{{}}}},"emissions":{{"grams":2.0,"grams_low":1.0,"grams_high":4.0,"baseline_grams":2.0,"baseline_grams_low":1.0,"baseline_grams_high":4.0,"saved_grams":0.0,"waste_grams":0.0}},"attempts":[{{"backend":"states","outcome":"answered","ms":1,"joules":10000.0,"pue":1.0,"intensity_g_per_kwh":720.0,"grams":2.0}}],"ended":"complete"}}"#
        )
    };
    let trails: Vec<_> = (0..40)
        .map(|n| {
            let path = folder.path().join(format!("123456789012_CloudTrail_us-east-1_20261120T{n:04}Z_x.json.gz"));
            let mut packer = flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
            // One call in a file, and none of the last ten is in the logs.
            let of = event(&id(n), if n % 2 == 0 { "Converse" } else { "InvokeModelWithResponseStream" }, "us-west-2");
            packer.write_all(format!(r#"{{"Records":[{STRANGE},{of},{STRANGE}]}}"#).as_bytes()).unwrap();
            packer.finish().unwrap();
            path
        })
        .collect();
    let [first, second] = ["access.jsonl", "access.jsonl.1"].map(|name| folder.path().join(name));
    let lines = |from: usize, to: usize| (from..to).map(line).collect::<Vec<_>>().join("\n");
    std::fs::write(&first, lines(0, 20) + "\n").unwrap();
    let cut = lines(10, 31);
    std::fs::write(&second, format!("[1]\n{}", &cut[..cut.len() - 9])).unwrap();
    let run = |trails: &[std::path::PathBuf], json: bool| {
        let mut command = windward(["reconcile"]);
        command.args([&first, &second]).arg("--cloudtrail").args(trails);
        let output = if json { command.arg("--json") } else { &mut command }.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, json, error) = run(&trails, true);
    let result: Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{json} {error}"));
    let counts = ["records", "joined", "attempts", "duplicates", "bad_lines"].map(|name| result[name].as_u64());
    assert_eq!((code, counts), (Some(0), [30, 30, 30, 10, 2].map(Some)), "{json}");
    assert_eq!(result["emitted"]["live_grams"], 60.0);
    assert_eq!(result["regions"]["aws/us-west-2"]["elsewhere"], 30);
    let (code, text, _) = run(&trails, false);
    let second_name = second.display();
    for words in [
        "30 records with an AWS request id, 30 of them in the trail",
        "10 records had been read before",
        "2 lines are no records",
        &*format!("  {second_name}:1: JSON, but no access record"),
        &*format!("  {second_name}:22: cut off"),
        "the live figure was off by +",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(code, Some(0));

    // A file of the trail that cannot be read ends it, and is named: a figure of a part would be taken for one of the whole.
    let whole = std::fs::read(&trails[7]).unwrap();
    for (bytes, why) in
        [(&whole[..whole.len() / 2], "no file of CloudTrail"), (b"{\"Records\":[{\"requestID\":7}]}", "line 1 column")]
    {
        std::fs::write(&trails[7], bytes).unwrap();
        let (code, out, error) = run(&trails, true);
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains(&trails[7].display().to_string()) && error.contains(why), "{error}");
    }
}
