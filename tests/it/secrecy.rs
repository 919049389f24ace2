//! What passes through is nobody's business: with everything switched on that can be said, nothing that is said holds a key, a
//! prompt, a completion or a query.
//!
//! Two proxies as a person starts them stand one behind the other, so that both sides of both versions of HTTP are seen; then one in
//! front of a backend of every dialect, with every kind of credential that there is, and with a feed and a replica of its own.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::bedrock::signed;
use super::process::{Program, windward};
use super::support::frames::frames;
use super::support::peer::{Then, begin_events, chunk, end_chunks, respond};
use super::support::{Answer, Client, Peer};

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
const FEED_TOKEN: &str = "feed-SECRET-11";
const PEERS_KEY: &str = "peers-SECRET-12-that-is-long";
const PROGRAMS_TOKEN: &str = "program-SECRET-13";
const FILES_TOKEN: &str = "file-SECRET-14";
/// The id of a key that clients may sign with, which is no secret.
const KEY_ID: &str = "WWTEAM";
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

/// What all secrets have in common, in every form in which somebody may have written it: as text, in base64 with whatever before it, as
/// hexadecimal digits, and as a list of bytes.
fn forms() -> Vec<String> {
    let coded = (0..3).map(|before| {
        let text = STANDARD.encode([&[0; 2][..before], SECRET.as_bytes()].concat());
        text[(8 * before).div_ceil(6)..(8 * (before + SECRET.len())) / 6].to_owned()
    });
    let bytes: Vec<String> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    let digits: Vec<String> = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let digits = digits.concat();
    coded.chain([SECRET.to_owned(), digits.to_uppercase(), digits, bytes.join(", "), bytes.join(",")]).collect()
}

fn are_bare(lines: &[String]) {
    let forms = forms();
    for line in lines {
        assert!(!forms.iter().any(|form| line.contains(form)), "{line}");
    }
}

#[test]
fn a_secret_is_known_in_every_form() {
    for said in
        ["a SECRET-1".to_owned(), format!("{:?}", b"SECRET"), format!("{:?}", b"xSECRET".to_vec()), STANDARD.encode("abSECRET-1")]
    {
        assert!(forms().iter().any(|form| said.contains(form)), "{said}");
    }
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
        if seen.target().starts_with("/feed/") {
            respond(
                stream,
                "401 No",
                "",
                format!(r#"{{"error":"{}"}}"#, seen.field("auth-token").unwrap_or_default()).as_bytes(),
            );
            return Then::Close;
        }
        if seen.field("upgrade").is_some() {
            let _ = stream.write_all(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            let _ = stream.write_all(COMPLETION.as_bytes());
            return Then::Close;
        }
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
    are_bare(&shown);
}

/// A backend of every dialect and every kind of credential that is the gateway's own.
fn of_every_kind(folder: &Path, peer: &Peer) -> String {
    let at = peer.address;
    let token = folder.join("token");
    std::fs::write(&token, FILES_TOKEN).unwrap();
    format!(
        "keys: [{{ name: team, secret: '${{CLIENT_KEY}}', access_key_id: {KEY_ID} }}]
peers: {{ listen: 127.0.0.1:0, others: ['127.0.0.1:9'], secret: {PEERS_KEY}, fast: 10ms, slow: 50ms }}
carbon: {{ sources: [ {{ electricity_maps: {{ base_url: 'http://{at}/feed/v4', token: {FEED_TOKEN}, interval: 10ms }} }}, builtin ] }}
policies: [{{ name: in_order, objective: listed_order }}]
backends:
  - {{ name: claude, url: 'http://{at}/anthropic', dialect: anthropic, region: aws/eu-north-1, models: [m], auth: {{ header: {{ name: x-api-key, value: '${{BACKEND_KEY}}' }} }} }}
  - {{ name: azure, url: 'http://{at}/openai', dialect: azure-openai, api_version: 2024-10-21, region: azure/swedencentral, models: [m], auth: {{ bearer: {{ command: [echo, {PROGRAMS_TOKEN}] }} }} }}
  - {{ name: google, url: 'http://{at}/v1/projects/p/locations/europe-north1/publishers/google', dialect: gemini, region: gcp/europe-north1, models: [m], auth: {{ bearer: {{ file: {} }} }} }}
  - {{ name: amazon, url: 'http://{at}', dialect: bedrock, region: aws/eu-north-1, models: [m], auth: {{ sigv4: {{ access_key_id: AKID, secret_access_key: {AWS_KEY}, session_token: {AWS_TOKEN} }} }} }}
  - {{ name: none, url: 'http://{at}/v1', region: aws/eu-north-1, models: [m], auth: {{ bearer: {{ command: [sh, -c, 'echo {PROGRAMS_TOKEN}; echo {PROGRAMS_TOKEN} >&2; exit 3'] }} }} }}
  - {{ name: model, url: 'http://{at}/v1', region: aws/eu-north-1, models: [m], auth: {{ header: {{ name: x-own, value: '${{BACKEND_KEY}}' }} }} }}
routes:
  - {{ name: claude, match: {{ path: /claude }}, backends: [claude] }}
  - {{ name: azure, match: {{ path: /openai }}, backends: [azure] }}
  - {{ name: google, match: {{ path: /v1beta }}, backends: [google] }}
  - {{ name: amazon, match: {{ path: / }}, backends: [amazon] }}
  - {{ name: open, match: {{ path: /v1 }}, backends: [none, model], policy: in_order, home: model }}
",
        token.display()
    )
}

/// A call of each API, and what else goes to their backends.
const TARGETS: [&str; 12] = [
    "/claude/messages",
    "/claude/messages/count_tokens",
    "/claude/files",
    "/openai/deployments/m/chat/completions",
    "/v1beta/models/m:generateContent",
    "/v1beta/models/m:streamGenerateContent",
    "/v1beta/models/m:countTokens",
    "/model/m/converse",
    "/model/m/converse-stream",
    "/model/m/invoke",
    "/v1/chat/completions",
    "/v1/files",
];

/// A query with every kind of parameter that holds a credential.
fn query() -> String {
    format!("key={QUERY}&access_token={QUERY}&X-Amz-Security-Token={QUERY}&X-Amz-Signature={QUERY}&sig={QUERY}")
}

/// Calls of every API, by every way to show a key and in every way to fail; gives what the proxy says itself.
fn calls(address: &str, before: &str) -> Vec<String> {
    let (query, mut shown) = (query(), Vec::new());
    let mut post = |address: &str, target: &str, fields: &str, body: &str| {
        let more = format!("cookie: {COOKIE}\r\nproxy-authorization: Basic {COOKIE}\r\nx-amz-security-token: {COOKIE}\r\n");
        let head = format!("POST {target} HTTP/1.1\r\nhost: windward.test\r\ncontent-type: application/json\r\n{fields}");
        let answer = ask(address, &format!("{head}{more}content-length: {}\r\n\r\n{body}", body.len()));
        // What a backend answers is the client's.
        shown.extend(answer.filter(|answer| answer.field("x-windward-backend").is_none()).map(|answer| answer.text()));
    };
    for target in TARGETS {
        for more in ["", r#","stream":true"#, r#","cut":1"#, r#","garbage":1"#, r#","fails":1"#, r#","model":7"#, "oops"] {
            let said = format!(r#""messages":[{{"role":"user","content":"{PROMPT}"}}],"max_tokens":9{more}"#);
            let model = if target.starts_with("/model/") { "" } else { r#""model":"m","# };
            let body = format!("{{{model}{said}}}");
            for fields in [
                format!("authorization: Bearer {CLIENT_KEY}\r\n"),
                format!("x-api-key: {CLIENT_KEY}\r\n"),
                format!("api-key: {CLIENT_KEY}\r\nauthorization: Bearer {WRONG_KEY}\r\n"),
                format!("x-goog-api-key: {CLIENT_KEY}\r\n"),
            ] {
                post(address, &format!("{target}?{query}"), &fields, &body);
                if target.starts_with("/v1/") {
                    post(before, &format!("{target}?{query}"), &fields, &body);
                }
            }
            // A signature holds no key, but it may be over fields that do.
            let with_cookie = signed(CLIENT_KEY, target, &body).replace("content-type;host", "content-type;cookie;host");
            assert!(with_cookie.contains(";cookie;"));
            post(address, target, &with_cookie, &body);
            for key in [CLIENT_KEY, WRONG_KEY] {
                post(address, target, &signed(key, target, &body), &body);
            }
            post(address, &format!("{target}?{query}"), &format!("authorization: AWS4-HMAC-SHA256 {WRONG_KEY}\r\n"), &body);
        }
    }
    shown
}

/// Configurations that are wrong beside a secret, one after another; gives what the admin address says of each.
fn slips(file: &Path, admin: &str) -> Vec<String> {
    let (good, mut shown) = (std::fs::read_to_string(file).unwrap(), Vec::new());
    for (from, to) in [
        ("secret: peers", "secert: peers"),
        (FEED_TOKEN, &*format!("[{FEED_TOKEN}]")),
        ("'${CLIENT_KEY}', access", &*format!("'{CLIENT_KEY}', sha256: {CLIENT_KEY}, access")),
        ("secret: '${CLIENT_KEY}'", &*format!("sha256: {CLIENT_KEY}")),
        ("http://127", &*format!("http://user:{BACKEND_KEY}@127")),
        ("session_token: ", "session_token: { "),
        ("${BACKEND_KEY}", &*format!("{BACKEND_KEY}${{")),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(file, good.replacen(from, to, 1)).unwrap();
        let answer = ask(admin, "POST /reload HTTP/1.1\r\nhost: w\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert_eq!(answer.status, 422, "{from}: {}", answer.text());
        shown.push(answer.text());
        for page in ["/status", "/metrics", "/"] {
            shown.push(ask(admin, &format!("GET {page} HTTP/1.1\r\nhost: w\r\n\r\n")).unwrap().text());
        }
    }
    shown
}

#[test]
fn nor_does_it_of_any_api_or_of_what_it_asks_for_itself() {
    let (folder, peer) = (tempfile::tempdir().unwrap(), backend());
    let every = of_every_kind(folder.path(), &peer);
    let (mut every, address, admin) = serve(folder.path(), "every", &every);
    // What is passed on is said to the next one with all that a client showed.
    let before = format!(
        "backends: [{{ name: every, url: 'http://{address}/v1', region: aws/eu-north-1, protocol: http2, models: [m], auth: pass_through }}]\n"
    );
    let (before, before_address, _) = serve(folder.path(), "before", &before);
    let mut shown = calls(&address, &before_address);
    let mut tunnel = Client::connect(address.parse().unwrap());
    let head = format!("GET /claude/realtime?{} HTTP/1.1\r\nhost: w\r\nauthorization: Bearer {CLIENT_KEY}\r\n", query());
    tunnel.send(format!("{head}connection: upgrade\r\nupgrade: websocket\r\n\r\n{PROMPT}").as_bytes());
    assert!(tunnel.read_to_end().ends_with(COMPLETION));
    every.wait_for(|line| line.contains(r#""url.path":"/claude/realtime""#).then_some(()));
    shown.extend(slips(&folder.path().join("every.yaml"), &admin));

    let (_, lines) = every.stop();
    for backend in ["claude", "azure", "google", "amazon", "model"] {
        let named = format!(r#""backend":"{backend}""#);
        let answered = |line: &String| line.contains(&named) && line.contains(r#""ended":"complete""#);
        assert!(lines.iter().any(answered), "{backend} was never asked: {}", lines.join("\n"));
    }
    for said in ["invalid_signature", "exit status: 3", "electricity"] {
        assert!(lines.iter().any(|line| line.contains(said)), "it says nothing of `{said}`");
    }
    shown.extend(lines);
    let (_, lines) = before.stop();
    assert!(lines.iter().any(|line| line.contains(r#""ended":"complete""#)), "what it passed on was taken");
    shown.extend(lines);
    are_bare(&shown);
}
