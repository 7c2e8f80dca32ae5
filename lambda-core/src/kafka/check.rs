//! Reading a lane's last message again before the lane is read on (R18).
//!
//! The offsets that a partition keeps are asked for first, which may decide; else
//! the message is fetched by a client outside the group. Nothing here waits for an
//! answer: the poll thread looks again after its next poll.
//!
//! A lane is checked after every claim, and so at every start, after every
//! rebalance, and when librdkafka tells a running consumer of another topic id
//! (brokers from 2.8 on have them), of another cluster id, or that an offset is out
//! of range: then nothing more is read, what was read is stored, and all lanes are
//! claimed and checked anew. What cannot be noticed:
//! - a recreated topic that holds the stored position, if the message that was read
//!   last is gone by then (the warning says so) or none was ever read of the lane;
//! - partitions that a recreated topic no longer has: nobody is granted them;
//! - before brokers had topic ids, a topic recreated under a running consumer with
//!   more messages than were read, until the next claim.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::batcher::Message;
use crate::error::{Error, Kind, Server};
use crate::kafka::config::KafkaConfig;
use crate::kafka::position::{Kept, Verdict, judge_message, judge_range, source_changed};
use crate::kafka::topic::{self, Observer};
use crate::progress::{Fingerprint, LaneId, Progress};
use crate::remedy;

/// How long a fetch may take before it begins anew.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How many questions in a row may be without an answer, of a second or more each, before
/// another client asks: first, and after none was answered for long. A client whose
/// connection takes its time is not to be cut short again and again.
const PATIENCE: u32 = 4;
const PATIENCE_MAX: u32 = 64;

/// How long a look waits when there is nothing else to do.
const PAUSE: Duration = Duration::from_millis(5);

/// Messages looked at in one go.
const BURST: usize = 64;

/// Lanes being checked.
pub(super) struct Checks {
    config: KafkaConfig,
    observer: Observer,
    /// Questions since the last answer of a broker.
    unanswered: u32,
    /// How many of them the observer has.
    patience: u32,
    /// The topic of the cluster that answered first, and whether the observer was seen to
    /// ask the same one.
    source: Option<String>,
    identified: bool,
    /// Partitions whose last message is being fetched.
    fetching: BTreeMap<i32, Fingerprint>,
    /// Whether anything is assigned, and since when.
    assigned: Option<Instant>,
    /// The last partition whose offsets nobody told.
    turn: i32,
}

impl Checks {
    /// Of lanes of this topic; makes a client for it.
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, Error> {
        Ok(Self {
            config: config.clone(),
            observer: topic::observer(config)?,
            unanswered: 0,
            patience: PATIENCE,
            source: None,
            identified: false,
            fetching: BTreeMap::new(),
            assigned: None,
            turn: -1,
        })
    }

    /// The verdicts on `lanes` that are known by now, by partition. Give all lanes
    /// that are still in question, each time.
    ///
    /// # Errors
    /// `Transient`: ask again later. `Fatal`.
    pub(super) fn verdicts(&mut self, lanes: &[Progress]) -> Result<Vec<(i32, Verdict)>, Error> {
        let last = |partition| {
            lanes.iter().find(|lane| lane.name.partition == partition).and_then(|lane| lane.last)
        };
        self.fetching.retain(|partition, fetched| last(*partition) == Some(*fetched));
        let mut verdicts = Vec::new();
        let unanswered = self.ask(lanes, &mut verdicts)?;
        self.read(&mut verdicts)?;
        self.rest();
        match unanswered {
            Some(error) if verdicts.is_empty() && self.fetching.is_empty() => Err(error),
            _ => Ok(verdicts),
        }
    }

    /// Judges by the offsets kept, and fetches the messages that decide else. Stops
    /// at the first partition whose offsets nobody tells, and gives the error; next
    /// time it begins behind that one.
    fn ask(
        &mut self,
        lanes: &[Progress],
        verdicts: &mut Vec<(i32, Verdict)>,
    ) -> Result<Option<Error>, Error> {
        let (first, last): (Vec<&Progress>, Vec<&Progress>) =
            lanes.iter().partition(|lane| lane.name.partition > self.turn);
        let (mut unanswered, mut fetch) = (None, false);
        for lane in first.into_iter().chain(last) {
            let partition = lane.name.partition;
            if self.fetching.contains_key(&partition) {
                continue;
            }
            let kept = match self.kept(partition) {
                Ok(kept) => kept,
                Err(error) => {
                    (self.turn, unanswered) = (partition, Some(error));
                    break;
                }
            };
            match (judge_range(lane, kept), lane.last) {
                (Some(verdict), _) => verdicts.push((partition, verdict)),
                (None, Some(last)) => {
                    self.fetching.insert(partition, last);
                    fetch = true;
                }
                (None, None) => verdicts.push((partition, Verdict::Same)),
            }
        }
        if fetch {
            self.fetch()?;
        }
        Ok(unanswered)
    }

    /// The offsets that a partition keeps.
    ///
    /// # Errors
    /// `Transient`: ask again later. `Fatal`.
    pub(super) fn kept(&mut self, partition: i32) -> Result<Kept, Error> {
        let kept = topic::kept(self.observer.client(), self.config.topic(), partition);
        let error = match kept {
            Ok(kept) if self.asks_same_cluster()? => {
                (self.unanswered, self.patience) = (0, PATIENCE);
                return Ok(kept);
            }
            Ok(_) => Error::Temporary {
                server: Server::Kafka,
                what: "tell a partition's offsets",
                remedy: "set KAFKA_BOOTSTRAP_SERVERS to the cluster that is being read",
                source: "another cluster answers whoever comes new".into(),
            },
            Err(error) => {
                // What a broker that was just starting told of the topic may name no leaders,
                // and librdkafka, which takes it for the last word, would not ask again for
                // minutes.
                let topic = Some(self.config.topic());
                match self.observer.fetch_metadata(topic, topic::OFFSETS_TIMEOUT) {
                    Ok(_) => {
                        self.unanswered = 0;
                        return Err(error);
                    }
                    Err(why) => tracing::debug!(%why, "a broker does not tell about the topic"),
                }
                error
            }
        };
        self.unanswered += 1;
        if self.unanswered >= self.patience {
            self.begin_anew();
        }
        Err(error)
    }

    /// Whether the observer asks the cluster that was asked first: a client that is made
    /// later begins with the bootstrap servers, which may have come to lead elsewhere, and
    /// the consumer's lanes are of the first one (R18).
    fn asks_same_cluster(&mut self) -> Result<bool, Error> {
        if !self.identified {
            let source = topic::source(self.observer.client(), self.config.topic())?;
            self.identified = *self.source.get_or_insert_with(|| source.clone()) == source;
        }
        Ok(self.identified)
    }

    /// Asks by another client from here on: this one may know no broker any more
    /// ([`Stranded`](super::statistics::Stranded)).
    fn begin_anew(&mut self) {
        let patience = self.patience;
        (self.unanswered, self.patience) = (0, PATIENCE_MAX.min(2 * patience));
        let observer = match topic::observer(&self.config) {
            Ok(observer) => observer,
            // It was made of the same settings once: what is missing now may come back.
            Err(error) => {
                tracing::warn!(error = error.chain(), "no other client can ask the brokers");
                return;
            }
        };
        tracing::info!(
            topic = self.config.topic(),
            unanswered = patience,
            "no broker tells about partitions; another client asks from here on"
        );
        let silent = std::mem::replace(&mut self.observer, observer);
        (self.assigned, self.identified) = (None, false);
        self.fetching.clear();
        // Its end may wait for a name server. Without another thread, that is waited for.
        drop(thread::Builder::new().spawn(|| drop(silent)));
    }

    /// Serves the client's log while nothing is in question.
    pub(super) fn idle(&mut self) {
        self.fetching.clear();
        self.rest();
        self.observer.poll(Duration::ZERO);
    }

    /// Reads no further than the messages in question.
    fn rest(&mut self) {
        if self.fetching.is_empty()
            && self.assigned.take().is_some()
            && let Err(error) = self.observer.unassign()
        {
            tracing::warn!(%error, "librdkafka does not let go of partitions that were checked");
        }
    }

    fn fetch(&mut self) -> Result<(), Error> {
        let mut from = TopicPartitionList::with_capacity(self.fetching.len());
        for (partition, last) in &self.fetching {
            from.add_partition_offset(
                self.config.topic(),
                *partition,
                Offset::Offset(last.position),
            )
            .map_err(cannot)?;
        }
        self.assigned = Some(Instant::now());
        self.observer.assign(&from).map_err(|error| {
            self.fetching.clear();
            cannot(error)
        })
    }

    fn read(&mut self, verdicts: &mut Vec<(i32, Verdict)>) -> Result<(), Error> {
        for _ in 0..BURST {
            if self.fetching.is_empty() {
                return Ok(());
            }
            match self.observer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let before = |last: &Fingerprint| message.offset() < last.position;
                    if self.fetching.get(&partition).is_none_or(before) {
                        continue;
                    }
                    if let Some(last) = self.fetching.remove(&partition) {
                        let found = judge_message(last, Some(fingerprint(&message)));
                        verdicts.push((partition, found));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(last) = self.fetching.remove(&partition) {
                        verdicts.push((partition, judge_message(last, None)));
                    }
                }
                Some(Err(error)) => self.failed(error)?,
            }
        }
        if self.assigned.is_some_and(|since| since.elapsed() >= FETCH_TIMEOUT) {
            let partitions: Vec<i32> = self.fetching.keys().copied().collect();
            tracing::warn!(
                topic = self.config.topic(),
                ?partitions,
                "waiting for the last message of partitions, to see that they are what was read"
            );
            self.fetching.clear();
        }
        Ok(())
    }

    fn failed(&mut self, error: KafkaError) -> Result<(), Error> {
        match error.rdkafka_error_code() {
            // It expired since its offsets were asked for: ask again.
            Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.fetching.clear();
                Ok(())
            }
            Some(code) if remedy::of_kafka(code).kind == Kind::Fatal => Err(cannot(error)),
            // librdkafka goes on by itself.
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").field("fetching", &self.fetching).finish_non_exhaustive()
    }
}

fn cannot(error: KafkaError) -> Error {
    remedy::kafka(error, "give the last message of a partition again")
}

fn fingerprint(message: &BorrowedMessage<'_>) -> Fingerprint {
    as_read(message).fingerprint()
}

/// A message as the batcher takes it.
pub(super) fn as_read<'a>(message: &'a BorrowedMessage<'_>) -> Message<'a> {
    Message {
        partition: message.partition(),
        position: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key(),
        payload: message.payload(),
    }
}

/// Those of `lanes` (of the topic of `config`, as stored just now) whose source is
/// not what was read, each with the error that says so. Waits with a message for
/// brokers that do not answer.
///
/// # Errors
/// `Fatal` only.
pub async fn changed(
    config: &KafkaConfig,
    lanes: Vec<Progress>,
) -> Result<Vec<(LaneId, Error)>, Error> {
    topic::asking(config, move |config| ask_changed(config, &lanes)).await
}

fn ask_changed(config: &KafkaConfig, lanes: &[Progress]) -> Result<Vec<(LaneId, Error)>, Error> {
    let mut checks = Checks::new(config)?;
    let mut open = lanes.to_vec();
    let mut changed = Vec::new();
    let begun = Instant::now();
    while !open.is_empty() {
        for (partition, verdict) in checks.verdicts(&open)? {
            for lane in open.extract_if(.., |lane| lane.name.partition == partition) {
                if let Verdict::Other(what) = &verdict {
                    changed.push((lane.lane, source_changed(config.topic(), &lane, what)));
                }
            }
        }
        if begun.elapsed() >= FETCH_TIMEOUT {
            return Err(Error::Temporary {
                server: Server::Kafka,
                what: "give the last message of each partition again",
                remedy: "look at the brokers' logs",
                source: format!("no answer within {FETCH_TIMEOUT:?}").into(),
            });
        }
        thread::sleep(PAUSE);
    }
    Ok(changed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use crate::kafka::fake::{Broker, KEPT, LIVENESS, ROUNDS};

    #[test]
    fn whoever_asks_and_was_told_of_no_broker_finds_them_again() {
        let broker = Broker::start().unwrap();
        let mut checks = Checks::new(&broker.config("")).unwrap();
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let found = loop {
                match checks.kept(0) {
                    Ok(found) => break found,
                    Err(error) => {
                        assert!(begun.elapsed() < LIVENESS, "round {round}: {}", error.chain());
                    }
                }
            };
            assert_eq!(found, KEPT);
            broker.forget_brokers();
            drop(checks.observer.fetch_metadata(Some(checks.config.topic()), FETCH_TIMEOUT));
            assert!(!broker.forgetful(), "round {round}: it was not asked");
        }
    }

    #[test]
    fn a_client_made_later_does_not_answer_for_another_cluster() {
        let broker = Broker::start().unwrap();
        let mut checks = Checks::new(&broker.config("")).unwrap();
        assert_eq!(checks.kept(0).unwrap(), KEPT);
        checks.begin_anew();
        assert_eq!(checks.kept(0).unwrap(), KEPT);
        broker.move_cluster();
        checks.begin_anew();
        let error = checks.kept(0).unwrap_err();
        assert!(error.chain().contains("another cluster"), "{}", error.chain());
    }
}
