//! How far away a backend is of which nothing is known yet.
//!
//! What an operator does not declare of a backend is taken for middling. Of two middling ones the near one answers first, and that can be
//! known without a token: a connection is opened and closed again, and the time it takes is one round trip. It is added to what is
//! expected of the first token, so that a cold backend is neither best nor never tried. Once an answer has come, what is learned from
//! answers is better, and nobody is asked any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backend::{Backend, BackendId};
use crate::state::{Snapshot, State};
use crate::upstream::{Names, Target, round_trip};

/// From one look to the next. A cold backend stays one while it is too far or too dirty, so this goes on; a connection in ten seconds
/// is nothing to whoever serves models.
const EVERY: Duration = Duration::from_secs(10);
/// Connections at one moment.
const AT_ONCE: usize = 16;
/// Who takes longer to connect has other troubles than its distance.
const LONGEST: Duration = Duration::from_secs(2);

/// Measures for as long as it is polled.
pub async fn run(state: Arc<State>, names: Names) {
    loop {
        let snapshot = state.load();
        for some in cold(&snapshot).chunks(AT_ONCE) {
            let mut probes: JoinSet<(BackendId, Option<Duration>)> = JoinSet::new();
            for backend in some.iter().cloned() {
                let (names, origin) = (names.clone(), &backend.origin);
                let target = Target { host: Arc::clone(&origin.host), port: origin.port, within: LONGEST, tls: origin.tls };
                probes.spawn(async move { (backend.id, round_trip(&names, &target).await) });
            }
            while let Some(probed) = probes.join_next().await {
                if let Ok((id, Some(span))) = probed {
                    snapshot.live(id).connected_in(span);
                }
            }
        }
        drop(snapshot);
        sleep(EVERY).await;
    }
}

/// The backends that are to be measured.
fn cold(snapshot: &Snapshot) -> Vec<Arc<Backend>> {
    let wanted = snapshot.plan.backends.iter().filter(|backend| backend.probe && snapshot.live(backend.id).is_cold());
    wanted.cloned().collect()
}
