//! The JSON schema of the file, for editors: the same list of keys that reads it, so it cannot say anything else.

use serde_json::{Value, json};

use super::file::File;

/// The schema, as indented JSON with a line's end. `config/windward.schema.json` is this text, and a test holds it so.
pub fn schema() -> String {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<File>().to_value();
    allow_variables(&mut schema);
    schema["title"] = json!("Windward");
    format!("{schema:#}\n")
}

/// Lets `"${NAME}"` stand where a number or a truth value does: to an editor that is text, to the program what it will be.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(allow_variables),
        Value::Object(map) => {
            map.values_mut().for_each(allow_variables);
            let is_plain = |name: &Value| ["number", "integer", "boolean"].iter().any(|plain| name == plain);
            let wanted =
                map.get("type").is_some_and(|kind| is_plain(kind) || kind.as_array().is_some_and(|all| all.iter().any(is_plain)));
            if wanted {
                let description = map.remove("description");
                let mut either = json!({ "anyOf": [&*map, { "type": "string", "pattern": "\\$\\{" }] });
                if let Some(description) = description {
                    either["description"] = description;
                }
                *schema = either;
            }
        }
        _ => {}
    }
}
