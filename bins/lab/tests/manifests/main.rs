//! The rules that the rendered manifests keep, whatever cluster they go to. Read from what
//! is committed, so that no `kubectl` is needed; `.ci/run` renders again and compares.
//!
//! Each rule is a function from documents to what breaks it, and is shown to notice.

#![expect(clippy::unwrap_used, reason = "a test")]

mod capacity;
mod document;
mod pods;
mod stability;
mod systems;

use std::fs;
use std::path::Path;

use lambda_lab::Failure;
use serde_json::{Value, json};

use crate::document::Document;

/// What of the documents breaks a rule, each in a line that names the object.
type Rule = fn(&[Document]) -> Vec<String>;

const RULES: &[Rule] = &[
    pods::run_confined,
    pods::say_what_they_need,
    pods::are_probed,
    pods::keep_their_service_account_token_away,
    pods::name_their_images,
    pods::loads_end_by_their_exit_code,
    stability::quantities_are_canonical,
    stability::nothing_is_empty,
    stability::no_secret_is_written,
    stability::no_namespace_is_named,
    stability::files_tell_what_they_hold,
    systems::are_all_there,
    systems::replicas_are_disrupted_one_at_a_time,
    systems::who_is_scaled_has_no_replicas,
    systems::nobody_speaks_unless_allowed,
    capacity::members_fit_the_partitions,
    capacity::connections_fit_the_server,
];

const RENDERED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../terraform/manifests");

fn overlays() -> Result<Vec<(String, Vec<Document>)>, Failure> {
    let mut overlays = Vec::new();
    for entry in fs::read_dir(RENDERED)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        overlays.push((name, document::read(&path)?));
    }
    overlays.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(overlays)
}

fn overlay(name: &str) -> Vec<Document> {
    document::read(&Path::new(RENDERED).join(name)).unwrap()
}

#[test]
fn every_overlay_is_rendered() {
    let folder = Path::new(RENDERED).join("../../k8s/overlays");
    let mut sources: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    sources.sort();
    let rendered: Vec<String> = overlays().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(rendered, sources);
}

#[test]
fn every_overlay_keeps_the_rules() {
    let mut broken = Vec::new();
    for (overlay, documents) in overlays().unwrap() {
        assert!(documents.len() > 30, "{overlay} has {} documents", documents.len());
        for rule in RULES {
            broken.extend(rule(&documents).into_iter().map(|what| format!("{overlay}: {what}")));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_minikube_overlay_asks_for_no_more_than_one_core_and_three_gibibytes() {
    let asked = capacity::requests(&overlay("minikube"));
    assert!(asked.millicores <= 1_000, "{asked:?}");
    assert!(asked.bytes <= 3 << 30, "{asked:?}");
}

/// Changes one document and wants the rule to notice that, and nothing before.
#[track_caller]
fn notices(rule: Rule, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let mut documents = overlay("minikube");
    assert_eq!(rule(&documents), Vec::<String>::new());
    let changed = documents
        .iter_mut()
        .find(|document| document.kind() == kind && document.name().starts_with(name))
        .unwrap();
    change(&mut changed.value);
    assert!(!rule(&documents).is_empty(), "unnoticed");
}

/// Takes a document away and wants the rule to notice that.
#[track_caller]
fn misses(rule: Rule, kind: &str, name: &str) {
    let mut documents = overlay("minikube");
    let before = documents.len();
    documents.retain(|document| !(document.kind() == kind && document.name() == name));
    assert_eq!(documents.len(), before - 1);
    assert!(!rule(&documents).is_empty(), "unnoticed");
}

fn set(pointer: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |document| *document.pointer_mut(pointer).unwrap() = value
}

fn remove(pointer: &'static str, key: &'static str) -> impl FnOnce(&mut Value) {
    move |document| {
        let parent = document.pointer_mut(pointer).and_then(Value::as_object_mut).unwrap();
        parent.remove(key).unwrap();
    }
}

const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";

#[test]
fn rules_of_pods_notice() {
    let consumer = ("Deployment", "lambda-consumer");
    let security = "/spec/template/spec/containers/0/securityContext";
    let (kind, name) = consumer;
    notices(pods::run_confined, kind, name, remove(security, "readOnlyRootFilesystem"));
    notices(pods::run_confined, kind, name, remove(security, "capabilities"));
    notices(
        pods::run_confined,
        kind,
        name,
        remove("/spec/template/spec/securityContext", "seccompProfile"),
    );
    notices(
        pods::run_confined,
        kind,
        name,
        set("/spec/template/spec/securityContext/runAsUser", json!(0)),
    );
    notices(pods::run_confined, "CronJob", "csv-batch-cron", |document| {
        let pod = document.pointer_mut("/spec/jobTemplate/spec/template/spec").unwrap();
        pod["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    });
    notices(
        pods::say_what_they_need,
        kind,
        name,
        remove("/spec/template/spec/containers/0/resources", "limits"),
    );
    notices(
        pods::say_what_they_need,
        kind,
        name,
        remove("/spec/template/spec/containers/0/resources/requests", "cpu"),
    );
    notices(pods::say_what_they_need, kind, name, remove(POD, "terminationGracePeriodSeconds"));
    notices(pods::are_probed, kind, name, remove(CONTAINER, "livenessProbe"));
    notices(pods::are_probed, "StatefulSet", "kafka", remove(CONTAINER, "readinessProbe"));
    notices(
        pods::keep_their_service_account_token_away,
        kind,
        name,
        remove(POD, "automountServiceAccountToken"),
    );
    notices(
        pods::name_their_images,
        kind,
        name,
        set("/spec/template/spec/containers/0/image", json!("lambda-platform:latest")),
    );
    notices(
        pods::name_their_images,
        kind,
        name,
        set("/spec/template/spec/containers/0/image", json!("lambda-platform")),
    );
    let load = "/spec/jobTemplate/spec";
    notices(
        pods::loads_end_by_their_exit_code,
        "CronJob",
        "csv-batch-cron",
        remove(load, "podFailurePolicy"),
    );
    notices(
        pods::loads_end_by_their_exit_code,
        "CronJob",
        "csv-batch-cron",
        set("/spec/jobTemplate/spec/podFailurePolicy/rules/1/onExitCodes/values", json!([2, 78])),
    );
    notices(
        pods::loads_end_by_their_exit_code,
        "CronJob",
        "csv-batch-cron",
        set("/spec/concurrencyPolicy", json!("Allow")),
    );
}

#[test]
fn rules_of_stability_notice() {
    let (kind, name) = ("Deployment", "lambda-consumer");
    for quantity in [json!("0.5"), json!(0.5), json!("1000m"), json!(1)] {
        let requests = "/spec/template/spec/containers/0/resources/requests/cpu";
        notices(stability::quantities_are_canonical, kind, name, set(requests, quantity));
    }
    for quantity in ["1024Mi", "0.5Gi", "100000", "1e3"] {
        let memory = "/spec/template/spec/containers/0/resources/limits/memory";
        notices(stability::quantities_are_canonical, kind, name, set(memory, json!(quantity)));
    }
    notices(
        stability::nothing_is_empty,
        "NetworkPolicy",
        "lambda-postgres",
        set("/spec/ingress", json!([])),
    );
    notices(
        stability::nothing_is_empty,
        "StatefulSet",
        "kafka",
        set("/spec/template/spec/containers/0/env/3/value", json!("")),
    );
    notices(stability::nothing_is_empty, kind, name, |document| document["status"] = json!({}));
    notices(
        stability::no_secret_is_written,
        "ConfigMap",
        "lambda-config",
        set("/kind", json!("Secret")),
    );
    notices(stability::no_secret_is_written, "ConfigMap", "lambda-config", |document| {
        document["data"]["DB_PASSWORD"] = json!("s");
    });
    notices(stability::no_secret_is_written, kind, name, |document| {
        document.pointer_mut(CONTAINER).unwrap()["env"] =
            json!([{ "name": "DB_PASSWORD", "value": "s" }]);
    });
    notices(stability::no_namespace_is_named, "ConfigMap", "lambda-config", |document| {
        document["data"]["DB_HOST"] = json!("lambda-postgres.dev.svc.cluster.local");
    });
    notices(
        stability::files_tell_what_they_hold,
        kind,
        name,
        set("/metadata/labels/tier", json!("core")),
    );
}

#[test]
fn rules_of_systems_notice() {
    misses(systems::are_all_there, "CronJob", "csv-batch-cron");
    misses(systems::are_all_there, "Service", "kafka-service");
    misses(systems::replicas_are_disrupted_one_at_a_time, "PodDisruptionBudget", "lambda-consumer");
    misses(systems::nobody_speaks_unless_allowed, "NetworkPolicy", "default-deny");
    notices(systems::who_is_scaled_has_no_replicas, "Deployment", "lambda-consumer", |document| {
        document["spec"]["replicas"] = json!(3);
    });
    notices(
        capacity::members_fit_the_partitions,
        "HorizontalPodAutoscaler",
        "lambda-consumer",
        set("/spec/maxReplicas", json!(7)),
    );
    notices(capacity::connections_fit_the_server, "ConfigMap", "lambda-patroni", |document| {
        let text = document["data"]["patroni.yaml"].as_str().unwrap();
        let fewer = text.replace("max_connections: 200", "max_connections: 80");
        document["data"]["patroni.yaml"] = json!(fewer);
    });
}
