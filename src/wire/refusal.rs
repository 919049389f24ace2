//! What a refusal says of when to come back.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::fields::{Fields, Name};

/// Dates of HTTP in the form that every sender has to use. The two forms of the last century are as good as none: a backend that
/// still writes them is not known. A wrong day of the week does not make the date wrong.
static DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// What Anthropic's API says where it is overloaded.
const OVERLOADED: u16 = 529;

/// Whether the backend says that it did not do the work.
pub fn refuses(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE || status.as_u16() == OVERLOADED
}

/// Whether, of two refusals of which `later` is the later one, that is the one to pass on: the last 429, which says when there is room
/// again and which SDKs wait for, and the last 503 only where no backend said 429.
pub fn outranks(later: StatusCode, earlier: Option<StatusCode>) -> bool {
    later == StatusCode::TOO_MANY_REQUESTS || earlier != Some(StatusCode::TOO_MANY_REQUESTS)
}

/// How long `Retry-After` asks to wait: so many seconds, or until a date. The date is read against the response's own `Date`, since
/// both are of the backend's clock and ours may be another; without one it says nothing.
pub fn retry_after(fields: &Fields) -> Option<Duration> {
    let text = fields.get_text(Name::RetryAfter)?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let wait = date(fields, Name::RetryAfter)?.duration_since(date(fields, Name::Date)?);
    // One that has passed asks for nothing.
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

fn date(fields: &Fields, name: Name) -> Option<Timestamp> {
    DATES.parse_timestamp(fields.get_text(name)?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn asked(retry_after: &str, date: Option<&str>) -> Option<Duration> {
        let mut fields = Fields::default();
        fields.set(Name::RetryAfter, &HeaderValue::from_bytes(retry_after.as_bytes()).ok()?);
        if let Some(date) = date {
            fields.set(Name::Date, &HeaderValue::from_str(date).ok()?);
        }
        super::retry_after(&fields)
    }

    #[test]
    fn seconds_and_dates_are_read() {
        let seconds = |n| Some(Duration::from_secs(n));
        let noon = Some("Sun, 06 Nov 1994 12:00:00 GMT");
        assert_eq!(asked("7", None), seconds(7));
        assert_eq!(asked(" 0 ", noon), seconds(0));
        assert_eq!(asked("Sun, 06 Nov 1994 12:02:05 GMT", noon), seconds(125));
        assert_eq!(asked("Mon, 07 Nov 1994 12:00:00 GMT", noon), seconds(86_400));
        assert_eq!(asked("Sun, 06 Nov 1994 11:00:00 GMT", noon), seconds(0), "it is past");
        for (text, date) in [
            ("Sun, 06 Nov 1994 12:02:05 GMT", None),
            ("Sun, 06 Nov 1994 12:02:05 GMT", Some("today")),
            ("", noon),
            ("-1", noon),
            ("1.5", noon),
            ("soon", noon),
            ("99999999999999999999999999", noon),
        ] {
            assert_eq!(asked(text, date), None, "{text}");
        }
    }

    #[test]
    fn the_last_429_is_passed_on_and_a_503_only_where_there_is_none() {
        let (full, down) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE);
        assert!(outranks(down, None) && outranks(down, Some(down)) && outranks(full, Some(down)) && outranks(full, Some(full)));
        assert!(!outranks(down, Some(full)));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_without_a_panic(retry_after in "\\PC{0,40}", date in "\\PC{0,40}") {
            let _ = asked(&retry_after, Some(&date));
        }
    }
}
