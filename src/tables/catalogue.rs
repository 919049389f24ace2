//! Which model is reached where, by which id, and what an id or a host says of where a request may run.
//!
//! Suppliers open regions and move models between endpoints every month, so this is a table and not a line of code: the
//! configuration can put rows of its own before those that are shipped.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::{Endpoint, Glob, Place, TableError, endpoints, places, reader};

static SHIPPED: LazyLock<Catalogue> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the files are part of the program, and the tests parse these very texts")]
    Catalogue::parse().expect("the shipped catalogue parses")
});

/// A model at an endpoint of some regions.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The model as clients know it.
    pub model: Arc<str>,
    /// The endpoint, by its name.
    pub endpoint: Arc<str>,
    /// Below which path the OpenAI API lies there.
    pub path: Arc<str>,
    /// The model's id there.
    pub id: Arc<str>,
    /// The endpoint's regions, in the cloud's own words.
    pub regions: Vec<Glob>,
}

/// Rows of every kind, of which the first that fits counts.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Models.
    pub offers: Vec<Offer>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Inference profiles.
    pub profiles: Vec<Profile>,
    /// Hosts that say where they work.
    pub hosts: Vec<Place>,
    /// What answers say of where a request ran.
    pub geographies: Vec<Place>,
}

/// What is found of a model at one endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Found<'c> {
    /// It is there.
    Here(&'c Offer),
    /// It is at this endpoint, and in other regions.
    Elsewhere(&'c Offer),
    /// Nothing is known of it there.
    Unknown,
}

impl Catalogue {
    /// What is shipped.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    fn parse() -> Result<Self, TableError> {
        Ok(Self {
            offers: parse_offers(include_str!("catalogue.csv"))?,
            endpoints: endpoints::parse(include_str!("endpoints.csv"))?,
            profiles: parse_profiles(include_str!("profiles.csv"))?,
            hosts: places::parse(include_str!("hosts.csv"))?,
            geographies: places::parse(include_str!("geographies.csv"))?,
        })
    }

    /// This catalogue behind somebody's own.
    #[must_use]
    pub fn behind(&self, mut own: Self) -> Self {
        own.offers.extend_from_slice(&self.offers);
        own.endpoints.extend_from_slice(&self.endpoints);
        own.profiles.extend_from_slice(&self.profiles);
        own.hosts.extend_from_slice(&self.hosts);
        own.geographies.extend_from_slice(&self.geographies);
        own
    }

    /// Whose host that is, and the region in it; `None` for one of nobody known.
    pub fn endpoint<'h>(&self, host: &'h str) -> Option<(&Endpoint, &'h str)> {
        self.endpoints.iter().find_map(|endpoint| Some((endpoint, endpoint.host.region(host)?)))
    }

    /// The profile with which a model's id begins, also one within an ARN; `None` for an id that stays in its region.
    pub fn profile(&self, id: &str) -> Option<&Profile> {
        let name = id.rsplit('/').next().unwrap_or(id);
        let (first, rest) = name.split_once('.')?;
        // `us.amazon.nova` has a supplier behind the profile.
        self.profiles.iter().find(|profile| *profile.prefix == *first && rest.contains('.'))
    }

    /// What a host says of where it works; `None` for one that says nothing.
    pub fn host(&self, name: &str) -> Option<&Place> {
        self.hosts.iter().find(|host| *host.name == *name)
    }

    /// A model, by the client's name or by its id there, at an endpoint in a region.
    pub fn find(&self, model: &str, endpoint: &str, region: &str) -> Found<'_> {
        let named = |offer: &&Offer| *offer.endpoint == *endpoint && (*offer.model == *model || *offer.id == *model);
        let mut offers = self.offers.iter().filter(named);
        let mut elsewhere = None;
        match offers.find(|offer| {
            elsewhere = elsewhere.or(Some(*offer));
            offer.regions.iter().any(|pattern| pattern.matches(region))
        }) {
            Some(offer) => Found::Here(offer),
            None => elsewhere.map_or(Found::Unknown, Found::Elsewhere),
        }
    }
}

/// How far from the region that was asked a request may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Anywhere in a set of regions.
    Geo,
    /// Anywhere.
    Global,
}

/// What the first word of an id says.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The word.
    pub prefix: Arc<str>,
    /// Where a request may run, as patterns of regions; none for anywhere.
    pub regions: Vec<Glob>,
}

impl Profile {
    /// How far a request may go.
    pub const fn reach(&self) -> Reach {
        if self.regions.is_empty() { Reach::Global } else { Reach::Geo }
    }
}

fn parse_offers(text: &str) -> Result<Vec<Offer>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        model: String,
        endpoint: String,
        path: String,
        id: String,
        regions: String,
        checked: String,
        source: String,
    }
    let mut offers = Vec::new();
    for row in reader(text).deserialize() {
        let Row { model, endpoint, path, id, regions, checked, source } = row?;
        if checked.parse::<jiff::civil::Date>().is_err() || source.is_empty() {
            return Err(TableError::value(&model, "it has a date and a source"));
        }
        let regions: Result<Vec<Glob>, _> = regions.split(' ').map(Glob::new).collect();
        let regions = regions.map_err(|_| TableError::value(&model, "a region is no pattern"))?;
        offers.push(Offer { model: model.into(), endpoint: endpoint.into(), path: path.into(), id: id.into(), regions });
    }
    Ok(offers)
}

fn parse_profiles(text: &str) -> Result<Vec<Profile>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        prefix: String,
        regions: String,
    }
    let mut profiles = Vec::new();
    for row in reader(text).deserialize() {
        let Row { prefix, regions } = row?;
        let regions: Result<Vec<Glob>, _> = regions.split_whitespace().map(Glob::new).collect();
        let regions = regions.map_err(|_| TableError::value(&prefix, "a region is no pattern"))?;
        profiles.push(Profile { prefix: prefix.into(), regions });
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Regions;

    fn find(model: &str, endpoint: &str, region: &str) -> String {
        match Catalogue::shipped().find(model, endpoint, region) {
            Found::Here(offer) => offer.id.to_string(),
            Found::Elsewhere(_) => "elsewhere".to_owned(),
            Found::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn an_id_depends_on_the_endpoint_and_the_region() {
        assert_eq!(find("gpt-oss-120b", "bedrock-runtime", "eu-north-1"), "openai.gpt-oss-120b-1:0");
        assert_eq!(find("openai.gpt-oss-120b-1:0", "bedrock-runtime", "eu-north-1"), "openai.gpt-oss-120b-1:0");
        assert_eq!(find("gpt-oss-120b", "bedrock-mantle", "eu-north-1"), "openai.gpt-oss-120b");
        assert_eq!(find("gpt-oss-120b", "bedrock-runtime", "ap-south-1"), "elsewhere");
        assert_eq!(find("gpt-6-sol", "bedrock-runtime", "us-east-1"), "us.openai.gpt-6-sol");
        assert_eq!(find("gpt-9", "bedrock-runtime", "us-east-1"), "unknown");
    }

    #[test]
    fn own_rows_come_first() {
        let own = Offer {
            model: "gpt-6-sol".into(),
            endpoint: "bedrock-runtime".into(),
            path: "/openai/v1".into(),
            id: "eu.openai.gpt-6-sol".into(),
            regions: vec![Glob::new("eu-*").unwrap()],
        };
        let both = Catalogue::shipped().behind(Catalogue { offers: vec![own], ..Catalogue::default() });
        let id = |region| match both.find("gpt-6-sol", "bedrock-runtime", region) {
            Found::Here(offer) => offer.id.to_string(),
            _ => String::new(),
        };
        assert_eq!((&*id("eu-west-1"), &*id("us-east-1")), ("eu.openai.gpt-6-sol", "us.openai.gpt-6-sol"));
    }

    #[test]
    fn every_region_of_a_row_is_one_of_the_table() {
        let shipped = Catalogue::shipped();
        for offer in &shipped.offers {
            for pattern in &offer.regions {
                let known =
                    Regions::shipped().iter().any(|region| &*region.provider == "aws" && pattern.matches(region.short_name()));
                assert!(known, "{} {pattern:?}", offer.model);
            }
            assert!(offer.path.starts_with('/') && shipped.endpoints.iter().any(|endpoint| endpoint.name == offer.endpoint));
        }
        for profile in &shipped.profiles {
            let known = |pattern: &Glob| Regions::shipped().iter().any(|region| pattern.matches(&region.name));
            assert!(profile.regions.iter().all(known), "{}", profile.prefix);
        }
    }

    #[test]
    fn a_profile_is_told_from_a_supplier() {
        let reach = |id| Catalogue::shipped().profile(id).map(Profile::reach);
        assert_eq!(reach("us.openai.gpt-6-sol"), Some(Reach::Geo));
        assert_eq!(reach("global.anthropic.claude-haiku-4-5-20251001-v1:0"), Some(Reach::Global));
        let arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.openai.gpt-6-sol";
        assert_eq!(reach(arn), Some(Reach::Geo));
        for id in [
            "openai.gpt-oss-120b-1:0",
            "openai.gpt-5.4",
            "us.thing",
            "gpt-5.4",
            "arn:aws:bedrock:x:1:application-inference-profile/abc",
        ] {
            assert_eq!(reach(id), None, "{id}");
        }
    }
}
