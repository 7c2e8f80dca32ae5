//! Migrations: lowercase SQL files, applied in order, once.

use crate::error::Error;
use crate::postgres::config::DatabaseConfig;
use crate::postgres::connect::connect;
use crate::remedy;

/// Key of the advisory lock that lets one migration run at a time; refinery
/// itself takes none.
const MIGRATION_LOCK: i64 = 0x6c61_6d62_6461_0001;

/// Where refinery keeps which migrations were applied.
pub(super) const MIGRATIONS: &str = "refinery_schema_history";

mod embedded {
    refinery::embed_migrations!("src/postgres/migrations");
}

/// Brings the database's schema up to date, and tells the names of the
/// migrations it applied. Safe to run at the same time from several places.
///
/// # Errors
/// `Transient` or `Fatal`, as for [`connect`]; `Fatal` when a migration fails.
pub async fn migrate(config: &DatabaseConfig) -> Result<Vec<String>, Error> {
    let mut connection = connect(config, "migrate").await?;
    connection
        .execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK])
        .await
        .map_err(|error| remedy::postgres(error, "take the migration lock"))?;
    let report =
        embedded::migrations::runner().run_async(&mut *connection).await.map_err(|error| {
            Error::Misconfigured {
                what: "a migration failed".into(),
                remedy: "the schema is as it was before that migration; see the cause".into(),
                source: Some(Box::new(error)),
            }
        })?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}
