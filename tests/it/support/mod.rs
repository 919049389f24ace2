//! What the tests share: the proxy in this process with a configuration of the test's own, and peers that misbehave on request.

pub(crate) mod cases;
pub(crate) mod client;
mod fleet;
pub(crate) mod frames;
pub(crate) mod h2;
pub(crate) mod peer;
#[cfg(target_os = "linux")]
pub(crate) mod queues;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windward::clock::{Clock, SystemClock};
use windward::config::{self, Env};
use windward::control::ConfigFile;
use windward::server::{Handle, Serve, start_proxy};
use windward::telemetry::log::Identity;

pub(crate) use client::{Answer, Client};
pub(crate) use fleet::Fleet;
pub(crate) use peer::Peer;

use windward::cli::surroundings::Disk;

/// Policies that a test may name.
const POLICIES: &str = "\
policies:
  - name: standard
  - { name: in_order, objective: listed_order }
  - { name: unsafe_in_order, objective: listed_order, attempts: { retry_unsafe: true } }
";

/// A proxy under test; it stops when dropped.
pub(crate) struct Harness {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The admin address.
    pub admin: SocketAddr,
    /// Its configuration file.
    pub file: PathBuf,
    records: std::sync::Mutex<BufReader<std::fs::File>>,
    handle: Option<Handle>,
    _directory: tempfile::TempDir,
}

impl Harness {
    /// A proxy with one route `/v1` to these backends: name, address, further keys in YAML (each on a line of its own, indented by
    /// four). `route` is a further key of the route.
    pub(crate) fn start(backends: &[(&str, SocketAddr, &str)], route: &str) -> Self {
        Self::with("", backends, route)
    }

    /// The same with further top-level keys.
    pub(crate) fn with(top: &str, backends: &[(&str, SocketAddr, &str)], route: &str) -> Self {
        Self::of(|log| text(log, top, backends, route))
    }

    /// The same by a clock of the test's own.
    pub(crate) fn by(clock: Arc<dyn Clock>, backends: &[(&str, SocketAddr, &str)], route: &str) -> Self {
        Self::run(clock, |log| text(log, "", backends, route))
    }

    /// A proxy with the configuration that `text` gives for a path of the access log.
    pub(crate) fn of(text: impl FnOnce(&str) -> String) -> Self {
        Self::run(Arc::new(SystemClock), text)
    }

    /// Both of these.
    pub(crate) fn run(clock: Arc<dyn Clock>, text: impl FnOnce(&str) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.jsonl");
        let file = directory.path().join("windward.yaml");
        let text = text(&log.display().to_string());
        std::fs::write(&file, &text).unwrap();
        let name = file.display().to_string();
        let loader = Box::new(move |text: &str| load(&name, text));
        let plan = loader(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let handle = start_proxy(Serve {
            plan,
            config: Some(ConfigFile { path: file.clone(), text, loader }),
            clock,
            identity: Identity::new("test", 1),
            signals: false,
            background: None,
        })
        .unwrap();
        let records = BufReader::new(std::fs::File::open(&log).unwrap());
        Self {
            address: handle.addresses[0],
            admin: handle.admin.unwrap(),
            file,
            records: std::sync::Mutex::new(records),
            handle: Some(handle),
            _directory: directory,
        }
    }

    /// The next line of the access log, when it is there.
    pub(crate) fn record(&self) -> serde_json::Value {
        let mut line = String::new();
        let mut records = self.records.lock().unwrap();
        patiently("a record", || {
            records.read_line(&mut line).unwrap();
            line.ends_with('\n').then_some(())
        });
        serde_json::from_str(&line).unwrap()
    }

    /// `GET` on the admin address.
    pub(crate) fn ask_admin(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin);
        client.get(path, "");
        client.answer()
    }

    /// Waits until `/status` is as wanted.
    pub(crate) fn wait_for_status(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        patiently(what, || Some(self.ask_admin("/status").json()).filter(&wanted))
    }

    /// What `/status` says of a backend.
    pub(crate) fn backend(&self, name: &str) -> serde_json::Value {
        let status = self.ask_admin("/status").json();
        let backends = status["backends"].as_array().unwrap();
        backends.iter().find(|backend| backend["name"] == name).unwrap().clone()
    }

    /// Requests in flight at a backend, by its own word.
    pub(crate) fn in_flight(&self, backend: &str) -> u64 {
        self.backend(backend)["in_flight"].as_u64().unwrap()
    }

    /// Replaces the configuration file, the way editors do.
    pub(crate) fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let text = change(std::fs::read_to_string(&self.file).unwrap());
        let next = self.file.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.file).unwrap();
    }

    /// Stops it, and gives the lines that were not read yet, and how it went.
    pub(crate) fn stop_and_read(mut self) -> (Vec<serde_json::Value>, windward::server::Ended) {
        let handle = self.handle.take().unwrap();
        handle.shutdown();
        let ended = handle.join();
        let records = self.records.get_mut().unwrap();
        (records.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect(), ended)
    }

    /// Stops it and says how that went.
    pub(crate) fn stop(mut self) -> windward::server::Ended {
        let handle = self.handle.take().unwrap();
        handle.shutdown();
        handle.join()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown();
            handle.shutdown();
            handle.join();
        }
    }
}

fn load(name: &str, text: &str) -> Result<config::Plan, String> {
    config::load(name, text, &Env::default(), &Disk).map(|loaded| loaded.plan).map_err(|errors| errors.to_string())
}

/// A configuration with this access log, further top-level keys, and one route `/v1` to these backends.
pub(crate) fn text(log: &str, top: &str, backends: &[(&str, SocketAddr, &str)], route: &str) -> String {
    let mut text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 2\nlog: {{ access: {log} }}\n{POLICIES}"
    );
    if !top.is_empty() {
        let _ = writeln!(text, "{top}");
    }
    text.push_str("backends:\n");
    for (name, address, more) in backends {
        let _ = write!(text, "  - name: {name}\n    url: http://{address}/base\n");
        if !more.contains("grid_zone") && !more.contains("region") {
            text.push_str("    region: aws/eu-north-1\n");
        }
        if !more.is_empty() {
            let _ = writeln!(text, "    {more}");
        }
    }
    let names: Vec<&str> = backends.iter().map(|(name, ..)| *name).collect();
    let _ = write!(text, "routes:\n  - name: chat\n    match: {{ path: /v1 }}\n    backends: [{}]\n", names.join(", "));
    if !route.is_empty() {
        let _ = writeln!(text, "    {route}");
    }
    text
}

/// The time in the middle of some that were taken: one of them is the machine's, which turns to others than to us now and then, and
/// half of them are not.
pub(crate) fn in_the_middle(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

/// Asks again until there is an answer, within the patience of a test. What is waited for is done by other threads of this process,
/// so the pause only gives them the processor.
pub(crate) fn patiently<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < peer::PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}
