//! The bodies of the fuzz targets as ordinary tests: recorded cases, mutated by a seeded source of chance.
//!
//! Fuzzing with coverage finds more (see `tests/fuzz`), but needs a nightly compiler and somebody who starts it; this runs always.
//! `WINDWARD_FUZZ_ROUNDS` asks for more rounds than the usual. A failure names its round, and the same round fails again.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fastrand::Rng;

#[path = "../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "there it is a library")]
mod bodies;

/// Rounds for each body: some seconds without optimisation, all in all.
const ROUNDS: u64 = 2000;

/// Longest input, in bytes. Mutation may double a case again and again.
const MAX_INPUT: usize = 64 << 10;

/// Pieces that mean something to one of the readers.
const WORDS: &[&str] = &[
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "data: ",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u006d",
    "\\\"",
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "1e-400",
    "0.1",
    "- ",
    "  ",
    "\t",
    "${KEY}",
    "${",
    "&a ",
    "*a",
    "<<: *a",
    "---\n",
    "|\n",
    "1h",
    "64KiB",
    "SE-SE3",
    "\u{feff}",
    "\u{0}",
    "é",
    "\u{2028}",
    ";",
    " ",
    "0\r\n",
    "5",
    "Host: h\r\n",
];
/// Longer ones.
const PHRASES: &[&str] = &[
    "data: [DONE]\n\n",
    ": comment\n\n",
    "\"usage\":{",
    "\"usage\":null",
    "\"model\":\"m\"",
    "\"model\":",
    "\"stream\":true",
    "\"stream_options\":{}",
    "\"choices\":[]",
    "18446744073709551616",
    "zone,time,value\n",
    "2026-01-01T00:00:00Z",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "0\r\n\r\n",
    "3\r\nabc\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
];

/// The contents of the files of a folder below the repository, one seed each.
fn seeds(folders: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    // The order of a folder differs from machine to machine.
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A seed with a few things changed.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = seeds[rng.usize(..seeds.len())].clone();
    input.insert(0, rng.u8(..));
    for _ in 0..rng.usize(..6) {
        let at = rng.usize(..=input.len());
        let end = (at + rng.usize(..=32)).min(input.len());
        match rng.u8(..8) {
            0 if at < input.len() => input[at] = rng.u8(..),
            1 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            5 => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                let to = (from + rng.usize(..=256)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            6 => drop(input.splice(at..end, WORDS[rng.usize(..WORDS.len())].bytes())),
            _ => drop(input.splice(at..end, PHRASES[rng.usize(..PHRASES.len())].bytes())),
        }
    }
    input.truncate(MAX_INPUT);
    input
}

fn rounds(seeds: &[Vec<u8>], body: impl Fn(&[u8])) {
    let asked = std::env::var_os("WINDWARD_FUZZ_ROUNDS").and_then(|rounds| rounds.to_str()?.parse().ok());
    for round in 0..asked.unwrap_or(ROUNDS) {
        let input = mutated(seeds, &mut Rng::with_seed(round));
        let held = catch_unwind(AssertUnwindSafe(|| body(&input))).is_ok();
        assert!(held, "round {round} fails on {:?}", String::from_utf8_lossy(&input));
    }
}

#[test]
fn sse() {
    rounds(&seeds(&["tests/cases/wire"]), bodies::sse);
}

#[test]
fn framing() {
    let short = super::framing::cases().into_iter().filter(|case| case.raw.len() < 1 << 10);
    let (valid, wrong): (Vec<_>, Vec<_>) = short.partition(super::framing::Case::passes);
    // What is wrong already is rarely made right, and what is refused at once says nothing about where messages end.
    for cases in [valid, wrong] {
        let seeds: Vec<Vec<u8>> = cases.into_iter().map(|case| case.raw).collect();
        rounds(&seeds, bodies::framing);
    }
}

#[test]
fn response() {
    let short = super::upstream::cases().into_iter().filter(|case| case.raw.len() < 1 << 10);
    let (valid, wrong): (Vec<_>, Vec<_>) = short.partition(super::upstream::Case::passes);
    for cases in [valid, wrong] {
        let seeds: Vec<Vec<u8>> = cases.into_iter().map(|case| case.raw).collect();
        rounds(&seeds, bodies::response);
    }
}

#[test]
fn request() {
    let bodies = [
        r#"{"model":"m","messages":[{"role":"user","content":"\"model\":\"x\""}],"stream":true}"#,
        r#"{ "stream_options" : {"include_usage":false,"x":1}, "stream":true,"max_tokens":5,"n":2, "model" : "\u006dé" , "tools":[[{}],{}]}"#,
        r#"{"model":"m","input":"x","previous_response_id":"r","store":false,"stream":true,"stream_options":null}"#,
    ];
    rounds(&bodies.map(|body| body.as_bytes().to_vec()), bodies::request);
}

/// Streams in binary frames, of Converse and of InvokeModel.
fn framed() -> Vec<Vec<u8>> {
    let seeds = seeds(&["tests/cases/translate"]);
    let converse = seeds.iter().filter(|seed| seed.starts_with(b"{\"event\"")).map(|lines| super::support::frames::frames(lines));
    let invoke = seeds.iter().filter(|seed| seed.starts_with(b"event: message_start")).map(|events| {
        let data = std::str::from_utf8(events).unwrap().lines().filter_map(|line| line.strip_prefix("data: "));
        let chunk = |data: &str| {
            let bytes = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
            format!("{{\"event\":\"chunk\",\"payload\":{{\"bytes\":\"{bytes}\"}}}}\n")
        };
        super::support::frames::frames(data.map(chunk).collect::<String>().as_bytes())
    });
    let framed: Vec<Vec<u8>> = converse.chain(invoke).collect();
    assert!(framed.len() > 2);
    framed
}

#[test]
fn translation() {
    let seeds: Vec<Vec<u8>> = framed().into_iter().chain(seeds(&["tests/cases/translate"])).collect();
    rounds(&seeds, bodies::translation);
}

#[test]
fn event_stream() {
    rounds(&framed(), bodies::event_stream);
}

#[test]
fn config() {
    rounds(&seeds(&["config", "tests/cases/config/ok"]), bodies::config);
}

#[test]
fn carbon() {
    rounds(&seeds(&["tests/cases/carbon"]), bodies::carbon);
}

#[test]
fn peers() {
    let ((mine, mut me), (its, mut it)) = (bodies::replica(1), bodies::replica(2));
    let now = windward::clock::Clock::monotonic(&windward::clock::SystemClock);
    for message in me.loads(&mine) {
        assert!(it.take(&message, &its, now).is_err(), "it is not heard yet");
    }
    let _permit = its.live[0].admit(700);
    let model = its.live[0].model("m").unwrap();
    for prompt in [10, 700, 5000] {
        model.saw_first_token(prompt, windward::units::Millis::ZERO, windward::units::Millis::saturating(300.0));
        model.saw_output(100, windward::units::Millis::saturating(2000.0), 3.0, 8);
    }
    let seeds = [it.loads(&its), it.lessons(&its), it.farewell()].concat();
    rounds(&seeds, bodies::peers);
}

#[test]
fn record() {
    rounds(&seeds(&["tests/cases/log"]), bodies::record);
}

/// Found by the body above after some thousand rounds: read without `float_roundtrip`, one number in some dozens is its neighbour.
#[test]
fn a_number_is_read_as_it_was_written() {
    let mut rng = Rng::with_seed(0);
    for _ in 0..ROUNDS {
        let number = rng.f64();
        assert_eq!(serde_json::from_str::<f64>(&serde_json::to_string(&number).unwrap()).unwrap().to_bits(), number.to_bits());
    }
}
