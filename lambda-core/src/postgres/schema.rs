//! The database's schema: migrations, roles with their grants, the comparison of a table with
//! its record type, and the adoption of a restored database.

pub(crate) mod fit;
pub mod migrate;
pub mod restore;
pub mod roles;

/// The platform's tables and views.
pub const TABLES: [&str; 11] = [
    "account_activity",
    "account_activity_batch",
    "account_activity_realtime",
    "batch_jobs",
    "corrections",
    "dead_letters",
    "ingest_progress",
    "job_numbers",
    "serving",
    "transactions",
    "xid_offset",
];
