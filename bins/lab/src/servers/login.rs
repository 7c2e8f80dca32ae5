//! Address of a database and its role, for this process and the programs it starts.

use lambda_core::postgres::Postgres;
use tokio_postgres::config::Host;

use crate::Failure;

/// A database on a server, and a role. Only for our own servers, so its `Debug` may show
/// the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// Role.
    pub user: String,
    /// The role's password.
    pub password: String,
}

impl Login {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it cannot be read, or names a socket instead of a host.
    pub fn from_url(url: &str) -> Result<Self, Failure> {
        let config: tokio_postgres::Config = url.parse()?;
        let Some(Host::Tcp(host)) = config.get_hosts().first() else {
            return Err("the database URL names no host".into());
        };
        let user = config.get_user().unwrap_or("postgres");
        let password = config.get_password().unwrap_or_default();
        Ok(Self {
            host: host.clone(),
            port: config.get_ports().first().copied().unwrap_or(5432),
            database: config.get_dbname().unwrap_or(user).to_owned(),
            user: user.to_owned(),
            password: String::from_utf8_lossy(password).into_owned(),
        })
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The same server and database, another role.
    #[must_use]
    pub fn with_user(&self, user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned(), ..self.clone() }
    }

    /// Configuration for the platform's libraries.
    pub fn config(&self) -> Postgres {
        let Self { host, port, database, user, password } = self;
        Postgres::from_parts(host, *port, database, user, password)
    }

    /// Variables for the platform's programs.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("DB_HOST", self.host.clone()),
            ("DB_PORT", self.port.to_string()),
            ("DB_NAME", self.database.clone()),
            ("DB_USER", self.user.clone()),
            ("DB_PASSWORD", self.password.clone()),
        ]
    }
}
