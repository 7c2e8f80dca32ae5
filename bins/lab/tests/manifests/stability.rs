//! Finds fields that a cluster would store differently, or keep when it should not. Each one
//! causes a plan or a diff that never becomes empty, or leaves something behind.

use serde_json::{Value, json};

use crate::document::Document;
use crate::quantity::is_canonical;

/// Visits all values under `value`, each with its path.
pub(crate) fn walk(value: &Value, path: &str, look: &mut impl FnMut(&str, &Value)) {
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

/// Values of all documents for which the closure is true.
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

/// Fields that hold only quantities.
const OF_QUANTITIES: &[&str] =
    &["requests", "limits", "hard", "min", "max", "default", "defaultRequest", "capacity"];

/// Fields that are a quantity.
const QUANTITIES: &[&str] = &["sizeLimit", "averageValue", "divisor"];

pub(crate) fn quantities_are_canonical(documents: &[Document]) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents.iter().filter(|document| document.kind() != "ConfigMap") {
        walk(&document.value, "", &mut |path, value| {
            let key = path.rsplit('/').next().unwrap_or_default();
            let mut quantities = Vec::new();
            if OF_QUANTITIES.contains(&key) {
                quantities.extend(value.as_object().into_iter().flatten());
            }
            if let Some(fields) = value.as_object() {
                quantities
                    .extend(fields.iter().filter(|(name, _)| QUANTITIES.contains(&name.as_str())));
            }
            for (name, quantity) in quantities {
                if !quantity.as_str().is_some_and(is_canonical) {
                    found.push(format!("{}: {path}/{name} is {quantity}", document.title()));
                }
            }
        });
    }
    found
}

/// An empty field means a default, which the API server fills in; and an object's status is
/// set by the cluster, not by us.
pub(crate) fn nothing_is_empty(documents: &[Document]) -> Vec<String> {
    each_value(documents, |_, path, value| {
        let empty_list = value.as_array().is_some_and(Vec::is_empty);
        let empty_text = value.as_str() == Some("") && !path.ends_with("/apiGroups/0");
        empty_list || empty_text || value.is_null() || path == "/status" || path == "/stringData"
    })
}

/// A Job is always deleted with its pods, which stay by default.
pub(crate) fn jobs_take_their_pods_away(documents: &[Document]) -> Vec<String> {
    let jobs = documents.iter().filter(|document| document.kind() == "Job");
    let kept =
        jobs.filter(|job| job.value["metadata"]["finalizers"] != json!(["foregroundDeletion"]));
    kept.map(|job| format!("{}: has not the finalizer foregroundDeletion", job.title())).collect()
}

/// One line moves a whole overlay to another namespace: no other text names it.
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
            // Runbooks contain commands for people to type.
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
        .map(|document| format!("{} is in {}", document.title(), document.file))
        .collect()
}
