//! Counts of open dead letters, for a doctor.

use std::time::Duration;

use tokio_postgres::Row;

use super::{row, rows, unread};
use crate::error::Error;
use crate::postgres::connection::Connection;

/// Open dead letters with one reason, from one topic's partition or one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDeadLetters {
    /// `<cluster id>/<topic>`, or the SHA-256 of a file's content.
    pub source: String,
    /// The topic's partition; `None` for a file, whose chunks count as one.
    pub partition: Option<i32>,
    /// The file's name; files only.
    pub file_name: Option<String>,
    /// Reason of their rejection, as stored.
    pub reason: String,
    /// Number of dead letters.
    pub count: i64,
    /// Age of the oldest by the database's clock; `None` where our role may not read it.
    pub oldest: Option<Duration>,
}

/// Counts the open dead letters of a pipeline, the largest group first.
///
/// # Errors
/// `Transient` or `Fatal`.
pub async fn open_dead_letters(
    connection: &Connection,
    pipeline: &str,
) -> Result<Vec<OpenDeadLetters>, Error> {
    // A loader may read the reasons, but no times.
    let privilege = "select has_column_privilege('lambda.dead_letters', 'created_at', 'select')";
    let dated: bool = row(connection, privilege, &[]).await?.try_get(0).map_err(unread)?;
    let created_at = if dated { "d.created_at" } else { "null::timestamptz" };
    let sql = format!(
        "select source, partition, file_name, reason, count(*), \
                extract(epoch from clock_timestamp() - min(created_at))::float8 \
         from (select p.source, case when j.id is null then p.partition end as partition, \
                      j.file_name, d.reason, {created_at} as created_at \
               from lambda.dead_letters d join lambda.ingest_progress p on p.lane = d.lane \
               left join lambda.batch_jobs j on (j.pipeline, j.source) = (p.pipeline, p.source) \
               where d.status = 'open' and p.pipeline = $1) open \
         group by 1, 2, 3, 4 order by 5 desc, 1, 2, 4"
    );
    let found = rows(connection, &sql, &[&pipeline]).await?;
    found.iter().map(open).collect::<Result<_, _>>().map_err(unread)
}

fn open(row: &Row) -> Result<OpenDeadLetters, tokio_postgres::Error> {
    let seconds: Option<f64> = row.try_get(5)?;
    Ok(OpenDeadLetters {
        source: row.try_get(0)?,
        partition: row.try_get(1)?,
        file_name: row.try_get(2)?,
        reason: row.try_get(3)?,
        count: row.try_get(4)?,
        oldest: seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
    })
}
