//! Looking through a file as if it were to be loaded.

use std::sync::Arc;

use lambda_core::batch::Body;
use lambda_core::job::{Chunk, JobRef};
use lambda_core::outcome::Authority;
use lambda_core::postgres::lease::JobLane;
use lambda_core::progress::{ClaimId, Counts, LaneId, LaneName, Progress, Sums};
use lambda_core::{Error, Record};
use tokio::sync::watch;

use crate::chunk::{Chunks, Decoding};
use crate::config::{Options, Step};
use crate::rejects::RejectsFile;
use crate::report::Outcome;
use crate::run::{Planned, blocking, stopped};
use crate::tally::{Stored, too_many};

/// Decodes all of a file's records.
///
/// # Errors
/// `Data` if more are rejected than allowed; [`Error::Interrupted`].
pub(crate) async fn check_file<R: Record>(
    planned: Planned,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
    stop: &watch::Receiver<bool>,
) -> Result<Outcome, Error> {
    let (options, stop, mut lent) = (options.clone(), stop.clone(), rejects.take());
    let (result, lent) = blocking(move || {
        let result = check::<R>(&planned, &options, &mut lent, &stop);
        Ok((result, lent))
    })
    .await?;
    *rejects = lent;
    let counts = result?;
    Ok(Outcome::Checked { records: counts.read, rejected: counts.rejected })
}

fn check<R: Record>(
    planned: &Planned,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
    stop: &watch::Receiver<bool>,
) -> Result<Counts, Error> {
    let (content, plan) = (&planned.content, &planned.plan);
    let lanes: Vec<JobLane> = plan.chunks.iter().cloned().map(unstored).collect();
    let chunks = Arc::new(Chunks::new(Arc::clone(content), &lanes));
    let nobody = Authority::Batch(JobRef { as_of_micros: 0, number: 0 });
    let mut decoding =
        Decoding::<R>::new(chunks, planned.header.clone(), nobody, options.batch_rows);
    let file = content.input().to_string();
    let bytes_total = (plan.bytes.cast_signed() - plan.first_byte()).cast_unsigned();
    let mut seen = Stored { bytes_total, ..Stored::default() };
    while let Some(batch) = decoding.next_batch()? {
        for entry in batch.entries() {
            let Body::Rejected(reject) = &entry.body else { continue };
            seen.counts.rejected += 1;
            if let Some(rejects) = rejects {
                let place = (entry.line.unwrap_or_default(), entry.position);
                let why = (reject.reason.as_str(), reject.detail.as_str());
                rejects.write(&file, place, why, batch.payload(entry))?;
            }
        }
        seen.counts.read += batch.entries().len() as i64;
        seen.bytes +=
            batch.spans().iter().map(|span| (span.to - span.from).cast_unsigned()).sum::<u64>();
        (options.watch)(Step::Loading { file: &file, stored: &seen });
        if *stop.borrow() {
            return Err(stopped(content.input()));
        }
    }
    if let Some(rejects) = rejects {
        rejects.flush()?;
    }
    match options.rejects_max {
        Some(most) if seen.counts.rejected > most => Err(too_many(seen.counts.rejected, most)),
        _ => Ok(seen.counts),
    }
}

/// A lane that exists nowhere.
fn unstored(chunk: Chunk) -> JobLane {
    let name = LaneName { pipeline: String::new(), source: String::new(), partition: 0 };
    let progress = Progress {
        lane: LaneId(0),
        name,
        position: chunk.start,
        end_position: Some(chunk.end),
        claim: Some(ClaimId::random()),
        counts: Counts::default(),
        sums: Sums::default(),
        last: None,
    };
    JobLane { chunk, progress }
}
