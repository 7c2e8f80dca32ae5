//! The sink on PostgreSQL, and what it needs: connections, migrations, claims,
//! the commit, jobs with their leases.

mod claim;
mod commit;
pub mod config;
pub mod connect;
mod copy;
mod dead_letters;
mod evict;
pub mod jobs;
mod lanes;
pub mod lease;
pub mod migrate;
mod probe;
mod raw;
pub mod restore;
pub mod roles;
mod session;
pub mod sink;
mod statements;
mod supersede;
mod watch;

pub use self::config::DatabaseConfig;
pub use self::connect::{Connection, connect};
pub use self::jobs::{Job, Jobs};
pub use self::lanes::{stream_lanes, stream_lanes_durably};
pub use self::sink::PostgresSink;
pub use self::watch::watch;
