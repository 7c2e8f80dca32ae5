//! A consumer: what it reads, where it stores it, and how it ends.

use std::future::IntoFuture;
use std::pin::Pin;

use lambda_core::health::Health;
use lambda_core::kafka::{Kafka, OnSourceChange, StartAt};
use lambda_core::postgres::Postgres;
use lambda_core::{Error, Pipeline, Stop};

use crate::config::Config;
use crate::summary::Summary;
use crate::worker;

/// Stores the records of a pipeline's topic in its table, from the oldest message on, until the
/// consumer is stopped or [`Consume::exit_at_end`] is reached. Waits for servers that are away.
///
/// Await the builder to run it.
///
/// ```no_run
/// use lambda_core::{Kafka, Postgres, Stop, transaction};
/// use lambda_stream::consume;
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let kafka = Kafka::new("kafka:9092", "transactions");
/// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
/// let stop = Stop::new();
/// let running = consume(&transaction::pipeline(), &kafka, &postgres).stop(stop.clone());
/// let running = tokio::spawn(running.into_future());
/// stop.stop();
/// # Ok(())
/// # }
/// ```
pub fn consume(pipeline: &Pipeline, kafka: &Kafka, database: &Postgres) -> Consume {
    Consume {
        pipeline: pipeline.clone(),
        config: Config::new(kafka, database),
        stop: Stop::default(),
    }
}

/// A consumer that does not run yet. It is a future's source: `.await` runs it, and
/// `tokio::spawn(consumer.into_future())` runs it beside others.
///
/// Awaited, it returns the [`Summary`] once it is stopped, or at the end; then everything that it
/// read is durable. Errors are `Fatal`, with a remedy; [`Error::Interrupted`] if it was stopped
/// before the requested end; `Transient` if the database was away at the stop, and the next run
/// then reads what was not stored. A commit that outlasts the time a stop may take is given up,
/// without an error.
#[derive(Debug, Clone)]
#[must_use = "a consumer does nothing unless it is awaited"]
pub struct Consume {
    pipeline: Pipeline,
    config: Config,
    stop: Stop,
}

impl Consume {
    /// Where to start in partitions that were never read before.
    pub fn start(mut self, start: StartAt) -> Self {
        self.config.start = start;
        self
    }

    /// What to do about a partition that no longer matches what was read of it: its topic was
    /// recreated, or its messages expired unread (rule R18 in docs/protocol.md).
    ///
    /// ```
    /// use lambda_core::kafka::{OnSourceChange, StartAt};
    /// use lambda_core::{Kafka, Postgres, transaction};
    /// use lambda_stream::consume;
    ///
    /// let kafka = Kafka::new("kafka:9092", "transactions");
    /// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
    /// let consumer = consume(&transaction::pipeline(), &kafka, &postgres)
    ///     .start(StartAt::Latest)
    ///     .on_source_change(OnSourceChange::Restart);
    /// # drop(consumer);
    /// # Ok::<(), lambda_core::Error>(())
    /// ```
    pub fn on_source_change(mut self, reaction: OnSourceChange) -> Self {
        self.config.on_source_change = reaction;
        self
    }

    /// Whether to claim lanes even if another consumer group used them within the last 60 seconds
    /// (rule R16 in docs/protocol.md).
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.config.take_over = take_over;
        self
    }

    /// Whether to stop once everything that was in the topic at the start is stored, by this
    /// process or by others.
    ///
    /// ```no_run
    /// use lambda_core::{Kafka, Postgres, transaction};
    /// use lambda_stream::consume;
    ///
    /// # async fn run() -> Result<(), lambda_core::Error> {
    /// let kafka = Kafka::new("kafka:9092", "transactions");
    /// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
    /// let summary = consume(&transaction::pipeline(), &kafka, &postgres).exit_at_end(true).await?;
    /// println!("{summary}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn exit_at_end(mut self, exit_at_end: bool) -> Self {
        self.config.exit_at_end = exit_at_end;
        self
    }

    /// Most rejects among the first 1,000 records of a partition: more are no topic of this
    /// pipeline's records.
    pub fn max_rejects(mut self, most: i64) -> Self {
        self.config.limits.first_rejects = most;
        self
    }

    /// Health to which the consumer reports; without one it has its own.
    pub fn health(mut self, health: &Health) -> Self {
        self.config.health = health.clone();
        self
    }

    /// The request that stops the consumer.
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }
}

impl IntoFuture for Consume {
    type Output = Result<Summary, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { worker::run(&self.pipeline, &self.config, &self.stop).await })
    }
}
