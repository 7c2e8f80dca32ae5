//! Confirms and corrects rows. The probe has locked them, so nothing here waits.

use crate::batch::{Batch, Body};
use crate::error::Error;
use crate::outcome::Authority;
use crate::postgres::commit::lanes;
use crate::postgres::commit::probe::Found;
use crate::postgres::commit::session::Session;
use crate::postgres::remedy;
use crate::postgres::wire::rows::{KeyColumns, Rows};
use crate::progress::Sums;
use crate::record::checksum::Checksum;
use crate::resolve::{Change, Resolution};

/// Confirms and corrects rows, and adds the effect to each span's sums.
pub(crate) async fn apply(
    session: &Session,
    batch: &Batch,
    resolution: &Resolution,
    found: &Found,
    xid: i64,
    sums: &mut [Sums],
) -> Result<(), Error> {
    let Authority::Batch(job) = batch.authority else { return Ok(()) };
    let job_id = job.job_id();
    confirm(session, batch, &resolution.confirms, found, &job_id, sums).await?;
    correct(session, batch, &resolution.corrections, found, (&job_id, xid), sums).await
}

async fn confirm(
    session: &Session,
    batch: &Batch,
    confirms: &[Change],
    found: &Found,
    job_id: &str,
    sums: &mut [Sums],
) -> Result<(), Error> {
    if confirms.is_empty() {
        return Ok(());
    }
    let mut keys = KeyColumns::new(session.pipeline.table());
    let mut checksums = Vec::with_capacity(confirms.len());
    for change in confirms {
        let entry = &batch.entries()[change.entry];
        let Body::Row { content, .. } = &entry.body else { continue };
        keys.push(batch.row(*content));
        let row = found.row(change.row);
        // A row without evidence gets none, and stays out of all sums.
        let checksum = row.checksum.map(|before| {
            let after = found.hash(row).checksum(row.written_xid, Some(job_id));
            let owned = after.0.wrapping_sub(before.0);
            sums[entry.span as usize].add(Sums { owned, ..Sums::default() });
            after.0
        });
        checksums.push(checksum);
    }
    let updated = session
        .client()
        .execute(&session.statements.confirm, &keys.parameters(&[&checksums, &job_id]))
        .await
        .map_err(|error| remedy::explain(error, "confirm rows in PostgreSQL"))?;
    lanes::expect_rows("confirmed", updated, confirms.len())
}

async fn correct(
    session: &Session,
    batch: &Batch,
    corrections: &[Change],
    found: &Found,
    (job_id, xid): (&str, i64),
    sums: &mut [Sums],
) -> Result<(), Error> {
    if corrections.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(session.pipeline.table());
    for change in corrections {
        let entry = &batch.entries()[change.entry];
        let Body::Row { content, .. } = &entry.body else { continue };
        let row = found.row(change.row);
        let origin = (batch.span(entry).lane, entry.position);
        // The row keeps the id of the transaction that inserted it (rule R4b,
        // docs/protocol.md).
        let before = row.checksum.unwrap_or(Checksum(0));
        let (hash, checksum) =
            rows.push(batch.row(*content), origin, row.written_xid, Some(job_id));
        sums[entry.span as usize].add(Sums {
            written: hash.written(row.written_xid),
            owned: checksum.0.wrapping_sub(before.0),
            displaced: before.displacement(checksum, xid),
        });
    }
    let parameters = rows.parameters(&[&job_id, &xid]);
    let stored = session
        .client()
        .execute(&session.statements.correct, &parameters)
        .await
        .map_err(|error| remedy::explain(error, "correct rows in PostgreSQL"))?;
    lanes::expect_rows("corrected", stored, corrections.len())
}
