//! Names of fields that come with nearly every call, and those that something here asks for.
//!
//! Such a name is told once, in the pass that notes where the fields of a head are, and is a number from then on. Compared as text, or
//! copied into memory of its own, each of some twenty-five names of an exchange was looked at four or five times.

use http::HeaderName;

/// Longest of the names below, rounded up to what is looked at in one step.
const LONGEST: usize = 32;

/// Names by their lengths, which tell most of them apart.
macro_rules! known {
    ($($len:literal => $($text:literal $name:ident)*;)*) => {
        /// A name that is known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Name {
            $($(
                #[doc = concat!("`", $text, "`")]
                $name,
            )*)*
        }

        impl Name {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name),*),*];

            /// In lower case.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$name => $text,)*)*
                }
            }

            /// As `http` has it.
            pub fn header(self) -> HeaderName {
                match self {
                    $($(Self::$name => const { HeaderName::from_static($text) },)*)*
                }
            }

            fn of_lower(lower: &[u8]) -> Option<Self> {
                match lower.len() {
                    $($($len if lower == $text.as_bytes() => Some(Self::$name),)*)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        const LENGTHS: &[usize] = &[$($({ const _: &str = $text; $len }),*),*];
    };
}

known! {
    2 => "te" Te;
    3 => "age" Age "via" Via;
    4 => "date" Date "host" Host "vary" Vary;
    6 => "accept" Accept "cf-ray" CfRay "cookie" Cookie "expect" Expect "server" Server;
    7 => "alt-svc" AltSvc "api-key" ApiKey "trailer" Trailer "upgrade" Upgrade;
    9 => "forwarded" Forwarded "x-api-key" XApiKey "x-real-ip" XRealIp;
    10 => "connection" Connection "keep-alive" KeepAlive "request-id" RequestId "set-cookie" SetCookie "tracestate" Tracestate "user-agent" UserAgent;
    11 => "openai-beta" OpenaiBeta "retry-after" RetryAfter "traceparent" Traceparent;
    12 => "content-type" ContentType "x-request-id" XRequestId;
    13 => "authorization" Authorization "cache-control" CacheControl;
    14 => "anthropic-beta" AnthropicBeta "content-length" ContentLength "openai-project" OpenaiProject "openai-version" OpenaiVersion
          "x-goog-api-key" XGoogApiKey "x-stainless-os" XStainlessOs;
    15 => "accept-encoding" AcceptEncoding "accept-language" AcceptLanguage "cf-cache-status" CfCacheStatus
          "x-forwarded-for" XForwardedFor;
    16 => "x-amzn-requestid" XAmznRequestid "content-encoding" ContentEncoding "proxy-connection" ProxyConnection "x-forwarded-host" XForwardedHost
          "x-stainless-arch" XStainlessArch "x-stainless-lang" XStainlessLang;
    17 => "anthropic-version" AnthropicVersion "transfer-encoding" TransferEncoding "x-forwarded-proto" XForwardedProto
          "x-stainless-async" XStainlessAsync "x-windward-region" XWindwardRegion;
    18 => "proxy-authenticate" ProxyAuthenticate "x-windward-backend" XWindwardBackend;
    19 => "openai-organization" OpenaiOrganization "x-stainless-runtime" XStainlessRuntime
          "x-stainless-timeout" XStainlessTimeout "x-windward-decision" XWindwardDecision;
    20 => "openai-processing-ms" OpenaiProcessingMs "x-windward-objective" XWindwardObjective
          "x-windward-residency" XWindwardResidency;
    22 => "sec-websocket-protocol" SecWebsocketProtocol "x-content-type-options" XContentTypeOptions
          "x-windward-overhead-us" XWindwardOverheadUs;
    23 => "x-stainless-retry-count" XStainlessRetryCount;
    24 => "x-ratelimit-limit-tokens" XRatelimitLimitTokens "x-ratelimit-reset-tokens" XRatelimitResetTokens
          "x-stainless-raw-response" XStainlessRawResponse "x-stainless-read-timeout" XStainlessReadTimeout;
    25 => "strict-transport-security" StrictTransportSecurity "x-stainless-helper-method" XStainlessHelperMethod
          "x-windward-latency-budget" XWindwardLatencyBudget;
    26 => "x-ratelimit-limit-requests" XRatelimitLimitRequests "x-ratelimit-reset-requests" XRatelimitResetRequests;
    27 => "x-stainless-package-version" XStainlessPackageVersion "x-stainless-runtime-version" XStainlessRuntimeVersion
          "x-windward-carbon-intensity" XWindwardCarbonIntensity;
    28 => "x-ratelimit-remaining-tokens" XRatelimitRemainingTokens;
    29 => "x-envoy-upstream-service-time" XEnvoyUpstreamServiceTime;
    30 => "x-ratelimit-remaining-requests" XRatelimitRemainingRequests;
}

impl Name {
    /// A name as it was sent, if it is known.
    pub fn of(sent: &[u8]) -> Option<Self> {
        let mut lower = [0; LONGEST];
        lower.get_mut(..sent.len())?.copy_from_slice(sent);
        // All of it, because that is done in one step.
        lower.make_ascii_lowercase();
        Self::of_lower(lower.get(..sent.len())?)
    }

    /// Its bit in a set of names.
    pub(super) const fn bit(self) -> u128 {
        1 << self as u8
    }
}

/// A set of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names(u128);

impl Names {
    /// These.
    pub const fn of(names: &[Name]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < names.len() {
            #[expect(clippy::indexing_slicing, reason = "below its length; a constant function has no iterator")]
            {
                set |= names[at].bit();
            }
            at += 1;
        }
        Self(set)
    }

    /// Whether a name is in it.
    #[inline]
    pub const fn has(self, name: Name) -> bool {
        self.0 & name.bit() != 0
    }

    /// Puts one in.
    #[inline]
    pub const fn add(&mut self, name: Name) {
        self.0 |= name.bit();
    }

    /// Those of it that are not in another one.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[inline]
    pub(super) const fn take(&mut self, name: Name) {
        self.0 &= !name.bit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_was_sent() {
        assert!(Name::ALL.len() <= 128, "a set has a bit for each");
        for (name, len) in Name::ALL.iter().zip(LENGTHS) {
            let text = name.as_str();
            assert_eq!((*len, name.header().as_str()), (text.len(), text));
            assert!(text.len() <= LONGEST && !text.bytes().any(|byte| byte.is_ascii_uppercase()));
            for sent in [text.to_owned(), text.to_ascii_uppercase()] {
                assert_eq!(Name::of(sent.as_bytes()), Some(*name));
            }
            assert_ne!(Name::of(&text.as_bytes()[..len - 1]), Some(*name));
        }
        for unknown in ["", "x-other", "x y", "x-request-id ", "x-request-ie", &"x".repeat(40)] {
            assert_eq!(Name::of(unknown.as_bytes()), None, "{unknown}");
        }
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let mut set = Names::of(&[Name::Te, Name::XRatelimitRemainingRequests]);
        set.add(Name::Host);
        set.take(Name::Te);
        let has: Vec<Name> = Name::ALL.iter().copied().filter(|name| set.has(*name)).collect();
        assert_eq!(has, [Name::Host, Name::XRatelimitRemainingRequests]);
    }
}
