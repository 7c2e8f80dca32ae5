//! Address, login and settings of a database.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

use crate::error::Error;
use crate::postgres::connection::logins::Logins;
use crate::postgres::connection::namespace::Schema;
use crate::postgres::connection::tls::{Tls, TlsSettings};
use crate::postgres::connection::url;

/// Prefix of `application_name` on every connection of this platform, for people.
pub const APPLICATION_PREFIX: &str = "lambda";

/// A database's address, login and TLS settings. Its `Debug` and `Display` never show the
/// password.
#[derive(Clone)]
pub struct Postgres {
    config: tokio_postgres::Config,
    tls: Tls,
    /// The schema of the protocol's tables.
    schema: Schema,
    /// The file that holds the password, read at each login.
    password_file: Option<PathBuf>,
    /// Outcome of recent logins, shared by all clones.
    logins: Arc<Logins>,
    /// Whether a server may leave sent data unread ([`Self::for_copies`]).
    copies: bool,
}

impl Postgres {
    /// Reads a URL (`postgresql://user:password@host:port/database`) or a
    /// `key=value` string, `sslmode` and `sslrootcert` included.
    ///
    /// ```
    /// use lambda_core::Postgres;
    ///
    /// let postgres = Postgres::new("postgresql://loader:secret@localhost/app?sslmode=require")?;
    /// assert_eq!(postgres.to_string(), "localhost:5432/app");
    /// assert!(!format!("{postgres:?}").contains("secret"));
    /// # Ok::<(), lambda_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misconfigured`], without the text, which may hold a password.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_tls_or(url, &TlsSettings::default())
    }

    /// Reads a URL as [`Self::new`] does; `tls` supplies the TLS settings that it
    /// lacks.
    ///
    /// ```
    /// use lambda_core::Postgres;
    /// use lambda_core::postgres::{SslMode, TlsSettings};
    ///
    /// let tls = TlsSettings { mode: SslMode::Require, root_cert: None };
    /// assert!(Postgres::with_tls_or("postgresql://loader@localhost/app", &tls).is_ok());
    /// ```
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_tls_or(url: &str, tls: &TlsSettings) -> Result<Self, Error> {
        let parted = url::part(url)?;
        let said = TlsSettings {
            mode: parted.mode.map_or(Ok(tls.mode), |mode| mode.parse())?,
            root_cert: parted.root_cert.or_else(|| tls.root_cert.clone()),
        };
        // The parser's own message may contain part of a password that was not quoted.
        let mut config: tokio_postgres::Config = parted.rest.parse().map_err(|_| {
            Error::misconfigured(
                "could not parse the database URL",
                "write it as postgresql://user:password@host:port/database with / @ ? and % of the \
                 password percent-encoded; client certificates (sslcert) are not supported",
            )
        })?;
        if config.get_hosts().is_empty() {
            // TLS needs a name, if only the address.
            for address in config.get_hostaddrs().to_vec() {
                config.host(address.to_string());
            }
        }
        Self::of(config).with_tls(&said)
    }

    /// Creates a configuration from parts, with TLS if the server offers it
    /// ([`SslMode::Prefer`]).
    ///
    /// [`SslMode::Prefer`]: crate::postgres::SslMode::Prefer
    pub fn from_parts(host: &str, port: u16, name: &str, user: &str, password: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port).dbname(name).user(user).password(password);
        Self::of(config)
    }

    fn of(config: tokio_postgres::Config) -> Self {
        let (tls, schema) = (Tls::default(), Schema::default());
        Self { config, tls, schema, password_file: None, logins: Arc::default(), copies: false }
    }

    /// The same database, with connections secured by `tls`.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the certificate authorities of `tls` cannot be used.
    pub fn with_tls(self, tls: &TlsSettings) -> Result<Self, Error> {
        Ok(Self { tls: Tls::new(tls)?, ..self })
    }

    /// The same login with the password in `file`, which is read again at every login: it
    /// may be replaced while a program runs.
    ///
    /// ```
    /// use lambda_core::Postgres;
    ///
    /// let postgres = Postgres::from_parts("localhost", 5432, "app", "loader", "")
    ///     .with_password_file("/run/secrets/loader".into());
    /// assert_eq!(postgres.to_string(), "localhost:5432/app");
    /// ```
    #[must_use]
    pub fn with_password_file(self, file: PathBuf) -> Self {
        Self { password_file: Some(file), ..self }
    }

    /// The same database, with the protocol's tables in this schema.
    #[must_use]
    pub fn with_schema(self, schema: Schema) -> Self {
        Self { schema, ..self }
    }

    /// The schema of the protocol's tables.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The file that holds the password, if any.
    pub(crate) fn password_file(&self) -> Option<&Path> {
        self.password_file.as_deref()
    }

    /// Security of the connections.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Outcome of recent logins.
    pub(crate) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// The TLS error that a person has to fix, if it is one.
    pub(crate) fn refusal(&self, error: &tokio_postgres::Error) -> Option<Error> {
        self.tls.refusal(error, &self.to_string())
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self { config, logins: Arc::default(), copies: false, ..self.clone() }
    }

    /// The same server and database, another user.
    #[must_use]
    pub fn with_user(&self, user: &str, password: &str) -> Self {
        let mut config = self.config.clone();
        config.user(user).password(password);
        let (tls, schema) = (self.tls.clone(), self.schema.clone());
        Self { tls, schema, ..Self::of(config) }
    }

    /// The same for connections that carry COPY. A backend that waits for a lock during a
    /// COPY reads nothing for as long as that takes, which TCP's user timeout takes for a
    /// dead peer. The commit watches the backend instead.
    #[must_use]
    pub(crate) fn for_copies(&self) -> Self {
        Self { copies: true, ..self.clone() }
    }

    /// The settings of a connection for `purpose`, a word that people see in
    /// `pg_stat_activity`.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the password's file cannot be read.
    pub(crate) fn for_purpose(&self, purpose: &str) -> Result<tokio_postgres::Config, Error> {
        let mut config = self.config.clone();
        if let Some(file) = &self.password_file {
            config.password(secret_in(file).map_err(|error| Error::Misconfigured {
                what: format!("could not read the password for {self} from {}", file.display()),
                remedy: "make the file readable, or name another one".into(),
                source: Some(Box::new(error)),
            })?);
        }
        let local = |host: &Host| !matches!(host, Host::Tcp(_));
        if !config.get_hosts().is_empty() && config.get_hosts().iter().all(local) {
            // A Unix socket does not leave the machine: libpq requests no TLS there either.
            config.ssl_mode(SslMode::Disable);
        } else {
            config.ssl_mode(self.tls.mode());
        }
        config.application_name(format!("{APPLICATION_PREFIX}-{purpose}"));
        config.connect_timeout(Duration::from_secs(5));
        // A server or link that goes silent is detected within half a minute.
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(4);
        if !self.copies {
            config.tcp_user_timeout(Duration::from_secs(30));
        }
        Ok(config)
    }
}

/// The secret in a file, without the line end that editors add.
///
/// # Errors
/// If the file cannot be read, or is not UTF-8.
pub fn secret_in(file: &Path) -> io::Result<String> {
    let mut secret = fs::read_to_string(file)?;
    secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
    Ok(secret)
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".into(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let name = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(f, "{host}:{port}/{name}")
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Postgres({self})")
    }
}
