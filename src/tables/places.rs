//! Names that say in which countries something works, or that nobody knows where: hosts, and the words of answers.

use std::sync::Arc;

use serde::Deserialize;

use super::{TableError, reader};

/// What a name says of where models are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A host as in a URL, or a word.
    pub name: Arc<str>,
    /// Where it works, by the codes of ISO 3166-1; empty for one that may be anywhere.
    pub countries: Vec<Arc<str>>,
}

impl Place {
    /// Whether a grid zone lies in one of its countries: its name begins with the country's code.
    pub fn may_be_in(&self, zone: &str) -> bool {
        let country = zone.split('-').next().unwrap_or(zone);
        self.countries.iter().any(|code| **code == *country)
    }

    /// Whether a text is written as a country's code is.
    pub fn is_code(text: &str) -> bool {
        text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
    }
}

/// Reads a shipped file.
pub(super) fn parse(text: &str) -> Result<Vec<Place>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(alias = "host", alias = "geography")]
        name: String,
        countries: String,
        checked: String,
        source: String,
    }
    let mut places = Vec::new();
    for row in reader(text).deserialize() {
        let Row { name, countries, checked, source } = row?;
        if checked.parse::<jiff::civil::Date>().is_err() || source.is_empty() {
            return Err(TableError::value(&name, "it has a date and a source"));
        }
        if !countries.split_whitespace().all(Place::is_code) {
            return Err(TableError::value(&name, "a country has two capital letters"));
        }
        places.push(Place { name: name.into(), countries: countries.split_whitespace().map(Arc::from).collect() });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::super::{Catalogue, Regions};
    use super::*;

    #[test]
    fn every_country_has_a_grid_and_no_name_is_there_twice() {
        for table in [include_str!("hosts.csv"), include_str!("geographies.csv")] {
            let places = parse(table).unwrap();
            for (nth, place) in places.iter().enumerate() {
                assert!(places.iter().skip(nth + 1).all(|other| other.name != place.name), "{}", place.name);
                let known = Regions::shipped().iter().any(|region| place.may_be_in(region.grid_zone.as_str()));
                assert!(known || place.countries.is_empty(), "{}", place.name);
            }
        }
        assert_eq!(Catalogue::shipped().host("us.api.openai.com").unwrap().countries, [Arc::from("US")]);
        assert!(Catalogue::shipped().host("api.openai.com").unwrap().countries.is_empty());
        assert!(Catalogue::shipped().host("xx.api.openai.com").is_none());
    }

    #[test]
    fn a_zone_belongs_to_the_country_that_it_begins_with() {
        let place = Place { name: "h".into(), countries: vec!["SE".into(), "FR".into()] };
        assert!(place.may_be_in("SE-SE3") && place.may_be_in("FR"));
        assert!(!place.may_be_in("NO-NO1") && !place.may_be_in("FRX"));
    }

    #[test]
    fn a_row_without_source_or_with_a_strange_country_is_refused() {
        let of = |row: &str| parse(&format!("host,countries,checked,source\n{row}\n"));
        assert!(of("h.example,DE FR,2026-11-23,its page").is_ok());
        for bad in [
            "h.example,DE,2026-11-23,",
            "h.example,DE,yesterday,p",
            "h.example,Germany,2026-11-23,p",
            "h.example,de,2026-11-23,p",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
