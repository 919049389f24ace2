//! Hosts that say by their name in which countries they work, or that nobody knows where.

use std::sync::Arc;

use serde::Deserialize;

use super::{TableError, reader};

/// A host of somebody who serves models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As in a URL.
    pub name: Arc<str>,
    /// Where it works, by the codes of ISO 3166-1; empty for one that may be anywhere.
    pub countries: Vec<Arc<str>>,
}

impl Host {
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

/// Reads the shipped file.
pub(super) fn parse(text: &str) -> Result<Vec<Host>, TableError> {
    #[derive(Deserialize)]
    struct Row {
        host: String,
        countries: String,
        checked: String,
        source: String,
    }
    let mut hosts = Vec::new();
    for row in reader(text).deserialize() {
        let Row { host, countries, checked, source } = row?;
        if checked.parse::<jiff::civil::Date>().is_err() || source.is_empty() {
            return Err(TableError::value(&host, "it has a date and a source"));
        }
        if !countries.split_whitespace().all(Host::is_code) {
            return Err(TableError::value(&host, "a country has two capital letters"));
        }
        hosts.push(Host { name: host.into(), countries: countries.split_whitespace().map(Arc::from).collect() });
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::super::{Catalogue, Regions};
    use super::*;

    #[test]
    fn every_country_has_a_grid_and_no_host_is_there_twice() {
        let hosts = parse(include_str!("hosts.csv")).unwrap();
        for (nth, host) in hosts.iter().enumerate() {
            assert!(hosts.iter().skip(nth + 1).all(|other| other.name != host.name), "{}", host.name);
            let known = Regions::shipped().iter().any(|region| host.may_be_in(region.grid_zone.as_str()));
            assert!(known || host.countries.is_empty(), "{}", host.name);
        }
        assert_eq!(Catalogue::shipped().host("us.api.openai.com").unwrap().countries, [Arc::from("US")]);
        assert!(Catalogue::shipped().host("api.openai.com").unwrap().countries.is_empty());
        assert!(Catalogue::shipped().host("xx.api.openai.com").is_none());
    }

    #[test]
    fn a_zone_belongs_to_the_country_that_it_begins_with() {
        let host = Host { name: "h".into(), countries: vec!["SE".into(), "FR".into()] };
        assert!(host.may_be_in("SE-SE3") && host.may_be_in("FR"));
        assert!(!host.may_be_in("NO-NO1") && !host.may_be_in("FRX"));
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
