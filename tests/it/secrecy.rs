//! What passes through is nobody's business: with everything switched on that can be said, nothing that is said holds a key, a
//! prompt, a completion or a query.
//!
//! Two proxies as a person starts them stand one behind the other, so that both sides of both versions of HTTP are seen.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::process::{Program, windward};
use super::support::peer::{Then, begin_events, chunk, end_chunks, respond};
use super::support::{Answer, Client, Peer};
use super::translate::frames;

const CLIENT_KEY: &str = "sk-client-SECRET-1";
const MIDDLE_KEY: &str = "sk-middle-SECRET-2";
const BACKEND_KEY: &str = "sk-backend-SECRET-3";
const WRONG_KEY: &str = "sk-wrong-SECRET-4";
const PROMPT: &str = "prompt-SECRET-5";
const COMPLETION: &str = "completion-SECRET-6";
const QUERY: &str = "query-SECRET-7";
const COOKIE: &str = "cookie-SECRET-8";
const AWS_KEY: &str = "aws-SECRET-9";
const AWS_TOKEN: &str = "session-SECRET-10";
/// Any address, the access log where it is seen, and no waiting at the end.
const QUICK: &str = "listeners: [{ address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
log: { access: '-' }
limits: { drain_delay: 1ms }
";
/// What all of them have in common.
const SECRET: &str = "SECRET";

/// A proxy with its output at its most talkative, the access log included; gives where it listens, and its admin address.
fn serve(folder: &Path, name: &'static str, configuration: &str) -> (Program, String, String) {
    let file = folder.join(name).with_extension("yaml");
    std::fs::write(&file, format!("{QUICK}{configuration}")).unwrap();
    let mut command: Command = windward(["serve", "--json", "--verbosity", "trace", "-c"]);
    command.arg(&file).env("RUST_LOG", "trace").env("CLIENT_KEY", CLIENT_KEY).env("BACKEND_KEY", BACKEND_KEY);
    let mut proxy = Program::start(name, &mut command);
    let mut address = |message: &str| {
        proxy.wait_for(|line| {
            let said: serde_json::Value = serde_json::from_str(line).ok()?;
            (said["message"] == message).then(|| said["address"].as_str().map(str::to_owned)).flatten()
        })
    };
    let (listening, admin) = (address("listening"), address("admin"));
    (proxy, listening, admin)
}

/// The same of Bedrock's, behind a translation.
fn bedrock(body: &str, stream: &mut TcpStream) -> Then {
    let answer = format!(
        r#"{{"output":{{"message":{{"content":[{{"text":"{COMPLETION}"}}]}}}},"stopReason":"end_turn","usage":{{"inputTokens":1,"outputTokens":1}}}}"#
    );
    match () {
        () if body.contains("events") => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes());
            let said = format!(
                "{{\"event\":\"messageStart\",\"payload\":{{\"role\":\"assistant\"}}}}\n\
                 {{\"event\":\"contentBlockDelta\",\"payload\":{{\"delta\":{{\"text\":\"{COMPLETION}\"}},\"contentBlockIndex\":0}}}}\n\
                 {{\"exception\":\"throttlingException\",\"payload\":{{\"message\":\"{COMPLETION}\"}}}}"
            );
            chunk(stream, &frames(said.as_bytes()));
            end_chunks(stream);
        }
        () if body.contains("odd") => respond(stream, "200 OK", "content-type: application/json\r\n", COMPLETION.as_bytes()),
        () if body.contains("fails") => {
            let message = format!(r#"{{"message":"{COMPLETION}"}}"#);
            respond(stream, "400 No", "x-amzn-errortype: ValidationException\r\n", message.as_bytes());
        }
        () => respond(stream, "200 OK", "content-type: application/json\r\n", answer.as_bytes()),
    }
    Then::Next
}

/// A backend that says its secret in every way that it can.
fn backend() -> Peer {
    Peer::start(|seen, stream| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        if seen.target().starts_with("/model/") {
            return bedrock(&body, stream);
        }
        if body.contains("stream") {
            begin_events(stream);
            chunk(stream, format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{COMPLETION}\"}}}}]}}\n\n").as_bytes());
            chunk(stream, format!("data: {{\"error\":{{\"message\":\"{COMPLETION}\"}}}}\n\n").as_bytes());
            end_chunks(stream);
            return Then::Next;
        }
        match () {
            () if body.contains("garbage") => respond(stream, COMPLETION, &format!("{COMPLETION}\r\n"), b""),
            () if body.contains("cut") => respond(stream, "200 OK", "content-length: 1000\r\n", COMPLETION.as_bytes()),
            () if body.contains("fails") => {
                respond(stream, "500 Oh", &format!("set-cookie: {COMPLETION}\r\n"), COMPLETION.as_bytes());
                return Then::Next;
            }
            () => {
                let answer =
                    format!(r#"{{"choices":[{{"message":{{"content":"{COMPLETION}"}}}}],"usage":{{"prompt_tokens":1}}}}"#);
                respond(stream, "200 OK", "content-type: application/json\r\n", answer.as_bytes());
                return Then::Next;
            }
        }
        Then::Close
    })
}

fn ask(address: &str, request: &str) -> Option<Answer> {
    let mut client = Client::connect(address.parse().unwrap());
    client.send(request.as_bytes());
    client.try_answer()
}

fn post(address: &str, path: &str, key: &str, body: &str) -> Option<Answer> {
    let fields = format!(
        "authorization: Bearer {key}\r\ncookie: {COOKIE}\r\nx-api-key: {WRONG_KEY}\r\ncontent-length: {}\r\n",
        body.len()
    );
    ask(address, &format!("POST {path}?api_key={QUERY} HTTP/1.1\r\nhost: w\r\n{fields}\r\n{body}"))
}

#[test]
fn at_its_most_talkative_it_tells_no_secret() {
    let (folder, peer) = (tempfile::tempdir().unwrap(), backend());
    std::fs::write(folder.path().join("middle"), format!("{MIDDLE_KEY}\n")).unwrap();
    let inner = format!(
        "keys: [{{ name: outer, secret: {{ file: middle }} }}]
backends:
  - {{ name: model, url: 'http://{}', region: aws/eu-north-1, auth: {{ header: {{ name: api-key, value: '${{BACKEND_KEY}}' }} }}, models: [m] }}
  - {{ name: claude, url: 'http://{}', dialect: bedrock, translate: [openai], region: aws/eu-north-1, models: {{ claude: a.claude }}, auth: {{ sigv4: {{ access_key_id: AKID, secret_access_key: {AWS_KEY}, session_token: {AWS_TOKEN} }} }} }}
",
        peer.address, peer.address
    );
    let (inner, inner_address, inner_admin) = serve(folder.path(), "inner", &inner);
    let outer = format!(
        "keys: [{{ name: team, secret: '${{CLIENT_KEY}}' }}]
backends:
  - {{ name: inner, url: 'http://{inner_address}/v1', protocol: http2, region: aws/eu-north-1, auth: {{ bearer: {MIDDLE_KEY} }} }}
"
    );
    let (mut outer, address, outer_admin) = serve(folder.path(), "outer", &outer);

    let mut shown = Vec::new();
    for key in [CLIENT_KEY, WRONG_KEY] {
        for more in ["", r#","stream":true"#, r#","cut":1"#, r#","garbage":1"#, r#","fails":1"#, "oops"] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"model":"m"{more}}}"#);
            let answer = post(&address, "/v1/chat/completions", key, &body);
            // What a backend answers is the client's; what the proxy says itself has to be bare.
            shown.extend(answer.filter(|answer| answer.field("x-windward-backend").is_none()).map(|answer| answer.text()));
        }
        // Of these the third is refused for what no other API has a word for, and the last for what is given twice.
        for more in ["", r#","stream":true"#, r#","seed":1"#, r#","messages":[]"#] {
            for word in ["hello", "events", "odd", "fails"] {
                let body = format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT} {word}"}}],"model":"claude"{more}}}"#);
                let answer = post(&address, "/v1/chat/completions", key, &body);
                shown.extend(answer.filter(|answer| answer.field("x-windward-backend").is_none()).map(|answer| answer.text()));
            }
        }
        for path in ["/v1/files", "/v1/models", "/v1/models/none", "/elsewhere", "/v1/../x"] {
            let answer = post(&address, path, key, PROMPT);
            shown.extend(answer.filter(|answer| answer.field("x-windward-backend").is_none()).map(|answer| answer.text()));
        }
    }
    assert!(shown.len() > 15, "{shown:?}");
    // Not HTTP at all.
    ask(&address, &format!("{PROMPT} {QUERY}\r\n\r\n"));
    ask(&address, &format!("GET / HTTP/1.1\r\nauthorization Bearer {CLIENT_KEY}\r\n\r\n"));

    let file = folder.path().join("outer.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("bearer:", "beerer:").replace("name: team", "nmae: team")).unwrap();
    outer.wait_for(|line| line.contains("beerer").then_some(()));
    for admin in [&outer_admin, &inner_admin] {
        for request in ["GET /metrics", "GET /status", "GET /", "POST /reload"] {
            let answer = ask(admin, &format!("{request} HTTP/1.1\r\nhost: w\r\ncontent-length: 0\r\n\r\n")).unwrap();
            shown.push(answer.text());
        }
    }
    let (_, outer_lines) = outer.stop();
    let (_, inner_lines) = inner.stop();
    for lines in [&outer_lines, &inner_lines] {
        assert!(lines.iter().any(|line| line.contains(r#""level":"TRACE""#) && line.contains("h2::")), "it was not talkative");
        assert!(lines.iter().any(|line| line.contains(r#""url.path":"/v1/chat/completions""#)), "the access log is among it");
        assert!(lines.iter().any(|line| line.contains(r#""key":"#)), "with the names of keys");
    }
    assert!(inner_lines.iter().any(|line| line.contains(r#""error":"untranslatable"#)), "and what was translated");
    shown.extend(outer_lines);
    shown.extend(inner_lines);
    for line in shown {
        assert!(!line.contains(SECRET), "{line}");
    }
}
