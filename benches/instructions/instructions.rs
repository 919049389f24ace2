//! Instructions of what every request passes through, counted by callgrind: the same on any machine, however busy, so that a
//! change of one percent is seen where a clock would show only its neighbours.
//!
//! ```text
//! apt-get install valgrind
//! cargo install gungraun-runner --version 0.20.0    # its version is that of the dependency
//! cargo bench --manifest-path benches/instructions/Cargo.toml --target-dir target
//! ```
//!
//! The target folder is shared with `cargo build --release`, which compiles most of the same dependencies in the same way.
//!
//! What a benchmark is given it gives back, so that the freeing of it is not counted. A second run prints the difference to the
//! first. The limits make a run fail: each lies at most a tenth above what was counted when it was set (rustc 1.95, x86-64), since
//! another compiler moves every count by a few percent.

#![expect(clippy::disallowed_methods, reason = "gungraun's `main!` ends the process with a status")]

use std::hint::black_box;

use bytes::Bytes;
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use smallvec::SmallVec;
use windward::backend::UsageMode;
use windward::decide::{Candidate, Decision, NoCandidate, decide};
use windward::policy::Policy;
use windward::record::AccessRecord;
use windward::telemetry::line;
use windward::wire::Operation;
use windward::wire::framing::{Fed, Framing};
use windward::wire::request::{Malformed, RequestFields, RequestScan};
use windward::wire::splice::{apply, edits};
use windward::wire::strip::UsageStripper;
use windward::wire::usage::{Meter, Usage, UsageSource};
use windward_instructions::{candidates, message, pieces, request, stream};

/// What a splice gives.
type Spliced = SmallVec<[Bytes; 8]>;

/// Fails the run above so many instructions.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

// The guard: one pass over the head, none over the body.
#[library_benchmark]
#[bench::small(args = (message(1536)), config = at_most(3_700))]
fn frame(message: Vec<u8>) -> (Fed, Vec<u8>) {
    let mut framing = Framing::new(64 << 10);
    (black_box(framing.feed(black_box(&message))), message)
}

// Intake: one pass over the body.
#[library_benchmark]
#[bench::small(args = (pieces(request(1536, true))), config = at_most(10_000))]
#[bench::large(args = (pieces(request(256 << 10, true))), config = at_most(905_000))]
fn scan(body: Vec<Bytes>) -> (Result<RequestFields, Malformed>, Vec<Bytes>) {
    let mut scan = RequestScan::new();
    for piece in black_box(&body) {
        scan.feed(piece);
    }
    (black_box(scan.finish()), body)
}

// Forward: the backend's own name for the model, and the question for usage.
#[library_benchmark]
#[bench::small(args = (to_splice(1536)), config = at_most(860))]
#[bench::large(args = (to_splice(256 << 10)), config = at_most(1_570))]
fn splice(input: (RequestFields, Vec<Bytes>, Bytes)) -> (Spliced, (RequestFields, Vec<Bytes>, Bytes)) {
    let (fields, body, model) = black_box(&input);
    let spliced = apply(body, &edits(fields, Some(model), UsageMode::Inject));
    (black_box(spliced), input)
}

/// The request's fields and pieces, and the model's name there.
fn to_splice(bytes: usize) -> (RequestFields, Vec<Bytes>, Bytes) {
    let body = request(bytes, true);
    let mut scan = RequestScan::new();
    scan.feed(&body);
    let fields = scan.finish().expect("the request is well made");
    (fields, pieces(body), Bytes::from_static(b"\"openai.gpt-4o-2026\""))
}

// Relay: 500 deltas, the usage, and the end.
#[library_benchmark]
#[bench::deltas_500(args = (stream(500)), config = at_most(521_000))]
fn meter(stream: Vec<Bytes>) -> (Usage, UsageSource, Vec<Bytes>) {
    let mut meter = Meter::sse(Operation::Chat);
    for piece in black_box(&stream) {
        meter.feed(piece);
    }
    let (usage, source) = black_box(meter.finish());
    (usage, source, stream)
}

// Relay, where Windward asked for the usage itself: the same stream without it.
#[library_benchmark]
#[bench::deltas_500(args = (stream(500)), config = at_most(489_000))]
fn strip(stream: Vec<Bytes>) -> (usize, Vec<Bytes>) {
    let mut stripper = UsageStripper::new();
    let passed: usize = black_box(&stream).iter().map(|piece| stripper.feed(piece).iter().map(Bytes::len).sum::<usize>()).sum();
    (black_box(passed), stream)
}

// The choice.
#[library_benchmark]
#[bench::of_3(args = (Policy::standard("standard"), candidates(3)), config = at_most(2_580))]
#[bench::of_8(args = (Policy::standard("standard"), candidates(8)), config = at_most(4_290))]
#[bench::of_16(args = (Policy::standard("standard"), candidates(16)), config = at_most(7_530))]
fn choose(policy: Policy, candidates: Vec<Candidate>) -> (Result<Decision, NoCandidate>, Policy, Vec<Candidate>) {
    let decision = black_box(decide(black_box(&policy), true, black_box(&candidates), 7));
    (decision, policy, candidates)
}

// The access log's line, of four candidates, into a buffer that has room.
#[library_benchmark]
#[bench::of_4(args = (sample()), config = at_most(11_850))]
fn record((record, mut buffer): (AccessRecord<'static>, Vec<u8>)) -> (AccessRecord<'static>, Vec<u8>) {
    line::append(&mut buffer, black_box(&record));
    (record, black_box(buffer))
}

// The same line by `serde_json`, to say what the writer of our own is for.
#[library_benchmark]
#[bench::of_4(args = (sample()))]
fn record_by_serde_json((record, mut buffer): (AccessRecord<'static>, Vec<u8>)) -> (AccessRecord<'static>, Vec<u8>) {
    serde_json::to_writer(&mut buffer, black_box(&record)).expect("a record is plain JSON");
    (record, black_box(buffer))
}

/// A record and where it is written, by a thread that has written it before.
fn sample() -> (AccessRecord<'static>, Vec<u8>) {
    let text = include_str!("../../tests/cases/log/sample.jsonl").lines().next().expect("the sample has lines");
    let record = serde_json::from_str(text).expect("the sample is a record");
    let mut buffer = Vec::with_capacity(64 << 10);
    line::append(&mut buffer, &record);
    (record, buffer)
}

library_benchmark_group!(name = request_path, benchmarks = [frame, scan, splice, choose]);
library_benchmark_group!(name = response_path, benchmarks = [meter, strip, record, record_by_serde_json]);
main!(library_benchmark_groups = request_path, response_path);
