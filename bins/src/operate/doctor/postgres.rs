//! Checks of the database server.

use lambda_core::Error;
use lambda_core::postgres::inspect::{self, OpenTransaction, Server, Skew, Slot};
use lambda_core::postgres::{Connection, Postgres, connect};

use super::finding::{CONFIGURATION, Finding, TEMPORARY, mebibytes, of};
use super::{dead_letters, role, schema};
use crate::pipelines::Chosen;

/// Names of the checks after the login, in order.
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

/// The oldest supported version, as in `server_version_num`.
const VERSION_MIN: i32 = 170_000;

/// Free connections below which the check warns: a consumer takes up to four, and more to claim.
const CONNECTIONS_MIN: i64 = 10;

/// Difference between the clocks above which the check warns.
const SKEW_MAX_MICROS: i64 = 2_000_000;

/// Bytes written to check whether the disk has space.
const WRITTEN_BYTES: usize = 8 << 20;

/// Timeouts of the server, each with the shortest value that works for the platform, in
/// milliseconds: a batch, an answer and a load's open transaction must fit in.
const TIMEOUTS: [(&str, i64); 3] = [
    ("statement_timeout", 30_000),
    ("idle_in_transaction_session_timeout", 10_000),
    ("transaction_timeout", 60_000),
];

/// Checks the server, the schema and our role. Returns a connection for further checks of
/// the schema's tables, if they can be read.
pub(super) async fn examine(
    config: Result<Postgres, Error>,
    chosen: &Chosen,
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
        findings.push(of("pooling", pooled.map(|_| shared())));
        skip("a pooler in transaction mode makes the answers unreliable", findings);
        return None;
    }
    findings.push(Finding::ok("pooling", "each connection has its own backend"));
    let server = match inspect::server(&connection).await {
        Ok(server) => server,
        Err(error) => {
            findings.push(Finding::error("version", &error));
            skip("the server's settings could not be read", findings);
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
    let pipeline = match chosen.pipeline(&config).await {
        Ok(pipeline) => pipeline,
        Err(error) => {
            findings.push(Finding::error("tables", &error));
            skip("the pipeline's table could not be read", findings);
            return None;
        }
    };
    let readable = chosen.readable();
    let role = inspect::privileges::our_role(&connection, pipeline.table(), readable).await;
    let temporary = role.as_ref().is_ok_and(|role| role.temporary);
    let sees_sessions = role.as_ref().is_ok_and(|role| role.sees_sessions);
    findings.push(disk(&config, &server, temporary).await);
    findings.push(of("slots", inspect::slots(&connection).await.map(|it| slots(&it))));
    let open = inspect::open_transactions(&connection, age_max).await;
    findings.push(of("vacuum", open.map(|open| vacuum(&open, age_max, sees_sessions))));
    let subject = (&pipeline, chosen.objects());
    let readable =
        schema::examine(&config, &connection, subject, role.as_ref().ok(), findings).await;
    findings.push(if readable {
        of(dead_letters::CHECK, dead_letters::examine(&connection, pipeline.name()).await)
    } else {
        Finding::skipped(dead_letters::CHECK, "the schema's tables could not be read")
    });
    findings.push(of("role", role.map(|it| role::judged(&it))));
    readable.then_some(connection)
}

async fn log_in(config: Result<Postgres, Error>) -> Result<(Postgres, Connection), Error> {
    let config = config?;
    let connection = connect(&config, "doctor").await?;
    Ok((config, connection))
}

/// Names of all checks of this module and those it calls, in order.
pub(super) fn checks() -> impl Iterator<Item = &'static str> {
    let login = ["postgres", "pooling"].into_iter();
    login.chain(BEHIND_LOGIN).chain(schema::CHECKS).chain([dead_letters::CHECK, "role"])
}

/// Reports the checks without a finding as skipped.
fn skip(why: &str, findings: &mut Vec<Finding>) {
    let found: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    let open = checks().filter(|check| !found.contains(check));
    let skipped: Vec<Finding> = open.map(|check| Finding::skipped(check, why)).collect();
    findings.extend(skipped);
}

fn shared() -> Finding {
    Finding::problem(
        "pooling",
        CONFIGURATION,
        "a pooler in transaction or statement mode shares one backend between connections",
        "connect to PostgreSQL directly, or set the pooler to session mode (PgBouncer: pool_mode)",
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
        (true, _) => "the server is a read-only standby",
        (false, true) => "transactions are read-only by default for this role or database",
        (false, false) => return Finding::ok("primary", "the server accepts writes"),
    };
    let remedy = "point DB_HOST at the primary, or turn default_transaction_read_only off";
    Finding::problem("primary", TEMPORARY, found, remedy)
}

fn durability(server: &Server) -> Finding {
    if server.setting("fsync") != "on" {
        return Finding::problem(
            "durability",
            CONFIGURATION,
            "fsync is off: a crash of the machine can corrupt the database",
            "set fsync = on",
        );
    }
    if server.setting("full_page_writes") != "on" {
        return Finding::warning(
            "durability",
            "full_page_writes is off: a crash can leave pages half written",
            "set full_page_writes = on, unless the file system writes whole pages only",
        );
    }
    if server.setting("synchronous_commit") == "off" {
        return Finding::warning(
            "durability",
            "synchronous_commit is off by default: a crash can lose commits of other programs; \
             loaders set their own",
            "set synchronous_commit = on; loaders turn it off where that is safe",
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
        return Finding::ok("timeouts", "none is too short");
    }
    let least = TIMEOUTS.map(|(name, least)| format!("{name} {} s", least / 1000)).join(", ");
    Finding::warning(
        "timeouts",
        format!("{}: batches may be cancelled again and again", short.join(", ")),
        format!("alter role … set … to 0 (no limit) or at least: {least}"),
    )
}

fn connections(server: &Server) -> Finding {
    let found = format!(
        "{} of {} are free",
        server.connections_left.max(0),
        server.setting("max_connections")
    );
    if server.connections_left < CONNECTIONS_MIN {
        let remedy = "raise max_connections or run fewer programs";
        return Finding::warning("connections", found, remedy);
    }
    Finding::ok("connections", found)
}

fn clock(skew: Skew) -> Finding {
    let (ahead, uncertain) = (skew.ahead_micros / 1_000, skew.uncertain_micros / 1_000);
    let found = format!("the server's clock differs by {ahead:+} ms (± {uncertain} ms)");
    // Compares only the part that the round trip does not explain.
    if skew.ahead_micros.abs() - skew.uncertain_micros > SKEW_MAX_MICROS {
        return Finding::warning("clock", found, "let NTP set the clocks of both machines");
    }
    Finding::ok("clock", found)
}

async fn disk(config: &Postgres, server: &Server, temporary: bool) -> Finding {
    let size = format!("the database takes {}", mebibytes(server.database_bytes));
    if server.read_only {
        return Finding::skipped(
            "disk",
            format!("{size}; a write cannot be tried on a read-only server"),
        );
    }
    if !temporary {
        let why =
            format!("{size}; a write cannot be tried: this role may create no temporary table");
        return Finding::skipped("disk", why);
    }
    let written = mebibytes(WRITTEN_BYTES as i64);
    let tried = inspect::try_disk(config, WRITTEN_BYTES).await;
    of(
        "disk",
        tried.map(|()| Finding::ok("disk", format!("{size}; writing {written} more succeeded"))),
    )
}

fn slots(slots: &[Slot]) -> Finding {
    let left = |slot: &&Slot| !slot.active && slot.kept_bytes > slot.wal_bytes_max;
    let left: Vec<String> = slots
        .iter()
        .filter(left)
        .map(|slot| format!("{} holds {}", slot.name, mebibytes(slot.kept_bytes)))
        .collect();
    if left.is_empty() {
        return Finding::ok("slots", format!("{} slots, none holds too much WAL", slots.len()));
    }
    Finding::warning(
        "slots",
        format!("inactive slots fill the disk: {} of WAL", left.join(", ")),
        "start the standby that reads them, or select pg_drop_replication_slot('…')",
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
                "no prepared transaction is open for more than {age_max} s (this role cannot see \
                 other sessions)"
            ),
        ),
        [oldest, others @ ..] => {
            let more =
                if others.is_empty() { String::new() } else { format!(", {} more", others.len()) };
            Finding::warning(
                "vacuum",
                format!(
                    "{} has been open for {} s{more}: vacuum cannot remove newer rows",
                    oldest.of, oldest.seconds
                ),
                "end it: commit or rollback prepared '…', or select pg_terminate_backend(…)",
            )
        }
    }
}
