//! A member of the group: a series of consumers, each polled until it breaks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind};
use crate::health::Pulse;
use crate::kafka::config::{KafkaConfig, refused};
use crate::kafka::context::Context;
use crate::kafka::offsets::Offsets;
use crate::kafka::poll::{GivenUp, Polling};
use crate::kafka::shared::Shared;
use crate::kafka::source::SourceOptions;
use crate::kafka::topic;
use crate::metrics::{self, Retry};
use crate::record::Record;
use crate::remedy;

/// Lifetime after which a consumer counts as having worked: the delay before the next one
/// is then short again.
const LASTED: Duration = Duration::from_mins(1);

/// The work of the poll thread.
#[derive(Debug)]
pub(super) struct Member<R> {
    pub(super) config: KafkaConfig,
    pub(super) options: SourceOptions,
    pub(super) shared: Arc<Shared<R>>,
    /// Heartbeat of the poll thread.
    pub(super) pulse: Pulse,
}

impl<R: Record> Member<R> {
    /// Polls until the flow closes the source or an error needs a person.
    pub(super) fn run(self) {
        // This also runs if the thread panics: the flow must not wait for it without end.
        let _ended = Ended(&self.shared);
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let broken = match self.consume() {
                Ok(GivenUp::Closing) => return,
                Ok(GivenUp::Broken) => "librdkafka cannot recover it".to_owned(),
                Err(error) if error.kind() == Kind::Transient => error.chain(),
                Err(error) => return self.shared.fail(error),
            };
            // The consumer has left the group, and so returned its partitions.
            self.shared.lock().lost();
            self.shared.notify();
            if begun.elapsed() >= LASTED {
                backoff.reset();
            }
            let retry_in = backoff.next_delay();
            tracing::warn!(broken, ?retry_in, "the consumer broke; starting another one");
            metrics::retried(Retry::Consumer);
            self.shared.kafka.missing(broken);
            if self.wait_for_close(retry_in) {
                return;
            }
        }
    }

    fn consume(&self) -> Result<GivenUp, Error> {
        let mut offsets = Offsets::new(&self.config)?;
        let context = Context::new(self.config.topic().to_owned(), Arc::clone(&self.shared));
        let settings = self.config.consumer();
        let consumer: BaseConsumer<Context<R>> =
            settings.create_with_context(context).map_err(|error| refused(&error))?;
        // Uses the client that will read, which from then on reports any other cluster.
        let Some(partitions) = self.wait_for_topic(&consumer)? else {
            return Ok(GivenUp::Closing);
        };
        let subscribed = consumer.subscribe(&[self.config.topic()]);
        subscribed.map_err(|error| remedy::kafka(error, "subscribe to the topic in Kafka"))?;
        Polling::new(self, &consumer, &mut offsets, partitions).poll()
    }

    /// Waits for the topic's partitions. `None`: closed before they were found.
    ///
    /// # Errors
    /// `Transient`: another consumer may find it. `Fatal`.
    fn wait_for_topic(
        &self,
        consumer: &BaseConsumer<Context<R>>,
    ) -> Result<Option<Vec<i32>>, Error> {
        let mut backoff = Backoff::default();
        loop {
            self.pulse.beat();
            let described = topic::describe(consumer.client(), self.config.topic());
            match described.map_err(|error| topic::reason(consumer, error)) {
                Ok(topic) => {
                    self.same_cluster(&topic.source)?;
                    tracing::info!(
                        source = topic.source,
                        partitions = topic.partitions.len(),
                        group = self.config.group_id(),
                        "joining the group"
                    );
                    self.shared.lock().source = Some(topic.source);
                    // Statistics, which say more, come a second later.
                    self.shared.kafka.met();
                    return Ok(Some(topic.partitions));
                }
                Err(error) if error.kind() == Kind::Transient => {
                    if consumer.context().stranded.is_certain() {
                        return Err(error);
                    }
                    let retry_in = backoff.next_delay();
                    let chain = error.chain();
                    tracing::warn!(error = chain, ?retry_in, "waiting for {}", self.config);
                    metrics::retried(Retry::Topic);
                    self.shared.kafka.missing(chain);
                    if self.wait_for_close(retry_in) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_for_close(&self, patience: Duration) -> bool {
        self.pulse.beat();
        self.shared.wait_for_close(patience)
    }

    /// Refuses another cluster than before: the lanes that are held belong to the first
    /// one's topic (rule R18, docs/protocol.md).
    pub(super) fn same_cluster(&self, source: &str) -> Result<(), Error> {
        let known = self.shared.lock().source.clone();
        match known.filter(|known| known != source) {
            None => Ok(()),
            Some(known) => Err(Error::misconfigured(
                format!(
                    "another cluster answers at {}: {known} was read, but it has {source}",
                    self.config.bootstrap()
                ),
                "nothing of it was stored; set KAFKA_BOOTSTRAP_SERVERS to the cluster that was \
                 read, or start again to read the new one as another source with its own positions",
            )),
        }
    }
}

/// Reports to the flow, when dropped, that the poll thread has ended.
struct Ended<'a, R: Record>(&'a Shared<R>);

impl<R: Record> Drop for Ended<'_, R> {
    fn drop(&mut self) {
        self.0.end();
    }
}
