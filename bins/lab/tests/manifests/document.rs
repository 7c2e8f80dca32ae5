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

    /// For messages.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// What of it describes pods.
    pub(crate) fn pod(&self) -> Option<&Value> {
        let template = match self.kind() {
            "Deployment" | "StatefulSet" | "Job" => "/spec/template",
            "CronJob" => "/spec/jobTemplate/spec/template",
            _ => return None,
        };
        self.value.pointer(template)
    }

    /// Whether its pods are to run for ever.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.kind(), "Deployment" | "StatefulSet")
    }
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
