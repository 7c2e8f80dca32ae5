//! Freezing a consumer just while its database session is inside COPY.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::processes::Process;

/// How long to try.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to look for one that has received rows.
const CHOOSY: Duration = Duration::from_secs(15);

/// How long a consumer is stopped before its next batch is waited for, and how
/// long that one is waited for: far below the session's timeout.
const PAUSE: Duration = Duration::from_millis(1500);

/// A consumer that hangs inside COPY.
#[derive(Debug)]
pub(super) struct Frozen {
    /// Which of the consumers.
    pub(super) index: usize,
    /// Its database session.
    pub(super) backend: i32,
    /// Rows that the session has received and not committed.
    pub(super) rows: i64,
    /// How often a consumer was frozen elsewhere before.
    pub(super) misses: u32,
}

/// A session of these ports inside COPY. The server counts received rows by the
/// thousand.
const INSIDE_COPY: &str = "\
    select a.pid, c.tuples_processed, coalesce(a.state = 'active' and a.wait_event = 'ClientRead', false) \
    from pg_stat_activity a join pg_stat_progress_copy c using (pid) \
    where a.client_port = any($1) and c.relid = 'transactions'::regclass";

/// Stops one consumer after the other for a moment, which lets its next batch
/// grow, and stops it again when that batch is seen on its way; the one that then
/// hangs inside COPY stays stopped.
pub(super) async fn inside_copy(
    consumers: &[Process],
    sql: &Connection,
) -> Result<Frozen, Failure> {
    let begun = Instant::now();
    let mut misses = 0;
    while begun.elapsed() < PATIENCE {
        for (index, consumer) in consumers.iter().enumerate() {
            consumer.freeze().await?;
            tokio::time::sleep(PAUSE).await;
            let ports = local_ports(consumer.pid())?;
            consumer.thaw()?;
            if !copying(&ports, sql).await? {
                continue;
            }
            consumer.freeze().await?;
            // One that has received no thousand rows yet will do only if none else is caught.
            if let Some((backend, rows)) = hanging(&ports, sql).await?
                && (rows > 0 || begun.elapsed() > CHOOSY)
            {
                return Ok(Frozen { index, backend, rows, misses });
            }
            consumer.thaw()?;
            misses += 1;
        }
    }
    Err(format!("no consumer was caught inside COPY within {} s", PATIENCE.as_secs()).into())
}

/// Waits until a session of these ports is inside COPY; it may well be through a
/// moment later.
async fn copying(ports: &[i32], sql: &Connection) -> Result<bool, Failure> {
    let statement = sql.prepare(INSIDE_COPY).await?;
    let begun = Instant::now();
    while begun.elapsed() < PAUSE {
        if sql.query_opt(&statement, &[&ports]).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The session of these ports, and the rows it has received, if it waits for its
/// client inside COPY: seen twice, because it may still be working on what it has
/// received.
async fn hanging(ports: &[i32], sql: &Connection) -> Result<Option<(i32, i64)>, Failure> {
    let mut seen = None;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(row) = sql.query_opt(INSIDE_COPY, &[&ports]).await? else { return Ok(None) };
        let waits: bool = row.try_get(2)?;
        seen = waits.then_some((row.try_get(0)?, row.try_get(1)?));
    }
    Ok(seen)
}

/// The local ports of a process's TCP connections, by `/proc` (proc(5)).
fn local_ports(pid: u32) -> Result<Vec<i32>, Failure> {
    let mut sockets = HashSet::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = fs::read_link(descriptor?.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')) {
            sockets.insert(inode.to_owned());
        }
    }
    let mut connections = fs::read_to_string("/proc/net/tcp")?;
    connections.push_str(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default());
    Ok(connections.lines().filter_map(|line| port(line, &sockets)).collect())
}

/// The local port in a line of `/proc/net/tcp`, if its socket is one of those.
fn port(line: &str, sockets: &HashSet<String>) -> Option<i32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, inode) = (fields.get(1)?, fields.get(9)?);
    if !sockets.contains(*inode) {
        return None;
    }
    i32::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_belongs_to_its_socket() {
        let line = "   1: 0100007F:1538 0100007F:C350 01 00000000:00000000 00:00000000 00000000  999        0 4711 1";
        assert_eq!(port(line, &HashSet::from(["4711".to_owned()])), Some(0x1538));
        assert_eq!(port(line, &HashSet::from(["4712".to_owned()])), None);
        assert_eq!(port("  sl  local_address rem_address", &HashSet::new()), None);
    }
}
