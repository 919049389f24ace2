//! Which model is reached where, by which id, and what an id or a host says of where a request may run.
//!
//! Suppliers open regions and move models between endpoints every month, so this is a table and not a line of code: the
//! configuration can put rows of its own before those that are shipped.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use super::{Glob, Host, TableError, hosts, reader};

static SHIPPED: LazyLock<Catalogue> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the files are part of the program, and the tests parse these very texts")]
    Catalogue::parse(include_str!("catalogue.csv"), include_str!("hosts.csv")).expect("the shipped catalogue parses")
});

static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "as above")]
    parse_profiles(include_str!("profiles.csv")).expect("the shipped table of profiles parses")
});

/// A model at an endpoint of some regions.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The model as clients know it.
    pub model: Arc<str>,
    /// `bedrock-runtime` or `bedrock-mantle`.
    pub endpoint: Arc<str>,
    /// Below which path the OpenAI API lies there.
    pub path: Arc<str>,
    /// The model's id there.
    pub id: Arc<str>,
    /// The endpoint's regions, in the cloud's own words.
    pub regions: Vec<Glob>,
}

/// Offers and hosts, the first of which counts.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    offers: Vec<Offer>,
    hosts: Vec<Host>,
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

    fn parse(text: &str, hosts: &str) -> Result<Self, TableError> {
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
        Ok(Self { offers, hosts: hosts::parse(hosts)? })
    }

    /// This catalogue behind rows of somebody's own.
    #[must_use]
    pub fn behind(&self, own: Vec<Offer>, own_hosts: Vec<Host>) -> Self {
        let offers = own.into_iter().chain(self.offers.iter().cloned()).collect();
        Self { offers, hosts: own_hosts.into_iter().chain(self.hosts.iter().cloned()).collect() }
    }

    /// What a host says of where it works; `None` for one that says nothing.
    pub fn host(&self, name: &str) -> Option<&Host> {
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

    /// The offers, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Offer> {
        self.offers.iter()
    }
}

/// How far from the region that was asked a request may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// How far a request may go.
    pub reach: Reach,
    /// Where that may be, as patterns of regions.
    pub regions: Vec<Glob>,
}

impl Profile {
    /// Of a model's id, also of one within an ARN; `None` for one that stays in its region.
    pub fn of(id: &str) -> Option<&'static Self> {
        let name = id.rsplit('/').next().unwrap_or(id);
        let (first, rest) = name.split_once('.')?;
        // `us.amazon.nova` has a supplier behind the profile.
        PROFILES.iter().find(|profile| *profile.prefix == *first && rest.contains('.'))
    }
}

fn parse_profiles(text: &str) -> Result<Vec<Profile>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        prefix: String,
        reach: Reach,
        regions: String,
    }
    let mut profiles = Vec::new();
    for row in reader(text).deserialize() {
        let Row { prefix, reach, regions } = row?;
        let regions: Result<Vec<Glob>, _> = regions.split_whitespace().map(Glob::new).collect();
        let regions = regions.map_err(|_| TableError::value(&prefix, "a region is no pattern"))?;
        profiles.push(Profile { prefix: prefix.into(), reach, regions });
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
        let both = Catalogue::shipped().behind(vec![own], Vec::new());
        let id = |region| match both.find("gpt-6-sol", "bedrock-runtime", region) {
            Found::Here(offer) => offer.id.to_string(),
            _ => String::new(),
        };
        assert_eq!((&*id("eu-west-1"), &*id("us-east-1")), ("eu.openai.gpt-6-sol", "us.openai.gpt-6-sol"));
    }

    #[test]
    fn every_region_of_a_row_is_one_of_the_table() {
        for offer in Catalogue::shipped().iter() {
            for pattern in &offer.regions {
                let known =
                    Regions::shipped().iter().any(|region| &*region.provider == "aws" && pattern.matches(region.short_name()));
                assert!(known, "{} {pattern:?}", offer.model);
            }
            assert!(offer.path.starts_with('/') && ["bedrock-runtime", "bedrock-mantle"].contains(&&*offer.endpoint));
        }
        for profile in PROFILES.iter() {
            let known = |pattern: &Glob| Regions::shipped().iter().any(|region| pattern.matches(&region.name));
            assert!(profile.regions.iter().all(known), "{}", profile.prefix);
            assert_eq!(profile.regions.is_empty(), profile.reach == Reach::Global);
        }
    }

    #[test]
    fn a_profile_is_told_from_a_supplier() {
        let reach = |id| Profile::of(id).map(|profile| profile.reach);
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
