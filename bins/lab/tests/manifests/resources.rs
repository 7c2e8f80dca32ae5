//! Requests and limits of pods, against the node, the limit range and the quota.

use serde_json::{Value, json};

use crate::document::{Document, containers, main_containers, named};
use crate::quantity::thousandths;

/// The autoscaler of these pods.
fn autoscaler<'a>(documents: &'a [Document], document: &Document) -> Option<&'a Value> {
    let mut scalers = documents.iter().filter(|it| it.kind() == "HorizontalPodAutoscaler");
    let scaler = scalers.find(|it| it.text("/spec/scaleTargetRef/name") == document.name())?;
    Some(&scaler.value["spec"])
}

/// Replicas as written, or the autoscaler's `bound`.
fn replicas(documents: &[Document], document: &Document, bound: &str) -> u64 {
    let scaled = autoscaler(documents, document).and_then(|scaler| scaler[bound].as_u64());
    scaled.or(document.value["spec"]["replicas"].as_u64()).unwrap_or(1)
}

/// Number of pods that a rollout adds to those that serve: a number, or a share that is
/// rounded up; a quarter if nothing is set.
pub(crate) fn surge(document: &Document, replicas: u64) -> u64 {
    let strategy = &document.value["spec"]["strategy"];
    if document.kind() != "Deployment" || strategy["type"] == json!("Recreate") {
        return 0;
    }
    let surge = &strategy["rollingUpdate"]["maxSurge"];
    surge.as_u64().unwrap_or_else(|| {
        let share = surge.as_str().unwrap_or("25%").strip_suffix('%');
        let share: u64 = share.and_then(|share| share.parse().ok()).expect("a number or a share");
        (replicas * share).div_ceil(100)
    })
}

/// A container's amount of a resource: its own, or the limit range's default if it sets
/// none.
fn of_container(range: &Value, container: &Value, which: &str, resource: &str) -> Option<u128> {
    let own = |which: &str| container["resources"][which][resource].as_str();
    let given = |default: &str| range[default][resource].as_str();
    let quantity = match which {
        "requests" => own("requests").or(own("limits")).or(given("defaultRequest")),
        _ => own("limits").or(given("default")),
    };
    thousandths(quantity?)
}

/// Amount for a pod as the scheduler and the quota count it: init containers run before the
/// others, one after the other.
fn of_pod(range: &Value, template: &Value, which: &str, resource: &str) -> Option<u128> {
    let mut together = 0;
    for container in main_containers(template) {
        together += of_container(range, container, which, resource)?;
    }
    let mut most = together;
    for container in containers(template) {
        most = most.max(of_container(range, container, which, resource)?);
    }
    Some(most)
}

/// The limit range for containers.
fn limit_range(documents: &[Document]) -> &Value {
    let limits = named(documents, "LimitRange", "lambda-limits")
        .and_then(|range| range.value["spec"]["limits"].as_array());
    let of_containers =
        limits.and_then(|all| all.iter().find(|it| it["type"] == json!("Container")));
    of_containers.unwrap_or(&Value::Null)
}

/// Requests that run at the same time in an ordinary hour, in thousandths: services with the
/// surge of their rollouts, and the largest Job.
pub(crate) fn requested(documents: &[Document], resource: &str) -> u128 {
    let range = limit_range(documents);
    let (mut serving, mut job) = (0, 0);
    for document in documents {
        let Some(template) = document.pod() else { continue };
        let pod = of_pod(range, template, "requests", resource).expect("a request");
        if document.serves() {
            let replicas = replicas(documents, document, "minReplicas");
            serving += u128::from(replicas + surge(document, replicas)) * pod;
        } else {
            job = job.max(pod);
        }
    }
    serving + job
}

/// All pods that can exist at the same time: the autoscaler at its maximum during a rollout,
/// each `CronJob`'s Job beside one created from it by hand, the setup.
fn most_pods(documents: &[Document]) -> Vec<(&Value, u128)> {
    let pods = documents.iter().filter_map(|document| {
        let most = match document.kind() {
            "CronJob" => 2,
            "Job" => 1,
            _ => {
                let replicas = replicas(documents, document, "maxReplicas");
                replicas + surge(document, replicas)
            }
        };
        Some((document.pod()?, u128::from(most)))
    });
    pods.collect()
}

/// The specs of all claims, each with its count.
fn claims(documents: &[Document]) -> Vec<(&Value, u128)> {
    let mut claims = Vec::new();
    for document in documents {
        let spec = &document.value["spec"];
        if document.kind() == "PersistentVolumeClaim" {
            claims.push((spec, 1));
        }
        for template in spec["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let members = replicas(documents, document, "maxReplicas");
            claims.push((&template["spec"], u128::from(members)));
        }
    }
    claims
}

/// Jobs that are kept, that run on schedule and that run by hand.
fn most_jobs(documents: &[Document]) -> u128 {
    let jobs = documents.iter().map(|document| {
        let spec = &document.value["spec"];
        match document.kind() {
            "Job" => 1,
            "CronJob" => {
                let succeeded = spec["successfulJobsHistoryLimit"].as_u64().unwrap_or(3);
                succeeded + spec["failedJobsHistoryLimit"].as_u64().unwrap_or(1) + 2
            }
            _ => 0,
        }
    });
    u128::from(jobs.sum::<u64>())
}

/// Maximum use of a quota's entry, in thousandths.
fn most(documents: &[Document], entry: &str) -> Option<u128> {
    let number = |objects: u128| Some(objects * 1_000);
    let of_type = |wanted: &str| {
        let services = documents.iter().filter(|it| it.kind() == "Service");
        services.filter(|it| it.text("/spec/type") == wanted).count() as u128
    };
    match entry {
        "pods" => number(most_pods(documents).iter().map(|(_, pods)| pods).sum()),
        "count/jobs.batch" => number(most_jobs(documents)),
        "services.loadbalancers" => number(of_type("LoadBalancer")),
        "persistentvolumeclaims" => number(claims(documents).iter().map(|(_, many)| many).sum()),
        "requests.storage" => {
            let storage =
                |claim: &Value| thousandths(claim["resources"]["requests"]["storage"].as_str()?);
            claims(documents).into_iter().map(|(claim, many)| Some(many * storage(claim)?)).sum()
        }
        _ => {
            let (which, resource) = entry.split_once('.')?;
            let range = limit_range(documents);
            let pods = most_pods(documents).into_iter();
            pods.map(|(template, many)| Some(many * of_pod(range, template, which, resource)?))
                .sum()
        }
    }
}

pub(crate) fn everything_at_its_most_fits_the_quota(documents: &[Document]) -> Vec<String> {
    let hard = named(documents, "ResourceQuota", "lambda-quota")
        .and_then(|quota| quota.value["spec"]["hard"].as_object());
    let Some(hard) = hard else { return vec!["no ResourceQuota lambda-quota".into()] };
    let mut broken = Vec::new();
    for (entry, quota) in hard {
        let has = quota.as_str().and_then(thousandths);
        match (most(documents, entry), has) {
            (Some(most), Some(has)) if most <= has => {}
            (Some(most), _) => {
                broken.push(format!(
                    "{entry}: up to {most} thousandths are used, the quota is {quota}"
                ));
            }
            (None, _) => broken.push(format!("{entry}: not every object sets how much it uses")),
        }
    }
    broken
}

/// Compares two quantities that both exist.
fn exceeds(one: &Value, other: &Value) -> bool {
    let value = |quantity: &Value| thousandths(quantity.as_str()?);
    value(one).zip(value(other)).is_some_and(|(one, other)| one > other)
}

/// Pods that the API server would refuse.
pub(crate) fn containers_fit_the_limit_range(documents: &[Document]) -> Vec<String> {
    let range = limit_range(documents);
    if range.is_null() {
        return vec!["no LimitRange lambda-limits for containers".into()];
    }
    let entries = |bound: &str| range[bound].as_object().into_iter().flatten();
    let mut broken = Vec::new();
    for (low, high) in
        [("min", "defaultRequest"), ("defaultRequest", "default"), ("default", "max")]
    {
        for (resource, quantity) in entries(low) {
            if exceeds(quantity, &range[high][resource]) {
                broken.push(format!("LimitRange: {low} of {resource} is more than {high}"));
            }
        }
    }
    for document in documents {
        for container in document.pod().into_iter().flat_map(containers) {
            let mut say = |what: String| {
                broken.push(format!("{}: {}: {what}", document.title(), container["name"]));
            };
            let of = |which: &str, resource: &str| of_container(range, container, which, resource);
            for (resource, max) in entries("max") {
                let max = max.as_str().and_then(thousandths);
                if of("limits", resource).is_none_or(|limit| max.is_none_or(|max| limit > max)) {
                    say(format!("its limit of {resource} is not within the limit range's max"));
                }
            }
            for (resource, min) in entries("min") {
                let min = min.as_str().and_then(thousandths);
                if of("requests", resource).is_none_or(|asks| min.is_none_or(|min| asks < min)) {
                    say(format!("its request of {resource} is not within the limit range's min"));
                }
            }
            for resource in ["cpu", "memory", "ephemeral-storage"] {
                let both = of("requests", resource).zip(of("limits", resource));
                if both.is_some_and(|(asks, limit)| asks > limit) {
                    say(format!("its request of {resource} is more than its limit"));
                }
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        containers_fit_the_limit_range, everything_at_its_most_fits_the_quota, requested, surge,
    };
    use crate::document::named;
    use crate::{notices, overlay, remove, set};

    const RESOURCES: &str = "/spec/template/spec/containers/0/resources";
    const MEMORY: &str = "/spec/template/spec/containers/0/resources/limits/memory";

    #[test]
    fn the_overlays_of_one_node_ask_for_no_more_than_one_core_and_three_gibibytes() {
        for name in ["minikube", "zookeeper"] {
            let documents = overlay(name);
            let (cpu, memory) = (requested(&documents, "cpu"), requested(&documents, "memory"));
            assert!(cpu > 0 && cpu <= 1_000, "{name}: {cpu} millicores");
            assert!(memory > 0 && memory <= 3_000 << 30, "{name}: {memory} thousandths of bytes");
        }
    }

    #[test]
    fn a_surge_is_a_number_or_a_share_that_is_rounded_up() {
        let mut documents = overlay("minikube");
        let consumer = documents.iter_mut().find(|it| it.title() == "Deployment lambda-consumer");
        let consumer = consumer.unwrap();
        for (written, pods) in
            [(json!(2), 2), (json!("10%"), 1), (json!("50%"), 3), (json!("0%"), 0)]
        {
            consumer.value["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = written;
            assert_eq!(surge(consumer, 5), pods);
        }
        consumer.value["spec"]["strategy"] = json!(null);
        assert_eq!(surge(consumer, 5), 2);
        consumer.value["spec"]["strategy"] = json!({ "type": "Recreate" });
        assert_eq!(surge(consumer, 5), 0);
        assert_eq!(surge(named(&documents, "StatefulSet", "kafka").unwrap(), 5), 0);
    }

    #[test]
    fn a_rollouts_surge_counts_for_the_node() {
        let mut documents = overlay("minikube");
        let before = requested(&documents, "cpu");
        let consumer = documents.iter_mut().find(|it| it.title() == "Deployment lambda-consumer");
        consumer.unwrap().value["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = json!("100%");
        // Three instead of one, of 50 millicores each.
        assert_eq!(requested(&documents, "cpu"), before + 100);
    }

    #[test]
    fn requests_of_init_containers_count_for_the_node() {
        let mut documents = overlay("minikube");
        let before = requested(&documents, "cpu");
        let consumer = documents.iter_mut().find(|it| it.title() == "Deployment lambda-consumer");
        let pod = &mut consumer.unwrap().value["spec"]["template"]["spec"];
        pod["initContainers"][0]["resources"]["requests"]["cpu"] = json!("60m");
        // 60 instead of 50 millicores for each of four.
        assert_eq!(requested(&documents, "cpu"), before + 40);
    }

    #[test]
    fn containers_that_the_limit_range_refuses_are_found() {
        let rule = containers_fit_the_limit_range;
        notices(rule, "Deployment", "lambda-consumer", set(MEMORY, json!("5Gi")));
        notices(rule, "Deployment", "lambda-consumer", set(MEMORY, json!("64Mi")));
        notices(rule, "CronJob", "csv-batch-cron", |document| {
            let pod = document.pointer_mut("/spec/jobTemplate/spec/template/spec").unwrap();
            pod["initContainers"][0]["resources"]["limits"]["memory"] = json!("5Gi");
        });
        notices(rule, "LimitRange", "lambda-limits", |document| {
            document["spec"]["limits"][0]["min"] = json!({ "cpu": "50m" });
        });
        notices(rule, "LimitRange", "lambda-limits", |document| {
            // Less than init containers request.
            document["spec"]["limits"][0]["min"] = json!({ "cpu": "30m" });
            document["spec"]["limits"][0]["defaultRequest"]["cpu"] = json!("30m");
        });
        notices(rule, "LimitRange", "lambda-limits", |document| {
            document["spec"]["limits"][0]["max"]["cpu"] = json!("4");
        });
        notices(rule, "LimitRange", "lambda-limits", |document| {
            document["spec"]["limits"][0]["default"]["memory"] = json!("16Gi");
        });
    }

    #[test]
    fn pods_and_claims_beyond_the_quota_are_found() {
        let rule = everything_at_its_most_fits_the_quota;
        for (entry, quota) in [
            ("requests.cpu", "1"),
            ("requests.memory", "2Gi"),
            ("limits.memory", "4Gi"),
            ("requests.storage", "20Gi"),
            ("persistentvolumeclaims", "6"),
            ("pods", "20"),
            ("count/jobs.batch", "10"),
            ("configmaps", "40"),
            ("limits.cpu", "100"),
        ] {
            notices(rule, "ResourceQuota", "lambda-quota", |document| {
                document["spec"]["hard"][entry] = json!(quota);
            });
        }
        notices(rule, "HorizontalPodAutoscaler", "lambda-consumer", |document| {
            document["spec"]["maxReplicas"] = json!(40);
        });
        notices(rule, "Deployment", "lambda-consumer", |document| {
            document["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = json!("500%");
        });
        notices(rule, "Deployment", "lambda-consumer", |document| {
            document.pointer_mut(RESOURCES).unwrap()["requests"]["memory"] = json!("1Gi");
        });
        notices(rule, "StatefulSet", "lambda-postgres", |document| {
            let claim = &mut document["spec"]["volumeClaimTemplates"][0]["spec"];
            claim["resources"]["requests"]["storage"] = json!("30Gi");
        });
        notices(rule, "Service", "lambda-pgadmin", set("/spec/type", json!("LoadBalancer")));
        notices(rule, "PersistentVolumeClaim", "batch-inbox", remove("/spec", "resources"));
    }
}
