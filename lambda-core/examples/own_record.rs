//! A custom record type, stored from a message and from a file's row.

use std::sync::Arc;

use lambda_core::batch::{Batch, Body, Entry, Slice, Span};
use lambda_core::decode::csv::{CsvDecoder, Header};
use lambda_core::decode::json;
use lambda_core::memory::MemorySink;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::progress::{Counts, LaneName};
use lambda_core::record::{Column, ColumnType, Record, RowWriter, Table};
use lambda_core::sink::{ClaimRequest, Durability, Sink};

/// A sensor's measurement.
#[derive(serde::Deserialize)]
struct Reading {
    id: String,
    millidegrees: i64,
    note: Option<String>,
}

impl Record for Reading {
    const TABLE: Table = Table {
        name: "readings",
        key: 0,
        columns: &[
            Column::new("id", ColumnType::Text),
            Column::new("millidegrees", ColumnType::Int8),
            Column::new("note", ColumnType::Text).nullable(),
        ],
    };

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(&self.id).put(self.millidegrees).put(&self.note);
    }
}

/// One reading as a message and as a file's row: the second one is a duplicate.
pub async fn run() -> Result<Counts, Box<dyn std::error::Error>> {
    let message = br#"{"id":"R-1","millidegrees":21500,"note":null}"#;
    let mut rows = Vec::new();
    let live = json::decode::<Reading>(Some(message), &mut rows).map_err(|r| r.to_string())?;
    let header = Header::parse(b"millidegrees,note,id\n", const { &Reading::TABLE })?;
    let mut csv = CsvDecoder::<Reading>::new(header);
    let filed = csv.decode(b"21500,,R-1\n", &mut rows).map_err(|r| r.to_string())?;

    let sink = MemorySink::new();
    let (pipeline, source) = (Reading::TABLE.name.into(), "example".into());
    let name = LaneName { pipeline, source, partition: 0 };
    let owner = "example".into();
    let request = ClaimRequest {
        name,
        first_position: 0.into(),
        owner,
        group: None,
        take_over: false,
        given_up: None,
    };
    let lane = sink.claim(&request).await?;
    let claim = lane.claim.ok_or("a claimed lane has a claim")?;
    let span = Span { lane: lane.lane, partition: 0, claim, from: 0, to: 2, last: None };
    let entries = [live, filed].into_iter().zip(0..).map(|(row, position)| Entry {
        span: 0,
        position,
        line: None,
        payload: Slice::new(0..message.len()),
        message_key: None,
        body: Body::Row { content: Slice::new(row.content), key: Slice::new(row.key) },
    });
    let (entries, raw) = (entries.collect(), Arc::new(message.to_vec()));
    let table = const { &Reading::TABLE };
    let batch = Batch::new(Authority::Stream, table, vec![span], entries, raw, Arc::new(rows));
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
