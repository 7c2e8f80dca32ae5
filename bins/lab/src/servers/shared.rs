//! The servers that a process's tests share. Each is looked up in an order that ends with one
//! that every machine has, and started on first use.

use std::env;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::Failure;
use crate::servers::{KafkaServer, PostgresServer, Scratch, containers, docker};

/// A cluster to use instead of starting one.
pub const BOOTSTRAP_SERVERS: &str = "LAMBDA_TEST_BOOTSTRAP_SERVERS";

/// A database server to use instead of starting one; its role must be able to create
/// databases and roles.
pub const DATABASE_URL: &str = "LAMBDA_TEST_DATABASE_URL";

/// The servers of one process, each started at most once.
#[derive(Debug)]
pub struct Servers {
    // Fields are dropped in this order: servers before the folder they write to.
    postgres: OnceCell<Result<PostgresServer, String>>,
    kafka: OnceCell<Result<KafkaServer, String>>,
    scratch: Arc<Scratch>,
}

impl Servers {
    /// No servers yet, and the folder for their files.
    ///
    /// # Errors
    /// When the temporary folder cannot be made.
    pub fn new() -> Result<Self, Failure> {
        let scratch = Arc::new(Scratch::new()?);
        Ok(Self { postgres: OnceCell::new(), kafka: OnceCell::new(), scratch })
    }

    /// The folder that is removed with this process.
    pub fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// PostgreSQL, started on first use.
    ///
    /// # Errors
    /// If none could be started; the same error at every call.
    pub async fn postgres(&self) -> Result<&PostgresServer, Failure> {
        let start = async || start_postgres(&self.scratch).await.map_err(|e| crate::chain(&*e));
        let started = self.postgres.get_or_init(start).await;
        started.as_ref().map_err(|error| format!("no PostgreSQL: {error}").into())
    }

    /// Kafka, or a broker that speaks its protocol, started on first use.
    ///
    /// # Errors
    /// If none could be started; the same error at every call.
    pub async fn kafka(&self) -> Result<&KafkaServer, Failure> {
        let start = async || start_kafka(&self.scratch).await.map_err(|e| crate::chain(&*e));
        let started = self.kafka.get_or_init(start).await;
        started.as_ref().map_err(|error| format!("no Kafka: {error}").into())
    }

    /// Removes what existing servers would keep.
    pub async fn close(&self) {
        if let Some(Ok(postgres)) = self.postgres.get() {
            postgres.close().await;
        }
    }
}

/// Whether [`Servers::kafka`] returns a real broker.
///
/// # Errors
/// When Docker is required and missing.
pub async fn real_kafka_is_available() -> Result<bool, Failure> {
    Ok(env::var(BOOTSTRAP_SERVERS).is_ok() || docker::available().await?)
}

/// The cluster of the environment; a container where a Docker engine answers; otherwise a
/// broker in this process.
async fn start_kafka(scratch: &Arc<Scratch>) -> Result<KafkaServer, Failure> {
    if let Ok(bootstrap) = env::var(BOOTSTRAP_SERVERS) {
        return Ok(KafkaServer::at(&bootstrap));
    }
    if docker::available().await? {
        return containers::start_kafka(scratch).await;
    }
    KafkaServer::in_process()
}

/// The server of the environment; a container if a Docker engine answers; else a local one.
async fn start_postgres(scratch: &Arc<Scratch>) -> Result<PostgresServer, Failure> {
    if let Ok(url) = env::var(DATABASE_URL) {
        return PostgresServer::at(&url).await;
    }
    if docker::available().await? {
        return containers::start_postgres(scratch, containers::postgres()).await;
    }
    PostgresServer::local(scratch).await
}
