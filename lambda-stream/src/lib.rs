//! The speed layer: loads a Kafka topic into PostgreSQL, live and exactly once.
//!
//! [`consume`] joins a consumer group, reads the partitions that the group assigns to it, and
//! stores them by the delivery protocol of [`lambda_core::delivery`]. It ends when it is
//! stopped or, with [`StreamConfig::exit_at_end`], once everything that was in the topic at
//! the start is stored. Any number of processes may do so side by side.
//! [`produce`] fills a topic, for demonstrations, tests and load.
//!
//! ```no_run
//! use lambda_core::kafka::KafkaConfig;
//! use lambda_core::postgres::DatabaseConfig;
//! use lambda_core::transaction;
//! use lambda_stream::{StreamConfig, consume};
//!
//! # async fn run() -> Result<(), lambda_core::Error> {
//! let kafka = KafkaConfig::new("localhost:9092", "transactions", "lambda-consumer", "")?;
//! let database = DatabaseConfig::from_url("postgresql://loader@localhost/lambda")?;
//! let config = StreamConfig { exit_at_end: true, ..StreamConfig::new(kafka, database) };
//! let summary = consume(&transaction::pipeline(), &config, std::future::pending()).await?;
//! assert!(summary.counts.balanced());
//! # Ok(())
//! # }
//! ```

pub mod produce;

mod config;
mod drain;
mod stored;
mod summary;
mod worker;

pub use self::config::StreamConfig;
pub use self::summary::Summary;
pub use self::worker::consume;
