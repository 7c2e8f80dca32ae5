//! Describes what holds a commit up: the sessions that block it, or the state of its own
//! backend.

use std::time::{Duration, Instant};

use tokio_postgres::Error;

use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::ownership::backend::Backend;
use crate::postgres::timing;

const LOOK: Request = Request::to("find what blocks a commit in PostgreSQL");

/// The sessions that block `$1`. No text of a query, which may hold values of rows. A
/// prepared transaction has the pid 0 and no session. A role without `pg_read_all_stats`
/// sees only pid, role and program of another role's session.
const BLOCKERS: &str = "\
    select string_agg( \
        case when b.pid = 0 then 'a prepared transaction (see pg_prepared_xacts)' \
             else format('pid %s (%s)', b.pid, concat_ws(', ', \
                 'application_name ' || coalesce(nullif(a.application_name, ''), 'not set'), \
                 'role ' || a.usename, a.state, \
                 'statement started ' || \
                     round(extract(epoch from clock_timestamp() - a.query_start)) || ' s ago', \
                 'transaction started ' || \
                     round(extract(epoch from clock_timestamp() - a.xact_start)) || ' s ago')) end, '; ') \
    from (select distinct unnest(pg_blocking_pids($1))) b (pid) \
    left join pg_stat_activity a on a.pid = b.pid";

/// Wait event of `$1`, if it waits for no lock.
const AT: &str = "\
    select nullif(concat_ws(' ', wait_event_type, wait_event), '') \
    from pg_stat_activity where pid = $1";

/// Names the sessions that block `pid`, with their programs, roles, states and the ages of
/// statement and transaction. `None` if it waits for no lock.
pub(crate) async fn blockers(connection: &Connection, pid: i32) -> Result<Option<String>, Error> {
    connection.query_one(BLOCKERS, &[&pid]).await?.try_get(0)
}

async fn holdup(connection: &Connection, pid: i32) -> Result<String, Error> {
    if let Some(blockers) = blockers(connection, pid).await? {
        return Ok(format!("waiting for locks held by {blockers}"));
    }
    let at: Option<String> = match connection.query_opt(AT, &[&pid]).await? {
        Some(row) => row.try_get(0)?,
        None => None,
    };
    Ok(match at {
        Some(at) => format!("no lock blocks it; the server's wait event is {at}"),
        None => "no lock blocks it; the server is working on it".into(),
    })
}

/// A server that answers has not finished its work in time.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) waited: Duration,
    pub(crate) holdup: String,
}

/// Runs `work` on `working`. Gives it up when it is not done after `patience` although the
/// server answers other sessions. Waits for a server that does not answer: callers judge
/// that.
pub(crate) async fn unless_slow<T>(
    config: &Postgres,
    working: &Backend,
    patience: Option<Duration>,
    work: impl Future<Output = T>,
) -> Result<T, Slow> {
    let Some(mut wait) = patience else { return Ok(work.await) };
    let begun = Instant::now();
    tokio::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(wait, &mut work).await {
            return Ok(done);
        }
        let look = LOOK.limit(async {
            let connection = connect(config, "look").await?;
            LOOK.ask(holdup(&connection, working.pid())).await
        });
        let looked = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            looked = look => looked,
        };
        match looked {
            Ok(holdup) => return Err(Slow { waited: begun.elapsed(), holdup }),
            Err(error) => tracing::warn!(error = error.chain(), "a commit has no answer"),
        }
        wait = timing::LOOK;
    }
}
