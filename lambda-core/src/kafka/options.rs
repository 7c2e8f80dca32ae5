//! Options for reading a topic.

use crate::delivery::batcher::Limits;
use crate::kafka::position::{OnSourceChange, StartAt};

/// Options for reading a topic.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Start of partitions that were never read before.
    pub start: StartAt,
    /// Treatment of a partition that has changed since it was read (rule R18,
    /// docs/protocol.md).
    pub on_source_change: OnSourceChange,
    /// Maximum size of a batch.
    pub limits: Limits,
    /// Identifies the database that stores the messages, in one word. It is written beside
    /// the offsets committed to Kafka; another one there while this source runs stops it.
    pub database: String,
}
