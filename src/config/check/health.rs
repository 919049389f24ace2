//! Health checks of backends.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::Check;
use crate::backend::HealthCheck;
use crate::config::decode::At;
use crate::config::file::HealthFile;

/// A backend that dies is found within half a minute, and one check in ten seconds is nothing to one that lives.
const EVERY: Duration = Duration::from_secs(10);
/// Shorter makes an attack of it.
const LEAST_EVERY: Duration = Duration::from_millis(100);
/// A server that needs longer to say that it works does not.
const TIMEOUT: Duration = Duration::from_secs(2);
/// One lost packet is no outage, three are.
const FAILURES: u64 = 3;
/// One passing check may be luck; what follows is a slow start in any case.
const PASSES: u64 = 2;
/// More in a row than this would never come.
const MOST_IN_A_ROW: u64 = 100;

impl Check<'_> {
    pub(super) fn health(&mut self, written: HealthFile) -> Option<HealthCheck> {
        let HealthFile { path, every, timeout, failures, passes } = written;
        let every_mark = every.as_ref().map(|at| at.mark);
        let every = self.span(every, EVERY);
        if let Some(mark) = every_mark.filter(|_| every < LEAST_EVERY && !every.is_zero()) {
            self.problems.add(mark, "a check every so often is a load of its own").mend =
                Some("write `100ms` or more".to_owned());
        }
        // It may be longer than `every`: no backend is asked twice at once.
        let timeout = self.span(timeout, TIMEOUT);
        let failures = self.count(failures.as_ref(), FAILURES, 1..=MOST_IN_A_ROW) as u32;
        let passes = self.count(passes.as_ref(), PASSES, 1..=MOST_IN_A_ROW) as u32;
        let target = self.health_target(&path)?;
        Some(HealthCheck { target, every, timeout, failures, passes })
    }

    fn health_target(&mut self, path: &At<String>) -> Option<PathAndQuery> {
        let target = PathAndQuery::try_from(path.value.as_str());
        let target = target.ok().filter(|_| path.value.starts_with('/') && !path.value.contains('#'));
        if target.is_none() {
            self.problems.add(path.mark, format!("{} is no path", path.shown())).mend =
                Some("write it from the root of the host, as `/health`".to_owned());
        }
        target
    }
}
