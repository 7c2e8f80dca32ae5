//! Which database, as whom.

use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// Prefix of `application_name` on every connection of this platform: it marks
/// the backends that a claim may end (R13).
pub const APPLICATION_PREFIX: &str = "lambda";

/// Where a database is and how to log in. Its `Debug` and `Display` never show
/// the password.
#[derive(Clone)]
pub struct DatabaseConfig {
    config: tokio_postgres::Config,
}

impl DatabaseConfig {
    /// Reads a URL (`postgresql://user:password@host:port/database`) or a
    /// `key=value` string.
    ///
    /// # Errors
    /// [`Error::Misconfigured`], without the text, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let config: tokio_postgres::Config =
            url.parse().map_err(|source| Error::Misconfigured {
                what: "the database URL cannot be read".into(),
                remedy: "write it as postgresql://user:password@host:port/database".into(),
                source: Some(Box::new(source)),
            })?;
        Ok(Self { config })
    }

    /// A database by its parts.
    pub fn from_parts(host: &str, port: u16, name: &str, user: &str, password: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port).dbname(name).user(user).password(password);
        Self { config }
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self { config }
    }

    /// The same server and database, another user.
    #[must_use]
    pub fn with_user(&self, user: &str, password: &str) -> Self {
        let mut config = self.config.clone();
        config.user(user).password(password);
        Self { config }
    }

    /// The settings of a connection for `purpose`, a word that people see in
    /// `pg_stat_activity`.
    pub(crate) fn for_purpose(&self, purpose: &str) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        config.application_name(format!("{APPLICATION_PREFIX}-{purpose}"));
        config.connect_timeout(Duration::from_secs(5));
        // A server or link that goes silent is noticed within half a minute.
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(4);
        config.tcp_user_timeout(Duration::from_secs(30));
        config
    }
}

impl fmt::Display for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => "localhost".into(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let name = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(f, "{host}:{port}/{name}")
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseConfig({self})")
    }
}
