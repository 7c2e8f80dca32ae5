//! Compares our role's privileges with those that its access needs
//! ([`roles::ensure`](crate::postgres::schema::roles::ensure) grants them).

use tokio_postgres::{Client, Row};

use super::{row, rows, unread};
use crate::error::Error;
use crate::postgres::schema::migrate::MIGRATIONS;
use crate::postgres::schema::roles::Access;
use crate::record::Table;

/// A privilege on a table, or on one of its columns if that is not empty.
type Privilege = (&'static str, &'static str, &'static str);

/// Privileges that a loader needs in addition to those on its pipeline's table.
const LOADER_NEEDS: &[Privilege] = &[
    ("batch_jobs", "", "select"),
    ("batch_jobs", "", "insert"),
    ("batch_jobs", "status", "update"),
    ("ingest_progress", "", "select"),
    ("ingest_progress", "", "insert"),
    ("ingest_progress", "", "update"),
    ("job_numbers", "last", "update"),
    ("dead_letters", "", "insert"),
    ("dead_letters", "reason", "select"),
    ("corrections", "", "insert"),
    ("xid_offset", "", "select"),
    (MIGRATIONS, "", "select"),
];

/// Privileges that a loader must not have: stored data stays, and so does a job's
/// precedence.
const LOADER_EXCEEDS: &[Privilege] = &[
    ("batch_jobs", "as_of", "update"),
    ("batch_jobs", "", "delete"),
    ("batch_jobs", "", "truncate"),
    ("ingest_progress", "", "delete"),
    ("ingest_progress", "", "truncate"),
    ("dead_letters", "", "delete"),
    ("dead_letters", "", "truncate"),
    ("corrections", "", "update"),
    ("corrections", "", "delete"),
    ("corrections", "", "truncate"),
    ("xid_offset", "", "update"),
];

/// Privileges that a reader needs in addition to those on its pipeline's table.
const READER_NEEDS: &[Privilege] = &[
    ("batch_jobs", "", "select"),
    ("ingest_progress", "", "select"),
    ("dead_letters", "reason", "select"),
    ("account_activity", "", "select"),
];

/// Privileges that a reader must not have.
const READER_EXCEEDS: &[Privilege] = &[
    ("dead_letters", "key", "select"),
    ("dead_letters", "payload", "select"),
    ("dead_letters", "edited_payload", "select"),
    ("batch_jobs", "", "insert"),
    ("dead_letters", "", "insert"),
    ("corrections", "", "insert"),
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

/// Reads our role's privileges, with `table` as the pipeline's.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn our_role(client: &Client, table: &Table) -> Result<OurRole, Error> {
    let sql = "\
        select current_user::text, has_database_privilege(current_database(), 'temporary'), \
               pg_has_role('pg_read_all_stats', 'usage'), \
               (select rolsuper from pg_roles where rolname = current_user), \
               to_regclass($1::text) is not null, \
               coalesce((select pg_has_role(relowner, 'usage') from pg_class \
                         where oid = to_regclass($1::text)), false), \
               coalesce(has_table_privilege(to_regclass($1::text), 'insert') \
                        or has_table_privilege(to_regclass('ingest_progress'), 'insert'), false), \
               coalesce(has_any_column_privilege(to_regclass($1::text), 'select'), false)";
    let found = row(client, sql, &[&table.name]).await?;
    let flag = |index: usize| found.try_get::<_, bool>(index).map_err(unread);
    let standing = match (flag(3)?, flag(4)?, flag(5)?, flag(6)?, flag(7)?) {
        (true, ..) => Standing::Superuser,
        (_, false, ..) => Standing::NoTables,
        (_, _, true, ..) => Standing::Owner,
        (_, _, _, true, _) => Standing::Granted(Access::Loader),
        (_, _, _, _, true) => Standing::Granted(Access::Reader),
        _ => Standing::Ungranted,
    };
    let mut role = OurRole {
        name: found.try_get(0).map_err(unread)?,
        standing,
        lacks: Vec::new(),
        exceeds: Vec::new(),
        temporary: flag(1)?,
        sees_sessions: flag(2)?,
    };
    let Standing::Granted(access) = standing else { return Ok(role) };
    let key = table.key_column().name;
    let own = |column: &'static str, privilege| (table.name, column, privilege);
    let (needs, exceeds) = match access {
        Access::Loader => (
            [LOADER_NEEDS, &[own("", "select"), own("", "insert"), own("job_id", "update")]],
            [
                LOADER_EXCEEDS,
                &[
                    own(key, "update"),
                    own("written_xid", "update"),
                    own("", "delete"),
                    own("", "truncate"),
                ],
            ],
        ),
        Access::Reader => (
            [READER_NEEDS, &[own("", "select")]],
            [READER_EXCEEDS, &[own("", "insert"), own(key, "update"), own("", "delete")]],
        ),
    };
    role.lacks = held(client, &needs.concat(), false).await?;
    role.exceeds = held(client, &exceeds.concat(), true).await?;
    let defines = "select has_schema_privilege('public', 'create')";
    if row(client, defines, &[]).await?.try_get(0).map_err(unread)? {
        role.exceeds.push("create in schema public".into());
    }
    Ok(role)
}

/// Those of the privileges that our role has, or lacks.
async fn held(client: &Client, privileges: &[Privilege], held: bool) -> Result<Vec<String>, Error> {
    let sql = "\
        select privilege || case when col <> '' then ' (' || col || ')' else '' end \
               || ' on ' || tab \
        from unnest($1::text[], $2::text[], $3::text[]) as p (tab, col, privilege) \
        where $4 = case when to_regclass(tab) is null then not $4 \
                        when col = '' then has_table_privilege(tab, privilege) \
                        else has_column_privilege(tab, col, privilege) end";
    let column = |pick: fn(&Privilege) -> &'static str| privileges.iter().map(pick).collect();
    let (tables, columns, kinds): (Vec<&str>, Vec<&str>, Vec<&str>) =
        (column(|it| it.0), column(|it| it.1), column(|it| it.2));
    let found = rows(client, sql, &[&tables, &columns, &kinds, &held]).await?;
    found.iter().map(|row: &Row| row.try_get(0)).collect::<Result<_, _>>().map_err(unread)
}
