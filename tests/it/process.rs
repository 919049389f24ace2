//! Programs as a person starts them: the binary itself, and what `tests/setup.sh` installed of others.
//!
//! Most tests run the proxy within their own process, where time and peers are theirs. What is here is for the few that want the
//! whole: arguments, a file on disk, sockets, signals, and a client that was written by others.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// An upper bound on the silence of a program that is waited for; nothing waits that long unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running program, which ends with this value at the latest.
pub(super) struct Program {
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    /// What it said so far, for the message of a failure.
    said: Vec<String>,
}

impl Program {
    /// Starts it. Its standard input is open until it is stopped.
    pub(super) fn start(name: &'static str, command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, lines) = channel();
        pump(child.stdout.take().unwrap(), sender.clone());
        pump(child.stderr.take().unwrap(), sender);
        Self { name, child, lines, said: Vec::new() }
    }

    /// Waits for a line of its output in which `find` finds something.
    pub(super) fn wait_for<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let found = find(&line);
                    self.said.push(line);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Err(why) => panic!("{} did not say what was waited for ({why}):\n{}", self.name, self.said.join("\n")),
            }
        }
    }

    /// Its number in the system.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether a line of what was waited through so far holds this.
    #[cfg(target_os = "linux")]
    pub(super) fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }

    /// The most memory that it has had at one moment since it was last asked, in bytes.
    #[cfg(target_os = "linux")]
    pub(super) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it is alive");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        // proc(5): this sets the peak to what it has now.
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
        peak.parse::<u64>().unwrap() << 10
    }

    /// Waits for its end by itself: how it ended, and every line that it said.
    pub(super) fn finish(mut self) -> (ExitStatus, Vec<String>) {
        self.drain();
        (self.child.wait().unwrap(), std::mem::take(&mut self.said))
    }

    /// Closes its standard input, and asks it to end.
    pub(super) fn terminate(&mut self) {
        drop(self.child.stdin.take());
        self.signal("TERM");
    }

    /// Sends it the signal of that name.
    pub(super) fn signal(&self, name: &str) {
        // The standard library can only kill. A program that has ended already cannot be told to, which is as well.
        let _ = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.id())).stderr(Stdio::null()).status();
    }

    /// The same, and waits for its end.
    pub(super) fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.terminate();
        self.finish()
    }

    /// Reads until all its output is closed.
    fn drain(&mut self) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end:\n{}", self.name, self.said.join("\n")),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended; then both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end in a thread of its own, so that the program never waits for somebody to read.
fn pump(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            if line.is_ok_and(|line| lines.send(line).is_err()) {
                return;
            }
        }
    });
}

/// `windward` with these arguments.
pub(super) fn windward(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windward"));
    command.args(arguments);
    command
}

/// Starts the proxy on that configuration, which has one listener on any port; gives its address.
pub(super) fn serve(folder: &Path, configuration: &str) -> (Program, String) {
    let (proxy, address) = serve_by(windward([""; 0]), folder, configuration);
    (proxy, format!("http://{address}"))
}

/// The same by a command that hands its further arguments to `windward`; the address is that of the socket.
pub(super) fn serve_by(mut command: Command, folder: &Path, configuration: &str) -> (Program, SocketAddr) {
    let file = folder.join("windward.yaml");
    std::fs::write(&file, configuration).unwrap();
    let mut proxy = Program::start("windward serve", command.args(["serve", "--json", "-c"]).arg(file));
    let address = proxy.wait_for(|line| {
        let said: serde_json::Value = serde_json::from_str(line).ok()?;
        (said["message"] == "listening").then(|| said["address"].as_str()?.parse().ok()).flatten()
    });
    (proxy, address)
}

/// The lines of the access log that the proxy left there.
pub(super) fn access_log(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("access.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `tests/setup.sh` installs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Installed {
    /// The official SDKs, for Python.
    Sdk,
    /// The official SDKs for Node.
    Node,
    /// AWS's SDK for Rust, in a program of its own.
    Rust,
    /// The model server.
    Server,
}

impl Installed {
    /// The folder of the installation. When it is not there the test is passed over, and says so where it is seen; unless
    /// `WINDWARD_REQUIRE` (the words below, with commas) wants it, as in the project's own checks.
    pub(super) fn folder(self) -> Option<PathBuf> {
        let (word, option) = match self {
            Self::Sdk => ("sdk", ""),
            Self::Node => ("node", " --clients"),
            Self::Rust => ("rust", " --clients"),
            Self::Server => ("server", " --server"),
        };
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/windward"));
        let cache = std::env::var_os("WINDWARD_CACHE").map(PathBuf::from).or_else(home).unwrap_or_default();
        let there = self.trial(&cache).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if there.is_ok_and(|status| status.success()) {
            return Some(cache);
        }
        let required = std::env::var_os("WINDWARD_REQUIRE").unwrap_or_default();
        let required = required.to_string_lossy().split(',').any(|required| required.trim() == word);
        assert!(!required, "WINDWARD_REQUIRE wants `{word}`; run tests/setup.sh{option}");
        // Written past the harness, which hides what a test that passes has printed.
        let _ = writeln!(std::io::stderr(), "SKIPPED: the tests with `{word}` did not run; tests/setup.sh{option} installs it");
        None
    }

    /// A command that succeeds where it is installed.
    fn trial(self, cache: &Path) -> Command {
        // Looked for and not imported, which takes a second for some of them.
        let has = |packages: &str| {
            let mut command = Command::new(python(cache));
            let found = "import sys, importlib.util as it; sys.exit(not all(map(it.find_spec, sys.argv[1].split())))";
            command.args(["-c", found, packages]);
            command
        };
        match self {
            Self::Sdk => has("openai boto3 anthropic google.genai langchain_openai"),
            Self::Server => has("xllamacpp"),
            Self::Node => {
                let mut command = node(cache);
                command.arg("-e").arg("require('openai'); require('@aws-sdk/client-bedrock-runtime')");
                command
            }
            Self::Rust => {
                let mut command = Command::new("test");
                command.arg("-x").arg(rust_client(cache));
                command
            }
        }
    }
}

/// Node, with the packages of an installation.
pub(super) fn node(cache: &Path) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", cache.join("node/node_modules"));
    command
}

/// The program in `tests/clients/rust`, as built by an installation.
pub(super) fn rust_client(cache: &Path) -> PathBuf {
    cache.join("rust/debug/windward-client-aws")
}

/// The interpreter of an installation.
pub(super) fn python(cache: &Path) -> PathBuf {
    cache.join("venv/bin/python")
}

/// A script below `tests`, with that interpreter.
pub(super) fn script(cache: &Path, path: &str) -> Command {
    let mut command = Command::new(python(cache));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path));
    // A proxy that the machine goes through must not stand between the test and its own loopback.
    command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
