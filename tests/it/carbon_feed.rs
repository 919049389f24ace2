//! The carbon feed as an adversary: whatever it answers, requests are served as well as before, by the last good value until its age
//! limit and by the next source after it.
//!
//! The cases are data (`tests/cases/carbon/hostile_feed.json`): what the feed answers, and the words that `/status` has for it. Every
//! case is played twice: after a good value, which has to stay, and from the start, when the next source has to speak.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::support::peer::{Seen, Then, respond, wait_for_close};
use super::support::{Client, Harness, Peer, in_the_middle, patiently};

const TOKEN: &str = "feed-t0ken";
const OK: &str = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}"#;
/// By the next source France is the cleaner of the two, by the feed's good values Poland.
const NEXT: [(&str, f64); 2] = [("FR", 70.0), ("PL", 700.0)];
const GOOD: [(&str, f64); 2] = [("FR", 601.0), ("PL", 52.0)];

/// What the feed does with a question.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Bytes as they go out, or ..
    answer: Option<String>,
    /// .. the body of a good head, or ..
    body: Option<String>,
    /// .. only the intensity of an answer that is good apart from it.
    value: Option<String>,
    /// A text, and how often it follows.
    repeat: Option<(String, usize)>,
    /// `reset` or `stall`; else the connection closes in order.
    then: Option<String>,
    /// What `/status` says then; none where nothing is said, or not yet.
    error: Option<String>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../cases/carbon/hostile_feed.json")).unwrap()
}

/// A feed that answers well, or as it is told.
struct Feed {
    peer: Peer,
    case: Arc<Mutex<Option<Case>>>,
    asked: Arc<AtomicUsize>,
    elsewhere: Peer,
}

impl Feed {
    fn start(case: Option<Case>) -> Self {
        let elsewhere = Peer::answering("200 OK", "{}");
        let (case, asked) = (Arc::new(Mutex::new(case)), Arc::new(AtomicUsize::new(0)));
        let (told, count, other) = (Arc::clone(&case), Arc::clone(&asked), elsewhere.address);
        let peer = Peer::start(move |seen, stream| {
            count.fetch_add(1, SeqCst);
            let case = told.lock().unwrap().clone();
            if let Some(case) = case {
                case.play(seen, stream, other);
            } else {
                let zone = zone_of(seen);
                respond(stream, "200 OK", "", good(&zone, &usual(&zone)).as_bytes());
            }
            Then::Close
        });
        Self { peer, case, asked, elsewhere }
    }

    /// Sources: this feed, a file that knows less of the matter, and the shipped figures.
    fn chain(&self, directory: &std::path::Path, interval: &str) -> String {
        let now = jiff::Timestamp::now();
        let file = directory.join("grid.csv");
        let [france, poland] = NEXT.map(|(zone, grams)| format!("{zone},{now},{grams}"));
        std::fs::write(&file, format!("grid_zone,datetime,carbon_intensity_g_per_kwh\n{france}\n{poland}\n")).unwrap();
        let (feed, file) = (self.peer.address, file.display());
        format!(
            "carbon: {{ sources: [ {{ electricity_maps: {{ base_url: 'http://{feed}/v4', token: {TOKEN}, interval: {interval} }} }}, {{ file: {{ path: {file} }} }}, builtin ] }}"
        )
    }

    /// The token goes to the feed and nowhere else.
    fn check_questions(&self, backends: &[&Peer]) {
        let question = self.peer.next();
        assert_eq!(question.field("auth-token"), Some(TOKEN));
        assert!(!self.elsewhere.saw_more() && self.elsewhere.connections() == 0, "a redirect was followed");
        for backend in backends {
            let seen = backend.next();
            assert!(!seen.head.contains(TOKEN), "{}", seen.head);
        }
    }
}

fn zone_of(seen: &Seen) -> String {
    let query = seen.target().split_once("zone=").unwrap().1;
    query.split('&').next().unwrap().to_owned()
}

/// The feed's good value for a zone.
fn usual(zone: &str) -> String {
    GOOD.iter().find(|(name, _)| *name == zone).unwrap().1.to_string()
}

fn good(zone: &str, value: &str) -> String {
    format!(r#"{{"zone":"{zone}","carbonIntensity":{value},"datetime":"{}"}}"#, jiff::Timestamp::now())
}

impl Case {
    fn play(&self, seen: &Seen, stream: &mut TcpStream, elsewhere: SocketAddr) {
        let zone = zone_of(seen);
        let body = self.value.as_ref().map(|value| good(&zone, value)).or_else(|| self.body.clone());
        let filled = |text: String| {
            let text = text.replace("{zone}", &zone).replace("{token}", TOKEN).replace("{elsewhere}", &elsewhere.to_string());
            text.replace("{now}", &jiff::Timestamp::now().to_string()).replace("{grams}", &usual(&zone))
        };
        match (body, self.answer.clone()) {
            (Some(body), _) => respond(stream, "200 OK", "content-type: application/json\r\n", filled(body).as_bytes()),
            (None, answer) => {
                let _ = stream.write_all(filled(answer.unwrap()).as_bytes());
            }
        }
        if let Some((text, count)) = &self.repeat {
            let block = text.repeat(10_000);
            // It ends early when the proxy has had enough.
            let _ = (0..count / 10_000).try_for_each(|_| stream.write_all(block.as_bytes()));
        }
        match self.then.as_deref() {
            Some("stall") => wait_for_close(stream),
            Some("reset") => socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => {}
        }
    }
}

/// A proxy with two backends on the two zones.
struct World {
    proxy: Harness,
    backends: [Peer; 2],
    _directory: tempfile::TempDir,
}

impl World {
    fn of(feed: &Feed, interval: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backends = [Peer::answering("200 OK", OK), Peer::answering("200 OK", OK)];
        let proxy = Harness::with(
            &feed.chain(directory.path(), interval),
            &[("france", backends[0].address, "grid_zone: FR"), ("poland", backends[1].address, "grid_zone: PL")],
            "",
        );
        Self { proxy, backends, _directory: directory }
    }

    /// Waits until these values of this source are in force.
    fn wait_for(&self, values: [(&str, f64); 2], source: &str, what: &str) {
        self.proxy.wait_for_status(what, |status| {
            let zones = status["grid"].as_array().unwrap();
            values.iter().all(|(zone, grams)| {
                zones.iter().any(|seen| {
                    let reading = &seen["reading"];
                    seen["grid_zone"] == *zone
                        && reading["intensity_g_per_kwh"] == *grams
                        && reading["source"].as_str().unwrap().starts_with(source)
                })
            })
        });
    }

    /// Waits until the feed has played its part in full: both zones twice, or as often as it will ever be asked.
    fn wait_for_the_end_of(&self, case: &Case, feed: &Feed, before: usize) {
        let asked = || feed.asked.load(SeqCst) - before;
        match &case.error {
            Some(error) => {
                self.proxy.wait_for_status(&case.name, |status| {
                    let said = status["carbon_sources"][0]["last_error"].as_str().unwrap_or_default();
                    assert!(!said.contains(TOKEN), "{}: {said}", case.name);
                    said.contains(error)
                });
                patiently(&case.name, || (asked() >= 2).then_some(()));
            }
            None if case.then.is_some() => patiently(&case.name, || (asked() >= 1).then_some(())),
            None => patiently(&case.name, || (asked() >= 6).then_some(())),
        }
    }

    /// A request is served by `backend`, chosen for `grams`; in so much time.
    fn serves(&self, backend: &str, grams: &str, case: &str) -> Duration {
        let asked = Instant::now();
        let mut client = Client::connect(self.proxy.address);
        client.post("/v1/chat/completions", "", r#"{"model":"m"}"#);
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("x-windward-backend")), (200, Some(backend)), "{case}");
        assert_eq!(answer.field("x-windward-carbon-intensity"), Some(grams), "{case}");
        asked.elapsed()
    }
}

/// Whatever the feed does, a request waits for nothing of it.
const WITHIN: Duration = Duration::from_secs(1);

#[test]
fn the_last_good_value_stays() {
    let mut took = Vec::new();
    for case in cases() {
        let feed = Feed::start(None);
        let world = World::of(&feed, "5ms");
        world.wait_for(GOOD, "electricity-maps", "the good values");
        let before = feed.asked.load(SeqCst);
        *feed.case.lock().unwrap() = Some(case.clone());
        world.wait_for_the_end_of(&case, &feed, before);
        took.push(world.serves("poland", "52", &case.name));
        feed.check_questions(&[&world.backends[1]]);
    }
    assert!(in_the_middle(took) < WITHIN);
}

#[test]
fn the_next_source_speaks_for_a_feed_that_never_did() {
    let mut took = Vec::new();
    for case in cases() {
        let feed = Feed::start(Some(case.clone()));
        let world = World::of(&feed, "5ms");
        world.wait_for_the_end_of(&case, &feed, 0);
        world.wait_for(NEXT, "file", &case.name);
        took.push(world.serves("france", "70", &case.name));
        feed.check_questions(&[&world.backends[0]]);
    }
    assert!(in_the_middle(took) < WITHIN);
}

#[test]
fn a_value_past_its_age_limit_gives_way_to_the_next_source() {
    let hours_ago = |hours: i64| jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    for (hours, source, values) in [(1, "electricity-maps", GOOD), (3, "file", NEXT)] {
        let case = Case {
            name: format!("a value of {hours} hours ago"),
            body: Some(format!(r#"{{"zone":"{{zone}}","carbonIntensity":{{grams}},"datetime":"{}"}}"#, hours_ago(hours))),
            ..cases().swap_remove(0)
        };
        let feed = Feed::start(Some(case));
        let world = World::of(&feed, "5ms");
        world.wait_for(values, source, "the values that count");
    }
}

#[test]
fn a_feed_is_asked_at_its_pace_and_not_by_requests() {
    let feed = Feed::start(None);
    let world = World::of(&feed, "10m");
    world.wait_for(GOOD, "electricity-maps", "the good values");
    for _ in 0..50 {
        world.serves("poland", "52", "good values");
    }
    assert_eq!(feed.asked.load(SeqCst), 2, "once for each zone");
}

#[test]
fn a_feed_that_comes_back_is_believed_again() {
    let feed = Feed::start(cases().into_iter().find(|case| case.name == "a fault"));
    let world = World::of(&feed, "5ms");
    world.wait_for(NEXT, "file", "the next source");
    *feed.case.lock().unwrap() = None;
    world.wait_for(GOOD, "electricity-maps", "the feed");
    world.serves("poland", "52", "good values");
    let record = world.proxy.record();
    let chosen = &record["carbon"]["chosen"];
    assert_eq!((&chosen["source"], &chosen["freshness"]), (&"electricity-maps".into(), &"fresh".into()));
}
