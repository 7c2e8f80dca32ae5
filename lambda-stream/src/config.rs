//! What a consumer is told.

use lambda_core::delivery::batcher::Limits;
use lambda_core::health::Health;
use lambda_core::kafka::{KafkaConfig, OnSourceChange, StartAt};
use lambda_core::postgres::DatabaseConfig;

/// From where, to where, and until when.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// The topic and the group.
    pub kafka: KafkaConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Where partitions start that were never read before.
    pub start: StartAt,
    /// What to do about a partition that is not what was read of it: its topic was
    /// recreated, its messages expired unread (R18).
    pub on_source_change: OnSourceChange,
    /// Claim lanes even over another consumer group that was active within the
    /// last minute (R16).
    pub take_over: bool,
    /// Stop once everything is stored that was in the topic at the start, by this
    /// process or by others.
    pub exit_at_end: bool,
    /// Written beside claims, for people: which process holds a lane.
    pub owner: String,
    /// How large a batch may grow.
    pub limits: Limits,
    /// Is told how it goes.
    pub health: Health,
}

impl StreamConfig {
    /// A consumer that reads from the oldest message until it is stopped.
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

/// Host (in Kubernetes: pod) and process.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    format!("{} pid {}", host.trim(), std::process::id()).trim_start().to_owned()
}
