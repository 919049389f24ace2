//! What becomes of a request on its way: which bytes change, which fields cross, whose credential is sent.

use super::support::peer::{Then, begin_events, chunk, end_chunks, respond, wait_for_close};
use super::support::{Client, Harness, Peer};

const ANSWER: &str =
    r#"{"id":"c1","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;

#[test]
fn only_the_bytes_that_must_change_do() {
    let peer = Peer::answering("200 OK", ANSWER);
    let proxy = Harness::start(&[("a", peer.address, "models: { small: vendor/small-1 }")], "");
    let mut client = Client::connect(proxy.address);
    let body = r#"{ "messages" : [ {"role":"user","content":"the \"model\": x"} ],  "unknown": {"deep":[1,2.50,null]}, "model":"small" , "temperature":1e-1}"#;
    client.post("/v1/chat/completions?trace=1", "authorization: Bearer client-key\r\nopenai-organization: org\r\n", body);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
    assert_eq!(answer.field("x-windward-backend"), Some("a"));
    assert!(answer.field("x-request-id").is_some());

    let seen = peer.next();
    assert_eq!(seen.target(), "/base/chat/completions?trace=1");
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), body.replace(r#""model":"small""#, r#""model":"vendor/small-1""#));
    assert_eq!(seen.field("authorization"), None, "the client's key stays here");
    assert_eq!(seen.field("openai-organization"), Some("org"));
    assert_eq!(seen.field("host"), Some(peer.address.to_string().as_str()));
}

#[test]
fn a_backend_is_sent_its_own_credential_or_none() {
    let own = Peer::answering("200 OK", ANSWER);
    let passed = Peer::answering("200 OK", ANSWER);
    let proxy = Harness::start(
        &[
            ("own", own.address, "models: [one]\n    auth: { bearer: backend-key }"),
            ("passed", passed.address, "models: [two]\n    auth: pass_through"),
        ],
        "",
    );
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "authorization: Bearer client-key\r\ncookie: s=1\r\n", r#"{"model":"one"}"#);
    assert_eq!(client.answer().status, 200);
    assert_eq!(own.next().field("authorization"), Some("Bearer backend-key"));
    client.post("/v1/chat/completions", "authorization: Bearer client-key\r\nx-api-key: k\r\n", r#"{"model":"two"}"#);
    assert_eq!(client.answer().status, 200);
    let seen = passed.next();
    assert_eq!(seen.field("authorization"), Some("Bearer client-key"));
    assert_eq!(seen.field("x-api-key"), None);
}

#[test]
fn connections_to_a_backend_are_used_again() {
    let peer = Peer::answering("200 OK", ANSWER);
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    for _ in 0..5 {
        client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(peer.connections(), 1);
}

#[test]
fn the_list_of_models_comes_from_the_plan() {
    let peer = Peer::answering("500 Internal Server Error", "{}");
    let proxy = Harness::start(&[("a", peer.address, "models: [small, large]")], "");
    let mut client = Client::connect(proxy.address);
    client.get("/v1/models", "");
    let names: Vec<String> =
        client.answer().json()["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["small", "large"], "in the order of the file");
    client.get("/v1/models/small", "");
    assert_eq!(client.answer().json()["id"], "small");
    client.get("/v1/models/none", "");
    assert_eq!(client.answer().status, 404);
    assert!(!peer.saw_more());
}

#[test]
fn what_lives_in_one_backend_goes_home_byte_for_byte() {
    let home = Peer::answering("200 OK", r#"{"id":"file-1"}"#);
    let other = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("other", other.address, "models: [m]"), ("home", home.address, "models: [m]")], "home: home");
    let mut client = Client::connect(proxy.address);
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: w\r\ncontent-type: multipart/form-data; boundary=x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n3\r\n\0\xff!\r\n0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("x-windward-decision")), (200, Some("pinned")));
    let seen = home.next();
    assert_eq!((seen.target(), seen.body.as_slice()), ("/base/files", b"--x\r\n\0\xff!".as_slice()));
    client.post("/v1/responses", "", r#"{"model":"m","previous_response_id":"resp_1"}"#);
    assert_eq!(client.answer().status, 200);
    assert_eq!(home.next().target(), "/base/responses");
    assert!(!other.saw_more());
}

#[test]
fn a_method_that_makes_a_backend_repeat_what_it_was_sent_stays_here() {
    let peer = Peer::answering("200 OK", "{}");
    let proxy = Harness::start(&[("a", peer.address, "auth: { bearer: backend-key }")], "");
    let mut client = Client::connect(proxy.address);
    client.send(b"TRACE /v1/x HTTP/1.1\r\nhost: w\r\n\r\n");
    assert_eq!(client.answer().status, 405);
    assert!(!peer.saw_more());
}

#[test]
fn a_request_that_was_left_counts_as_no_answer_and_one_without_a_route_does() {
    let peer = Peer::start(|_, stream| {
        wait_for_close(stream);
        Then::Close
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    peer.next();
    drop(client);
    assert_eq!(proxy.record()["ended"], "client_gone");
    let mut client = Client::connect(proxy.address);
    client.get("/elsewhere", "");
    assert_eq!(client.answer().status, 404);
    let metrics = proxy.ask_admin("/metrics").text();
    let of = |class: &str| metrics.lines().find(|line| line.starts_with("windward_") && line.contains(class)).map(str::to_owned);
    assert!(of("2xx").is_none_or(|line| line.ends_with(" 0")), "{metrics}");
    assert!(of("4xx").is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

#[test]
fn a_backend_outside_the_residency_gets_nothing_whatever_else_speaks_for_it() {
    let (inside, outside) = (Peer::answering("200 OK", "{}"), Peer::answering("200 OK", "{}"));
    let top = "  - { name: european, objective: listed_order, residency: [nowhere, 'AWS/eu-*'] }";
    let backends = [
        ("away", outside.address, "region: aws/us-east-1"),
        ("anywhere", outside.address, "region: aws/eu-west-3\n    placement: global"),
        ("home", inside.address, "region: aws/eu-north-1"),
    ];
    let proxy = Harness::with(top, &backends, "policy: european");
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
    assert_eq!(client.answer().field("x-windward-backend"), Some("home"));
    let record = proxy.record();
    let verdicts =
        record["decision"]["candidates"].as_array().unwrap().iter().map(|candidate| candidate["verdict"].as_str().unwrap());
    assert_eq!(verdicts.collect::<Vec<_>>(), ["outside_residency", "outside_residency", "chosen"]);
    assert!(!outside.saw_more());
}

#[test]
fn an_answer_that_is_an_error_is_passed_on_whole_and_is_no_answer() {
    const FAILED: &str = r#"{"error":{"message":"out of memory","type":"server_error","code":500},"usage":{"prompt_tokens":3}}"#;
    const REFUSED: &str = r#"{"error":{"message":"too long","type":"invalid_request_error","code":400}}"#;
    for (status, body, code, failures) in [
        ("200 OK", FAILED, Some("backend_error_body"), 1),
        ("200 OK", REFUSED, Some("request_error_body"), 0),
        ("400 Bad Request", REFUSED, None, 0),
        ("500 Internal Server Error", FAILED, None, 1),
    ] {
        let peer = Peer::answering(status, body);
        let proxy = Harness::start(&[("a", peer.address, "")], "");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", r#"{"model":"m","messages":[]}"#);
        let answer = client.answer();
        assert_eq!((answer.status.to_string(), answer.text().as_str()), (status[..3].to_owned(), body), "no byte is changed");
        let record = proxy.record();
        assert_eq!(record["error"].as_str(), code, "{record}");
        assert_eq!(record["ended"], if code.is_some() { "upstream_broke" } else { "complete" });
        assert_eq!(
            (record["emissions"]["baseline_grams"].as_f64(), proxy.backend("a")["failures"].as_u64()),
            (Some(0.0), Some(failures))
        );
        let taught = proxy.backend("a")["models"][0]["samples"].as_u64();
        assert_eq!(taught, Some(0), "failing is quick, and teaches nothing");
    }
}

#[test]
fn the_record_says_which_model_answered_by_the_backends_own_word() {
    const EVENTS: &str =
        "data: {\"model\":\"\",\"choices\":[]}\n\ndata: {\"id\":\"c\",\"model\":\"m-2026\",\"choices\":[]}\n\ndata: [DONE]\n\n";
    let peer = Peer::start(|seen, stream| {
        if seen.json()["stream"] == true {
            begin_events(stream);
            chunk(stream, EVENTS.as_bytes());
            end_chunks(stream);
        } else {
            let answer = r#"{"id":"c","model":"m-2026","choices":[{"message":{"content":"\"model\":\"other\""}}]}"#;
            respond(stream, "200 OK", "content-type: application/json\r\n", answer.as_bytes());
        }
        Then::Next
    });
    let proxy = Harness::start(&[("a", peer.address, "")], "");
    for body in [r#"{"model":"m"}"#, r#"{"model":"m","stream":true}"#] {
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", body);
        client.answer();
        let record = proxy.record();
        assert_eq!(
            (&record["gen_ai.request.model"], &record["gen_ai.response.model"]),
            (&"m".into(), &"m-2026".into()),
            "{record}"
        );
    }
}

#[test]
fn a_backend_that_takes_any_model_is_asked_which_there_are() {
    const THEIRS: &str = r#"{"object":"list","data":[{"id":"theirs"}]}"#;
    let (any, named) = (Peer::answering("200 OK", THEIRS), Peer::answering("200 OK", "{}"));
    let ask = |proxy: &Harness, path: &str| {
        let mut client = Client::connect(proxy.address);
        client.get(path, "");
        let answer = client.answer();
        (answer.status, answer.text())
    };
    let proxy = Harness::start(&[("any", any.address, "")], "");
    assert_eq!(ask(&proxy, "/v1/models"), (200, THEIRS.to_owned()));
    assert_eq!(any.next().head.lines().next(), Some("GET /base/models HTTP/1.1"));
    assert_eq!(proxy.record()["attempts"][0]["outcome"], "answered");
    assert_eq!(ask(&proxy, "/v1/models/theirs").0, 200);
    assert_eq!(any.next().head.lines().next(), Some("GET /base/models/theirs HTTP/1.1"));
    let proxy = Harness::start(&[("named", named.address, "models: [m]"), ("any", any.address, "")], "");
    let (status, list) = ask(&proxy, "/v1/models");
    assert!(status == 200 && list.contains("\"m\""), "what the file names is told without asking: {list}");
    assert_eq!(ask(&proxy, "/v1/models/other").0, 404, "its home lists what it has");
    assert_eq!(named.connections(), 0);
}
