//! The speed layer: loads a Kafka topic into PostgreSQL, live and exactly once.
//!
//! [`consume`] joins a consumer group, reads the partitions that the group assigns to it, and
//! stores them by the delivery protocol of [`lambda_core::delivery`]. It ends when it is
//! stopped or, with [`Consume::exit_at_end`], once everything that was in the topic at
//! the start is stored. Any number of processes may do so side by side.
//! [`produce`] fills a topic, for demonstrations, tests and load.
//!
//! ```no_run
//! use lambda_core::kafka::Kafka;
//! use lambda_core::postgres::Postgres;
//! use lambda_core::{Stop, transaction};
//! use lambda_stream::consume;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let kafka = Kafka::new("localhost:9092", "transactions").group("lambda-consumer");
//! let database = Postgres::new("postgresql://loader@localhost/lambda")?;
//! let stop = Stop::on_signals()?;
//! let summary = consume(&transaction::pipeline(), &kafka, &database).stop(stop).await?;
//! assert!(summary.counts.balanced());
//! # Ok(())
//! # }
//! ```

pub mod produce;

mod config;
mod consume;
mod drain;
mod stored;
mod summary;
mod worker;

pub use self::consume::{Consume, consume};
pub use self::summary::Summary;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
