//! The source on Kafka, and the producer that feeds a topic.
//!
//! ```text
//!   librdkafka ──poll──▶ poll thread ──decode──▶ batcher ──take──▶ KafkaSource
//!       ▲                    │  ▲                (shared, bounded)      │
//!       └── assign, unassign ┘  └──────────── start, stop ◀─────────────┘
//! ```
//!
//! The rebalance callback only takes notes (rule R14, docs/protocol.md): a granted
//! partition is read once the flow has claimed its lane and knows the stored position.
//! Reading begins at the last stored message, which is compared: a topic that is not the
//! one that was read stops the source. Offsets in Kafka are written for monitoring and
//! never read.

pub mod admin;
pub mod config;
pub mod position;
pub mod producer;
pub mod source;
pub mod source_identity;
pub mod topic;

mod committed;
mod context;
mod fairness;
#[cfg(test)]
mod fake;
mod member;
mod offsets;
mod options;
mod partition_end;
mod poll;
mod poll_thread;
mod rebalance;
mod remedy;
mod shared;
mod statistics;
mod unreadable;

pub use self::config::Kafka;
pub use self::options::SourceOptions;
pub use self::position::{OnSourceChange, StartAt};
pub use self::source::KafkaSource;
