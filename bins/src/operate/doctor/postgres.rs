//! The database server.

use lambda_core::postgres::inspect::{self, OpenTransaction, Server, Skew, Slot};
use lambda_core::postgres::{Connection, DatabaseConfig, connect};
use lambda_core::{Error, Record, Transaction};

use super::finding::{CONFIGURATION, Finding, TEMPORARY, mebibytes, of};
use super::{dead_letters, role, schema};

/// The checks of this room behind the login, in their order.
const BEHIND_LOGIN: [&str; 9] = [
    "version",
    "primary",
    "durability",
    "timeouts",
    "connections",
    "clock",
    "disk",
    "slots",
    "vacuum",
];

/// The oldest version, as in `server_version_num`.
const VERSION_MIN: i32 = 170_000;

/// Fewer connections left are told: a consumer takes up to four, and claims more.
const CONNECTIONS_MIN: i64 = 10;

/// A larger difference between clocks is told.
const SKEW_MAX_MICROS: i64 = 2_000_000;

/// How much is written to see whether there is room.
const WRITTEN_BYTES: usize = 8 << 20;

/// Timeouts of the server, each with the least milliseconds that leave the platform
/// room: what a batch, an answer and a load's open transaction may take.
const TIMEOUTS: [(&str, i64); 3] = [
    ("statement_timeout", 30_000),
    ("idle_in_transaction_session_timeout", 10_000),
    ("transaction_timeout", 60_000),
];

/// Looks at the server, the schema and our role. Gives a connection for further
/// questions about the schema's tables, if they can be asked.
pub(super) async fn examine(
    config: Result<DatabaseConfig, Error>,
    age_max: i64,
    findings: &mut Vec<Finding>,
) -> Option<Connection> {
    let (config, connection) = match log_in(config).await {
        Ok((config, connection)) => (config, connection),
        Err(error) => {
            findings.push(Finding::error("postgres", &error));
            skip("there is no connection", findings);
            return None;
        }
    };
    findings.push(Finding::ok("postgres", format!("logged in to {config}")));
    let pooled = inspect::is_pooled(&config).await;
    if !matches!(pooled, Ok(false)) {
        findings.push(of("pooling", pooled.map(|_| mixed_up())));
        skip("what a pooler in between answers is no session's", findings);
        return None;
    }
    findings.push(Finding::ok("pooling", "each connection has a backend of its own"));
    let server = match inspect::server(&connection).await {
        Ok(server) => server,
        Err(error) => {
            findings.push(Finding::error("version", &error));
            skip("the server does not tell about itself", findings);
            return None;
        }
    };
    findings.extend([
        version(&server),
        primary(&server),
        durability(&server),
        timeouts(&server),
        connections(&server),
        of("clock", inspect::skew(&connection).await.map(clock)),
    ]);
    let role = inspect::privileges::our_role(&connection, &Transaction::TABLE).await;
    let temporary = role.as_ref().is_ok_and(|role| role.temporary);
    let sees_sessions = role.as_ref().is_ok_and(|role| role.sees_sessions);
    findings.push(disk(&config, &server, temporary).await);
    findings.push(of("slots", inspect::slots(&connection).await.map(|it| slots(&it))));
    let open = inspect::open_transactions(&connection, age_max).await;
    findings.push(of("vacuum", open.map(|open| vacuum(&open, age_max, sees_sessions))));
    let readable = schema::examine(&config, &connection, role.as_ref().ok(), findings).await;
    findings.push(if readable {
        of(dead_letters::CHECK, dead_letters::examine(&connection).await)
    } else {
        Finding::skipped(dead_letters::CHECK, "the schema's tables cannot be read")
    });
    findings.push(of("role", role.map(|it| role::judged(&it))));
    readable.then_some(connection)
}

async fn log_in(
    config: Result<DatabaseConfig, Error>,
) -> Result<(DatabaseConfig, Connection), Error> {
    let config = config?;
    let connection = connect(&config, "doctor").await?;
    Ok((config, connection))
}

/// All checks of this room, in their order.
pub(super) fn checks() -> impl Iterator<Item = &'static str> {
    let login = ["postgres", "pooling"].into_iter();
    login.chain(BEHIND_LOGIN).chain(schema::CHECKS).chain([dead_letters::CHECK, "role"])
}

/// What is not looked at, and why.
fn skip(why: &str, findings: &mut Vec<Finding>) {
    let told: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    let open = checks().filter(|check| !told.contains(check));
    let skipped: Vec<Finding> = open.map(|check| Finding::skipped(check, why)).collect();
    findings.extend(skipped);
}

fn mixed_up() -> Finding {
    Finding::problem(
        "pooling",
        CONFIGURATION,
        "one backend answers several connections: a pooler shares them by the transaction or \
         statement",
        "connect to PostgreSQL itself, or set the pooler (PgBouncer: pool_mode) to session",
    )
}

fn version(server: &Server) -> Finding {
    let found = format!("PostgreSQL {}.{}", server.version / 10_000, server.version % 10_000);
    if server.version < VERSION_MIN {
        return Finding::problem(
            "version",
            CONFIGURATION,
            format!("{found} is too old"),
            "upgrade the server to PostgreSQL 17 or newer",
        );
    }
    Finding::ok("version", found)
}

fn primary(server: &Server) -> Finding {
    let found = match (server.standby, server.read_only) {
        (true, _) => "the server is a standby, which only reads",
        (false, true) => "transactions are read-only by default for this role or database",
        (false, false) => return Finding::ok("primary", "it takes writes"),
    };
    let remedy = "point DB_HOST at the primary; else look for default_transaction_read_only";
    Finding::problem("primary", TEMPORARY, found, remedy)
}

fn durability(server: &Server) -> Finding {
    if server.setting("fsync") != "on" {
        return Finding::problem(
            "durability",
            CONFIGURATION,
            "fsync is off: a crash of the machine can destroy the database",
            "set fsync = on",
        );
    }
    if server.setting("full_page_writes") != "on" {
        return Finding::warning(
            "durability",
            "full_page_writes is off: a crash can tear pages",
            "set full_page_writes = on, unless the file system never tears a page",
        );
    }
    if server.setting("synchronous_commit") == "off" {
        return Finding::warning(
            "durability",
            "synchronous_commit is off by default: loaders set their own, others' commits can be \
             lost in a crash",
            "set synchronous_commit = on; loaders turn it off where they may",
        );
    }
    Finding::ok("durability", "fsync, full_page_writes and synchronous_commit are on")
}

fn timeouts(server: &Server) -> Finding {
    let short: Vec<String> = TIMEOUTS
        .iter()
        .filter_map(|(name, least)| {
            let timeout = server.timeout_ms(name).filter(|timeout| timeout < least)?;
            Some(format!("{name} is {timeout} ms"))
        })
        .collect();
    if short.is_empty() {
        return Finding::ok("timeouts", "none is in the way");
    }
    let least = TIMEOUTS.map(|(name, least)| format!("{name} {} s", least / 1000)).join(", ");
    Finding::warning(
        "timeouts",
        format!("{}: batches may be cut short again and again", short.join(", ")),
        format!("alter role … set …, to 0 or at least: {least}"),
    )
}

fn connections(server: &Server) -> Finding {
    let found = format!(
        "{} of {} are left",
        server.connections_left.max(0),
        server.setting("max_connections")
    );
    if server.connections_left < CONNECTIONS_MIN {
        let remedy = "raise max_connections, or run fewer programs";
        return Finding::warning("connections", found, remedy);
    }
    Finding::ok("connections", found)
}

fn clock(skew: Skew) -> Finding {
    let (ahead, uncertain) = (skew.ahead_micros / 1_000, skew.uncertain_micros / 1_000);
    let found = format!("the server's is {ahead:+} ms from ours (give or take {uncertain} ms)");
    // Only what the round trip does not explain.
    if skew.ahead_micros.abs() - skew.uncertain_micros > SKEW_MAX_MICROS {
        return Finding::warning("clock", found, "let NTP set the clocks of both machines");
    }
    Finding::ok("clock", found)
}

async fn disk(config: &DatabaseConfig, server: &Server, temporary: bool) -> Finding {
    let size = format!("the database has {}", mebibytes(server.database_bytes));
    if server.read_only {
        return Finding::skipped("disk", format!("{size}; nothing can be written to try"));
    }
    if !temporary {
        let why = format!("{size}; this role may make no temporary table to try");
        return Finding::skipped("disk", why);
    }
    let written = mebibytes(WRITTEN_BYTES as i64);
    let tried = inspect::try_disk(config, WRITTEN_BYTES).await;
    of("disk", tried.map(|()| Finding::ok("disk", format!("{size}; {written} more were written"))))
}

fn slots(slots: &[Slot]) -> Finding {
    let left = |slot: &&Slot| !slot.active && slot.kept_bytes > slot.wal_bytes_max;
    let left: Vec<String> = slots
        .iter()
        .filter(left)
        .map(|slot| format!("{} keeps {}", slot.name, mebibytes(slot.kept_bytes)))
        .collect();
    if left.is_empty() {
        return Finding::ok("slots", format!("{} slots, none left behind", slots.len()));
    }
    Finding::warning(
        "slots",
        format!("nobody reads from slots that fill the disk: {} of WAL", left.join(", ")),
        "start who reads from them, or select pg_drop_replication_slot('…')",
    )
}

fn vacuum(open: &[OpenTransaction], age_max: i64, sees_sessions: bool) -> Finding {
    match open {
        [] if sees_sessions => {
            Finding::ok("vacuum", format!("no transaction is open for more than {age_max} s"))
        }
        [] => Finding::ok(
            "vacuum",
            format!(
                "no prepared transaction is open for more than {age_max} s (what others' sessions \
                 do is hidden from this role)"
            ),
        ),
        [oldest, others @ ..] => {
            let more =
                if others.is_empty() { String::new() } else { format!(", {} more", others.len()) };
            Finding::warning(
                "vacuum",
                format!(
                    "{} is open for {} s{more}: vacuum removes nothing newer",
                    oldest.of, oldest.seconds
                ),
                "end it: commit or rollback prepared '…', or select pg_terminate_backend(…)",
            )
        }
    }
}
