//! One connection: a client whose background task ends with it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind, Server};
use crate::postgres::config::DatabaseConfig;
use crate::remedy;

/// Timeout of a login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which the file and the server may differ while a password is replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);

/// The protocol needs this level; a role or a database may have another default. Statements
/// that need a snapshot set their own level.
const SETTINGS: &str = "set default_transaction_isolation = 'read committed'";

/// Timeout of a plain query.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a query that waits for locks.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `asking`, a request to the server to do `what` ("claim a lane in PostgreSQL"), with
/// a timeout. TCP detects a dead peer, but not a proxy in between that has forgotten the
/// connection.
///
/// # Errors
/// `Transient` without an answer; otherwise those of `asking`.
pub(super) async fn answered<T>(
    within: Duration,
    what: &str,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(within, asking).await.map_err(|_| Error::Unreachable {
        server: Server::Postgres,
        source: format!("no answer within {within:?}; the request was to {what}").into(),
    })?
}

/// Time that a caller waits for the server, and the server for a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// Time to retry a server that does not answer; zero for one attempt.
    pub(super) server: Duration,
    /// Limit of a statement; `None`: unlimited.
    statement: Option<Duration>,
}

impl Wait {
    /// Waits for a server that is away, and never cancels a statement.
    pub(super) fn for_server(patience: Duration) -> Self {
        Self { server: patience, statement: None }
    }

    /// Tries once. The caller gives up after `limit`, and the server a second later, so
    /// that an abandoned statement does not keep it busy.
    pub(super) fn once(limit: Duration) -> Self {
        let statement = limit.saturating_add(Duration::from_secs(1));
        Self { server: Duration::ZERO, statement: Some(statement) }
    }

    /// `settings` of a session, with the limit on its statements.
    pub(super) fn settings(&self, settings: &str) -> String {
        match self.statement {
            None => settings.to_owned(),
            Some(limit) => {
                let millis = limit.as_millis().min(i32::MAX as u128);
                format!("{settings}; set statement_timeout = {millis}")
            }
        }
    }
}

/// A connection outside any pool.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    task: JoinHandle<()>,
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Connection {
    /// Closes the socket at once: an open transaction ends with it, instead of lingering
    /// until the runtime closes the socket.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Time for which a login that once worked may be refused before the refusal counts: after
/// a failover a standby may not have the role, the password or the database yet. Longer
/// than a load retries a server that does not answer.
const REFUSED_MAX: Duration = Duration::from_secs(90);

/// Outcome of the logins to a database.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<Login>);

#[derive(Debug, Default, Clone, Copy)]
enum Login {
    #[default]
    Untried,
    Worked,
    /// It worked once, and has been refused since then.
    Refused(Instant),
}

impl Logins {
    fn note(&self, now: Login) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Start of the refusals of a login that worked before.
    fn refused_since(&self) -> Option<Instant> {
        let mut login = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Login::Worked = *login {
            *login = Login::Refused(Instant::now());
        }
        match *login {
            Login::Refused(since) => Some(since),
            Login::Untried | Login::Worked => None,
        }
    }

    /// Treats a recent refusal of a login that once worked as transient.
    fn judge(&self, error: Error) -> Error {
        let Error::Misconfigured { what, remedy, source } = error else { return error };
        match self.refused_since() {
            Some(since) if since.elapsed() < REFUSED_MAX => Error::Temporary {
                server: Server::Postgres,
                what: "log in to PostgreSQL as before",
                remedy: "after a failover, check that the new server has the role, its password \
                         and the database; if the login was changed, start with the new one",
                source: source.unwrap_or_else(|| what.into()),
            },
            _ => Error::Misconfigured { what, remedy, source },
        }
    }
}

/// Connects once. `purpose` is a word that people see in `pg_stat_activity`. If the
/// password is refused, reads it from its file again and tries once more, since it may be
/// replaced while a program runs.
///
/// # Errors
/// `Transient` when the server is not reachable or not ready; `Fatal` for a wrong password,
/// user or database, and for a server that does not prove what the TLS settings require.
pub async fn connect(config: &DatabaseConfig, purpose: &str) -> Result<Connection, Error> {
    let mut again = config.password_file();
    loop {
        let settings = config.for_purpose(purpose)?;
        // The connect timeout of the settings ends where the server begins to answer.
        // Boxed: the TLS state is large, and would be in every future that connects.
        let connected = tokio::time::timeout(LOGIN_TIMEOUT, Box::pin(log_in(config, &settings)));
        let connected = connected.await.map_err(|_| Error::Unreachable {
            server: Server::Postgres,
            source: format!("no answer from {config} within {LOGIN_TIMEOUT:?}").into(),
        })?;
        match (connected, again.take()) {
            (Err(error), Some(file)) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
                let file = file.display();
                tracing::warn!(%file, database = %config, "password refused; reading it again");
                tokio::time::sleep(REPLACED_WITHIN).await;
            }
            (Ok(connection), _) => {
                config.logins().note(Login::Worked);
                return Ok(connection);
            }
            (Err(error), _) if error.as_db_error().is_some() => {
                return Err(config.logins().judge(remedy::connecting(error, config)));
            }
            (Err(error), _) => return Err(remedy::connecting(error, config)),
        }
    }
}

async fn log_in(
    config: &DatabaseConfig,
    settings: &tokio_postgres::Config,
) -> Result<Connection, tokio_postgres::Error> {
    let (client, connection) = settings.connect(config.tls().connector()).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    let connection = Connection { client, task };
    connection.batch_execute(SETTINGS).await?;
    Ok(connection)
}

/// Connects. Waits with backoff and a log line for a server that is not reachable, at most
/// `patience` (`None`: without limit).
///
/// # Errors
/// The last error, when patience is over; any other than a transient one at once.
pub async fn connect_waiting(
    config: &DatabaseConfig,
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
