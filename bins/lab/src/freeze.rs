//! Freezes a consumer while its database session is inside COPY.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::processes::Process;

/// Time to keep trying.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time that a consumer is stopped before its next batch, and time to wait for that batch:
/// far below the session's timeout.
const PAUSE: Duration = Duration::from_millis(1500);

/// A consumer that hangs inside COPY.
#[derive(Debug)]
pub struct Frozen {
    /// Index of the consumer.
    pub index: usize,
    /// Process id of its database session.
    pub backend: i32,
    /// Rows that the session has received and not committed.
    pub rows: i64,
    /// Number of earlier attempts that froze a consumer elsewhere.
    pub misses: u32,
}

/// A session of these ports inside COPY that has received rows, which the server counts by
/// the thousand.
const INSIDE_COPY: &str = "\
    select a.pid, c.tuples_processed \
    from pg_stat_activity a join pg_stat_progress_copy c using (pid) \
    where a.client_port = any($1) and c.relid = 'transactions'::regclass \
      and c.tuples_processed > 0";

/// Stops one consumer after the other for a moment, which lets its next batch grow, and
/// stops it again once that batch is being sent. A consumer that is still inside COPY then
/// stays stopped: nothing can commit what its session has received.
///
/// The server must be on this machine: a session is identified by its local port.
///
/// # Errors
/// If none is caught in time, or one of them has ended.
pub async fn inside_copy(consumers: &[Process], sql: &Connection) -> Result<Frozen, Failure> {
    let statement = sql.client().prepare(INSIDE_COPY).await?;
    let begun = Instant::now();
    let mut misses = 0;
    while begun.elapsed() < PATIENCE {
        for (index, consumer) in consumers.iter().enumerate() {
            consumer.freeze().await?;
            tokio::time::sleep(PAUSE).await;
            let ports = local_ports(consumer.pid())?;
            consumer.thaw()?;
            let thawed = Instant::now();
            while thawed.elapsed() < PAUSE {
                if sql.client().query_opt(&statement, &[&ports]).await?.is_none() {
                    continue;
                }
                consumer.freeze().await?;
                if let Some(row) = sql.client().query_opt(&statement, &[&ports]).await? {
                    let (backend, rows) = (row.try_get(0)?, row.try_get(1)?);
                    return Ok(Frozen { index, backend, rows, misses });
                }
                consumer.thaw()?;
                misses += 1;
            }
        }
    }
    Err(format!("no consumer was caught inside COPY within {} s", PATIENCE.as_secs()).into())
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
