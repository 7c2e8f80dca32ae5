//! JSON that programs print for `--output json`: always one object, with the format's
//! version and a list.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Failure;

/// Version of the format. Increases when a field changes its meaning or is removed; new
/// fields may be added under the same version.
const VERSION: u32 = 1;

/// Prints `{"version": 1, "<name>": [<list>], <facts>}`, which programs can rely on.
///
/// # Errors
/// [`Failure::Unexpected`] when standard output cannot be written.
pub fn print(
    name: &str,
    list: Vec<Value>,
    facts: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<(), Failure> {
    crate::print(Value::Object(object(name, list, facts)))
}

/// Converts a summary to an item of the list.
///
/// # Errors
/// [`Failure::Unexpected`] when it has a value that JSON cannot represent.
pub fn value(summary: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(summary).map_err(|error| Failure::unexpected("write the summary", error))
}

fn object(
    name: &str,
    list: Vec<Value>,
    facts: impl IntoIterator<Item = (&'static str, Value)>,
) -> Map<String, Value> {
    let mut object: Map<String, Value> =
        facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    object.insert("version".to_owned(), json!(VERSION));
    object.insert(name.to_owned(), Value::Array(list));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_object_with_a_version_and_a_named_list() {
        let printed = object("jobs", vec![json!({ "job_id": "BAT00001" })], [("all", json!(1))]);
        let expected = json!({ "version": 1, "jobs": [{ "job_id": "BAT00001" }], "all": 1 });
        assert_eq!(Value::Object(printed), expected);
        let empty = Value::Object(object("jobs", Vec::new(), []));
        assert_eq!(empty, json!({ "version": 1, "jobs": [] }));
    }
}
