//! Gathers messages of several lanes into batches: a pure value, without I/O.
//!
//! Each lane has a position up to which it has been gathered. A batch covers each lane from the
//! end of the batch before it to that position. So batches follow each other without a gap,
//! even where offsets have no message (rule R8, docs/protocol.md).

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};

use xxhash_rust::xxh3::Xxh3Default;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::dead_letter::Reject;
use crate::decode::Message;
use crate::failpoint::{Protection, off};
use crate::header::{self, Header};
use crate::outcome::Authority;
use crate::pipeline::Pipeline;
use crate::progress::{ClaimId, Counts, Fingerprint, LaneId};
use crate::record::Scratch;

/// Pairs of buffers kept for reuse: one being committed, one ready.
const SPARES_MAX: usize = 2;

/// Size at which a batch is complete (rule R24, docs/protocol.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most records.
    pub rows: usize,
    /// Most bytes, as read and decoded together; the last record may exceed it.
    pub bytes: usize,
    /// Most rejected records among the first [`FIRST_RECORDS`] of a lane. More mean that the
    /// topic holds something else, which must not fill the dead letters.
    pub first_rejects: i64,
}

/// Number of records that count as the first ones of a lane.
pub const FIRST_RECORDS: i64 = 1_000;

impl Default for Limits {
    /// 20,000 records, which was measured best, and 16 MiB; half of a lane's first records.
    fn default() -> Self {
        Self { rows: 20_000, bytes: 16 << 20, first_rejects: FIRST_RECORDS / 2 }
    }
}

/// A message as read, and its place.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub position: i64,
    /// When it was produced, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; nothing for a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Its headers, in its order.
    pub headers: &'a [Header<'a>],
}

impl<'a> Received<'a> {
    /// What its decoder sees.
    fn message(&self) -> Message<'a> {
        let Self { key, payload, timestamp_ms, headers, .. } = *self;
        // Brokers have 0 for a message without a time.
        let timestamp_ms = (timestamp_ms > 0).then_some(timestamp_ms);
        Message { key, timestamp_ms, headers, ..Message::of(payload) }
    }

    /// Fingerprint by which a lane recognises its source later.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            position: self.position,
            timestamp_ms: self.timestamp_ms,
            checksum: checksum(self.key, self.payload.unwrap_or_default()),
        }
    }
}

/// Outcome of [`Batcher::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the next batch.
    Gathered,
    /// It is in the next batch. The lane's last message, which was expected first, is no longer
    /// in the partition.
    GatheredWithoutLast,
    /// It is in the next batch and was rejected, like too many of the lane's first records: the
    /// next batch must not be stored.
    MostlyRejected,
    /// It is below its lane's position: it was stored or gathered before.
    Below,
    /// Its partition is not being read.
    NotStarted,
    /// It differs from the lane's last message at the same offset, or follows it where no
    /// message was: the partition has changed. Nothing more is gathered from the lane until it is
    /// started again.
    Changed(Changed),
}

/// A lane whose partition holds another message where its last one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The lane.
    pub lane: LaneId,
    /// Start of its next batch.
    pub position: i64,
    /// Its last message.
    pub last: Fingerprint,
    /// The message found instead.
    pub found: Fingerprint,
    /// Whether any message of the lane was gathered since it was started.
    pub gathered: bool,
}

/// A lane being read.
#[derive(Debug)]
struct Lane {
    id: LaneId,
    claim: ClaimId,
    /// Start of the next batch.
    from: i64,
    /// Its end, so far.
    next: i64,
    /// Position at which it was started.
    started: i64,
    /// Entries in the next batch.
    entries: usize,
    /// All records read from it, and the rejected ones among them.
    read: i64,
    rejected: i64,
    /// The last message gathered, or stored before.
    last: Option<Last>,
    /// The message that must come first, because the partition is read from there.
    expected: Option<Fingerprint>,
}

impl Lane {
    /// Compares a message with the one that must come first. `None`: that one is gone, or none
    /// is expected.
    fn identify(&mut self, message: &Received<'_>) -> Option<Pushed> {
        let last = self.expected?;
        if message.position < last.position {
            return Some(Pushed::Below);
        }
        // No message was between the last one and the position.
        if message.position < self.next {
            let found = message.fingerprint();
            if found != last {
                let gathered = self.next > self.started;
                let (lane, position) = (self.id, self.next);
                return Some(Pushed::Changed(Changed { lane, position, last, found, gathered }));
            }
            self.expected = None;
            return Some(Pushed::Below);
        }
        self.expected = None;
        None
    }
}

/// A lane's last message. It is hashed only on demand: most messages are the last one briefly.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// Still in the raw buffer.
    Gathered { position: i64, timestamp_ms: i64, key: Option<Slice>, payload: Slice },
    /// Stored, or on its way.
    Taken(Fingerprint),
}

impl Last {
    fn position(&self) -> i64 {
        match self {
            Self::Taken(fingerprint) => fingerprint.position,
            Self::Gathered { position, .. } => *position,
        }
    }

    fn fingerprint(&self, raw: &[u8]) -> Fingerprint {
        match *self {
            Self::Taken(fingerprint) => fingerprint,
            Self::Gathered { position, timestamp_ms, key, payload } => {
                let checksum = checksum(key.map(|key| key.of(raw)), payload.of(raw));
                Fingerprint { position, timestamp_ms, checksum }
            }
        }
    }
}

/// Both buffers of a batch that was handed out. They are free once the batch is dropped.
#[derive(Debug)]
struct Buffers {
    raw: Arc<Vec<u8>>,
    rows: Arc<Vec<u8>>,
}

/// Start of a lane.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Its number.
    pub id: LaneId,
    /// The claim under which it is held.
    pub claim: ClaimId,
    /// Position below which everything is stored.
    pub from: i64,
    /// The last message stored from it.
    pub last: Option<Fingerprint>,
    /// Whether the partition is read from that message on. False if the message has expired.
    pub expected: bool,
    /// Outcomes of the records stored from it.
    pub counts: Counts,
}

/// Gathers messages into batches of records.
#[derive(Debug)]
pub struct Batcher {
    limits: Limits,
    pipeline: Pipeline,
    lanes: BTreeMap<i32, Lane>,
    /// Entries of all lanes in the order of arrival; `span` holds the partition until the
    /// batch is taken. One list, so its size does not grow with the number of lanes.
    entries: Vec<Entry>,
    /// Keys and payloads as read.
    raw: Vec<u8>,
    /// Decoded rows.
    rows: Vec<u8>,
    spares: Vec<Buffers>,
    /// Batches handed out that are too large for their buffers to be kept.
    large: Vec<Weak<Vec<u8>>>,
    scratch: Scratch,
}

impl Batcher {
    /// An empty batcher of a pipeline's messages, without lanes.
    pub fn new(pipeline: Pipeline, limits: Limits) -> Self {
        Self {
            limits,
            pipeline,
            lanes: BTreeMap::new(),
            entries: Vec::new(),
            raw: Vec::new(),
            rows: Vec::new(),
            spares: Vec::new(),
            large: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Starts to gather a partition from `from`, the position stored under `claim`, and drops what
    /// was gathered from it before. With `expected` the partition is read from `last`, the last
    /// message stored from it, and the first message must be that one.
    pub fn start(&mut self, partition: i32, start: Start) {
        self.drop_partition(partition);
        let Start { id, claim, from, last, expected, counts } = start;
        let lane = Lane {
            id,
            claim,
            from,
            next: from,
            started: from,
            entries: 0,
            read: counts.read,
            rejected: counts.rejected(),
            last: last.map(Last::Taken),
            expected: last.filter(|_| expected),
        };
        self.lanes.insert(partition, lane);
    }

    /// Stops gathering a partition, and drops what was gathered from it.
    pub fn drop_partition(&mut self, partition: i32) {
        let Some(lane) = self.lanes.remove(&partition) else { return };
        if lane.entries > 0 {
            self.entries.retain(|entry| entry.span.cast_signed() != partition);
        }
        // Beside records of other lanes the dropped bytes stay until the next batch is taken.
        if self.entries.is_empty() {
            self.raw.clear();
            self.rows.clear();
        }
    }

    /// Decodes a message into the next batch.
    pub fn push(&mut self, message: &Received<'_>) -> Pushed {
        let Some(lane) = self.lanes.get_mut(&message.partition) else {
            return Pushed::NotStarted;
        };
        let expected = lane.expected.is_some();
        if expected && let Some(pushed) = lane.identify(message) {
            return pushed;
        }
        if message.position < lane.next && !off(Protection::DropBelow) {
            return Pushed::Below;
        }
        let (position, timestamp_ms) = (message.position, message.timestamp_ms);
        let message_key = message.key.map(|key| append(&mut self.raw, key));
        let payload = append(&mut self.raw, message.payload.unwrap_or_default());
        let headers = (!message.headers.is_empty()).then(|| {
            let start = self.raw.len();
            header::write(message.headers, &mut self.raw);
            Slice::new(start..self.raw.len())
        });
        let body = Body::decode(
            &**self.pipeline.decoder(),
            self.pipeline.table(),
            &message.message(),
            &mut self.rows,
            &mut self.scratch,
        );
        let rejected = matches!(body, Body::Rejected(_));
        let span = message.partition.cast_unsigned();
        self.entries.push(Entry {
            timestamp_ms: Some(timestamp_ms),
            message_key,
            headers,
            ..Entry::new(span, position, payload, body)
        });
        lane.entries += 1;
        lane.read += 1;
        lane.rejected += i64::from(rejected);
        lane.next = position + 1;
        lane.last = Some(Last::Gathered { position, timestamp_ms, key: message_key, payload });
        if rejected && lane.read <= FIRST_RECORDS && lane.rejected > self.limits.first_rejects {
            return Pushed::MostlyRejected;
        }
        if expected { Pushed::GatheredWithoutLast } else { Pushed::Gathered }
    }

    /// Reason for which the last message was rejected, if it was.
    pub fn last_reject(&self) -> Option<&Reject> {
        match &self.entries.last()?.body {
            Body::Rejected(reject) => Some(reject),
            Body::Row { .. } | Body::Skipped => None,
        }
    }

    /// Expects a partition to be read again from its last message. Returns the offset to read
    /// from: that message's, or the one before the position if no message was ever read. Reading
    /// it shows the reader the partition's leader epoch.
    pub fn read_again(&mut self, partition: i32) -> Option<i64> {
        let lane = self.lanes.get_mut(&partition)?;
        lane.expected = lane.last.map(|last| last.fingerprint(&self.raw));
        self.last_offset(partition)
    }

    /// Offset of a partition's last message, or the one before its position if none was ever
    /// read: where it is read from when it is started again.
    pub fn last_offset(&self, partition: i32) -> Option<i64> {
        let lane = self.lanes.get(&partition)?;
        Some(lane.last.map_or(lane.next - 1, |last| last.position()).max(0))
    }

    /// Advances a partition to `to` past offsets without messages for a reader: transaction
    /// markers, aborted or compacted messages.
    pub fn advance(&mut self, partition: i32, to: i64) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.next = lane.next.max(to);
        }
    }

    /// Position up to which a partition was gathered, if it is being read.
    pub fn position(&self, partition: i32) -> Option<i64> {
        self.lanes.get(&partition).map(|lane| lane.next)
    }

    /// Whether [`Batcher::take`] would return nothing.
    pub fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.next == lane.from)
    }

    /// Whether nothing more should be pushed yet: the next batch has reached a limit, or a large
    /// one is still in memory.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.rows
            || self.raw.len() + self.rows.len() >= self.limits.bytes
            || self.large.iter().any(|batch| batch.strong_count() > 0)
    }

    /// Takes the gathered batch, if there is one. The lanes continue at its end.
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let mut entries = mem::take(&mut self.entries);
        let (mut spans, mut indexes) = (Vec::new(), BTreeMap::new());
        for (partition, lane) in &mut self.lanes {
            let last = lane.last.map(|last| last.fingerprint(&self.raw));
            lane.last = last.map(Last::Taken);
            if lane.next == lane.from {
                continue;
            }
            indexes.insert(*partition, spans.len() as u32);
            spans.push(Span {
                lane: lane.id,
                partition: *partition,
                claim: lane.claim,
                from: lane.from,
                to: lane.next,
                last: last.filter(|_| mem::take(&mut lane.entries) > 0),
            });
            lane.from = lane.next;
        }
        for entry in &mut entries {
            entry.span = indexes[&entry.span.cast_signed()];
        }
        let (raw, rows) = self.exchange_buffers();
        Some(Batch::new(Authority::Stream, spans, entries, raw, rows))
    }

    /// Gives the filled buffers away and continues with free ones, from a stored batch if
    /// possible.
    fn exchange_buffers(&mut self) -> (Arc<Vec<u8>>, Arc<Vec<u8>>) {
        let free = self.spares.iter().position(|spare| {
            Arc::strong_count(&spare.raw) == 1 && Arc::strong_count(&spare.rows) == 1
        });
        let (mut raw, mut rows) = match free.map(|index| self.spares.swap_remove(index)) {
            Some(spare) => (
                Arc::try_unwrap(spare.raw).unwrap_or_default(),
                Arc::try_unwrap(spare.rows).unwrap_or_default(),
            ),
            None => Default::default(),
        };
        raw.clear();
        rows.clear();
        let raw = Arc::new(mem::replace(&mut self.raw, raw));
        let rows = Arc::new(mem::replace(&mut self.rows, rows));
        // A large batch frees its memory when it is stored, and is the only one until then.
        let most = 2 * self.limits.bytes;
        if raw.len() + rows.len() > most || raw.capacity().max(rows.capacity()) > most {
            self.large.retain(|batch| batch.strong_count() > 0);
            self.large.push(Arc::downgrade(&raw));
        } else if self.spares.len() < SPARES_MAX {
            self.spares.push(Buffers { raw: Arc::clone(&raw), rows: Arc::clone(&rows) });
        }
        (raw, rows)
    }
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Slice {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    Slice::new(start..buffer.len())
}

/// XXH3-64 of a message's key and value, the key preceded by its length (-1 for
/// none), so that no two messages read alike.
fn checksum(key: Option<&[u8]>, payload: &[u8]) -> i64 {
    let mut hash = Xxh3Default::new();
    match key {
        Some(key) => {
            hash.update(&(key.len() as u64).to_be_bytes());
            hash.update(key);
        }
        None => hash.update(&u64::MAX.to_be_bytes()),
    }
    hash.update(payload);
    hash.digest().cast_signed()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests;
