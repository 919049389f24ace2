//! Endpoints of Amazon Bedrock: their hosts, and the service that a request to one is signed for.

use std::sync::Arc;

use serde::Deserialize;

use super::{TableError, reader};

/// What stands for the region in the pattern of a host.
const REGION: &str = "{region}";
/// What stands for any labels before the others.
const ANY_LABELS: &str = "*.";

/// An endpoint, by one of its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name in the catalogue.
    pub name: Arc<str>,
    /// The host.
    pub host: HostPattern,
    /// The service in a signature's scope.
    pub service: Arc<str>,
}

/// A host with a region in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    any_before: bool,
    before: Box<str>,
    after: Box<str>,
}

impl HostPattern {
    /// Of a text such as `bedrock-mantle.{region}.api.aws`, with `*.` before it for any labels; `None` for what is no such pattern.
    pub fn new(text: &str) -> Option<Self> {
        let (any_before, rest) = text.strip_prefix(ANY_LABELS).map_or((false, text), |rest| (true, rest));
        let (before, after) = rest.split_once(REGION)?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        // The region is a whole label, and something says whose it is.
        let fine = before.ends_with('.') && before.len() > 1 && after.starts_with('.') && after.len() > 1;
        let fine = fine && before.bytes().chain(after.bytes()).all(plain);
        fine.then(|| Self { any_before, before: before.into(), after: after.into() })
    }

    /// The region in a host; `None` where it is another one.
    pub fn region<'h>(&self, host: &'h str) -> Option<&'h str> {
        let mut host = host;
        if self.any_before {
            // Where the first of the labels that it names begins.
            let (labels, _) = host.match_indices(&*self.before).find(|(at, _)| host[..*at].ends_with('.'))?;
            host = &host[labels..];
        }
        let region = host.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (!region.is_empty() && !region.contains('.')).then_some(region)
    }
}

/// Reads the shipped file.
pub(super) fn parse(text: &str) -> Result<Vec<Endpoint>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        endpoint: String,
        host: String,
        service: String,
        checked: String,
        source: String,
    }
    let mut endpoints = Vec::new();
    for row in reader(text).deserialize() {
        let Row { endpoint, host, service, checked, source } = row?;
        if checked.parse::<jiff::civil::Date>().is_err() || source.is_empty() {
            return Err(TableError::value(&host, "it has a date and a source"));
        }
        let host = HostPattern::new(&host).ok_or_else(|| TableError::value(&host, "it has a region among its labels"))?;
        endpoints.push(Endpoint { name: endpoint.into(), host, service: service.into() });
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    #[test]
    fn a_host_says_its_endpoint_service_and_region() {
        let of = |host| {
            let (endpoint, region) = Catalogue::shipped().endpoint(host)?;
            Some((&*endpoint.name, &*endpoint.service, region))
        };
        let (runtime, mantle) = ("bedrock-runtime", "bedrock-mantle");
        for (host, expected) in [
            ("bedrock-runtime.us-west-2.amazonaws.com", Some((runtime, "bedrock", "us-west-2"))),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Some((runtime, "bedrock", "us-gov-west-1"))),
            ("bedrock-runtime.cn-north-1.amazonaws.com.cn", Some((runtime, "bedrock", "cn-north-1"))),
            ("vpce-0abc-1.bedrock-runtime.eu-north-1.vpce.amazonaws.com", Some((runtime, "bedrock", "eu-north-1"))),
            ("bedrock-mantle.us-east-2.api.aws", Some((mantle, "bedrock-mantle", "us-east-2"))),
            ("bedrock-agent-runtime.us-east-2.amazonaws.com", None),
            ("bedrock-runtime.us-west-2.example.com", None),
            ("bedrock-runtime..amazonaws.com", None),
            ("bedrock-runtime.a.b.amazonaws.com", None),
            ("notbedrock-runtime.us-west-2.amazonaws.com", None),
            ("vpcebedrock-runtime.eu-north-1.vpce.amazonaws.com", None),
            ("bedrock-runtime", None),
            ("localhost", None),
        ] {
            assert_eq!(of(host), expected, "{host}");
        }
    }

    #[test]
    fn a_pattern_has_a_region_between_other_labels() {
        for text in ["m.{region}.api.aws", "*.m.{region}.vpce.example", "m.x.{region}.y"] {
            assert!(HostPattern::new(text).is_some(), "{text}");
        }
        for text in [
            "",
            "m.api.aws",
            "{region}.api.aws",
            "*.{region}.aws",
            "m.{region}",
            "m{region}.aws",
            "m.{region}x",
            "m.{region}.a/b",
        ] {
            assert_eq!(HostPattern::new(text), None, "{text}");
        }
    }
}
