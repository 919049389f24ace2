//! Other replicas.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Check;
use crate::config::decode::{At, quoted};
use crate::config::file::PeersFile;
use crate::config::plan::PeersPlan;

/// Between two messages on what is in flight. In simulation four replicas lose nothing by it on quiet days at 50 ms either; but under
/// strong noise, and with backends far away, 50 ms lost three points of the possible saving and 20 ms half of one, because a prompt is
/// read in about 50 ms and what is pending is old by then.
pub(in crate::config) const FAST: Duration = Duration::from_millis(20);
/// Between two on what was learned, which changes more slowly.
pub(in crate::config) const SLOW: Duration = Duration::from_millis(500);
/// In a simulation.
pub(in crate::config) const MOST_OFTEN: Duration = Duration::from_millis(1);
/// More often would be traffic of its own, and a decision takes no notice.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// A replica that ended without a word is counted for twenty of its usual pauses.
const MOST_SELDOM: Duration = Duration::from_secs(1);
/// Replicas that hear each other, and one's own address among them. More than are heard would count some of them only.
const MOST_OTHERS: usize = 33;
/// A secret that nobody guesses: sixteen characters of chance.
const LEAST_SECRET: usize = 16;

impl Check<'_> {
    pub(super) fn peers(&mut self, written: &PeersFile) -> Option<PeersPlan> {
        let listen = self.address(&written.listen);
        let others = &written.others;
        if others.value.0.is_empty() || others.value.0.len() > MOST_OTHERS {
            self.problems.add(others.mark, format!("expected 1 to {MOST_OTHERS} replicas")).mend =
                Some("leave `peers` out where there is one only".to_owned());
        }
        let targets: Option<Vec<_>> = others.value.0.iter().map(|other| self.replica(other)).collect();
        let secret = self.secret(&written.secret, "give all replicas the same one, made by chance");
        if secret.as_ref().is_some_and(|secret| secret.expose().len() < LEAST_SECRET) {
            self.problems
                .add(written.secret.mark, format!("a secret of less than {LEAST_SECRET} characters can be guessed"))
                .mend = Some("make one with `openssl rand -hex 32`".to_owned());
        }
        let mut often = |written: &Option<At<_>>, default| {
            let Some(At { value: crate::config::values::Span(span), mark, .. }) = written else { return default };
            if !(LEAST_PAUSE..=MOST_SELDOM).contains(span) {
                self.problems.add(*mark, "expected 10ms to 1s");
            }
            *span
        };
        let (fast, slow) = (often(&written.fast, FAST), often(&written.slow, SLOW));
        if let Some(site) = written.site.as_ref().filter(|site| site.value.trim().is_empty()) {
            self.problems.add(site.mark, "expected the name of a place").mend =
                Some("leave it out where all are in one".to_owned());
        }
        let site = written.site.as_ref().map_or_else(Arc::default, |site| Arc::from(site.value.trim()));
        Some(PeersPlan { listen: listen?, others: targets?, secret: secret?, site, fast, slow })
    }

    /// Host and port; the host may be a name.
    fn replica(&mut self, written: &At<String>) -> Option<(Arc<str>, u16)> {
        let text = written.value.trim();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some((address.ip().to_string().into(), address.port()));
        }
        let host = |host: &str| {
            !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match parts {
            Some((name, port)) if host(name) && port > 0 => Some((name.into(), port)),
            _ => {
                self.problems.add(written.mark, format!("{} is no host with a port", quoted(&written.value))).mend =
                    Some("write it as `10.0.0.7:7946` or `replicas.example:7946`".to_owned());
                None
            }
        }
    }
}
