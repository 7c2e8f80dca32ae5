//! Our own backends: which one serves a connection, whether it still works for us, and how
//! to terminate it when its connection is lost.

use tokio_postgres::Error;

use crate::metrics::{self, Eviction};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::timing;

const LOOK: Request = Request::to("read a session's state in PostgreSQL");

/// Number of consecutive equal looks after which the connection counts as silent.
const LOOKS: u32 = 2;

/// The same with `track_activities = off`, where a look does not show progress since the
/// last one.
const BLIND_LOOKS: u32 = 6;

/// A backend. Its start time distinguishes it from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pid: i32,
    started: String,
}

impl Backend {
    /// Finds the backend that serves `client`.
    pub(crate) async fn of(connection: &Connection) -> Result<Self, Error> {
        let sql =
            "select pid, backend_start::text from pg_stat_activity where pid = pg_backend_pid()";
        let row = connection.query_one(sql, &[]).await?;
        Ok(Self { pid: row.try_get(0)?, started: row.try_get(1)? })
    }

    /// Terminates this backend from another connection, and waits until it is gone. Does
    /// nothing if it is already gone.
    pub(crate) async fn end(&self, connection: &Connection) -> Result<(), Error> {
        let sql = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                   where pid = $1 and backend_start::text = $2";
        let ended = connection.query(sql, &[&self.pid, &self.started]).await?;
        metrics::evicted(Eviction::Own, ended.len());
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it waits for our next message, or is gone.
    async fn awaits_us(&self, connection: &Connection) -> Result<Option<Waiting>, Error> {
        let sql = "select concat_ws(' ', 'waiting', state_change, bytes_processed), \
                          state_change is not null, wait_event_type = 'Client' \
                   from pg_stat_activity left join pg_stat_progress_copy using (pid) \
                   where pid = $1 and backend_start::text = $2";
        let Some(row) = connection.query_opt(sql, &[&self.pid, &self.started]).await? else {
            return Ok(Some(Waiting { at: "gone".into(), tracked: true }));
        };
        let waiting = Waiting { at: row.try_get(0)?, tracked: row.try_get(1)? };
        Ok(row.try_get::<_, Option<bool>>(2)?.unwrap_or_default().then_some(waiting))
    }
}

/// State of a backend that waits for us. It stays the same as long as nothing moves.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    at: String,
    /// Whether `at` would show progress.
    tracked: bool,
}

impl Waiting {
    /// Number of looks that must find it.
    fn looks(&self) -> u32 {
        if self.tracked { LOOKS } else { BLIND_LOOKS }
    }
}

/// The connection no longer carries messages from one side to the other.
#[derive(Debug)]
pub(crate) struct Silent;

/// Runs `work`, which talks to `working`. Gives it up when that has waited for us at
/// several looks in a row without progress.
pub(crate) async fn unless_silent<T>(
    config: &Postgres,
    working: &Backend,
    work: impl Future<Output = T>,
) -> Result<T, Silent> {
    tokio::pin!(work);
    let (mut seen, mut looks) = (None, 0);
    loop {
        if let Ok(done) = tokio::time::timeout(timing::LOOK, &mut work).await {
            return Ok(done);
        }
        let look = LOOK.limit(async {
            let connection = connect(config, "look").await?;
            LOOK.ask(working.awaits_us(&connection)).await
        });
        let found = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            found = look => found,
        };
        match found {
            Ok(now) => {
                looks = if seen == now { looks + 1 } else { 1 };
                let needed = now.as_ref().map_or(u32::MAX, Waiting::looks);
                if looks >= needed {
                    return Err(Silent);
                }
                seen = now;
            }
            Err(error) => tracing::warn!(error = error.chain(), "a commit has no answer"),
        }
    }
}
