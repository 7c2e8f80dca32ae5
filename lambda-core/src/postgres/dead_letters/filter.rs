//! Selects dead letters.

use std::time::Duration;

use tokio_postgres::{Error, Row};

use crate::dead_letter::Status;
use crate::postgres::connection::Connection;

/// Tables that a filter reads: dead letters `d`, and the lanes `p` in which they were read.
pub(super) const FROM: &str =
    "lambda.dead_letters d join lambda.ingest_progress p on p.lane = d.lane";

/// Condition of a filter. Its parameters are those of [`Filter::query`]; a null one
/// restricts nothing. The topic is the part of a source between the cluster's id and the
/// number of a lane that was given up.
pub(super) const WHERE: &str = "\
    ($1::int8[] is null or d.id = any($1)) \
    and (cardinality($2::text[]) = 0 or d.status = any($2)) \
    and ($3::text is null or d.reason = $3) \
    and ($4::text is null or d.job_id = $4) \
    and ($5::text is null or p.source = $5) \
    and ($6::text is null or split_part(split_part(p.source, '/', 2), '#', 1) = $6) \
    and ($7::int4 is null or p.partition = $7) \
    and ($8::int8 is null \
         or d.created_at >= timestamptz 'epoch' + $8 * interval '1 microsecond') \
    and ($9::int8 is null \
         or d.created_at < timestamptz 'epoch' + $9 * interval '1 microsecond') \
    and ($10::float8 is null \
         or d.created_at < clock_timestamp() - make_interval(secs => $10)) \
    and not ($11 and d.purged_at is not null) \
    and ($12::text is null or p.pipeline = $12)";

/// A selection of dead letters: those that match every given condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these numbers.
    pub ids: Option<Vec<i64>>,
    /// One of these statuses; empty: any.
    pub statuses: Vec<Status>,
    /// This reason, as stored.
    pub reason: Option<String>,
    /// This job, as `BAT00001`.
    pub job_id: Option<String>,
    /// This source, as stored: `<cluster id>/<topic>`, or the SHA-256 of a file's content.
    pub source: Option<String>,
    /// This topic, of any cluster.
    pub topic: Option<String>,
    /// This partition, or chunk of a file.
    pub partition: Option<i32>,
    /// Rejected at this moment or later, microseconds since the Unix epoch.
    pub since_micros: Option<i64>,
    /// Rejected before this moment, microseconds since the Unix epoch.
    pub until_micros: Option<i64>,
    /// Rejected longer ago, by the database's clock.
    pub older_than: Option<Duration>,
    /// Not purged.
    pub unpurged: bool,
    /// Of this pipeline.
    pub pipeline: Option<String>,
}

impl Filter {
    /// Runs a statement with [`WHERE`] in it.
    pub(super) async fn query(
        &self,
        connection: &Connection,
        sql: &str,
    ) -> Result<Vec<Row>, Error> {
        let statuses: Vec<&str> = self.statuses.iter().map(|status| status.as_str()).collect();
        let older_than = self.older_than.map(|age| age.as_secs_f64());
        connection
            .query(
                sql,
                &[
                    &self.ids,
                    &statuses,
                    &self.reason,
                    &self.job_id,
                    &self.source,
                    &self.topic,
                    &self.partition,
                    &self.since_micros,
                    &self.until_micros,
                    &older_than,
                    &self.unpurged,
                    &self.pipeline,
                ],
            )
            .await
    }
}
