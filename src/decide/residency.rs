//! Whether a backend runs where a request is allowed to run.
//!
//! The question is where the *work* is done, and a doubt counts as a no: a name that only says where the endpoint listens is not
//! evidence of that for a backend which may pass the request on within a geography.

use std::sync::Arc;

use crate::backend::{Backend, PlacementKind};
use crate::grid::GridZone;
use crate::tables::Glob;

/// The members of the European Union, by the codes of ISO 3166-1. Norway, Switzerland and the United Kingdom are none; territories
/// that have a code of their own (Réunion, the Faroes) are left out, whatever their status in law.
const EUROPEAN_UNION: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV", "MT", "NL",
    "PL", "PT", "RO", "SE", "SI", "SK",
];

/// Whether `backend` lies inside `residency`, a list of allowed places; an empty list allows all. `zones` are the plan's, by
/// [`ZoneId`](crate::grid::ZoneId). To narrow one list by another, ask for both.
///
/// An entry, in either case, is one of
/// * a region, by its whole name (`aws/eu-north-1`) or by a pattern with `*` or `?` (`aws/eu-*`);
/// * a grid zone (`SE-SE3`), or the country with which grid zones begin (`SE`);
/// * `eu`, the member states of the European Union, or `us`, the grid zones that begin with `US`.
///
/// Who runs in one region is inside when that region or its grid zone is. Who runs anywhere in a geography is inside when all its
/// grid zones are; the name of its region is then only the endpoint's address and does not count. Who may run anywhere, or nobody
/// knows where, is never inside.
///
/// Patterns are compiled here: a plan asks once for each candidate, and no request does.
pub fn resident(residency: &[Arc<str>], backend: &Backend, zones: &[GridZone]) -> bool {
    if residency.is_empty() {
        return true;
    }
    let zones_inside = || {
        let allowed = &backend.placement.zones;
        let inside = |zone: &GridZone| residency.iter().any(|entry| names_zone(entry, zone.as_str()));
        !allowed.is_empty() && allowed.iter().all(|id| zones.get(usize::from(id.0)).is_some_and(inside))
    };
    match backend.placement.kind {
        PlacementKind::Pinned => residency.iter().any(|entry| names_region(entry, &backend.region)) || zones_inside(),
        PlacementKind::Geo => zones_inside(),
        PlacementKind::Global | PlacementKind::Unknown => false,
    }
}

fn names_region(entry: &str, region: &str) -> bool {
    if entry.contains(['*', '?']) {
        Glob::new(entry).is_ok_and(|pattern| pattern.matches(region))
    } else {
        entry.eq_ignore_ascii_case(region)
    }
}

fn names_zone(entry: &str, zone: &str) -> bool {
    let country = zone.split_once('-').map_or(zone, |(country, _)| country);
    if entry.eq_ignore_ascii_case("eu") {
        return EUROPEAN_UNION.iter().any(|member| member.eq_ignore_ascii_case(country));
    }
    // `us` is both the group and the country.
    entry.eq_ignore_ascii_case(zone) || entry.eq_ignore_ascii_case(country)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::backend::{BackendId, Credential, Origin, Placement, Protocol, Timeouts, UsageMode};
    use crate::dialect::Dialect;
    use crate::grid::ZoneId;
    use crate::live::Prior;
    use crate::tables::Regions;
    use crate::units::Pue;

    fn backend(region: &str, kind: PlacementKind, zones: &[u16]) -> Backend {
        Backend {
            id: BackendId(0),
            name: "b".into(),
            name_header: HeaderValue::from_static("b"),
            origin: Origin {
                tls: false,
                host: "localhost".into(),
                port: 80,
                authority: HeaderValue::from_static("localhost"),
                base_path: "".into(),
                ca: None,
                identity: None,
            },
            protocol: Protocol::Http1,
            dialect: Dialect::Openai,
            translates: Box::default(),
            region: region.into(),
            region_header: HeaderValue::from_static("r"),
            placement: Placement { kind, zones: zones.iter().copied().map(ZoneId).collect() },
            pue: Pue::ONE,
            credential: Credential::None,
            api_version: None,
            max_in_flight: 1,
            prior: Prior::default(),
            probe: false,
            timeouts: Timeouts::default(),
            usage: UsageMode::Inject,
            keep_idle: Duration::from_secs(1),
            health: None,
            forward_client: false,
            simulated: false,
        }
    }

    fn zones() -> Vec<GridZone> {
        ["SE-SE3", "DE", "NO-NO1", "US-NW-PACW", "GB", "IE"].map(GridZone::new).to_vec()
    }

    fn inside(entries: &[&str], backend: &Backend) -> bool {
        let residency: Vec<Arc<str>> = entries.iter().map(|entry| Arc::from(*entry)).collect();
        resident(&residency, backend, &zones())
    }

    #[test]
    fn a_pinned_backend_is_where_its_region_or_its_grid_zone_is() {
        let stockholm = backend("aws/eu-north-1", PlacementKind::Pinned, &[0]);
        for entry in ["aws/eu-north-1", "AWS/EU-North-1", "aws/eu-*", "*/eu-north-?", "SE-SE3", "se-se3", "SE", "se", "eu", "EU"]
        {
            assert!(inside(&[entry], &stockholm), "{entry}");
            assert!(inside(&["nowhere", entry], &stockholm), "{entry}");
        }
        for entry in ["aws/eu-north", "aws/us-*", "eu-north-1", "SE-SE", "SE-SE4", "S", "us", "DE", "", "gcp/*", "*SE3"] {
            assert!(!inside(&[entry], &stockholm), "{entry}");
        }
    }

    #[test]
    fn the_groups_follow_the_law_and_not_the_name() {
        assert!(inside(&["us"], &backend("aws/us-west-2", PlacementKind::Pinned, &[3])));
        assert!(!inside(&["eu"], &backend("aws/us-west-2", PlacementKind::Pinned, &[3])));
        // London's region begins with `eu-` and lies outside the union; so does Oslo.
        let london = backend("aws/eu-west-2", PlacementKind::Pinned, &[4]);
        assert!(!inside(&["eu"], &london) && inside(&["aws/eu-*"], &london));
        assert!(!inside(&["eu"], &backend("azure/norwayeast", PlacementKind::Pinned, &[2])));
    }

    #[test]
    fn a_geography_is_inside_when_all_of_it_is() {
        let union = backend("aws/eu-central-1", PlacementKind::Geo, &[0, 1, 5]);
        assert!(inside(&["eu"], &union) && inside(&["SE", "DE", "IE"], &union));
        assert!(!inside(&["SE", "DE"], &union));
        assert!(!inside(&["aws/eu-central-1"], &union), "the endpoint's name is not where the work is done");
        let wider = backend("aws/eu-central-1", PlacementKind::Geo, &[0, 1, 4]);
        assert!(!inside(&["eu"], &wider));
        assert!(!inside(&["eu"], &backend("aws/eu-central-1", PlacementKind::Geo, &[])));
        assert!(!inside(&["eu"], &backend("aws/eu-central-1", PlacementKind::Geo, &[0, 99])), "a zone that the plan lacks");
    }

    #[test]
    fn who_may_be_anywhere_is_inside_nothing_but_the_whole_world() {
        for kind in [PlacementKind::Global, PlacementKind::Unknown] {
            let somewhere = backend("aws/eu-north-1", kind, &[0]);
            assert!(!inside(&["eu", "aws/*", "*", "SE"], &somewhere));
            assert!(inside(&[], &somewhere));
        }
    }

    #[test]
    fn a_pinned_backend_of_an_unknown_grid_is_known_by_its_region() {
        let own = backend("basement", PlacementKind::Pinned, &[]);
        assert!(inside(&["basement"], &own));
        assert!(!inside(&["eu"], &own));
    }

    #[test]
    fn every_shipped_zone_of_a_member_state_is_in_the_union() {
        let shipped = |name: &str| Regions::shipped().lookup(name).unwrap().grid_zone.clone();
        for (region, expected) in [("aws/eu-south-2", true), ("aws/eu-south-1", true), ("aws/eu-central-2", false)] {
            assert_eq!(names_zone("eu", shipped(region).as_str()), expected, "{region}");
        }
    }
}
