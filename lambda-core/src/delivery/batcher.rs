//! Gathers messages of several lanes into batches: a pure value, without I/O.
//!
//! Each lane has a position up to which it has been gathered. What is taken as a
//! batch spans, for each lane, from where the last batch ended to that position,
//! so that batches follow each other without a gap, whatever offsets the messages
//! themselves have (R8).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::decode::json;
use crate::failpoint::{Protection, off};
use crate::outcome::Authority;
use crate::progress::{ClaimId, Fingerprint, LaneId};
use crate::record::Record;

/// Pairs of buffers kept for reuse: one being committed, one ready.
const SPARES_MAX: usize = 2;

/// How large a batch may grow (R24).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most records.
    pub rows: usize,
    /// Most bytes, as read and decoded together; the last record may exceed it.
    pub bytes: usize,
}

impl Default for Limits {
    /// 20,000 records, which was measured best, and 16 MiB.
    fn default() -> Self {
        Self { rows: 20_000, bytes: 16 << 20 }
    }
}

/// A message as read.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
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
}

impl Message<'_> {
    /// What a lane remembers of it if it is its last one (R18).
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            position: self.position,
            timestamp_ms: self.timestamp_ms,
            checksum: checksum(self.key, self.payload.unwrap_or_default()),
        }
    }
}

/// What became of a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the next batch.
    Gathered,
    /// It lies below its lane's position: stored, or gathered before.
    Below,
    /// Its partition is not being read.
    NotStarted,
}

/// A lane being read.
#[derive(Debug)]
struct Lane {
    id: LaneId,
    claim: ClaimId,
    /// Where the next batch begins.
    from: i64,
    /// Where it ends, so far.
    next: i64,
    entries: Vec<Entry>,
    last_timestamp_ms: i64,
}

/// Both buffers of a batch that was handed out: free once nobody else holds them.
#[derive(Debug)]
struct Buffers {
    raw: Arc<Vec<u8>>,
    rows: Arc<Vec<u8>>,
}

/// Gathers messages into batches of records of type `R`.
#[derive(Debug)]
pub struct Batcher<R> {
    limits: Limits,
    lanes: BTreeMap<i32, Lane>,
    /// Entries of all lanes.
    records: usize,
    /// Keys and payloads as read.
    raw: Vec<u8>,
    /// Decoded rows.
    rows: Vec<u8>,
    spares: Vec<Buffers>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Batcher<R> {
    /// An empty batcher, without lanes.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            records: 0,
            raw: Vec::new(),
            rows: Vec::new(),
            spares: Vec::new(),
            record: PhantomData,
        }
    }

    /// Gathers a partition from `from` on, the position stored under `claim`.
    /// Whatever was gathered of it before is dropped.
    pub fn start(&mut self, partition: i32, id: LaneId, claim: ClaimId, from: i64) {
        self.drop_partition(partition);
        let lane = Lane { id, claim, from, next: from, entries: Vec::new(), last_timestamp_ms: 0 };
        self.lanes.insert(partition, lane);
    }

    /// Stops gathering a partition, and drops what was gathered of it.
    pub fn drop_partition(&mut self, partition: i32) {
        if let Some(lane) = self.lanes.remove(&partition) {
            self.records -= lane.entries.len();
        }
        // What is dropped beside other lanes' records stays in the buffers until
        // the next batch is taken.
        if self.records == 0 {
            self.raw.clear();
            self.rows.clear();
        }
    }

    /// Decodes a message into the next batch.
    pub fn push(&mut self, message: &Message<'_>) -> Pushed {
        let Some(lane) = self.lanes.get_mut(&message.partition) else {
            return Pushed::NotStarted;
        };
        if message.position < lane.next && !off(Protection::DropBelow) {
            return Pushed::Below;
        }
        let message_key = message.key.map(|key| append(&mut self.raw, key));
        let payload = append(&mut self.raw, message.payload.unwrap_or_default());
        let body = match json::decode::<R>(message.payload, &mut self.rows) {
            Ok(row) => Body::Row { content: Slice::new(row.content), key: Slice::new(row.key) },
            Err(reject) => Body::Rejected(Box::new(reject)),
        };
        let position = message.position;
        // The span's index is known when the batch is taken.
        lane.entries.push(Entry { span: 0, position, line: None, payload, message_key, body });
        self.records += 1;
        lane.next = position + 1;
        lane.last_timestamp_ms = message.timestamp_ms;
        Pushed::Gathered
    }

    /// Notes that a partition has nothing below `to` that was not pushed: an empty
    /// advance, over transaction markers, aborted or compacted messages.
    pub fn advance(&mut self, partition: i32, to: i64) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.next = lane.next.max(to);
        }
    }

    /// Up to where a partition was gathered, if it is being read.
    pub fn position(&self, partition: i32) -> Option<i64> {
        self.lanes.get(&partition).map(|lane| lane.next)
    }

    /// Whether [`Batcher::take`] would give nothing.
    pub fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.next == lane.from)
    }

    /// Whether the next batch has reached a limit and is to be taken first.
    pub fn is_full(&self) -> bool {
        self.records >= self.limits.rows || self.raw.len() + self.rows.len() >= self.limits.bytes
    }

    /// Takes what was gathered, if anything was. The lanes go on behind it.
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let mut entries = Vec::with_capacity(mem::take(&mut self.records));
        let mut spans = Vec::with_capacity(self.lanes.len());
        let moved = self.lanes.iter_mut().filter(|(_, lane)| lane.next > lane.from);
        for (index, (partition, lane)) in moved.enumerate() {
            spans.push(Span {
                lane: lane.id,
                partition: *partition,
                claim: lane.claim,
                from: lane.from,
                to: lane.next,
                last: lane.entries.last().map(|entry| Fingerprint {
                    position: entry.position,
                    timestamp_ms: lane.last_timestamp_ms,
                    checksum: checksum(
                        entry.message_key.map(|key| key.of(&self.raw)),
                        entry.payload.of(&self.raw),
                    ),
                }),
            });
            let span = u32::try_from(index).unwrap_or(u32::MAX);
            entries.extend(lane.entries.drain(..).map(|entry| Entry { span, ..entry }));
            lane.from = lane.next;
        }
        let (raw, rows) = self.exchange_buffers();
        Some(Batch::new(Authority::Stream, const { &R::TABLE }, spans, entries, raw, rows))
    }

    /// Gives the filled buffers away, and goes on with free ones: those of a batch
    /// that is stored by now, if there are any.
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
        if self.spares.len() < SPARES_MAX {
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
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::record::{Column, ColumnType, RowWriter, Table};

    #[derive(Debug, Deserialize)]
    struct Note {
        id: String,
    }

    impl Record for Note {
        const TABLE: Table =
            Table { name: "notes", key: 0, columns: &[Column::new("id", ColumnType::Text)] };

        fn write(&self, row: &mut RowWriter<'_>) {
            row.put(&self.id);
        }
    }

    /// What happens to a batcher; partitions are few so that lanes collide.
    #[derive(Debug, Clone)]
    enum Step {
        Start(i32),
        /// A message so many offsets behind (or, rarely, before) what was seen.
        Push(i32, i64, bool),
        Advance(i32, i64),
        Drop(i32),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let partition = 0..3_i32;
        prop_oneof![
            1 => partition.clone().prop_map(Step::Start),
            8 => (partition.clone(), -2..5_i64, prop::bool::weighted(0.9))
                .prop_map(|(partition, gap, valid)| Step::Push(partition, gap, valid)),
            1 => (partition.clone(), -2..5_i64).prop_map(|(p, gap)| Step::Advance(p, gap)),
            1 => partition.prop_map(Step::Drop),
            2 => Just(Step::Take),
        ]
    }

    /// What a lane is expected to yield next.
    #[derive(Debug, Clone)]
    struct Expected {
        claim: ClaimId,
        from: i64,
        next: i64,
        offsets: Vec<(i64, bool)>,
    }

    fn message(partition: i32, position: i64, payload: &[u8]) -> Message<'_> {
        let key = Some(&b"key"[..]);
        Message { partition, position, timestamp_ms: position * 10, key, payload: Some(payload) }
    }

    fn check(batch: &Batch, expected: &mut BTreeMap<i32, Expected>) {
        let moved: Vec<i32> = expected
            .iter()
            .filter(|(_, lane)| lane.next > lane.from)
            .map(|(partition, _)| *partition)
            .collect();
        let spanned: Vec<i32> = batch.spans().iter().map(|span| span.partition).collect();
        assert_eq!(spanned, moved, "a batch spans the lanes that moved, sorted");
        for (index, span) in batch.spans().iter().enumerate() {
            let lane = expected.get_mut(&span.partition).unwrap();
            assert_eq!((span.claim, span.from, span.to), (lane.claim, lane.from, lane.next));
            let entries: Vec<&Entry> =
                batch.entries().iter().filter(|entry| entry.span as usize == index).collect();
            let found: Vec<(i64, bool)> = entries
                .iter()
                .map(|entry| (entry.position, matches!(entry.body, Body::Row { .. })))
                .collect();
            assert_eq!(found, lane.offsets, "each message once, in order");
            for entry in entries {
                assert_eq!(batch.message_key(entry), Some(&b"key"[..]));
                if let Body::Row { key, .. } = entry.body {
                    let id = format!("{}-{}", span.partition, entry.position);
                    assert_eq!(batch.row(key), id.as_bytes(), "rows stay beside their messages");
                }
            }
            assert_eq!(
                span.last.map(|last| (last.position, last.timestamp_ms)),
                lane.offsets.last().map(|(offset, _)| (*offset, offset * 10))
            );
            lane.from = lane.next;
            lane.offsets.clear();
        }
    }

    proptest! {
        #[test]
        fn spans_follow_each_other_and_hold_each_message_once(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut batcher = Batcher::<Note>::new(Limits::default());
            let mut lanes: BTreeMap<i32, Expected> = BTreeMap::new();
            // Where the topic's partitions stand, started or not.
            let mut ends = [100_i64; 3];
            // Batches on their way hold their buffers, so that reuse would show.
            let mut kept: Vec<Batch> = Vec::new();
            for step in steps {
                match step {
                    Step::Start(partition) => {
                        let claim = ClaimId::random();
                        let from = ends[partition as usize];
                        batcher.start(partition, LaneId(partition), claim, from);
                        lanes.insert(
                            partition,
                            Expected { claim, from, next: from, offsets: Vec::new() },
                        );
                    }
                    Step::Push(partition, gap, valid) => {
                        let position = ends[partition as usize] + gap;
                        let payload = if valid {
                            format!(r#"{{"id":"{partition}-{position}"}}"#)
                        } else {
                            "no json".to_owned()
                        };
                        let pushed =
                            batcher.push(&message(partition, position, payload.as_bytes()));
                        match lanes.get_mut(&partition) {
                            None => prop_assert_eq!(pushed, Pushed::NotStarted),
                            Some(lane) if position < lane.next => {
                                prop_assert_eq!(pushed, Pushed::Below);
                            }
                            Some(lane) => {
                                prop_assert_eq!(pushed, Pushed::Gathered);
                                lane.offsets.push((position, valid));
                                lane.next = position + 1;
                                ends[partition as usize] = lane.next;
                            }
                        }
                    }
                    Step::Advance(partition, gap) => {
                        let to = ends[partition as usize] + gap;
                        batcher.advance(partition, to);
                        if let Some(lane) = lanes.get_mut(&partition) {
                            lane.next = lane.next.max(to);
                            ends[partition as usize] = lane.next;
                        }
                    }
                    Step::Drop(partition) => {
                        batcher.drop_partition(partition);
                        lanes.remove(&partition);
                    }
                    Step::Take => match batcher.take() {
                        Some(batch) => {
                            check(&batch, &mut lanes);
                            kept.push(batch);
                            kept.drain(..kept.len().saturating_sub(3));
                        }
                        None => prop_assert!(lanes.values().all(|lane| lane.next == lane.from)),
                    },
                }
                for (partition, lane) in &lanes {
                    prop_assert_eq!(batcher.position(*partition), Some(lane.next));
                }
            }
        }

        #[test]
        fn a_batch_stops_growing_at_its_limits(rows in 1_usize..20, bytes in 1_usize..2_000) {
            let mut batcher = Batcher::<Note>::new(Limits { rows, bytes });
            batcher.start(0, LaneId(1), ClaimId::random(), 0);
            let mut position = 0;
            while !batcher.is_full() {
                let payload = format!(r#"{{"id":"{position}"}}"#);
                batcher.push(&message(0, position, payload.as_bytes()));
                position += 1;
            }
            let batch = batcher.take().unwrap();
            prop_assert!(batch.entries().len() <= rows);
            prop_assert!(!batcher.is_full() && batcher.is_empty());
        }
    }

    #[test]
    fn the_buffers_of_a_stored_batch_are_used_again() {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        batcher.start(0, LaneId(1), ClaimId::random(), 0);
        let mut addresses = Vec::new();
        for position in 0..8 {
            batcher.push(&message(0, position, br#"{"id":"a"}"#));
            let batch = batcher.take().unwrap();
            addresses.push(batch.payload(&batch.entries()[0]).as_ptr());
        }
        addresses.sort_unstable();
        addresses.dedup();
        assert!(addresses.len() <= SPARES_MAX + 1, "{addresses:?}");
    }

    #[test]
    fn a_tombstone_is_a_reject_and_its_fingerprint_tells_key_from_value() {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        let fingerprint = |batcher: &mut Batcher<Note>, key, payload| {
            batcher.start(0, LaneId(1), ClaimId::random(), 7);
            let message = Message { partition: 0, position: 7, timestamp_ms: 0, key, payload };
            assert_eq!(batcher.push(&message), Pushed::Gathered);
            let batch = batcher.take().unwrap();
            assert!(matches!(batch.entries()[0].body, Body::Rejected(_)));
            batch.spans()[0].last.unwrap().checksum
        };
        let (ab, c) = (Some(&b"ab"[..]), Some(&b"c"[..]));
        let (a, bc) = (Some(&b"a"[..]), Some(&b"bc"[..]));
        let checksums = [
            fingerprint(&mut batcher, ab, c),
            fingerprint(&mut batcher, a, bc),
            fingerprint(&mut batcher, None, Some(b"abc")),
            fingerprint(&mut batcher, Some(b"abc"), None),
        ];
        for (index, checksum) in checksums.iter().enumerate() {
            assert!(!checksums[..index].contains(checksum), "{checksums:?}");
        }
    }
}
