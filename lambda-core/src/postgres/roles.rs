//! The two roles beside the owner of the schema: loaders, which may store and
//! nothing else, and readers, which see everything but raw payloads.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use tokio_postgres::Transaction;

use crate::error::Error;
use crate::postgres::config::DatabaseConfig;
use crate::postgres::connect::connect;
use crate::postgres::migrate::MIGRATIONS;
use crate::record::Table;
use crate::remedy;

/// Key of the advisory lock that lets one setup change grants at a time.
const GRANT_LOCK: i64 = 0x6c61_6d62_6461_0003;

/// What a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Stores batches and keeps jobs: inserts, and updates of what the protocol
    /// changes; deletes nothing, truncates nothing, defines nothing.
    Loader,
    /// Reads everything but the keys and payloads of dead letters.
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

/// A role to be there. Its `Debug` does not show the password.
#[derive(Clone)]
pub struct Role {
    /// What it is for.
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

/// What [`ensure`] did about a role. It has its password and its grants, and no
/// others, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It was there.
    Updated,
}

/// Creates or updates roles, with the grants of their access on the platform's
/// tables and on `pipelines`, in one transaction: a loader that runs meanwhile
/// notices nothing. Safe to repeat, and at the same time from several places.
///
/// # Errors
/// `Fatal` when a name is the owner's own, given twice, or that of a role that
/// can do more than log in; when we may not create roles. Otherwise as for
/// [`connect`].
pub async fn ensure(
    config: &DatabaseConfig,
    pipelines: &[Table],
    roles: &[Role],
) -> Result<Vec<Change>, Error> {
    if let [first, second] = roles
        && first.name == second.name
    {
        return Err(Error::misconfigured(
            format!("the {} and the {} are one role", first.access, second.access),
            "give each a name of its own",
        ));
    }
    let mut connection = connect(config, "setup").await?;
    let transaction = connection.transaction().await.map_err(granting)?;
    transaction
        .execute("select pg_advisory_xact_lock($1)", &[&GRANT_LOCK])
        .await
        .map_err(granting)?;
    let mut changes = Vec::with_capacity(roles.len());
    for role in roles {
        changes.push(ensure_role(&transaction, role).await?);
        let grants = grants(&transaction, pipelines, role).await.map_err(granting)?;
        transaction.batch_execute(&grants).await.map_err(granting)?;
    }
    transaction.commit().await.map_err(granting)?;
    Ok(changes)
}

async fn ensure_role(transaction: &Transaction<'_>, role: &Role) -> Result<Change, Error> {
    let sql = "\
        select rolname = current_user or rolname = session_user as own, \
               rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as mighty \
        from pg_roles where rolname = $1";
    let found = transaction.query_opt(sql, &[&role.name]).await.map_err(granting)?;
    let flag = |name| found.as_ref().map_or(Ok(false), |row| row.try_get(name)).map_err(granting);
    if flag("own")? || flag("mighty")? {
        return Err(Error::misconfigured(
            format!("role {} is to be the {}, but may do more than that", role.name, role.access),
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

/// The statements that leave a role with the grants of its access.
async fn grants(
    transaction: &Transaction<'_>,
    pipelines: &[Table],
    role: &Role,
) -> Result<String, tokio_postgres::Error> {
    let name = escape_identifier(&role.name);
    let database = transaction.query_one("select current_database()::text", &[]).await?;
    let database = escape_identifier(database.try_get(0)?);
    let mut grants = vec![
        format!("revoke all on all tables in schema public from {name}"),
        format!("revoke all on schema public from {name}"),
        format!("grant connect on database {database} to {name}"),
        format!("grant usage on schema public to {name}"),
    ];
    match role.access {
        Access::Loader => {
            // An id, and the transaction that inserted a row, stay (R4b); so does a
            // job's rank (R4a).
            let mut kept: Vec<(&str, Vec<&str>)> = pipelines
                .iter()
                .map(|table| (table.name, vec![table.key_column().name, "written_xid"]))
                .collect();
            kept.push(("batch_jobs", vec!["id", "job_id", "pipeline", "source", "as_of"]));
            for (table, kept) in kept {
                let columns = columns_without(transaction, table, &kept).await?;
                grants
                    .push(format!("grant select, insert, update ({columns}) on {table} to {name}"));
            }
            grants.push(format!("grant select, insert, update on ingest_progress to {name}"));
            grants.push(format!("grant insert on dead_letters, corrections to {name}"));
            // What a load lists as its rejects, and which are open.
            let listed = "lane, position, line, payload, reason, detail, status";
            grants.push(format!("grant select ({listed}) on dead_letters to {name}"));
            grants.push(format!("grant select on xid_offset, {MIGRATIONS} to {name}"));
        }
        Access::Reader => {
            let hidden = ["key", "payload", "edited_payload"];
            let columns = columns_without(transaction, "dead_letters", &hidden).await?;
            grants.push(format!("grant select on all tables in schema public to {name}"));
            grants.push(format!("revoke select on dead_letters from {name}"));
            grants.push(format!("grant select ({columns}) on dead_letters to {name}"));
        }
    }
    Ok(grants.join(";"))
}

/// The columns of a table but those named, separated by commas.
async fn columns_without(
    transaction: &Transaction<'_>,
    table: &str,
    excluded: &[&str],
) -> Result<String, tokio_postgres::Error> {
    let sql = "\
        select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute \
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped \
          and attname <> all ($2::text[])";
    transaction.query_one(sql, &[&table, &excluded]).await?.try_get(0)
}

fn granting(error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::Misconfigured {
            what: "roles and grants cannot be set".into(),
            remedy: "log in as the schema's owner, with the right to create roles".into(),
            source: error.as_db_error().map(|error| error.message().into()),
        };
    }
    remedy::postgres(error, "set roles and grants")
}
