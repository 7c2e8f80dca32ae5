//! Migrations: lowercase SQL files, applied once and in order; and the check that keeps a
//! program from a schema that is older than it needs.
//!
//! A schema changes by expand and contract: a migration only adds what older programs do
//! not see. What is no longer needed is removed by a later one, once no program that needs
//! it runs. So an old program keeps running on a newer schema, and a new one waits, by its
//! exit code, until `lambda-db-setup` of its version ran.

use refinery::{Migration, Runner};
use tokio_postgres::error::SqlState;

use crate::error::{Error, Kind, Server};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::{PREPARE, Request};
use crate::postgres::connection::{Connection, connect};
use crate::postgres::{remedy, timing};

/// The oldest version of [`PROTOCOL`] that loaders can use. Raise it to a migration's number in the change
/// that makes a loader's statement use what that migration adds, and no sooner: from then
/// on programs of this version wait for it, while those of the version before keep running.
pub const LOADERS_NEED: i32 = 2;

/// Key of the advisory lock that lets one migration run at a time; refinery
/// itself takes none.
const MIGRATION_LOCK: i64 = 0x6c61_6d62_6461_0001;

/// Settings of every session that sets up a database. The server ends one whose process is
/// frozen, and so frees its locks, which no loader may do. A statement may take as long as
/// it needs.
fn settings() -> String {
    format!(
        "{}; {}; {}; set statement_timeout = 0; set transaction_timeout = 0",
        timing::set("idle_in_transaction_session_timeout", timing::IDLE_IN_TRANSACTION),
        timing::set("idle_session_timeout", timing::SETUP_IDLE),
        timing::set("lock_timeout", timing::LOCK),
    )
}

mod embedded {
    refinery::embed_migrations!("src/postgres/schema/migrations");
}

/// A series of migrations, and the table that records which of them were applied.
///
/// ```
/// use lambda_core::postgres::schema::migrate::{LOADERS_NEED, PROTOCOL};
///
/// assert!(PROTOCOL.latest() >= LOADERS_NEED);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// The table, in the protocol's schema.
    table: &'static str,
    runner: fn() -> Runner,
}

/// The protocol's tables, which every pipeline needs.
pub const PROTOCOL: History = History::new("lambda.migrations", embedded::migrations::runner);

const CREATE: Request = Request::to("create a schema in PostgreSQL").with_locks();
const READ_VERSION: Request = Request::to("read the schema's version in PostgreSQL");

/// Reads whether migrations are recorded, whether our role may read them, and whether it may
/// read another of the protocol's tables.
const LOOK: &str = "\
    select history is not null, \
           coalesce(has_table_privilege(history, 'select'), false), \
           coalesce(has_table_privilege(to_regclass('lambda.ingest_progress'), 'select'), false) \
    from to_regclass($1::text) as history";

impl History {
    pub(crate) const fn new(table: &'static str, runner: fn() -> Runner) -> Self {
        Self { table, runner }
    }

    /// The table, as SQL names it in the schema `lambda`.
    pub(crate) const fn table(&self) -> &'static str {
        self.table
    }

    /// Number of the last migration of this build.
    pub fn latest(&self) -> i32 {
        let runner = (self.runner)();
        runner.get_migrations().iter().map(Migration::version).max().unwrap_or_default()
    }

    /// Number of the last migration that a database has, 0 for none. `None` when only the
    /// version is hidden from our role: a `lambda-db-setup` that did not grant it yet created
    /// the other grants.
    ///
    /// # Errors
    /// As for [`connect`]; `Fatal` when the role has no grants at all.
    pub async fn applied(&self, connection: &Connection) -> Result<Option<i32>, Error> {
        let read = async {
            let history = connection.schema().sql(self.table);
            let look = connection.query_one(LOOK, &[&history]).await?;
            let (there, readable, granted): (bool, bool, bool) =
                (look.try_get(0)?, look.try_get(1)?, look.try_get(2)?);
            match (there, readable, granted) {
                (false, ..) => return Ok(Some(0)),
                (true, false, true) => return Ok(None),
                // Without any grant the query itself returns the right error.
                (true, true, _) | (true, false, false) => {}
            }
            let sql = format!("select coalesce(max(version), 0)::integer from {}", self.table);
            connection.query_one(&sql, &[]).await?.try_get(0).map(Some)
        };
        READ_VERSION.ask(read).await
    }

    /// Checks that the database has the migration `needed`.
    ///
    /// # Errors
    /// `Transient` when it does not; otherwise as for [`Self::applied`].
    pub async fn require(&self, connection: &Connection, needed: i32) -> Result<(), Error> {
        let found = match self.applied(connection).await? {
            Some(version) if version >= needed => return Ok(()),
            Some(0) => {
                format!("the database has no schema yet (none of ours in {})", connection.schema())
            }
            Some(version) => format!("its schema is version {version}"),
            None => "an older lambda-db-setup did not let this role read its schema's version"
                .to_owned(),
        };
        Err(Error::Temporary {
            server: Server::Postgres,
            what: "start on this database's schema",
            remedy: "run lambda-db-setup of this version with all roles; this program continues \
                     after that",
            source: format!("{found}, version {needed} is needed").into(),
        })
    }

    /// Applies the migrations that a database lacks, and returns their names. Safe to run
    /// several times at once.
    ///
    /// # Errors
    /// `Transient` or `Fatal`, as for [`connect`]; `Fatal` when a migration fails.
    pub async fn migrate(&self, config: &Postgres) -> Result<Vec<String>, Error> {
        self.run(config, self.migrations(), None).await
    }

    /// Migrates as [`Self::migrate`] does, but no further than migration `version`: for tests
    /// of programs on an old schema.
    ///
    /// # Errors
    /// As for [`Self::migrate`].
    #[cfg(feature = "testing")]
    pub async fn migrate_to(&self, config: &Postgres, version: i32) -> Result<Vec<String>, Error> {
        self.run(config, self.migrations(), Some(version)).await
    }

    /// Migrates as [`Self::migrate`] does, and then applies an invented future migration,
    /// `V<number>__<name>`: for tests of its effect on programs that run beside it.
    ///
    /// # Errors
    /// As for [`Self::migrate`]; also `Fatal` when it has another name.
    #[cfg(feature = "testing")]
    pub async fn migrate_beyond(
        &self,
        config: &Postgres,
        name: &str,
        sql: &str,
    ) -> Result<Vec<String>, Error> {
        let mut migrations = self.migrations();
        migrations.push(Migration::unapplied(name, sql).map_err(failed)?);
        self.run(config, migrations, None).await
    }

    fn migrations(&self) -> Vec<Migration> {
        (self.runner)().get_migrations().clone()
    }

    async fn run(
        &self,
        config: &Postgres,
        migrations: Vec<Migration>,
        last: Option<i32>,
    ) -> Result<Vec<String>, Error> {
        let mut connection = connect_to_set_up(config, "migrate").await?;
        let locked = take_lock(&connection).await;
        locked.map_err(|error| remedy::explain(error, "take the migration lock in PostgreSQL"))?;
        create_schema(&connection).await?;
        let schema = connection.schema().clone();
        let migrations: Result<Vec<_>, _> = migrations
            .iter()
            .map(|it| {
                let sql = schema.sql(it.sql().unwrap_or_default());
                Migration::unapplied(&it.to_string(), &sql)
            })
            .collect();
        // Accepts a database that a newer version migrated: after a release was rolled back,
        // the older setup still sets up roles.
        let mut runner = Runner::new(&migrations.map_err(failed)?).set_abort_missing(false);
        if let Some(last) = last {
            runner = runner.set_target(refinery::Target::Version(last));
        }
        runner.set_migration_table_name(schema.sql(self.table));
        let mut applied = Vec::new();
        loop {
            let error = match runner.run_async(connection.client_mut()).await {
                Ok(report) => {
                    applied.extend(report.applied_migrations().iter().map(ToString::to_string));
                    return Ok(applied);
                }
                Err(error) => error,
            };
            let Some(others) = others(&error) else { return Err(failed(error)) };
            let before = error.report().into_iter().flat_map(refinery::Report::applied_migrations);
            applied.extend(before.map(ToString::to_string));
            tracing::warn!(retry_in = ?timing::MIGRATION_PAUSE, "{others}");
            tokio::time::sleep(timing::MIGRATION_PAUSE).await;
        }
    }
}

/// Creates the protocol's schema, unless it exists: the right to create schemas is needed only
/// then.
async fn create_schema(connection: &Connection) -> Result<(), Error> {
    let create = async {
        let name = connection.schema().name();
        let missing = "select to_regnamespace($1::text) is null";
        let missing: bool = connection.query_one(missing, &[&name]).await?.try_get(0)?;
        if missing {
            connection.batch_execute(&format!("create schema \"{name}\"")).await?;
        }
        Ok(())
    };
    CREATE.limit(async { create.await.map_err(creating) }).await
}

fn creating(error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::Misconfigured {
            what: "could not create the schema of the protocol's tables".into(),
            remedy: "grant create on the database to this role, or create the schema for it".into(),
            source: error.as_db_error().map(|error| error.message().into()),
        };
    }
    CREATE.failed(error)
}

/// Connects for a step of the setup: `purpose` is a word for `pg_stat_activity`.
///
/// # Errors
/// As for [`connect`].
pub(crate) async fn connect_to_set_up(
    config: &Postgres,
    purpose: &str,
) -> Result<Connection, Error> {
    let connection = connect(config, purpose).await?;
    PREPARE.ask(connection.batch_execute(&settings())).await?;
    Ok(connection)
}

/// Waits until no other setup migrates. A frozen one loses the lock by [`settings`].
async fn take_lock(connection: &Connection) -> Result<(), tokio_postgres::Error> {
    connection.batch_execute(&timing::set("lock_timeout", timing::MIGRATION_LOCK)).await?;
    loop {
        match connection.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tracing::warn!("waiting for another lambda-db-setup that migrates this database");
            }
            taken => return taken.map(drop),
        }
    }
}

fn failed(error: refinery::Error) -> Error {
    if let Some(remedy) = again(&error) {
        let (server, what) = (Server::Postgres, "migrate the schema in PostgreSQL");
        return Error::Temporary { server, what, remedy, source: Box::new(error) };
    }
    Error::Misconfigured {
        what: "could not apply a migration".into(),
        remedy: "the schema is as it was before that migration; see the cause".into(),
        source: Some(Box::new(error)),
    }
}

/// The database's error inside one of refinery's.
fn of_server(error: &refinery::Error) -> Option<&tokio_postgres::Error> {
    let first: Option<&dyn std::error::Error> = Some(error);
    std::iter::successors(first, |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Describes how other transactions kept a migration from its tables, if so.
fn others(error: &refinery::Error) -> Option<&'static str> {
    let code = of_server(error)?.code()?;
    if *code == SqlState::LOCK_NOT_AVAILABLE {
        return Some(
            "a migration needs a table that a long transaction holds: look at pg_stat_activity",
        );
    }
    // A program that writes to several tables may lock them in another order than the
    // migration; the server then cancels either of the two.
    (*code == SqlState::T_R_DEADLOCK_DETECTED)
        .then_some("a migration and another transaction waited for each other's tables")
}

/// The remedy for a failure that is not the migration's fault, if it is one.
fn again(error: &refinery::Error) -> Option<&'static str> {
    let error = of_server(error)?;
    if error.is_closed() {
        return Some(
            "the server ended the session, as it does if this program is stopped for \
                     long; run lambda-db-setup again",
        );
    }
    let verdict = remedy::of_sqlstate(error.code()?.code());
    (verdict.kind == Kind::Transient).then_some(verdict.remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Migrations that remove something on purpose, once no program that needs it runs any
    /// more. Name in the migration the last version that needed it.
    const CONTRACTING: &[i32] = &[];

    /// The first migration that met programs running beside it.
    const FIRST_BESIDE: i32 = 3;

    /// Statements of a migration that would break an older program running beside it, or
    /// keep its tables locked while they are rewritten or scanned.
    fn contractions(sql: &str) -> Vec<String> {
        statements(sql).into_iter().filter(|statement| contracts(statement)).collect()
    }

    /// Statements in lower case with single spaces, without comments and without the bodies
    /// of functions.
    fn statements(sql: &str) -> Vec<String> {
        let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
        let text: String = lines.flat_map(|line| [line, " "]).collect();
        let outside: String = text.split("$$").step_by(2).collect();
        let split = outside.split(';').map(|statement| {
            statement.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
        });
        split.filter(|statement| !statement.is_empty()).collect()
    }

    /// Whether a statement may contract: a person has to check and declare every form that
    /// is not known to expand.
    fn contracts(statement: &str) -> bool {
        let adds = [
            "comment ",
            "create function ",
            "create index ",
            "create or replace function ",
            "create or replace view ",
            "create table ",
            "create view ",
            "grant ",
        ];
        if adds.iter().any(|begin| statement.starts_with(begin)) {
            return false;
        }
        let Some(altered) = statement.strip_prefix("alter table ") else { return true };
        // Columns are added one by one, each with a type and a default only.
        !altered.split(',').all(|clause| {
            let (column, default) = clause.split_once(" default ").unwrap_or((clause, ""));
            // A constant is kept in the catalog; anything else is computed for each row.
            let computed = default.contains('(');
            let demanded = column.contains(" not null") && default.is_empty();
            let checked = [" check ", " generated ", " primary key", " references ", " unique"];
            let checked = checked.iter().any(|word| format!("{clause} ").contains(word));
            clause.contains("add column ") && !computed && !demanded && !checked
        })
    }

    #[test]
    fn migrations_only_expand_unless_they_say_so() {
        let runner = (PROTOCOL.runner)();
        let beside: Vec<_> =
            runner.get_migrations().iter().filter(|it| it.version() >= FIRST_BESIDE).collect();
        assert!(!beside.is_empty());
        for migration in beside {
            let contractions = contractions(migration.sql().unwrap_or_default());
            let declared = CONTRACTING.contains(&migration.version());
            assert_eq!(declared, !contractions.is_empty(), "{migration}: {contractions:?}");
        }
    }

    #[test]
    fn a_contracting_statement_is_detected() {
        for sql in [
            "drop table corrections",
            "drop index corrections_key",
            "alter table transactions drop column location",
            "alter table transactions rename column location to place",
            "alter table transactions alter column location type varchar(20)",
            "alter table transactions alter column location set not null",
            "alter table transactions add column branch text not null",
            "alter table transactions add column a text default 'x', add column b text not null",
            "alter table transactions add column at timestamptz default clock_timestamp()",
            "alter table transactions add column twice numeric generated always as (amount * 2) stored",
            "alter table transactions add constraint positive check (amount > 0)",
            "alter table transactions add column branch text unique",
            "alter table batch_jobs add column note text; truncate corrections",
            "create unique index second on transactions (account_id)",
            "update transactions set location = ''",
            "revoke insert on transactions from public",
            "create trigger t before insert on transactions execute function f()",
        ] {
            assert_eq!(contractions(sql).len(), 1, "{sql}");
        }
        for sql in [
            "alter table transactions add column branch text, add column till integer default 7",
            "alter table batch_jobs add column kind text not null default 'file'",
            "create index if not exists i on transactions (account_id) -- drop table x;",
            "create function f() returns void language sql as $$ drop table x; $$",
            "create table branches (name text primary key)",
        ] {
            assert!(contractions(sql).is_empty(), "{sql}");
        }
    }
}
