//! Names of fields that come with nearly every call and that `http` does not know.
//!
//! It copies such a name into memory of its own, for each of them and each time. The official SDKs send some eight, and the hosted
//! APIs answer with as many.

use http::HeaderName;

/// Longest of the names below, rounded up to what is looked at in one step.
const LONGEST: usize = 32;

/// Names by their lengths, which tell most of them apart.
macro_rules! known {
    ($($len:literal => $($name:literal)*;)*) => {
        /// The name, if it is one of those, in lower case.
        fn known(lower: &[u8]) -> Option<HeaderName> {
            match lower.len() {
                $($($len if lower == $name.as_bytes() => {
                    const NAME: HeaderName = HeaderName::from_static($name);
                    Some(NAME)
                })*)*
                _ => None,
            }
        }

        #[cfg(test)]
        const ALL: &[(usize, &str)] = &[$($(($len, $name)),*),*];
    };
}

known! {
    9 => "x-real-ip" "x-api-key";
    11 => "openai-beta";
    12 => "x-request-id";
    14 => "x-stainless-os" "openai-project" "openai-version";
    15 => "x-forwarded-for";
    16 => "x-stainless-lang" "x-stainless-arch" "x-forwarded-host";
    17 => "x-stainless-async" "x-forwarded-proto";
    19 => "x-stainless-runtime" "x-stainless-timeout" "openai-organization";
    20 => "openai-processing-ms";
    23 => "x-stainless-retry-count";
    24 => "x-stainless-read-timeout" "x-stainless-raw-response" "x-ratelimit-limit-tokens" "x-ratelimit-reset-tokens";
    25 => "x-stainless-helper-method";
    26 => "x-ratelimit-limit-requests" "x-ratelimit-reset-requests";
    27 => "x-stainless-package-version" "x-stainless-runtime-version";
    28 => "x-ratelimit-remaining-tokens";
    29 => "x-envoy-upstream-service-time";
    30 => "x-ratelimit-remaining-requests";
}

/// The name of a field as it was sent; `None` for what is none.
pub(super) fn name(sent: &[u8]) -> Option<HeaderName> {
    // Only these letters begin one of them.
    if matches!(sent.first(), Some(b'x' | b'X' | b'o' | b'O')) {
        let mut lower = [0; LONGEST];
        if let Some(space) = lower.get_mut(..sent.len()) {
            space.copy_from_slice(sent);
            // All of it, because that is done in one step.
            lower.make_ascii_lowercase();
            if let Some(name) = lower.get(..sent.len()).and_then(known) {
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
        for (len, known) in ALL {
            assert_eq!(*len, known.len());
            assert!(known.len() <= LONGEST && known.starts_with(['x', 'o']));
            for sent in [known.to_string(), known.to_ascii_uppercase()] {
                assert_eq!(name(sent.as_bytes()).unwrap(), *known);
            }
            assert_eq!(name(&known.as_bytes()[..len - 1]).unwrap(), known[..len - 1]);
        }
        for (sent, wanted) in
            [("Host", Some("host")), ("X-Other", Some("x-other")), ("", None), ("x y", None), ("x-request-id ", None)]
        {
            assert_eq!(name(sent.as_bytes()).as_ref().map(HeaderName::as_str), wanted);
        }
    }
}
