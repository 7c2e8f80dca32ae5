//! Looks at the database now and then, on a connection of its own: whether it answers,
//! and how many dead letters are open. For readiness and metrics; the work does not
//! depend on it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::health::Health;
use crate::metrics;
use crate::postgres::config::DatabaseConfig;
use crate::postgres::connect::{ANSWER_TIMEOUT, Connection, answered, connect};
use crate::remedy;

/// How often it is asked whether it answers.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often open dead letters are counted: where many are open, that takes a while.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// A count that takes longer is given up by the server too: left running, it would keep
/// the next look waiting.
const STATEMENT_TIMEOUT: &str = "set statement_timeout = '5s'";

/// Both columns of `dead_letters` are a loader's to read.
const COUNT_OPEN: &str = "\
    select count(*) from dead_letters d join ingest_progress p using (lane) \
    where d.status = 'open' and p.pipeline = $1";

/// Tells `health` whether the database answers, and counts the open dead letters of
/// `pipeline`, for as long as it is polled.
pub async fn watch(config: &DatabaseConfig, pipeline: &str, health: &Health) -> Infallible {
    let need = health.need("PostgreSQL");
    let mut kept = None;
    let mut count_at = Instant::now();
    loop {
        match look(config, kept.take()).await {
            Ok(connection) => {
                need.met();
                if Instant::now() >= count_at {
                    count(&connection, pipeline).await;
                    count_at = Instant::now() + COUNT_EVERY;
                }
                kept = Some(connection);
            }
            Err(error) => need.missing(error.chain()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks over the connection that is kept, or over another one. Gives it back only if
/// it works.
async fn look(config: &DatabaseConfig, kept: Option<Connection>) -> Result<Connection, Error> {
    let connection = match kept.filter(|kept| !kept.is_closed()) {
        Some(kept) => kept,
        None => connect(config, "health").await?,
    };
    let answer = async {
        let answer = connection.batch_execute(STATEMENT_TIMEOUT).await;
        answer.map_err(|error| remedy::postgres(error, "run a query in PostgreSQL"))
    };
    answered(ANSWER_TIMEOUT, "run a query in PostgreSQL", answer).await?;
    Ok(connection)
}

async fn count(connection: &Connection, pipeline: &str) {
    let count = async {
        let counted = connection.query_one(COUNT_OPEN, &[&pipeline]).await;
        counted
            .and_then(|row| row.try_get::<_, i64>(0))
            .map_err(|error| remedy::own_tables(error, "count dead letters in PostgreSQL"))
    };
    match answered(ANSWER_TIMEOUT, "count dead letters in PostgreSQL", count).await {
        Ok(open) => metrics::open_dead_letters(pipeline, Some(open)),
        // There may be no tables yet; the work meets what matters by itself.
        Err(error) => {
            tracing::debug!(error = error.chain(), "open dead letters were not counted");
            metrics::open_dead_letters(pipeline, None);
        }
    }
}
