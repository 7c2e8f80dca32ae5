//! The sink on PostgreSQL and its parts: connections, the schema, ownership of lanes, the
//! commit, jobs with their attempts, dead letters.

mod commit;
pub mod connection;
mod counts;
pub mod dead_letters;
pub mod inspect;
pub mod jobs;
mod ownership;
mod progress;
pub(crate) mod remedy;
pub mod schema;
pub mod sink;
mod timing;
mod wire;

pub use self::connection::config::DatabaseConfig;
pub use self::connection::namespace::Schema;
pub use self::connection::tls::{SslMode, TlsSettings};
pub use self::connection::{Connection, connect};
pub use self::dead_letters::DeadLetters;
pub use self::inspect::watch::watch;
pub use self::jobs::{Job, Jobs};
pub use self::progress::{stream_lanes, stream_lanes_durably};
pub use self::sink::PostgresSink;
