//! A batch: decoded and rejected records, with the span of each lane that they cover. It is
//! immutable, and committed whole or in halves.

use std::ops::Range;
use std::sync::Arc;

use crate::dead_letter::Reject;
use crate::decode::{Decode, Decoded, Message};
use crate::failpoint::{Protection, off};
use crate::outcome::Authority;
use crate::progress::{ClaimId, Fingerprint, LaneId};
use crate::record::{RowWriter, Scratch, Table};

/// The part of a lane that a batch covers. Committing it moves the lane from `from` to
/// `to`, if `claim` still holds the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The lane.
    pub lane: LaneId,
    /// Its partition; a batch's spans are sorted by it.
    pub partition: i32,
    /// The claim under which it was read.
    pub claim: ClaimId,
    /// The lane's stored position before.
    pub from: i64,
    /// The lane's stored position afterwards.
    pub to: i64,
    /// The last record in it.
    pub last: Option<Fingerprint>,
}

/// A range of one of a batch's two buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    start: u32,
    end: u32,
}

impl Slice {
    /// The slice of `range`.
    ///
    /// # Panics
    /// If a buffer is 4 GiB or larger; batches are bounded far below.
    pub fn new(range: Range<usize>) -> Self {
        let fit = |at: usize| u32::try_from(at).expect("a batch's buffer is below 4 GiB");
        Self { start: fit(range.start), end: fit(range.end) }
    }

    /// Bytes of the slice, in the buffer that it belongs to.
    pub(crate) fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.start as usize..self.end as usize]
    }

    /// Number of bytes.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it has no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// One record of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Index of its span in [`Batch::spans`].
    pub span: u32,
    /// Its offset, or the position of its first byte.
    pub position: i64,
    /// Line on which it starts, counted from 1; files only.
    pub line: Option<i64>,
    /// Time at which it was produced, milliseconds since the Unix epoch; messages only.
    pub timestamp_ms: Option<i64>,
    /// Its bytes as read, in the raw buffer.
    pub payload: Slice,
    /// Its message key as read, in the raw buffer.
    pub message_key: Option<Slice>,
    /// Its headers, if it has any, in the raw buffer: a JSON array of names with their values in
    /// base64.
    pub headers: Option<Slice>,
    /// The result of decoding it.
    pub body: Body,
}

impl Entry {
    /// The record at `position` in the batch's span `span`, with nothing known beside it.
    pub fn new(span: u32, position: i64, payload: Slice, body: Body) -> Self {
        let (line, timestamp_ms, message_key, headers) = (None, None, None, None);
        Self { span, position, line, timestamp_ms, payload, message_key, headers, body }
    }
}

/// The result of decoding an [`Entry`].
#[derive(Debug, Clone)]
pub enum Body {
    /// A row, in the row buffer.
    Row {
        /// All its fields (see [`crate::record::row`]).
        content: Slice,
        /// Its key's text.
        key: Slice,
    },
    /// No row.
    Rejected(Box<Reject>),
    /// None of the pipeline's records.
    Skipped,
}

impl Body {
    /// Decodes a message into a row at the end of `rows`.
    pub fn decode(
        decoder: &dyn Decode,
        table: &Table,
        message: &Message<'_>,
        rows: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Self {
        let start = rows.len();
        let mut row = RowWriter::new(table, rows, scratch);
        let written = match decoder.decode(message, &mut row) {
            Ok(Decoded::Row) => row.finish().map(Some),
            Ok(Decoded::Skip(_)) => Ok(None),
            Err(reject) => Err(reject),
        };
        if let Ok(Some(row)) = written {
            return Self::Row { content: Slice::new(row.content), key: Slice::new(row.key) };
        }
        rows.truncate(start);
        match written {
            Err(reject) => Self::Rejected(Box::new(reject)),
            Ok(_) => Self::Skipped,
        }
    }
}

/// Records of one authority for one table, in the order (partition, position), with the
/// spans they lie in. A span without records is an empty advance.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Precedence of the records.
    pub authority: Authority,
    spans: Vec<Span>,
    entries: Vec<Entry>,
    raw: Arc<Vec<u8>>,
    rows: Arc<Vec<u8>>,
}

impl Batch {
    /// Builds a batch. Sorts spans by partition and entries by (partition, position).
    pub fn new(
        authority: Authority,
        mut spans: Vec<Span>,
        mut entries: Vec<Entry>,
        raw: Arc<Vec<u8>>,
        rows: Arc<Vec<u8>>,
    ) -> Self {
        let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
        spans.sort_by_key(|span| span.partition);
        for entry in &mut entries {
            let partition = partitions[entry.span as usize];
            entry.span = spans.partition_point(|span| span.partition < partition) as u32;
        }
        entries.sort_by_key(|entry| (entry.span, entry.position));
        Self { authority, spans, entries, raw, rows }
    }

    /// The lanes' spans, sorted by partition.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The records, in the order (partition, position).
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of entries that are rows.
    pub fn rows_count(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.body, Body::Row { .. })).count()
    }

    /// An entry's bytes as read.
    pub fn payload(&self, entry: &Entry) -> &[u8] {
        entry.payload.of(&self.raw)
    }

    /// An entry's message key as read.
    pub fn message_key(&self, entry: &Entry) -> Option<&[u8]> {
        entry.message_key.map(|key| key.of(&self.raw))
    }

    /// An entry's headers, as a dead letter keeps them.
    pub fn headers(&self, entry: &Entry) -> Option<&[u8]> {
        entry.headers.map(|headers| headers.of(&self.raw))
    }

    /// A slice of the row buffer: an entry's content or key.
    pub fn row(&self, slice: Slice) -> &[u8] {
        slice.of(&self.rows)
    }

    /// The span an entry lies in.
    pub fn span(&self, entry: &Entry) -> &Span {
        &self.spans[entry.span as usize]
    }

    /// The same batch with its entry at `index` rejected.
    #[must_use]
    pub fn rejecting(mut self, index: usize, reject: Reject) -> Self {
        self.entries[index].body = Body::Rejected(Box::new(reject));
        self
    }

    /// Splits the batch in two. The first half ends where the second's first record starts,
    /// so committing both, in order, equals committing this batch (rule R11,
    /// docs/protocol.md). `None` if there are fewer than two records.
    pub fn halves(&self) -> Option<(Self, Self)> {
        if self.entries.len() < 2 {
            return None;
        }
        let middle = self.entries.len() / 2;
        let (left, right) = self.entries.split_at(middle);
        let cut = &right[0];
        let at = cut.span as usize;
        let mut left_spans = self.spans[..=at].to_vec();
        let mut right_spans = self.spans[at..].to_vec();
        if !off(Protection::HalvesMeet) {
            left_spans[at].to = cut.position;
        }
        right_spans[0].from = cut.position;
        // The first half's last record is not the span's last one, and its fingerprint is
        // unknown.
        left_spans[at].last = None;
        if left_spans[at].from == cut.position {
            left_spans.pop();
        }
        let right =
            right.iter().cloned().map(|entry| Entry { span: entry.span - cut.span, ..entry });
        Some((self.part(left_spans, left.to_vec()), self.part(right_spans, right.collect())))
    }

    /// Drops the spans that `keep` refuses, and their records.
    #[must_use]
    pub fn retain(&self, mut keep: impl FnMut(&Span) -> bool) -> Self {
        let kept: Vec<bool> = self.spans.iter().map(&mut keep).collect();
        let mut rank = vec![0; kept.len()];
        let mut spans = Vec::new();
        for (index, span) in self.spans.iter().enumerate() {
            rank[index] = spans.len() as u32;
            if kept[index] {
                spans.push(span.clone());
            }
        }
        let entries = self
            .entries
            .iter()
            .filter(|entry| kept[entry.span as usize])
            .map(|entry| Entry { span: rank[entry.span as usize], ..entry.clone() })
            .collect();
        self.part(spans, entries)
    }

    fn part(&self, spans: Vec<Span>, entries: Vec<Entry>) -> Self {
        Self {
            authority: self.authority,
            spans,
            entries,
            raw: Arc::clone(&self.raw),
            rows: Arc::clone(&self.rows),
        }
    }
}
