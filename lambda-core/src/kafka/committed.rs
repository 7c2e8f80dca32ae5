//! Offsets committed to Kafka. They are written for people who watch lag there, and never
//! read as positions. Their metadata names the database that stores the messages. If
//! another database appears there while this program runs, two databases share one consumer
//! group, and each gets only a part of the messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::error::Error;
use crate::kafka::config::Kafka;
use crate::kafka::context::list;

/// Interval at which the group's offsets are read.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Timeout for the answer of the group's coordinator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// First word of the metadata that this program writes.
const MARK: &str = "lambda";

/// Committed offsets of one topic and one group.
#[derive(Debug)]
pub(super) struct Committed {
    config: Kafka,
    /// The database that stores this program's messages.
    database: String,
    /// The metadata of each partition when last read.
    seen: Option<BTreeMap<i32, String>>,
    look_at: Instant,
}

impl Committed {
    /// Creates the offsets that a program with this `database` commits.
    pub(super) fn new(config: &Kafka, database: &str, now: Instant) -> Self {
        Self { config: config.clone(), database: database.to_owned(), seen: None, look_at: now }
    }

    /// Commits stored positions.
    ///
    /// # Errors
    /// Errors of librdkafka; nothing depends on them.
    pub(super) fn commit<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        stored: &BTreeMap<i32, i64>,
    ) -> Result<(), KafkaError> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let metadata = format!("{MARK} {} {seconds}", self.database);
        let mut offsets = TopicPartitionList::with_capacity(stored.len());
        for (partition, position) in stored {
            let mut element = offsets.add_partition(self.config.topic(), *partition);
            element.set_offset(Offset::Offset(*position))?;
            element.set_metadata(&metadata);
        }
        consumer.commit(&offsets, CommitMode::Async)
    }

    /// Checks at intervals whether another database commits for the group.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if one does.
    pub(super) fn look<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        partitions: &[i32],
        now: Instant,
    ) -> Result<(), Error> {
        if now < self.look_at || partitions.is_empty() {
            return Ok(());
        }
        self.look_at = now + LOOK_EVERY;
        let asked = list(self.config.topic(), partitions);
        match consumer.committed_offsets(asked, ANSWER_TIMEOUT) {
            Ok(committed) => {
                // Brokers accept only UTF-8 as metadata, and it is read here as such.
                let elements = committed.elements();
                let told = elements.iter().map(|it| (it.partition(), it.metadata().to_owned()));
                self.compare(told.collect())
            }
            Err(error) => {
                tracing::debug!(%error, "could not read the group's offsets; trying later");
                Ok(())
            }
        }
    }

    /// Compares metadata with the last look. Commits of another database from before this
    /// program started may belong to the original of which this database is a copy; only a
    /// change comes from a running program.
    fn compare(&mut self, metadata: BTreeMap<i32, String>) -> Result<(), Error> {
        if let Some(seen) = &self.seen {
            let changed = metadata.iter().filter(|(partition, it)| seen.get(partition) != Some(it));
            let mut others = changed.filter_map(|(partition, it)| Some((partition, database(it)?)));
            if let Some((partition, other)) = others.find(|(_, it)| *it != self.database) {
                return Err(Error::misconfigured(
                    format!(
                        "two databases share consumer group {} of {}: database {other} commits \
                         partition {partition}, this program stores in {}, and each gets only \
                         part of the messages",
                        self.config.group_id(),
                        self.config,
                        self.database
                    ),
                    "stop one of them, give each database its own KAFKA_GROUP_ID, and start both \
                     again: each reads what it has not stored",
                ));
            }
        }
        self.seen = Some(metadata);
        Ok(())
    }
}

/// The database that a commit's metadata names.
fn database(metadata: &str) -> Option<&str> {
    let mut words = metadata.split(' ');
    (words.next() == Some(MARK)).then(|| words.next())?
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn looks(committed: &mut Committed, metadata: &[&str]) -> Result<(), Error> {
        let metadata = metadata.iter().map(|it| (*it).to_owned());
        committed.compare((0..).zip(metadata).collect())
    }

    fn ours() -> Committed {
        let config = Kafka::new("kafka:9092", "t").group("g");
        Committed::new(&config, "ours", Instant::now())
    }

    #[test]
    fn a_database_that_commits_while_this_one_does_is_refused() {
        for before in ["lambda other 1", "lambda ours 5", ""] {
            let mut committed = ours();
            looks(&mut committed, &["lambda ours 5", before]).unwrap();
            looks(&mut committed, &["lambda ours 6", before]).unwrap();
            let error = looks(&mut committed, &["lambda ours 7", "lambda other 9"]).unwrap_err();
            assert_eq!(error.exit_code(), 78);
            let told = error.chain();
            assert!(told.contains("other") && told.contains("partition 1"), "{told}");
        }
    }

    #[test]
    fn commits_of_a_database_that_no_longer_runs_and_of_other_programs_are_ignored() {
        let mut committed = ours();
        for metadata in [["lambda other 1", ""], ["lambda other 1", "x"], ["lambda ours 2", "y z"]]
        {
            looks(&mut committed, &metadata).unwrap();
        }
    }
}
