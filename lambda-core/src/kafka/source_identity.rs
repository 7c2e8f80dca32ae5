//! Checks whether a lane's partition still is what was read of it.
//!
//! A running consumer finds out in line: every lane is read from its last message, which
//! the batcher compares and drops ([`Batcher::start`](crate::delivery::batcher::Batcher)).
//! librdkafka then knows the leader epoch of what it reads, and reports a later truncation
//! below that by itself. [`changed`] asks once for lanes that this process may never read.
//!
//! What cannot be detected:
//! - a recreated topic that holds the stored position, if the message that was read last is
//!   gone by then (a warning says so) or none was ever read of the lane;
//! - partitions that a recreated topic no longer has: no member is granted them;
//! - before brokers had topic ids (2.8), a topic recreated under a running consumer with more
//!   messages than were read, until the next claim.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::delivery::batcher::Received;
use crate::error::{Error, Kind, Server};
use crate::header::Header;
use crate::kafka::config::Kafka;
use crate::kafka::context::list_from;
use crate::kafka::offsets::Offsets;
use crate::kafka::position::{Verdict, judge_message, judge_range, source_changed};
use crate::kafka::remedy;
use crate::kafka::unreadable::is_unreadable;
use crate::kafka::{topic, unreadable};
use crate::progress::{Fingerprint, LaneId, Progress};

/// Timeout for the last messages of some partitions.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of partitions read at a time: their batches, of 1 MB by default, are in memory
/// together.
const WINDOW: usize = 4;

/// Longest wait for one message.
const POLL: Duration = Duration::from_millis(100);

/// Converts a message to the batcher's form, without its headers.
pub(super) fn as_read<'a>(message: &'a BorrowedMessage<'_>) -> Received<'a> {
    Received {
        partition: message.partition(),
        position: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key(),
        payload: message.payload(),
        headers: &[],
    }
}

/// Most headers of a message: each takes many times the memory that it takes in the message.
const HEADERS_MAX: usize = 10_000;

/// The headers of a message. Left out are those beyond [`HEADERS_MAX`], and one whose name is not
/// UTF-8, which Kafka does not admit.
pub(super) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<Header<'a>> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let (partition, offset, count) = (message.partition(), message.offset(), headers.count());
    if count > HEADERS_MAX {
        tracing::warn!(partition, offset, count, "left out headers after the first {HEADERS_MAX}");
    }
    let header = |index: usize| {
        // The crate panics for such a name, and gives no other way to it.
        let read = AssertUnwindSafe(|| headers.try_get(index));
        let Ok(header) = catch_unwind(read) else {
            tracing::warn!(partition, offset, index, "left out a header whose name is not UTF-8");
            return None;
        };
        header.map(|header| Header::new(header.key, header.value))
    };
    (0..count.min(HEADERS_MAX)).filter_map(header).collect()
}

/// Returns those of `lanes` (of the topic of `config`, as stored just now) whose source has
/// changed, each with its error. Waits, with a log line, for brokers that do not answer.
///
/// # Errors
/// `Fatal` only.
pub async fn changed(config: &Kafka, lanes: Vec<Progress>) -> Result<Vec<(LaneId, Error)>, Error> {
    topic::asking(config, move |config| ask_changed(config, &lanes)).await
}

fn ask_changed(config: &Kafka, lanes: &[Progress]) -> Result<Vec<(LaneId, Error)>, Error> {
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let partitions: Vec<i32> = lanes.iter().map(|lane| lane.name.partition).collect();
    let watermarks = Offsets::new(config)?.of(&partitions)?;
    let (mut verdicts, mut unread) = (Vec::new(), Vec::new());
    for lane in lanes {
        let Some(watermarks) = watermarks.get(&lane.name.partition) else {
            return Err(unanswered(&[lane.name.partition]));
        };
        match (judge_range(lane, *watermarks), lane.last) {
            (Some(verdict), _) => verdicts.push((lane, verdict)),
            (None, Some(last)) => unread.push((lane, last)),
            (None, None) => {}
        }
    }
    let reader = topic::observer(config)?;
    for window in unread.chunks(WINDOW) {
        let found = read(config, &reader, window)?;
        for (lane, last) in window {
            verdicts.push((lane, judge_message(*last, found[&lane.name.partition])));
        }
    }
    let changed = |(lane, verdict): (&Progress, Verdict)| match verdict {
        Verdict::Other(what) => {
            let partition = lane.name.partition;
            let error = source_changed(config.topic(), partition, lane.lane, lane.position, &what);
            Some((lane.lane, error))
        }
        Verdict::Same | Verdict::Gone => None,
    };
    Ok(verdicts.into_iter().filter_map(changed).collect())
}

/// Reads the first message at or after each lane's last one; none where the partition ends
/// before.
fn read(
    config: &Kafka,
    reader: &topic::Observer,
    lanes: &[(&Progress, Fingerprint)],
) -> Result<BTreeMap<i32, Option<Fingerprint>>, Error> {
    let cannot =
        |error| remedy::explain(error, "read the last message of a partition again in Kafka");
    let from = lanes.iter().map(|(lane, last)| (lane.name.partition, last.position));
    let from = list_from(config.topic(), &from.collect::<Vec<_>>()).map_err(cannot)?;
    reader.assign(&from).map_err(cannot)?;
    let (begun, mut found) = (Instant::now(), BTreeMap::new());
    while found.len() < lanes.len() {
        let (partition, message) = match reader.poll(POLL) {
            Some(Ok(message)) => (message.partition(), Some(as_read(&message).fingerprint())),
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, None),
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_unreadable) => {
                let offsets = lanes.iter().map(|(lane, last)| (lane.name.partition, last.position));
                let found = unreadable::find(config, &offsets.collect::<Vec<_>>(), || {})?;
                return Err(found.unwrap_or_else(|| unanswered(&partitions(lanes))));
            }
            Some(Err(error)) => match remedy::explain(error, "read a message again in Kafka") {
                error if error.kind() == Kind::Fatal => return Err(error),
                // librdkafka retries by itself.
                _ => continue,
            },
            None if begun.elapsed() < FETCH_TIMEOUT => continue,
            None => {
                let mut missing = partitions(lanes);
                missing.retain(|partition| !found.contains_key(partition));
                return Err(unanswered(&missing));
            }
        };
        let lane = lanes.iter().find(|(lane, _)| lane.name.partition == partition);
        let before = |found: &Fingerprint| lane.is_some_and(|it| found.position < it.1.position);
        if lane.is_some() && !message.as_ref().is_some_and(before) {
            found.entry(partition).or_insert(message);
        }
    }
    Ok(found)
}

fn partitions(lanes: &[(&Progress, Fingerprint)]) -> Vec<i32> {
    lanes.iter().map(|(lane, _)| lane.name.partition).collect()
}

fn unanswered(partitions: &[i32]) -> Error {
    Error::Temporary {
        server: Server::Kafka,
        what: "read the last message of each partition again in Kafka",
        remedy: "look at the brokers' logs",
        source: format!("no answer about partitions {partitions:?}").into(),
    }
}
