//! The two roles in addition to the schema's owner: loaders, which may only store, and
//! readers, which see everything but raw payloads.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;

use crate::error::Error;
use crate::postgres::connection::Connection;
use crate::postgres::connection::config::Postgres;
use crate::postgres::ownership::blockers::END_LOADER;
use crate::postgres::remedy;
use crate::postgres::schema::TABLES;
use crate::postgres::schema::migrate::{PROTOCOL, connect_to_set_up};
use crate::postgres::schema::registry::{self, Registered};

/// Key of the advisory lock that lets one setup change grants at a time.
const GRANT_LOCK: i64 = 0x6c61_6d62_6461_0003;

/// Purpose of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Stores batches and keeps jobs: inserts, and updates what the protocol changes. It
    /// deletes, truncates and defines nothing.
    Loader,
    /// Reads everything except the keys, headers and payloads of dead letters.
    Reader,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loader => "loader",
            Self::Reader => "reader",
        })
    }
}

/// A role to create or update. Its `Debug` does not show the password.
#[derive(Clone)]
pub struct Role {
    /// Its purpose.
    pub access: Access,
    /// Its name, any text.
    pub name: String,
    /// Its password; only a SCRAM verifier of it reaches the server and its log.
    pub password: String,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("access", &self.access)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Change that [`ensure`] made to a role. It has its password and its grants in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was created.
    Created,
    /// It existed.
    Updated,
}

/// Creates or updates roles, with the grants of their access on the protocol's tables and on
/// those of all registered pipelines, in one transaction, so a running loader notices nothing.
/// Readers also see the relations `readable`. Other grants of a role stay. Safe to repeat, and
/// to run several times at once.
///
/// ```no_run
/// use lambda_core::Postgres;
/// use lambda_core::postgres::schema::roles::{self, Access, Role};
///
/// # async fn run(password: String) -> Result<(), lambda_core::Error> {
/// let postgres = Postgres::new("postgresql://owner@localhost/app")?;
/// let loader = Role { access: Access::Loader, name: "loader".into(), password };
/// roles::ensure(&postgres, &[loader], &[]).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Fatal` when a name is the owner's own, given twice, or that of a role that can do more
/// than log in, or when our role may not create roles. Otherwise as for
/// [`connect`](crate::postgres::connection::connect).
pub async fn ensure(
    config: &Postgres,
    roles: &[Role],
    readable: &[&str],
) -> Result<Vec<Change>, Error> {
    if let [first, second] = roles
        && first.name == second.name
    {
        return Err(Error::misconfigured(
            format!("the {} and the {} are one role", first.access, second.access),
            "give each a name of its own",
        ));
    }
    let mut connection = connect_to_set_up(config, "setup").await?;
    let transaction = connection.transaction().await.map_err(granting)?;
    transaction
        .execute("select pg_advisory_xact_lock($1)", &[&GRANT_LOCK])
        .await
        .map_err(granting)?;
    let pipelines = registry::read(&transaction).await.map_err(granting)?;
    let mut changes = Vec::with_capacity(roles.len());
    for role in roles {
        changes.push(ensure_role(&transaction, role).await?);
        let grants = grants(&transaction, &pipelines, role, readable).await.map_err(granting)?;
        transaction.batch_execute(&grants).await.map_err(granting)?;
        if role.access == Access::Loader {
            let_loaders_be_ended(&transaction, role).await?;
        }
    }
    transaction.commit().await.map_err(granting)?;
    Ok(changes)
}

async fn ensure_role(transaction: &Connection, role: &Role) -> Result<Change, Error> {
    let sql = "\
        select rolname = current_user or rolname = session_user as own, \
               rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as mighty \
        from pg_roles where rolname = $1";
    let found = transaction.query_opt(sql, &[&role.name]).await.map_err(granting)?;
    let flag = |name| found.as_ref().map_or(Ok(false), |row| row.try_get(name)).map_err(granting);
    if flag("own")? || flag("mighty")? {
        return Err(Error::misconfigured(
            format!("role {} should be the {}, but has more privileges", role.name, role.access),
            "name another role, which lambda-db-setup will create",
        ));
    }
    let (verb, change) = match found {
        Some(_) => ("alter", Change::Updated),
        None => ("create", Change::Created),
    };
    let (name, password) = (escape_identifier(&role.name), scram_sha_256(role.password.as_bytes()));
    let sql = format!("{verb} role {name} login password {}", escape_literal(&password));
    transaction.batch_execute(&sql).await.map_err(granting)?;
    Ok(change)
}

/// Grants a role what its access needs, each on objects by name. Revokes nothing: an
/// administrator decides on other grants.
async fn grants(
    transaction: &Connection,
    pipelines: &[Registered],
    role: &Role,
    readable: &[&str],
) -> Result<String, tokio_postgres::Error> {
    let name = escape_identifier(&role.name);
    let database = transaction.query_one("select current_database()::text", &[]).await?;
    let database = escape_identifier(database.try_get(0)?);
    let schemas = "\
        select string_agg(distinct quote_ident(nspname), ', ') \
        from pg_class join pg_namespace n on n.oid = relnamespace \
        where pg_class.oid = any ($1::text[]::regclass[])";
    let tables: Vec<&str> = pipelines.iter().map(|pipeline| &*pipeline.table).collect();
    let schemas: Option<String> = transaction.query_one(schemas, &[&tables]).await?.try_get(0)?;
    let own = escape_identifier(transaction.schema().name());
    let mut grants =
        vec![format!("connect on database {database}"), format!("usage on schema {own}")];
    grants.extend(schemas.map(|schemas| format!("usage on schema {schemas}")));
    grants.extend(match role.access {
        Access::Loader => loader_grants(transaction, pipelines).await?,
        Access::Reader => reader_grants(transaction, pipelines, readable).await?,
    });
    let grants: Vec<String> =
        grants.iter().map(|grant| format!("grant {grant} to {name}")).collect();
    Ok(grants.join(";"))
}

async fn loader_grants(
    transaction: &Connection,
    pipelines: &[Registered],
) -> Result<Vec<String>, tokio_postgres::Error> {
    // A row's key and inserting transaction never change, nor does a job's precedence.
    let jobs = ["id", "job_id", "pipeline", "source", "as_of"].map(str::to_owned);
    let mut kept = vec![("lambda.batch_jobs", jobs.to_vec())];
    for pipeline in pipelines {
        let key = pipeline.key.iter().cloned();
        kept.push((&pipeline.table, key.chain(["written_xid".to_owned()]).collect()));
    }
    let mut grants = Vec::new();
    for (table, kept) in kept {
        let columns = columns_without(transaction, table, &kept).await?;
        grants.push(format!("select, insert, update ({columns}) on {table}"));
    }
    // The columns that a load lists as its rejects, and the status of each.
    let listed = "lane, position, line, payload, reason, detail, status";
    grants.extend([
        "select, insert, update on lambda.ingest_progress".into(),
        "select, update (last) on lambda.job_numbers".into(),
        "insert on lambda.dead_letters, lambda.corrections".into(),
        format!("select ({listed}) on lambda.dead_letters"),
        format!("select on lambda.xid_offset, lambda.pipelines, {}", PROTOCOL.table()),
        format!("execute on function {END_LOADER}, lambda.current_id()"),
    ]);
    Ok(grants)
}

async fn reader_grants(
    transaction: &Connection,
    pipelines: &[Registered],
    readable: &[&str],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let whole = TABLES.into_iter().filter(|table| *table != "lambda.dead_letters");
    let tables = pipelines.iter().map(|pipeline| &*pipeline.table);
    let named = whole.chain(tables).chain(readable.iter().copied()).chain([PROTOCOL.table()]);
    let named = named.collect::<Vec<_>>().join(", ");
    let hidden = ["key", "payload", "edited_payload", "headers"].map(str::to_owned);
    let columns = columns_without(transaction, "lambda.dead_letters", &hidden).await?;
    Ok(vec![format!("select on {named}"), format!("select ({columns}) on lambda.dead_letters")])
}

/// The logins that count as this loader and that [`END_LOADER`] may not terminate yet, each
/// with whether our role can change that.
const UNENDED: &str = "\
    select login.rolname::text, owner.rolname::text, \
           pg_has_role(login.oid, 'member with admin option') as ours \
    from pg_roles login, pg_proc ender join pg_roles owner on owner.oid = ender.proowner \
    where ender.oid = $2::text::regprocedure and login.rolcanlogin \
      and pg_has_role(login.oid, (select oid from pg_roles where rolname = $1), 'member') \
      and not login.rolsuper and not pg_has_role(owner.oid, login.oid, 'usage') \
      and not pg_has_role(owner.oid, 'pg_signal_backend', 'usage')";

/// Lets one loader terminate the frozen session of another that logged in under another
/// name: the function for it runs as the schema's owner, which has to be a member of the
/// logins.
async fn let_loaders_be_ended(transaction: &Connection, role: &Role) -> Result<(), Error> {
    let ender = transaction.schema().sql(END_LOADER);
    let logins = transaction.query(UNENDED, &[&role.name, &ender]).await.map_err(granting)?;
    for row in logins {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (login, owner, ours): (String, String, bool) = read().map_err(granting)?;
        if ours {
            let (member, of) = (escape_identifier(&owner), escape_identifier(&login));
            let sql = format!("grant {of} to {member} with inherit true, set false");
            transaction.batch_execute(&sql).await.map_err(granting)?;
        } else {
            tracing::warn!(
                login,
                owner,
                "other loaders cannot terminate a frozen session of this login; grant \
                 pg_signal_backend to the owner of the schema"
            );
        }
    }
    Ok(())
}

/// The columns of a table except those named, separated by commas.
async fn columns_without(
    transaction: &Connection,
    table: &str,
    excluded: &[String],
) -> Result<String, tokio_postgres::Error> {
    let sql = "\
        select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute \
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped \
          and attname <> all ($2::text[])";
    let table = transaction.schema().sql(table);
    transaction.query_one(sql, &[&table, &excluded]).await?.try_get(0)
}

fn granting(error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::Misconfigured {
            what: "could not set roles and grants in PostgreSQL".into(),
            remedy: "log in as the schema's owner, with the right to create roles".into(),
            source: error.as_db_error().map(|error| error.message().into()),
        };
    }
    remedy::explain(error, "set roles and grants in PostgreSQL")
}
