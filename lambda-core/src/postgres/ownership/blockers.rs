//! Terminates the sessions of loaders that keep one of ours waiting: a process that is
//! frozen or cut off inside COPY FROM STDIN keeps its locks until `pg_terminate_backend`
//! frees them (rule R13, docs/protocol.md).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::metrics::{self, Eviction};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::ownership::backend::Backend;
use crate::postgres::ownership::holdup;
use crate::postgres::ownership::mark::{Mark, marked};
use crate::postgres::timing;

/// The function that terminates a loader's session with the rights of the schema's owner.
pub(crate) const END_LOADER: &str = "lambda.end_loader(integer, text)";

const END: Request = Request::to("terminate a session in PostgreSQL");

/// Conditions for terminating a session that blocks one of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Interval between looks.
    pub(crate) every: Duration,
    /// Minimum wait of our session.
    pub(crate) waited: Duration,
    /// Minimum age of the other transaction.
    pub(crate) older_than: Duration,
}

impl Terms {
    /// Uses the same time for all three.
    pub(crate) const fn of(time: Duration) -> Self {
        Self { every: time, waited: time, older_than: time }
    }
}

/// Transactions that were seen to block one of ours, with the first and the last time.
/// PostgreSQL hides the age of a transaction from other logins, and with `track_activities
/// = off` from every role.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<Blocker, (Instant, Instant)>>);

/// A loader's session and its transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Blocker {
    pid: i32,
    transaction: String,
}

impl Seen {
    /// Notes that `blocker` blocks us now. Returns for how long it has done so.
    fn note(&self, blocker: &Blocker) -> Duration {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, (_, last)| now - *last < timing::BLOCKER_REMEMBERED);
        let (first, last) = seen.entry(blocker.clone()).or_insert((now, now));
        *last = now;
        now - *first
    }
}

impl Blocker {
    /// Returns the loaders that `waiting` waits for, and the age of their transactions
    /// where the server shows it. This includes loaders that a claim waits for: an
    /// abandoned claim keeps its place in the lock queue, before ours.
    async fn of(
        waiting: &Backend,
        connection: &Connection,
    ) -> Result<Vec<(Self, Option<Duration>)>, tokio_postgres::Error> {
        let sql = format!(
            "with recursive marked as materialized ({}), blocking (pid) as ( \
                 select unnest(pg_blocking_pids($1)) \
                 union select unnest(pg_blocking_pids(pid)) \
                       from blocking join marked using (pid) where mark = $2) \
             select pid, transaction, \
                    extract(epoch from clock_timestamp() - xact_start)::float8 as age \
             from blocking join marked using (pid) left join pg_stat_activity using (pid) \
             where mark = $3",
            marked()
        );
        let parameters: [&(dyn ToSql + Sync); 3] =
            [&waiting.pid(), &(Mark::Claim as i32), &(Mark::Loader as i32)];
        let rows = connection.query(&sql, &parameters).await?;
        let read = |row: &Row| {
            let blocker =
                Self { pid: row.try_get("pid")?, transaction: row.try_get("transaction")? };
            let age: Option<f64> = row.try_get("age")?;
            Ok((blocker, age.and_then(|age| Duration::try_from_secs_f64(age).ok())))
        };
        rows.iter().map(read).collect()
    }

    /// Terminates its session, if that is still in the same transaction.
    ///
    /// A role may terminate its own sessions. Those of another login need a function that
    /// runs as the schema's owner and terminates only loaders.
    async fn end(&self, connection: &Connection) -> Result<(), Error> {
        let own = format!(
            "select pg_terminate_backend(pid, 1000) \
             from ({}) marked join pg_stat_activity using (pid) \
             where pid = $1 and transaction = $2 and mark = $3 and pg_has_role(usesysid, 'usage')",
            marked()
        );
        let mark = Mark::Loader as i32;
        let own = connection.query(&own, &[&self.pid, &self.transaction, &mark]).await;
        if own.map_err(ending)?.is_empty() {
            let other = "select lambda.end_loader($1, $2)";
            connection.execute(other, &[&self.pid, &self.transaction]).await.map_err(ending)?;
        }
        Ok(())
    }
}

/// Converts an error met while terminating another session.
fn ending(error: tokio_postgres::Error) -> Error {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return END.failed(error);
    }
    Error::Misconfigured {
        what: "could not terminate the session of a loader that logged in under another name"
            .into(),
        remedy: "run lambda-db-setup; if that does not help, grant pg_signal_backend to the \
                 owner of the schema"
            .into(),
        source: error.as_db_error().map(|error| error.message().into()),
    }
}

/// Runs `work`, which waits at `waiting`, and terminates the loaders that block it, by
/// these `terms`.
pub(crate) async fn ending_blockers<T>(
    config: &Postgres,
    waiting: &Backend,
    terms: Terms,
    seen: &Seen,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    let begun = Instant::now();
    let mut kept = None;
    loop {
        if let Ok(done) = tokio::time::timeout(terms.every, &mut work).await {
            return done;
        }
        let waited = begun.elapsed() >= terms.waited;
        let look = END.limit(async {
            let connection = match kept.take() {
                Some(connection) => connection,
                None => connect(config, "evict").await?,
            };
            let looked = look(&connection, waiting, terms, waited, seen).await;
            if looked.is_ok() {
                kept = Some(connection);
            }
            looked
        });
        tokio::pin!(look);
        let looked = tokio::select! {
            biased;
            done = &mut work => {
                // This look may have terminated the blocker, and report that a little
                // later.
                if let Ok(looked) = tokio::time::timeout(timing::LAST_LOOK, &mut look).await {
                    report(looked);
                }
                return done;
            }
            looked = &mut look => looked,
        };
        report(looked);
    }
}

/// Result of a look at the sessions that block us.
enum Look {
    /// Number of loaders' sessions that were terminated.
    Ended(usize),
    /// These stay: they are not loaders (an operator's replay, a migration), or not yet
    /// due.
    Waiting { blockers: Option<String>, long: bool },
}

async fn look(
    connection: &Connection,
    waiting: &Backend,
    terms: Terms,
    waited: bool,
    seen: &Seen,
) -> Result<Look, Error> {
    const FIND: Request = Request::to("find the holders of a lock in PostgreSQL");
    let failed = |error| FIND.failed(error);
    let mut ended = 0;
    for (blocker, age) in Blocker::of(waiting, connection).await.map_err(failed)? {
        let blocks = seen.note(&blocker);
        let old = waited && age.is_some_and(|age| age >= terms.older_than);
        if old || blocks >= terms.older_than {
            blocker.end(connection).await?;
            ended += 1;
        }
    }
    if ended > 0 {
        return Ok(Look::Ended(ended));
    }
    let blockers = holdup::blockers(connection, waiting.pid()).await.map_err(failed)?;
    Ok(Look::Waiting { blockers, long: waited })
}

fn report(looked: Result<Look, Error>) {
    match looked {
        Ok(Look::Waiting { blockers: None, .. }) => tracing::debug!("waiting, but for no lock"),
        Ok(Look::Waiting { blockers: Some(blockers), long: false }) => {
            tracing::debug!(blockers, "waiting for locks");
        }
        Ok(Look::Waiting { blockers: Some(blockers), long: true }) => tracing::warn!(
            blockers,
            "waiting for locks of these sessions; if they hang, terminate them with pg_terminate_backend"
        ),
        Ok(Look::Ended(ended)) => {
            tracing::warn!(ended, "terminated sessions of loaders that held locks");
            metrics::evicted(Eviction::Blocker, ended);
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "could not terminate the blocking sessions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker(transaction: &str) -> Blocker {
        Blocker { pid: 7, transaction: transaction.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transactions_age_counts_from_the_first_time_it_was_seen() {
        let seen = Seen::default();
        assert_eq!(seen.note(&blocker("3/1")), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(seen.note(&blocker("3/1")), Duration::from_secs(30));
        assert_eq!(seen.note(&blocker("3/2")), Duration::ZERO);
        tokio::time::advance(timing::BLOCKER_REMEMBERED).await;
        assert_eq!(seen.note(&blocker("3/1")), Duration::ZERO, "it was forgotten");
    }
}
