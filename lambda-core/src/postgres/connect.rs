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

/// How long a server may take to let us log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the file and the server may differ while a password is replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);

/// The protocol is written for this level; a role or a database may have another one
/// as its default. Whoever needs a snapshot says so.
const SETTINGS: &str = "set default_transaction_isolation = 'read committed'";

/// How long the server may take over a plain question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take over one that waits for locks.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// What comes of `asking` the server to do `what` ("claim a lane") within that time.
/// TCP notices a peer that is gone, but not a proxy in between that has forgotten the
/// connection.
///
/// # Errors
/// `Transient` when there is no answer; else those of `asking`.
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

/// How long a caller waits for the server, and the server for a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// How long to try a server that does not answer; zero for one attempt.
    pub(super) server: Duration,
    /// Limit of a statement; `None` for as long as it takes.
    statement: Option<Duration>,
}

impl Wait {
    /// Waits for a server that is away, and never ends a statement.
    pub(super) fn for_server(patience: Duration) -> Self {
        Self { server: patience, statement: None }
    }

    /// Tries once. The caller gives up after `limit`, and the server a second later: an
    /// abandoned statement must not keep it busy.
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

/// A connection of its own, outside any pool.
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
    /// Closes the socket at once: a transaction that is still open ends with it,
    /// instead of lingering until the runtime gets to it.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long a login that worked may be refused before that is believed: after a
/// failover a standby may not have the role, the password or the database yet. Longer
/// than a load tries a server that does not answer.
const REFUSED_MAX: Duration = Duration::from_secs(90);

/// How the logins to a database went.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<Login>);

#[derive(Debug, Default, Clone, Copy)]
enum Login {
    #[default]
    Untried,
    Worked,
    /// It worked, and has been refused since then.
    Refused(Instant),
}

impl Logins {
    fn note(&self, now: Login) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Since when a login is refused that worked before.
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

    /// A refusal passes if it has not lasted, of a login that worked.
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

/// Connects once. `purpose` is a word that people see in `pg_stat_activity`. A password that
/// was refused is read from its file again and tried once more, since it may be replaced
/// while a program runs.
///
/// # Errors
/// `Transient` when the server is not there or not ready; `Fatal` for a wrong
/// password, user or database, and for a server that does not prove what TLS asks it to.
pub async fn connect(config: &DatabaseConfig, purpose: &str) -> Result<Connection, Error> {
    let mut again = config.password_file();
    loop {
        let settings = config.for_purpose(purpose)?;
        // The connect timeout of the settings ends where the server begins to answer.
        // Boxed: what TLS needs is large, and would be in every future that connects.
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

/// Connects, waiting with backoff and a message for a server that is not there,
/// at most `patience` (`None`: for ever).
///
/// # Errors
/// The last error, when patience is over; anything but a transient one at once.
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
