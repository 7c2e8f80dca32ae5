//! Kafka and PostgreSQL in containers.

use std::time::Duration;

use testcontainers_modules::kafka::apache::{self, KAFKA_PORT};
use testcontainers_modules::postgres::Postgres as PostgresImage;
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ContainerRequest, ImageExt};

use crate::Failure;
use crate::servers::login::Login;
use crate::servers::owner::{OWNER, owner};
use crate::servers::{KafkaServer, PostgresServer, Scratch};

/// Starts a broker.
pub(super) async fn start_kafka(scratch: &Scratch) -> Result<KafkaServer, Failure> {
    scratch.watch_containers()?;
    let container = kafka().start().await?;
    let port = container.get_host_port_ipv4(KAFKA_PORT).await?;
    Ok(KafkaServer::held(format!("127.0.0.1:{port}"), container))
}

/// Starts a server from `request`.
pub(super) async fn start_postgres(
    scratch: &Scratch,
    request: ContainerRequest<PostgresImage>,
) -> Result<PostgresServer, Failure> {
    scratch.watch_containers()?;
    let container: ContainerAsync<PostgresImage> = request.start().await?;
    let host = container.get_host().await?.to_string();
    let port = container.get_host_port_ipv4(5432).await?;
    let postgres = || "postgres".to_owned();
    let admin = Login { host, port, database: postgres(), user: postgres(), password: postgres() };
    Ok(PostgresServer::held(admin, container))
}

/// The container of a broker, to be started.
pub(super) fn kafka() -> ContainerRequest<apache::Kafka> {
    apache::Kafka::default()
        .with_jvm_image()
        .with_tag("4.3.1")
        // Otherwise a group's first join would wait three seconds for further members.
        .with_env_var("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")
        // The broker sets the session timeout under the broker-side protocol, 45 s by default.
        .with_env_var("KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", "6000")
        .with_env_var("KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS", "6000")
        .with_env_var("KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "1000")
        .with_env_var("KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "2000")
        .with_env_var("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .with_label(OWNER, owner())
        .with_startup_timeout(Duration::from_mins(2))
}

/// The container of a server, to be started.
pub(super) fn postgres() -> ContainerRequest<PostgresImage> {
    PostgresImage::default()
        .with_tag("17")
        // The module's own command turns fsync off.
        .with_cmd(["postgres", "-c", "fsync=on", "-c", "max_connections=200"])
        .with_label(OWNER, owner())
}
