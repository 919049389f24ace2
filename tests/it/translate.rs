//! Clients of one API in front of backends that speak another: simulated regions that hold every request to its signature and to its
//! shape, and peers that misbehave.

use std::net::TcpStream;

use serde_json::{Value, json};
use windward::fleet::Patch;

use super::support::frames::frame;
use super::support::peer::{Then, chunk, end_chunks, respond};
use super::support::{Answer, Client, Fleet, Harness, Peer, text};

const FLEET: &str = r"
models: [a.claude]
regions:
  - { region: aws/eu-north-1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush } }
";

/// A proxy before one region of Bedrock's, which serves clients of other APIs besides.
fn before(fleet: &Fleet, translate: &str, routes: &str) -> Harness {
    let url = fleet.url("aws/eu-north-1");
    Harness::of(|log| {
        format!(
            r"
listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
log: {{ access: {log} }}
backends:
  - name: bedrock
    url: {url}
    dialect: bedrock
    translate: {translate}
    region: aws/eu-north-1
    auth: {{ sigv4: {{ access_key_id: AKIDMOCK, secret_access_key: hush }} }}
    models: {{ claude: a.claude }}
routes: {routes}
"
        )
    })
}

/// For clients of OpenAI's API.
fn before_fleet(fleet: &Fleet) -> Harness {
    before(fleet, "[openai]", "[{ name: chat, dialect: openai, backends: [bedrock] }]")
}

const BEDROCK: &str = "dialect: bedrock\n    translate: [openai]\n    region: aws/eu-north-1\n    models: { claude: a.claude }";
const NATIVE: &str = "region: aws/eu-north-1\n    models: [claude]";

fn ask(proxy: &Harness, path: &str, body: &Value) -> Answer {
    let mut client = Client::connect(proxy.address);
    let fields = "x-mock-output-tokens: 7\r\nauthorization: Bearer sk-openai\r\naccept: text/plain\r\n";
    client.post(path, fields, &body.to_string());
    client.answer()
}

fn hello(more: &Value) -> Value {
    let mut body = json!({"model": "claude", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which way?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The data of a stream's events.
fn events(answer: &Answer) -> Vec<String> {
    answer.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

fn json_of(event: &str) -> Value {
    serde_json::from_str(event).unwrap()
}

#[test]
fn a_chat_is_answered_by_converse() {
    let fleet = Fleet::start(FLEET);
    let proxy = before_fleet(&fleet);
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({"max_tokens": 64, "temperature": 0.5})));
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")), "{}", answer.text());
    let said = answer.json();
    let record = proxy.record();
    assert_eq!((&said["object"], &said["model"]), (&"chat.completion".into(), &"claude".into()));
    assert_eq!(said["choices"][0]["finish_reason"], "stop");
    assert!(said["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.split(' ').count() == 7), "{said}");
    assert_eq!(said["usage"], json!({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}));
    assert_eq!(said["id"].as_str().unwrap(), format!("chatcmpl-{}", record["id"].as_str().unwrap()));
    assert_eq!((&record["gen_ai.usage.output_tokens"], &record["usage_source"]), (&7.into(), &"reported".into()), "{record}");
    assert_eq!(record["gen_ai.operation.name"], "chat");
    assert_eq!(fleet.rows(1), [("/model/a.claude/converse".to_owned(), Some(200))]);
}

#[test]
fn a_stream_is_answered_event_by_event_and_counted_for_who_asks() {
    let fleet = Fleet::start(FLEET);
    let proxy = before_fleet(&fleet);
    for asked in [false, true] {
        let options =
            if asked { json!({"stream": true, "stream_options": {"include_usage": true}}) } else { json!({"stream": true}) };
        let answer = ask(&proxy, "/v1/chat/completions", &hello(&options));
        assert_eq!(answer.field("content-type"), Some("text/event-stream; charset=utf-8"), "{}", answer.text());
        let events = events(&answer);
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| json_of(event)).collect();
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text.split(' ').count(), 7);
        let usages: Vec<&Value> = chunks.iter().map(|chunk| &chunk["usage"]).filter(|usage| !usage.is_null()).collect();
        assert_eq!(usages.len(), usize::from(asked));
        assert!(!asked || chunks.last().unwrap()["choices"].as_array().unwrap().is_empty());
        let record = proxy.record();
        assert_eq!((&record["gen_ai.usage.output_tokens"], &record["ended"]), (&7.into(), &"complete".into()), "{record}");
    }
    assert_eq!(fleet.rows(2)[0].0, "/model/a.claude/converse-stream");
}

#[test]
fn a_tool_is_called_whole_and_streamed() {
    let fleet = Fleet::start(FLEET);
    let proxy = before_fleet(&fleet);
    let tools = json!([{"type": "function", "function": {"name": "speak", "parameters": {"type": "object"}}}]);
    for stream in [false, true] {
        let answer =
            ask(&proxy, "/v1/chat/completions", &hello(&json!({"tools": tools, "tool_choice": "required", "stream": stream})));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (name, arguments, reason) = if stream {
            let chunks: Vec<Value> =
                events(&answer).iter().filter(|event| *event != "[DONE]").map(|event| json_of(event)).collect();
            let calls = || chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]["function"]);
            let name = calls().find_map(|call| call["name"].as_str()).unwrap().to_owned();
            let arguments: String = calls().filter_map(|call| call["arguments"].as_str()).collect();
            let reason = chunks.iter().find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).unwrap();
            (name, arguments, reason.to_owned())
        } else {
            let choice = &answer.json()["choices"][0];
            let call = &choice["message"]["tool_calls"][0]["function"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&call["name"]), text(&call["arguments"]), text(&choice["finish_reason"]))
        };
        assert_eq!((name.as_str(), reason.as_str()), ("speak", "tool_calls"));
        assert!(json_of(&arguments)["words"].as_str().is_some_and(|words| words.split(' ').count() == 7), "{arguments}");
    }
}

#[test]
fn what_cannot_be_said_there_is_refused_before_anything_is_sent() {
    let fleet = Fleet::start(FLEET);
    let proxy = before_fleet(&fleet);
    for (path, body, param) in [
        ("/v1/chat/completions", hello(&json!({"n": 2})), "n"),
        ("/v1/chat/completions", hello(&json!({"unheard_of": 1})), "unheard_of"),
        ("/v1/chat/completions?unheard_of=1", hello(&json!({})), "?unheard_of"),
        ("/v1/embeddings", json!({"model": "claude", "input": "x"}), "/v1/embeddings"),
        ("/v1/responses", json!({"model": "claude", "input": "x"}), "/v1/responses"),
        ("/v1/files", json!({}), "/v1/files"),
        ("/v1/audio/speech", json!({}), "/v1/audio/speech"),
    ] {
        let answer = ask(&proxy, path, &body);
        let error = &answer.json()["error"];
        assert_eq!(answer.status, 400, "{path} {}", answer.text());
        assert_eq!((&error["param"], &error["code"]), (&param.into(), &"untranslatable".into()), "{error}");
        assert!(error["message"].as_str().unwrap().starts_with(&format!("`{param}` ")), "{error}");
        let record = proxy.record();
        assert_eq!((&record["error"], &record["attempts"]), (&"untranslatable".into(), &json!([])), "{record}");
    }
    assert_eq!(ask(&proxy, "/v1/chat/completions", &hello(&json!({}))).status, 200);
    assert_eq!(fleet.rows(1).len(), 1, "the only one that was sent");
    assert_eq!(ask(&proxy, "/v1/models", &json!({})).status, 405);
}

#[test]
fn errors_come_back_in_the_clients_words() {
    let fleet = Fleet::start(FLEET);
    let proxy = before_fleet(&fleet);
    let patch: Patch = serde_json::from_value(json!({"error_rate": 1.0})).unwrap();
    fleet.handle.control("aws/eu-north-1", &patch).unwrap();
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({})));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["type"], &error["code"]), (500, &"server_error".into(), &"InternalServerException".into()));
    let peer = Peer::start(|_, stream| {
        let fields = "content-type: application/json\r\nx-amzn-errortype: ModelErrorException:http://x/\r\n";
        respond(stream, "424 Failed Dependency", fields, br#"{"message":"the model is ill","originalStatusCode":500}"#);
        Then::Next
    });
    let proxy = Harness::start(&[("bedrock", peer.address, BEDROCK)], "dialect: openai");
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({"stream": true})));
    assert_eq!(answer.status, 502);
    let expected = json!({"message": "the model is ill", "type": "server_error", "param": null, "code": "ModelErrorException"});
    assert_eq!((answer.json()["error"].clone(), answer.field("content-type")), (expected, Some("application/json")));
    let seen = peer.next();
    assert_eq!(
        (seen.target(), seen.field("accept")),
        ("/base/model/a.claude/converse-stream", Some("application/vnd.amazon.eventstream"))
    );
    assert_eq!((seen.field("authorization"), seen.json().get("model")), (None, None));
}

/// For clients of Anthropic's API, and of Bedrock's own.
fn for_anthropic(fleet: &Fleet) -> Harness {
    let claude = "{ name: claude, match: { headers: { anthropic-version: '*' } }, dialect: anthropic, backends: [bedrock] }";
    before(fleet, "[openai, anthropic]", &format!("[{claude}, {{ name: native, match: {{ path: / }}, backends: [bedrock] }}]"))
}

fn ask_claude(proxy: &Harness, path: &str, body: &Value) -> Answer {
    let mut client = Client::connect(proxy.address);
    let fields = "x-mock-output-tokens: 7\r\nx-api-key: sk-ant\r\nanthropic-version: 2023-06-01\r\nanthropic-beta: one,two\r\n";
    client.post(path, fields, &body.to_string());
    client.answer()
}

fn claude(more: &Value) -> Value {
    let mut body = hello(more);
    body["max_tokens"] = 64.into();
    body["messages"].as_array_mut().unwrap().remove(0);
    body
}

#[test]
fn messages_are_answered_by_invoke_model() {
    let fleet = Fleet::start(FLEET);
    let proxy = for_anthropic(&fleet);
    let answer = ask_claude(&proxy, "/v1/messages?beta=true", &claude(&json!({})));
    assert_eq!((answer.status, answer.json()["type"].as_str()), (200, Some("message")), "{}", answer.text());
    assert_eq!(answer.json()["usage"]["output_tokens"], 7);
    assert!(answer.field("request-id").is_some() && answer.field("content-length").is_some(), "it passes as it is");
    let record = proxy.record();
    assert_eq!((&record["gen_ai.usage.output_tokens"], &record["usage_source"]), (&7.into(), &"reported".into()), "{record}");
    let tools = json!([{"name": "speak", "input_schema": {"type": "object"}}]);
    for tool in [false, true] {
        let more =
            if tool { json!({"stream": true, "tools": tools, "tool_choice": {"type": "any"}}) } else { json!({"stream": true}) };
        let answer = ask_claude(&proxy, "/v1/messages", &claude(&more));
        let text = answer.text();
        assert_eq!(answer.field("content-type"), Some("text/event-stream; charset=utf-8"), "{text}");
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!((names.first(), names.last()), (Some(&"message_start"), Some(&"message_stop")));
        let pieces: Vec<Value> = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(json_of).collect();
        let member = if tool { "partial_json" } else { "text" };
        let said: String = pieces.iter().filter_map(|piece| piece["delta"][member].as_str()).collect();
        let words = if tool { json_of(&said)["words"].as_str().unwrap().to_owned() } else { said };
        assert_eq!(words.split(' ').count(), 7);
        let record = proxy.record();
        assert_eq!((&record["gen_ai.usage.output_tokens"], &record["ended"]), (&7.into(), &"complete".into()), "{record}");
    }
    let paths: Vec<String> = fleet.rows(3).into_iter().map(|(path, _)| path).collect();
    let there = "/model/a.claude/invoke-with-response-stream";
    assert_eq!(paths, ["/model/a.claude/invoke", there, there]);
}

/// What nobody here has heard of is said to Bedrock as it was written, and what that says of it to the client.
#[test]
fn what_messages_may_learn_to_say_is_bedrocks_to_judge_and_never_dropped() {
    let peer = Peer::start(|seen, stream| {
        let named = seen.json().get("brand_new").is_some();
        let body: &[u8] = if named { br#"{"message":"brand_new: Extra inputs are not permitted"}"# } else { b"{}" };
        let fields = "content-type: application/json\r\nx-amzn-errortype: ValidationException\r\n";
        respond(stream, if named { "400 Bad Request" } else { "200 OK" }, fields, body);
        Then::Next
    });
    let proxy = Harness::start(&[("bedrock", peer.address, &BEDROCK.replace("openai", "anthropic"))], "dialect: anthropic");
    let answer = ask_claude(&proxy, "/v1/messages", &claude(&json!({"brand_new": {"a": [1.50, "x"]}})));
    let error = json!({"type": "invalid_request_error", "message": "brand_new: Extra inputs are not permitted"});
    assert_eq!((answer.status, &answer.json()["error"]), (400, &error));
    assert!(String::from_utf8(peer.next().body).unwrap().contains(r#""brand_new":{"a":[1.5,"x"]}"#));
}

#[test]
fn what_claude_cannot_be_asked_there_is_refused_in_anthropics_words() {
    let fleet = Fleet::start(FLEET);
    let proxy = for_anthropic(&fleet);
    for (path, body, message) in [
        ("/v1/messages", claude(&json!({"inference_geo": "us"})), "`inference_geo` has no counterpart in Bedrock's InvokeModel"),
        (
            "/v1/messages/count_tokens",
            claude(&json!({})),
            "`/v1/messages/count_tokens` is a call that is not translated for the backend that would serve it",
        ),
    ] {
        let answer = ask_claude(&proxy, path, &body);
        let expected = json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}});
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
    let native = ask(&proxy, "/model/claude/converse", &json!({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}));
    assert_eq!(native.status, 200, "its own clients are served beside them: {}", native.text());
    let peer = Peer::start(|_, stream| {
        respond(
            stream,
            "429 Too Many Requests",
            "content-type: application/json\r\nretry-after: 3\r\n",
            br#"{"message":"slow"}"#,
        );
        Then::Next
    });
    let proxy = Harness::start(&[("bedrock", peer.address, &BEDROCK.replace("openai", "anthropic"))], "dialect: anthropic");
    let answer = ask_claude(&proxy, "/v1/messages", &claude(&json!({"stream": true})));
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("3")));
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    let seen = peer.next();
    assert_eq!((seen.field("anthropic-version"), seen.field("anthropic-beta"), seen.field("x-api-key")), (None, None, None));
    let body = seen.json();
    assert_eq!((&body["anthropic_version"], &body["anthropic_beta"]), (&"bedrock-2023-05-31".into(), &json!(["one", "two"])));
    assert!(body.get("model").is_none() && body.get("stream").is_none() && body["max_tokens"] == 64);
}

/// A frame as Bedrock sends it.
fn begin_frames(stream: &mut TcpStream) {
    use std::io::Write as _;
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head);
    chunk(stream, &frame("event", "messageStart", &json!({"role": "assistant"})));
    chunk(stream, &frame("event", "contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "One"}})));
}

#[test]
fn a_stream_that_breaks_is_a_broken_one_here_too() {
    let stopped = || frame("event", "messageStop", &json!({"stopReason": "end_turn"}));
    let odd = || frame("event", "contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"citation": {}}}));
    for (what, error) in
        [("cut", Value::Null), ("early", "untranslatable_answer".into()), ("odd", "untranslatable_answer".into())]
    {
        let peer = Peer::start(move |_, stream| {
            begin_frames(stream);
            match what {
                "early" => end_chunks(stream),
                "odd" => {
                    chunk(stream, &odd());
                    chunk(stream, &stopped());
                    end_chunks(stream);
                }
                _ => {}
            }
            Then::Close
        });
        let proxy = Harness::start(&[("bedrock", peer.address, BEDROCK)], "dialect: openai");
        let mut client = Client::connect(proxy.address);
        client.post("/v1/chat/completions", "", &hello(&json!({"stream": true})).to_string());
        let text = client.read_to_end();
        assert!(text.contains(r#""content":"One""#), "{what}: {text}");
        assert!(!text.contains("[DONE]") && !text.ends_with("0\r\n\r\n"), "{what}: {text}");
        let record = proxy.record();
        assert_eq!((&record["ended"], &record["error"]), (&"upstream_broke".into(), &error), "{what}: {record}");
    }
}

/// The failures in a row that the backend is booked for.
fn failures(proxy: &Harness) -> Value {
    proxy.backend("bedrock")["failures"].clone()
}

#[test]
fn an_answer_that_cannot_be_read_is_none_from_its_head_on() {
    for (fields, stream) in [
        ("content-type: text/html\r\n", false),
        ("content-type: application/json\r\n", true),
        ("content-type: application/json\r\ncontent-encoding: gzip\r\n", false),
    ] {
        let peer = Peer::start(move |_, stream| {
            respond(stream, "200 OK", fields, b"<html>");
            Then::Next
        });
        let proxy = Harness::start(&[("bedrock", peer.address, BEDROCK)], "dialect: openai");
        let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({"stream": stream})));
        assert_eq!((answer.status, answer.field("content-type")), (502, Some("application/json")), "{fields}");
        assert_eq!((&answer.json()["error"]["code"], answer.field("content-encoding")), (&"bad_gateway".into(), None));
        let record = proxy.record();
        assert_eq!((&record["error"], &record["attempts"][0]["status"]), (&"bad_gateway".into(), &200.into()), "{record}");
        assert_eq!(failures(&proxy), 1, "{fields}");
    }
}

#[test]
fn a_model_that_failed_is_a_failure_of_its_backend() {
    for (status, told) in [("424 Failed Dependency", 502), ("408 Request Timeout", 504), ("400 Bad Request", 400)] {
        let peer = Peer::start(move |_, stream| {
            respond(stream, status, "content-type: application/json\r\ncontent-encoding: br\r\n", br#"{"message":"odd"}"#);
            Then::Next
        });
        let proxy = Harness::start(&[("bedrock", peer.address, BEDROCK)], "dialect: openai");
        let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({})));
        assert_eq!((answer.status, answer.field("content-encoding")), (told, None), "{status}");
        assert_eq!(answer.json()["error"]["message"], "odd");
        proxy.record();
        assert_eq!(failures(&proxy), u64::from(told >= 500), "{status}");
    }
}

#[test]
fn an_exception_in_a_stream_is_an_error_event() {
    let peer = Peer::start(|_, stream| {
        begin_frames(stream);
        chunk(stream, &frame("exception", "throttlingException", &json!({"message": "Too fast."})));
        end_chunks(stream);
        Then::Next
    });
    let proxy = Harness::start(&[("bedrock", peer.address, BEDROCK)], "dialect: openai");
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({"stream": true})));
    let events = events(&answer);
    let error = &json_of(events.last().unwrap())["error"];
    assert_eq!((&error["message"], &error["type"]), (&"Too fast.".into(), &"rate_limit_error".into()));
    assert_eq!(proxy.record()["error"], "backend_error_event");
    // Which is a refusal for the next one.
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({})));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &"no_candidate".into()));
    assert!(answer.field("retry-after").is_some());
}

#[test]
fn who_speaks_the_clients_dialect_gets_its_own_bytes_whoever_was_asked_before() {
    let full = |_: &_, stream: &mut TcpStream| {
        respond(stream, "503 Service Unavailable", "content-type: application/json\r\n", br#"{"message":"full"}"#);
        Then::Next
    };
    let (bedrock, native) = (Peer::start(full), Peer::answering("200 OK", r#"{"object":"chat.completion"}"#));
    let backends = [("bedrock", bedrock.address, BEDROCK), ("native", native.address, NATIVE)];
    let proxy = Harness::start(&backends, "policy: in_order");
    let body = "{ \"model\" : \"claude\", \"messages\":[{\"role\":\"user\",\"content\":\"hi\\u00e9\"}] }";
    let mut client = Client::connect(proxy.address);
    client.post("/v1/chat/completions", "accept: text/plain\r\nx-own: 1\r\n", body);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"object":"chat.completion"}"#));
    let (there, here) = (bedrock.next(), native.next());
    assert_eq!(there.json(), json!({"messages": [{"role": "user", "content": [{"text": "hi\u{e9}"}]}]}));
    assert_eq!((there.target(), there.field("accept")), ("/base/model/a.claude/converse", Some("application/json")));
    assert_eq!((here.target(), std::str::from_utf8(&here.body).unwrap()), ("/base/chat/completions", body));
    assert_eq!((here.field("accept"), here.field("x-own")), (Some("text/plain"), Some("1")));
    // When both are full, the client is told by whom it understands.
    let second = Peer::start(full);
    let backends = [("bedrock", second.address, BEDROCK), ("gone", Peer::nobody(), NATIVE)];
    let proxy = Harness::start(&backends, "policy: in_order");
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({})));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["message"], &error["type"]), (503, &"full".into(), &"service_unavailable_error".into()));
}

#[test]
fn who_cannot_be_asked_in_its_words_is_no_candidate() {
    let (bedrock, native) = (Peer::answering("200 OK", "{}"), Peer::answering("200 OK", "{}"));
    let backends = [("bedrock", bedrock.address, BEDROCK), ("native", native.address, NATIVE)];
    let proxy = Harness::start(&backends, "policy: in_order");
    let answer = ask(&proxy, "/v1/chat/completions", &hello(&json!({"seed": 7})));
    assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some("native")));
    let record = proxy.record();
    let verdicts: Vec<&str> =
        record["decision"]["candidates"].as_array().unwrap().iter().map(|it| it["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["untranslatable", "chosen"]);
    assert_eq!(ask(&proxy, "/v1/embeddings", &json!({"model": "claude", "input": "x"})).status, 200);
    assert_eq!(ask(&proxy, "/v1/files", &json!({})).status, 200, "home is who needs no translation");
    assert!(!bedrock.saw_more());
}

#[test]
fn an_answer_that_there_is_no_room_to_hold_is_cut_and_blames_nobody() {
    // Half of a pair stands for no character, and passes as the model wrote it.
    let whole = |text: &str| {
        let content = format!(
            r#"{{"output":{{"message":{{"content":[{{"text":"{text}"}},{{"text":"\ud83d"}}]}}}},"stopReason":"end_turn","#
        );
        content + r#""usage":{"inputTokens":3,"outputTokens":4}}"#
    };
    let (long, short) = (whole(&"wind ".repeat(60_000)), whole("wind"));
    let peer = Peer::start(move |seen, stream| {
        let is_long = seen.json()["messages"][0]["content"][0]["text"] == "long";
        respond(stream, "200 OK", "content-type: application/json\r\n", if is_long { &long } else { &short }.as_bytes());
        Then::Next
    });
    let backends = [("bedrock", peer.address, BEDROCK), ("spare", Peer::nobody(), BEDROCK)];
    let proxy = Harness::of(|log| {
        text(log, "limits: { body: 64KiB, buffered: 200KiB }", &backends, "dialect: openai\n    policy: in_order")
    });
    for (prompt, error, ended) in [
        ("long", json!("no_room_to_translate"), "upstream_broke"),
        ("short", Value::Null, "complete"),
        ("long", json!("no_room_to_translate"), "upstream_broke"),
    ] {
        let mut client = Client::connect(proxy.address);
        let body = json!({"model": "claude", "messages": [{"role": "user", "content": prompt}]});
        client.post("/v1/chat/completions", "connection: close\r\n", &body.to_string());
        let seen = client.read_to_end();
        assert_eq!(seen.contains(r#""content":"wind\ud83d""#), prompt == "short", "{seen}");
        let record = proxy.record();
        assert_eq!(
            (&record["error"], &record["ended"], &record["backend"]),
            (&error, &ended.into(), &"bedrock".into()),
            "{record}"
        );
    }
    assert_eq!(proxy.backend("bedrock")["failures"], 0);
}
