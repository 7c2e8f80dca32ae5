//! A topic as its cluster describes it: its name as a source, its partitions, where they
//! begin and end.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind, Server};
use crate::kafka::config::{Kafka, refused};
use crate::kafka::context::Asking;
use crate::kafka::position::Watermarks;
use crate::kafka::remedy;

/// Timeout for one query. The group tolerates minutes without the poll loop, but a person
/// at a terminal waits for the answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time to collect events that a client has received already.
const EVENTS_TIMEOUT: Duration = Duration::from_millis(50);

/// Time that the poll loop waits for the offsets of partitions.
pub(super) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(1);

const TELL_OFFSETS: &str = "read a partition's offsets in Kafka";

/// A topic as a source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// `<cluster id>/<topic>`: the same topic of another cluster is another source
    /// (rule R18, docs/protocol.md).
    pub source: String,
    /// Its partitions, in order.
    pub partitions: Vec<i32>,
}

/// The ends of a topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The topic's name as a source (see [`Topic::source`]).
    pub source: String,
    /// One after the last offset of each partition that a reader can see now.
    pub ends: BTreeMap<i32, i64>,
}

/// A client outside the group for queries about the topic.
pub(super) type Observer = BaseConsumer<Asking>;

/// Creates an [`Observer`].
pub(super) fn observer(config: &Kafka) -> Result<Observer, Error> {
    config.observer().create_with_context(Asking::default()).map_err(|error| refused(&error))
}

/// Reads a topic's description.
///
/// # Errors
/// `Transient` when it does not exist (yet) or no broker answers; `Fatal` when it may not
/// be read.
pub(super) fn describe<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Topic, Error> {
    const WHAT: &str = "describe the topic in Kafka";
    let metadata = client
        .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
        .map_err(|error| remedy::explain(error, WHAT))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let missing = RDKafkaErrorCode::UnknownTopicOrPartition;
    let found = found.ok_or_else(|| remedy::explain(KafkaError::MetadataFetch(missing), WHAT))?;
    if let Some(code) = found.error() {
        return Err(remedy::explain(KafkaError::MetadataFetch(code.into()), WHAT));
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
    partitions.sort_unstable();
    if partitions.is_empty() {
        return Err(remedy::explain(KafkaError::MetadataFetch(missing), WHAT));
    }
    Ok(Topic { source: source(client, topic)?, partitions })
}

/// A topic's name as a source, by the cluster that the client last saw. librdkafka's
/// binding leaks this answer, so ask once for each client and change.
///
/// # Errors
/// `Transient` when no broker has reported it yet.
pub(super) fn source<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<String, Error> {
    let cluster = client.fetch_cluster_id(ANSWER_TIMEOUT).ok_or_else(|| Error::Temporary {
        server: Server::Kafka,
        what: "read the cluster's id in Kafka",
        remedy: "brokers older than 0.10.1 have none",
        source: topic.to_owned().into(),
    })?;
    Ok(format!("{cluster}/{topic}"))
}

/// Reason why a query had no answer, if the client has since met an error that only a
/// person can fix (a wrong password); otherwise `error`. The query itself just times out.
pub(super) fn reason<C: ConsumerContext>(consumer: &BaseConsumer<C>, error: Error) -> Error {
    if error.kind() != Kind::Transient {
        return error;
    }
    // Nothing is assigned: the events are errors, and lines for the log.
    while let Some(event) = consumer.poll(EVENTS_TIMEOUT) {
        if let Err(told) = event
            && told.rdkafka_error_code().is_some_and(remedy::needs_a_person)
        {
            return remedy::explain(told, "log in to Kafka");
        }
    }
    error
}

/// Reads which offsets partitions keep, of all in two queries. Leaves out partitions whose
/// leader refuses an answer.
///
/// # Errors
/// As for [`describe`]; that of a partition when there is no answer for any other.
pub(super) fn watermarks_of(
    client: &Observer,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Watermarks>, Error> {
    let (lows, low_refused) = ask_offsets(client, topic, partitions, Offset::Beginning)?;
    let (highs, high_refused) = ask_offsets(client, topic, partitions, Offset::End)?;
    let watermarks: BTreeMap<i32, Watermarks> = lows
        .into_iter()
        .filter_map(|(partition, low)| {
            Some((partition, Watermarks { low, high: *highs.get(&partition)? }))
        })
        .collect();
    match low_refused.or(high_refused) {
        Some(refused) if watermarks.is_empty() => Err(remedy::explain(refused, TELL_OFFSETS)),
        _ => Ok(watermarks),
    }
}

/// Reads one end of each partition, by a query for times, in which librdkafka accepts the
/// name of an end.
fn ask_offsets(
    client: &Observer,
    topic: &str,
    partitions: &[i32],
    end: Offset,
) -> Result<(BTreeMap<i32, i64>, Option<KafkaError>), Error> {
    let cannot = |error| remedy::explain(error, TELL_OFFSETS);
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, end).map_err(cannot)?;
    }
    let answer = client.offsets_for_times(asked, OFFSETS_TIMEOUT).map_err(cannot)?;
    let (mut offsets, mut refused) = (BTreeMap::new(), None);
    for element in answer.elements() {
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => {
                offsets.insert(element.partition(), offset);
            }
            // Not an answer: it is asked for again.
            (Ok(()), _) => {}
            (Err(error), _) => refused = Some(error),
        }
    }
    Ok((offsets, refused))
}

/// The partitions of the topic that have a leader.
///
/// # Errors
/// As for [`describe`].
pub(super) fn led<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
) -> Result<BTreeSet<i32>, Error> {
    let metadata = client
        .fetch_metadata(Some(topic), OFFSETS_TIMEOUT)
        .map_err(|error| remedy::explain(error, "describe the topic in Kafka"))?;
    let found = metadata.topics().iter().filter(|found| found.name() == topic);
    let partitions = found.flat_map(MetadataTopic::partitions);
    Ok(partitions.filter(|it| it.leader() >= 0).map(MetadataPartition::id).collect())
}

/// Reads which offsets a partition keeps.
///
/// # Errors
/// As for [`describe`].
pub(super) fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
) -> Result<Watermarks, Error> {
    let (low, high) = client
        .fetch_watermarks(topic, partition, OFFSETS_TIMEOUT)
        .map_err(|error| remedy::explain(error, TELL_OFFSETS))?;
    Ok(Watermarks { low, high })
}

/// Reads where the topic's partitions end now. Waits, with backoff and a log line, for a
/// missing broker or topic.
///
/// # Errors
/// `Fatal` only.
pub async fn ends(config: &Kafka) -> Result<Ends, Error> {
    asking(config, ask_ends).await
}

/// Asks the brokers, on a thread of its own, until they answer.
///
/// # Errors
/// `Fatal` only.
pub(super) async fn asking<T: Send + 'static>(
    config: &Kafka,
    question: impl Fn(&Kafka) -> Result<T, Error> + Send + Sync + 'static,
) -> Result<T, Error> {
    let mut backoff = Backoff::default();
    let question = Arc::new(question);
    loop {
        let question = Arc::clone(&question);
        match ask(config, move |config| question(config)).await {
            Err(error) if error.kind() == Kind::Transient => {
                let retry_in = backoff.next_delay();
                tracing::warn!(error = error.chain(), ?retry_in, "waiting for {config}");
                tokio::time::sleep(retry_in).await;
            }
            answer => return answer,
        }
    }
}

/// Asks the brokers once, on a thread of its own.
///
/// # Errors
/// Those of `question`.
pub(super) async fn ask<T: Send + 'static>(
    config: &Kafka,
    question: impl FnOnce(&Kafka) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let asked = config.clone();
    let answer = tokio::task::spawn_blocking(move || question(&asked)).await;
    answer.unwrap_or_else(|panicked| {
        Err(Error::Temporary {
            server: Server::Kafka,
            what: "ask Kafka about the topic",
            remedy: "this is a bug",
            source: Box::new(panicked),
        })
    })
}

fn ask_ends(config: &Kafka) -> Result<Ends, Error> {
    let client = observer(config)?;
    let topic =
        describe(client.client(), config.topic()).map_err(|error| reason(&client, error))?;
    let mut watermarks = watermarks_of(&client, config.topic(), &topic.partitions)?;
    for partition in topic.partitions {
        if let Entry::Vacant(missing) = watermarks.entry(partition) {
            // A query for one partition alone returns the reason of a failure.
            missing.insert(self::watermarks(client.client(), config.topic(), partition)?);
        }
    }
    let ends = watermarks
        .into_iter()
        .map(|(partition, watermarks)| (partition, watermarks.high))
        .collect();
    Ok(Ends { source: topic.source, ends })
}
