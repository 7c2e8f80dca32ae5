//! Reads the offsets that partitions hold, by a client outside the group: on the consumer's
//! own connection an answer waits for the current fetch.

use std::collections::BTreeMap;
use std::thread;

use rdkafka::consumer::Consumer;

use crate::error::{Error, Server};
use crate::kafka::config::Kafka;
use crate::kafka::position::Watermarks;
use crate::kafka::topic::{self, Observer};

/// Consecutive queries without an answer, of a second or more each, before another client
/// takes over: at first, and after a long time without an answer. A client with a slow
/// connection must not be replaced again and again.
const PATIENCE: u32 = 4;
const PATIENCE_MAX: u32 = 64;

/// A client for queries.
pub(super) struct Offsets {
    config: Kafka,
    observer: Observer,
    /// Number of queries since the last answer of a broker.
    unanswered: u32,
    /// Number of unanswered queries that the observer may have.
    patience: u32,
    /// The topic of the cluster that answered first, and whether the observer was seen to
    /// use the same one.
    source: Option<String>,
    identified: bool,
    /// The last partition queried when they had to be queried one at a time.
    turn: i32,
}

impl Offsets {
    /// Creates a client for the topic of `config`.
    pub(super) fn new(config: &Kafka) -> Result<Self, Error> {
        Ok(Self {
            config: config.clone(),
            observer: topic::observer(config)?,
            unanswered: 0,
            patience: PATIENCE,
            source: None,
            identified: false,
            turn: -1,
        })
    }

    /// Returns the offsets of those `partitions` (one at least) that brokers answer for: of
    /// all by one query, or, while some have no leader, of the others.
    ///
    /// # Errors
    /// `Transient`: ask again later. `Fatal`.
    pub(super) fn of(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, Watermarks>, Error> {
        match topic::watermarks_of(&self.observer, self.config.topic(), partitions) {
            Ok(watermarks) if self.asks_same_cluster()? => {
                (self.unanswered, self.patience) = (0, PATIENCE);
                Ok(watermarks)
            }
            Ok(_) => {
                self.unanswered();
                Err(Error::Temporary {
                    server: Server::Kafka,
                    what: "read a partition's offsets in Kafka",
                    remedy: "set KAFKA_BOOTSTRAP_SERVERS to the cluster that is being read",
                    source: "new clients reach another cluster".into(),
                })
            }
            Err(error) => self.of_one(partitions, error),
        }
    }

    /// Returns the offsets of the next partition in turn that has a leader, after a query
    /// for all of them failed with `error`.
    fn of_one(
        &mut self,
        partitions: &[i32],
        error: Error,
    ) -> Result<BTreeMap<i32, Watermarks>, Error> {
        // A broker that was just starting may have reported no leaders, and librdkafka,
        // which takes that as final, would not ask again for minutes.
        let led = match topic::led(self.observer.client(), self.config.topic()) {
            Ok(led) => led,
            Err(why) => {
                tracing::debug!(error = why.chain(), "no broker describes the topic");
                self.unanswered();
                return Err(error);
            }
        };
        self.unanswered = 0;
        let mut asked: Vec<i32> =
            partitions.iter().copied().filter(|partition| led.contains(partition)).collect();
        if asked.is_empty() {
            return Err(error);
        }
        if asked.len() == partitions.len() {
            let next = asked.iter().copied().find(|partition| *partition > self.turn);
            self.turn = next.unwrap_or(asked[0]);
            asked = vec![self.turn];
        }
        let watermarks = topic::watermarks_of(&self.observer, self.config.topic(), &asked)?;
        if self.asks_same_cluster()? { Ok(watermarks) } else { Err(error) }
    }

    fn unanswered(&mut self) {
        self.unanswered += 1;
        if self.unanswered >= self.patience {
            self.begin_again();
        }
    }

    /// Whether the observer uses the cluster that answered first: a later client begins
    /// with the bootstrap servers, which may lead to another cluster by then, and the
    /// consumer's lanes belong to the first one.
    fn asks_same_cluster(&mut self) -> Result<bool, Error> {
        if !self.identified {
            let source = topic::source(self.observer.client(), self.config.topic())?;
            self.identified = *self.source.get_or_insert_with(|| source.clone()) == source;
        }
        Ok(self.identified)
    }

    /// Replaces the client: it may have lost all its brokers
    /// ([`Stranded`](super::statistics::Stranded)).
    fn begin_again(&mut self) {
        let patience = self.patience;
        (self.unanswered, self.patience) = (0, PATIENCE_MAX.min(2 * patience));
        let observer = match topic::observer(&self.config) {
            Ok(observer) => observer,
            // A client was made of the same settings before: whatever fails now may work
            // again.
            Err(error) => {
                tracing::warn!(error = error.chain(), "could not make another Kafka client");
                return;
            }
        };
        tracing::info!(
            topic = self.config.topic(),
            unanswered = patience,
            "no broker answered queries about partitions; using another client"
        );
        let silent = std::mem::replace(&mut self.observer, observer);
        self.identified = false;
        // Dropping it may wait for a name server. Without another thread, so does this one.
        drop(thread::Builder::new().spawn(|| drop(silent)));
    }

    /// Serves the client's log.
    pub(super) fn idle(&self) {
        self.observer.poll(std::time::Duration::ZERO);
    }
}

impl std::fmt::Debug for Offsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offsets").field("unanswered", &self.unanswered).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::kafka::fake::{Broker, KEPT, LIVENESS, ROUNDS};

    #[test]
    fn a_client_that_lost_all_brokers_finds_them_again() {
        let broker = Broker::start().unwrap();
        let mut offsets = Offsets::new(&broker.config("")).unwrap();
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let found = loop {
                match offsets.of(&[0]) {
                    Ok(found) => break found,
                    Err(error) => {
                        assert!(begun.elapsed() < LIVENESS, "round {round}: {}", error.chain());
                    }
                }
            };
            assert_eq!(found[&0], KEPT);
            broker.forget_brokers();
            drop(topic::led(offsets.observer.client(), offsets.config.topic()));
            assert!(!broker.forgetful(), "round {round}: it was not asked");
        }
    }

    #[test]
    fn a_client_made_later_does_not_answer_for_another_cluster() {
        let broker = Broker::start().unwrap();
        let mut offsets = Offsets::new(&broker.config("")).unwrap();
        assert_eq!(offsets.of(&[0]).unwrap()[&0], KEPT);
        offsets.begin_again();
        assert_eq!(offsets.of(&[0]).unwrap()[&0], KEPT);
        broker.move_cluster();
        offsets.begin_again();
        let error = offsets.of(&[0]).unwrap_err();
        assert!(error.chain().contains("another cluster"), "{}", error.chain());
    }
}
