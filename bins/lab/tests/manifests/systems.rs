//! Which systems there are, and who may speak to whom.

use serde_json::{Value, json};

use crate::document::Document;

/// What people and scripts of the earlier platform know by name.
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

/// Ports of services, and the replicas that the platform begins with.
const FIXED: &[(&str, &str, &str, i64)] = &[
    ("Service", "kafka-service", "/spec/ports/0/port", 9092),
    ("Service", "lambda-pgadmin", "/spec/ports/0/port", 5050),
    ("Service", "lambda-postgres", "/spec/ports/0/port", 5432),
    ("Service", "lambda-postgres-ro", "/spec/ports/0/port", 5432),
    ("Deployment", "lambda-producer-stream", "/spec/replicas", 3),
    ("StatefulSet", "lambda-postgres", "/spec/replicas", 3),
    ("HorizontalPodAutoscaler", "lambda-consumer", "/spec/minReplicas", 3),
];

/// Whether this is the object, whose generated name may end in a hash.
fn is(document: &Document, kind: &str, name: &str) -> bool {
    let rest = document.name().strip_prefix(name);
    let hashed = |rest: &str| rest.strip_prefix('-').is_some_and(|hash| hash.len() == 10);
    document.kind() == kind && rest.is_some_and(|rest| rest.is_empty() || hashed(rest))
}

pub(crate) fn are_all_there(documents: &[Document]) -> Vec<String> {
    let found = |kind: &str, name: &str| documents.iter().find(|it| is(it, kind, name));
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

/// Whoever has replicas, or could have, loses one at a time to a drain.
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

/// Nothing passes by default, and what may is said for each app.
pub(crate) fn nobody_speaks_unless_allowed(documents: &[Document]) -> Vec<String> {
    let policies: Vec<&Document> =
        documents.iter().filter(|document| document.kind() == "NetworkPolicy").collect();
    let denies = policies.iter().any(|policy| {
        let spec = &policy.value["spec"];
        spec["podSelector"] == json!({})
            && spec["policyTypes"] == json!(["Ingress", "Egress"])
            && spec["ingress"].is_null()
            && spec["egress"].is_null()
    });
    let mut broken = Vec::new();
    if !denies {
        broken.push("no NetworkPolicy denies what no other allows".to_owned());
    }
    for document in documents {
        let Some(template) = document.pod() else { continue };
        let app = &template["metadata"]["labels"]["app"];
        let selected = policies.iter().any(|policy| {
            let selector = &policy.value["spec"]["podSelector"];
            let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
            let mut values = expressions
                .filter(|it| it["operator"] == json!("In"))
                .flat_map(|it| it["values"].as_array().into_iter().flatten());
            selector["matchLabels"]["app"] == *app || values.any(|value| value == app)
        });
        if !selected {
            broken.push(format!("{}: no NetworkPolicy is for it", document.title()));
        }
    }
    broken
}
