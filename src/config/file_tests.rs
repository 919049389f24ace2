use super::super::decode::{Decode, Problems};
use super::super::node::{Mark, Node, Value};
use super::*;

/// The words of the file are those of the log, which serde writes.
#[test]
fn words_are_spelled_as_serde_spells_them() {
    fn check<T: Decode + serde::Serialize + schemars::JsonSchema>() {
        let schema = schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value();
        let variants = schema["oneOf"].as_array().into_iter().flatten().map(|variant| variant["const"].clone());
        let words: Vec<serde_json::Value> = schema["enum"].as_array().into_iter().flatten().cloned().chain(variants).collect();
        assert!(words.len() >= 2, "{schema}");
        for word in words {
            let node = Node { mark: Mark::default(), value: Value::Text(word.as_str().unwrap().to_owned()) };
            let read = T::decode(&node, &mut Problems::default());
            assert_eq!(serde_json::to_value(read.unwrap()).unwrap(), word);
        }
    }
    check::<Signal>();
    check::<Basis>();
    check::<EnergyQuality>();
    check::<Dialect>();
    check::<PlacementKind>();
    check::<Balance>();
    check::<Protocol>();
    check::<UsageMode>();
    check::<Objective>();
    check::<OnNoCandidate>();
    check::<Overload>();
}
