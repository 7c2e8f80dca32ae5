//! The sink on PostgreSQL, and what it needs: connections, migrations, claims,
//! the commit, jobs with their leases.

pub mod config;
pub mod connect;
pub mod migrate;

pub use self::config::DatabaseConfig;
pub use self::connect::{Connection, connect};
