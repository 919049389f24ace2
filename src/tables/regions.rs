//! Cloud regions and the grid zones they draw from.
//!
//! A region's name does not say which grid feeds it, and a longitude does not either: balancing areas follow contracts, not maps.
//! So the mapping is a table with sources, and where those disagree its head says so.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::{TableError, reader, similar};
use crate::grid::GridZone;
use crate::units::{GramsPerKwh, Pue};

static SHIPPED: LazyLock<Regions> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and the tests parse this very text")]
    Regions::parse(include_str!("regions.csv")).expect("the shipped table of regions parses")
});

/// Whose figure a PUE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PueScope {
    /// The provider's, metered over a year in that region.
    Region,
    /// The provider's, for what the site was built to reach.
    Design,
    /// The provider's average over all its sites.
    Fleet,
    /// Nobody's: [`Pue::UNPUBLISHED`].
    Default,
}

impl PueScope {
    /// Its name in tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Design => "design",
            Self::Fleet => "fleet",
            Self::Default => "default",
        }
    }
}

/// One cloud region.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Provider and region as the configuration spells them: `aws/us-west-2`.
    pub name: Arc<str>,
    /// The part before the slash: `aws`, `azure`, `gcp` or `ovh`.
    pub provider: Arc<str>,
    /// Where it is, in words.
    pub city: Arc<str>,
    /// The grid zone that feeds it.
    pub grid_zone: GridZone,
    /// That zone's intensity over [`Region::year`]: average, consumption-based, lifecycle.
    pub yearly: Option<GramsPerKwh>,
    /// The year of [`Region::yearly`].
    pub year: Option<i16>,
    /// What the building adds.
    pub pue: Pue,
    /// Whose figure that is.
    pub pue_scope: PueScope,
    /// The year of the PUE, where its publisher names one.
    pub pue_year: Option<i16>,
    /// Where the values come from.
    pub source: Arc<str>,
}

impl Region {
    /// The cloud's own word for it, without the provider: `us-west-2`.
    pub fn short_name(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(_, short)| short)
    }
}

/// A grid zone by itself, for a backend that stands in no cloud.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name.
    pub grid_zone: GridZone,
    /// Its intensity over [`Zone::year`]: average, consumption-based, lifecycle.
    pub yearly: Option<GramsPerKwh>,
    /// The year of that.
    pub year: Option<i16>,
}

/// All regions of the shipped table, and the grid zones they name.
#[derive(Debug)]
pub struct Regions {
    rows: Vec<Region>,
    by_name: HashMap<Arc<str>, usize>,
    zones: HashMap<GridZone, Zone>,
}

impl Regions {
    /// The shipped table. The first call parses it (150 rows, well under a millisecond); call it while a configuration is loaded.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// The region of that exact name (`aws/us-west-2`).
    pub fn lookup(&self, name: &str) -> Option<&Region> {
        self.by_name.get(name).map(|index| &self.rows[*index])
    }

    /// What a name that is not there was probably meant to be: few slips away from a region's full name, or from its name without
    /// the provider.
    pub fn suggest(&self, text: &str) -> Option<&str> {
        let full = self.rows.iter().map(|region| (&*region.name, &*region.name));
        let short = self.rows.iter().map(|region| (region.short_name(), &*region.name));
        similar::nearest(text, full.chain(short))
    }

    /// The regions that have `text` in their name, city or grid zone, in either case; all of them for an empty text.
    pub fn search(&self, text: &str) -> Vec<&Region> {
        let wanted = text.trim().to_lowercase();
        let has = |field: &str| field.to_lowercase().contains(&wanted);
        self.rows.iter().filter(|region| has(&region.name) || has(&region.city) || has(region.grid_zone.as_str())).collect()
    }

    /// What is known of a grid zone; `None` for one that feeds no region of the table, which is not to say that it does not
    /// exist.
    pub fn zone(&self, zone: &GridZone) -> Option<&Zone> {
        self.zones.get(zone)
    }

    /// The grid zone that a name which is not there was probably meant to be.
    pub fn suggest_zone(&self, text: &str) -> Option<&str> {
        // In the order of the rows and not of the map, so that equals are resolved alike in every run.
        similar::nearest(text, self.rows.iter().map(|region| (region.grid_zone.as_str(), region.grid_zone.as_str())))
    }

    /// Every region, by provider and name.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.rows.iter()
    }

    fn parse(text: &str) -> Result<Self, TableError> {
        let mut regions = Self { rows: Vec::new(), by_name: HashMap::new(), zones: HashMap::new() };
        for row in reader(text).deserialize() {
            regions.add(Row::into_region(row?)?)?;
        }
        Ok(regions)
    }

    fn add(&mut self, region: Region) -> Result<(), TableError> {
        let zone = Zone { grid_zone: region.grid_zone.clone(), yearly: region.yearly, year: region.year };
        let known = self.zones.entry(region.grid_zone.clone()).or_insert_with(|| zone.clone());
        if *known != zone {
            return Err(TableError::value(&region.name, "another region gives its grid zone another yearly intensity"));
        }
        if self.by_name.insert(Arc::clone(&region.name), self.rows.len()).is_some() {
            return Err(TableError::value(&region.name, "it is there twice"));
        }
        self.rows.push(region);
        Ok(())
    }
}

/// A line of the file, as written.
#[derive(Deserialize)]
struct Row {
    provider: String,
    region: String,
    city: String,
    grid_zone: String,
    yearly_g_per_kwh: Option<GramsPerKwh>,
    year: Option<i16>,
    pue: Option<Pue>,
    pue_scope: Option<PueScope>,
    pue_year: Option<i16>,
    source: String,
}

impl Row {
    fn into_region(self) -> Result<Region, TableError> {
        let name = format!("{}/{}", self.provider, self.region);
        if [&self.provider, &self.region, &self.grid_zone, &self.source].into_iter().any(String::is_empty) {
            return Err(TableError::value(&name, "provider, region, grid zone or source is empty"));
        }
        if self.yearly_g_per_kwh.is_some() != self.year.is_some() {
            return Err(TableError::value(&name, "a yearly intensity needs its year, and a year its intensity"));
        }
        let (pue, pue_scope) = match (self.pue, self.pue_scope) {
            (Some(pue), Some(scope)) if scope != PueScope::Default => (pue, scope),
            (None, None) => (Pue::UNPUBLISHED, PueScope::Default),
            _ => return Err(TableError::value(&name, "a PUE needs its scope, and a scope its PUE")),
        };
        Ok(Region {
            name: name.into(),
            provider: self.provider.into(),
            city: self.city.into(),
            grid_zone: GridZone::new(&self.grid_zone),
            yearly: self.yearly_g_per_kwh,
            year: self.year,
            pue,
            pue_scope,
            pue_year: self.pue_year,
            source: self.source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> &'static Region {
        Regions::shipped().lookup(name).unwrap_or_else(|| panic!("{name} is in the table"))
    }

    #[test]
    fn every_shipped_row_is_whole() {
        let regions = Regions::shipped();
        assert_eq!(regions.iter().count(), 146);
        for region in regions.iter() {
            assert!(region.yearly.is_some_and(|grams| grams.get() > 0.0 && grams.get() < 1000.0), "{}", region.name);
            assert_eq!(region.year, Some(2025), "{}", region.name);
            assert!(region.pue.get() >= 1.05 && region.pue <= Pue::UNPUBLISHED, "{}", region.name);
            assert!(region.source.contains("Electricity Maps") && region.source.contains("ODbL"), "{}", region.name);
            assert!(regions.zone(&region.grid_zone).is_some(), "{}", region.name);
            assert_eq!(regions.lookup(&region.name), Some(region));
        }
        let mut names: Vec<_> = regions.iter().map(|region| (region.provider.clone(), region.short_name().to_owned())).collect();
        let as_shipped = names.clone();
        names.sort();
        assert_eq!(names, as_shipped, "the rows are in order");
    }

    #[test]
    fn knows_some_facts() {
        let stockholm = region("aws/eu-north-1");
        assert_eq!((stockholm.grid_zone.as_str(), stockholm.yearly.unwrap().get(), stockholm.pue.get()), ("SE-SE3", 20.0, 1.10));
        assert_eq!(region("aws/us-west-2").grid_zone.as_str(), "US-NW-PACW");
        assert_eq!(region("azure/northeurope").grid_zone.as_str(), "IE", "North Europe is Ireland");
        assert_eq!(region("gcp/europe-west3").grid_zone.as_str(), "DE");
        assert_eq!(&*region("gcp/us-east4").city, "Ashburn, Northern Virginia");
        assert_eq!(region("azure/francecentral").pue_scope, PueScope::Fleet);
        assert_eq!(region("azure/italynorth").pue_scope, PueScope::Design);
        let roubaix = region("ovh/fr-roubaix");
        assert_eq!((roubaix.pue, roubaix.pue_scope, roubaix.pue_year), (Pue::UNPUBLISHED, PueScope::Default, None));
    }

    #[test]
    fn looks_up_a_zone_without_a_cloud() {
        let zone = Regions::shipped().zone(&GridZone::new("FR")).unwrap();
        assert_eq!((zone.yearly.unwrap().get(), zone.year), (31.0, Some(2025)));
        assert_eq!(Regions::shipped().zone(&GridZone::new("ATLANTIS")), None);
        assert_eq!(Regions::shipped().suggest_zone("US-NW-PACV"), Some("US-NW-PACW"));
    }

    #[test]
    fn suggests_what_was_meant() {
        let regions = Regions::shipped();
        assert_eq!(regions.lookup("AWS/US-WEST-2"), None);
        assert_eq!(regions.suggest("AWS/US-WEST-2"), Some("aws/us-west-2"));
        assert_eq!(regions.suggest("aws/us-wset-2"), Some("aws/us-west-2"));
        assert_eq!(regions.suggest("us-west-2"), Some("aws/us-west-2"));
        assert_eq!(regions.suggest("azure/sweden-central"), Some("azure/swedencentral"));
        assert_eq!(regions.suggest("mars/olympus-mons-1"), None);
    }

    #[test]
    fn searches_name_city_and_zone() {
        let found = |text| Regions::shipped().search(text).into_iter().map(|region| &*region.name).collect::<Vec<_>>();
        assert_eq!(found("stockholm"), ["aws/eu-north-1", "gcp/europe-north2"]);
        assert_eq!(found("SÃO"), ["aws/sa-east-1", "gcp/southamerica-east1"]);
        assert!(found("se-se3").contains(&"azure/swedencentral"));
        assert_eq!(found("").len(), 146);
        assert!(found("nowhere at all").is_empty());
    }

    #[test]
    fn a_bad_row_is_named() {
        let head = "provider,region,city,grid_zone,yearly_g_per_kwh,year,pue,pue_scope,pue_year,source\n";
        for (row, what) in [
            ("a,b,c,,1,2025,1.1,fleet,,s", "empty"),
            ("a,b,c,DE,1,,1.1,fleet,,s", "needs its year"),
            ("a,b,c,DE,1,2025,1.1,,,s", "scope"),
            ("a,b,c,DE,1,2025,0.9,fleet,,s", "PUE between 1 and 3"),
            ("a,b,c,DE,-1,2025,1.1,fleet,,s", "not negative"),
            ("a,b,c,DE,1,2025,1.1,fleet,,s\na,b,c,DE,1,2025,1.1,fleet,,s", "twice"),
            ("a,b,c,DE,1,2025,1.1,fleet,,s\na,d,c,DE,2,2025,1.1,fleet,,s", "another yearly"),
        ] {
            let error = Regions::parse(&format!("{head}{row}\n")).unwrap_err().to_string();
            assert!(error.contains(what), "{row}: {error}");
        }
    }

    #[test]
    fn agrees_with_the_data_it_was_derived_from() {
        let Some(dir) = std::env::var_os("WINDWARD_DATA") else {
            // Not `eprintln!`: what a passing test prints is hidden, and a silent skip looks like a pass.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: WINDWARD_DATA is not set, so the regions were not compared with the data they come from\n",
            );
            return;
        };
        let mut reader = csv::Reader::from_path(std::path::Path::new(&dir).join("regions.csv")).unwrap();
        let mut compared = 0;
        for row in reader.deserialize::<HashMap<String, String>>() {
            let row = row.unwrap();
            let region = region(&format!("{}/{}", row["provider"], row["region"]));
            assert_eq!(region.grid_zone.as_str(), row["electricity_maps_zone"]);
            assert_eq!(region.yearly, GramsPerKwh::new(row["annual_location_based_g_per_kwh"].parse().unwrap()));
            assert_eq!(region.pue, row["pue"].parse().map_or(Pue::UNPUBLISHED, |pue| Pue::new(pue).unwrap()), "{}", region.name);
            compared += 1;
        }
        assert_eq!(compared, Regions::shipped().iter().count());
    }

    proptest! {
        #[test]
        fn asking_never_panics(text in "\\PC{0,80}") {
            let regions = Regions::shipped();
            regions.search(&text);
            regions.suggest_zone(&text);
            if let Some(name) = regions.suggest(&text) {
                prop_assert!(regions.lookup(name).is_some());
            }
        }
    }
}
