//! What the benchmarks are fed: made here, in sizes that a count can be named after, so that nobody's traffic is in the repository.

use bytes::Bytes;
use windward::backend::BackendId;
use windward::config::{self, Env, Files, Plan};
use windward::decide::{Candidate, Standing};
use windward::estimate::Estimate;
use windward::units::{Grams, GramsPerKwh, Joules, Millis};

/// Bytes of the pieces in which a long body is looked at: between the 16 KiB that are read with its head and the 256 KiB of later reads.
pub const READ_BYTES: usize = 64 << 10;

/// A chat request of so many bytes, as the official SDKs write it: the model comes behind the messages. `stream` asks for a stream
/// without its usage.
pub fn request(bytes: usize, stream: bool) -> Vec<u8> {
    const TURN: &str = "The quick brown fox jumps over the lazy dog, \\\"while\\\" the grid runs on wind.\\n";
    let head = r#"{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":""#;
    let tail = format!(r#""}}],"model":"gpt-4o","max_tokens":256,"temperature":0.7,"stream":{stream}}}"#);
    let mut body = head.to_owned();
    while body.len() + TURN.len() + tail.len() <= bytes {
        body.push_str(TURN);
    }
    body.push_str(&" ".repeat(bytes - body.len() - tail.len()));
    body.push_str(&tail);
    body.into_bytes()
}

/// A whole request of so many bytes, with the twelve fields of the official Python SDK.
pub fn message(bytes: usize) -> Vec<u8> {
    let head = |length: usize| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example.com\r\nAccept-Encoding: gzip, deflate\r\n\
             Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
             User-Agent: OpenAI/Python 2.8.1\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.8.1\r\n\
             X-Stainless-Runtime: CPython\r\nAuthorization: Bearer sk-0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCD\r\n\
             X-Stainless-Async: false\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let length = bytes - head(1000).len();
    [head(length).into_bytes(), request(length, true)].concat()
}

/// The same body in pieces as they are read.
pub fn pieces(body: Vec<u8>) -> Vec<Bytes> {
    body.chunks(READ_BYTES).map(Bytes::copy_from_slice).collect()
}

/// A stream of `events` deltas, the usage and the end, each event a piece of its own, as it leaves a model.
pub fn stream(events: usize) -> Vec<Bytes> {
    const HEAD: &str = r#"data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o","system_fingerprint":"fp_44709","choices":["#;
    let mut pieces: Vec<Bytes> = (0..events)
        .map(|_| {
            format!("{HEAD}{{\"index\":0,\"delta\":{{\"content\":\" wind\"}},\"finish_reason\":null}}],\"usage\":null}}\n\n")
                .into()
        })
        .collect();
    pieces.push(
        format!(
            "{HEAD}],\"usage\":{{\"prompt_tokens\":312,\"completion_tokens\":{events},\"total_tokens\":{}}}}}\n\n",
            312 + events
        )
        .into(),
    );
    pieces.push(Bytes::from_static(b"data: [DONE]\n\n"));
    pieces
}

/// So many candidates within the budget, each on a grid of its own; every fourth is full, every fifth has unknown carbon.
pub fn candidates(count: u16) -> Vec<Candidate> {
    (0..count)
        .map(|id| {
            let intensity = (id % 5 != 4).then(|| 20.0 + f64::from(id * 37 % 500));
            Candidate {
                backend: BackendId(id),
                estimate: Estimate {
                    prompt_tokens: 312,
                    known_tokens: 0,
                    cached_tokens: 0,
                    output_tokens: 200,
                    first_token: Millis::saturating(200.0 + f64::from(id * 53 % 700)),
                    queue: Millis::ZERO,
                    per_output_token: Millis::saturating(20.0),
                    total: Millis::saturating(4000.0),
                    energy: Joules::saturating(656.0),
                    intensity: intensity.map(GramsPerKwh::saturating),
                    emissions: intensity.map(|grams| Grams::saturating(grams * 656.0 / 3.6e6)),
                    cost: None,
                    in_flight: u32::from(id % 3),
                    limit: 64,
                    price: Grams::ZERO,
                },
                standing: if id % 4 == 3 { Standing::NoCapacity } else { Standing::Ready },
                weight: 1,
            }
        })
        .collect()
}

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// A plan of one route and so many backends, each on one of four grids.
pub fn plan(count: u16) -> Plan {
    let one = |name: u16| {
        let zone = ["SE-SE3", "FR", "DE", "PL"][usize::from(name % 4)];
        format!("  - {{ name: b{name}, url: \"http://127.0.0.1:1/v1\", grid_zone: {zone}, models: [m] }}\n")
    };
    let backends: String = (0..count).map(one).collect();
    let names: Vec<String> = (0..count).map(|name| format!("b{name}")).collect();
    let text = format!("routes: [{{ name: r, backends: [{}] }}]\nbackends:\n{backends}", names.join(", "));
    config::load("bench.yaml", &text, &Env::default(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}")).plan
}
