//! What must hold for any bytes, one function for each reader of what others wrote. A violation is a panic.
//!
//! The first byte of the data is no part of the text: it says how the rest is cut into chunks, since for readers of streams the cuts
//! are half of the input.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use windward::backend::UsageMode;
use windward::carbon::file::{FileOptions, parse};
use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env, Files};
use windward::dialect::Dialect;
use windward::grid::{Basis, GridZone, Signal};
use windward::live::Load;
use windward::peers::Exchange;
use windward::record::AccessRecord;
use windward::report::{Summary, summarise};
use windward::state::Snapshot;
use windward::wire::Operation;
use windward::wire::framing::{Framing, Look, Reader, Then, Whole};
use windward::wire::request::RequestScan;
use windward::wire::response::{Head, Invalid, head, head_end, keep_trailers};
use windward::wire::splice::{apply, edits, length_change};
use windward::wire::strip::UsageStripper;
use windward::wire::translate::{self, Occasion, Translation};
use windward::wire::usage::Meter;

/// The data in two: how to cut, and what is cut.
fn cuts(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// The bytes in pieces whose sizes follow from `how`: all of one byte when it is 0, else between 1 and `how`.
fn pieces(bytes: &[u8], how: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(how);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = 1 + (state >> 16) as usize % usize::from(how).max(1);
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A response stream: what is counted, and what is left out, does not depend on where the network cut it.
pub fn sse(data: &[u8]) {
    let (how, stream) = cuts(data);
    for operation in [Operation::Chat, Operation::Completions, Operation::Responses, Operation::Embeddings] {
        for begin in [Meter::sse, |operation| Meter::json(operation, &windward::wire::fields::Fields::default())] {
            let (mut whole, mut cut) = (begin(operation), begin(operation));
            whole.feed(&Bytes::copy_from_slice(stream));
            pieces(stream, how).for_each(|piece| cut.feed(&Bytes::copy_from_slice(piece)));
            assert_eq!(whole.saw_first_data(), cut.saw_first_data());
            assert_eq!((whole.error(), whole.model()), (cut.error(), cut.model()));
            assert_eq!(whole.finish(), cut.finish());
        }
    }
    for stripper in [UsageStripper::new as fn() -> UsageStripper, UsageStripper::of_each] {
        strips(stripper, how, stream);
    }
}

/// What is left out of a stream is usage alone, wherever the network cut it.
fn strips(new: fn() -> UsageStripper, how: u8, stream: &[u8]) {
    let strip = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let mut stripper = new();
        let mut out = Vec::new();
        for chunk in chunks {
            stripper.feed(&Bytes::copy_from_slice(chunk)).iter().for_each(|bytes| out.extend_from_slice(bytes));
        }
        stripper.finish().iter().for_each(|bytes| out.extend_from_slice(bytes));
        out
    };
    let whole = strip(&mut std::iter::once(stream));
    assert_eq!(whole, strip(&mut pieces(stream, how)), "stripping depends on the cuts");
    assert!(whole.len() <= stream.len(), "stripping adds bytes");
    let names_usage = stream.windows(5).any(|window| window == b"usage");
    assert!(names_usage || whole == stream, "stripping takes out more than usage");
}

/// A stream in AWS's binary frames: what is counted does not depend on where the network cut it.
pub fn event_stream(data: &[u8]) {
    let (how, stream) = cuts(data);
    for stream in [stream.to_vec(), mended(stream)] {
        let (mut whole, mut cut) = (Meter::event_stream(), Meter::event_stream());
        whole.feed(&Bytes::copy_from_slice(&stream));
        pieces(&stream, how).for_each(|piece| cut.feed(&Bytes::copy_from_slice(piece)));
        assert_eq!(whole.saw_first_data(), cut.saw_first_data());
        assert_eq!((whole.error(), whole.saw_last_event()), (cut.error(), cut.saw_last_event()));
        assert_eq!(whole.finish(), cut.finish());
    }
}

/// The same with the checksums that its frames have now: of one whose sums are wrong nothing is read.
fn mended(stream: &[u8]) -> Vec<u8> {
    let mut mended = stream.to_vec();
    let mut rest = &mut mended[..];
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length < 16 || length > rest.len() {
            break;
        }
        let (frame, after) = std::mem::take(&mut rest).split_at_mut(length);
        let of_prelude = crc32(&frame[..8]);
        frame[8..12].copy_from_slice(&of_prelude.to_be_bytes());
        let of_all = crc32(&frame[..length - 4]);
        frame[length - 4..].copy_from_slice(&of_all.to_be_bytes());
        rest = after;
    }
    mended
}

/// The checksum of AWS's frames, and of Ethernet's.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// A request body: the same is read wherever it is cut, and an edit changes what it means to change and nothing else.
pub fn request(data: &[u8]) {
    let (how, body) = cuts(data);
    let mut whole = RequestScan::new();
    let mut cut = RequestScan::new();
    whole.feed(body);
    pieces(body, how).for_each(|piece| cut.feed(piece));
    let (whole, cut) = (whole.finish(), cut.finish());
    assert_eq!(whole, cut);
    let Ok(fields) = whole else { return };

    let chunks: Vec<Bytes> = pieces(body, how).map(Bytes::copy_from_slice).collect();
    let name = Bytes::from_static(br#""another \"name\"""#);
    let edits = edits(&fields, Some(&name), UsageMode::Inject);
    let edited = apply(&chunks, &edits).concat();
    assert_eq!(i64::try_from(edited.len()).unwrap() - i64::try_from(body.len()).unwrap(), length_change(&edits));
    // The scan is no validator: what is wrong deeper inside is the backend's to refuse. What was right must stay so.
    let Ok(Value::Object(before)) = serde_json::from_slice(body) else { return };
    let after: Value = serde_json::from_slice(&edited).unwrap();
    assert_eq!(after["model"], "another \"name\"");
    for (key, value) in &before {
        assert!(key == "model" || key == "stream_options" || after[key] == *value, "`{key}` changed");
    }
}

/// A request, an answer or a stream to be translated: it is translated or refused, and the cuts make no difference.
pub fn translation(data: &[u8]) {
    let (how, text) = cuts(data);
    translate_all(how, text);
    translate_all(how, &mended(text));
}

fn translate_all(how: u8, text: &[u8]) {
    for (operation, dialect) in TRANSLATED {
        let translation = Translation::of(operation, Dialect::Bedrock).unwrap();
        match translation.request(text, translate::Spoken::default()) {
            Ok(there) => assert!(serde_json::from_slice::<Value>(&there).is_ok_and(|there| there.is_object())),
            Err(refusal) => assert!(!refusal.field.is_empty() && !refusal.why.is_empty()),
        }
        for (status, content_type) in [(200, "application/json"), (200, "application/vnd.amazon.eventstream"), (429, "text/html")]
        {
            let translated = |chunks: &mut dyn Iterator<Item = &[u8]>| {
                let (status, content_type) = (StatusCode::from_u16(status).unwrap(), content_type.as_bytes());
                let streamed = content_type.ends_with(b"eventstream");
                let head = translate::Head { status, streamed, content_type, encoded: false, exception: None };
                let (id, model, include_usage) = ("i".into(), "m".into(), how & 1 == 1);
                let mut answer =
                    translate::Answer::new(translation, head, Occasion { dialect, id, created: 0, model, include_usage });
                let mut out: Vec<u8> = chunks.flat_map(|chunk| answer.feed(chunk)).collect();
                out.extend_from_slice(&answer.finish());
                (String::from_utf8(out).unwrap(), answer.broken())
            };
            assert_eq!(
                translated(&mut std::iter::once(text)),
                translated(&mut pieces(text, how)),
                "translating depends on the cuts"
            );
        }
    }
}

/// What is translated, and for whom.
const TRANSLATED: [(Operation, Dialect); 2] = [(Operation::Chat, Dialect::Openai), (Operation::Messages, Dialect::Anthropic)];

/// A machine on which every file that a configuration names is there, and holds the same.
struct AnyFile;

impl Files for AnyFile {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(b"a-secret\n".to_vec())
    }
}

/// Variables of the shipped configurations.
const VARIABLES: [&str; 7] =
    ["KEY", "BEDROCK_KEY", "OWN_KEY", "VLLM_KEY", "OPENAI_US_KEY", "OPENAI_EU_KEY", "AWS_BEARER_TOKEN_BEDROCK"];

/// A configuration: a plan, or problems that say where they are.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(cuts(data).1);
    let env: Env = VARIABLES.map(|name| (name.to_owned(), "value".to_owned())).into_iter().collect();
    match config::load("fuzz.yaml", &text, &env, &AnyFile) {
        Ok(loaded) => assert!(!loaded.plan.backends.is_empty() && !loaded.plan.routes.is_empty()),
        Err(errors) => assert!(!errors.problems.is_empty() && !errors.to_string().is_empty()),
    }
    let _ = config::fleet::FleetPlan::parse(&text);
}

/// One backend, one model.
const REPLICATED: &str = "backends: [{ name: a, url: 'http://127.0.0.1:1', grid_zone: DE, models: [m], max_in_flight: 8 }]";

/// A replica of the given run that has heard nobody.
pub fn replica(run: u64) -> (Snapshot, Exchange) {
    static PLAN: OnceLock<Arc<config::Plan>> = OnceLock::new();
    let load = || config::load("replica.yaml", REPLICATED, &Env::default(), &AnyFile).expect("a configuration").plan;
    let snapshot = Snapshot::first(Arc::clone(PLAN.get_or_init(|| Arc::new(load()))), SystemClock.monotonic());
    let exchange = Exchange::new(run, &snapshot);
    (snapshot, exchange)
}

/// A message of another replica, whose seal was good: whatever it says is bounded, and nothing of it lasts.
pub fn peers(data: &[u8]) {
    let ((snapshot, mut exchange), now) = (replica(1), SystemClock.monotonic());
    for round in 0..3 {
        let at = now + Duration::from_millis(50 * round);
        // Refused or not, it goes on.
        let _ = exchange.take(data, &snapshot, at);
        exchange.look(&snapshot, at, 1);
    }
    let live = &snapshot.live[0];
    assert!(live.load().in_flight <= 8);
    let model = live.model("m").expect("the only model");
    assert!(model.first_token(1000, 1000).late.get().is_finite() && model.per_output_token(4, 8).get().is_finite());
    exchange.look(&snapshot, now + Duration::from_secs(10), 1);
    exchange.look(&snapshot, now + Duration::from_secs(50), 1);
    assert_eq!((live.load(), exchange.heard()), (Load::default(), 0));
}

/// A file of carbon intensities: whatever is taken from it is plausible, in order, and not from the future.
pub fn carbon(data: &[u8]) {
    let (how, file) = cuts(data);
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let options = FileOptions {
        source: Arc::from("fuzz"),
        signal: if how & 1 == 0 { Signal::Average } else { Signal::Marginal },
        basis: Basis::Lifecycle,
        zone: (how & 2 == 0).then(|| GridZone::new("SE-SE3")),
        written_at: now,
        valid_for: FileOptions::DEFAULT_VALID_FOR,
    };
    let Ok(found) = parse(file, now, &options) else { return };
    let readings = found.readings();
    assert!(readings.iter().all(|(_, reading)| (0.0..10_000.0).contains(&reading.intensity.get())));
    assert!(readings.iter().all(|(_, reading)| reading.measured_at <= now + SignedDuration::from_hours(24 * 8)));
    assert!(readings.is_sorted_by(|(zone, a), (next, b)| zone != next || a.measured_at < b.measured_at));
    let at_once: Vec<_> = found.at(now).collect();
    assert!(at_once.iter().all(|(_, reading)| reading.measured_at <= now));
    assert!(at_once.is_sorted_by(|(zone, _), (next, _)| zone < next), "a zone twice");
}

/// A line of the access log: what is read can be written and read again without a difference, and no log stops a report.
pub fn record(data: &[u8]) {
    let log = cuts(data).1;
    for line in log.split(|byte| *byte == b'\n') {
        if let Ok(record) = serde_json::from_slice::<AccessRecord<'_>>(line) {
            let written = serde_json::to_vec(&record).unwrap();
            assert_eq!(serde_json::from_slice::<AccessRecord<'_>>(&written).unwrap(), record);
        }
    }
    let mut summary = Summary::default();
    summarise("fuzz", log, &mut summary).unwrap();
}

/// What passes of a connection's bytes: each message, and what passed of one that has no end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    whole: Vec<Vec<u8>>,
    part: Vec<u8>,
    then: Option<Then>,
}

fn passed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Passed {
    let mut framing = Framing::new(64 << 10);
    let (mut kept, mut passed) = (Vec::new(), Passed::default());
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let fed = framing.feed(&kept);
            passed.part.extend(kept.drain(..fed.pass));
            match fed.then {
                Then::More => break,
                Then::Next => passed.whole.push(std::mem::take(&mut passed.part)),
                refused => return Passed { then: Some(refused), ..passed },
            }
        }
    }
    passed
}

/// What hyper makes of bytes: each request, `None` for one whose body does not come whole, and whether it was content with the
/// connection.
fn by_hyper(bytes: &[u8]) -> (Vec<Option<Request<Bytes>>>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let whole = body.collect().await.ok();
            seen.lock().unwrap().push(whole.map(|whole| Request::from_parts(head, whole.to_bytes())));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let content = runtime.block_on(async {
        // Room for all of it, and for the responses: nobody has to read while the other writes.
        let (mut client, server) = tokio::io::duplex(1 << 20);
        tokio::io::AsyncWriteExt::write_all(&mut client, bytes).await.unwrap();
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_header_size(64 << 10).max_buf_size(64 << 10).half_close(true);
        tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
        builder.serve_connection(TokioIo::new(server), service).await.is_ok()
    });
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, content)
}

/// The request that bytes begin with, if it is one of those that are read without hyper; and its length.
fn plain<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Request<Bytes>, usize)> {
    // Bodies of more than a few bytes are long ones.
    let (mut reader, mut kept) = (Reader::new(64 << 10, 8), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        match reader.look(&kept, &mut Whole::default()) {
            Look::More { .. } => {}
            Look::Other => return None,
            Look::Long(whole) if whole.length() > kept.len() => {}
            Look::Whole(whole) | Look::Long(whole) => {
                let request = whole.request(&Bytes::copy_from_slice(&kept[..whole.length()]), |body| body)?.request;
                return Some(((*request).into(), whole.length()));
            }
        }
    }
    None
}

/// The parts of a request that anybody looks at.
fn told(request: &Request<Bytes>) -> String {
    format!("{} {} {:?} {:?} {:?}", request.method(), request.uri(), request.version(), request.headers(), request.body())
}

/// Requests of HTTP/1.1: wherever they are cut the same passes, and each message that passes is one request for hyper too, whole,
/// with nothing before or after it. Of one that has no end, hyper sees none that has. What is read without hyper is a message that
/// passes, and the request that hyper sees.
pub fn framing(data: &[u8]) {
    let (how, bytes) = cuts(data);
    let all = passed(std::iter::once(bytes));
    assert_eq!(all, passed(pieces(bytes, how)), "what passes depends on the cuts");
    assert!(bytes.starts_with(&[all.whole.concat(), all.part.clone()].concat()), "what passes is not what came");
    let mut rest = bytes;
    for message in &all.whole {
        let (seen, content) = by_hyper(message);
        let whole = matches!(&seen[..], [Some(_)]);
        assert!(whole && content, "{seen:?} {content}: {:?}", String::from_utf8_lossy(message));
        let (at_once, cut) = (plain(std::iter::once(rest)), plain(pieces(rest, how)));
        assert_eq!(
            at_once.as_ref().map(|(request, length)| (told(request), *length)),
            cut.map(|(request, length)| (told(&request), length))
        );
        if let (Some((request, length)), [Some(by_hyper)]) = (&at_once, &seen[..]) {
            assert_eq!((told(request), *length), (told(by_hyper), message.len()));
        }
        rest = &rest[message.len()..];
    }
    assert!(plain(std::iter::once(rest)).is_none(), "it is no message that passes: {:?}", String::from_utf8_lossy(rest));
    if !all.part.is_empty() {
        let (seen, _) = by_hyper(&all.part);
        assert!(matches!(&seen[..], [None]), "{seen:?}: {:?}", String::from_utf8_lossy(&all.part));
    }
}

/// A response as somebody understood it; lengths are left out, which ours makes one where they are the same.
#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

/// What Windward makes of the bytes of a connection that then ends; an error also for a response that is not whole.
fn answer<'a>(pieces: impl Iterator<Item = &'a [u8]>, bodyless: bool) -> Result<Answer, Invalid> {
    let (mut input, mut searched) = (BytesMut::new(), 0);
    let (mut found, mut data): (Option<Head>, Vec<u8>) = (None, Vec::new());
    for piece in pieces {
        match &mut found {
            Some(head) if input.is_empty() => data.extend_from_slice(&head.body.take_from(piece, &mut input)?),
            _ => input.extend_from_slice(piece),
        }
        while found.is_none() && !input.is_empty() {
            let Some(end) = head_end(&input, searched)? else { break };
            let head = head(&input.split_to(end).freeze(), bodyless)?;
            searched = 0;
            if head.head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Invalid("nobody asked"));
            }
            found = (!head.head.status.is_informational()).then_some(head);
        }
        let Some(head) = &mut found else {
            searched = input.len();
            continue;
        };
        while !input.is_empty() {
            let more = head.body.take(&mut input)?;
            data.extend_from_slice(&more);
            if more.is_empty() {
                break;
            }
        }
    }
    let Some(Head { head, mut body, .. }) = found else { return Err(Invalid("no head")) };
    body.connection_ended()?;
    let trailers = body.take_trailers().unwrap_or_default();
    Ok(Answer { status: head.status, fields: head.fields.to_map(), body: data, trailers })
}

/// What hyper's client makes of them; `None` for what it refuses, or takes for cut.
fn answer_by_hyper(bytes: &[u8], bodyless: bool) -> Option<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.ok()?;
        let connection = tokio::spawn(connection);
        // Room for all of it; the request is read, so that nothing comes before it was asked.
        let (mut reads, mut writes) = tokio::io::split(far);
        let method = if bodyless { "HEAD" } else { "GET" };
        let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
        let peer = async {
            let mut some = [0; 64];
            let _ = tokio::io::AsyncReadExt::read(&mut reads, &mut some).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writes, bytes).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut writes).await;
        };
        let (response, ()) = tokio::join!(sender.send_request(request), peer);
        let (parts, body) = response.ok()?.into_parts();
        let body = body.collect().await.ok();
        connection.abort();
        let body = body?;
        let mut trailers = body.trailers().cloned().unwrap_or_default();
        keep_trailers(&mut trailers);
        Some(Answer { status: parts.status, fields: parts.headers, body: body.to_bytes().to_vec(), trailers })
    })
}

/// More fields than hyper takes.
const TOO_MANY_FOR_HYPER: usize = 100;

/// Responses of HTTP/1.1: the same is read wherever they are cut, and what is taken for whole is the same whole response for hyper.
/// Hyper takes more than that: both framings, other codings, lines that end with LF alone.
pub fn response(data: &[u8]) {
    let (how, bytes) = cuts(data);
    let bodyless = how % 8 == 7;
    let whole = answer(std::iter::once(bytes), bodyless);
    let cut = answer(pieces(bytes, how), bodyless);
    assert_eq!(whole.as_ref().ok(), cut.as_ref().ok(), "what is read depends on the cuts");
    let Ok(mut ours) = whole else { return };
    if ours.fields.len() >= TOO_MANY_FOR_HYPER {
        return;
    }
    let lengths: Vec<_> = ours.fields.get_all(CONTENT_LENGTH).iter().cloned().collect();
    assert!(lengths.len() <= 1 && !(lengths.len() == 1 && ours.fields.contains_key(TRANSFER_ENCODING)));
    let Some(mut theirs) = answer_by_hyper(bytes, bodyless) else { panic!("hyper refuses {ours:?}") };
    ours.fields.remove(CONTENT_LENGTH);
    theirs.fields.remove(CONTENT_LENGTH);
    assert_eq!(ours, theirs);
}
