//! Steps 2 and 3 of the commit: inserts the new rows of a batch, with their evidence, into
//! its table.

use std::time::Instant;

use tokio_postgres::Error;

use crate::batch::{Batch, Body};
use crate::metrics;
use crate::postgres::commit::session::Session;
use crate::postgres::wire::copy::CopyStream;
use crate::postgres::wire::rows::Rows;
use crate::progress::Sums;
use crate::record::checksum::{Checksum, ContentHash};
use crate::record::table;

/// Evidence of the writer of new rows.
struct Writer {
    job_id: Option<String>,
    ingestion_type: &'static str,
    xid: i64,
}

impl Writer {
    fn of(batch: &Batch, xid: i64) -> Self {
        let job_id = batch.authority.job().map(|job| job.job_id());
        let ingestion_type = if job_id.is_some() { "BATCH" } else { "STREAM" };
        Self { job_id, ingestion_type, xid }
    }

    /// Sums that one of its rows adds to its span.
    fn sums(&self, hash: ContentHash, checksum: Checksum) -> Sums {
        // Without a job both are the same.
        let written = match &self.job_id {
            Some(_) => hash.written(self.xid),
            None => checksum.0,
        };
        Sums { written, owned: checksum.0, displaced: 0 }
    }
}

/// Copies the entries `inserts` of `batch` into its table, in that order. Returns what they
/// add to each span's sums, and how many rows the server stored.
pub(crate) async fn by_copy(
    session: &Session,
    batch: &Batch,
    inserts: &[usize],
    xid: i64,
) -> Result<(Vec<Sums>, u64), Error> {
    let mut sums = vec![Sums::default(); batch.spans().len()];
    if inserts.is_empty() {
        return Ok((sums, 0));
    }
    let writer = Writer::of(batch, xid);
    let columns = session.pipeline.table().columns().len() + table::evidence().len();
    let started = Instant::now();
    let mut copy = CopyStream::open(session.client(), &session.statements.copy_rows).await?;
    for index in inserts {
        let entry = &batch.entries()[*index];
        let Body::Row { content, .. } = &entry.body else { continue };
        copy.row(columns);
        let begin = copy.position();
        copy.fields(batch.row(*content));
        copy.field(Some(&batch.span(entry).lane.0.to_be_bytes()));
        copy.field(Some(&entry.position.to_be_bytes()));
        let hash = ContentHash::of_sent(copy.since(begin));
        let checksum = hash.checksum(xid, writer.job_id.as_deref());
        copy.field(Some(&checksum.0.to_be_bytes()));
        copy.field(Some(&xid.to_be_bytes()));
        copy.field(writer.job_id.as_deref().map(str::as_bytes));
        copy.field(Some(writer.ingestion_type.as_bytes()));
        copy.end_row().await?;
        sums[entry.span as usize].add(writer.sums(hash, checksum));
    }
    let stored = copy.finish().await?;
    metrics::copied(session.pipeline.name(), started.elapsed());
    Ok((sums, stored))
}

/// Inserts as [`by_copy`] does, by one statement, which is slower. No timeout of the server
/// ends a COPY whose client is frozen; between two messages a timeout does.
pub(crate) async fn by_statement(
    session: &Session,
    batch: &Batch,
    inserts: &[usize],
    xid: i64,
) -> Result<(Vec<Sums>, u64), Error> {
    let mut sums = vec![Sums::default(); batch.spans().len()];
    if inserts.is_empty() {
        return Ok((sums, 0));
    }
    let writer = Writer::of(batch, xid);
    let mut rows = Rows::new(session.pipeline.table());
    for index in inserts {
        let entry = &batch.entries()[*index];
        let Body::Row { content, .. } = &entry.body else { continue };
        let origin = (batch.span(entry).lane, entry.position);
        let job_id = writer.job_id.as_deref();
        let (hash, checksum) = rows.push(batch.row(*content), origin, xid, job_id);
        sums[entry.span as usize].add(writer.sums(hash, checksum));
    }
    let parameters = rows.parameters(&[&writer.xid, &writer.job_id, &writer.ingestion_type]);
    let stored = session.client().execute(&session.statements.insert_rows, &parameters).await?;
    Ok((sums, stored))
}
