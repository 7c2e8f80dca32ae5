//! The protocol's schema: migrations, the registry of pipelines, roles with their grants, the
//! comparison of a table with its record type, and the adoption of a restored database.

mod adopt;
pub mod catalog;
pub(crate) mod fit;
pub mod migrate;
pub mod registry;
pub mod restore;
pub mod roles;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::postgres::connection::config::Postgres;

impl Postgres {
    /// Prepares a database for pipelines, whose tables are created by other means: applies the
    /// protocol's migrations in a schema of their own, registers the pipelines, and adopts a
    /// database that was restored into another cluster. Safe to run again, and several times
    /// at once.
    ///
    /// ```no_run
    /// use lambda_core::{Postgres, transaction};
    ///
    /// # async fn run() -> Result<(), lambda_core::Error> {
    /// let postgres = Postgres::new("postgresql://owner@localhost/app")?;
    /// postgres.set_up(&[&transaction::pipeline()]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Transient` or `Fatal`, as for [`connect`](crate::postgres::connect); `Fatal` when a
    /// migration fails, or when a pipeline's table has another one.
    pub async fn set_up(&self, pipelines: &[&Pipeline]) -> Result<(), Error> {
        migrate::PROTOCOL.migrate(self).await?;
        registry::register(self, pipelines).await?;
        restore::adopt(self).await.map(drop)
    }
}

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
