//! Rules of every pod.

use serde_json::{Value, json};

use crate::document::{Document, containers, main_containers};

/// The pod that keeps its state in the cluster's own store.
const WITH_TOKEN: &str = "lambda-postgres";

/// The pod whose Python has a file capability, and which one.
const WITH_CAPABILITY: (&str, &str) = ("lambda-pgadmin", "NET_BIND_SERVICE");

/// Violations of `look` over all pod templates.
fn each_pod(
    documents: &[Document],
    look: impl Fn(&Document, &Value, &mut Vec<String>),
) -> Vec<String> {
    let mut broken = Vec::new();
    for document in documents {
        let Some(template) = document.pod() else { continue };
        let mut found = Vec::new();
        look(document, template, &mut found);
        broken.extend(found.into_iter().map(|what| format!("{}: {what}", document.title())));
    }
    broken
}

/// Adds a violation if a value differs from the wanted one.
fn want(found: &mut Vec<String>, place: &str, is: &Value, wanted: &Value) {
    if is != wanted {
        found.push(format!("{place} is {is}, not {wanted}"));
    }
}

pub(crate) fn run_confined(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |document, template, found| {
        let pod = &template["spec"]["securityContext"];
        want(found, "runAsNonRoot", &pod["runAsNonRoot"], &json!(true));
        want(found, "seccompProfile", &pod["seccompProfile"]["type"], &json!("RuntimeDefault"));
        if pod["runAsUser"].as_u64().is_none_or(|user| user == 0) {
            found.push(format!("runAsUser is {}", pod["runAsUser"]));
        }
        for container in containers(template) {
            let (name, security) = (&container["name"], &container["securityContext"]);
            let place = |what: &str| format!("{what} of {name}");
            let escalation = &security["allowPrivilegeEscalation"];
            want(found, &place("allowPrivilegeEscalation"), escalation, &json!(false));
            let read_only = &security["readOnlyRootFilesystem"];
            want(found, &place("readOnlyRootFilesystem"), read_only, &json!(true));
            let capabilities = &security["capabilities"];
            want(found, &place("capabilities dropped"), &capabilities["drop"], &json!(["ALL"]));
            let (owner, added) = WITH_CAPABILITY;
            let added = if document.name() == owner { json!([added]) } else { Value::Null };
            want(found, &place("capabilities added"), &capabilities["add"], &added);
        }
    })
}

pub(crate) fn say_what_they_need(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |_, template, found| {
        if template["spec"]["terminationGracePeriodSeconds"].is_null() {
            found.push("no terminationGracePeriodSeconds".into());
        }
        for container in containers(template) {
            for need in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                if container["resources"].pointer(need).is_none() {
                    found.push(format!("{} has no {need}", container["name"]));
                }
            }
            let policy = &container["terminationMessagePolicy"];
            want(found, "terminationMessagePolicy", policy, &json!("FallbackToLogsOnError"));
        }
    })
}

pub(crate) fn are_probed(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |document, template, found| {
        if !document.serves() {
            return;
        }
        for container in main_containers(template) {
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if container[probe].is_null() {
                    found.push(format!("{} has no {probe}", container["name"]));
                }
            }
        }
    })
}

pub(crate) fn keep_their_service_account_token_away(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |document, template, found| {
        let token = json!(document.name() == WITH_TOKEN);
        let spec = &template["spec"];
        want(found, "automountServiceAccountToken", &spec["automountServiceAccountToken"], &token);
        want(found, "enableServiceLinks", &spec["enableServiceLinks"], &json!(false));
    })
}

/// The tag of an image, empty if it has none.
fn tag(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let tagged = name.split('@').next().unwrap_or_default();
    tagged.split_once(':').map(|(_, tag)| tag).unwrap_or_default()
}

pub(crate) fn name_their_images(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |_, template, found| {
        for container in containers(template) {
            let image = container["image"].as_str().unwrap_or_default();
            let tag = tag(image);
            if tag.is_empty() || tag == "latest" {
                found.push(format!("{image} names no version"));
            }
            let policy = &container["imagePullPolicy"];
            want(found, "imagePullPolicy", policy, &json!("IfNotPresent"));
        }
    })
}

/// A major version alone becomes another program next month.
pub(crate) fn name_minor_versions(documents: &[Document]) -> Vec<String> {
    each_pod(documents, |_, template, found| {
        for container in containers(template) {
            let image = container["image"].as_str().unwrap_or_default();
            let mut numbers = tag(image).trim_start_matches('v').split(['.', '-']);
            let is_number = |part: Option<&str>| part.is_some_and(|it| it.parse::<u32>().is_ok());
            if !(is_number(numbers.next()) && is_number(numbers.next())) {
                found.push(format!("{image} names no minor version"));
            }
        }
    })
}

/// Only exit code 0 is success; an error that a retry cannot fix ends the Job at once, and a
/// node that went away counts for nothing.
pub(crate) fn loads_end_by_their_exit_code(documents: &[Document]) -> Vec<String> {
    let mut broken = each_pod(documents, |document, template, found| {
        let job = match document.kind() {
            "CronJob" => &document.value["spec"]["jobTemplate"]["spec"],
            "Job" => &document.value["spec"],
            _ => return,
        };
        want(found, "restartPolicy", &template["spec"]["restartPolicy"], &json!("Never"));
        want(found, "podReplacementPolicy", &job["podReplacementPolicy"], &json!("Failed"));
        for bound in ["activeDeadlineSeconds", "backoffLimit"] {
            if job[bound].is_null() {
                found.push(format!("no {bound}"));
            }
        }
        let rules = &job["podFailurePolicy"]["rules"];
        let node_gone = json!([{ "type": "DisruptionTarget", "status": "True" }]);
        want(found, "the first rule", &rules[0]["action"], &json!("Ignore"));
        want(found, "the first rule's condition", &rules[0]["onPodConditions"], &node_gone);
    });
    for document in documents.iter().filter(|document| document.name() == "csv-batch-cron") {
        let mut found = Vec::new();
        let spec = &document.value["spec"];
        let ends = &spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][1];
        want(&mut found, "the second rule", &ends["action"], &json!("FailJob"));
        want(&mut found, "its codes", &ends["onExitCodes"]["values"], &json!([2, 65, 78]));
        let container = &spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["name"];
        want(&mut found, "its container", &ends["onExitCodes"]["containerName"], container);
        want(&mut found, "schedule", &spec["schedule"], &json!("0 0 * * *"));
        want(&mut found, "concurrencyPolicy", &spec["concurrencyPolicy"], &json!("Forbid"));
        for key in ["timeZone", "startingDeadlineSeconds"] {
            if spec[key].is_null() {
                found.push(format!("no {key}"));
            }
        }
        broken.extend(found.into_iter().map(|what| format!("{}: {what}", document.title())));
    }
    broken
}
