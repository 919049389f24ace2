//! What the catalogue knows of a backend's models: their ids there, whether they are there at all, and where they may run.

use std::sync::Arc;

use bytes::Bytes;

use super::Check;
use super::backend::Model;
use crate::backend::Origin;
use crate::config::choices::{EndpointFile, GeographyFile, HostFile, ProfileFile, RowFile};
use crate::config::decode::{At, Filled, quoted};
use crate::config::file::OfferFile;
use crate::config::node::Mark;
use crate::dialect::Dialect;
use crate::tables::{Catalogue, Endpoint, Found, Glob, HostPattern, Offer, Place, Profile, Reach, Region, Regions};
use crate::units::Pue;

/// The most rows of somebody's own: all suppliers together have some hundred.
const MOST_ROWS: usize = 1000;

impl Check<'_> {
    /// The rows of the file before those that are shipped.
    pub(super) fn catalogue(&mut self, written: Option<Vec<RowFile>>) -> Catalogue {
        let written = written.unwrap_or_default();
        if let Some(past) = written.get(MOST_ROWS) {
            self.problems.add(past.mark(), format!("more than {MOST_ROWS} rows in the catalogue"));
        }
        let (mut own, mut named) = (Catalogue::default(), Vec::new());
        for row in written.into_iter().take(MOST_ROWS) {
            match row {
                RowFile::Offer(offer) => {
                    named.push(offer.endpoint.clone());
                    own.offers.push(self.offer(*offer));
                }
                RowFile::Endpoint(endpoint) => own.endpoints.extend(self.endpoint(endpoint)),
                RowFile::Profile(profile) => own.profiles.push(self.inference_profile(profile)),
                RowFile::Host(host) => own.hosts.push(self.host(host)),
                RowFile::Geography(GeographyFile { geography, countries }) => {
                    own.geographies.push(self.place(geography, countries));
                }
            }
        }
        let all = Catalogue::shipped().behind(own);
        for endpoint in named {
            let mut known: Vec<&str> = all.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
            known.dedup();
            if !known.contains(&&*endpoint.value) {
                self.problems.unknown(endpoint.mark, "endpoint", &endpoint.value, &endpoint.shown(), &known);
            }
        }
        all
    }

    fn endpoint(&mut self, written: EndpointFile) -> Option<Endpoint> {
        let EndpointFile { endpoint, host, service } = written;
        self.name(&endpoint);
        self.name(&service);
        let pattern = HostPattern::new(&host.value);
        if pattern.is_none() {
            self.problems.add(host.mark, format!("{} is no host with a region in it", host.shown())).mend =
                Some("it looks like `bedrock-runtime.{region}.amazonaws.com`, without scheme, port and path".to_owned());
        }
        Some(Endpoint { name: endpoint.value.into(), host: pattern?, service: service.value.into() })
    }

    fn inference_profile(&mut self, written: ProfileFile) -> Profile {
        let ProfileFile { profile, regions } = written;
        self.name(&profile);
        let mut patterns = Vec::new();
        for region in regions.map(|regions| regions.0).unwrap_or_default() {
            let pattern = self.region_pattern(&region);
            let known = |pattern: &Glob| Regions::shipped().iter().any(|region| pattern.matches(&region.name));
            if pattern.as_ref().is_some_and(|pattern| !known(pattern)) {
                let message = format!("{} is no region that is known, so its grid counts for nothing", region.shown());
                self.warnings.add(region.mark, message).mend = Some("it looks like `aws/eu-*`".to_owned());
            }
            patterns.extend(pattern);
        }
        Profile { prefix: profile.value.into(), regions: patterns }
    }

    fn region_pattern(&mut self, region: &At<String>) -> Option<Glob> {
        let pattern = Glob::new(&region.value).ok();
        if pattern.is_none() {
            self.problems.add(region.mark, "this is no region and no pattern of regions");
        }
        pattern
    }

    fn host(&mut self, written: HostFile) -> Place {
        let HostFile { host, countries } = written;
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if host.value.is_empty() || !host.value.bytes().all(is_part) {
            self.problems.add(host.mark, format!("{} is no host", host.shown())).mend =
                Some("it looks like `eu.api.example.com`, without scheme, port and path".to_owned());
        }
        self.place(host, countries)
    }

    fn place(&mut self, name: At<String>, countries: Option<Filled<At<String>>>) -> Place {
        let countries = countries.map(|countries| countries.0).unwrap_or_default();
        for country in &countries {
            let known = |region: &Region| {
                Place { name: "".into(), countries: vec![(*country.value).into()] }.may_be_in(region.grid_zone.as_str())
            };
            if !Place::is_code(&country.value) {
                self.problems.add(country.mark, format!("{} is no country", country.shown())).mend =
                    Some("it has two capital letters, as in `DE`".to_owned());
            } else if !Regions::shipped().iter().any(known) {
                let message = format!("no region is known in {}, so its grids count for nothing", country.shown());
                self.warnings.add(country.mark, message).mend =
                    Some("give the backend `grid_zone` with the zones that it may be".to_owned());
            }
        }
        Place { name: name.value.into(), countries: countries.into_iter().map(|country| country.value.into()).collect() }
    }

    fn offer(&mut self, written: OfferFile) -> Offer {
        let OfferFile { model, endpoint, path, id, regions } = written;
        self.model_name(&model);
        self.model_name(&id);
        if let Some(path) = path.as_ref().filter(|path| !path.value.starts_with('/')) {
            self.problems.add(path.mark, "a path begins with `/`");
        }
        Offer {
            model: model.value.into(),
            endpoint: endpoint.value.into(),
            path: path.map_or(Arc::from("/openai/v1"), |path| path.value.trim_end_matches('/').into()),
            id: id.value.into(),
            regions: regions.0.iter().filter_map(|region| self.region_pattern(region)).collect(),
        }
    }

    /// Gives models that have no name of their own at an endpoint of Bedrock the one that they have there, and says what the
    /// catalogue knows better.
    pub(super) fn name_as_offered(&mut self, models: &mut [Model], origin: &mut Origin, dialect: Dialect, mark: Mark) {
        let catalogue = std::mem::take(&mut self.catalogue);
        let found = catalogue.endpoint(&origin.host).map(|(endpoint, region)| (Arc::clone(&endpoint.name), region.to_owned()));
        if let Some((endpoint, region)) = found {
            self.name_as_offered_at((&endpoint, &region), &catalogue, models, (origin, dialect, mark));
            if dialect == Dialect::Openai && origin.base_path.is_empty() {
                self.place_as_offered(models, origin, mark);
            }
        }
        self.catalogue = catalogue;
    }

    /// A backend whose URL has no path has that of its first model, and the others have one of their own where it is another.
    fn place_as_offered(&mut self, models: &mut [Model], origin: &mut Origin, mark: Mark) {
        let Some(first) = models.iter().find_map(|model| model.base_path.clone()) else {
            let message = "the catalogue knows no model here, and so does not say below which path its API lies";
            self.warnings.add(mark, message).mend = Some("write it behind the host, as in `/openai/v1`".to_owned());
            return;
        };
        for model in models {
            model.base_path.take_if(|path| *path == first);
            if let Some(own) = &model.base_path {
                let message = format!(
                    "{} is served below {}, and what it stores here would be asked for below {}",
                    quoted(&model.client),
                    quoted(own),
                    quoted(&first)
                );
                self.warnings.add(mark, message).mend =
                    Some("give each path a backend of its own, with the path behind its host".to_owned());
            }
        }
        origin.base_path = first;
    }

    fn name_as_offered_at(
        &mut self,
        (endpoint, region): (&str, &str),
        catalogue: &Catalogue,
        models: &mut [Model],
        (origin, dialect, mark): (&Origin, Dialect, Mark),
    ) {
        for model in models {
            let shown = quoted(&model.client);
            match catalogue.find(&model.upstream(), endpoint, region) {
                Found::Here(offer) => {
                    if model.upstream_json.is_none() && *offer.id != *model.client {
                        model.upstream_json = Some(Bytes::from(serde_json::Value::from(&*offer.id).to_string()));
                    }
                    if dialect == Dialect::Openai && origin.base_path.is_empty() {
                        model.base_path = Some(Arc::clone(&offer.path));
                    } else if dialect == Dialect::Openai && *origin.base_path != *offer.path {
                        let message = format!(
                            "by the catalogue, {shown} is served below {} at this host and not below another path",
                            quoted(&offer.path)
                        );
                        self.warnings.add(mark, message).mend =
                            Some("change the URL's path, or correct it in `catalogue`".to_owned());
                    }
                }
                Found::Elsewhere(_) => {
                    let message = format!("by the catalogue, {shown} is at {endpoint} of other regions than {region}");
                    self.warnings.add(mark, message).mend = Some("leave it out here, or correct it in `catalogue`".to_owned());
                }
                Found::Unknown if model.upstream_json.is_none() && !model.client.contains(['.', ':']) => {
                    let message =
                        format!("the catalogue does not know {shown} at {endpoint}, so it is asked for by this very name");
                    self.warnings.add(mark, message).mend = Some("give it its id, as in `name: supplier.name-1:0`".to_owned());
                }
                Found::Unknown => {}
            }
        }
    }
}

/// The widest profile among the ids of a backend's models: where its requests may run at the most.
pub(super) fn widest(catalogue: &Catalogue, models: &[Model]) -> Option<Profile> {
    let profiles = models.iter().filter_map(|model| catalogue.profile(&model.upstream()));
    profiles.max_by_key(|profile| (profile.reach(), profile.regions.len())).cloned()
}

/// All regions that a profile may lead to.
fn regions_of(profile: &Profile) -> impl Iterator<Item = &'static Region> {
    let inside = |name: &str| profile.regions.iter().any(|pattern| pattern.matches(name));
    Regions::shipped().iter().filter(move |region| inside(&region.name))
}

/// Their grid zones.
pub(super) fn zones_of(profile: &Profile) -> Vec<String> {
    let mut zones: Vec<String> = regions_of(profile).map(|region| region.grid_zone.as_str().to_owned()).collect();
    zones.sort_unstable();
    zones.dedup();
    zones
}

/// The worst of their PUEs, as the dirtiest of their grids counts too.
pub(super) fn pue_of(profile: &Profile) -> Option<Pue> {
    regions_of(profile).map(|region| region.pue).max_by(|a, b| a.get().total_cmp(&b.get()))
}

/// Whether a profile goes beyond what a file says of a placement.
pub(super) fn goes_beyond(profile: &Profile, written: crate::backend::PlacementKind) -> bool {
    use crate::backend::PlacementKind::{Geo, Global, Pinned, Unknown};
    match (profile.reach(), written) {
        (_, Pinned) | (Reach::Global, Geo) => true,
        (_, Geo | Global | Unknown) => false,
    }
}
