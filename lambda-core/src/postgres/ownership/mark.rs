//! Marks of sessions that others may terminate: a shared advisory lock that the session
//! keeps until it ends.
//!
//! `pg_locks` shows the mark to every role, whatever `track_activities` is, together with
//! the session's current transaction. The name of a program would not do: migrations and an
//! operator's sessions have the same prefix, and any client can set it.

use crate::postgres::connection::Connection;
use tokio_postgres::Error;

/// First key of the lock: "lamb" in ASCII.
const CLASS: i32 = 0x6c61_6d62;

/// Type of a session. Migrations, setups, replays and an operator's commands have no mark
/// and are never terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A session of a stream, a load or a job: it may be terminated once it blocks another
    /// one.
    Loader = 1,
    /// A claim. It times out by itself, so only the sessions that it waits for are
    /// terminated.
    Claim = 2,
}

impl Mark {
    /// Marks the session of `client` for as long as it lives.
    pub(crate) async fn put(self, connection: &Connection) -> Result<(), Error> {
        let sql = format!("select pg_advisory_lock_shared({CLASS}, {})", self as i32);
        connection.batch_execute(&sql).await
    }
}

/// Reads the marked sessions of this database: `pid`, `mark` and `transaction`, the
/// virtual id of the current transaction, which no other transaction ever has.
pub(crate) fn marked() -> String {
    format!(
        "select pid, objid::integer as mark, virtualtransaction as transaction from pg_locks \
         where locktype = 'advisory' and classid = {CLASS} and objsubid = 2 and granted \
           and database = (select oid from pg_database where datname = current_database())"
    )
}
