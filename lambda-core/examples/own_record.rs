//! A custom record type, stored from a message and from a file's row.

use std::sync::Arc;

use lambda_core::batch::{Batch, Body, Entry, Slice, Span};
use lambda_core::decode::Message;
use lambda_core::memory::MemorySink;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::progress::{Counts, LaneName};
use lambda_core::record::Scratch;
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::{Pipeline, Record};

/// A sensor's measurement.
#[derive(Record)]
#[record(table = "readings", key(id))]
struct Reading {
    #[record(length = 1..=20)]
    id: String,
    #[record(between(-90_000, 60_000))]
    millidegrees: i64,
    note: Option<String>,
}

/// One reading as a message and as a file's row: the second one is a duplicate.
pub async fn run() -> Result<Counts, Box<dyn std::error::Error>> {
    let readings = Pipeline::of::<Reading>("readings").build()?;
    let table = readings.table();
    let csv = readings.files().open(b"millidegrees,note,id\n", table)?;
    let message = Message::of(Some(br#"{"id":"R-1","millidegrees":21500,"note":null}"#));
    let row = Message::of(Some(b"21500,,R-1\n"));
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let live = Body::decode(&**readings.decoder(), table, &message, &mut rows, &mut scratch);
    let filed = Body::decode(&csv, table, &row, &mut rows, &mut scratch);

    let sink = MemorySink::new();
    let lane = sink
        .claim(&ClaimRequest {
            name: LaneName {
                pipeline: readings.name().into(),
                source: "example".into(),
                partition: 0,
            },
            first_position: 0.into(),
            format: readings.decoder().format().into(),
            owner: "example".into(),
            group: None,
            take_over: false,
            given_up: None,
        })
        .await?;
    let claim = lane.claim.ok_or("a claimed lane has a claim")?;
    let span = Span { lane: lane.lane, partition: 0, claim, from: 0, to: 2, last: None };
    let entries = [live, filed].into_iter().zip(0..);
    let entries = entries.map(|(body, position)| Entry::new(0, position, Slice::new(0..0), body));
    let (entries, rows) = (entries.collect(), Arc::new(rows));
    let batch = Batch::new(Authority::Stream, vec![span], entries, Arc::default(), rows);
    let committed = sink.commit(&batch, Durability::Durable).await?;
    Ok(committed.stored.first().ok_or("the lane is no longer ours")?.counts)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    let counts = run().await?;
    writeln!(
        std::io::stdout(),
        "{} inserted, {} duplicate",
        counts[Outcome::Inserted],
        counts[Outcome::Duplicate]
    )?;
    Ok(())
}
