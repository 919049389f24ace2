//! Writes down what was learned, now and then and at the end, and reads it at the start.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::regular::open_regular;
use crate::clock::Clock;
use crate::state::kept::{Broken, MOST_BYTES};
use crate::state::{Snapshot, State};
use crate::telemetry::metrics::Metrics;

/// How often it is written: so much learning a crash costs at most.
const EVERY: Duration = Duration::from_mins(1);

/// Takes over what the file holds, and says what came of it. Returns whether the file may be written: one that somebody else wrote
/// may not.
pub fn restore(path: &Path, snapshot: &mut Snapshot, clock: &dyn Clock) -> bool {
    let bytes = match read(path) {
        // Made by somebody so that it is there.
        Ok(bytes) if bytes.is_empty() => return true,
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::info!(path = %path.display(), "there is no state yet; it is learned anew");
            return true;
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the state cannot be read; it is left as it is, and nothing is kept");
            return false;
        }
    };
    match snapshot.restore(&bytes, clock.wall()) {
        Ok(restored) if restored.unsound == 0 => {
            tracing::info!(path = %path.display(), ?restored, "what was learned before is known again");
            true
        }
        Ok(restored) => {
            tracing::error!(path = %path.display(), ?restored, "the state holds what cannot be true; that is learned anew");
            true
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the state is not taken; it is learned anew");
            error != Broken::Foreign
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.0.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("it is too large"));
    }
    Ok(bytes)
}

/// Writes the file whole, or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    // What is there is left over from a crash, or a link that somebody laid: neither is written into.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Keeps what is learned until `stop`, and once more then.
pub async fn run(path: PathBuf, state: Arc<State>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        let ends = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let (snapshot, now, place) = (state.load(), clock.wall(), path.clone());
        // A disk may take its time, and this thread has other work.
        let written = tokio::task::spawn_blocking(move || write(&place, &snapshot.kept(now))).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                metrics.state_written.add_one();
                failed = false;
            }
            Err(error) => {
                metrics.state_failed.add_one();
                if !failed {
                    tracing::error!(path = %path.display(), %error, "the state cannot be written; this is tried again every minute");
                }
                failed = true;
            }
        }
        if ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::testing::plan;

    #[tokio::test]
    async fn what_it_writes_at_the_end_it_reads_at_the_start() {
        let (folder, clock, metrics) = (tempfile::tempdir().unwrap(), Arc::new(SystemClock), Arc::<Metrics>::default());
        let path = folder.path().join("state.json");
        let mut first = Snapshot::first(Arc::new(plan()), clock.monotonic());
        assert!(restore(&path, &mut first, &*clock), "none is there, so it may be written");
        let state = Arc::new(State::new(first));
        let live = Arc::clone(&state.load().live[0]);
        let model = live.model("m").unwrap();
        (0..100).for_each(|_| model.saw_first_token(10, crate::units::Millis::ZERO, crate::units::Millis::saturating(3000.0)));
        let stop = CancellationToken::new();
        stop.cancel();
        run(path.clone(), Arc::clone(&state), Arc::<SystemClock>::clone(&clock), Arc::clone(&metrics), stop.clone()).await;
        let mut again = Snapshot::first(Arc::new(plan()), clock.monotonic());
        assert!(restore(&path, &mut again, &*clock));
        let late = again.live[0].model("m").unwrap().first_token(10, 0).late.get();
        assert!((late / model.first_token(10, 0).late.get() - 1.0).abs() < 0.01, "{late}");
        assert_eq!(
            (metrics.state_written.get(), fs::read_dir(folder.path()).unwrap().count()),
            (1, 1),
            "nothing is left beside it"
        );

        fs::write(&path, "something of somebody else").unwrap();
        assert!(!restore(&path, &mut again, &*clock));
        fs::write(&path, "{\"windward_state\":1").unwrap();
        assert!(restore(&path, &mut again, &*clock), "a broken one of ours is written anew");
        let nowhere = folder.path().join("not/there.json");
        run(nowhere, state, clock, Arc::clone(&metrics), stop).await;
        assert_eq!(metrics.state_failed.get(), 1);
    }
}
