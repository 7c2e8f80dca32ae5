//! PostgreSQL and Kafka for the demo and, with the feature `tests`, for tests. All are removed
//! when their holder is dropped or this process dies.

#[cfg(feature = "tests")]
pub mod certificates;
#[cfg(feature = "tests")]
mod containers;
#[cfg(feature = "tests")]
pub mod docker;
pub mod kafka;
pub mod local_postgres;
pub mod login;
#[cfg(feature = "tests")]
pub mod own;
pub mod owner;
#[cfg(feature = "tests")]
pub mod pgbouncer;
pub mod postgres;
pub mod scratch;
#[cfg(feature = "tests")]
pub mod secured_kafka;
#[cfg(feature = "tests")]
pub mod shared;
pub mod tools;

pub use self::kafka::KafkaServer;
#[cfg(feature = "tests")]
pub use self::own::{OwnKafka, OwnPostgres, SmallDiskPostgres};
#[cfg(feature = "tests")]
pub use self::pgbouncer::PgBouncer;
pub use self::postgres::{Database, PostgresServer};
pub use self::scratch::Scratch;
#[cfg(feature = "tests")]
pub use self::secured_kafka::SecuredKafka;
#[cfg(feature = "tests")]
pub use self::shared::Servers;
