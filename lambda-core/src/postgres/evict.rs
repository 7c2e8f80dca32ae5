//! Ends backends of processes that are frozen or gone, which hold locks for
//! ever otherwise: from a backend inside COPY FROM STDIN only
//! `pg_terminate_backend` frees them (R13).

use tokio_postgres::{Client, Error};

use crate::postgres::config::APPLICATION_PREFIX;

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
        client.query(sql, &[&self.pid, &self.started]).await.map(drop)
    }

    /// Ends the loaders' backends of our own role that this one waits for, and
    /// tells how many. Claims are spared: they wait for each other briefly.
    pub(super) async fn end_blockers(&self, client: &Client) -> Result<usize, Error> {
        let sql = "select pg_terminate_backend(pid, 1000) from pg_stat_activity \
                   where pid = any(pg_blocking_pids($1)) and usename = current_user \
                     and application_name like $2 and application_name <> $3";
        let loaders = format!("{APPLICATION_PREFIX}-%");
        let ended = client.query(sql, &[&self.pid, &loaders, &claim_application()]).await?;
        Ok(ended.len())
    }
}

fn claim_application() -> String {
    format!("{APPLICATION_PREFIX}-{}", super::claim::PURPOSE)
}
