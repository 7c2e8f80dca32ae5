//! Step 4 of the commit: stores rejected records, with their whole payload.

use tokio_postgres::{Client, Error, Statement};

use crate::batch::Batch;
use crate::dead_letter::Reject;
use crate::postgres::wire::copy::CopyStream;
use crate::record::value::time::postgres_micros;

/// Copies dead letters, given in the order (lane, position). Returns how many the server
/// stored.
pub(crate) async fn store(
    client: &Client,
    statement: &Statement,
    batch: &Batch,
    dead_letters: &[(usize, Reject)],
) -> Result<u64, Error> {
    if dead_letters.is_empty() {
        return Ok(0);
    }
    let job_id = batch.authority.job().map(|job| job.job_id());
    let mut copy = CopyStream::open(client, statement).await?;
    for (index, reject) in dead_letters {
        let entry = &batch.entries()[*index];
        // A message without a value is stored without payload, and so is an empty one.
        let payload = Some(batch.payload(entry)).filter(|payload| !payload.is_empty());
        copy.row(11);
        copy.field(Some(&batch.span(entry).lane.0.to_be_bytes()));
        copy.field(Some(&entry.position.to_be_bytes()));
        copy.field(entry.line.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        copy.field(batch.message_key(entry));
        copy.field(payload);
        let headers = batch.headers(entry).map(jsonb);
        copy.field(headers.as_deref());
        // A producer sets any number; one that is no time is not stored. Brokers have 0 for none.
        let milliseconds = entry.timestamp_ms.filter(|ms| *ms > 0);
        let micros = milliseconds.and_then(|ms| ms.checked_mul(1_000));
        let time = micros.and_then(postgres_micros).map(i64::to_be_bytes);
        copy.field(time.as_ref().map(<[u8; 8]>::as_slice));
        copy.field(reject.field.as_deref().map(str::as_bytes));
        copy.field(Some(reject.reason.as_str().as_bytes()));
        copy.field(Some(reject.detail.as_bytes()));
        copy.field(job_id.as_deref().map(str::as_bytes));
        copy.end_row().await?;
    }
    copy.finish().await
}

/// A JSON text as the server receives a `jsonb`: after the version of this form.
fn jsonb(json: &[u8]) -> Vec<u8> {
    [&[1], json].concat()
}
