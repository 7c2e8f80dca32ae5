//! librdkafka's callbacks, as thin as possible: the rebalance callback takes notes
//! (rule R14, docs/protocol.md), errors and logs go to the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::error::Error;
use crate::kafka::remedy;
use crate::kafka::shared::{Recheck, Shared};
use crate::kafka::statistics::{Statistics, Stranded};

/// Minimum time between two reports of the same error.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// The topic id of all zeros, as librdkafka writes it.
const NO_TOPIC_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The context of a consumer of one topic.
pub(super) struct Context {
    topic: String,
    shared: Arc<Shared>,
    client_errors: ClientErrors,
    /// Partitions that librdkafka did not fetch at its last report.
    silent: Mutex<Vec<i32>>,
    /// Whether the consumer no longer knows any broker.
    pub(super) stranded: Stranded,
}

impl Context {
    pub(super) fn new(topic: String, shared: Arc<Shared>) -> Self {
        let (client_errors, silent) = (ClientErrors::default(), Mutex::default());
        Self { topic, shared, client_errors, silent, stranded: Stranded::default() }
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> KafkaResult<()> {
        if !partitions.is_empty() {
            tracing::info!(topic = self.topic, ?partitions, "the group grants partitions");
        }
        self.shared.lock().assignment.granted(partitions);
        // Nothing is read before it is claimed; the empty list only completes the rebalance
        // in librdkafka.
        consumer.incremental_assign(&TopicPartitionList::new())
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> KafkaResult<()> {
        let lost = consumer.assignment_lost();
        tracing::info!(topic = self.topic, ?partitions, lost, "the group takes partitions back");
        let unassign = {
            let mut state = self.shared.lock();
            for partition in partitions {
                state.forget(*partition);
            }
            state.assignment.revoked(partitions)
        };
        self.shared.notify();
        consumer.incremental_unassign(&list(&self.topic, &unassign))
    }

    /// Updates the lag of lanes, and whether they can be read.
    fn watch(&self, statistics: &Statistics) {
        self.stranded.watch(statistics);
        let mut state = self.shared.lock();
        for (partition, lane) in &state.lanes {
            if let Some(end) = statistics.end(&self.topic, *partition) {
                // The end was reported a while ago: more may be stored by now.
                lane.lag.set((end - lane.position).max(0));
            }
        }
        let assigned = state.assignment.assigned();
        let behind = assigned.iter().copied().filter(|partition| {
            let position = state.batcher.position(*partition);
            position.is_some_and(|it| statistics.is_behind(&self.topic, *partition, it))
        });
        state.behind = Some(behind.collect());
        let unread = state.unread.clone();
        drop(state);
        self.find_silent(statistics, &assigned);
        match statistics.unreachable(&self.topic, &assigned) {
            None if unread.is_empty() => self.shared.kafka.met(),
            None => self.shared.kafka.missing(format!(
                "partitions {unread:?} have unread messages but deliver none; {}",
                self.client_errors.latest()
            )),
            Some(lost) => {
                self.shared.kafka.missing(format!("{lost}; {}", self.client_errors.latest()));
            }
        }
    }

    /// Restarts partitions whose error was reported and lost: a pause drops what waits in
    /// the queue, error reports included.
    fn find_silent(&self, statistics: &Statistics, assigned: &[i32]) {
        let silent = statistics.silent(&self.topic, assigned);
        let mut before = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = silent.iter().any(|partition| before.contains(partition));
        *before = silent;
        if twice && self.shared.recheck(Recheck::Topic) {
            tracing::warn!(topic = self.topic, partitions = ?*before, "partitions are not read");
            before.clear();
        }
    }

    fn refuse_eager(&self, consumer: &BaseConsumer<Self>) -> KafkaResult<()> {
        self.shared.fail(Error::misconfigured(
            "the consumer group uses an eager assignor",
            "stop its other members, or use another KAFKA_GROUP_ID",
        ));
        consumer.unassign()
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let elements = partitions.elements();
        let ours = elements.iter().filter(|element| element.topic() == self.topic);
        let ours: Vec<i32> = ours.map(TopicPartitionListElem::partition).collect();
        let assigns = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let done = match consumer.rebalance_protocol() {
            RebalanceProtocol::Eager => self.refuse_eager(consumer),
            _ if assigns => self.assigned(consumer, &ours),
            _ => self.revoked(consumer, &ours),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "librdkafka did not accept the answer to a rebalance");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        // This is for monitoring only (rule R17, docs/protocol.md): nothing depends on it.
        if let Err(error) = result {
            tracing::debug!(%error, "could not commit stored positions to Kafka");
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        self.client_errors.note(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.shared.kafka.missing(self.client_errors.latest());
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Some(statistics) = Statistics::parse(statistics) {
            self.watch(&statistics);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(recheck) = recheck(&self.topic, facility, message) {
            self.shared.recheck(recheck);
        }
        log(level, facility, message);
    }
}

/// The check of the source that a line of librdkafka's log calls for. Only there does
/// librdkafka report another topic id or cluster id; the line precedes in the queue what is
/// read from there. `metadata` must be among its `debug` contexts.
fn recheck(topic: &str, facility: &str, message: &str) -> Option<Recheck> {
    if facility == "CLUSTERID" {
        return Some(Recheck::Cluster);
    }
    let (_, change) = message.split_once(&format!("Topic {topic} changed id from "))?;
    // A change from nothing: the id is seen for the first time.
    (facility == "METADATA" && !change.starts_with(NO_TOPIC_ID)).then_some(Recheck::Topic)
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The context of a client that only sends queries: errors are in its answers.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Errors of the TLS layer only.
    client_errors: ClientErrors,
    /// Reason for the last failed connection to a broker.
    failure: Mutex<Option<String>>,
}

impl Asking {
    /// Reason why a broker was last not trusted, if any.
    pub(super) fn distrust(&self) -> Option<String> {
        Some(self.client_errors.latest()).filter(|reason| !reason.is_empty())
    }

    /// Reason why the last connection to a broker failed ("Connect to ipv4#… failed: …").
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: &KafkaError, reason: &str) {
        // "All brokers down" says less than the reason why one of them is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            // "host:port/id: why (after 0ms in state CONNECT)"
            let reason = reason.split_once(": ").map_or(reason, |(_broker, reason)| reason);
            let reason = reason.split_once(" (after ").map_or(reason, |(reason, _state)| reason);
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ClientContext for Asking {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::SSL) {
            // Its answers only report that no TLS handshake succeeded.
            self.client_errors.note(&error, reason);
        } else {
            self.note(&error, reason);
            tracing::debug!(%error, reason, "Kafka");
        }
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "librdkafka: {message}");
    }
}

impl ConsumerContext for Asking {}

/// Builds librdkafka's list of partitions of a topic.
pub(super) fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// Builds librdkafka's list of partitions of a topic, each with an offset.
pub(super) fn list_from(topic: &str, partitions: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (partition, offset) in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}

/// Forwards librdkafka's log. [`ClientErrors`] reports failed connections, without
/// repetition.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        _ if facility == "FAIL" => tracing::debug!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(facility, "librdkafka: {message}");
        }
    }
}

/// Errors that librdkafka handles by itself, logged once in a while: it repeats them for as
/// long as a broker is away.
#[derive(Debug, Default)]
pub(super) struct ClientErrors {
    /// Time of the last report by code, since librdkafka's codes have no hash.
    last: Mutex<HashMap<i32, Instant>>,
    latest: Mutex<String>,
}

impl ClientErrors {
    /// The text of the latest error.
    pub(super) fn latest(&self) -> String {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        reason.clone_into(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner));
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let told_lately = last
            .get(&(code as i32))
            .is_some_and(|told| now.saturating_duration_since(*told) < REPEAT_AFTER);
        if !told_lately {
            last.insert(code as i32, now);
            let remedy = remedy::of_code(code).remedy;
            tracing::warn!(%code, reason, remedy, "Kafka reports an error");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_topic_or_cluster_id_raises_a_doubt_the_first_id_does_not() {
        let line =
            |from: &str| format!("[thrd:main]: Topic t changed id from {from} to UYvIPevORH");
        assert_eq!(recheck("t", "METADATA", &line(NO_TOPIC_ID)), None);
        assert_eq!(recheck("t", "METADATA", &line("Et8ahjbMQm+dRoXI+4eXEw")), Some(Recheck::Topic));
        assert_eq!(recheck("other", "METADATA", &line("Et8ahjbMQm+dRoXI+4eXEw")), None);
        let cluster = "Broker 127.0.0.1:9092/1 reports different ClusterId \"a\" than ...";
        assert_eq!(recheck("t", "CLUSTERID", cluster), Some(Recheck::Cluster));
        assert_eq!(recheck("t", "FAIL", "Connection refused"), None);
    }
}
