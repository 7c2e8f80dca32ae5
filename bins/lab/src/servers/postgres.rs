//! One PostgreSQL server and any number of databases on it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lambda_core::postgres::Postgres;
use lambda_core::postgres::connection::{Connection, connect};
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::transaction::schema;
use tokio::sync::OnceCell;

use crate::Failure;
use crate::servers::local_postgres::LocalPostgres;
use crate::servers::login::Login;
use crate::servers::owner;
use crate::servers::scratch::Scratch;

/// Prefix of the databases created here.
const PREFIX: &str = "lambda_lab";

/// A server, and how to get fresh databases from it.
#[derive(Debug)]
pub struct PostgresServer {
    admin: Login,
    template: OnceCell<String>,
    icu_template: OnceCell<String>,
    names: AtomicU32,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Given,
    Held(#[expect(dead_code, reason = "held until it is dropped")] Box<dyn Any + Send + Sync>),
}

/// Order of text in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// That of the server's templates.
    Default,
    /// ICU's `en-US`, which differs from byte order.
    Icu,
}

impl PostgresServer {
    /// Uses an existing server, and drops databases that killed processes left
    /// on it.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn at(url: &str) -> Result<Self, Failure> {
        let given = Self::of(Login::from_url(url)?, Server::Given);
        given.drop_stale().await?;
        Ok(given)
    }

    /// Starts a local server, even if another one exists.
    ///
    /// # Errors
    /// As for [`LocalPostgres::start`].
    pub async fn local(scratch: &Arc<Scratch>) -> Result<Self, Failure> {
        let server = LocalPostgres::start(scratch, &[], &[]).await?;
        Ok(Self::held(server.admin().clone(), server))
    }

    /// A server that lives as long as `server` is held.
    pub fn held(admin: Login, server: impl Any + Send + Sync) -> Self {
        Self::of(admin, Server::Held(Box::new(server)))
    }

    /// Databases on a server that another holder keeps.
    pub fn borrowed(admin: Login) -> Self {
        Self::of(admin, Server::Given)
    }

    fn of(admin: Login, server: Server) -> Self {
        Self {
            admin,
            template: OnceCell::new(),
            icu_template: OnceCell::new(),
            names: AtomicU32::new(0),
            server,
        }
    }

    /// Login to the server's maintenance database, with a role that may create databases.
    pub fn admin(&self) -> &Login {
        &self.admin
    }

    /// A fresh database with the current schema.
    ///
    /// # Errors
    /// When the server refuses, or a migration fails.
    pub async fn database(&self, collation: Collation) -> Result<Database, Failure> {
        let cell = match collation {
            Collation::Default => &self.template,
            Collation::Icu => &self.icu_template,
        };
        let template = cell.get_or_try_init(async || self.template(collation).await).await?;
        self.create(&format!("template \"{template}\"")).await
    }

    /// A fresh database without anything in it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn empty_database(&self) -> Result<Database, Failure> {
        self.create("template template0").await
    }

    async fn template(&self, collation: Collation) -> Result<String, Failure> {
        let database = match collation {
            Collation::Default => self.create("template template0").await?,
            Collation::Icu => {
                self.create("template template0 locale_provider icu icu_locale 'en-US'").await?
            }
        };
        PROTOCOL.migrate(database.config()).await?;
        schema::migrate(database.config()).await?;
        Ok(database.login.database)
    }

    async fn create(&self, options: &str) -> Result<Database, Failure> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}_{}_{number}", process());
        let sql = format!("create database \"{name}\" {options}");
        let connection = connect(&self.admin.config(), "lab").await?;
        let mut tries = 0;
        while let Err(error) = connection.batch_execute(&sql).await {
            tries += 1;
            // A connection to the template that was just closed may still be listed.
            let busy = error.code().is_some_and(|code| code.code() == "55006");
            if !busy || tries > 20 {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // For the tests' own statements. The programs name each schema.
        let path = format!("alter database \"{name}\" set search_path = public, lambda");
        connection.batch_execute(&path).await?;
        let login = self.admin.with_database(&name);
        Ok(Database { admin: self.admin.clone(), config: login.config(), login })
    }

    /// Drops databases of processes that are gone, and those of this process: an existing
    /// server outlives us.
    async fn drop_stale(&self) -> Result<(), Failure> {
        let connection = connect(&self.admin.config(), "lab").await?;
        let pattern = format!("{}\\_%", PREFIX.replace('_', "\\_"));
        let rows = connection
            .query("select datname::text from pg_database where datname like $1", &[&pattern])
            .await?;
        for row in rows {
            let name: String = row.get(0);
            if is_stale(&name) {
                drop_database(&connection, &name).await?;
            }
        }
        Ok(())
    }

    /// Drops the templates, which an existing server would keep.
    pub async fn close(&self) {
        let Server::Given = self.server else { return };
        let Ok(connection) = connect(&self.admin.config(), "lab").await else { return };
        for template in [&self.template, &self.icu_template] {
            if let Some(name) = template.get() {
                let _ = drop_database(&connection, name).await;
            }
        }
    }
}

/// A test's own database.
#[derive(Debug, Clone)]
pub struct Database {
    admin: Login,
    login: Login,
    config: Postgres,
}

impl Database {
    /// Its address and owner.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Configuration to connect as its owner.
    pub fn config(&self) -> &Postgres {
        &self.config
    }

    /// Variables for a program, as its owner.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        self.login.environment()
    }

    /// Connects as its owner.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        Ok(connect(&self.config, "lab").await?)
    }

    /// Drops it, even with open connections.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn drop(self) -> Result<(), Failure> {
        let connection = connect(&self.admin.config(), "lab").await?;
        drop_database(&connection, &self.login.database).await
    }
}

async fn drop_database(connection: &Connection, name: &str) -> Result<(), Failure> {
    connection.batch_execute(&format!("drop database if exists \"{name}\" with (force)")).await?;
    Ok(())
}

/// Host and process in a database's name: letters and digits only.
fn process() -> String {
    let mut host = owner::host().to_lowercase();
    host.retain(|character| character.is_ascii_alphanumeric());
    host.truncate(20);
    format!("{host}_{}", std::process::id())
}

fn is_stale(name: &str) -> bool {
    let mut parts = name.rsplit('_').skip(1);
    let (Some(pid), Some(host)) = (parts.next(), parts.next()) else { return false };
    let ours = process().split('_').next() == Some(host);
    ours && !std::path::Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_stale_when_its_process_is_gone() {
        let mine = format!("{PREFIX}_{}_7", process());
        let host = process().split('_').next().map(str::to_owned).unwrap_or_default();
        assert!(!is_stale(&mine));
        assert!(is_stale(&format!("{PREFIX}_{host}_4194999_7")));
        assert!(!is_stale(&format!("{PREFIX}_elsewhere_4194999_7")));
    }
}
