//! Meaning of the SQLSTATEs of PostgreSQL, and what to do about them.

use std::error::Error as _;

use crate::error::{Error, Kind, Server, Verdict, verdict};

/// Statements that a session has prepared are missing, or belong to another session: a
/// pooler in between gives each transaction to any backend.
const POOLER: &str = "\
    PgBouncer or another pooler in transaction mode is between this program and the server \
    and shares prepared statements, settings and locks among its clients: connect to the server \
    itself, or set the pooler's pool_mode to session";

/// Meaning of a SQLSTATE for a loader.
pub(crate) fn of_sqlstate(code: &str) -> Verdict {
    use Kind::{Data, Fatal, Transient};
    match code {
        "28P01" => verdict(Fatal, "check DB_USER and DB_PASSWORD"),
        "28000" => verdict(
            Fatal,
            "check DB_USER and DB_SSLMODE against the server's pg_hba.conf (hostssl wants TLS)",
        ),
        "3D000" => verdict(Fatal, "check DB_NAME, or create the database"),
        "3F000" | "42P01" | "42703" | "42704" | "42883" => {
            verdict(Fatal, "the schema is not of this version: run lambda-db-setup")
        }
        "42501" => verdict(Fatal, "the role lacks a grant: run lambda-db-setup"),
        "25P03" | "25P04" => {
            verdict(Transient, "a timeout ended the transaction: check transaction_timeout")
        }
        "54000" => verdict(Data, "a record is too large for an index: see the dead letters"),
        // Not of a record: what was sent is of another type than the column, or was cut.
        "22P03" | "22P04" => verdict(
            Fatal,
            "a column's type differs from the record's: compare the table with this version's, or \
             run lambda-db-setup",
        ),
        "0A000" => {
            verdict(Fatal, "look for row security, rules and foreign tables where rows are stored")
        }
        "26000" | "42P05" => verdict(Fatal, POOLER),
        "25006" => verdict(Transient, "the server is read-only: check that this is the primary"),
        "53100" => verdict(Transient, "the disk is full: make room on the database server"),
        "53200" => verdict(Transient, "the server is out of memory"),
        "53300" => {
            verdict(Transient, "too many connections: raise max_connections or lower the pool")
        }
        "55P03" => verdict(Transient, "another session holds a lock: look at pg_stat_activity"),
        "57014" => verdict(Transient, "a timeout cancelled the statement: check statement_timeout"),
        "57P01" | "57P02" | "57P03" => verdict(Transient, "the server is starting or stopping"),
        _ => match code.get(..2).unwrap_or_default() {
            "08" => verdict(Transient, "check the network between this program and the server"),
            "22" | "23" => {
                verdict(Data, "a record violates a rule of the table: see the dead letters")
            }
            "40" => verdict(Transient, "concurrent transactions collided"),
            "53" => verdict(Transient, "the server lacks a resource"),
            "55" | "57" | "58" => verdict(Transient, "look at the database server's log"),
            "P0" => verdict(Data, "a trigger refuses the record: see the dead letters"),
            _ => verdict(Fatal, "look at the database server's log"),
        },
    }
}

/// Converts an error met while doing `what` ("store a batch in PostgreSQL").
///
/// The server's detail and context hold values of rows, so the error keeps only its
/// code, its message and the name of the constraint or column. It drops the message
/// where that may quote a value (`invalid input syntax`) or comes from a trigger.
pub(crate) fn explain(error: tokio_postgres::Error, what: &'static str) -> Error {
    let Some(db) = error.as_db_error() else { return without_code(error, what) };
    let code = db.code().code().to_owned();
    let Verdict { kind, remedy } = verdict_of(&code, db.message());
    let cause = if quotes_values(&code) {
        format!("see the server's log for the message (SQLSTATE {code})")
    } else {
        format!("{} (SQLSTATE {code})", db.message())
    };
    match kind {
        Kind::Fatal if code == "0A000" => Error::Unsupported { what, source: cause.into() },
        // The server runs and accepts no connection.
        Kind::Transient if matches!(code.as_str(), "53300" | "57P01" | "57P02" | "57P03") => {
            let source = format!("{cause}; {remedy}").into();
            Error::Unreachable { server: Server::Postgres, source }
        }
        Kind::Data => Error::Refused {
            code,
            object: db.constraint().or(db.column()).unwrap_or_default().to_owned(),
            source: cause.into(),
        },
        Kind::Transient if code == "40P01" => Error::Deadlock { what, source: cause.into() },
        Kind::Transient | Kind::Fenced => {
            Error::Temporary { server: Server::Postgres, what, remedy, source: cause.into() }
        }
        Kind::Fatal => Error::Misconfigured {
            what: format!("could not {what}"),
            remedy: remedy.into(),
            source: Some(cause.into()),
        },
    }
}

/// Meaning of an error. PgBouncer has one code for all its own errors.
fn verdict_of(code: &str, message: &str) -> Verdict {
    if code == "08P01" && message.contains("pooling mode") {
        return Verdict { kind: Kind::Fatal, remedy: POOLER };
    }
    of_sqlstate(code)
}

/// Whether the message with this code may hold a value of a row: it is about data, or
/// of a class that only triggers use.
fn quotes_values(code: &str) -> bool {
    const OF_THE_SERVER: [&str; 16] = [
        "08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0",
        "XX",
    ];
    !code.get(..2).is_some_and(|class| OF_THE_SERVER.contains(&class))
}

/// Converts an error as [`explain`] does, for writes to the platform's own tables: no
/// record causes a refusal there.
pub(crate) fn own_tables(error: tokio_postgres::Error, what: &'static str) -> Error {
    match explain(error, what) {
        Error::Refused { code, object, source } => Error::Misconfigured {
            what: format!("could not {what}: refused with {code} {object}"),
            remedy: "look for rules and triggers added to batch_jobs and ingest_progress".into(),
            source: Some(source),
        },
        other => other,
    }
}

/// Converts an error without a code of the server: the connection broke, or the answer
/// was not as expected.
fn without_code(error: tokio_postgres::Error, what: &'static str) -> Error {
    let broken = error.is_closed()
        || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    if broken {
        return Error::Unreachable { server: Server::Postgres, source: Box::new(error) };
    }
    Error::Misconfigured {
        what: format!("could not {what}"),
        remedy: "the schema is not of this version: run lambda-db-setup".into(),
        source: Some(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_the_server_has_the_meaning_in_this_table() {
        use Kind::{Data, Fatal, Transient};
        let table = [
            // The record violates a rule.
            ("22001", Data),
            ("22003", Data),
            ("23502", Data),
            ("23503", Data),
            ("23505", Data),
            ("23514", Data),
            ("23P01", Data),
            ("22P02", Data),
            ("54000", Data),
            ("P0001", Data),
            // The setup must change.
            ("28P01", Fatal),
            ("3D000", Fatal),
            ("42501", Fatal),
            ("42703", Fatal),
            ("42P01", Fatal),
            // The sent data does not fit the table, or the table does not support the
            // operation.
            ("22P03", Fatal),
            ("22P04", Fatal),
            ("0A000", Fatal),
            ("42804", Fatal),
            ("42809", Fatal),
            // A pooler is in between.
            ("26000", Fatal),
            ("42P05", Fatal),
            ("XX001", Fatal),
            // Passes by itself: read-only (a standby too), collisions, no room, timeouts,
            // restarts.
            ("08006", Transient),
            ("25006", Transient),
            ("40001", Transient),
            ("40P01", Transient),
            ("53100", Transient),
            ("53200", Transient),
            ("53300", Transient),
            ("55P03", Transient),
            ("57014", Transient),
            ("57P01", Transient),
            ("57P03", Transient),
            ("58030", Transient),
        ];
        for (code, kind) in table {
            assert_eq!(of_sqlstate(code).kind, kind, "{code}");
        }
    }
}
