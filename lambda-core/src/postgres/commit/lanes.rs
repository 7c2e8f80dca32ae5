//! Steps 1 and 5 of the commit: the lanes' progress rows, locked and set.

use tokio_postgres::types::ToSql;

use crate::batch::{Batch, Span};
use crate::delivery::settle;
use crate::error::Error;
use crate::outcome::Outcome;
use crate::postgres::commit::session::Session;
use crate::postgres::connection::request::Request;
use crate::postgres::remedy;
use crate::postgres::{counts, progress};
use crate::progress::{Counts, Fingerprint, LaneId, Progress, Sums};
use crate::record::checksum;

const LOCK: Request = Request::to("lock lanes in PostgreSQL");

/// Update of [`recount`]. Parameters: lanes, the counts of outcomes, the sums.
fn set_recounted() -> String {
    let columns: Vec<&str> = Outcome::ALL
        .map(Outcome::as_str)
        .into_iter()
        .chain(["written", "owned", "displaced", "hash"])
        .collect();
    let set: Vec<String> = columns.iter().map(|name| format!("{name} = n.{name}")).collect();
    format!(
        "update lambda.ingest_progress p set {} from unnest($1::int4[], {}) as n(lane, {}) \
         where p.lane = n.lane",
        set.join(", "),
        counts::arrays(2, columns.len()),
        columns.join(", "),
    )
}

/// The counts of outcomes as one array for each outcome, then the sums.
fn counted(lanes: &[Progress]) -> Vec<Vec<i64>> {
    let column = |value: &dyn Fn(&Progress) -> i64| lanes.iter().map(value).collect();
    let mut columns: Vec<Vec<i64>> =
        Outcome::ALL.iter().map(|outcome| column(&|lane| lane.counts[*outcome])).collect();
    columns.push(column(&|lane| lane.sums.written));
    columns.push(column(&|lane| lane.sums.owned));
    columns.push(column(&|lane| lane.sums.displaced));
    columns
}

/// A batch's lanes, locked by the transaction.
#[derive(Debug)]
pub(crate) struct LockedLanes {
    /// The transaction's id as rows store it.
    pub(crate) xid: i64,
    /// The lanes found.
    rows: Vec<Progress>,
}

impl LockedLanes {
    /// The lane's progress, if its claim and position are those of the span.
    pub(crate) fn holding(&self, span: &Span) -> Option<&Progress> {
        self.rows.iter().find(|lane| settle::holds(span, lane))
    }

    /// The lane's progress, under any claim.
    pub(crate) fn get(&self, lane: LaneId) -> Option<&Progress> {
        self.rows.iter().find(|row| row.lane == lane)
    }
}

/// Step 1: locks lanes, in order.
pub(crate) async fn lock(session: &Session, lanes: &[LaneId]) -> Result<LockedLanes, Error> {
    let numbers: Vec<i32> = lanes.iter().map(|lane| lane.0).collect();
    let rows = session
        .client()
        .query(&session.statements.lock_lanes, &[&numbers])
        .await
        .map_err(|error| LOCK.failed(error))?;
    let read = || {
        let Some(first) = rows.first() else { return Ok((0, true)) };
        Ok((first.try_get::<_, i64>("xid")?, first.try_get::<_, bool>("same_cluster")?))
    };
    let (xid, same_cluster) = read().map_err(|error| LOCK.failed(error))?;
    if !same_cluster {
        return Err(Error::misconfigured(
            "the database was restored into another cluster: its stored transaction ids are invalid here",
            "run lambda-db-setup, which moves them",
        ));
    }
    let rows: Vec<Progress> = rows
        .iter()
        .map(progress::of_row)
        .collect::<Result<_, _>>()
        .map_err(|error| LOCK.failed(error))?;
    let pipeline = session.pipeline.name();
    if let Some(other) = rows.iter().find(|lane| lane.name.pipeline != pipeline) {
        return Err(Error::misconfigured(
            format!("a batch of {} cannot be stored by the sink of {pipeline}", other.name),
            "give the source and the sink the same pipeline",
        ));
    }
    Ok(LockedLanes { xid, rows })
}

/// Step 5: moves the lanes of a batch, all of them or none. Returns their new progress.
pub(crate) async fn set(
    session: &Session,
    batch: &Batch,
    locked: &LockedLanes,
    counts: &[Counts],
    sums: &[Sums],
) -> Result<Vec<Progress>, Error> {
    let mut after = Vec::with_capacity(batch.spans().len());
    for (index, span) in batch.spans().iter().enumerate() {
        let mut lane = locked
            .holding(span)
            .cloned()
            .ok_or_else(|| Error::Fenced { what: span.lane.to_string() })?;
        lane.position = span.to;
        lane.high = lane.high.max(lane.position);
        lane.counts += counts[index];
        lane.sums.add(sums[index]);
        lane.last = span.last.or(lane.last);
        after.push(lane);
    }
    let froms: Vec<i64> = batch.spans().iter().map(|span| span.from).collect();
    let claims: Vec<uuid::Uuid> = batch.spans().iter().map(|span| span.claim.0).collect();
    let lanes: Vec<i32> = after.iter().map(|lane| lane.lane.0).collect();
    let column = |value: fn(&Progress) -> i64| after.iter().map(value).collect::<Vec<i64>>();
    let last = |value: fn(&Fingerprint) -> i64| {
        after.iter().map(|lane| lane.last.as_ref().map(value)).collect::<Vec<Option<i64>>>()
    };
    let (positions, read) = (column(|lane| lane.position), column(|lane| lane.counts.read));
    let last =
        [last(|last| last.position), last(|last| last.timestamp_ms), last(|last| last.checksum)];
    let (high, hashes) = (column(|lane| lane.high), column(checksum::of_progress));
    let counted = counted(&after);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&lanes, &claims, &froms, &positions, &read];
    parameters.extend(counted.iter().map(|column| column as &(dyn ToSql + Sync)));
    parameters.extend([&high as &(dyn ToSql + Sync), &hashes]);
    parameters.extend(last.iter().map(|column| column as &(dyn ToSql + Sync)));
    let updated = session.client().execute(&session.statements.set_progress, &parameters).await;
    let updated =
        updated.map_err(|error| remedy::explain(error, "store progress in PostgreSQL"))?;
    expect_rows("set in ingest_progress", updated, after.len())?;
    Ok(after)
}

/// Updates the counts of a batch's rejected records, whose lanes are locked. Claims and
/// positions stay, and so does the time at which a group last stored something (rule R16,
/// docs/protocol.md).
pub(crate) async fn recount(
    session: &Session,
    batch: &Batch,
    locked: &LockedLanes,
    counts: &[Counts],
    sums: &[Sums],
) -> Result<(), Error> {
    let mut after = Vec::with_capacity(batch.spans().len());
    for (index, span) in batch.spans().iter().enumerate() {
        let mut lane = locked
            .get(span.lane)
            .cloned()
            .ok_or_else(|| Error::Fenced { what: span.lane.to_string() })?;
        lane.counts += counts[index].reconsidered();
        lane.sums.add(sums[index]);
        after.push(lane);
    }
    let lanes: Vec<i32> = after.iter().map(|lane| lane.lane.0).collect();
    let hashes: Vec<i64> = after.iter().map(checksum::of_progress).collect();
    let counted = counted(&after);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&lanes];
    parameters.extend(counted.iter().map(|column| column as &(dyn ToSql + Sync)));
    parameters.push(&hashes);
    let updated = session
        .connection()
        .execute(&set_recounted(), &parameters)
        .await
        .map_err(|error| remedy::own_tables(error, "count replayed records in PostgreSQL"))?;
    expect_rows("counted in ingest_progress", updated, after.len())
}

/// Checks a number of rows. Everything is locked and decided before it is written, so a
/// different number means that something else interferes, a trigger for example.
pub(crate) fn expect_rows(what: &str, done: u64, expected: usize) -> Result<(), Error> {
    if done == expected as u64 {
        return Ok(());
    }
    Err(Error::misconfigured(
        format!("{done} instead of {expected} rows could be {what}"),
        "look for triggers, rules or row security on the table; nothing of the batch was stored",
    ))
}
