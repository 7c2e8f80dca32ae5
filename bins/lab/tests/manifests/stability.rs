//! What a cluster would store differently than it is written, or keep when it should not:
//! each makes a plan or a diff that never becomes empty, or tells a secret.

use serde_json::Value;

use crate::document::{Document, containers};

/// Walks through all values below `value`, each with its path.
fn walk(value: &Value, path: &str, look: &mut impl FnMut(&str, &Value)) {
    look(path, value);
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                walk(field, &format!("{path}/{key}"), look);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{path}/{index}"), look);
            }
        }
        _ => {}
    }
}

/// What of each document the closure calls broken.
fn each_value(
    documents: &[Document],
    broken: impl Fn(&Document, &str, &Value) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents {
        walk(&document.value, "", &mut |path, value| {
            if broken(document, path, value) {
                found.push(format!("{}: {path} is {value}", document.title()));
            }
        });
    }
    found
}

/// Whether the API server would give this quantity back as it is written.
fn is_canonical(quantity: &str) -> bool {
    let digits = quantity.trim_end_matches(|last: char| !last.is_ascii_digit());
    let Ok(number) = digits.parse::<u64>() else { return false };
    match &quantity[digits.len()..] {
        "m" => number % 1_000 != 0,
        "Ki" | "Mi" | "Gi" | "Ti" => number % 1_024 != 0,
        "" => number < 1_000,
        _ => false,
    }
}

const QUANTITIES: &[&str] =
    &["cpu", "memory", "storage", "sizeLimit", "averageValue", "requests.cpu", "requests.memory"];

pub(crate) fn quantities_are_canonical(documents: &[Document]) -> Vec<String> {
    each_value(documents, |document, path, value| {
        let key = path.rsplit('/').next().unwrap_or_default();
        let of_data = document.kind() == "ConfigMap";
        let is_quantity = !value.is_object() && QUANTITIES.contains(&key) && !of_data;
        is_quantity && !value.as_str().is_some_and(is_canonical)
    })
}

/// Who writes nothing means a default, which the API server then fills in; and what the
/// cluster says of an object is not ours to say.
pub(crate) fn nothing_is_empty(documents: &[Document]) -> Vec<String> {
    each_value(documents, |_, path, value| {
        let empty_list = value.as_array().is_some_and(Vec::is_empty);
        let empty_text = value.as_str() == Some("") && !path.ends_with("/apiGroups/0");
        empty_list || empty_text || value.is_null() || path == "/status" || path == "/stringData"
    })
}

pub(crate) fn no_secret_is_written(documents: &[Document]) -> Vec<String> {
    let is_secret = |name: &str| {
        let name = name.to_ascii_uppercase();
        (name.contains("PASSWORD") || name.contains("SECRET") || name.contains("TOKEN"))
            && !name.starts_with("PGADMIN_CONFIG_")
    };
    let mut found = Vec::new();
    for document in documents {
        if document.kind() == "Secret" {
            found.push(format!("{}: belongs into no overlay", document.title()));
        }
        let data = document.value["data"].as_object().into_iter().flatten();
        for (key, _) in data.filter(|(key, _)| document.kind() == "ConfigMap" && is_secret(key)) {
            found.push(format!("{}: {key} is no setting", document.title()));
        }
        for container in document.pod().into_iter().flat_map(containers) {
            for variable in container["env"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default();
                if is_secret(name) && !variable["value"].is_null() {
                    found.push(format!("{}: {name} has a value", document.title()));
                }
            }
        }
    }
    found
}

/// All of an overlay moves by its one line: no text within names the namespace again.
pub(crate) fn no_namespace_is_named(documents: &[Document]) -> Vec<String> {
    let mut found = Vec::new();
    let namespaces: Vec<&str> = documents
        .iter()
        .filter(|document| document.kind() == "Namespace")
        .map(Document::name)
        .collect();
    let [namespace] = namespaces[..] else {
        return vec![format!("namespaces are {namespaces:?}")];
    };
    let suffixed = [format!(".{namespace}.svc"), format!("-n {namespace} "), ".svc.cluster".into()];
    for document in documents {
        let is_in = document.text("/metadata/namespace");
        let cluster_scoped = document.kind() == "Namespace";
        if cluster_scoped != (is_in != namespace) {
            found.push(format!("{}: is in the namespace {is_in:?}", document.title()));
        }
        walk(&document.value, "", &mut |path, value| {
            let text = value.as_str().unwrap_or_default();
            // Runbooks tell people what to type.
            let told = document.name().starts_with("lambda-alert-rules");
            if !told && suffixed.iter().any(|suffix| text.contains(suffix)) {
                found.push(format!("{}: {path} names a namespace", document.title()));
            }
        });
    }
    found
}

pub(crate) fn files_tell_what_they_hold(documents: &[Document]) -> Vec<String> {
    let told = |document: &Document| {
        let tier = document.text("/metadata/labels/tier");
        format!("{tier}/{}-{}.yaml", document.kind(), document.name())
    };
    documents
        .iter()
        .filter(|document| document.file != told(document))
        .map(|document| format!("{} lies in {}", document.title(), document.file))
        .collect()
}
