//! PostgreSQL and Kafka for tests and the demo. Each is looked for in an order
//! that ends with something every machine has, started when first asked for,
//! and gone when [`Servers`] is dropped or its process dies.

pub mod certificates;
pub mod docker;
pub mod kafka;
pub mod local_postgres;
pub mod login;
pub mod own;
pub mod pgbouncer;
pub mod postgres;
pub mod scratch;
pub mod secured_kafka;
pub mod tools;

use std::sync::Arc;

use tokio::sync::OnceCell;

pub use self::kafka::Kafka;
pub use self::own::{OwnKafka, OwnPostgres, SmallDiskPostgres};
pub use self::pgbouncer::PgBouncer;
pub use self::postgres::{Database, Postgres};
pub use self::scratch::Scratch;
pub use self::secured_kafka::SecuredKafka;
use crate::Failure;

/// The servers of one process, each started at most once.
#[derive(Debug)]
pub struct Servers {
    // Fields are dropped in this order: servers before the folder they write to.
    postgres: OnceCell<Result<Postgres, String>>,
    kafka: OnceCell<Result<Kafka, String>>,
    scratch: Arc<Scratch>,
}

impl Servers {
    /// No server yet, and the folder for what they write.
    ///
    /// # Errors
    /// When the temporary folder cannot be made.
    pub fn new() -> Result<Self, Failure> {
        let scratch = Arc::new(Scratch::new()?);
        Ok(Self { postgres: OnceCell::new(), kafka: OnceCell::new(), scratch })
    }

    /// The folder that goes away with this process.
    pub fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// PostgreSQL, started if need be.
    ///
    /// # Errors
    /// When none could be started; the same error for everybody who asks.
    pub async fn postgres(&self) -> Result<&Postgres, Failure> {
        let start = async || Postgres::start(&self.scratch).await.map_err(|e| crate::chain(&*e));
        let started = self.postgres.get_or_init(start).await;
        started.as_ref().map_err(|error| format!("no PostgreSQL: {error}").into())
    }

    /// Kafka, or something that speaks like it, started if need be.
    ///
    /// # Errors
    /// When none could be started; the same error for everybody who asks.
    pub async fn kafka(&self) -> Result<&Kafka, Failure> {
        let start = async || Kafka::start(&self.scratch).await.map_err(|e| crate::chain(&*e));
        let started = self.kafka.get_or_init(start).await;
        started.as_ref().map_err(|error| format!("no Kafka: {error}").into())
    }

    /// Removes what servers that are not ours would keep.
    pub async fn close(&self) {
        if let Some(Ok(postgres)) = self.postgres.get() {
            postgres.close().await;
        }
    }
}
