//! Configuration of a consumer.

use lambda_core::delivery::batcher::Limits;
use lambda_core::health::Health;
use lambda_core::kafka::{KafkaConfig, OnSourceChange, StartAt};
use lambda_core::postgres::DatabaseConfig;

/// Configuration of a run: source, destination, limits and end.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Brokers, topic and consumer group.
    pub kafka: KafkaConfig,
    /// Database connection.
    pub database: DatabaseConfig,
    /// Start of partitions that were never read before.
    pub start: StartAt,
    /// Reaction to a partition that no longer matches what was read of it: its topic was
    /// recreated, or its messages expired unread (rule R18 in docs/protocol.md).
    pub on_source_change: OnSourceChange,
    /// Claims lanes even if another consumer group used them within the last 60 seconds
    /// (rule R16 in docs/protocol.md).
    pub take_over: bool,
    /// Stops once everything that was in the topic at the start is stored, by this
    /// process or by others.
    pub exit_at_end: bool,
    /// Label of this process, stored beside its claims for operators.
    pub owner: String,
    /// Limits of a batch.
    pub limits: Limits,
    /// Health to which the consumer reports.
    pub health: Health,
}

impl StreamConfig {
    /// Configuration that reads from the oldest message until the run is stopped.
    pub fn new(kafka: KafkaConfig, database: DatabaseConfig) -> Self {
        Self {
            kafka,
            database,
            start: StartAt::default(),
            on_source_change: OnSourceChange::default(),
            take_over: false,
            exit_at_end: false,
            owner: owner(),
            limits: Limits::default(),
            health: Health::default(),
        }
    }
}

/// Host name (in Kubernetes: pod) and process id.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    format!("{} pid {}", host.trim(), std::process::id()).trim_start().to_owned()
}
