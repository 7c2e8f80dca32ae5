//! Facts about a database for a doctor, who judges them. Nothing is changed; the write that
//! checks for free space is rolled back.

pub mod dead_letters;
pub mod privileges;
pub mod schema;
pub(super) mod watch;

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage};

use crate::error::Error;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};

/// Number of connections that [`is_pooled`] opens.
const CONNECTIONS: usize = 3;

/// A row with this text fills a page, so packing saves nothing.
const FILLER: usize = 7_000;

const READ: Request = Request::to("inspect PostgreSQL");

async fn rows(
    connection: &Connection,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    READ.ask(connection.query(sql, parameters)).await
}

async fn row(
    connection: &Connection,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Row, Error> {
    READ.ask(connection.query_one(sql, parameters)).await
}

fn unread(error: tokio_postgres::Error) -> Error {
    READ.failed(error)
}

/// Identifies a database: its cluster's identifier and its own number there.
///
/// # Errors
/// `Transient` without an answer; `Fatal`.
pub async fn identity(connection: &Connection) -> Result<String, Error> {
    let sql = "select concat_ws('/', system_identifier, (select oid from pg_database \
               where datname = current_database())) from pg_control_system()";
    row(connection, sql, &[]).await?.try_get(0).map_err(unread)
}

/// Whether a pooler gives one backend to several connections, by the transaction or by the
/// statement: session settings and advisory locks do not work there. Asks in the simple
/// query protocol, which such poolers pass on too.
///
/// # Errors
/// As for [`connect`].
pub async fn is_pooled(config: &Postgres) -> Result<bool, Error> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(connect(config, "doctor").await?);
    }
    // The second time in reverse order: a pooler that hands out its backends in turn then
    // gives some connection another one.
    let mut pids = BTreeMap::new();
    for index in (0..CONNECTIONS).chain((0..CONNECTIONS).rev()) {
        let pid = backend(&connections[index]).await?;
        if *pids.entry(index).or_insert_with(|| pid.clone()) != pid {
            return Ok(true);
        }
    }
    let mut pids: Vec<String> = pids.into_values().collect();
    pids.sort();
    pids.dedup();
    Ok(pids.len() < CONNECTIONS)
}

async fn backend(connection: &Connection) -> Result<String, Error> {
    let asked = async {
        let answer =
            connection.client().simple_query("select pg_backend_pid()").await.map_err(unread)?;
        let pid = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(pid.unwrap_or_default().to_owned())
    };
    READ.limit(asked).await
}

/// A server and its defaults for our role and database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// Number as in `server_version_num`: 170006 is 17.6.
    pub version: i32,
    /// Whether it is a standby.
    pub standby: bool,
    /// Whether transactions can only read.
    pub read_only: bool,
    /// Number of connections like ours that it can still accept.
    pub connections_left: i64,
    /// Size of the database, in bytes.
    pub database_bytes: i64,
    settings: BTreeMap<String, String>,
}

impl Server {
    /// The effective value of a setting for our sessions, in its own unit; empty when the
    /// server does not have it.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// A timeout in milliseconds; `None` if there is none.
    pub fn timeout_ms(&self, name: &str) -> Option<i64> {
        self.setting(name).parse().ok().filter(|timeout| *timeout > 0)
    }
}

/// Reads the server's settings and state.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn server(connection: &Connection) -> Result<Server, Error> {
    let about = "\
        select current_setting('server_version_num')::integer, pg_is_in_recovery(), \
               current_setting('transaction_read_only')::boolean, \
               (select sum(case name when 'max_connections' then setting::bigint \
                                     else -setting::bigint end)::bigint from pg_settings \
                where name in ('max_connections', 'reserved_connections', \
                               'superuser_reserved_connections')) \
               - (select sum(numbackends)::bigint from pg_stat_database), \
               pg_database_size(current_database())";
    let about = row(connection, about, &[]).await?;
    let read = || {
        Ok(Server {
            version: about.try_get(0)?,
            standby: about.try_get(1)?,
            read_only: about.try_get(2)?,
            connections_left: about.try_get(3)?,
            database_bytes: about.try_get(4)?,
            settings: BTreeMap::new(),
        })
    };
    let mut server = read().map_err(unread)?;
    for row in rows(connection, "select name, setting from pg_settings", &[]).await? {
        server.settings.insert(row.try_get(0).map_err(unread)?, row.try_get(1).map_err(unread)?);
    }
    Ok(server)
}

/// Difference between the server's clock and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skew {
    /// Lead of the server's clock in microseconds; negative when it is behind.
    pub ahead_micros: i64,
    /// Possible error either way: half of the query's round trip.
    pub uncertain_micros: i64,
}

/// Compares clocks.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn skew(connection: &Connection) -> Result<Skew, Error> {
    let asked = async {
        // Prepared, so that only one round trip surrounds the server's reading.
        let look = connection.prepare("select clock_timestamp()").await.map_err(unread)?;
        let before = Timestamp::now();
        let row = connection.client().query_one(&look, &[]).await.map_err(unread)?;
        let after = Timestamp::now();
        let there: Timestamp = row.try_get(0).map_err(unread)?;
        let uncertain_micros = (after.as_microsecond() - before.as_microsecond()) / 2;
        let here = before.as_microsecond() + uncertain_micros;
        Ok(Skew { ahead_micros: there.as_microsecond() - here, uncertain_micros })
    };
    READ.limit(asked).await
}

/// Writes so many bytes to the disk of the database's tables, and rolls back.
///
/// # Errors
/// `Transient` when there is no space, or the server is read-only.
pub async fn try_disk(config: &Postgres, bytes: usize) -> Result<(), Error> {
    const WRITE: Request = Request::to("write a few MiB to PostgreSQL's disk").with_locks();
    let connection = connect(config, "doctor").await?;
    // Temporary tables could be on another disk.
    let sql = format!(
        "begin; set local temp_tablespaces = ''; \
         create temporary table lambda_doctor (filler text) on commit drop; \
         alter table lambda_doctor alter filler set storage plain; \
         insert into lambda_doctor select repeat('x', {FILLER}) from generate_series(1, {}); \
         rollback",
        bytes / FILLER
    );
    WRITE.ask(connection.batch_execute(&sql)).await
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether a client reads from it.
    pub active: bool,
    /// Bytes of WAL that it keeps on the disk.
    pub kept_bytes: i64,
    /// Maximum number of bytes of WAL that the server aims to keep (`max_wal_size`).
    pub wal_bytes_max: i64,
}

/// The server's replication slots.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn slots(connection: &Connection) -> Result<Vec<Slot>, Error> {
    let sql = "\
        select slot_name::text, active, \
               coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() \
                                             then pg_last_wal_receive_lsn() \
                                             else pg_current_wal_lsn() end, restart_lsn), 0)::bigint, \
               pg_size_bytes(current_setting('max_wal_size')) \
        from pg_replication_slots order by 3 desc";
    let read = |row: &Row| {
        Ok(Slot {
            name: row.try_get(0)?,
            active: row.try_get(1)?,
            kept_bytes: row.try_get(2)?,
            wal_bytes_max: row.try_get(3)?,
        })
    };
    rows(connection, sql, &[]).await?.iter().map(read).collect::<Result<_, _>>().map_err(unread)
}

/// An open transaction, which holds back vacuum everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransaction {
    /// Its owner: `prepared transaction x`, or `backend 7 (psql)`.
    pub of: String,
    /// Its age, in seconds.
    pub seconds: i64,
}

/// Transactions that have been open for at least so many seconds, oldest first: all
/// prepared ones, and those of sessions that our role may see.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn open_transactions(
    connection: &Connection,
    seconds: i64,
) -> Result<Vec<OpenTransaction>, Error> {
    let sql = "\
        select * from ( \
            select 'prepared transaction ' || gid as of, \
                   extract(epoch from now() - prepared)::bigint as seconds \
            from pg_prepared_xacts \
            union all \
            select 'backend ' || pid || ' (' || application_name || ')', \
                   extract(epoch from now() - xact_start)::bigint \
            from pg_stat_activity \
            where xact_start is not null and backend_type = 'client backend' \
              and pid <> pg_backend_pid()) open \
        where seconds >= $1 order by seconds desc";
    let read = |row: &Row| Ok(OpenTransaction { of: row.try_get(0)?, seconds: row.try_get(1)? });
    let open = rows(connection, sql, &[&seconds]).await?;
    open.iter().map(read).collect::<Result<_, _>>().map_err(unread)
}

/// Time since each lane of a pipeline was last claimed or moved, by its number, in seconds.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn lanes_idle(
    connection: &Connection,
    pipeline: &str,
) -> Result<BTreeMap<i32, i64>, Error> {
    let sql = "\
        select lane, extract(epoch from now() - updated_at)::bigint \
        from lambda.ingest_progress where pipeline = $1 and consumer_group is not null";
    let idle = rows(connection, sql, &[&pipeline]).await?;
    idle.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, _>>()
        .map_err(unread)
}
