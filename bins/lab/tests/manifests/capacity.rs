//! Capacity: group members for partitions, connections for the server.

use serde_json::Value;

use crate::document::{Document, main_containers, named};
use crate::resources::surge;

/// Connections of a consumer: two commits at a time, a claim, the search for blockers, and
/// the watch over dead letters.
const OF_CONSUMER: u64 = 5;

/// Connections of a load: a commit for each of two workers and one ahead, the lease's
/// heartbeat, the job, and the search for blockers. One runs at night and one by hand.
const OF_LOADS: u64 = 2 * 6;

/// pgAdmin's sessions, the setup, a backup, an operator with `lambda` and psql.
const OF_PEOPLE: u64 = 20;

/// For superusers and the unforeseen.
const RESERVE: u64 = 20;

fn members(documents: &[Document]) -> Option<u64> {
    named(documents, "HorizontalPodAutoscaler", "lambda-consumer")?.value["spec"]["maxReplicas"]
        .as_u64()
}

pub(crate) fn members_fit_the_partitions(documents: &[Document]) -> Vec<String> {
    let partitions = named(documents, "Job", "topic-setup-job").and_then(|job| {
        let arguments = main_containers(job.pod()?).next()?["args"].as_array()?;
        let mut given = arguments.iter().filter_map(Value::as_str);
        given.find_map(|argument| argument.strip_prefix("--partitions=")?.parse().ok())
    });
    match (members(documents), partitions) {
        (Some(members), Some(partitions)) if members <= partitions => Vec::new(),
        (members, partitions) => vec![format!("{members:?} members for {partitions:?} partitions")],
    }
}

/// The number after `key:` in the server's configuration.
fn setting(documents: &[Document], key: &str) -> Option<u64> {
    let configuration = named(documents, "ConfigMap", "lambda-patroni")?;
    let files = configuration.value["data"].as_object()?.values().filter_map(Value::as_str);
    let lines = files.flat_map(str::lines);
    lines
        .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
        .next_back()
}

/// A rollout adds its surge, and a consumer that stops keeps its connections while its
/// successor has its own.
pub(crate) fn connections_fit_the_server(documents: &[Document]) -> Vec<String> {
    let (Some(members), Some(consumer), Some(there), Some(senders)) = (
        members(documents),
        named(documents, "Deployment", "lambda-consumer"),
        setting(documents, "max_connections"),
        setting(documents, "max_wal_senders"),
    ) else {
        return vec!["max_connections, max_wal_senders or maxReplicas are not set".into()];
    };
    let consumers = members + surge(consumer, members) + members;
    let needed = consumers * OF_CONSUMER + OF_LOADS + OF_PEOPLE + senders + RESERVE;
    if needed < there {
        return Vec::new();
    }
    vec![format!("{needed} connections are needed, the server has {there}")]
}
