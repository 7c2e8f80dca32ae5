//! What fits into what: members into partitions, connections into the server, requests
//! into a node.

use serde_json::Value;

use crate::document::{Document, main_containers};

/// Connections of a consumer: two commits at a time, a claim, a look at what blocks, and
/// the watch over dead letters.
const OF_CONSUMER: u64 = 5;

/// Connections of a load: a commit for each of two workers and one ahead, the lease's
/// heartbeat, the job, and a look at what blocks. One runs at night and one by hand.
const OF_LOADS: u64 = 2 * 6;

/// pgAdmin's sessions, the setup, a backup, an operator with `lambda` and psql.
const OF_PEOPLE: u64 = 20;

/// For superusers, and for what nobody thought of.
const RESERVE: u64 = 20;

fn named<'a>(documents: &'a [Document], kind: &str, name: &str) -> Option<&'a Document> {
    documents.iter().find(|it| it.kind() == kind && it.name().starts_with(name))
}

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

/// The number that stands behind `key:` in the server's configuration.
fn setting(documents: &[Document], key: &str) -> Option<u64> {
    let configuration = named(documents, "ConfigMap", "lambda-patroni")?;
    let files = configuration.value["data"].as_object()?.values().filter_map(Value::as_str);
    let lines = files.flat_map(str::lines);
    lines
        .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
        .next_back()
}

/// A consumer that ends still has its connections while its successor has its own.
pub(crate) fn connections_fit_the_server(documents: &[Document]) -> Vec<String> {
    let (Some(members), Some(there), Some(senders)) = (
        members(documents),
        setting(documents, "max_connections"),
        setting(documents, "max_wal_senders"),
    ) else {
        return vec!["max_connections, max_wal_senders or maxReplicas are not told".into()];
    };
    let needed = 2 * members * OF_CONSUMER + OF_LOADS + OF_PEOPLE + senders + RESERVE;
    if needed < there {
        return Vec::new();
    }
    vec![format!("{needed} connections are needed, the server has {there}")]
}

/// What pods ask of a node.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) millicores: u64,
    pub(crate) bytes: u64,
}

/// All that runs at the same time: what serves, with the surge of its rollouts, and the
/// largest Job.
pub(crate) fn requests(documents: &[Document]) -> Requests {
    let mut all = Requests::default();
    let (mut job_millicores, mut job_bytes) = (0, 0);
    for document in documents {
        let Some(template) = document.pod() else { continue };
        let (mut millicores, mut bytes) = (0, 0);
        for container in main_containers(template) {
            let requests = &container["resources"]["requests"];
            millicores += quantity(&requests["cpu"], 1_000);
            bytes += quantity(&requests["memory"], 1);
        }
        if document.serves() {
            let spec = &document.value["spec"];
            let surge = spec["strategy"]["rollingUpdate"]["maxSurge"].as_u64().unwrap_or(0);
            let scaled = named(documents, "HorizontalPodAutoscaler", document.name());
            let minimum = scaled.and_then(|scaler| scaler.value["spec"]["minReplicas"].as_u64());
            let replicas = spec["replicas"].as_u64().or(minimum).unwrap_or(1) + surge;
            all.millicores += replicas * millicores;
            all.bytes += replicas * bytes;
        } else {
            job_millicores = job_millicores.max(millicores);
            job_bytes = job_bytes.max(bytes);
        }
    }
    all.millicores += job_millicores;
    all.bytes += job_bytes;
    all
}

/// A quantity in units of `1/scale`.
fn quantity(value: &Value, scale: u64) -> u64 {
    let text = value.as_str().unwrap_or_default();
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or_default();
    match &text[digits.len()..] {
        "m" => number * scale / 1_000,
        "Ki" => number << 10,
        "Mi" => number << 20,
        "Gi" => number << 30,
        _ => number * scale,
    }
}
