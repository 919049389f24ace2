//! What the project is built from, read off the lock: `.deny.toml` says more, but takes a tool and its database.

use std::collections::{BTreeMap, BTreeSet};

/// Versions from which on a fault is mended that the project would be open to.
const AT_LEAST: [(&str, [u64; 3], &str); 2] = [
    ("h2", [0, 4, 16], "RUSTSEC-2026-0258: empty DATA frames without end"),
    ("rustls-webpki", [0, 103, 13], "RUSTSEC-2026-0104 and those before it"),
];
/// What is not to be among it, and why.
const NOT_AMONG: [(&str, &str); 4] = [
    ("serde_yml", "RUSTSEC-2025-0068"),
    ("serde_yaml", "nobody looks after it"),
    ("openssl-sys", "TLS is rustls with aws-lc"),
    ("native-tls", "TLS is rustls with aws-lc"),
];

/// The keys of a package of a lock.
type Package = BTreeMap<String, String>;

fn packages() -> Vec<Package> {
    let lock = include_str!("../../Cargo.lock");
    let value = |line: &str| line.split_once(" = ").map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
    lock.split("[[package]]").skip(1).map(|package| package.lines().filter_map(value).collect()).collect()
}

#[test]
fn all_of_it_comes_from_one_registry_with_a_checksum() {
    let mut sources = BTreeSet::new();
    for package in packages() {
        let name = &package["name"];
        let Some(source) = package.get("source") else {
            assert_eq!(name, "windward", "it lies beside this or comes from nowhere");
            continue;
        };
        assert!(source.starts_with("registry+https://"), "{name} is from {source}");
        assert!(package["checksum"].len() == 64 && package["checksum"].bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        sources.insert(source.clone());
    }
    assert_eq!(sources.len(), 1, "{sources:?}");
    // It is the one that cargo takes where nobody names another, since what is asked for here names none.
    let names_another = |line: &&str| {
        ["registry", "git =", "[patch", "[replace", "[source"]
            .iter()
            .any(|word| line.split('#').next().unwrap_or(line).contains(word))
    };
    for text in [include_str!("../../Cargo.toml"), include_str!("../../.cargo/config.toml")] {
        assert_eq!(text.lines().find(names_another), None);
    }
}

#[test]
fn what_is_known_to_be_open_is_not_among_it() {
    let packages = packages();
    let version = |package: &Package| -> [u64; 3] {
        let plain = package["version"].split(['-', '+']).next().unwrap();
        let numbers: Vec<u64> = plain.split('.').map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    };
    for (name, least, why) in AT_LEAST {
        let found: Vec<[u64; 3]> = packages.iter().filter(|package| package["name"] == name).map(version).collect();
        assert!(!found.is_empty() && found.iter().all(|version| *version >= least), "{name} {found:?}: {why}");
    }
    for (name, why) in NOT_AMONG {
        assert!(packages.iter().all(|package| package["name"] != name), "{name}: {why}");
    }
}
