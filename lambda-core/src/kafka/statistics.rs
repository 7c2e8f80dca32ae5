//! librdkafka's statistics, emitted every second: where partitions end, and which brokers
//! it knows and is connected to. No other source has that without asking a broker.
//! <https://github.com/confluentinc/librdkafka/blob/v2.12.1/STATISTICS.md>

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;

/// Consecutive statistics, and so seconds, without a server after which a client is given
/// up. Starting over with the bootstrap servers takes less than one: they are in the list
/// while their names are still being looked up.
const STRANDED_AFTER: u32 = 5;

/// The part of the statistics that is read.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    nodeid: i32,
    state: String,
    source: String,
}

impl Broker {
    fn is_connected(&self) -> bool {
        matches!(self.state.as_str(), "UP" | "UPDATE" | "REAUTH")
    }

    /// Whether it is a server: others are internal to librdkafka, or represent the group's
    /// coordinator, which only leads to one.
    fn is_server(&self) -> bool {
        matches!(self.source.as_str(), "configured" | "learned")
    }
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Partition {
    leader: i32,
    hi_offset: i64,
    #[serde(default = "unknown")]
    ls_offset: i64,
    #[serde(default)]
    fetch_state: FetchState,
}

/// State of librdkafka's fetches of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FetchState {
    /// No fetches: it is not assigned, or an error about it was reported.
    None,
    #[default]
    #[serde(other)]
    Other,
}

/// librdkafka's value for an unknown offset.
fn unknown() -> i64 {
    -1001
}

impl Statistics {
    /// Reads librdkafka's JSON, if it is as expected.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let parsed = serde_json::from_slice(json);
        parsed
            .inspect_err(|error| tracing::debug!(%error, "could not read librdkafka's statistics"))
            .ok()
    }

    fn knows_a_broker(&self) -> bool {
        self.brokers.values().any(Broker::is_server)
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<Partition> {
        self.topics.get(topic)?.partitions.get(&partition).copied()
    }

    /// One after the last message of a partition, once one of its answers contained it.
    pub(super) fn end(&self, topic: &str, partition: i32) -> Option<i64> {
        let end = self.partition(topic, partition)?.hi_offset;
        // Lower values are librdkafka's names for unknown offsets.
        (end >= 0).then_some(end)
    }

    /// Whether a partition may hold messages that a reader at `position` has not seen.
    pub(super) fn is_behind(&self, topic: &str, partition: i32, position: i64) -> bool {
        self.partition(topic, partition).is_some_and(|it| it.ls_offset > position)
    }

    /// Those of `partitions` that librdkafka does not fetch, although they are assigned.
    pub(super) fn silent(&self, topic: &str, partitions: &[i32]) -> Vec<i32> {
        let silent = |partition: &i32| {
            let partition = self.partition(topic, *partition);
            partition.is_some_and(|it| it.fetch_state == FetchState::None)
        };
        partitions.iter().copied().filter(silent).collect()
    }

    /// Describes which of `partitions` cannot be read at present: no connection to the
    /// broker that leads it. Without partitions, checks for any connection at all.
    pub(super) fn unreachable(&self, topic: &str, partitions: &[i32]) -> Option<String> {
        if partitions.is_empty() {
            let any = self.brokers.values().any(Broker::is_connected);
            return (!any).then(|| "no connection to any broker".into());
        }
        let reached = |partition: &&i32| {
            // A partition without a leader has -1, and so has the group's coordinator.
            let leader = self.partition(topic, **partition).map(|partition| partition.leader);
            let leader = leader.filter(|leader| *leader >= 0);
            let mut brokers = self.brokers.values();
            brokers.any(|broker| Some(broker.nodeid) == leader && broker.is_connected())
        };
        let lost: Vec<&i32> = partitions.iter().filter(|partition| !reached(partition)).collect();
        (!lost.is_empty())
            .then(|| format!("no connection to the brokers that lead partitions {lost:?}"))
    }
}

/// Detects a client that can do nothing any more. Brokers that have just started may report
/// topics and no broker, not even themselves; librdkafka then forgets all that it knew,
/// those of `bootstrap.servers` too, and may fail to return to these:
/// <https://github.com/confluentinc/librdkafka/issues/5301>.
#[derive(Debug, Default)]
pub(super) struct Stranded(AtomicU32);

impl Stranded {
    /// Takes the client's statistics. Returns whether they have just made it certain that
    /// only another client can continue.
    pub(super) fn watch(&self, statistics: &Statistics) -> bool {
        if statistics.knows_a_broker() {
            self.0.store(0, Ordering::Relaxed);
            return false;
        }
        let certain = self.0.fetch_add(1, Ordering::Relaxed) + 1 == STRANDED_AFTER;
        if certain {
            tracing::warn!("librdkafka no longer knows any broker, and looks for none");
        }
        certain
    }

    /// Whether the last statistics named no server.
    pub(super) fn is_likely(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether only another client can continue.
    pub(super) fn is_certain(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= STRANDED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics among other fields of librdkafka's.
    const JSON: &[u8] = br#"{ "name": "lambda", "type": "consumer", "ts": 1,
        "brokers": {
            "a:9092/1": { "nodeid": 1, "source": "learned", "state": "UP", "rtt": { "min": 1 } },
            "b:9092/2": { "nodeid": 2, "source": "learned", "state": "DOWN" },
            "GroupCoordinator": { "nodeid": -1, "source": "logical", "state": "UP" } },
        "topics": { "t": { "topic": "t", "partitions": {
            "0": { "partition": 0, "leader": 1, "hi_offset": 12, "ls_offset": 12,
                   "fetch_state": "active" },
            "1": { "partition": 1, "leader": 2, "hi_offset": -1001 },
            "2": { "partition": 2, "leader": -1, "hi_offset": 0, "fetch_state": "none" },
            "-1": { "partition": -1, "leader": 0, "hi_offset": -1001 } } } } }"#;

    #[test]
    fn an_end_is_reported_once_it_is_known() {
        let statistics = Statistics::parse(JSON).expect("librdkafka's JSON");
        let ends = [0, 1, 2, 3].map(|partition| statistics.end("t", partition));
        assert_eq!(ends, [Some(12), None, Some(0), None]);
        assert_eq!(statistics.end("another", 0), None);
    }

    #[test]
    fn partitions_with_unread_messages_differ_from_silent_ones() {
        let statistics = Statistics::parse(JSON).expect("librdkafka's JSON");
        let behind = |partition, position| statistics.is_behind("t", partition, position);
        assert_eq!([behind(0, 11), behind(0, 12), behind(1, 0)], [true, false, false]);
        assert_eq!(statistics.silent("t", &[0, 1, 2]), [2]);
    }

    #[test]
    fn partitions_whose_leader_is_not_connected_cannot_be_read() {
        let statistics = Statistics::parse(JSON).expect("librdkafka's JSON");
        assert_eq!(statistics.unreachable("t", &[0]), None);
        let lost = statistics.unreachable("t", &[0, 1, 2]).expect("two are lost");
        assert!(lost.ends_with("partitions [1, 2]"), "{lost}");
    }

    #[test]
    fn a_member_without_partitions_needs_any_broker() {
        let statistics = Statistics::parse(JSON).expect("librdkafka's JSON");
        assert_eq!(statistics.unreachable("t", &[]), None);
        let gone = br#"{"brokers": {"a:9092/1":
            {"nodeid": 1, "source": "learned", "state": "CONNECT"}}, "topics": {}}"#;
        let gone = Statistics::parse(gone).expect("librdkafka's JSON");
        assert!(gone.unreachable("t", &[]).is_some());
    }

    #[test]
    fn a_client_that_knows_no_server_for_some_time_is_stranded() {
        let known = Statistics::parse(JSON).expect("librdkafka's JSON");
        let none = br#"{"brokers": {
            ":0/internal": {"nodeid": -1, "source": "internal", "state": "INIT"},
            "GroupCoordinator": {"nodeid": -1, "source": "logical", "state": "UP"}}, "topics": {}}"#;
        let none = Statistics::parse(none).expect("librdkafka's JSON");
        let stranded = Stranded::default();
        for last in [&none, &known] {
            assert!((1..STRANDED_AFTER).all(|_| !stranded.watch(&none)));
            assert!(stranded.is_likely() && !stranded.is_certain());
            let certain = !last.knows_a_broker();
            assert_eq!((stranded.watch(last), stranded.is_certain()), (certain, certain));
            assert!(!stranded.watch(last), "reported once");
            stranded.watch(&known);
        }
    }
}
