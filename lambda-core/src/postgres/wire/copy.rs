//! Binary COPY from reused buffers.

use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::{Client, CopyInSink, Error, Statement};

/// Bytes handed to the connection at once; larger and smaller were slower.
const PIECE_BYTES: usize = 64 * 1024;

/// Signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A COPY FROM STDIN under way. Dropped before [`CopyStream::finish`], it fails
/// on the server.
pub(crate) struct CopyStream {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: BytesMut,
}

impl CopyStream {
    pub(crate) async fn open(client: &Client, statement: &Statement) -> Result<Self, Error> {
        let sink = Box::pin(client.copy_in(statement).await?);
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES * 2);
        buffer.put_slice(HEADER);
        Ok(Self { sink, buffer })
    }

    /// Starts a row of that many fields.
    pub(crate) fn row(&mut self, fields: usize) {
        self.buffer.put_u16(fields as u16);
    }

    /// Fields that are in COPY's form already.
    pub(crate) fn fields(&mut self, encoded: &[u8]) {
        self.buffer.put_slice(encoded);
    }

    /// One field.
    pub(crate) fn field(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.buffer.put_i32(-1),
            Some(bytes) => {
                self.buffer.put_u32(bytes.len() as u32);
                self.buffer.put_slice(bytes);
            }
        }
    }

    /// Where the next field goes, until the row ends.
    pub(crate) fn position(&self) -> usize {
        self.buffer.len()
    }

    /// The fields of this row from a [`CopyStream::position`] on, as they are sent.
    pub(crate) fn since(&self, position: usize) -> &[u8] {
        &self.buffer[position..]
    }

    /// Ends a row. Sends what is gathered once it fills a piece, a large row in several: the
    /// connection copies each piece, and takes the next one when that is sent.
    pub(crate) async fn end_row(&mut self) -> Result<(), Error> {
        if self.buffer.len() < PIECE_BYTES {
            return Ok(());
        }
        let mut gathered = self.buffer.split().freeze();
        while !gathered.is_empty() {
            let piece = gathered.split_to(gathered.len().min(PIECE_BYTES * 2));
            self.sink.feed(piece).await?;
        }
        self.buffer.reserve(PIECE_BYTES * 2);
        Ok(())
    }

    /// Ends the COPY. Only here does the server tell what it refuses.
    pub(crate) async fn finish(mut self) -> Result<u64, Error> {
        self.buffer.put_i16(-1);
        self.sink.send(self.buffer.split().freeze()).await?;
        self.sink.as_mut().finish().await
    }
}
