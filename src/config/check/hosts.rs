//! What the host of a hosted service says of where it works.

use super::Check;
use crate::backend::{Origin, PlacementKind};
use crate::config::decode::quoted;
use crate::config::file::BackendFile;
use crate::tables::{Catalogue, Regions};

/// The grid zones of every region known in the countries that a host says it works in; empty for a host that says nothing of that.
pub(super) fn zones_of(catalogue: &Catalogue, host: &str) -> Vec<String> {
    let Some(host) = catalogue.host(host) else { return Vec::new() };
    let zones = Regions::shipped().iter().map(|region| region.grid_zone.as_str()).filter(|zone| host.may_be_in(zone));
    let mut zones: Vec<String> = zones.map(str::to_owned).collect();
    zones.sort_unstable();
    zones.dedup();
    zones
}

/// Whether a service at this host may work anywhere.
pub(super) fn everywhere(catalogue: &Catalogue, host: &str) -> bool {
    catalogue.host(host).is_some_and(|host| host.countries.is_empty())
}

/// The location in the name of one of Vertex AI's regional hosts.
fn of_vertex(host: &str) -> Option<&str> {
    host.strip_suffix("-aiplatform.googleapis.com")
}

/// The location in a path of Vertex AI.
fn in_path(path: &str) -> Option<&str> {
    path.split_once("/locations/").map(|(_, rest)| rest.split('/').next().unwrap_or(rest))
}

impl Check<'_> {
    /// Says where a URL of Vertex AI and what is written of its place differ.
    pub(super) fn location(&mut self, file: &BackendFile, origin: &Origin) {
        let written = file.region.as_ref().filter(|_| file.grid_zone.is_none());
        let pinned = file.placement.as_ref().is_some_and(|placement| placement.value == PlacementKind::Pinned);
        if everywhere(&self.catalogue, &origin.host) && pinned {
            let mark = file.placement.as_ref().map_or(file.url.mark, |placement| placement.mark);
            let message = format!("{} may answer from anywhere", quoted(&origin.host));
            self.warnings.add(mark, message).mend =
                Some("use the provider's regional endpoint, or leave `placement` out".to_owned());
        }
        let Some(location) = of_vertex(&origin.host) else { return };
        if let Some(other) = in_path(&origin.base_path).filter(|other| *other != location) {
            let message = format!("the host is in {} and the path says {}", quoted(location), quoted(other));
            self.warnings.add(file.url.mark, message).mend = Some("Vertex AI wants both to be the same".to_owned());
        }
        if let Some(region) = written.filter(|region| region.value.strip_prefix("gcp/").is_some_and(|name| name != location)) {
            let message = format!("this host is in {}, and not in {}", quoted(location), region.shown());
            self.warnings.add(region.mark, message).mend = Some(format!("write `region: gcp/{location}`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openais_regional_hosts_say_their_countries() {
        let zones_of = |host: &str| zones_of(Catalogue::shipped(), host);
        let (us, eu) = (zones_of("us.api.openai.com"), zones_of("eu.api.openai.com"));
        assert!(us.len() > 3 && us.iter().all(|zone| zone.starts_with("US-")), "{us:?}");
        assert!(["FR", "SE-SE3", "PL", "DE"].iter().all(|zone| eu.iter().any(|other| other == zone)), "{eu:?}");
        assert!(!eu.iter().any(|zone| zone.starts_with("NO") || zone.starts_with("GB") || zone.starts_with("CH")), "{eu:?}");
        for label in ["us", "eu", "au", "in", "jp", "ae"] {
            assert!(!zones_of(&format!("{label}.api.openai.com")).is_empty(), "{label}");
        }
        for host in ["api.openai.com", "xx.api.openai.com", "us.example.com"] {
            assert!(zones_of(host).is_empty(), "{host}");
        }
        assert!(everywhere(Catalogue::shipped(), "api.openai.com"));
    }

    #[test]
    fn a_location_is_read_from_host_and_path() {
        assert_eq!(of_vertex("europe-west4-aiplatform.googleapis.com"), Some("europe-west4"));
        assert_eq!(of_vertex("aiplatform.googleapis.com"), None);
        let everywhere = |host: &str| everywhere(Catalogue::shipped(), host);
        assert!(everywhere("aiplatform.googleapis.com") && !everywhere("europe-west4-aiplatform.googleapis.com"));
        assert_eq!(in_path("/v1/projects/p/locations/europe-west4/publishers/google"), Some("europe-west4"));
        assert_eq!(in_path("/v1beta"), None);
    }
}
