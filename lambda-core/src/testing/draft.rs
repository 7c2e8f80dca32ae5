//! Batches built by hand.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message, Record, Serde};
use crate::outcome::Authority;
use crate::pipeline::Pipeline;
use crate::progress::{ClaimId, Progress};
use crate::record::{Column, ColumnType, Decimal, RowRef, RowWriter, Scratch, Table};

/// A small record with a column of each type that needs no special value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sample {
    /// The key.
    pub id: String,
    /// A required number, in hundredths.
    pub amount: i64,
    /// A nullable text.
    pub note: Option<String>,
    /// A nullable boolean.
    pub flag: Option<bool>,
    /// A nullable integer.
    pub rank: Option<i32>,
}

impl Sample {
    /// A sample with only the required columns.
    pub fn new(id: &str, amount: i64) -> Self {
        Self { id: id.into(), amount, note: None, flag: None, rank: None }
    }
}

impl Record for Sample {
    fn table() -> Table {
        Table::new("samples")
            .column(Column::new("id", ColumnType::Text))
            .column(Column::new("amount", ColumnType::Numeric { precision: 12, scale: 2 }))
            .column(Column::new("note", ColumnType::Text).nullable())
            .column(Column::new("flag", ColumnType::Bool).nullable())
            .column(Column::new("rank", ColumnType::Int4).nullable())
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(&self.id).put(Decimal { unscaled: self.amount.into(), scale: 2 });
        row.put(self.note.as_ref()).put(self.flag).put(self.rank);
    }

    fn read(mut row: RowRef<'_>) -> Result<Self, Reject> {
        Ok(Self {
            id: row.take()?,
            amount: row.take::<Decimal>()?.unscaled as i64,
            note: row.take()?,
            flag: row.take()?,
            rank: row.take()?,
        })
    }
}

/// The table of [`Sample`], for the sinks that need it created.
pub const SAMPLE_DDL: &str = "\
    create table public.samples ( \
        id text collate \"C\" primary key, amount numeric(12, 2) not null, note text, \
        flag boolean, rank integer, job_id text collate \"C\", ingestion_type text not null, \
        lane integer not null, position bigint not null, checksum bigint not null, \
        written_xid bigint not null, \
        check ((job_id is null) = (ingestion_type = 'STREAM')))";

/// The pipeline of [`Sample`].
#[expect(clippy::expect_used, reason = "its table is the one above")]
pub static SAMPLES: LazyLock<Pipeline> = LazyLock::new(|| {
    let samples = Pipeline::of::<Sample>("samples");
    let samples = samples.messages(Serde::<Sample>::json()).files(Serde::<Sample>::csv());
    samples.build().expect("a table that fits")
});

/// A decoder for pipelines whose batches are built by hand: it rejects every message.
#[derive(Debug, Clone, Copy)]
pub struct ByHand;

impl Decode for ByHand {
    fn format(&self) -> &'static str {
        "json"
    }

    fn decode(&self, _: &Message<'_>, _: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        Err(Reject::new(Reason::InvalidJson, "batches of this pipeline are built by hand"))
    }
}

/// A builder of a batch.
///
/// ```
/// use lambda_core::memory::MemorySink;
/// use lambda_core::outcome::Authority;
/// use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
/// # use lambda_core::progress::{Counts, LaneId, LaneName, Progress, Sums};
/// # let (pipeline, source) = ("samples".into(), "a-source".into());
/// # let lane = Progress {
/// #     lane: LaneId(1),
/// #     name: LaneName { pipeline, source, partition: 0 },
/// #     position: 0,
/// #     end_position: None,
/// #     claim: None,
/// #     high: 0,
/// #     counts: Counts::default(),
/// #     sums: Sums::default(),
/// #     last: None,
/// # };
///
/// // `lane` is what a sink returned for a claim.
/// let batch = Draft::new(Authority::Stream, &SAMPLES)
///     .lane(&lane, 3)
///     .record(0, &Sample::new("a", 1))
///     .rejected(1, b"not JSON")
///     .skipped(2)
///     .build();
/// assert_eq!((batch.entries().len(), batch.rows_count()), (3, 1));
/// ```
#[derive(Debug)]
pub struct Draft {
    authority: Authority,
    table: Arc<Table>,
    spans: Vec<Span>,
    entries: Vec<Entry>,
    raw: Vec<u8>,
    rows: Vec<u8>,
}

impl Draft {
    /// An empty batch of a pipeline's records.
    pub fn new(authority: Authority, pipeline: &Pipeline) -> Self {
        let (spans, entries) = (Vec::new(), Vec::new());
        let table = Arc::clone(pipeline.table());
        Self { authority, table, spans, entries, raw: Vec::new(), rows: Vec::new() }
    }

    /// Continues with records of this lane, from its stored position to `to`.
    #[must_use]
    pub fn lane(mut self, progress: &Progress, to: i64) -> Self {
        self.spans.push(Span {
            lane: progress.lane,
            partition: progress.name.partition,
            claim: progress.claim.unwrap_or_else(ClaimId::random),
            from: progress.position,
            to,
            last: None,
        });
        self
    }

    /// Adds a record at `position` of the lane, with the key as its payload.
    ///
    /// # Panics
    /// If the record cannot be a row, or no lane was started.
    #[must_use]
    pub fn record(mut self, position: i64, record: &impl Record) -> Self {
        let mut scratch = Scratch::default();
        let mut writer = RowWriter::new(&self.table, &mut self.rows, &mut scratch);
        record.write(&mut writer);
        let row = writer.finish().expect("a record that can be a row");
        let payload = self.rows[row.key.clone()].to_vec();
        let body = Body::Row { content: Slice::new(row.content), key: Slice::new(row.key) };
        self.entry(position, &payload, body)
    }

    /// Adds a record that could not be decoded, with its bytes.
    ///
    /// # Panics
    /// If no lane was started.
    #[must_use]
    pub fn rejected(self, position: i64, payload: &[u8]) -> Self {
        let reject = Reject::new(Reason::InvalidJson, "made by hand");
        self.entry(position, payload, Body::Rejected(Box::new(reject)))
    }

    /// Adds a message that is none of the pipeline's records.
    ///
    /// # Panics
    /// If no lane was started.
    #[must_use]
    pub fn skipped(self, position: i64) -> Self {
        self.entry(position, b"skipped", Body::Skipped)
    }

    fn entry(mut self, position: i64, payload: &[u8], body: Body) -> Self {
        let span = self.spans.len().checked_sub(1).expect("a lane was started") as u32;
        let start = self.raw.len();
        self.raw.extend_from_slice(payload);
        let payload = Slice::new(start..self.raw.len());
        self.entries.push(Entry::new(span, position, payload, body));
        self
    }

    /// Builds the batch.
    pub fn build(self) -> Batch {
        let (raw, rows) = (Arc::new(self.raw), Arc::new(self.rows));
        Batch::new(self.authority, self.spans, self.entries, raw, rows)
    }
}
