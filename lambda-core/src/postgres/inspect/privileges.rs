//! Compares our role's privileges with those that its access needs
//! ([`roles::ensure`](crate::postgres::schema::roles::ensure) grants them).

use std::borrow::Cow;

use tokio_postgres::Row;

use super::{row, rows, unread};
use crate::error::Error;
use crate::postgres::connection::Connection;
use crate::postgres::schema::migrate::PROTOCOL;
use crate::postgres::schema::roles::Access;
use crate::record::Table;

/// A privilege on a table, or on one of its columns if that is not empty.
type Privilege<'a> = (&'a str, &'a str, &'static str);

/// Privileges that a loader needs in addition to those on its pipeline's table.
const LOADER_NEEDS: &[Privilege<'static>] = &[
    ("lambda.batch_jobs", "", "select"),
    ("lambda.batch_jobs", "", "insert"),
    ("lambda.batch_jobs", "status", "update"),
    ("lambda.ingest_progress", "", "select"),
    ("lambda.ingest_progress", "", "insert"),
    ("lambda.ingest_progress", "", "update"),
    ("lambda.job_numbers", "last", "update"),
    ("lambda.dead_letters", "", "insert"),
    ("lambda.dead_letters", "reason", "select"),
    ("lambda.corrections", "", "insert"),
    ("lambda.xid_offset", "", "select"),
    ("lambda.pipelines", "", "select"),
    (PROTOCOL.table(), "", "select"),
];

/// Privileges that a loader must not have: stored data stays, and so does a job's
/// precedence.
const LOADER_EXCEEDS: &[Privilege<'static>] = &[
    ("lambda.batch_jobs", "as_of", "update"),
    ("lambda.batch_jobs", "", "delete"),
    ("lambda.batch_jobs", "", "truncate"),
    ("lambda.ingest_progress", "", "delete"),
    ("lambda.ingest_progress", "", "truncate"),
    ("lambda.dead_letters", "", "delete"),
    ("lambda.dead_letters", "", "truncate"),
    ("lambda.corrections", "", "update"),
    ("lambda.corrections", "", "delete"),
    ("lambda.corrections", "", "truncate"),
    ("lambda.xid_offset", "", "update"),
];

/// Privileges that a reader needs in addition to those on its pipeline's table.
const READER_NEEDS: &[Privilege<'static>] = &[
    ("lambda.batch_jobs", "", "select"),
    ("lambda.ingest_progress", "", "select"),
    ("lambda.dead_letters", "reason", "select"),
    ("lambda.pipelines", "", "select"),
];

/// Privileges that a reader must not have.
const READER_EXCEEDS: &[Privilege<'static>] = &[
    ("lambda.dead_letters", "key", "select"),
    ("lambda.dead_letters", "payload", "select"),
    ("lambda.dead_letters", "edited_payload", "select"),
    ("lambda.dead_letters", "headers", "select"),
    ("lambda.batch_jobs", "", "insert"),
    ("lambda.dead_letters", "", "insert"),
    ("lambda.corrections", "", "insert"),
];

/// Position of a role in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A superuser: no privilege is denied.
    Superuser,
    /// Owner of the tables.
    Owner,
    /// A role with the grants of this access.
    Granted(Access),
    /// A role that may neither store nor read.
    Ungranted,
    /// There are no tables to grant anything on.
    NoTables,
}

/// Our role.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OurRole {
    /// Its name.
    pub name: String,
    /// Its position here.
    pub standing: Standing,
    /// Missing privileges of its access (`insert on corrections`).
    pub lacks: Vec<String>,
    /// Privileges beyond its access.
    pub exceeds: Vec<String>,
    /// Whether it may create temporary tables.
    pub temporary: bool,
    /// Whether it sees the activity of other sessions.
    pub sees_sessions: bool,
}

/// Our role's standing towards the table `$1`, in a database whose protocol is in the schema
/// `$2`. A name in a schema that our role may not use is an error, so that comes first.
const STANDING: &str = "\
    select current_user::text as name, \
           has_database_privilege(current_database(), 'temporary') as temporary, \
           pg_has_role('pg_read_all_stats', 'usage') as sees_sessions, \
           (select rolsuper from pg_roles where rolname = current_user) as superuser, \
           c.oid is not null as exists, \
           coalesce(pg_has_role(c.relowner, 'usage'), false) as owner, \
           coalesce(has_table_privilege(c.oid, 'insert') \
                    or case when has_schema_privilege(n.oid, 'usage') then has_table_privilege( \
                           to_regclass('lambda.ingest_progress'), 'insert') end, \
                    false) as loader, \
           coalesce(has_any_column_privilege(c.oid, 'select'), false) as reader, \
           coalesce(has_schema_privilege(n.oid, 'usage'), false) as uses, \
           has_schema_privilege('public', 'create') as defines \
    from (values (to_regclass($1::text))) t (oid) \
    left join pg_class c on c.oid = t.oid \
    left join pg_namespace n on n.nspname = $2";

/// Reads our role's privileges, with `table` as the pipeline's. Readers need the relations
/// `readable` too.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn our_role(
    connection: &Connection,
    table: &Table,
    readable: &[&str],
) -> Result<OurRole, Error> {
    let qualified = table.to_string();
    let found = row(connection, STANDING, &[&qualified, &connection.schema().name()]).await?;
    let flag = |name: &str| found.try_get::<_, bool>(name).map_err(unread);
    let standing = if flag("superuser")? {
        Standing::Superuser
    } else if !flag("exists")? {
        Standing::NoTables
    } else if flag("owner")? {
        Standing::Owner
    } else if flag("loader")? {
        Standing::Granted(Access::Loader)
    } else if flag("reader")? {
        Standing::Granted(Access::Reader)
    } else {
        Standing::Ungranted
    };
    let mut role = OurRole {
        name: found.try_get("name").map_err(unread)?,
        standing,
        lacks: Vec::new(),
        exceeds: Vec::new(),
        temporary: flag("temporary")?,
        sees_sessions: flag("sees_sessions")?,
    };
    let Standing::Granted(access) = standing else { return Ok(role) };
    let own = |column, privilege| (&*qualified, column, privilege);
    let key: Vec<_> = table.key_columns().map(|column| own(&*column.name, "update")).collect();
    let (needs, exceeds) = match access {
        Access::Loader => (
            [LOADER_NEEDS, &[own("", "select"), own("", "insert"), own("job_id", "update")]]
                .concat(),
            [
                LOADER_EXCEEDS,
                &key,
                &[own("written_xid", "update"), own("", "delete"), own("", "truncate")],
            ],
        ),
        Access::Reader => {
            let readable: Vec<_> = readable.iter().map(|name| (*name, "", "select")).collect();
            (
                [READER_NEEDS, &[own("", "select")], &readable].concat(),
                [READER_EXCEEDS, &key, &[own("", "insert"), own("", "delete")]],
            )
        }
    };
    if flag("uses")? {
        role.lacks = held(connection, &qualified, &needs, false).await?;
        role.exceeds = held(connection, &qualified, &exceeds.concat(), true).await?;
    } else {
        role.lacks.push(format!("usage on schema {}", connection.schema()));
    }
    if flag("defines")? {
        role.exceeds.push("create in schema public".into());
    }
    Ok(role)
}

/// Those of the privileges that our role has, or lacks; `table` is the pipeline's.
async fn held<'a>(
    connection: &'a Connection,
    table: &str,
    privileges: &[Privilege<'a>],
    held: bool,
) -> Result<Vec<String>, Error> {
    let sql = "\
        select privilege || case when col <> '' then ' (' || col || ')' else '' end \
               || ' on ' || tab \
        from unnest($1::text[], $2::text[], $3::text[]) as p (tab, col, privilege) \
        where $4 = case when to_regclass(tab) is null then not $4 \
                        when col = '' then has_table_privilege(tab, privilege) \
                        else has_column_privilege(tab, col, privilege) end";
    let name = |name: &'a str| {
        if name == table { Cow::Borrowed(name) } else { connection.schema().sql(name) }
    };
    let tables: Vec<_> = privileges.iter().map(|it| name(it.0)).collect();
    let columns: Vec<&str> = privileges.iter().map(|it| it.1).collect();
    let kinds: Vec<&str> = privileges.iter().map(|it| it.2).collect();
    let found = rows(connection, sql, &[&tables, &columns, &kinds, &held]).await?;
    found.iter().map(|row: &Row| row.try_get(0)).collect::<Result<_, _>>().map_err(unread)
}
