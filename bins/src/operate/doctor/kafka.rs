//! Checks of the cluster, the topic and its settings.

use std::collections::BTreeMap;

use lambda_core::Error;
use lambda_core::kafka::Kafka;
use lambda_core::kafka::admin::{self, Cluster, Group, Setting};

use super::finding::{CONFIGURATION, Finding, TEMPORARY, mebibytes, of};

/// Names of the checks after that of the cluster itself, in order.
const CHECKS: [&str; 8] = [
    "topic",
    "replication",
    "in-sync",
    "election",
    "cleanup",
    "retention",
    "message-size",
    "group",
];

/// Shortest retention without a warning: longer than a weekend, when no operator may be at work.
const RETENTION_MIN_DAYS: i64 = 3;

const HOUR_MS: i64 = 60 * 60 * 1000;

const DAY_MS: i64 = 24 * HOUR_MS;

/// All checks of this module, in order.
pub(super) fn checks() -> impl Iterator<Item = &'static str> {
    ["kafka"].into_iter().chain(CHECKS)
}

/// Checks the cluster and the topic. Returns the configuration, for further checks of the
/// topic's offsets, if the topic exists.
pub(super) async fn examine(
    config: Result<Kafka, Error>,
    findings: &mut Vec<Finding>,
) -> Option<Kafka> {
    let asked = async {
        let config = config?;
        let cluster = admin::cluster(&config).await?;
        Ok((config, cluster))
    };
    let (config, cluster) = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            findings.push(Finding::error("kafka", &error));
            skip(&CHECKS, "there is no connection", findings);
            return None;
        }
    };
    let brokers = cluster.brokers.len();
    findings.push(Finding::ok(
        "kafka",
        format!("brokers up: {brokers}, asked at {}", config.bootstrap()),
    ));
    if cluster.partitions.is_empty() {
        findings.push(Finding::problem(
            "topic",
            CONFIGURATION,
            format!("topic {} does not exist", config.topic()),
            "create it with lambda topic ensure, or correct KAFKA_TOPIC",
        ));
        skip(&CHECKS[1..], "the topic does not exist", findings);
        return None;
    }
    findings.push(topic(&config, &cluster));
    findings.push(replication(&cluster));
    match admin::settings(&config).await {
        Ok(settings) => findings.extend([
            in_sync(&settings, &cluster),
            election(&settings),
            cleanup(&settings),
            retention(&settings),
            message_size(&config, &settings),
        ]),
        Err(error) => {
            findings.push(Finding::skipped(CHECKS[2], error.chain()));
            skip(&CHECKS[3..7], "the topic's settings could not be read", findings);
        }
    }
    findings.push(of("group", admin::group(&config).await.map(|it| group(&config, it.as_ref()))));
    Some(config)
}

fn skip(checks: &[&'static str], why: &str, findings: &mut Vec<Finding>) {
    findings.extend(checks.iter().map(|check| Finding::skipped(check, why)));
}

fn topic(config: &Kafka, cluster: &Cluster) -> Finding {
    let count = cluster.partitions.len();
    match cluster.without_leader().as_slice() {
        [] => Finding::ok(
            "topic",
            format!("{} has {count} partitions, all with a leader", config.topic()),
        ),
        without => Finding::problem(
            "topic",
            TEMPORARY,
            format!("partitions {without:?} of {} have no leader", config.topic()),
            "start the brokers that hold them",
        ),
    }
}

fn replication(cluster: &Cluster) -> Finding {
    let (copies, brokers) = (cluster.replication_factor(), cluster.brokers.len());
    let behind: Vec<i32> =
        cluster.partitions.iter().filter(|it| it.in_sync < it.replicas).map(|it| it.id).collect();
    if !behind.is_empty() {
        return Finding::warning(
            "replication",
            format!("partitions {behind:?} have replicas that are behind or down"),
            "start the brokers that hold them and read their logs",
        );
    }
    if copies < 2 && brokers > 1 {
        return Finding::warning(
            "replication",
            format!("1 replica on {brokers} brokers: losing a broker loses its partitions"),
            "raise the replication factor with kafka-reassign-partitions.sh",
        );
    }
    let alone = if brokers < 2 { "; everything is on one broker" } else { "" };
    Finding::ok("replication", format!("replicas: {copies}, brokers: {brokers}{alone}"))
}

fn in_sync(settings: &BTreeMap<String, Setting>, cluster: &Cluster) -> Finding {
    let copies = cluster.replication_factor() as i64;
    let Some(least) = number(settings, "min.insync.replicas") else { return unreported("in-sync") };
    let found = format!("min.insync.replicas is {least} of {copies} replicas");
    if least > copies {
        let remedy = "lower min.insync.replicas or add replicas: nothing can be written";
        return Finding::problem("in-sync", CONFIGURATION, found, remedy);
    }
    if copies > 2 && least < 2 {
        let remedy = "set min.insync.replicas=2: a message on one broker can be lost with it";
        return Finding::warning("in-sync", found, remedy);
    }
    Finding::ok("in-sync", found)
}

fn election(settings: &BTreeMap<String, Setting>) -> Finding {
    match text(settings, "unclean.leader.election.enable") {
        Some("false") => Finding::ok("election", "only in-sync replicas can become leader"),
        Some(_) => Finding::problem(
            "election",
            CONFIGURATION,
            "unclean.leader.election.enable is true: acknowledged messages can be lost",
            "set unclean.leader.election.enable=false for the topic",
        ),
        None => unreported("election"),
    }
}

fn cleanup(settings: &BTreeMap<String, Setting>) -> Finding {
    match text(settings, "cleanup.policy") {
        Some(policy) if policy.contains("compact") => Finding::warning(
            "cleanup",
            format!("cleanup.policy is {policy}: only the last message of each account is kept"),
            "set cleanup.policy=delete, unless all messages are read before compaction",
        ),
        Some(policy) => Finding::ok("cleanup", format!("cleanup.policy is {policy}")),
        None => unreported("cleanup"),
    }
}

fn retention(settings: &BTreeMap<String, Setting>) -> Finding {
    match number(settings, "retention.ms") {
        Some(ms) if (0..RETENTION_MIN_DAYS * DAY_MS).contains(&ms) => Finding::warning(
            "retention",
            format!("messages expire after {} h, read or not", ms / HOUR_MS),
            format!(
                "set retention.ms to {RETENTION_MIN_DAYS} days or more: {}",
                RETENTION_MIN_DAYS * DAY_MS
            ),
        ),
        Some(ms) if ms < 0 => Finding::ok("retention", "messages never expire"),
        Some(ms) => Finding::ok("retention", format!("messages are kept for {} days", ms / DAY_MS)),
        None => unreported("retention"),
    }
}

fn message_size(config: &Kafka, settings: &BTreeMap<String, Setting>) -> Finding {
    let Some(largest) = number(settings, "max.message.bytes") else {
        return unreported("message-size");
    };
    let found = format!("the topic accepts batches of up to {}", mebibytes(largest));
    let accepted = config.batch_bytes_max().cast_signed();
    if largest > accepted {
        return Finding::problem(
            "message-size",
            CONFIGURATION,
            format!("{found}, a consumer accepts {accepted} bytes"),
            "lower the topic's max.message.bytes, or raise receive.message.max.bytes in \
             KAFKA_CONFIG and the consumers' memory limit",
        );
    }
    Finding::ok("message-size", found)
}

fn group(config: &Kafka, group: Option<&Group>) -> Finding {
    let id = config.group_id();
    match group {
        Some(Group { state, protocol, members }) if *members > 0 => {
            let found = format!("{id}: {state}, {members} members, {protocol}");
            if matches!(protocol.as_str(), "range" | "roundrobin") {
                let remedy =
                    "stop the members that use this assignor, or set another KAFKA_GROUP_ID";
                return Finding::problem("group", CONFIGURATION, found, remedy);
            }
            Finding::ok("group", found)
        }
        // The lag shows whether that is a problem.
        _ => Finding::ok("group", format!("{id}: no members in the classic protocol")),
    }
}

fn text<'a>(settings: &'a BTreeMap<String, Setting>, name: &str) -> Option<&'a str> {
    settings.get(name).map(|setting| setting.value.as_str())
}

fn number(settings: &BTreeMap<String, Setting>, name: &str) -> Option<i64> {
    text(settings, name)?.parse().ok()
}

fn unreported(check: &'static str) -> Finding {
    Finding::skipped(check, "the brokers do not report this setting")
}
