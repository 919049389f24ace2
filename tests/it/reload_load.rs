//! Reloads while there is traffic: thirty of them, good and bad, under streams that go on from first to last.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::support::peer::{PATIENCE, Then, begin_events, chunk, end_chunks, respond};
use super::support::{Client, Harness, Peer, patiently, text};

const STREAMS: usize = 32;
const RELOADS: usize = 30;
const ASKING: usize = 4;
/// No request is delayed so long by a reload ..
const DELAY: Duration = Duration::from_millis(500);
/// .. in one of so many tries at it: in the others the machine may have turned to somebody else meanwhile.
const TRIES: usize = 3;
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// How many events every stream has been told to send; after the last of them it ends.
#[derive(Default)]
struct Beat {
    events: Mutex<usize>,
    changed: Condvar,
}

impl Beat {
    fn next(&self) -> usize {
        let mut events = self.events.lock().unwrap();
        *events += 1;
        self.changed.notify_all();
        *events
    }

    fn wait_for(&self, event: usize) {
        let events = self.events.lock().unwrap();
        drop(self.changed.wait_timeout_while(events, PATIENCE, |events| *events < event).unwrap());
    }
}

fn event(nth: usize) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"event {nth}.\"}}}}]}}\n\n")
}

/// A backend whose streams send an event at every beat.
fn streaming(beat: &Arc<Beat>) -> Peer {
    let beat = Arc::clone(beat);
    Peer::start(move |seen, stream| {
        if seen.json()["stream"] != true {
            respond(stream, "200 OK", "content-type: application/json\r\n", OK.as_bytes());
            return Then::Next;
        }
        begin_events(stream);
        for nth in 1..=RELOADS {
            beat.wait_for(nth);
            chunk(stream, event(nth).as_bytes());
        }
        chunk(stream, b"data: [DONE]\n\n");
        end_chunks(stream);
        Then::Next
    })
}

/// Nine files that are no configuration, each in another way.
fn bad(good: &str) -> [(&'static str, Vec<u8>); 9] {
    let laughs: String = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, nth| {
        let last = format!("*a{}", nth - 1);
        text + &format!("a{nth}: &a{nth} [{}]\n", [last.as_str(); 9].join(", "))
    });
    [
        ("nothing", Vec::new()),
        ("no YAML", b"backends: [{".to_vec()),
        ("no text", vec![0xff, 0xfe, 0, 1]),
        ("an unknown key", format!("{good}\nlimit: {{}}\n").into_bytes()),
        ("a wrong type", good.replace("workers: 2", "workers: two").into_bytes()),
        ("an unknown backend", good.replace("backends: [", "backends: [nobody, ").into_bytes()),
        ("aliases of aliases", format!("{good}\n{laughs}").into_bytes()),
        ("depth", format!("{good}\nlimits: {}", "[".repeat(100_000)).into_bytes()),
        ("more than a configuration may be", format!("{good}\n#{}", "é".repeat(1 << 20)).into_bytes()),
    ]
}

fn replace(proxy: &Harness, text: &[u8]) {
    let next = proxy.file.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, &proxy.file).unwrap();
}

fn reload(proxy: &Harness) -> (u16, String) {
    let mut client = Client::connect(proxy.admin);
    client.post("/reload", "", "");
    let answer = client.answer();
    (answer.status, answer.text())
}

/// A request that was answered.
struct Answered {
    by: usize,
    asked: Instant,
    took: Duration,
}

/// Asks until told to stop, and notes how long each answer took. A request that fails is a failure of the test.
fn ask(by: usize, address: SocketAddr, stop: &AtomicBool, answered: &Mutex<Vec<Answered>>) {
    let mut client = Client::connect(address);
    while !stop.load(SeqCst) {
        let asked = Instant::now();
        client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, OK.to_owned()));
        answered.lock().unwrap().push(Answered { by, asked, took: asked.elapsed() });
    }
}

/// Tells those who ask to stop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The longest that an answer took which came after a reload had begun, up to the first of each asker that was asked for after it.
fn longest_across(answered: &Mutex<Vec<Answered>>, reload: impl Fn()) -> Duration {
    let before = answered.lock().unwrap().len();
    reload();
    let reloaded = Instant::now();
    patiently("an answer to everybody", || {
        let answered = answered.lock().unwrap();
        let since = &answered[before..];
        let has_asked = |by| since.iter().any(|answer| answer.by == by && answer.asked >= reloaded);
        (0..ASKING).all(has_asked).then(|| since.iter().map(|answer| answer.took).max())?
    })
}

/// Reloads, and again if that seems to have delayed somebody.
fn delays_nobody(what: &str, answered: &Mutex<Vec<Answered>>, reload: impl Fn()) {
    let mut longest = (0..TRIES).map(|_| longest_across(answered, &reload));
    assert!(longest.any(|longest| longest < DELAY), "{what}: a request was delayed by {DELAY:?} or more, {TRIES} times in a row");
}

fn failed(proxy: &Harness) -> u64 {
    let metrics = proxy.ask_admin("/metrics").text();
    let count = metrics.lines().find_map(|line| line.strip_prefix("windward_reload_total{result=\"error\"} "));
    count.unwrap().parse().unwrap()
}

#[test]
fn thirty_reloads_and_nine_bad_files_fail_no_request_and_cut_no_stream() {
    let beat = Arc::new(Beat::default());
    let (going, staying) = (streaming(&beat), Peer::answering("200 OK", OK));
    let (mut with, mut without) = (String::new(), String::new());
    let proxy = Harness::of(|log| {
        let policy = "policy: in_order";
        with = text(log, "", &[("going", going.address, ""), ("staying", staying.address, "")], policy);
        without = text(log, "", &[("staying", staying.address, "")], policy);
        with.clone()
    });
    let mut streams: Vec<Client> = (0..STREAMS).map(|_| Client::connect(proxy.address)).collect();
    for client in &mut streams {
        client.post("/v1/chat/completions", "", r#"{"model":"m","stream":true}"#);
        client.read_until("\r\n\r\n");
    }
    let (stop, answered) = (AtomicBool::new(false), Mutex::default());
    std::thread::scope(|threads| {
        let _stop = Stop(&stop);
        let (proxy, stop, answered) = (&proxy, &stop, &answered);
        (0..ASKING).for_each(|by| drop(threads.spawn(move || ask(by, proxy.address, stop, answered))));
        let mut bad = bad(&without).into_iter();
        for nth in 0..RELOADS {
            let good = if nth % 2 == 0 { &without } else { &with };
            delays_nobody(&format!("reload {nth}"), answered, || {
                replace(proxy, good.as_bytes());
                assert_eq!(reload(proxy).0, 200, "{nth}");
            });
            if nth % 3 == 2
                && let Some((what, text)) = bad.next()
            {
                let before = failed(proxy);
                delays_nobody(what, answered, || {
                    replace(proxy, &text);
                    let (status, said) = reload(proxy);
                    assert_eq!(status, 422, "{what}: {said}");
                });
                assert!(failed(proxy) > before, "{what}");
                assert!(proxy.ask_admin("/metrics").text().contains("windward_config_good 0"), "{what}");
            }
            // Every stream is alive, whatever has become of its backend.
            let event = event(beat.next());
            for client in &mut streams {
                client.read_until(&event);
            }
        }
        assert!(bad.next().is_none());
    });
    let answered = answered.into_inner().unwrap().len();
    let whole: String = (1..=RELOADS).map(event).chain(["data: [DONE]\n\n".to_owned()]).collect();
    for mut client in streams {
        assert_eq!(client.answer().text(), whole);
    }
    let records: Vec<_> = (0..STREAMS + answered).map(|_| proxy.record()).collect();
    assert!(records.iter().all(|record| record["ended"] == "complete"));
    let of_first = |record: &&serde_json::Value| record["generation"] == 1 && record["stream"] == true;
    assert_eq!(records.iter().filter(of_first).count(), STREAMS, "each ended under the plan that it began with");
    for backend in ["going", "staying"] {
        assert!(records.iter().any(|record| record["backend"] == backend && record["stream"] == false), "{backend}");
    }
}
