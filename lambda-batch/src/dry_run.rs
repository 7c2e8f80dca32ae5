//! Dry run: decodes a file as a load would, and stores nothing.

use lambda_core::batch::Body;
use lambda_core::progress::Counts;
use lambda_core::{Error, Stop};

use crate::config::{Options, Step};
use crate::first::{self, FirstRecords};
use crate::open::{Planned, blocking, stopped};
use crate::rejects::RejectsFile;
use crate::report::Outcome;
use crate::tally::Stored;

/// Decodes all of a file's records.
///
/// # Errors
/// `Data` if more are rejected than allowed; [`Error::Interrupted`].
pub(crate) async fn check_file(
    planned: Planned,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
    stop: &Stop,
) -> Result<Outcome, Error> {
    let (options, stop, mut lent) = (options.clone(), stop.clone(), rejects.take());
    let (result, lent) = blocking(move || {
        let result = check(&planned, &options, &mut lent, &stop);
        Ok((result, lent))
    })
    .await?;
    *rejects = lent;
    let counts = result?;
    Ok(Outcome::Checked { records: counts.read, rejected: counts.rejected() })
}

fn check(
    planned: &Planned,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
    stop: &Stop,
) -> Result<Counts, Error> {
    let (content, plan) = (&planned.content, &planned.plan);
    let mut decoding = first::decoding(planned, options.batch_rows);
    let mut first = FirstRecords::default();
    let file = content.input().to_string();
    let bytes_total = (plan.bytes.cast_signed() - plan.first_byte()).cast_unsigned();
    let mut seen = Stored { bytes_total, ..Stored::default() };
    while let Some(batch) = decoding.next_batch()? {
        first.take(&batch);
        for entry in batch.entries() {
            let Body::Rejected(reject) = &entry.body else { continue };
            seen.counts[lambda_core::outcome::Outcome::Rejected] += 1;
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
        if stop.is_stopped() {
            return Err(stopped(content.input()));
        }
    }
    if let Some(rejects) = rejects {
        rejects.flush()?;
    }
    let (read, rejected) = (seen.counts.read, seen.counts.rejected());
    match options.rejects_max {
        None => first.verdict()?,
        Some(most) if rejected > most => {
            let what = format!("{rejected} of {read} records would be rejected, limit {most}");
            return Err(Error::Input { what });
        }
        Some(_) => {}
    }
    Ok(seen.counts)
}
