//! What librdkafka tells of itself every second: where partitions end, and which
//! brokers it is connected to. Nothing else tells both without asking a broker.
//! <https://github.com/confluentinc/librdkafka/blob/v2.12.1/STATISTICS.md>

use std::collections::HashMap;

use serde::Deserialize;

/// The part that is read.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    nodeid: i32,
    state: String,
}

impl Broker {
    fn is_connected(&self) -> bool {
        matches!(self.state.as_str(), "UP" | "UPDATE" | "REAUTH")
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
}

impl Statistics {
    /// Reads librdkafka's JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<Partition> {
        self.topics.get(topic)?.partitions.get(&partition).copied()
    }

    /// One behind the last message of a partition, once one of its answers told.
    pub(super) fn end(&self, topic: &str, partition: i32) -> Option<i64> {
        let end = self.partition(topic, partition)?.hi_offset;
        // Below it are librdkafka's names for offsets that it does not know.
        (end >= 0).then_some(end)
    }

    /// Which of `partitions` cannot be read now: no connection to the broker that
    /// leads it. Without partitions, whether there is any connection at all.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// With what surrounds it in librdkafka's own.
    const JSON: &[u8] = br#"{ "name": "lambda", "type": "consumer", "ts": 1,
        "brokers": {
            "a:9092/1": { "nodeid": 1, "state": "UP", "rtt": { "min": 1 } },
            "b:9092/2": { "nodeid": 2, "state": "DOWN" },
            "GroupCoordinator": { "nodeid": -1, "state": "UP" } },
        "topics": { "t": { "topic": "t", "partitions": {
            "0": { "partition": 0, "leader": 1, "hi_offset": 12, "ls_offset": 12 },
            "1": { "partition": 1, "leader": 2, "hi_offset": -1001 },
            "2": { "partition": 2, "leader": -1, "hi_offset": 0 },
            "-1": { "partition": -1, "leader": 0, "hi_offset": -1001 } } } } }"#;

    #[test]
    fn an_end_is_told_once_it_is_known() {
        let statistics = Statistics::parse(JSON).expect("librdkafka's JSON");
        let ends = [0, 1, 2, 3].map(|partition| statistics.end("t", partition));
        assert_eq!(ends, [Some(12), None, Some(0), None]);
        assert_eq!(statistics.end("another", 0), None);
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
        let gone = br#"{"brokers": {"a:9092/1": {"nodeid": 1, "state": "CONNECT"}}, "topics": {}}"#;
        let gone = Statistics::parse(gone).expect("librdkafka's JSON");
        assert!(gone.unreachable("t", &[]).is_some());
    }
}
