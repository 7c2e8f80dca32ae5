//! The protocol's schema: migrations, the registry of pipelines, roles with their grants, the
//! comparison of a table with its record type, and the adoption of a restored database.

pub(crate) mod fit;
pub mod migrate;
pub mod registry;
pub mod restore;
pub mod roles;

/// The protocol's tables.
pub const TABLES: [&str; 7] = [
    "lambda.batch_jobs",
    "lambda.corrections",
    "lambda.dead_letters",
    "lambda.ingest_progress",
    "lambda.job_numbers",
    "lambda.pipelines",
    "lambda.xid_offset",
];
