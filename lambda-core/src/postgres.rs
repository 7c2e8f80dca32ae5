//! The sink on PostgreSQL and its parts: connections, migrations, claims, the commit, jobs
//! with their leases.

pub mod attempt;
mod blockers;
mod claim;
mod commit;
pub mod config;
pub mod connect;
mod copy;
pub mod dead_letters;
mod evict;
mod fit;
mod holdup;
mod insert;
pub mod inspect;
pub mod jobs;
mod lanes;
mod mark;
pub mod migrate;
mod probe;
mod raw;
pub mod restore;
pub mod roles;
mod rows;
mod session;
pub mod sink;
mod statements;
mod supersede;
pub mod tls;
mod url;
mod watch;

pub use self::config::DatabaseConfig;
pub use self::connect::{Connection, connect};
pub use self::dead_letters::DeadLetters;
pub use self::jobs::{Job, Jobs};
pub use self::lanes::{stream_lanes, stream_lanes_durably};
pub use self::sink::PostgresSink;
pub use self::tls::{SslMode, TlsSettings};
pub use self::watch::watch;
