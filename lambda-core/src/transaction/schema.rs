//! The platform's own tables and views in a database: their migrations and what readers see.

use crate::error::Error;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::connect;
use crate::postgres::connection::request::Request;
use crate::postgres::inspect::schema::Objects;
use crate::postgres::schema::migrate::History;
use crate::postgres::schema::registry;
use crate::transaction;

mod embedded {
    refinery::embed_migrations!("src/transaction/migrations");
}

/// Migrations of the platform's tables and views. Those of the protocol precede them.
pub const PLATFORM: History =
    History::new("lambda.platform_migrations", embedded::migrations::runner);

/// Relations that readers see, in addition to the protocol's tables and those of pipelines.
pub const READABLE: [&str; 5] = [
    "lambda.serving",
    "public.account_activity",
    "public.account_activity_batch",
    "public.account_activity_realtime",
    "public.batch_jobs",
];

/// The objects that these migrations create.
pub const OBJECTS: Objects = Objects {
    relations: &[
        "lambda.serving",
        "public.account_activity",
        "public.account_activity_batch",
        "public.account_activity_realtime",
        "public.batch_jobs",
        "public.transactions",
    ],
    indexes: &[
        ("public.account_activity_batch", "account_activity_batch_day"),
        ("public.account_activity_realtime", "account_activity_realtime_day_idx"),
        ("public.transactions", "transactions_event_time"),
        ("public.transactions", "transactions_written_xid"),
    ],
    constraints: &[
        ("lambda.serving", "serving_one_check"),
        ("lambda.serving", "serving_pkey"),
        ("public.account_activity_batch", "account_activity_batch_pkey"),
        ("public.account_activity_realtime", "account_activity_realtime_pkey"),
        ("public.transactions", "transactions_check"),
        ("public.transactions", "transactions_pkey"),
    ],
};

/// Applies the migrations that a database lacks, returns their names, and registers the
/// pipeline. Safe to run several times at once.
///
/// # Errors
/// `Fatal` when an application has a relation of one of our names; otherwise as for
/// [`History::migrate`].
pub async fn migrate(config: &Postgres) -> Result<Vec<String>, Error> {
    const LOOK: Request = Request::to("look for tables of others in PostgreSQL");
    let connection = connect(config, "setup").await?;
    if PLATFORM.applied(&connection).await? == Some(0) {
        let sql = "\
            select name from unnest($1::text[]) as name \
            where name like 'public.%' and to_regclass(name) is not null limit 1";
        let names = OBJECTS.relations;
        let found = LOOK.ask(connection.query_opt(sql, &[&names])).await?;
        // Another setup may have created it since the first look, with its version.
        if let Some(row) = found
            && PLATFORM.applied(&connection).await? == Some(0)
        {
            let name: String = row.try_get(0).map_err(|error| LOOK.failed(error))?;
            return Err(Error::misconfigured(
                format!("{name} exists already, and is not the platform's"),
                "use another database for the pipeline transactions; if a setup with another DB_SCHEMA \
                 made it, set that one",
            ));
        }
    }
    drop(connection);
    let applied = PLATFORM.migrate(config).await?;
    registry::register(config, &[&transaction::pipeline()]).await?;
    Ok(applied)
}
