//! Ends backends of processes that are frozen or gone, which hold locks for
//! ever otherwise: from a backend inside COPY FROM STDIN only
//! `pg_terminate_backend` frees them (R13).

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::metrics::{self, Eviction};
use crate::postgres::config::{APPLICATION_PREFIX, DatabaseConfig};
use crate::postgres::connect::{ANSWER_TIMEOUT, answered, connect};
use crate::postgres::holdup;
use crate::remedy;

/// How often the server is asked whether it still works for us.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long what is done waits for a look that is under way, to tell what that did.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A backend. Its start tells it from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pid: i32,
    started: String,
}

impl Backend {
    /// The backend that serves `client`.
    pub(super) async fn of(client: &Client) -> Result<Self, Error> {
        let sql =
            "select pid, backend_start::text from pg_stat_activity where pid = pg_backend_pid()";
        let row = client.query_one(sql, &[]).await?;
        Ok(Self { pid: row.try_get(0)?, started: row.try_get(1)? })
    }

    /// Ends this backend from another connection, and waits until it is gone.
    /// Does nothing if it is gone already.
    pub(super) async fn end(&self, client: &Client) -> Result<(), Error> {
        let sql = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                   where pid = $1 and backend_start::text = $2";
        let ended = client.query(sql, &[&self.pid, &self.started]).await?;
        metrics::evicted(Eviction::Own, ended.len());
        Ok(())
    }

    /// What it is at, if that is up to us: it waits for our next word, or is gone.
    /// As long as nothing moves, this is the same.
    async fn awaits_us(&self, client: &Client) -> Result<Option<String>, Error> {
        let sql = "select case when wait_event_type = 'Client' \
                               then concat_ws(' ', 'waiting', state_change, bytes_processed) end \
                   from pg_stat_activity left join pg_stat_progress_copy using (pid) \
                   where pid = $1 and backend_start::text = $2";
        match client.query_opt(sql, &[&self.pid, &self.started]).await? {
            Some(row) => row.try_get(0),
            None => Ok(Some("gone".into())),
        }
    }

    /// Ends the loaders' backends of our own role that this one waits for and whose
    /// transactions are `older_than` that, and tells how many. Claims are spared, since
    /// they wait briefly, but not whom they wait for: a claim that was given up goes on
    /// waiting in the server, and stands before that one.
    pub(super) async fn end_blockers(
        &self,
        client: &Client,
        older_than: Duration,
    ) -> Result<usize, Error> {
        let sql = "with recursive blocking (pid) as ( \
                       select unnest(pg_blocking_pids($1)) \
                       union select unnest(pg_blocking_pids(pid)) \
                             from blocking join pg_stat_activity using (pid) \
                             where application_name = $3) \
                   select pg_terminate_backend(pid, 1000) \
                   from blocking join pg_stat_activity using (pid) \
                   where usename = current_user \
                     and application_name like $2 and application_name <> $3 \
                     and xact_start < clock_timestamp() - make_interval(secs => $4)";
        let loaders = format!("{APPLICATION_PREFIX}-%");
        let seconds = older_than.as_secs_f64();
        let ended =
            client.query(sql, &[&self.pid, &loaders, &claim_application(), &seconds]).await?;
        Ok(ended.len())
    }

    /// The process id, which another backend may have later.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

/// The connection does not carry what one side says to the other any more.
#[derive(Debug)]
pub(super) struct Silent;

/// Runs `work`, which talks to `working`, and gives it up when that has waited for
/// us at two looks in a row and nothing has moved in between.
pub(super) async fn unless_silent<T>(
    config: &DatabaseConfig,
    working: &Backend,
    work: impl Future<Output = T>,
) -> Result<T, Silent> {
    tokio::pin!(work);
    let mut seen = None;
    loop {
        if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut work).await {
            return Ok(done);
        }
        let look = answered(ANSWER_TIMEOUT, "tell what a backend does", async {
            let client = connect(config, "look").await?;
            let found = working.awaits_us(&client).await;
            found.map_err(|error| remedy::postgres(error, "tell what a backend does"))
        });
        let found = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            found = look => found,
        };
        match found {
            Ok(Some(now)) if seen.as_ref() == Some(&now) => return Err(Silent),
            Ok(now) => seen = now,
            Err(error) => tracing::warn!(error = error.chain(), "a commit is not answered"),
        }
    }
}

/// Runs `work`, which goes on at `waiting`, and as long as it has not ended looks
/// `every` so often what blocks it: loaders with transactions `older_than` that are
/// ended.
pub(super) async fn ending_blockers<T>(
    config: &DatabaseConfig,
    waiting: &Backend,
    every: Duration,
    older_than: Duration,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(every, &mut work).await {
            return done;
        }
        // Boxed: large, and rarely needed.
        let mut look = Box::pin(answered(ANSWER_TIMEOUT, "end a backend", async {
            let client = connect(config, "evict").await?;
            let look = async {
                match waiting.end_blockers(&client, older_than).await? {
                    0 => holdup::blockers(&client, waiting.pid).await.map(Look::Waiting),
                    ended => Ok(Look::Ended(ended)),
                }
            };
            look.await.map_err(|error| remedy::postgres(error, "end a backend"))
        }));
        let looked = tokio::select! {
            biased;
            done = &mut work => {
                // What it waited for may have been ended by this very look, which then
                // hears of it a little later.
                if let Ok(looked) = tokio::time::timeout(LAST_WORDS, look).await {
                    tell(looked);
                }
                return done;
            }
            looked = &mut look => looked,
        };
        tell(looked);
    }
}

/// What came of a look at what blocks us.
enum Look {
    /// So many backends of loaders were ended.
    Ended(usize),
    /// These may not be ended by us: what another role runs (an operator's replay), or
    /// what is not old enough.
    Waiting(Option<String>),
}

fn tell(looked: Result<Look, crate::error::Error>) {
    match looked {
        Ok(Look::Waiting(None)) => tracing::debug!("waiting, but for no lock"),
        Ok(Look::Waiting(Some(blockers))) => tracing::warn!(
            blockers,
            "waiting for locks that others hold; if they hang, end them by pg_terminate_backend"
        ),
        Ok(Look::Ended(ended)) => {
            tracing::warn!(ended, "ended backends of loaders that held locks");
            metrics::evicted(Eviction::Blocker, ended);
        }
        Err(error) => tracing::warn!(error = error.chain(), "cannot end what blocks us"),
    }
}

fn claim_application() -> String {
    format!("{APPLICATION_PREFIX}-{}", super::claim::PURPOSE)
}
