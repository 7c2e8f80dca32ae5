//! The systems, and how they share their resources.

use serde_json::{Value, json};

use crate::document::{Document, named, selects};

/// Names that people and scripts of the earlier platform use.
const SYSTEMS: &[(&str, &str)] = &[
    ("ConfigMap", "lambda-config"),
    ("CronJob", "csv-batch-cron"),
    ("Deployment", "lambda-consumer"),
    ("Deployment", "lambda-pgadmin"),
    ("Deployment", "lambda-producer-stream"),
    ("Job", "db-setup-job"),
    ("Job", "topic-setup-job"),
    ("Service", "kafka-service"),
    ("Service", "lambda-pgadmin"),
    ("Service", "lambda-postgres"),
    ("Service", "lambda-postgres-ro"),
    ("StatefulSet", "kafka"),
    ("StatefulSet", "lambda-postgres"),
    ("CronJob", "postgres-backup"),
    ("HorizontalPodAutoscaler", "lambda-consumer"),
    ("ResourceQuota", "lambda-quota"),
    ("LimitRange", "lambda-limits"),
];

/// Ports of services, and their first number of replicas.
const FIXED: &[(&str, &str, &str, i64)] = &[
    ("Service", "kafka-service", "/spec/ports/0/port", 9092),
    ("Service", "lambda-pgadmin", "/spec/ports/0/port", 5050),
    ("Service", "lambda-postgres", "/spec/ports/0/port", 5432),
    ("Service", "lambda-postgres-ro", "/spec/ports/0/port", 5432),
    ("Deployment", "lambda-producer-stream", "/spec/replicas", 3),
    ("StatefulSet", "lambda-postgres", "/spec/replicas", 3),
    ("HorizontalPodAutoscaler", "lambda-consumer", "/spec/minReplicas", 3),
];

pub(crate) fn are_all_there(documents: &[Document]) -> Vec<String> {
    let found = |kind: &str, name: &str| named(documents, kind, name);
    let mut missing: Vec<String> = SYSTEMS
        .iter()
        .filter(|(kind, name)| found(kind, name).is_none())
        .map(|(kind, name)| format!("{kind} {name} is missing"))
        .collect();
    for (kind, name, pointer, number) in FIXED {
        let value = found(kind, name).and_then(|document| document.value.pointer(pointer));
        if value.and_then(Value::as_i64) != Some(*number) {
            missing.push(format!("{kind} {name}: {pointer} is not {number}"));
        }
    }
    missing
}

/// A workload with replicas, or that may have some, loses one at a time to a drain.
pub(crate) fn replicas_are_disrupted_one_at_a_time(documents: &[Document]) -> Vec<String> {
    let replicated = documents.iter().filter(|document| {
        let is_one = document.value["spec"]["replicas"] == json!(1);
        document.serves() && !(is_one && document.kind() == "Deployment")
    });
    let unprotected = replicated.filter(|document| {
        let app = &document.value["spec"]["selector"]["matchLabels"]["app"];
        !documents.iter().any(|budget| {
            let spec = &budget.value["spec"];
            budget.kind() == "PodDisruptionBudget"
                && spec["maxUnavailable"] == json!(1)
                && spec["selector"]["matchLabels"]["app"] == *app
        })
    });
    unprotected.map(|document| format!("{} has no budget", document.title())).collect()
}

pub(crate) fn who_is_scaled_has_no_replicas(documents: &[Document]) -> Vec<String> {
    let scaled = documents.iter().filter(|it| it.kind() == "HorizontalPodAutoscaler");
    let targets = scaled.map(|scaler| &scaler.value["spec"]["scaleTargetRef"]["name"]);
    let target = |name: &Value| {
        documents.iter().find(|it| it.serves() && it.value["metadata"]["name"] == *name)
    };
    targets
        .filter(|name| target(name).is_none_or(|it| !it.value["spec"]["replicas"].is_null()))
        .map(|name| format!("{name} is scaled, and has replicas"))
        .collect()
}

/// The claims that a pod's template mounts by name.
fn claims(template: &Value) -> impl Iterator<Item = &str> {
    let volumes = template["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// A claim of one node at a time: another pod that needs it would wait on another node without
/// an end, unless all of them require to run on the same node.
pub(crate) fn pods_of_one_claim_meet_on_one_node(documents: &[Document]) -> Vec<String> {
    let of_one_node = |name: &str| {
        let claim = named(documents, "PersistentVolumeClaim", name);
        claim.is_none_or(|it| it.value["spec"]["accessModes"] != json!(["ReadWriteMany"]))
    };
    let pods = || documents.iter().filter_map(|document| Some((document, document.pod()?)));
    let mut broken = Vec::new();
    for (document, template) in pods() {
        let spec = &document.value["spec"];
        let alone = spec["replicas"] == json!(1) && spec["strategy"]["type"] == json!("Recreate");
        for claim in claims(template).filter(|claim| !alone && of_one_node(claim)) {
            let rule = "requiredDuringSchedulingIgnoredDuringExecution";
            let terms = template["spec"]["affinity"]["podAffinity"][rule].as_array();
            let meets = |labels: &Value| {
                terms.into_iter().flatten().any(|term| {
                    let by_node = term["topologyKey"] == json!("kubernetes.io/hostname");
                    by_node && selects(&term["labelSelector"], labels)
                })
            };
            for (other, its) in pods().filter(|(_, its)| claims(its).any(|it| it == claim)) {
                if !meets(&its["metadata"]["labels"]) {
                    let (one, other) = (document.title(), other.title());
                    broken.push(format!(
                        "{one}: may run apart from {other}, which also uses {claim}"
                    ));
                }
            }
        }
    }
    broken
}
