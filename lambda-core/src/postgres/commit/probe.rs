//! Step 3 of the commit: reads the existing rows under a batch's keys, and their jobs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::job::JobRef;
use crate::outcome::Authority;
use crate::postgres::commit::session::Session;
use crate::postgres::connection::request::Request;
use crate::postgres::remedy;
use crate::postgres::wire::raw::{RawValue, put_field};
use crate::postgres::wire::rows::KeyColumns;
use crate::progress::LaneId;
use crate::record::checksum::{Checksum, ContentHash};
use crate::record::{Table, canonical, key};
use crate::resolve::{ExistingRow, Keys};

const LOOK_UP: Request = Request::to("look up ids in PostgreSQL");

/// The jobs read so far. A job's precedence never changes, so an entry stays valid.
#[derive(Debug, Default)]
pub(crate) struct JobCache {
    jobs: Mutex<HashMap<String, JobRef>>,
}

impl JobCache {
    fn get(&self, job_id: &str) -> Option<JobRef> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(job_id).copied()
    }

    fn put(&self, job_id: String, job: JobRef) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(job_id, job);
    }
}

/// A row found by the probe, with the data that its replacement needs.
#[derive(Debug)]
pub(crate) struct FoundRow {
    key: Range<usize>,
    content: Range<usize>,
    lane: LaneId,
    position: i64,
    /// None in a row that was there before its table had a pipeline.
    pub(crate) checksum: Option<Checksum>,
    pub(crate) written_xid: i64,
    pub(crate) job_id: Option<String>,
    authority: Authority,
}

/// The rows found by a probe, sorted by key.
#[derive(Debug, Default)]
pub(crate) struct Found {
    rows: Vec<FoundRow>,
    bytes: Vec<u8>,
}

impl Found {
    pub(crate) fn row(&self, index: usize) -> &FoundRow {
        &self.rows[index]
    }

    /// The hash of a row's content and origin.
    pub(crate) fn hash(&self, row: &FoundRow) -> ContentHash {
        ContentHash::of(&self.bytes[row.content.clone()], row.lane, row.position)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn existing(&self) -> Vec<ExistingRow<'_>> {
        let rows = self.rows.iter();
        rows.map(|row| ExistingRow {
            key: &self.bytes[row.key.clone()],
            content: &self.bytes[row.content.clone()],
            authority: row.authority,
        })
        .collect()
    }
}

/// Reads the rows under `keys`. A batch job locks them, since it may change them. The
/// stream locks nothing: a stale read equals "the stream came first".
pub(crate) async fn probe(
    session: &Session,
    keys: &Keys<'_>,
    lock: bool,
    cache: &JobCache,
) -> Result<Found, Error> {
    let statements = &session.statements;
    let statement = if lock { &statements.probe_for_update } else { &statements.probe };
    let mut columns = KeyColumns::new(session.pipeline.table());
    keys.contents().for_each(|content| columns.push(content));
    let rows = session.client().query(statement, &columns.parameters(&[])).await;
    let rows = rows.map_err(|error| LOOK_UP.failed(error))?;
    let mut found = Found::default();
    for row in &rows {
        found.push(row, session.pipeline.table()).map_err(|error| LOOK_UP.failed(error))?;
    }
    rank(session, &mut found, cache).await?;
    Ok(found)
}

impl Found {
    fn push(
        &mut self,
        row: &tokio_postgres::Row,
        table: &Table,
    ) -> Result<(), tokio_postgres::Error> {
        let content_start = self.bytes.len();
        for (index, column) in table.columns().iter().enumerate() {
            let RawValue(value) = row.try_get(index)?;
            let value = value.filter(|value| !canonical::is_null(&column.kind, value));
            let from = self.bytes.len() + 4;
            put_field(&mut self.bytes, value);
            canonical::make(&column.kind, &mut self.bytes[from..]);
        }
        let content = content_start..self.bytes.len();
        let key = key::locate(table, &mut self.bytes, content_start);
        let evidence = table.columns().len();
        self.rows.push(FoundRow {
            key,
            content,
            // A row from before its table had a pipeline has none.
            lane: LaneId(row.try_get::<_, Option<i32>>(evidence)?.unwrap_or_default()),
            position: row.try_get::<_, Option<i64>>(evidence + 1)?.unwrap_or_default(),
            checksum: row.try_get::<_, Option<i64>>(evidence + 2)?.map(Checksum),
            written_xid: row.try_get::<_, Option<i64>>(evidence + 3)?.unwrap_or_default(),
            job_id: row.try_get(evidence + 4)?,
            authority: Authority::Stream,
        });
        Ok(())
    }
}

/// Sets the authority of each row from its job. A separate statement reads the jobs, later
/// than the one that may have waited for the rows.
async fn rank(session: &Session, found: &mut Found, cache: &JobCache) -> Result<(), Error> {
    let mut unknown: Vec<&str> = found
        .rows
        .iter()
        .filter_map(|row| row.job_id.as_deref())
        .filter(|job_id| cache.get(job_id).is_none())
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let read = async {
            for row in session.client().query(&session.statements.jobs, &[&unknown]).await? {
                let job = JobRef { number: row.try_get(1)?, as_of_micros: row.try_get(2)? };
                cache.put(row.try_get(0)?, job);
            }
            Ok(())
        };
        read.await.map_err(|error| remedy::explain(error, "look up jobs in PostgreSQL"))?;
    }
    for row in &mut found.rows {
        let Some(job_id) = &row.job_id else { continue };
        let job = cache.get(job_id).ok_or_else(|| {
            Error::misconfigured(
                format!("a row names the job {job_id}, which is missing from lambda.batch_jobs"),
                "restore that job's row: it decides the precedence of its records",
            )
        })?;
        row.authority = Authority::Batch(job);
    }
    Ok(())
}
