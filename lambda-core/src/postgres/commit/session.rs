//! A pooled connection: its client, its backend's pid, and whether a
//! transaction is open on it.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::postgres::commit::statements::Statements;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::PREPARE;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::ownership::backend::Backend;
use crate::postgres::ownership::mark::Mark;
use crate::postgres::remedy;
use crate::postgres::schema::fit;

/// Session settings of a loader. Ordinary commits do not wait for the disk: progress is
/// stored with the data, so what a crash loses is read again (rule R5, docs/protocol.md). A
/// session that waits for a lock waits until it has terminated the holder (rule R13). Corrections
/// keep values as texts, which must be exact; times have the session's offset in them.
const SETTINGS: &str = "\
    set synchronous_commit = off; set plan_cache_mode = force_generic_plan; \
    set lock_timeout = 0; set extra_float_digits = 1; set datestyle = 'ISO, YMD'; \
    set array_nulls = on";

/// Query for the timeout in milliseconds; 0: none.
const STATEMENT_TIMEOUT: &str =
    "select setting::bigint from pg_settings where name = 'statement_timeout'";

/// One pooled connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its pipeline.
    pub(crate) pipeline: Pipeline,
    connection: Connection,
    /// Its backend.
    pub(crate) backend: Backend,
    /// Server's limit on the time of a statement, if any.
    pub(crate) statement_timeout: Option<Duration>,
    /// Prepared once for this connection.
    pub(crate) statements: Statements,
    /// Whether it must not be used again.
    retired: bool,
    /// Whether a commit has succeeded on it: its prepared statements were right once.
    seasoned: bool,
    /// True from `begin` until the acknowledged end. A session that is dropped or returned
    /// in between is closed, since nothing is committed after an error (rule R7,
    /// docs/protocol.md).
    in_transaction: bool,
}

impl Session {
    /// Its connection, for statements that are not prepared.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The client, for the prepared statements and COPY.
    pub(crate) fn client(&self) -> &Client {
        self.connection.client()
    }

    /// Has the pool open a new connection next: the failure may be due to this one's
    /// prepared statements.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether a commit has succeeded on it.
    pub(crate) fn is_seasoned(&self) -> bool {
        self.seasoned
    }

    /// Opens a transaction.
    pub(crate) async fn begin(&mut self, durable: bool) -> Result<(), tokio_postgres::Error> {
        self.in_transaction = true;
        let begin = if durable { "begin; set local synchronous_commit = on" } else { "begin" };
        self.connection.batch_execute(begin).await
    }

    /// Commits. An error means that the outcome is unknown (rule R6, docs/protocol.md), and
    /// leaves the session unfit for reuse.
    pub(crate) async fn commit(&mut self) -> Result<(), tokio_postgres::Error> {
        self.connection.batch_execute("commit").await?;
        self.in_transaction = false;
        self.seasoned = true;
        Ok(())
    }

    /// Rolls back; if even that fails, the session is unfit for reuse and the
    /// closed connection rolls back.
    pub(crate) async fn roll_back(&mut self) {
        if self.connection.batch_execute("rollback").await.is_ok() {
            self.in_transaction = false;
        }
    }
}

/// Creates [`Session`]s for a pool.
#[derive(Debug, Clone)]
pub(crate) struct SessionManager {
    /// The database.
    pub(crate) config: Postgres,
    /// Name shown in `pg_stat_activity`.
    pub(crate) purpose: String,
    /// Mark that decides whether others may terminate the session.
    pub(crate) mark: Option<Mark>,
    /// The pipeline whose statements are prepared.
    pub(crate) pipeline: Pipeline,
}

impl bb8::ManageConnection for SessionManager {
    type Connection = Session;
    type Error = Error;

    async fn connect(&self) -> Result<Session, Error> {
        let connection = connect(&self.config, &self.purpose).await?;
        let failed = |error| PREPARE.failed(error);
        let prepare = async {
            connection.batch_execute(SETTINGS).await.map_err(failed)?;
            if let Some(mark) = self.mark {
                mark.put(&connection).await.map_err(failed)?;
            }
            fit::check(&connection, self.pipeline.table()).await?;
            let backend = Backend::of(&connection).await.map_err(failed)?;
            let limit = connection.query_one(STATEMENT_TIMEOUT, &[]).await;
            let limit: i64 = limit.and_then(|row| row.try_get(0)).map_err(failed)?;
            let statements = Statements::prepare(&connection, &self.pipeline).await;
            Ok((backend, limit, statements.map_err(failed)?))
        };
        let (backend, limit, statements) = PREPARE.limit(prepare).await?;
        if statements.key_indexes.is_empty() {
            let table = self.pipeline.table();
            let key = table.key_names().join(", ");
            return Err(Error::misconfigured(
                format!("{table} has no unique index on ({key})"),
                "create a unique index on exactly these columns that is not deferrable, partial or \
                 invalid, and whose collations are deterministic",
            ));
        }
        let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        Ok(Session {
            pipeline: self.pipeline.clone(),
            connection,
            backend,
            statement_timeout: limit.map(Duration::from_millis),
            statements,
            retired: false,
            seasoned: false,
            in_transaction: false,
        })
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), Error> {
        let ping = session.connection().batch_execute("").await;
        ping.map_err(|error| remedy::explain(error, "run a query in PostgreSQL"))
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.retired || session.in_transaction || session.connection().is_closed()
    }
}
