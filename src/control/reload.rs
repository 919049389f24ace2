//! When the configuration file is read again, and what is made of it.
//!
//! A watch on the *directory* sees an atomic rename, an editor's save and the change of a mounted Kubernetes volume alike, where a
//! watch on the file would follow the old one into oblivion. It is only the quick way: a poll of the content is the guarantee.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::regular::open_regular;
use super::{ConfigFile, Loader};
use crate::config::{Boot, MAX_FILE, Plan, boot_changes};

/// How long a file must be left alone before it is read: an editor writes in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A file that is written to all the time is read after this long nevertheless.
const LONGEST_QUIET: Duration = Duration::from_secs(2);

/// What a look at the file came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is as it was when last looked at.
    Unchanged,
    /// It was refused before and is now as the plan in force.
    Mended,
    /// It is refused.
    Failed(String),
    /// It is a plan, in which these keys were changed in vain.
    Loaded { plan: Box<Plan>, restart: Vec<&'static str> },
}

/// The file, and what was last seen of it.
pub(super) struct Reloader {
    path: PathBuf,
    loader: Loader,
    /// Of the process, not of the last plan: what needs a restart needs it until there was one.
    boot: Boot,
    /// The certificates and keys of the listeners that the last plan names.
    named: Vec<PathBuf>,
    in_force: u64,
    seen: u64,
}

impl Reloader {
    pub(super) fn new(config: ConfigFile, boot: Boot) -> Self {
        let named = named(&boot);
        let hash = hash(&Ok(config.text), &named);
        Self { path: config.path, loader: config.loader, boot, named, in_force: hash, seen: hash }
    }

    /// Looks at the file, and at the certificates and keys of listeners that it names: who renews those need not know of Windward.
    /// With all of them the same it is only loaded again when `forced`, since it may name other secrets that changed.
    pub(super) fn poll(&mut self, forced: bool) -> Outcome {
        let text = read_configuration(&self.path).map_err(|error| format!("cannot read {}: {error}", self.path.display()));
        let hash = hash(&text, &self.named);
        if hash == self.seen && !forced {
            return Outcome::Unchanged;
        }
        let was_refused = self.seen != self.in_force;
        self.seen = hash;
        if hash == self.in_force && was_refused && !forced {
            return Outcome::Mended;
        }
        match text.clone().and_then(|text| (self.loader)(&text)) {
            Ok(plan) => {
                let named = named(&plan.boot);
                if named != self.named {
                    self.seen = self::hash(&text, &named);
                    self.named = named;
                }
                self.in_force = self.seen;
                let restart = boot_changes(&self.boot, &plan.boot);
                Outcome::Loaded { plan: Box::new(plan), restart }
            }
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// The text of a configuration file. One that is too long is cut just past [`MAX_FILE`], which `load` then reports.
pub fn read_configuration(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_regular(path)?.0.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        // The cut may have split a character, which is not what is wrong with this file.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

/// Certificates and keys of the listeners.
fn named(boot: &Boot) -> Vec<PathBuf> {
    let tls = boot.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    tls.flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]).collect()
}

/// Of what the files hold. One that cannot be read has a hash too, so that this is said once and not at every look.
fn hash(text: &Result<String, String>, named: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    for path in named {
        let mut content = Vec::new();
        let read = open_regular(path).and_then(|(file, _)| file.take(MAX_FILE as u64).read_to_end(&mut content));
        (read.map_err(|error| error.kind()), content).hash(&mut hasher);
    }
    hasher.finish()
}

/// Waits for the end of a series of events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Debounce(Option<(Instant, Instant)>);

impl Debounce {
    pub(super) fn event(&mut self, now: Instant) {
        let (first, _) = self.0.unwrap_or((now, now));
        self.0 = Some((first, (now + QUIET).min(first + LONGEST_QUIET)));
    }

    /// When the file is to be read.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.map(|(_, until)| until)
    }
}

/// Watches the file's directory. Where that is not possible the poll has to do, and nobody ever hears of a change here.
pub(super) fn watch(path: Option<&Path>) -> (Option<(RecommendedWatcher, mpsc::Sender<()>)>, mpsc::Receiver<()>) {
    // One event that waits says as much as many.
    let (sender, receiver) = mpsc::channel(1);
    let Some(path) = path else { return (None, receiver) };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let events = sender.clone();
    let name = path.file_name().unwrap_or_default().to_owned();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(|path| concerns(path, &name))) {
            let _ = events.try_send(());
        }
    })
    .and_then(|mut watcher| watcher.watch(directory, RecursiveMode::NonRecursive).map(|()| watcher));
    match watcher {
        Ok(watcher) => (Some((watcher, sender)), receiver),
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "cannot watch the configuration; looking every 5 s");
            (None, receiver)
        }
    }
}

/// Whether a change of `path` may be one of the file called `name`: it bears that name, or it is one of the links by which Kubernetes
/// swaps a whole directory (`..data`). An access log in the same directory must not make the file be read for every request.
fn concerns(path: &Path, name: &OsStr) -> bool {
    path.file_name().is_some_and(|changed| changed == name || changed.as_encoded_bytes().starts_with(b".."))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::testing::plan;

    /// A loader of texts such as `streams=7`, which refuses `bad`.
    fn load(text: &str) -> Result<Plan, String> {
        let mut plan = plan();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("streams", number)) => plan.limits.streams = number.parse().unwrap(),
                Some(("workers", number)) => plan.boot.workers = Some(number.parse().unwrap()),
                _ => return Err(format!("1:1: what is `{line}`?")),
            }
        }
        Ok(plan)
    }

    fn reloader(path: &Path) -> Reloader {
        let text = std::fs::read_to_string(path).unwrap();
        Reloader::new(ConfigFile { path: path.to_path_buf(), text, loader: Box::new(load) }, plan().boot)
    }

    fn streams(outcome: &Outcome) -> Option<u32> {
        if let Outcome::Loaded { plan, .. } = outcome { Some(plan.limits.streams) } else { None }
    }

    #[test]
    fn sees_a_write_in_place_and_an_atomic_rename() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windward.yaml");
        std::fs::write(&path, "streams=1").unwrap();
        let mut reloader = reloader(&path);
        assert!(matches!(reloader.poll(false), Outcome::Unchanged));
        std::fs::write(&path, "streams=2").unwrap();
        assert_eq!(streams(&reloader.poll(false)), Some(2));
        assert!(matches!(reloader.poll(false), Outcome::Unchanged));
        std::fs::write(dir.path().join("new"), "streams=3").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(streams(&reloader.poll(false)), Some(3));
        assert_eq!(streams(&reloader.poll(true)), Some(3), "a forced one loads the same text again");
    }

    #[cfg(unix)]
    #[test]
    fn sees_a_kubernetes_volume_change() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("..v1", "streams=1"), ("..v2", "streams=2")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("windward.yaml"), text).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/windward.yaml", at("windward.yaml")).unwrap();
        let mut reloader = reloader(&at("windward.yaml"));
        symlink("..v2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(streams(&reloader.poll(false)), Some(2));
    }

    #[test]
    fn a_bad_file_is_said_once_and_mended_by_either_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windward.yaml");
        std::fs::write(&path, "streams=1").unwrap();
        let mut reloader = reloader(&path);
        std::fs::write(&path, "bad").unwrap();
        assert!(matches!(reloader.poll(false), Outcome::Failed(error) if error == "1:1: what is `bad`?"));
        assert!(matches!(reloader.poll(false), Outcome::Unchanged));
        assert!(matches!(reloader.poll(true), Outcome::Failed(_)), "whoever asks is told");
        std::fs::write(&path, "streams=1").unwrap();
        assert!(matches!(reloader.poll(false), Outcome::Mended));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reloader.poll(false), Outcome::Failed(error) if error.contains("windward.yaml")));
        assert!(matches!(reloader.poll(false), Outcome::Unchanged));
        std::fs::write(&path, "streams=2").unwrap();
        assert_eq!(streams(&reloader.poll(false)), Some(2));
    }

    #[test]
    fn names_the_keys_that_need_a_restart_until_there_was_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windward.yaml");
        std::fs::write(&path, "streams=1").unwrap();
        let mut reloader = reloader(&path);
        for text in ["workers=7", "workers=7\nstreams=2"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(reloader.poll(false), Outcome::Loaded { restart, .. } if restart == ["workers"]));
        }
        std::fs::write(&path, "workers=2").unwrap();
        assert!(matches!(reloader.poll(false), Outcome::Loaded { restart, .. } if restart.is_empty()));
    }

    #[test]
    fn a_configuration_is_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "é".repeat(MAX_FILE)).unwrap();
        assert!(read_configuration(&path).unwrap().len() > MAX_FILE);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_configuration(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn of_a_large_file_no_more_is_read_than_shows_that_it_is_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        let mut length = 0;
        let used = allocation_counter::measure(|| length = read_configuration(&path).unwrap().len());
        assert_eq!(length, MAX_FILE + 1);
        assert!(used.bytes_max < 8 << 20, "{} bytes", used.bytes_max);
    }

    #[test]
    fn waits_for_quiet_but_not_for_ever() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        assert_eq!(debounce.until(), None);
        debounce.event(start);
        assert_eq!(debounce.until(), Some(start + QUIET));
        for tenth in 1..30 {
            debounce.event(start + Duration::from_millis(100) * tenth);
        }
        assert_eq!(debounce.until(), Some(start + LONGEST_QUIET));
    }

    #[test]
    fn the_watch_hears_of_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windward.yaml");
        let (watcher, mut changes) = watch(Some(&path));
        assert!(watcher.is_some());
        std::fs::write(&path, "streams=1").unwrap();
        assert_eq!(changes.blocking_recv(), Some(()));
    }
}
