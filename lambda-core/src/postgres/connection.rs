//! One connection: a client whose background task ends with it.

pub mod config;
mod logins;
pub(crate) mod request;
pub mod tls;
mod url;

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use self::config::DatabaseConfig;
use self::logins::Login;
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
fn connecting(error: tokio_postgres::Error, config: &DatabaseConfig) -> Error {
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
