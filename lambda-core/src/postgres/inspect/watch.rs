//! Checks the database at intervals, on its own connection: whether it answers, and how
//! many dead letters are open. It serves readiness and metrics; the work does not depend on
//! it.

use std::convert::Infallible;

use tokio::time::Instant;

use crate::error::Error;
use crate::health::Health;
use crate::metrics;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::timing;

/// A loader may read both columns of `dead_letters`.
const COUNT_OPEN: &str = "\
    select count(*) from lambda.dead_letters d join lambda.ingest_progress p using (lane) \
    where d.status = 'open' and p.pipeline = $1";

/// Reports to `health` whether the database answers, and counts the open dead letters of
/// `pipeline`, for as long as it is polled.
///
/// ```no_run
/// use lambda_core::health::Health;
/// use lambda_core::{Postgres, Stop, postgres};
///
/// # async fn run(stop: Stop) -> Result<(), lambda_core::Error> {
/// let database = Postgres::new("postgresql://loader@localhost/app")?;
/// let health = Health::default();
/// tokio::select! {
///     never = postgres::watch(&database, "readings", &health) => match never {},
///     () = stop.stopped() => {}
/// }
/// # Ok(())
/// # }
/// ```
pub async fn watch(config: &Postgres, pipeline: &str, health: &Health) -> Infallible {
    let need = health.need("PostgreSQL");
    let mut kept = None;
    let mut count_at = Instant::now();
    loop {
        match look(config, kept.take()).await {
            Ok(connection) => {
                need.met();
                if Instant::now() >= count_at {
                    count(&connection, pipeline).await;
                    count_at = Instant::now() + timing::COUNT;
                }
                kept = Some(connection);
            }
            Err(error) => need.missing(error.chain()),
        }
        tokio::time::sleep(timing::HEALTH).await;
    }
}

/// Checks over the existing connection, or opens another one. Returns it only if it works.
async fn look(config: &Postgres, kept: Option<Connection>) -> Result<Connection, Error> {
    let connection = match kept.filter(|kept| !kept.is_closed()) {
        Some(kept) => kept,
        None => connect(config, "health").await?,
    };
    let limit = timing::set("statement_timeout", timing::COUNT_STATEMENT);
    Request::to("run a query in PostgreSQL").ask(connection.batch_execute(&limit)).await?;
    Ok(connection)
}

async fn count(connection: &Connection, pipeline: &str) {
    let count =
        async { connection.query_one(COUNT_OPEN, &[&pipeline]).await?.try_get::<_, i64>(0) };
    match Request::to("count dead letters in PostgreSQL").of_own_tables().ask(count).await {
        Ok(open) => metrics::open_dead_letters(pipeline, Some(open)),
        // There may be no tables yet; the work reports important errors by itself.
        Err(error) => {
            tracing::debug!(error = error.chain(), "could not count open dead letters");
            metrics::open_dead_letters(pipeline, None);
        }
    }
}
