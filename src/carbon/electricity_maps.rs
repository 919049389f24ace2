//! Electricity Maps: what to ask for the latest intensity of a zone, and what the answer is worth.
//!
//! Three habits of this service decide what stands here. Without a zone that it knows it answers for wherever the caller's
//! address seems to be, so the question forbids that and the answer's zone is compared. `datetime` labels an hour and may lie
//! ahead of `updatedAt`, so `updatedAt` is not the time of the value. And `carbonIntensity` may be null, which is no value rather
//! than a small one. `v3` and `v4` answer this call alike.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::Deserialize;

use super::{SourceError, SourceErrorKind as Kind, plausible};
use crate::grid::{Basis, GridZone, Quality, Reading, Signal};

/// The public service.
pub const DEFAULT_BASE: &str = "https://api.electricitymaps.com";

/// The header that carries the token.
pub const TOKEN_HEADER: &str = "auth-token";

/// The largest answer read, in bytes. A recorded one has 300; this leaves room for fields to come and none for a page of HTML
/// that never ends.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a value holds from the hour that it is labelled with: the hour itself, and a quarter more because the next hour's
/// value appears some minutes late. That is three polls of five minutes; after it the value is used on as stale.
const VALID_FOR: Duration = Duration::from_mins(75);

/// How far ahead of now a label may lie. The end of the current hour is up to one hour ahead; the second is for a clock that is
/// off.
const MAX_AHEAD: Duration = Duration::from_hours(2);

/// The least lifecycle intensity believed, in gCO2e/kWh: whatever makes electricity has been built, and no technology's factor lies
/// near this. Zero is what a broken pipeline says, and it would win every request. Of direct emissions a grid may have none.
const LEAST_LIFECYCLE_G_PER_KWH: f64 = 1.0;

/// The longest pause that a service can ask for: beyond a day the operator is better served by another refusal in the log.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// Which interface is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// The older one, which many keys and stand-ins still serve.
    V3,
    /// The current one.
    #[default]
    V4,
}

/// What was asked, and when its answer came.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Of which zone.
    pub zone: &'a GridZone,
    /// With what counted.
    pub basis: Basis,
    /// The name that the reading's source is to have.
    pub source: &'a Arc<str>,
    /// When the answer came.
    pub now: Timestamp,
}

/// The path and query of the call for the latest intensity of a zone, to be put behind the base URL.
pub fn latest_target(version: Version, zone: &GridZone, basis: Basis) -> String {
    let version = match version {
        Version::V3 => "v3",
        Version::V4 => "v4",
    };
    let mut target = format!("/{version}/carbon-intensity/latest?zone=");
    for byte in zone.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // A `String` takes whatever is written to it.
            let _ = write!(target, "%{byte:02X}");
        }
    }
    target.push_str("&shouldUseFallbackCallerLookup=false&emissionFactorType=");
    target.push_str(name(basis));
    target
}

/// The reading that an answer holds. `retry_after` is the header of that name. An answer whose `datetime` is long past gives a
/// reading that is not fresh; an answer for another zone, of another basis or without a value gives an error.
pub fn read_latest(
    status: StatusCode,
    retry_after: Option<&str>,
    body: &[u8],
    question: &Question<'_>,
) -> Result<Reading, SourceError> {
    if status != StatusCode::OK {
        return Err(refusal(status, question).with_retry_after(retry_after.and_then(|text| pause(text, question.now))));
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(error(Kind::TooLarge, question, "the answer is larger than 64 KiB"));
    }
    let answer: Latest = serde_json::from_slice(body).map_err(|fault| {
        // The fault's own text would quote the body.
        let place = format!("the answer is not the expected JSON (line {}, column {})", fault.line(), fault.column());
        error(Kind::Malformed, question, &place)
    })?;
    reading(&answer, question)
}

/// The fields of the answer that are used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Latest {
    zone: String,
    carbon_intensity: Option<f64>,
    datetime: Timestamp,
    emission_factor_type: Option<String>,
    is_estimated: Option<bool>,
}

fn reading(answer: &Latest, question: &Question<'_>) -> Result<Reading, SourceError> {
    if answer.zone != question.zone.as_str() {
        return Err(error(Kind::NotWhatWasAsked, question, "the answer is about another zone"));
    }
    if answer.emission_factor_type.as_deref().is_some_and(|basis| basis != name(question.basis)) {
        return Err(error(Kind::NotWhatWasAsked, question, "the answer counts with other emission factors"));
    }
    let value = answer.carbon_intensity.ok_or_else(|| error(Kind::NoValue, question, "there is no value at present"))?;
    let least = if question.basis == Basis::Lifecycle { LEAST_LIFECYCLE_G_PER_KWH } else { 0.0 };
    let intensity = plausible(value)
        .filter(|_| value >= least)
        .ok_or_else(|| error(Kind::Implausible, question, "no grid has that intensity"))?;
    if answer.datetime.duration_since(question.now) > MAX_AHEAD.try_into().unwrap_or(jiff::SignedDuration::MAX) {
        return Err(error(Kind::Implausible, question, "the value is labelled more than two hours ahead of now"));
    }
    Ok(Reading {
        intensity,
        signal: Signal::Average,
        basis: question.basis,
        // Silence counts as an estimate: at the live edge most values are.
        quality: if answer.is_estimated == Some(false) { Quality::Measured } else { Quality::Estimated },
        measured_at: answer.datetime,
        valid_until: answer.datetime.checked_add(VALID_FOR).unwrap_or(answer.datetime),
        source: Arc::clone(question.source),
    })
}

fn refusal(status: StatusCode, question: &Question<'_>) -> SourceError {
    let (kind, what) = match status.as_u16() {
        401 => (Kind::Credential, "the token is not accepted (401)".to_owned()),
        403 => (Kind::NotCovered, "the token does not cover this zone or call (403)".to_owned()),
        404 => (Kind::NotFound, "the zone or the call is unknown there (404)".to_owned()),
        429 => (Kind::TooManyRequests, "asked too often (429)".to_owned()),
        500..=599 => (Kind::Unavailable, format!("the service has a fault ({})", status.as_u16())),
        other => (Kind::Status, format!("unexpected status {other}")),
    };
    error(kind, question, &what)
}

fn error(kind: Kind, question: &Question<'_>, what: &str) -> SourceError {
    SourceError::new(kind, format!("{}, zone {}: {what}", question.source, question.zone.as_str()))
}

/// How long a `Retry-After` asks to wait, as seconds or as a date; `None` when it is neither or past.
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let pause = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let until = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(until.duration_since(now)).ok()?
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

const fn name(basis: Basis) -> &'static str {
    match basis {
        Basis::Lifecycle => "lifecycle",
        Basis::Direct => "direct",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grid::{Freshness, Grid, ZoneId};

    const LATEST: &[u8] = include_bytes!("../../tests/cases/carbon/electricity_maps_latest.json");

    fn read(status: u16, retry_after: Option<&str>, body: &[u8]) -> Result<Reading, SourceError> {
        let (zone, source) = (GridZone::new("SE-SE3"), Arc::from("electricity-maps"));
        let question = Question { zone: &zone, basis: Basis::Lifecycle, source: &source, now: at("2026-03-02T10:40:00Z") };
        read_latest(StatusCode::from_u16(status).unwrap(), retry_after, body, &question)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn kind(body: &str) -> Kind {
        read(200, None, body.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn asks_for_one_zone_and_nothing_else() {
        assert_eq!(
            latest_target(Version::V4, &GridZone::new("US-NW-PACW"), Basis::Lifecycle),
            "/v4/carbon-intensity/latest?zone=US-NW-PACW&shouldUseFallbackCallerLookup=false&emissionFactorType=lifecycle"
        );
        let odd = latest_target(Version::V3, &GridZone::new("DE&zone=FR é"), Basis::Direct);
        assert!(odd.starts_with("/v3/carbon-intensity/latest?zone=DE%26zone%3DFR%20%C3%A9&should"), "{odd}");
        assert!(odd.ends_with("emissionFactorType=direct"));
    }

    #[test]
    fn reads_an_answer() {
        let reading = read(200, None, LATEST).unwrap();
        assert_eq!(Some(reading.intensity), plausible(23.0));
        assert_eq!((reading.signal, reading.basis, reading.quality), (Signal::Average, Basis::Lifecycle, Quality::Estimated));
        assert_eq!((reading.measured_at, reading.valid_until), (at("2026-03-02T11:00:00Z"), at("2026-03-02T12:15:00Z")));
        assert_eq!(&*reading.source, "electricity-maps");
    }

    #[test]
    fn a_measured_value_says_so_itself() {
        let quality = |flag: &str| {
            let body = format!(r#"{{"zone":"SE-SE3","carbonIntensity":23,"datetime":"2026-03-02T10:00:00Z"{flag}}}"#);
            read(200, None, body.as_bytes()).unwrap().quality
        };
        assert_eq!(quality(r#","isEstimated":false"#), Quality::Measured);
        assert_eq!(quality(""), Quality::Estimated);
    }

    #[test]
    fn an_answer_of_long_ago_is_not_fresh() {
        let reading = read(200, None, br#"{"zone":"SE-SE3","carbonIntensity":23,"datetime":"1994-11-06T08:00:00Z"}"#).unwrap();
        let grid = Grid::new(vec![None], Duration::from_hours(2)).with(ZoneId(0), reading);
        assert_eq!(grid.at(ZoneId(0), at("2026-03-02T10:40:00Z")), None);
        let recent = Grid::new(vec![None], Duration::from_hours(2)).with(ZoneId(0), read(200, None, LATEST).unwrap());
        assert_eq!(recent.at(ZoneId(0), at("2026-03-02T10:40:00Z")).unwrap().freshness, Freshness::Fresh);
    }

    #[test]
    fn refuses_what_was_not_asked_and_what_cannot_be() {
        let body = |zone: &str, value: &str, datetime: &str| {
            format!(r#"{{"zone":"{zone}","carbonIntensity":{value},"datetime":"{datetime}"}}"#)
        };
        let now = "2026-03-02T10:00:00.000Z";
        assert_eq!(kind(&body("SE", "23", now)), Kind::NotWhatWasAsked);
        assert_eq!(
            kind(r#"{"zone":"SE-SE3","carbonIntensity":23,"datetime":"2026-03-02T10:00:00Z","emissionFactorType":"direct"}"#),
            Kind::NotWhatWasAsked
        );
        assert_eq!(kind(&body("SE-SE3", "null", now)), Kind::NoValue);
        assert_eq!(kind(&body("SE-SE3", "-1", now)), Kind::Implausible);
        assert_eq!(kind(&body("SE-SE3", "2501", now)), Kind::Implausible);
        assert_eq!(kind(&body("SE-SE3", "0", now)), Kind::Implausible);
        assert_eq!(kind(&body("SE-SE3", "NaN", now)), Kind::Malformed);
        assert_eq!(kind(&body("SE-SE3", "1e999", now)), Kind::Malformed);
        assert_eq!(kind(&body("SE-SE3", "\"23\"", now)), Kind::Malformed);
        assert_eq!(kind(&body("SE-SE3", "[23]", now)), Kind::Malformed);
        assert_eq!(kind(&body("SE-SE3", "23", "yesterday")), Kind::Malformed);
        assert_eq!(kind(&body("SE-SE3", "23", "2026-03-02T13:00:00Z")), Kind::Implausible);
        assert_eq!(kind(&body("SE-SE3", "23", "9999-12-30T00:00:00Z")), Kind::Implausible);
        for other in
            ["", "{}", "[]", "null", "<html>", r#"{"zone":"SE-SE3"}"#, r#"{"zone":7,"carbonIntensity":1,"datetime":"x"}"#]
        {
            assert_eq!(kind(other), Kind::Malformed, "{other}");
        }
        let padded = [b" ".repeat(MAX_BODY_BYTES), LATEST.to_vec()].concat();
        assert_eq!(read(200, None, &padded).unwrap_err().kind(), Kind::TooLarge);
    }

    #[test]
    fn a_status_says_whose_fault_it_is() {
        for (status, expected, operator) in [
            (401, Kind::Credential, true),
            (403, Kind::NotCovered, true),
            (404, Kind::NotFound, true),
            (429, Kind::TooManyRequests, false),
            (500, Kind::Unavailable, false),
            (503, Kind::Unavailable, false),
            (302, Kind::Status, false),
            (204, Kind::Status, false),
            (418, Kind::Status, false),
        ] {
            let error = read(status, None, b"Access denied for token s3cr3t").unwrap_err();
            assert_eq!((error.kind(), error.kind().needs_the_operator()), (expected, operator), "{status}");
            assert!(error.to_string().contains(&status.to_string()) && error.to_string().contains("SE-SE3"), "{error}");
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn a_pause_is_heeded_up_to_a_day() {
        let wait = |text| read(429, Some(text), b"").unwrap_err().retry_after();
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(wait(" 0 "), Some(Duration::ZERO));
        assert_eq!(wait("99999999999999999999999"), Some(Duration::from_hours(24)));
        assert_eq!(wait("Mon, 02 Mar 2026 10:50:00 GMT"), Some(Duration::from_mins(10)));
        assert_eq!(wait("Mon, 02 Mar 2026 10:30:00 GMT"), None);
        for nonsense in ["", "soon", "-5", "1.5"] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
        assert_eq!(read(429, None, b"").unwrap_err().retry_after(), None);
    }

    #[test]
    fn reads_a_recorded_answer() {
        let Some(dir) = std::env::var_os("WINDWARD_DATA") else {
            // Not `eprintln!`: what a passing test prints is hidden, and a silent skip looks like a pass.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: WINDWARD_DATA is not set, so no recorded answer was read\n",
            );
            return;
        };
        let body = std::fs::read(std::path::Path::new(&dir).join("samples/electricitymaps_latest.json")).unwrap();
        let (zone, source) = (GridZone::new("US-CAR-DUK"), Arc::from("recorded"));
        let question = Question { zone: &zone, basis: Basis::Lifecycle, source: &source, now: at("2024-03-06T18:49:00Z") };
        let reading = read_latest(StatusCode::OK, None, &body, &question).unwrap();
        assert_eq!((Some(reading.intensity), reading.quality), (plausible(216.0), Quality::Estimated));
        assert_eq!(reading.measured_at, at("2024-03-06T19:00:00Z"));
    }

    proptest! {
        #[test]
        fn any_answer_is_a_plausible_reading_or_an_error_that_quotes_nothing(
            zone in prop_oneof![Just("SE-SE3".to_owned()), Just("SECRETTOKEN".to_owned())],
            value in "-?[0-9]{1,5}(\\.[0-9]{1,3})?|null|\"SECRETTOKEN\"",
            datetime in "(1[0-9]|20)[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:00:00Z|SECRETTOKEN",
        ) {
            let body = format!(r#"{{"zone":"{zone}","carbonIntensity":{value},"datetime":"{datetime}"}}"#);
            match read(200, None, body.as_bytes()) {
                Ok(reading) => prop_assert_eq!(plausible(reading.intensity.get()), Some(reading.intensity)),
                Err(error) => {
                    let text = format!("{error:?} {error}");
                    prop_assert!(!text.contains("SECRETTOKEN"), "{}", text);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            status in 100_u16..1000,
            body in prop::collection::vec(any::<u8>(), 0..200),
            wait in "\\PC{0,30}",
        ) {
            let _ = read(status, Some(&wait), &body);
        }
    }
}
