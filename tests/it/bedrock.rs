//! Bedrock end to end: clients of its own API, Windward, and simulated regions that hold every request to its signature.

use serde_json::Value;
use windward::backend::{AwsKeys, Secret};
use windward::clock::{Clock as _, SystemClock};
use windward::wire::sigv4::{PayloadHash, Scope, Signer, Subject};

use super::support::peer::{Then, respond};
use super::support::{Answer, Client, Fleet, Harness, Peer, patiently};

/// Every region wants the signature of one key, each for itself.
const FLEET: &str = r#"
models: ["openai.gpt-oss-120b-1:0", "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc"]
regions:
  - { region: aws/eu-north-1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_sigv4: &key { access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary } }
  - { region: aws/us-west-2, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_sigv4: *key }
  - { region: aws/us-east-2, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary, service: bedrock-mantle } }
"#;

const KEY: &str = "sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary }";
const WRONG: &str = "sigv4: { access_key_id: AKIDMOCK, secret_access_key: other, session_token: temporary }";

/// A proxy before two regions: one with that credential, and one that is asked after it.
fn proxy(fleet: &Fleet, first: &str, top: &str) -> Harness {
    let (stockholm, oregon) = (fleet.url("aws/eu-north-1"), fleet.url("aws/us-west-2"));
    Harness::of(|log| {
        format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
{top}
backends:
  - name: stockholm
    url: {stockholm}
    dialect: bedrock
    region: aws/eu-north-1
    auth: {{ {first} }}
    models: &models
      gpt-oss: openai.gpt-oss-120b-1:0
      "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc":
  - {{ name: oregon, url: "{oregon}", dialect: bedrock, region: aws/us-west-2, auth: {{ {KEY} }}, models: *models }}
routes: [{{ name: native, backends: [stockholm, oregon], policy: in_order }}]
policies: [{{ name: in_order, objective: listed_order }}]
"#
        )
    })
}

fn ask(proxy: &Harness, path: &str, fields: &str, body: &str) -> Answer {
    let mut client = Client::connect(proxy.address);
    client.post(path, &format!("x-mock-output-tokens: 7\r\n{fields}"), body);
    client.answer()
}

const CONVERSE: &str = r#"{"messages":[{"role":"user","content":[{"text":"Which way does the wind blow?"}]}]}"#;
const CHAT: &str = r#"{"messages":[{"role":"user","content":"Which way does the wind blow?"}]}"#;
const COUNT: &str = r#"{"input":{"converse":{"messages":[{"role":"user","content":[{"text":"Which way?"}]}]}}}"#;

/// The record of a call that was answered as a whole.
fn tokens(record: &Value) -> (Option<u64>, Option<u64>, &str) {
    let count = |name: &str| record[name].as_u64();
    (count("gen_ai.usage.input_tokens"), count("gen_ai.usage.output_tokens"), record["usage_source"].as_str().unwrap())
}

#[test]
fn every_operation_is_signed_metered_and_recorded() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, KEY, "");
    let claude =
        r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"Which way?"}]}"#;
    for (operation, body, name, input) in [
        ("converse", CONVERSE, "chat", 8),
        ("converse-stream", CONVERSE, "chat", 8),
        ("invoke", CHAT, "generate_content", 8),
        ("invoke-with-response-stream", CHAT, "generate_content", 8),
        ("invoke", claude, "generate_content", 3),
        ("invoke-with-response-stream", claude, "generate_content", 3),
    ] {
        let answer = ask(&proxy, &format!("/model/gpt-oss/{operation}"), "", body);
        let record = proxy.record();
        assert_eq!(
            (answer.status, answer.field("x-windward-backend")),
            (200, Some("stockholm")),
            "{operation}: {}",
            answer.text()
        );
        let streamed = operation.ends_with("stream");
        let content_type = if streamed { "application/vnd.amazon.eventstream" } else { "application/json" };
        assert_eq!(answer.field("content-type"), Some(content_type), "{operation}");
        assert_eq!(tokens(&record), (Some(input), Some(7), "reported"), "{operation}: {record}");
        assert_eq!((&record["gen_ai.operation.name"], &record["stream"]), (&name.into(), &streamed.into()), "{operation}");
        assert_eq!(record["gen_ai.request.model"], "gpt-oss");
        assert!(record["first_token_ms"].as_f64().is_some(), "{record}");
        assert_eq!(record["provider_request_id"], answer.field("x-request-id").unwrap());
    }
    let answer = ask(&proxy, "/model/gpt-oss/count-tokens", "", COUNT);
    assert_eq!((answer.status, answer.json()["inputTokens"].as_u64()), (200, Some(3)));
    assert_eq!(proxy.record()["gen_ai.operation.name"], "count_tokens");
    let paths: Vec<String> = fleet.rows(7).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths[0], "/model/openai.gpt-oss-120b-1%3A0/converse", "the name there, escaped");
}

#[test]
fn an_id_reaches_its_backend_however_it_was_escaped() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, KEY, "");
    let arn = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc";
    let escaped = arn.replace(':', "%3A").replace('/', "%2F");
    for id in [arn, &escaped, &arn.replace(':', "%3a")] {
        let answer = ask(&proxy, &format!("/model/{id}/converse"), "", CONVERSE);
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        assert_eq!(proxy.record()["gen_ai.request.model"], arn);
    }
    assert!(fleet.rows(3).iter().all(|(path, _)| *path == format!("/model/{escaped}/converse")));
}

#[test]
fn each_attempt_is_signed_for_its_own_region() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, WRONG, "");
    let answer = ask(&proxy, "/model/gpt-oss/converse", "", CONVERSE);
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("oregon")), "{}", answer.text());
    let record = proxy.record();
    assert_eq!((&record["attempts"][0]["outcome"], &record["attempts"][0]["status"]), (&"refused".into(), &403.into()));
    let statuses: Vec<Option<u16>> = fleet.rows(2).into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, [Some(403), Some(200)]);
}

#[test]
fn nothing_of_a_clients_own_signature_goes_on() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, KEY, "");
    let own = "authorization: AWS4-HMAC-SHA256 Credential=CLIENT/20261123/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0\r\n\
        x-amz-date: 20200101T000000Z\r\nx-amz-security-token: CLIENT\r\nx-amz-content-sha256: 00\r\nx-amz-target: CLIENT\r\n";
    // Each of these unsigned, or signed by somebody else, is refused there.
    assert_eq!(ask(&proxy, "/model/gpt-oss/converse", own, CONVERSE).status, 200);
}

#[test]
fn errors_are_those_that_an_aws_sdk_understands() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, WRONG, "keys: [{ name: team, secret: a-key-of-the-gateway }]");
    let with_key = "authorization: Bearer a-key-of-the-gateway\r\n";
    for (path, fields, body, status, exception) in [
        ("/model/gpt-oss/converse", "", CONVERSE, 401, "AccessDeniedException"),
        ("/model/nobody/converse", with_key, CONVERSE, 404, "ResourceNotFoundException"),
        ("/model/gpt-oss/converse", with_key, "[]", 400, "ValidationException"),
        ("/model/gpt-oss/converse", with_key, "{}", 400, "ValidationException"),
    ] {
        let answer = ask(&proxy, path, fields, body);
        assert_eq!(
            (answer.status, answer.field("x-amzn-errortype")),
            (status, Some(exception)),
            "{path} {body}: {}",
            answer.text()
        );
        assert!(answer.json()["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.text());
        assert!(answer.json().get("error").is_none());
    }
    assert_eq!(ask(&proxy, "/model/gpt-oss/converse", with_key, CONVERSE).status, 200, "the key is for the gateway alone");
}

#[test]
fn a_body_that_names_its_model_is_made_to_agree_with_the_path_and_with_nothing_else() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, KEY, "");
    let named = |name: &str| CHAT.replace("{\"messages\"", &format!("{{\"model\":\"{name}\",\"messages\""));
    assert_eq!(ask(&proxy, "/model/gpt-oss/invoke", "", &named("gpt-oss")).status, 200);
    assert_eq!(ask(&proxy, "/model/gpt-oss/invoke", "", &named("another")).status, 400);
}

/// OpenAI's models on Bedrock, from a client that knows nothing of AWS.
#[test]
fn a_client_of_openais_api_is_signed_for_too() {
    let fleet = Fleet::start(FLEET);
    let (oregon, ohio) = (fleet.url("aws/us-west-2"), fleet.url("aws/us-east-2"));
    let proxy = Harness::of(|log| {
        format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
backends:
  - {{ name: runtime, url: "{oregon}/openai/v1", region: aws/us-west-2, auth: {{ {KEY} }}, models: {{ a: &model "openai.gpt-oss-120b-1:0" }} }}
  - name: mantle
    url: {ohio}/openai/v1
    region: aws/us-east-2
    auth: {{ sigv4: {{ service: bedrock-mantle, access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary }} }}
    models: {{ b: *model }}
"#
        )
    });
    for (model, backend) in [("a", "runtime"), ("b", "mantle")] {
        for path in ["chat/completions", "responses"] {
            for stream in ["false", "true"] {
                let body = format!(r#"{{"model":"{model}","messages":[{{"content":"hi"}}],"input":"hi","stream":{stream}}}"#);
                let answer = ask(&proxy, &format!("/v1/{path}"), "authorization: Bearer sk-openai\r\n", &body);
                let record = proxy.record();
                assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some(backend)), "{}", answer.text());
                assert_eq!(tokens(&record), (Some(1), Some(7), "reported"), "{record}");
            }
        }
    }
    // What lives in one backend goes there unread, and is signed as well.
    let mut client = Client::connect(proxy.address);
    client.post("/v1/files", "", "a file of some bytes");
    assert_eq!(client.answer().status, 200);
    // Nobody reads it on its way, and yet it is known how much it was.
    assert_eq!(proxy.record()["http.request.body.size"], 20);
    client.get("/v1/files", "");
    assert_eq!(client.answer().json()["data"][0]["bytes"], 20);
}

/// A request as an AWS SDK signs it with a key of the gateway's, for a region of its own choice.
pub(super) fn signed(secret: &str, path: &str, body: &str) -> String {
    let keys = AwsKeys { access_key_id: "WWTEAM".into(), secret_access_key: Secret::new(secret), session_token: None };
    let payload = PayloadHash::of([body.as_bytes()]);
    let subject = Subject {
        method: "POST",
        target: path,
        host: "windward.test",
        content_type: Some("application/json"),
        payload: &payload,
    };
    let scope = Scope { service: "bedrock", region: "us-east-1" };
    let signed = Signer::new(&keys).sign(scope, &subject, SystemClock.wall()).unwrap();
    let [authorization, date] = [&signed.authorization, &signed.date].map(|value| value.to_str().unwrap());
    format!("authorization: {authorization}\r\nx-amz-date: {date}\r\n")
}

#[test]
fn a_client_may_sign_with_its_key_instead_of_showing_it() {
    let fleet = Fleet::start(FLEET);
    let proxy = proxy(&fleet, KEY, "keys: [{ name: team, secret: a-key-of-the-gateway, access_key_id: WWTEAM }]");
    let path = "/model/gpt-oss/converse";
    let right = signed("a-key-of-the-gateway", path, CONVERSE);
    let answer = ask(&proxy, path, &right, CONVERSE);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.record()["key"], "team");
    let other_body = CONVERSE.replace("wind", "tide");
    for (path, fields, body, status, exception) in [
        (path, signed("another-key-by-that-id", path, CONVERSE), CONVERSE, 403, "InvalidSignatureException"),
        (path, right.clone(), &*other_body, 403, "InvalidSignatureException"),
        ("/model/other/converse", right.clone(), CONVERSE, 403, "InvalidSignatureException"),
        (path, right.replace("WWTEAM", "WWOTHER"), CONVERSE, 401, "AccessDeniedException"),
        // What is not read for its model is held to its signature all the same.
        ("/guardrail/x/apply", right.clone(), CONVERSE, 403, "InvalidSignatureException"),
    ] {
        let answer = ask(&proxy, path, &fields, body);
        assert_eq!((answer.status, answer.field("x-amzn-errortype")), (status, Some(exception)), "{path}: {}", answer.text());
    }
    assert_eq!(fleet.rows(1).len(), 1, "nobody was contacted");
    let fields = signed("a-key-of-the-gateway", "/guardrail/x/apply", CONVERSE);
    let answer = ask(&proxy, "/guardrail/x/apply", &fields, CONVERSE);
    assert_eq!((answer.status, answer.field("x-mock-region")), (404, Some("aws/eu-north-1")), "it went on: {}", answer.text());
}

#[test]
fn who_only_claims_to_have_signed_takes_no_place_of_those_who_show_a_key() {
    const LARGE: usize = 60_000;
    let fleet = Fleet::start(FLEET);
    let keys = "keys: [{ name: team, secret: a-key-of-the-gateway, access_key_id: WWTEAM }]";
    let proxy = proxy(&fleet, KEY, &format!("limits: {{ body: 64KiB, buffered: 256KiB }}\n{keys}"));
    let path = "/model/gpt-oss/converse";
    let claims = signed("another-key-by-that-id", path, CONVERSE);
    // One body's worth is held by a client that does not finish.
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\n{claims}content-length: {}\r\n\r\n",
        LARGE + 1
    );
    let hold = || {
        let mut client = Client::connect(proxy.address);
        client.send(&[head.as_bytes(), &vec![b' '; LARGE]].concat());
        client
    };
    let mut slow = vec![hold()];
    let large = CONVERSE.to_owned() + &" ".repeat(LARGE - CONVERSE.len());
    patiently("the share of those who claim is taken", || {
        let taken = ask(&proxy, path, &claims, &large).status == 503;
        if !taken {
            // The other one may have come first, and then this one was refused.
            slow.push(hold());
        }
        taken.then_some(())
    });
    for _ in 0..4 {
        let answer = ask(&proxy, path, "x-api-key: a-key-of-the-gateway\r\n", &large);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Of what was proved to be signed nothing is counted any more, and of what was not neither.
    drop(slow);
    let right = signed("a-key-of-the-gateway", path, &large);
    for _ in 0..4 {
        patiently("its place is free", || (ask(&proxy, path, &right, &large).status == 200).then_some(()));
    }
    assert_eq!(ask(&proxy, path, &claims, &large).status, 403);
}

#[test]
fn nor_any_of_their_places_among_the_requests_at_once() {
    let fleet = Fleet::start(FLEET);
    let keys = "keys: [{ name: team, secret: a-key-of-the-gateway, access_key_id: WWTEAM }]";
    let proxy = proxy(&fleet, KEY, &format!("limits: {{ in_flight: 32 }}\n{keys}"));
    let path = "/model/gpt-oss/converse";
    let claims = signed("another-key-by-that-id", path, CONVERSE);
    // Clients that do not send their bodies: two have a place, and more than there may be requests at once have none.
    let head = format!("POST {path} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\n{claims}content-length: 10\r\n\r\n");
    let slow = || {
        let mut client = Client::connect(proxy.address);
        client.send(head.as_bytes());
        client
    };
    let mut held = vec![slow(), slow()];
    patiently("the places of those who claim are taken", || {
        let taken = ask(&proxy, path, &claims, CONVERSE).status == 503;
        if !taken {
            // It may have had the place of one of them, which was refused then.
            held.push(slow());
        }
        taken.then_some(())
    });
    let refused: Vec<Client> = (0..40).map(|_| slow()).collect();
    let shed = || {
        let metrics = proxy.ask_admin("/metrics").text();
        let count = metrics.lines().find_map(|line| line.strip_prefix("windward_shed_total ")).unwrap().parse::<u64>();
        count.unwrap()
    };
    for mut client in refused {
        assert_eq!(client.answer().status, 503);
    }
    assert!(shed() >= 41, "each of them is counted");
    for _ in 0..4 {
        let answer = ask(&proxy, path, "x-api-key: a-key-of-the-gateway\r\n", CONVERSE);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    drop(held);
    let right = signed("a-key-of-the-gateway", path, CONVERSE);
    patiently("a place is free", || (ask(&proxy, path, &right, CONVERSE).status == 200).then_some(()));
    // Neither who was right nor who was wrong has kept one of the two.
    for _ in 0..3 {
        assert_eq!(ask(&proxy, path, &right, CONVERSE).status, 200);
        assert_eq!(ask(&proxy, path, &claims, CONVERSE).status, 403);
    }
}

/// What a region says of its own time, in each of the three places where Bedrock says it.
#[test]
fn what_a_region_says_of_its_own_time_is_in_the_record() {
    let metadata =
        |ms: u64| format!(r#"{{"usage":{{"inputTokens":5,"outputTokens":2,"totalTokens":7}},"metrics":{{"latencyMs":{ms}}}}}"#);
    let peer = Peer::start(move |seen, stream| {
        let ms = seen.field("x-claim").unwrap().parse().unwrap();
        let operation = seen.target().rsplit('/').next().unwrap();
        let (fields, body) = match operation {
            "converse-stream" => {
                let frames =
                    super::support::frames::frames(format!(r#"{{"event":"metadata","payload":{}}}"#, metadata(ms)).as_bytes());
                ("content-type: application/vnd.amazon.eventstream\r\n".to_owned(), frames)
            }
            "converse" => ("content-type: application/json\r\n".to_owned(), metadata(ms).into_bytes()),
            _ => (format!("content-type: application/json\r\nx-amzn-bedrock-invocation-latency: {ms}\r\n"), b"{}".to_vec()),
        };
        respond(stream, "200 OK", &fields, &body);
        Then::Next
    });
    let proxy = Harness::start(&[("region", peer.address, "dialect: bedrock\n    models: [m]")], "dialect: bedrock");
    for operation in ["converse-stream", "converse", "invoke"] {
        let ask = |ms: &str| {
            let answer = ask(&proxy, &format!("/v1/model/m/{operation}"), &format!("x-claim: {ms}\r\n"), CONVERSE);
            assert_eq!(answer.status, 200, "{}", answer.text());
            proxy.record()
        };
        let record = ask("0");
        assert_eq!(record["backend_time"]["total_ms"], 0, "{operation}: {record}");
        let (way, whole) = (record["backend_time"]["network_ms"].as_f64().unwrap(), record["total_ms"].as_f64().unwrap());
        assert!(way > 0.0 && way <= whole, "{operation}: {record}");
        assert_eq!(ask("86400000").get("backend_time"), None, "{operation}: more than passed");
    }
}
