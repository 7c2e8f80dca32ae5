//! Refuses a file if most of its first records cannot be decoded. Otherwise another file, or
//! one in another format, would end up in the dead letters, row by row, with exit code 0.

use std::sync::Arc;

use lambda_core::Error;
use lambda_core::batch::{Batch, Body};
use lambda_core::job::{Chunk, JobRef};
use lambda_core::outcome::Authority;
use lambda_core::postgres::jobs::attempt::JobLane;
use lambda_core::progress::{ClaimId, Counts, LaneId, LaneName, Progress, Sums};

use crate::chunk::{Chunks, Decoding};
use crate::open::Planned;

/// Number of records that are checked.
const RECORDS: usize = 1_000;

/// Counts over the first records of a file.
#[derive(Debug, Default)]
pub(crate) struct FirstRecords {
    read: usize,
    rejected: usize,
    /// Line and reason of the first rejected record.
    reject: Option<(i64, String)>,
}

impl FirstRecords {
    /// Counts the records of the next batch that are among the first.
    pub(crate) fn take(&mut self, batch: &Batch) {
        for entry in batch.entries().iter().take(RECORDS - self.read) {
            self.read += 1;
            if let Body::Rejected(reject) = &entry.body {
                self.rejected += 1;
                let line = entry.line.unwrap_or_default();
                self.reject.get_or_insert_with(|| (line, reject.detail.clone()));
            }
        }
    }

    /// Whether the file may be loaded.
    ///
    /// # Errors
    /// [`Error::Input`] if more than half of them were rejected.
    pub(crate) fn verdict(&self) -> Result<(), Error> {
        let Self { read, rejected, reject: Some((line, why)) } = self else { return Ok(()) };
        if rejected * 2 <= *read {
            return Ok(());
        }
        Err(Error::Input {
            what: format!(
                "{rejected} of the first {read} records cannot be decoded, \
                 the first on line {line} ({why}). \
                 Correct the file, or run again with --max-rejects to load the other records."
            ),
        })
    }
}

/// Decodes a file's first records, and stores none.
///
/// # Errors
/// [`Error::Input`] if more than half of them are rejected; [`Error::Interrupted`] if the
/// file is not what was planned.
pub(crate) fn check(planned: &Planned) -> Result<(), Error> {
    let mut decoding = decoding(planned, RECORDS);
    let mut first = FirstRecords::default();
    while first.read < RECORDS
        && let Some(batch) = decoding.next_batch()?
    {
        first.take(&batch);
    }
    first.verdict()
}

/// Decodes a planned file from its first record, without a job or lanes.
pub(crate) fn decoding(planned: &Planned, batch_rows: usize) -> Decoding {
    let lanes: Vec<JobLane> = planned.plan.chunks.iter().cloned().map(unstored).collect();
    let chunks = Arc::new(Chunks::new(Arc::clone(&planned.content), planned.marks(), &lanes));
    let no_job = Authority::Batch(JobRef { as_of_micros: 0, number: 0 });
    Decoding::new(chunks, planned.rows.clone(), no_job, batch_rows)
}

/// A lane that is not in the database.
fn unstored(chunk: Chunk) -> JobLane {
    let name = LaneName { pipeline: String::new(), source: String::new(), partition: 0 };
    let progress = Progress {
        lane: LaneId(0),
        name,
        position: chunk.start,
        end_position: Some(chunk.end),
        high: 0,
        claim: Some(ClaimId::random()),
        counts: Counts::default(),
        sums: Sums::default(),
        last: None,
    };
    JobLane { chunk, progress }
}
