//! The Electricity Maps API, asked zone by zone.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Line;
use crate::backend::Secret;
use crate::carbon::electricity_maps::{MAX_BODY_BYTES, Question, TOKEN_HEADER, Version, latest_target, read_latest};
use crate::carbon::{SourceError, SourceErrorKind};
use crate::clock::Clock;
use crate::control::fetch::{Limits, Place, ask};
use crate::grid::{Basis, GridZone, Reading};

/// Its name in readings.
pub(super) const NAME: &str = "electricity-maps";
/// A zone that only the operator can mend is asked this much more seldom.
const PATIENCE: u32 = 12;

/// How long a question takes at most.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Questions at once. One after the other, a plan of fifty zones and a service that takes ten seconds for each would never be up to
/// date; all at once, a service with a rate limit would refuse most of them.
const AT_ONCE: usize = 4;

/// The service as configured.
#[derive(Debug)]
pub(super) struct Service {
    place: Place,
    authority: HeaderValue,
    prefix: String,
    version: Version,
    token: HeaderValue,
    basis: Basis,
    name: Arc<str>,
}

impl Service {
    /// Takes the base URL apart; its last segment says the version where it is one.
    pub(super) fn new(base_url: &str, token: &Secret, basis: Basis) -> Result<Self, SourceError> {
        let wrong = |what: &str| SourceError::new(SourceErrorKind::Malformed, format!("{NAME}: {what}"));
        let uri: Uri = base_url.parse().map_err(|_| wrong("the base URL is none"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("the base URL is neither https nor http")),
        };
        let host = uri.host().ok_or_else(|| wrong("the base URL has no host"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let authority = HeaderValue::from_str(authority).map_err(|_| wrong("the base URL has a strange host"))?;
        let path = uri.path().trim_end_matches('/');
        let (prefix, version) = match path.rsplit_once('/') {
            Some((prefix, "v3")) => (prefix, Version::V3),
            Some((prefix, "v4")) => (prefix, Version::V4),
            _ => (path, Version::default()),
        };
        let mut token = HeaderValue::from_str(token.expose()).map_err(|_| wrong("the token is no header value"))?;
        token.set_sensitive(true);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let place = Place { tls, host: host.trim_matches(['[', ']']).to_owned(), port };
        Ok(Self { place, authority, prefix: prefix.to_owned(), version, token, basis, name: Arc::from(NAME) })
    }

    /// The latest reading of a zone.
    async fn ask(&self, zone: &GridZone, clock: &dyn Clock) -> Result<Reading, SourceError> {
        let failed = |why: &str| SourceError::new(SourceErrorKind::Unreachable, format!("{NAME}, zone {}: {why}", zone.as_str()));
        let request = Request::get(format!("{}{}", self.prefix, latest_target(self.version, zone, self.basis)))
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("windward/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .header(TOKEN_HEADER, &self.token)
            .body(Full::default())
            .map_err(|_| failed("the question cannot be put"))?;
        // One byte more than is read, so that what is too large is seen to be.
        let limits = Limits { connect: TIMEOUT, total: TIMEOUT, body: MAX_BODY_BYTES + 1 };
        let answer = ask(&self.place, request, limits).await.map_err(failed)?;
        let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let question = Question { zone, basis: self.basis, source: &self.name, now: clock.wall() };
        read_latest(answer.status(), retry_after, answer.body(), &question)
    }
}

/// Asks for every zone in every `interval`, a few at a time.
pub(super) async fn run(service: Service, zones: Vec<GridZone>, interval: Duration, mut line: Line) {
    let service = Arc::new(service);
    let mut not_before: Vec<Option<Instant>> = vec![None; zones.len()];
    loop {
        // What is being asked ends with this task.
        let mut asked = JoinSet::new();
        for (zone, place) in zones.iter().zip(0..) {
            if not_before.get(place).is_some_and(|until| until.is_some_and(|until| Instant::now() < until)) {
                continue;
            }
            if asked.len() >= AT_ONCE {
                answered(&mut asked, &mut not_before, interval, &line).await;
            }
            let (service, zone, clock) = (Arc::clone(&service), zone.clone(), Arc::clone(&line.reporter.clock));
            asked.spawn(async move { (place, service.ask(&zone, &*clock).await.map(|reading| (zone, reading))) });
        }
        while answered(&mut asked, &mut not_before, interval, &line).await {}
        line.rest(interval).await;
    }
}

/// The place of a zone in the list, and what asking for it came to.
type Answered = (usize, Result<(GridZone, Reading), SourceError>);

/// Waits for the next answer and reports it; false when nothing is being asked.
async fn answered(asked: &mut JoinSet<Answered>, not_before: &mut [Option<Instant>], interval: Duration, line: &Line) -> bool {
    let Some(joined) = asked.join_next().await else { return false };
    // It is neither cancelled nor does it panic.
    let Ok((place, result)) = joined else { return true };
    if let Some(not_before) = not_before.get_mut(place) {
        *not_before = result.as_ref().err().and_then(|error| Instant::now().checked_add(pause(error, interval)));
    }
    line.report(result.map(|reading| vec![reading])).await;
    true
}

/// How long a zone is left alone after an error: as long as the service asked for, and longer where asking again cannot help.
fn pause(error: &SourceError, interval: Duration) -> Duration {
    let patience = if error.kind().needs_the_operator() { interval.saturating_mul(PATIENCE) } else { Duration::ZERO };
    error.retry_after().unwrap_or_default().max(patience)
}

#[cfg(test)]
#[path = "electricity_maps_tests.rs"]
mod tests;
