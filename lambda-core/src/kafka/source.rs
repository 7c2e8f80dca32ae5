//! [`Source`] on a Kafka topic.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::batcher::Batcher;
use crate::error::{Error, Server};
use crate::health::Health;
use crate::kafka::config::Kafka;
use crate::kafka::member::Member;
use crate::kafka::options::SourceOptions;
use crate::kafka::poll_thread;
use crate::kafka::rebalance::{Granted, News};
use crate::kafka::shared::{Command, Shared, Yield};
use crate::pipeline::Pipeline;
use crate::progress::{LaneName, Progress};
use crate::source::{Event, Grant, Source};

/// Time that closing a source waits for the brokers to take note.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The messages of a topic, as records of a pipeline: one member of a consumer group, polled on
/// a thread of its own.
///
/// Waits for a broker or topic that is missing, with log lines. [`Source::next`] fails only
/// for what needs a person: refused settings or grants, an eager group, a topic that has
/// changed since it was read (rule R18, docs/protocol.md). Closing or dropping it leaves
/// the group.
pub struct KafkaSource {
    pipeline: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaSource {
    /// Joins the group. Reports to `health` whether it is polled, and whether the brokers
    /// can be read from.
    ///
    /// ```no_run
    /// use lambda_core::health::Health;
    /// use lambda_core::kafka::Kafka;
    /// use lambda_core::kafka::source::KafkaSource;
    /// use lambda_core::transaction;
    ///
    /// # fn run() -> Result<(), lambda_core::Error> {
    /// let kafka = Kafka::new("kafka:9092", "transactions");
    /// let (pipeline, health) = (transaction::pipeline(), Health::default());
    /// let source = KafkaSource::open(kafka, &pipeline, Default::default(), &health)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Fatal` as for [`Kafka::check`]; `Temporary` when the machine allows no more threads; [`Source::next`] returns all
    /// other errors.
    pub fn open(
        config: Kafka,
        pipeline: &Pipeline,
        options: SourceOptions,
        health: &Health,
    ) -> Result<Self, Error> {
        config.check()?;
        let batcher = Batcher::new(pipeline.clone(), options.limits);
        let shared = Arc::new(Shared::new(batcher, health.need("Kafka")));
        let pulse = health.pulse("the poll thread of Kafka");
        let member = Member { config, options, shared: Arc::clone(&shared), pulse };
        let thread = thread::Builder::new()
            .name("kafka-poll".into())
            .spawn(move || poll_thread::run(&member))
            .map_err(|error| Error::Temporary {
                server: Server::Kafka,
                what: "start the thread that polls Kafka",
                remedy: "the machine allows no more threads: raise its limits",
                source: Box::new(error),
            })?;
        Ok(Self { pipeline: pipeline.name().to_owned(), shared, thread: Some(thread) })
    }

    /// `<cluster id>/<topic>`, once the topic was found.
    pub fn name(&self) -> Option<String> {
        self.shared.lock().source.clone()
    }

    /// Leaves the group, so that others take over at once instead of after a
    /// session timeout. Gives up after a few seconds when no broker answers.
    pub async fn close(mut self) {
        self.shared.close();
        let Some(thread) = self.thread.take() else { return };
        let ended = tokio::task::spawn_blocking(|| thread.join());
        match tokio::time::timeout(CLOSE_TIMEOUT, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the thread that polled Kafka panicked: this is a bug"),
            Err(_) => tracing::warn!("no broker acknowledged that this member leaves its group"),
        }
    }

    fn event(&self, news: News) -> Event {
        let granted = match news {
            News::Revoked(partitions) => return Event::Revoked(partitions),
            News::Granted(granted) => granted,
        };
        let source = self.name().unwrap_or_default();
        let grant = |granted: Granted| Grant {
            name: LaneName {
                pipeline: self.pipeline.clone(),
                source: source.clone(),
                partition: granted.partition,
            },
            first_position: granted.first_position,
            given_up: granted.given_up,
        };
        Event::Granted(granted.into_iter().map(grant).collect())
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.shared.next() {
                Some(Yield::Failed(error)) => return Err(error),
                Some(Yield::News(news)) => return Ok(self.event(news)),
                Some(Yield::Batch(batch)) => return Ok(Event::Batch(batch)),
                Some(Yield::Ended) if self.shared.closing() => return Ok(Event::End),
                Some(Yield::Ended) => {
                    return Err(Error::misconfigured(
                        "the thread that polled Kafka has ended",
                        "start again; if it panicked, report the place in the log above",
                    ));
                }
                None => self.shared.notified().await,
            }
        }
    }

    async fn start(&mut self, progress: &Progress) -> Result<(), Error> {
        self.shared.command(progress.name.partition, Command::Start(Box::new(progress.clone())));
        Ok(())
    }

    async fn stop(&mut self, partition: i32) -> Result<(), Error> {
        self.shared.command(partition, Command::Stop);
        Ok(())
    }

    fn stored(&mut self, progress: &[Progress]) {
        let mut state = self.shared.lock();
        for lane in progress {
            if state.assignment.holds(lane.name.partition) {
                state.stored.insert(lane.name.partition, lane.position);
                if let Some(held) = state.lanes.get_mut(&lane.name.partition) {
                    held.position = lane.position;
                }
            }
        }
        drop(state);
        // A large batch that is stored makes room for the next one.
        self.shared.made_room();
    }
}

impl Drop for KafkaSource {
    /// Asks the thread to end; [`KafkaSource::close`] also waits for it.
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::kafka::fake::{Broker, LIVENESS, ROUNDS};
    use crate::testing::draft::SAMPLES;

    #[test]
    fn a_consumer_that_learns_of_no_broker_finds_the_brokers_again() {
        let broker = Broker::start().unwrap();
        let config = broker.config("topic.metadata.refresh.interval.ms=100");
        let options = SourceOptions::default();
        let source = KafkaSource::open(config, &SAMPLES, options, &Health::default()).unwrap();
        let within = |what: &str, happened: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !happened() {
                assert!(begun.elapsed() < LIVENESS, "{what}: never");
                thread::sleep(Duration::from_millis(5));
            }
        };
        for round in 0..2 * ROUNDS {
            broker.forget_brokers();
            within("it asks", &|| !broker.forgetful());
            let asked = broker.asked_for_topic();
            within(&format!("it asks again, round {round}"), &|| {
                broker.asked_for_topic() > asked + 2
            });
        }
        drop(source);
    }
}
