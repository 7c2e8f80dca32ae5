//! The commit: one transaction for rows, corrections, dead letters, counts, sums and
//! positions. docs/protocol.md#commit-steps has its steps and their order; each deviation
//! that was tried led to deadlocks or wrong outcomes.

mod dead_letters;
mod insert;
pub(crate) mod lanes;
pub(crate) mod probe;
pub(crate) mod session;
mod statements;
mod supersede;

use std::time::Instant;

use tokio_postgres::error::SqlState;

use crate::batch::Batch;
use crate::delivery::settle;
use crate::error::Error;
use crate::metrics;
use crate::outcome::Authority;
use crate::postgres::commit::probe::{JobCache, probe};
use crate::postgres::commit::session::Session;
use crate::postgres::connection::request::Request;
use crate::postgres::remedy;
use crate::progress::{LaneId, Sums};
use crate::record::Table;
use crate::resolve::{Keys, Resolution};
use crate::sink::{Committed, Durability};

const STORE: Request = Request::to("store a batch in PostgreSQL");

/// Number of attempts by the probe path while other transactions insert the same ids.
const PROBES: u32 = 5;

/// First path for the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// COPY straight into the table; the key's index finds repeats.
    Fast,
    /// Probe first, since repeats keep coming.
    Probe,
    /// Probe first, and insert by one statement: the server's timeouts terminate a process
    /// that is frozen during one, but not during a COPY (rule R13, docs/protocol.md).
    Statement,
}

/// A commit that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was stored.
    Aborted(Error),
    /// COMMIT was sent and not acknowledged.
    Unknown(tokio_postgres::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Aborted(error)
    }
}

/// Result of a commit, and the path for the next one.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) committed: Committed,
    pub(crate) next: Path,
}

/// Commits `batch` on `session`. Leaves no transaction open on it unless the outcome is
/// unknown.
pub(crate) async fn commit(
    session: &mut Session,
    batch: &Batch,
    durability: Durability,
    path: Path,
    jobs: &JobCache,
) -> Result<Done, Failure> {
    let result = transact(session, batch, durability, path, jobs).await;
    if let Err(Failure::Aborted(_)) = result {
        session.roll_back().await;
    }
    result
}

async fn transact(
    session: &mut Session,
    batch: &Batch,
    durability: Durability,
    path: Path,
    jobs: &JobCache,
) -> Result<Done, Failure> {
    let storing = |error| STORE.failed(error);
    let begun = Instant::now();
    session.begin(durability == Durability::Durable).await.map_err(storing)?;
    let held: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
    let locked = lanes::lock(session, &held).await?;
    let (batch, fenced) = settle::fence(batch, |span| locked.holding(span).is_some());
    if batch.spans().is_empty() {
        session.roll_back().await;
        return Ok(Done { committed: Committed { stored: Vec::new(), fenced }, next: path });
    }
    let (resolution, sums, next) = store_rows(session, &batch, locked.xid, path, jobs).await?;
    let letters = dead_letters::store(
        session.client(),
        &session.statements.copy_dead_letters,
        &batch,
        &resolution.dead_letters,
    )
    .await
    .map_err(storing)?;
    lanes::expect_rows("copied into lambda.dead_letters", letters, resolution.dead_letters.len())?;
    let stored = lanes::set(session, &batch, &locked, &resolution.counts, &sums).await?;
    session.client().batch_execute("set constraints all immediate").await.map_err(storing)?;
    session.commit().await.map_err(Failure::Unknown)?;
    if !batch.entries().is_empty() {
        metrics::committed(session.pipeline.name(), begun.elapsed());
    }
    Ok(Done { committed: Committed { stored, fenced }, next })
}

/// Steps 2 and 3: stores the rows, by the fast path if it may be tried, otherwise by
/// probing.
pub(crate) async fn store_rows(
    session: &Session,
    batch: &Batch,
    xid: i64,
    path: Path,
    jobs: &JobCache,
) -> Result<(Resolution, Vec<Sums>, Path), Error> {
    let keys = Keys::of(batch);
    if path == Path::Fast {
        savepoint(session).await?;
        let resolution = keys.resolve(&[]);
        if let Inserted::All(sums) = store_new(session, batch, &resolution, path, xid).await? {
            return Ok((resolution, sums, Path::Fast));
        }
    }
    let mut existing = None;
    for _ in 0..PROBES {
        savepoint(session).await?;
        let lock = matches!(batch.authority, Authority::Batch(_));
        let found = probe(session, &keys, lock, jobs).await?;
        let resolution = keys.resolve(&found.existing());
        match store_new(session, batch, &resolution, path, xid).await? {
            Inserted::All(mut sums) => {
                supersede::apply(session, batch, &resolution, &found, xid, &mut sums).await?;
                let next = if found.is_empty() { Path::Fast } else { Path::Probe };
                return Ok((resolution, sums, next));
            }
            // No transaction has inserted an id of ours in between: the key is the reason.
            Inserted::KeyTaken(error) if existing == Some(found.len()) => return Err(error),
            Inserted::KeyTaken(_) | Inserted::IdTaken => existing = Some(found.len()),
        }
    }
    Err(Error::Contended { tries: PROBES })
}

/// Result of inserting the rows that were new in the probe.
enum Inserted {
    /// They are stored, and add these sums to the spans.
    All(Vec<Sums>),
    /// One of the ids was taken in between.
    IdTaken,
    /// Another unique key is taken. The row that has it may be the same record: the age of
    /// the indexes decides which key is checked first.
    KeyTaken(Error),
}

/// Stores the new rows. If not all of them could be inserted, the transaction returns to
/// the savepoint, which frees the probe's locks.
async fn store_new(
    session: &Session,
    batch: &Batch,
    resolution: &Resolution,
    path: Path,
    xid: i64,
) -> Result<Inserted, Error> {
    let inserted = match path {
        Path::Fast | Path::Probe => insert::by_copy(session, batch, &resolution.inserts, xid).await,
        Path::Statement => insert::by_statement(session, batch, &resolution.inserts, xid).await,
    };
    match inserted {
        Ok((sums, stored)) => {
            let expected = resolution.inserts.len();
            lanes::expect_rows("inserted into the table", stored, expected)?;
            Ok(Inserted::All(sums))
        }
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let sql = "rollback to savepoint rows; release savepoint rows";
            let back = session.client().batch_execute(sql).await;
            back.map_err(|error| STORE.failed(error))?;
            Ok(if is_id_key(session, &error).await? {
                Inserted::IdTaken
            } else {
                Inserted::KeyTaken(refused(session.pipeline.table(), error))
            })
        }
        Err(error) => Err(refused(session.pipeline.table(), error)),
    }
}

/// Converts a refusal. A missing value is the record's fault only if the column belongs to
/// the record: any other was added to the table without a default (rule R11,
/// docs/protocol.md).
fn refused(table: &Table, error: tokio_postgres::Error) -> Error {
    // The rows are sent in binary, so this is about a type. Elsewhere the code means a
    // broken connection.
    if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) {
        return Error::Misconfigured {
            what: format!("rows do not have the form that {table} accepts"),
            remedy: remedy::of_sqlstate(SqlState::INVALID_BINARY_REPRESENTATION.code())
                .remedy
                .into(),
            source: Some(format!("SQLSTATE {}", SqlState::PROTOCOL_VIOLATION.code()).into()),
        };
    }
    let foreign = error.as_db_error().filter(|error| *error.code() == SqlState::NOT_NULL_VIOLATION);
    let foreign = foreign.and_then(|error| error.column()).map(ToOwned::to_owned);
    match foreign.filter(|name| table.columns().iter().all(|column| column.name != *name)) {
        Some(column) => Error::misconfigured(
            format!("{table}.{column} is not null, but records do not have it"),
            "give the column a default, or allow null",
        ),
        None => STORE.failed(error),
    }
}

async fn savepoint(session: &Session) -> Result<(), Error> {
    let done = session.client().batch_execute("savepoint rows").await;
    done.map_err(|error| STORE.failed(error))
}

/// Whether the violated index is one of the key's.
async fn is_id_key(session: &Session, error: &tokio_postgres::Error) -> Result<bool, Error> {
    let violated = error.as_db_error().and_then(|error| error.constraint());
    let Some(violated) = violated else { return Ok(false) };
    if session.statements.key_indexes.iter().any(|key| key == violated) {
        return Ok(true);
    }
    // It may be that of a partition which was added after the session was opened.
    let table = session.pipeline.table();
    let indexes = statements::key_indexes(session.connection(), table).await;
    Ok(indexes.map_err(|error| STORE.failed(error))?.iter().any(|key| key == violated))
}
