//! Sends messages to a topic and reports the delivery of each.
//!
//! ```text
//!   send ──▶ librdkafka's queue (bounded) ──▶ brokers
//!                                               │
//!   on_delivery(tag, partition, offset) ◀─ poll ┘
//! ```
//!
//! The producer is idempotent: what librdkafka sends again after a network error is neither
//! duplicated in the topic nor out of the order of its key. A message counts as delivered
//! once it has an offset: a report without one fails the producer. Calls block: use it on a
//! thread.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind, Server};
use crate::health::{Health, Need, Pulse};
use crate::kafka::config::{Kafka, refused};
use crate::kafka::context::{self, ClientErrors};
use crate::kafka::remedy;
use crate::kafka::statistics::{Statistics, Stranded};
use crate::kafka::topic;
use crate::metrics::{self, Retry};

/// Time that one poll waits for room in a full queue.
const ROOM: Duration = Duration::from_millis(1);

/// Time for which messages may be in flight without a delivery report before the brokers
/// count as missing: a round trip takes milliseconds, a new leader seconds.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// A message that is in the topic.
#[derive(Debug)]
pub struct Delivered<T> {
    /// The tag given to [`Producer::send`].
    pub tag: T,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// An idempotent producer for one topic. Each message carries a tag of type `T`,
/// which comes back with its delivery report.
///
/// ```no_run
/// use std::time::Duration;
///
/// use lambda_core::Kafka;
/// use lambda_core::health::Health;
/// use lambda_core::kafka::producer::Producer;
///
/// # fn run() -> Result<(), lambda_core::Error> {
/// let kafka = Kafka::new("kafka:9092", "readings");
/// let producer = Producer::new(&kafka, &Health::default())?;
/// producer.send(b"R-1", Some(br#"{"id": "R-1", "millidegrees": 21500}"#), 1)?;
/// producer.flush(Duration::from_secs(10))?;
/// for delivered in producer.delivered(Duration::ZERO)? {
///     println!("message {} is at offset {}", delivered.tag, delivered.offset);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Producer<T: Send + Sync + 'static> {
    topic: String,
    client: BaseProducer<Reports<T>>,
    pulse: Pulse,
    /// Missing while the topic does not exist, or nothing is delivered.
    kafka: Need,
    /// Time since which messages are in flight without any report.
    waiting: Mutex<Option<Instant>>,
}

impl<T: Send + Sync + 'static> Producer<T> {
    /// Creates a producer for the configured topic, without connecting. Reports to `health`
    /// whether it moves, and whether messages are delivered.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when librdkafka refuses the settings.
    pub fn new(config: &Kafka, health: &Health) -> Result<Self, Error> {
        config.check()?;
        let client = config.producer().create_with_context(Reports::default());
        let client = client.map_err(|error| refused(&error))?;
        Ok(Self {
            topic: config.topic().to_owned(),
            client,
            pulse: health.pulse("the producer"),
            kafka: health.need("Kafka"),
            waiting: Mutex::default(),
        })
    }

    /// Waits, with backoff and a log line, for the topic to exist. Calls `stopped` at
    /// intervals, and returns false once that is true.
    ///
    /// # Errors
    /// `Fatal`; `Unreachable` when only another producer can find the topic.
    pub fn wait_for_topic(&self, stopped: impl Fn() -> bool) -> Result<bool, Error> {
        let mut backoff = Backoff::default();
        while !stopped() {
            match topic::describe(self.client.client(), &self.topic) {
                Ok(_) => {
                    self.kafka.met();
                    return Ok(true);
                }
                Err(error) if error.kind() == Kind::Transient => {
                    let retry_in = backoff.next_delay();
                    let chain = error.chain();
                    tracing::warn!(error = chain, ?retry_in, "waiting for {}", self.topic);
                    metrics::retried(Retry::Topic);
                    self.kafka.missing(chain);
                    self.pause(retry_in, &stopped);
                    self.failure()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn pause(&self, delay: Duration, stopped: impl Fn() -> bool) {
        let mut left = delay;
        while !left.is_zero() && !stopped() {
            let step = left.min(Duration::from_millis(100));
            self.pulse.beat();
            self.client.poll(step);
            left -= step;
        }
    }

    /// Puts a message into librdkafka's queue. Waits while the queue is full, which bounds
    /// the messages in flight.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the message can never be sent (it is too
    /// large, say); else as for [`Producer::delivered`].
    pub fn send(&self, key: &[u8], payload: Option<&[u8]>, tag: T) -> Result<(), Error> {
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(tag)).key(key);
        if let Some(payload) = payload {
            record = record.payload(payload);
        }
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    record = unsent;
                    self.poll(ROOM);
                    self.failure()?;
                }
                Err((error, _)) => return Err(remedy::explain(error, "send a message to Kafka")),
            }
        }
    }

    /// Returns the delivery reports that arrived since the last call or arrive within
    /// `patience`. Call it often: reports are kept until then.
    ///
    /// # Errors
    /// The first message that failed or whose fate is unknown: later ones may be in the
    /// topic, so a caller that wants all must start over. `Unreachable` when none can be
    /// delivered any more. The next call returns what else was delivered.
    pub fn delivered(&self, patience: Duration) -> Result<Vec<Delivered<T>>, Error> {
        self.poll(patience);
        self.failure()?;
        metrics::in_flight(self.in_flight());
        Ok(std::mem::take(&mut *self.client.context().delivered()))
    }

    /// Number of messages sent whose report has not arrived.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.client.in_flight_count()).unwrap_or_default()
    }

    /// Waits until every sent message has its report; [`Producer::delivered`] returns them.
    ///
    /// # Errors
    /// `Unreachable` when `patience` is over.
    pub fn flush(&self, patience: Duration) -> Result<(), Error> {
        let flushed = self.client.flush(patience);
        flushed.map_err(|error| Error::Unreachable { server: Server::Kafka, source: error.into() })
    }

    /// Collects delivery reports, and checks that they arrive.
    fn poll(&self, patience: Duration) {
        self.pulse.beat();
        let before = self.client.context().delivered().len();
        self.client.poll(patience);
        let any = self.client.context().delivered().len() > before;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if any || self.in_flight() == 0 {
            if waiting.take().is_some() {
                self.kafka.met();
            }
            return;
        }
        let since = *waiting.get_or_insert_with(Instant::now);
        if since.elapsed() >= REPORT_WITHIN {
            let latest = self.client.context().client_errors.latest();
            self.kafka.missing(format!("no delivery report for {REPORT_WITHIN:?}; {latest}"));
        }
    }

    fn failure(&self) -> Result<(), Error> {
        let failed = self.client.context().failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Receives librdkafka's delivery reports.
#[derive(Debug)]
struct Reports<T> {
    delivered: Mutex<Vec<Delivered<T>>>,
    failed: Mutex<Option<Error>>,
    /// Partitions with a report without an offset. librdkafka counts on from the last
    /// offset it knows, so later ones may be made up.
    unproven: Mutex<BTreeSet<i32>>,
    client_errors: ClientErrors,
    /// Whether the producer no longer knows any broker.
    stranded: Stranded,
}

impl<T> Default for Reports<T> {
    fn default() -> Self {
        Self {
            delivered: Mutex::default(),
            failed: Mutex::default(),
            unproven: Mutex::default(),
            client_errors: ClientErrors::default(),
            stranded: Stranded::default(),
        }
    }
}

impl<T> Reports<T> {
    fn delivered(&self) -> std::sync::MutexGuard<'_, Vec<Delivered<T>>> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first failure, which is the one reported.
    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Whether a message is known to be in the topic.
    fn is_proven(&self, partition: i32, offset: i64) -> bool {
        let mut unproven = self.unproven.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < 0 {
            unproven.insert(partition);
        }
        !unproven.contains(&partition)
    }

    fn cannot_take(&self, error: KafkaError) {
        self.fail(remedy::explain(error, "send a message to Kafka"));
    }
}

impl<T: Send + Sync> ClientContext for Reports<T> {
    fn error(&self, error: KafkaError, reason: &str) {
        self.client_errors.note(&error, reason);
        if error.rdkafka_error_code().is_some_and(remedy::needs_a_person) {
            self.cannot_take(error);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if Statistics::parse(statistics).is_some_and(|it| self.stranded.watch(&it)) {
            self.cannot_take(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Reports<T> {
    type DeliveryOpaque = Box<T>;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: Box<T>) {
        match result {
            Ok(message) => {
                let (partition, offset) = (message.partition(), message.offset());
                if self.is_proven(partition, offset) {
                    self.delivered().push(Delivered { tag: *tag, partition, offset });
                } else {
                    self.fail(without_offset(partition));
                }
            }
            Err((error, _)) => self.cannot_take(error.clone()),
        }
    }
}

/// The error for a report without an offset: no broker confirmed the message, though
/// librdkafka infers it from the brokers' answers.
fn without_offset(partition: i32) -> Error {
    Error::Temporary {
        server: Server::Kafka,
        what: "confirm that a message is in the topic in Kafka",
        remedy: "send all messages again: those that are stored count as duplicates",
        source: format!("a delivery report for partition {partition} has no offset").into(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::ops::Range;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::kafka::fake::{Broker, LIVENESS, ROUNDS};

    #[test]
    fn messages_refused_by_a_new_partition_are_delivered_before_later_ones() {
        let brokers = MockCluster::new(1).unwrap();
        let producer = producer_to(&brokers);
        send(&producer, 0..1);
        assert_eq!(all_delivered(&producer).unwrap(), [(0, 0)], "it is known to the brokers");
        // These brokers never check sequence numbers, nor do real ones while a partition is
        // new to them: they accept what follows a refused request.
        brokers.broker_round_trip_time(1, Duration::from_millis(100)).unwrap();
        refuse(&brokers, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION);
        for number in 1..10 {
            producer.send(b"key", Some(b"payload"), number).unwrap();
            // Longer than messages are collected for a request.
            producer.client.poll(Duration::from_millis(10));
        }
        producer.flush(LIVENESS).unwrap();
        let places = all_delivered(&producer).unwrap();
        assert_eq!(places, (1..10).map(|number| (number, number)).collect::<Vec<_>>());
    }

    #[test]
    fn a_message_reported_without_an_offset_does_not_count_as_delivered() {
        let brokers = MockCluster::new(1).unwrap();
        let producer = producer_to(&brokers);
        refuse(&brokers, RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER);
        // One request: librdkafka counts its offsets on from none, and so reaches true
        // ones.
        send(&producer, 0..3);
        let error = all_delivered(&producer).unwrap_err();
        assert!(
            error.chain().contains("report for partition 0 has no offset"),
            "{}",
            error.chain()
        );
        assert_eq!(error.kind(), Kind::Transient);
        // The next message is sent, and in doubt as well.
        send(&producer, 3..4);
        assert!(all_delivered(&producer).is_err());
    }

    #[test]
    fn a_failure_hides_nothing_that_was_delivered() {
        let brokers = MockCluster::new(1).unwrap();
        let producer = producer_to(&brokers);
        send(&producer, 0..1);
        refuse(&brokers, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
        send(&producer, 1..2);
        assert!(all_delivered(&producer).is_err());
        assert_eq!(all_delivered(&producer).unwrap(), [(0, 0)]);
    }

    /// Sends these messages, and waits until each has its report.
    fn send(producer: &Producer<i64>, numbers: Range<i64>) {
        for number in numbers {
            producer.send(b"key", Some(b"payload"), number).unwrap();
        }
        producer.flush(LIVENESS).unwrap();
    }

    /// Answers the next produce request in this way.
    fn refuse(brokers: &MockCluster<'_, DefaultProducerContext>, answer: RDKafkaRespErr) {
        brokers.request_errors(RDKafkaApiKey::Produce, &[answer]);
    }

    /// Tags and offsets of all delivered messages, until there are no more, or an error.
    fn all_delivered(producer: &Producer<i64>) -> Result<Vec<(i64, i64)>, Error> {
        let mut all = Vec::new();
        loop {
            let more = producer.delivered(Duration::ZERO)?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more.iter().map(|it| (it.tag, it.offset)));
        }
    }

    /// A producer for a topic of one partition.
    fn producer_to(brokers: &MockCluster<'_, DefaultProducerContext>) -> Producer<i64> {
        brokers.create_topic("t", 1, 1).unwrap();
        let config = Kafka::new(&brokers.bootstrap_servers(), "t").group("g");
        let producer = Producer::new(&config, &Health::default()).unwrap();
        assert!(producer.wait_for_topic(|| false).unwrap());
        producer
    }

    #[test]
    fn a_producer_that_learns_of_no_broker_says_so_or_finds_the_brokers_again() {
        let broker = Broker::start().unwrap();
        let producer = Producer::<()>::new(&broker.config(""), &Health::default()).unwrap();
        // Out of twenty rounds, about one strands it.
        for round in 0..10 * ROUNDS {
            let begun = Instant::now();
            match producer.wait_for_topic(|| begun.elapsed() > LIVENESS) {
                Ok(found) => assert!(found, "round {round}: it waits without end"),
                Err(Error::Unreachable { .. }) => return,
                Err(error) => panic!("{}", error.chain()),
            }
            broker.forget_brokers();
            while broker.forgetful() {
                assert!(begun.elapsed() < LIVENESS, "round {round}: it is not asked");
                drop(producer.wait_for_topic(|| !broker.forgetful()));
            }
        }
    }
}
