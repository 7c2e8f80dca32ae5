//! Binary COPY from reused buffers.

use std::pin::Pin;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::{Client, CopyInSink, Error, Statement};

use crate::batch::{Batch, Body};
use crate::metrics;
use crate::progress::Sums;
use crate::record::checksum::{self, Checksum};
use crate::record::column::Table;

use super::statements::EVIDENCE_COLUMNS;

/// Bytes handed to the connection at once; larger and smaller were slower.
const PIECE_BYTES: usize = 64 * 1024;

/// Signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A COPY FROM STDIN under way. Dropped before [`CopyStream::finish`], it fails
/// on the server.
pub(super) struct CopyStream {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: BytesMut,
}

impl CopyStream {
    pub(super) async fn open(client: &Client, statement: &Statement) -> Result<Self, Error> {
        let sink = Box::pin(client.copy_in(statement).await?);
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES * 2);
        buffer.put_slice(HEADER);
        Ok(Self { sink, buffer })
    }

    /// Starts a row of that many fields.
    pub(super) fn row(&mut self, fields: usize) {
        self.buffer.put_u16(fields as u16);
    }

    /// Fields that are in COPY's form already.
    pub(super) fn fields(&mut self, encoded: &[u8]) {
        self.buffer.put_slice(encoded);
    }

    /// One field.
    pub(super) fn field(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.buffer.put_i32(-1),
            Some(bytes) => {
                self.buffer.put_u32(bytes.len() as u32);
                self.buffer.put_slice(bytes);
            }
        }
    }

    /// Ends a row; hands a full piece over.
    pub(super) async fn end_row(&mut self) -> Result<(), Error> {
        if self.buffer.len() >= PIECE_BYTES {
            self.sink.feed(self.buffer.split().freeze()).await?;
            self.buffer.reserve(PIECE_BYTES * 2);
        }
        Ok(())
    }

    /// Ends the COPY. Only here does the server tell what it refuses.
    pub(super) async fn finish(mut self) -> Result<u64, Error> {
        self.buffer.put_i16(-1);
        self.sink.send(self.buffer.split().freeze()).await?;
        self.sink.as_mut().finish().await
    }
}

/// Copies the entries `inserts` of `batch` into its table, in that order. Gives
/// what they add to each span's sums, and how many rows the server stored.
pub(super) async fn rows(
    client: &Client,
    statement: &Statement,
    batch: &Batch,
    inserts: &[usize],
    xid: i64,
) -> Result<(Vec<Sums>, u64), Error> {
    let mut sums = vec![Sums::default(); batch.spans().len()];
    if inserts.is_empty() {
        return Ok((sums, 0));
    }
    let table: &Table = batch.table;
    let job_id = batch.authority.job().map(|job| job.job_id());
    let ingestion_type: &[u8] = if job_id.is_some() { b"BATCH" } else { b"STREAM" };
    let started = Instant::now();
    let mut copy = CopyStream::open(client, statement).await?;
    for index in inserts {
        let entry = &batch.entries()[*index];
        let Body::Row { content, .. } = &entry.body else { continue };
        let span = batch.span(entry);
        copy.row(table.columns.len() + EVIDENCE_COLUMNS);
        let begin = copy.buffer.len();
        copy.fields(batch.row(*content));
        copy.field(Some(&span.lane.0.to_be_bytes()));
        copy.field(Some(&entry.position.to_be_bytes()));
        let checksum = Checksum::of_sent(&copy.buffer[begin..]);
        copy.field(Some(&checksum.0.to_be_bytes()));
        copy.field(Some(&xid.to_be_bytes()));
        copy.field(job_id.as_deref().map(str::as_bytes));
        copy.field(Some(ingestion_type));
        copy.end_row().await?;
        sums[entry.span as usize].add(Sums {
            written: checksum.0,
            owned: checksum::ownership(checksum, job_id.as_deref(), xid),
            displaced: 0,
        });
    }
    let stored = copy.finish().await?;
    metrics::copied(table.name, started.elapsed());
    Ok((sums, stored))
}
