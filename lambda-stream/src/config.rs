//! Settings of a run.

use lambda_core::delivery::batcher::Limits;
use lambda_core::health::Health;
use lambda_core::kafka::{Kafka, OnSourceChange, StartAt};
use lambda_core::postgres::Postgres;

/// Settings of a run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) kafka: Kafka,
    pub(crate) database: Postgres,
    pub(crate) start: StartAt,
    pub(crate) on_source_change: OnSourceChange,
    pub(crate) take_over: bool,
    pub(crate) exit_at_end: bool,
    /// Label of this process, stored beside its claims for operators.
    pub(crate) owner: String,
    pub(crate) limits: Limits,
    pub(crate) health: Health,
}

impl Config {
    /// Settings of a run that reads from the oldest message on until it is stopped.
    pub(crate) fn new(kafka: &Kafka, database: &Postgres) -> Self {
        Self {
            kafka: kafka.clone(),
            database: database.clone(),
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
