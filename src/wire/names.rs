//! Names of fields that come with nearly every call and that `http` does not know.
//!
//! It copies such a name into memory of its own, for each of them and each time. The official SDKs send some eight, and the hosted
//! APIs answer with as many.

use http::HeaderName;

/// Longest of the names below, rounded up to what is looked at in one step.
const LONGEST: usize = 32;

/// Each name as bytes, which are compared by their number first, and as text.
macro_rules! known {
    ($($bytes:literal $name:literal,)*) => {
        /// The name, if it is one of those, in lower case.
        fn known(lower: &[u8]) -> Option<HeaderName> {
            match lower {
                $($bytes => {
                    const NAME: HeaderName = HeaderName::from_static($name);
                    Some(NAME)
                })*
                _ => None,
            }
        }

        #[cfg(test)]
        const ALL: &[(&[u8], &str)] = &[$(($bytes, $name)),*];
    };
}

known! {
    b"x-request-id" "x-request-id",
    b"x-stainless-lang" "x-stainless-lang",
    b"x-stainless-package-version" "x-stainless-package-version",
    b"x-stainless-os" "x-stainless-os",
    b"x-stainless-arch" "x-stainless-arch",
    b"x-stainless-runtime" "x-stainless-runtime",
    b"x-stainless-runtime-version" "x-stainless-runtime-version",
    b"x-stainless-async" "x-stainless-async",
    b"x-stainless-retry-count" "x-stainless-retry-count",
    b"x-stainless-read-timeout" "x-stainless-read-timeout",
    b"x-stainless-timeout" "x-stainless-timeout",
    b"x-stainless-helper-method" "x-stainless-helper-method",
    b"x-stainless-raw-response" "x-stainless-raw-response",
    b"openai-organization" "openai-organization",
    b"openai-project" "openai-project",
    b"openai-beta" "openai-beta",
    b"openai-version" "openai-version",
    b"openai-processing-ms" "openai-processing-ms",
    b"x-ratelimit-limit-requests" "x-ratelimit-limit-requests",
    b"x-ratelimit-limit-tokens" "x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-requests" "x-ratelimit-remaining-requests",
    b"x-ratelimit-remaining-tokens" "x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-requests" "x-ratelimit-reset-requests",
    b"x-ratelimit-reset-tokens" "x-ratelimit-reset-tokens",
    b"x-forwarded-for" "x-forwarded-for",
    b"x-forwarded-proto" "x-forwarded-proto",
    b"x-forwarded-host" "x-forwarded-host",
    b"x-real-ip" "x-real-ip",
    b"x-api-key" "x-api-key",
    b"x-envoy-upstream-service-time" "x-envoy-upstream-service-time",
}

/// The name of a field as it was sent; `None` for what is none.
pub(super) fn name(sent: &[u8]) -> Option<HeaderName> {
    // Only these letters begin one of them.
    if matches!(sent.first(), Some(b'x' | b'X' | b'o' | b'O')) {
        let mut lower = [0; LONGEST];
        if let Some(lower) = lower.get_mut(..sent.len()) {
            lower.copy_from_slice(sent);
            lower.make_ascii_lowercase();
            if let Some(name) = known(lower) {
                return Some(name);
            }
        }
    }
    HeaderName::from_bytes(sent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_was_sent() {
        for (bytes, known) in ALL {
            assert_eq!(*bytes, known.as_bytes());
            assert!(known.len() <= LONGEST && known.starts_with(['x', 'o']));
            for sent in [known.to_string(), known.to_ascii_uppercase()] {
                assert_eq!(name(sent.as_bytes()).unwrap(), *known);
            }
            assert_eq!(name(&bytes[..bytes.len() - 1]).unwrap(), known[..known.len() - 1]);
        }
        for (sent, wanted) in
            [("Host", Some("host")), ("X-Other", Some("x-other")), ("", None), ("x y", None), ("x-request-id ", None)]
        {
            assert_eq!(name(sent.as_bytes()).as_ref().map(HeaderName::as_str), wanted);
        }
    }
}
