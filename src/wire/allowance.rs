//! What answers say of how much more a service will take: `x-ratelimit-*` (OpenAI, Azure and their kin) and `anthropic-ratelimit-*`.

use std::time::Duration;

use http::HeaderName;
use jiff::Timestamp;

use super::fields::{Fields, Name};
use crate::dialect::Dialect;
use crate::live::{Allowance, Allowances};

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("anthropic-ratelimit-requests-limit"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
    HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
];

const INPUT_TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-ratelimit-input-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-input-tokens-limit"),
    HeaderName::from_static("anthropic-ratelimit-input-tokens-reset"),
];
const OUTPUT_TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-ratelimit-output-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-output-tokens-limit"),
    HeaderName::from_static("anthropic-ratelimit-output-tokens-reset"),
];

/// What a head says, if it says anything that can be read.
pub fn allowances(fields: &Fields, dialect: Dialect, now: impl Fn() -> Timestamp) -> Option<Allowances> {
    if dialect == Dialect::Anthropic {
        let of = |[left, limit, reset]: &[HeaderName; 3]| {
            let until: Timestamp = fields.get_text(reset)?.parse().ok()?;
            let full_in = Duration::try_from(until.duration_since(now())).unwrap_or_default();
            Some(Allowance { left: number(fields.get_text(left)?)?, limit: fields.get_text(limit).and_then(number), full_in })
        };
        let (input_tokens, output_tokens) = (of(&INPUT_TOKENS), of(&OUTPUT_TOKENS));
        let said = Allowances { requests: of(&REQUESTS), tokens: of(&TOKENS), input_tokens, output_tokens };
        return Some(said).filter(|said| *said != Allowances::default());
    }
    let of = |left: Name, limit: Name, reset: Name| {
        let full_in = span(fields.get_text(reset)?)?;
        Some(Allowance { left: number(fields.get_text(left)?)?, limit: fields.get_text(limit).and_then(number), full_in })
    };
    let (requests, tokens) = (Name::XRatelimitRemainingRequests, Name::XRatelimitRemainingTokens);
    let requests = of(requests, Name::XRatelimitLimitRequests, Name::XRatelimitResetRequests);
    let tokens = of(tokens, Name::XRatelimitLimitTokens, Name::XRatelimitResetTokens);
    (requests.is_some() || tokens.is_some()).then_some(Allowances { requests, tokens, ..Allowances::default() })
}

/// A whole number; below none at all counts as none, as some services say it.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|_| 0))
}

/// `6m0s`, `1.5s`, `20ms`, or seconds without a unit.
fn span(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    if rest.is_empty() || rest.len() > 32 {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (count, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += count.parse::<f64>().ok()? * scale;
        rest = behind;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(dialect: Dialect, given: &[(&'static str, &'static str)]) -> Option<Allowances> {
        let map = given.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        allowances(&Fields::of_map(&map.collect::<HeaderMap>()), dialect, || Timestamp::from_second(1_767_225_600).unwrap())
    }

    #[test]
    fn spans_are_read_as_services_write_them() {
        for (text, millis) in [("1s", 1_000), ("6m0s", 360_000), ("20ms", 20), ("1h2m3.5s", 3_723_500), ("30", 30_000), ("0s", 0)]
        {
            assert_eq!(span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1..2s", "soon", &"1".repeat(40)] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn fields_of_either_kind_are_read() {
        let openai = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-limit-requests", "100"),
            ("x-ratelimit-reset-requests", "12ms"),
            ("x-ratelimit-remaining-tokens", "-5"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        let read_as = read(Dialect::Openai, &openai);
        let bucket = |left, limit, millis| Some(Allowance { left, limit, full_in: Duration::from_millis(millis) });
        let both = |requests, tokens| Some(Allowances { requests, tokens, ..Allowances::default() });
        assert_eq!(read_as, both(bucket(0, Some(100), 12), bucket(0, None, 360_000)));
        assert_eq!(read(Dialect::Openai, &openai[..2]), None, "without its end it says nothing");
        let anthropic = [
            ("anthropic-ratelimit-requests-remaining", "7"),
            ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:30Z"),
            ("anthropic-ratelimit-tokens-limit", "80000"),
            ("anthropic-ratelimit-tokens-remaining", "1000"),
            ("anthropic-ratelimit-tokens-reset", "2025-12-31T00:00:00Z"),
        ];
        assert_eq!(read(Dialect::Anthropic, &anthropic), both(bucket(7, None, 30_000), bucket(1_000, Some(80_000), 0)));
        let apart = [
            ("anthropic-ratelimit-input-tokens-remaining", "9000"),
            ("anthropic-ratelimit-input-tokens-limit", "10000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-01-01T00:00:06Z"),
            ("anthropic-ratelimit-output-tokens-remaining", "0"),
            ("anthropic-ratelimit-output-tokens-reset", "2026-01-01T00:01:00Z"),
        ];
        let expected = Allowances {
            input_tokens: bucket(9_000, Some(10_000), 6_000),
            output_tokens: bucket(0, None, 60_000),
            ..Allowances::default()
        };
        assert_eq!(read(Dialect::Anthropic, &apart), Some(expected));
        assert_eq!(read(Dialect::Openai, &apart), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in r"([0-9.]|h|m|s|\PC){0,40}") {
            let _ = (span(&text), number(&text));
        }
    }
}
