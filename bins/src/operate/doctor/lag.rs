//! Compares the topic's messages with what is stored of them.

use std::collections::BTreeMap;
use std::time::Duration;

use lambda_core::Error;
use lambda_core::kafka::position::{Verdict, Watermarks, judge_range, source_changed};
use lambda_core::kafka::{Kafka, admin};
use lambda_core::postgres::{Connection, inspect, stream_lanes};
use lambda_core::progress::Progress;

use super::DoctorArgs;
use super::finding::{Finding, TEMPORARY};

/// Names of the checks of this module, in order.
pub(super) const CHECKS: [&str; 3] = ["positions", "lag", "consumers"];

/// Partitions with their lanes.
struct Compared {
    /// Watermarks of each partition, and its lane if it was ever read.
    partitions: BTreeMap<i32, (Watermarks, Option<Progress>)>,
    /// Seconds since each lane last moved, by its number.
    idle: BTreeMap<i32, i64>,
    /// Topics of this name in other clusters that were read.
    others: Vec<String>,
}

/// Reports every check as skipped.
pub(super) fn skipped(why: &str, findings: &mut Vec<Finding>) {
    findings.extend(CHECKS.iter().map(|check| Finding::skipped(check, why)));
}

/// Time that a consumer may take to store a new message.
const MOMENT: Duration = Duration::from_secs(1);

/// Checks how much of the topic is stored.
pub(super) async fn examine(
    kafka: &Kafka,
    pipeline: &str,
    database: Option<&Connection>,
    args: &DoctorArgs,
    findings: &mut Vec<Finding>,
) {
    let Some(database) = database else {
        return skipped("the database's tables could not be read", findings);
    };
    match compare(kafka, pipeline, database).await {
        Ok(compared) => findings.extend([
            positions(kafka, &compared),
            lag(&compared, args.lag_max),
            consumers(&compared, i64::from(args.age_max)),
        ]),
        Err(error) => {
            findings.push(Finding::error(CHECKS[0], &error));
            findings.extend(
                CHECKS[1..].iter().map(|it| Finding::skipped(it, "the positions are unknown")),
            );
        }
    }
}

async fn compare(kafka: &Kafka, pipeline: &str, database: &Connection) -> Result<Compared, Error> {
    // Reads positions before watermarks, so that a lane that moves in between is never ahead
    // of its partition.
    let lanes = stream_lanes(database, pipeline).await?;
    let mut idle = inspect::lanes_idle(database, pipeline).await?;
    let (source, kept) = admin::offsets(kafka).await?;
    // If a consumer is reading, messages that have arrived by now are stored shortly.
    tokio::time::sleep(MOMENT).await;
    for later in stream_lanes(database, pipeline).await? {
        let before = lanes.iter().find(|lane| lane.lane == later.lane);
        if before.is_none_or(|before| before.position != later.position) {
            idle.insert(later.lane.0, 0);
        }
    }
    let lane = |partition: i32| {
        let mut of = lanes.iter().filter(|lane| lane.name.source == source);
        of.find(|lane| lane.name.partition == partition).cloned()
    };
    let suffix = format!("/{}", kafka.topic());
    let mut others: Vec<String> = lanes
        .iter()
        .map(|lane| &lane.name.source)
        .filter(|other| **other != source && other.ends_with(&suffix))
        .cloned()
        .collect();
    others.dedup();
    let partitions = kept.into_iter().map(|(id, kept)| (id, (kept, lane(id)))).collect();
    Ok(Compared { partitions, idle, others })
}

impl Compared {
    /// Number of messages of each partition that are not stored.
    fn lags(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions.iter().map(|(id, (kept, lane))| {
            let stored = lane.as_ref().map_or(kept.low, |lane| lane.position);
            (*id, (kept.high - stored).max(0))
        })
    }
}

fn positions(kafka: &Kafka, compared: &Compared) -> Finding {
    for (kept, lane) in compared.partitions.values() {
        let Some(lane) = lane else { continue };
        if let Some(Verdict::Other(what)) = judge_range(lane, *kept) {
            let (partition, position) = (lane.name.partition, lane.position);
            let error = source_changed(kafka.topic(), partition, lane.lane, position, &what);
            return Finding::error(CHECKS[0], &error);
        }
    }
    let read = compared.partitions.values().filter(|(_, lane)| lane.is_some()).count();
    let all = compared.partitions.len();
    if read == 0 && !compared.others.is_empty() {
        return Finding::warning(
            CHECKS[0],
            format!(
                "this cluster's topic was never read, but these were: {}",
                compared.others.join(", ")
            ),
            "check KAFKA_BOOTSTRAP_SERVERS: a topic in another cluster is another source",
        );
    }
    Finding::ok(
        CHECKS[0],
        format!("{read} of {all} partitions were read, and all hold the next message"),
    )
}

fn lag(compared: &Compared, most: i64) -> Finding {
    let all: i64 = compared.lags().map(|(_, lag)| lag).sum();
    let worst = compared.lags().max_by_key(|(_, lag)| *lag).unwrap_or_default();
    let found = format!("{all} messages are not stored, {} of partition {}", worst.1, worst.0);
    if worst.1 > most {
        return Finding::problem(
            CHECKS[1],
            TEMPORARY,
            found,
            "start more lambda-consumer, up to one per partition, and read their logs",
        );
    }
    Finding::ok(CHECKS[1], if all == 0 { "all messages are stored".into() } else { found })
}

fn consumers(compared: &Compared, age_max: i64) -> Finding {
    let mut waiting: Vec<(i32, Option<i64>)> = Vec::new();
    for (id, _) in compared.lags().filter(|(_, lag)| *lag > 0) {
        let lane = compared.partitions.get(&id).and_then(|(_, lane)| lane.as_ref());
        let idle = lane.and_then(|lane| compared.idle.get(&lane.lane.0)).copied();
        if idle.is_none_or(|idle| idle > age_max) {
            waiting.push((id, idle));
        }
    }
    let Some((id, idle)) = waiting.first() else {
        return Finding::ok(CHECKS[2], "every partition with messages is being stored");
    };
    let since = match idle {
        Some(seconds) => format!("idle for {seconds} s"),
        None => "never stored".into(),
    };
    Finding::problem(
        CHECKS[2],
        TEMPORARY,
        format!("{} partitions have messages and no progress; {id} {since}", waiting.len()),
        "start lambda-consumer; if it runs, its log says what it is waiting for",
    )
}
