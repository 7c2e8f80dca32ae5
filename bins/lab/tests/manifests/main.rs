//! Rules that the rendered manifests keep, for any cluster. Read from the committed files, so
//! that no `kubectl` is needed; `.ci/run` renders again and compares.
//!
//! Each rule is a function from documents to violations, and is shown to find one.

#![expect(clippy::unwrap_used, reason = "a test")]

mod capacity;
mod document;
mod pods;
mod quantity;
mod resources;
mod secrets;
mod stability;
mod systems;
mod traffic;

use std::fs;
use std::path::Path;

use lambda_lab::Failure;
use serde_json::{Value, json};

use crate::document::Document;

/// Violations of a rule, each in a line that names the object.
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
    stability::jobs_take_their_pods_away,
    stability::no_namespace_is_named,
    stability::files_tell_what_they_hold,
    systems::are_all_there,
    systems::replicas_are_disrupted_one_at_a_time,
    systems::who_is_scaled_has_no_replicas,
    systems::pods_of_one_claim_meet_on_one_node,
    traffic::everything_is_denied_by_default,
    traffic::what_is_needed_passes_and_nothing_else,
    traffic::rules_say_for_whom_and_where,
    secrets::no_secret_is_written,
    capacity::members_fit_the_partitions,
    capacity::connections_fit_the_server,
    resources::containers_fit_the_limit_range,
    resources::everything_at_its_most_fits_the_quota,
];

/// Rules that also apply to pods created by hand.
const RULES_BY_HAND: &[Rule] = &[
    pods::run_confined,
    pods::say_what_they_need,
    pods::keep_their_service_account_token_away,
    pods::name_their_images,
    stability::quantities_are_canonical,
    stability::nothing_is_empty,
    secrets::no_secret_is_written,
    systems::pods_of_one_claim_meet_on_one_node,
    resources::containers_fit_the_limit_range,
];

const RENDERED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../terraform/manifests");
const BY_HAND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/jobs");

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

/// The overlay minikube together with the pods created by hand.
fn overlay_with_pods_by_hand() -> Vec<Document> {
    let mut by_hand = document::read(BY_HAND.as_ref()).unwrap();
    for document in &mut by_hand {
        let metadata = document.value["metadata"].as_object_mut().unwrap();
        if let Some(name) = metadata.remove("generateName") {
            metadata.insert("name".into(), json!(name.as_str().unwrap().trim_end_matches('-')));
        }
    }
    assert_eq!(by_hand.len(), 4);
    let mut documents = overlay("minikube");
    documents.extend(by_hand);
    documents
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
fn pods_by_hand_keep_the_rules_of_pods() {
    let documents = overlay_with_pods_by_hand();
    let broken: Vec<String> = RULES_BY_HAND.iter().flat_map(|rule| rule(&documents)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn production_names_no_image_without_a_minor_version() {
    for image in ["dpage/pgadmin4:9", "apache/kafka:latest", "kafka", "host:5000/kafka", "a:v1"] {
        let image = json!(image);
        let change = set("/spec/template/spec/containers/0/image", image);
        notices_in(production, pods::name_minor_versions, "StatefulSet", "kafka", change);
    }
}

fn production() -> Vec<Document> {
    overlay("production")
}

fn minikube() -> Vec<Document> {
    overlay("minikube")
}

/// Checks that the rule finds no violation, then changes one document and expects one.
#[track_caller]
fn notices_in(
    documents: impl Fn() -> Vec<Document>,
    rule: Rule,
    kind: &str,
    name: &str,
    change: impl FnOnce(&mut Value),
) {
    let mut documents = documents();
    assert_eq!(rule(&documents), Vec::<String>::new());
    let changed = documents.iter_mut().find(|document| document.is(kind, name)).unwrap();
    change(&mut changed.value);
    assert!(!rule(&documents).is_empty(), "unnoticed");
}

#[track_caller]
fn notices(rule: Rule, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
    notices_in(minikube, rule, kind, name, change);
}

/// Checks that the rule finds no violation, then removes one document and expects one.
#[track_caller]
fn misses_in(overlay_name: &str, rule: Rule, kind: &str, name: &str) {
    let mut documents = overlay(overlay_name);
    assert_eq!(rule(&documents), Vec::<String>::new());
    let before = documents.len();
    documents.retain(|document| !document.is(kind, name));
    assert_eq!(documents.len(), before - 1);
    assert!(!rule(&documents).is_empty(), "unnoticed");
}

#[track_caller]
fn misses(rule: Rule, kind: &str, name: &str) {
    misses_in("minikube", rule, kind, name);
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
fn rules_of_pods_find_violations() {
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
fn rules_of_stability_find_violations() {
    let (kind, name) = ("Deployment", "lambda-consumer");
    for quantity in [json!("0.5"), json!(0.5), json!("1000m"), json!(1)] {
        let requests = "/spec/template/spec/containers/0/resources/requests/cpu";
        notices(stability::quantities_are_canonical, kind, name, set(requests, quantity));
    }
    for quantity in ["1024Mi", "0.5Gi", "100000", "1e3"] {
        let memory = "/spec/template/spec/containers/0/resources/limits/memory";
        notices(stability::quantities_are_canonical, kind, name, set(memory, json!(quantity)));
    }
    let rule = stability::quantities_are_canonical;
    notices(rule, kind, name, |document| {
        let resources = &mut document.pointer_mut(CONTAINER).unwrap()["resources"];
        resources["limits"]["ephemeral-storage"] = json!("1024Mi");
    });
    notices(rule, "PersistentVolumeClaim", "batch-inbox", |document| {
        document["spec"]["resources"]["requests"]["storage"] = json!("2048Mi");
    });
    notices(rule, "StatefulSet", "kafka", |document| {
        let claim = &mut document["spec"]["volumeClaimTemplates"][0]["spec"];
        claim["resources"]["requests"]["storage"] = json!("2048Mi");
    });
    for (entry, quantity) in
        [("requests.storage", "1024Gi"), ("limits.memory", "12288Mi"), ("count/jobs.batch", "1000")]
    {
        notices(rule, "ResourceQuota", "lambda-quota", |document| {
            document["spec"]["hard"][entry] = json!(quantity);
        });
    }
    notices(rule, "ResourceQuota", "lambda-quota", set("/spec/hard/pods", json!(40)));
    let max = "/spec/limits/0/max/memory";
    notices(rule, "LimitRange", "lambda-limits", set(max, json!("4096Mi")));
    notices(rule, "HorizontalPodAutoscaler", "lambda-consumer", |document| {
        document["spec"]["metrics"][0]["resource"]["target"]["averageValue"] = json!("0.12");
    });
    notices(rule, "StatefulSet", "kafka", |document| {
        let volume = &mut document["spec"]["template"]["spec"]["volumes"][0];
        volume["emptyDir"]["sizeLimit"] = json!("1024Ki");
    });
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
fn rules_of_systems_find_violations() {
    misses(systems::are_all_there, "CronJob", "csv-batch-cron");
    misses(systems::are_all_there, "Service", "kafka-service");
    misses(systems::replicas_are_disrupted_one_at_a_time, "PodDisruptionBudget", "lambda-consumer");
    notices(
        stability::jobs_take_their_pods_away,
        "Job",
        "db-setup-job",
        remove("/metadata", "finalizers"),
    );
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
    notices(capacity::connections_fit_the_server, "Deployment", "lambda-consumer", |document| {
        document["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = json!("300%");
    });
}

#[test]
fn pods_that_cannot_run_where_their_claim_is_are_found() {
    let rule = systems::pods_of_one_claim_meet_on_one_node;
    let load = "/spec/jobTemplate/spec/template/spec";
    notices(rule, "CronJob", "csv-batch-cron", remove(load, "affinity"));
    notices(rule, "CronJob", "postgres-backup", remove(load, "affinity"));
    notices(rule, "Deployment", "lambda-pgadmin", remove("/spec", "strategy"));
    notices(rule, "CronJob", "csv-batch-cron", |document| {
        let rule = "requiredDuringSchedulingIgnoredDuringExecution";
        let pod = document.pointer_mut(load).unwrap();
        pod["affinity"]["podAffinity"][rule][0]["topologyKey"] =
            json!("topology.kubernetes.io/zone");
    });
    let with = overlay_with_pods_by_hand;
    notices_in(with, rule, "Pod", "inbox", remove("/spec", "affinity"));
    notices_in(with, rule, "Pod", "backups", remove("/spec", "affinity"));
    notices_in(with, rule, "Job", "lambda-csv-batch", remove(POD, "affinity"));
    notices_in(with, rule, "Job", "postgres-restore", remove(POD, "affinity"));
    notices_in(with, rule, "Pod", "inbox", set("/metadata/labels/app", json!("drop")));
}
