//! Stored progress, read without locks.

use tokio_postgres::Row;

use crate::error::Error;
use crate::postgres::connection::Connection;
use crate::postgres::connection::request::Request;
use crate::postgres::counts;
use crate::progress::{ClaimId, Fingerprint, LaneId, LaneName, Progress, Sums};

/// Columns that [`of_row`] reads.
pub(super) fn columns() -> String {
    format!(
        "lane, pipeline, source, partition, position, end_position, high, claim, {}, \
         written, owned, displaced, last_position, last_timestamp_ms, last_checksum",
        counts::list(str::to_owned)
    )
}

const READ: Request = Request::to("read progress in PostgreSQL");

/// Reads the name of a lane.
pub(super) fn lane_name(row: &Row) -> Result<LaneName, tokio_postgres::Error> {
    Ok(LaneName {
        pipeline: row.try_get("pipeline")?,
        source: row.try_get("source")?,
        partition: row.try_get("partition")?,
    })
}

/// Reads a progress row.
pub(super) fn of_row(row: &Row) -> Result<Progress, tokio_postgres::Error> {
    let last = (
        row.try_get("last_position")?,
        row.try_get("last_timestamp_ms")?,
        row.try_get("last_checksum")?,
    );
    let last = match last {
        (Some(position), Some(timestamp_ms), Some(checksum)) => {
            Some(Fingerprint { position, timestamp_ms, checksum })
        }
        _ => None,
    };
    Ok(Progress {
        lane: LaneId(row.try_get("lane")?),
        name: lane_name(row)?,
        position: row.try_get("position")?,
        end_position: row.try_get("end_position")?,
        high: row.try_get("high")?,
        claim: row.try_get::<_, Option<uuid::Uuid>>("claim")?.map(ClaimId),
        counts: counts::of_row(row, "")?,
        sums: Sums {
            written: row.try_get("written")?,
            owned: row.try_get("owned")?,
            displaced: row.try_get("displaced")?,
        },
        last,
    })
}

/// Reads the stored progress of all lanes of a pipeline that a consumer group ever claimed:
/// people see no other counts of a stream (rule R10, docs/protocol.md).
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn stream_lanes(connection: &Connection, pipeline: &str) -> Result<Vec<Progress>, Error> {
    let sql = format!(
        "select {} from lambda.ingest_progress \
         where pipeline = $1 and consumer_group is not null order by source, partition",
        columns()
    );
    let read = async {
        let rows = connection.query(&sql, &[&pipeline]).await?;
        rows.iter().map(of_row).collect::<Result<_, tokio_postgres::Error>>()
    };
    READ.ask(read).await
}

/// Makes the end of a run durable. All that was seen precedes this record in the log, and a
/// synchronous commit waits until the log is flushed that far; without a record it would
/// not. A row in its place may be locked.
const MAKE_DURABLE: &str = "select pg_logical_emit_message(true, 'lambda', ''); commit";

/// Reads as [`stream_lanes`] does, and makes the result durable, whichever process stored
/// it: no crash of the server reverts it (rule R5, docs/protocol.md).
///
/// # Errors
/// As for [`stream_lanes`]. The connection may then be inside a transaction: drop it.
pub async fn stream_lanes_durably(
    connection: &Connection,
    pipeline: &str,
) -> Result<Vec<Progress>, Error> {
    const MAKE: Request = Request::to("make progress durable in PostgreSQL");
    let refused = |error| MAKE.failed(error);
    // In one transaction, so that both statements reach the same server: one that crashed
    // in between would flush a log that no longer holds what was read.
    let read = async {
        let begin = "begin; set local synchronous_commit = on";
        connection.batch_execute(begin).await.map_err(refused)?;
        let lanes = stream_lanes(connection, pipeline).await?;
        connection.batch_execute(MAKE_DURABLE).await.map_err(refused)?;
        Ok(lanes)
    };
    MAKE.limit(read).await
}

/// Reads the stored progress of lanes, without locks.
pub(super) async fn stored(
    connection: &Connection,
    lanes: &[LaneId],
) -> Result<Vec<Progress>, Error> {
    let numbers: Vec<i32> = lanes.iter().map(|lane| lane.0).collect();
    let sql = format!(
        "select {} from lambda.ingest_progress where lane = any($1) \
         order by array_position($1, lane)",
        columns()
    );
    let read = async {
        let rows = connection.query(&sql, &[&numbers]).await?;
        rows.iter().map(of_row).collect::<Result<_, tokio_postgres::Error>>()
    };
    READ.ask(read).await
}
