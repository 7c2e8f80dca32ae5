//! Rendered documents, and the pods in them.

use std::fs;
use std::path::{Path, PathBuf};

use lambda_lab::Failure;
use serde_json::Value;

/// An object as kubectl renders it.
pub(crate) struct Document {
    /// `<tier>/<Kind>-<name>.yaml`
    pub(crate) file: String,
    pub(crate) value: Value,
}

impl Document {
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The text at a place, empty if there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Title for messages.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// Whether this is the object, whose generated name may end in a hash.
    pub(crate) fn is(&self, kind: &str, name: &str) -> bool {
        let rest = self.name().strip_prefix(name);
        let hashed = |rest: &str| rest.strip_prefix('-').is_some_and(|hash| hash.len() == 10);
        self.kind() == kind && rest.is_some_and(|rest| rest.is_empty() || hashed(rest))
    }

    /// Its pod template.
    pub(crate) fn pod(&self) -> Option<&Value> {
        let template = match self.kind() {
            "Deployment" | "StatefulSet" | "Job" => "/spec/template",
            "CronJob" => "/spec/jobTemplate/spec/template",
            "Pod" => "",
            _ => return None,
        };
        self.value.pointer(template)
    }

    /// Whether its pods run without an end.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.kind(), "Deployment" | "StatefulSet")
    }
}

pub(crate) fn named<'a>(documents: &'a [Document], kind: &str, name: &str) -> Option<&'a Document> {
    documents.iter().find(|it| it.is(kind, name))
}

/// Whether a selector matches these labels.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let keeps = |expression: &Value| {
        let label = &labels[expression["key"].as_str().unwrap_or_default()];
        let among = || expression["values"].as_array().is_some_and(|all| all.contains(label));
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => among(),
            "NotIn" => !among(),
            "Exists" => !label.is_null(),
            "DoesNotExist" => label.is_null(),
            operator => panic!("no operator of a selector: {operator}"),
        }
    };
    equal.into_iter().all(|(key, value)| labels[key] == *value) && expressions.all(keeps)
}

/// The containers of a pod's template, init containers first.
pub(crate) fn containers(template: &Value) -> impl Iterator<Item = &Value> {
    let of = |key: &str| template["spec"][key].as_array().into_iter().flatten();
    of("initContainers").chain(of("containers"))
}

/// The containers that run as long as the pod does.
pub(crate) fn main_containers(template: &Value) -> impl Iterator<Item = &Value> {
    template["spec"]["containers"].as_array().into_iter().flatten()
}

/// All files below a folder.
fn each_file(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(each_file(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The documents of an overlay.
pub(crate) fn read(folder: &Path) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in each_file(folder)? {
        let value = serde_saphyr::from_str(&fs::read_to_string(&path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let file = path.strip_prefix(folder)?.to_string_lossy().into_owned();
        documents.push(Document { file, value });
    }
    documents.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(documents)
}
