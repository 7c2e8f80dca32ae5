//! One connection: a client whose background task ends with it.

pub mod config;
mod logins;
pub(crate) mod namespace;
pub(crate) mod request;
pub mod tls;
mod url;

use std::ops::Deref;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, RowStream, Statement};

use self::config::Postgres;
use self::logins::Login;
use self::namespace::Schema;
use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind, Server, causes};
use crate::postgres::{remedy, timing};

/// The protocol needs this level; a role or a database may have another default. Statements
/// that need a snapshot set their own level.
const SETTINGS: &str = "set default_transaction_isolation = 'read committed'";

/// Time that a caller waits for the server, and the server for a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// Time to retry a server that does not answer; zero for one attempt.
    pub(crate) server: Duration,
    /// Limit of a statement; `None`: unlimited.
    statement: Option<Duration>,
}

impl Wait {
    /// Waits for a server that is away, and never cancels a statement.
    pub(crate) fn for_server(patience: Duration) -> Self {
        Self { server: patience, statement: None }
    }

    /// Tries once. The caller gives up after `limit`, and the server a second later, so
    /// that an abandoned statement does not keep it busy.
    pub(crate) fn once(limit: Duration) -> Self {
        let statement = limit.saturating_add(Duration::from_secs(1));
        Self { server: Duration::ZERO, statement: Some(statement) }
    }

    /// `settings` of a session, with the limit on its statements.
    pub(crate) fn settings(&self, settings: &str) -> String {
        match self.statement {
            None => settings.to_owned(),
            Some(limit) => {
                let millis = limit.as_millis().min(i32::MAX as u128);
                format!("{settings}; set statement_timeout = {millis}")
            }
        }
    }
}

/// A connection outside any pool. Its statements name the protocol's tables with the schema
/// `lambda`, whatever [`Schema`] they are in.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    schema: Schema,
    task: JoinHandle<()>,
}

impl Connection {
    /// The schema of the protocol's tables.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The client, for statements that are prepared, and for COPY. Its statements name the
    /// schema as it is.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client, for migrations.
    pub(crate) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// The server's error, or that of a broken connection, as for all these methods.
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&*self.schema.sql(sql), parameters).await
    }

    /// Runs a statement that returns one row.
    ///
    /// # Errors
    /// As for [`Self::query`]; also when it returns another number of rows.
    pub async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, tokio_postgres::Error> {
        self.client.query_one(&*self.schema.sql(sql), parameters).await
    }

    /// Runs a statement that returns one row at most.
    ///
    /// # Errors
    /// As for [`Self::query`]; also when it returns more rows.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, tokio_postgres::Error> {
        self.client.query_opt(&*self.schema.sql(sql), parameters).await
    }

    /// Runs a statement and returns its rows one by one, as they arrive.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn query_stream(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<RowStream, tokio_postgres::Error> {
        let parameters = parameters.iter().map(|parameter| *parameter as &dyn ToSql);
        self.client.query_raw(&*self.schema.sql(sql), parameters).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        self.client.execute(&*self.schema.sql(sql), parameters).await
    }

    /// Runs statements without parameters, separated by semicolons.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn batch_execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(&self.schema.sql(sql)).await
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub(crate) async fn prepare(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.client.prepare(&self.schema.sql(sql)).await
    }

    /// Begins a transaction, which rolls back unless it is committed.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        let transaction = Transaction { connection: self, open: true };
        transaction.batch_execute("begin").await?;
        Ok(transaction)
    }
}

impl Drop for Connection {
    /// Closes the socket at once: an open transaction ends with it, instead of lingering
    /// until the runtime closes the socket.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A transaction on a [`Connection`].
#[derive(Debug)]
pub struct Transaction<'c> {
    connection: &'c mut Connection,
    open: bool,
}

impl Transaction<'_> {
    /// Commits.
    ///
    /// # Errors
    /// As for [`Connection::query`].
    pub async fn commit(self) -> Result<(), tokio_postgres::Error> {
        self.end("commit").await
    }

    /// Rolls back, and waits for it.
    ///
    /// # Errors
    /// As for [`Connection::query`].
    pub async fn rollback(self) -> Result<(), tokio_postgres::Error> {
        self.end("rollback").await
    }

    async fn end(mut self, how: &str) -> Result<(), tokio_postgres::Error> {
        self.connection.batch_execute(how).await?;
        self.open = false;
        Ok(())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // The first poll sends it, which is enough: statements are executed in order.
            let _ = self.connection.batch_execute("rollback").now_or_never();
        }
    }
}

/// Connects once. `purpose` is a word that people see in `pg_stat_activity`. If the
/// password is refused, reads it from its file again and tries once more, since it may be
/// replaced while a program runs.
///
/// ```no_run
/// use lambda_core::Postgres;
/// use lambda_core::postgres::connect;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let postgres = Postgres::new("postgresql://reader@localhost/app")?;
/// let connection = connect(&postgres, "report").await?;
/// let row = connection.query_one("select count(*) from ops.readings", &[]).await?;
/// let readings: i64 = row.try_get(0)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Transient` when the server is not reachable or not ready; `Fatal` for a wrong password,
/// user or database, and for a server that does not prove what the TLS settings require.
pub async fn connect(config: &Postgres, purpose: &str) -> Result<Connection, Error> {
    let mut again = config.password_file();
    loop {
        let settings = config.for_purpose(purpose)?;
        // The connect timeout of the settings ends where the server begins to answer.
        // Boxed: the TLS state is large, and would be in every future that connects.
        let connected = tokio::time::timeout(timing::LOGIN, Box::pin(log_in(config, &settings)));
        let connected = connected.await.map_err(|_| Error::Unreachable {
            server: Server::Postgres,
            source: format!("no answer from {config} within {:?}", timing::LOGIN).into(),
        })?;
        match (connected, again.take()) {
            (Err(error), Some(file)) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
                let file = file.display();
                tracing::warn!(%file, database = %config, "password refused; reading it again");
                tokio::time::sleep(timing::PASSWORD_REPLACED).await;
            }
            (Ok(connection), _) => {
                config.logins().note(Login::Worked);
                return Ok(connection);
            }
            (Err(error), _) if error.as_db_error().is_some() => {
                return Err(config.logins().judge(connecting(error, config)));
            }
            (Err(error), _) => return Err(connecting(error, config)),
        }
    }
}

/// Converts an error met while connecting.
fn connecting(error: tokio_postgres::Error, config: &Postgres) -> Error {
    if let Some(refusal) = config.refusal(&error) {
        return refusal;
    }
    let unsaid = error.as_db_error().is_none();
    match remedy::explain(error, "log in to PostgreSQL") {
        Error::Misconfigured { what, source, .. } if unsaid => Error::Misconfigured {
            what: format!("{what} at {config}"),
            remedy: "check DB_USER, DB_PASSWORD and the server's authentication method".into(),
            source,
        },
        Error::Misconfigured { what, remedy, source } => {
            Error::Misconfigured { what: format!("{what} at {config}"), remedy, source }
        }
        Error::Unreachable { server, source } => {
            // Otherwise the server itself has given the reason.
            let remedy = if source.is::<tokio_postgres::Error>() {
                "; check that it runs, and that DB_HOST and DB_PORT lead to it"
            } else {
                ""
            };
            let source = format!("{config}: {}{remedy}", causes(&*source)).into();
            Error::Unreachable { server, source }
        }
        other => other,
    }
}

async fn log_in(
    config: &Postgres,
    settings: &tokio_postgres::Config,
) -> Result<Connection, tokio_postgres::Error> {
    let (client, connection) = settings.connect(config.tls().connector()).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    let connection = Connection { client, schema: config.schema().clone(), task };
    connection.batch_execute(SETTINGS).await?;
    Ok(connection)
}

/// Connects. Waits with backoff and a log line for a server that is not reachable, at most
/// `patience` (`None`: without limit).
///
/// # Errors
/// The last error, when patience is over; any other than a transient one at once.
pub async fn connect_waiting(
    config: &Postgres,
    purpose: &str,
    patience: Option<Duration>,
) -> Result<Connection, Error> {
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        match connect(config, purpose).await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.kind() != Kind::Transient => return Err(error),
            Err(error) if patience.is_some_and(|patience| begun.elapsed() >= patience) => {
                return Err(error);
            }
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!(database = %config, error = error.chain(), retry_in = ?delay, "waiting for PostgreSQL");
                tokio::time::sleep(delay).await;
            }
        }
    }
}
