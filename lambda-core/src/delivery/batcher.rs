//! Gathers messages of several lanes into batches: a pure value, without I/O.
//!
//! Each lane has a position up to which it has been gathered. What is taken as a
//! batch spans, for each lane, from where the last batch ended to that position,
//! so that batches follow each other without a gap, whatever offsets the messages
//! themselves have (R8).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, Weak};

use xxhash_rust::xxh3::Xxh3Default;

use crate::batch::{Batch, Body, Entry, Slice, Span};
use crate::dead_letter::Reject;
use crate::decode::json;
use crate::failpoint::{Protection, off};
use crate::outcome::Authority;
use crate::progress::{ClaimId, Counts, Fingerprint, LaneId};
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
    /// Most rejected records among the first [`FIRST_RECORDS`] of a lane: a topic of something
    /// else is not moved into the dead letters.
    pub first_rejects: i64,
}

/// How many records of a lane are its first ones.
pub const FIRST_RECORDS: i64 = 1_000;

impl Default for Limits {
    /// 20,000 records, which was measured best, and 16 MiB; half of a lane's first records.
    fn default() -> Self {
        Self { rows: 20_000, bytes: 16 << 20, first_rejects: FIRST_RECORDS / 2 }
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
    /// What a lane remembers of its last message, to recognise its source again.
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
    /// It is in the next batch, but the lane's last message, which should have come first,
    /// is no longer in the partition.
    GatheredWithoutLast,
    /// It is in the next batch, and too many of the lane's first records are rejected, this
    /// one too: the next batch must not be stored.
    MostlyRejected,
    /// It lies below its lane's position: stored, or gathered before.
    Below,
    /// Its partition is not being read.
    NotStarted,
    /// It is another message than the lane's last one, at that one's offset or behind it where
    /// nothing was: the partition is not what was read. Nothing more is gathered of the lane
    /// until it is started again.
    Changed(Changed),
}

/// A lane whose partition holds another message where its last one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The lane.
    pub lane: LaneId,
    /// Where its next batch would have begun.
    pub position: i64,
    /// Its last message.
    pub last: Fingerprint,
    /// What is there instead.
    pub found: Fingerprint,
    /// Whether something was gathered of the lane since it was started.
    pub gathered: bool,
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
    /// Where it was started.
    started: i64,
    /// Entries in the next batch.
    entries: usize,
    /// Records read of it ever, and how many of these were rejected.
    read: i64,
    rejected: i64,
    /// The last message gathered, or stored before.
    last: Option<Last>,
    /// The message that must come first, since the partition is read from there.
    expected: Option<Fingerprint>,
}

impl Lane {
    /// Compares a message with the one that must come first. `None`: it is not there any
    /// more, or none is expected.
    fn identify(&mut self, message: &Message<'_>) -> Option<Pushed> {
        let last = self.expected?;
        if message.position < last.position {
            return Some(Pushed::Below);
        }
        // Nothing lay between the last message and the position either.
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

/// A lane's last message. It is hashed only on demand, since most are not the last for long.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// Still in the raw buffer.
    Gathered { position: i64, timestamp_ms: i64, key: Option<Slice>, payload: Slice },
    /// Stored, or on its way.
    Taken(Fingerprint),
}

impl Last {
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

/// Both buffers of a batch that was handed out: free once nobody else holds them.
#[derive(Debug)]
struct Buffers {
    raw: Arc<Vec<u8>>,
    rows: Arc<Vec<u8>>,
}

/// How a lane is started.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Its number.
    pub id: LaneId,
    /// The claim under which it is held.
    pub claim: ClaimId,
    /// Everything below is stored.
    pub from: i64,
    /// The last message stored of it.
    pub last: Option<Fingerprint>,
    /// Whether the partition is read from that message on. It is not where the message has
    /// expired.
    pub expected: bool,
    /// What became of the records stored of it.
    pub counts: Counts,
}

/// Gathers messages into batches of records of type `R`.
#[derive(Debug)]
pub struct Batcher<R> {
    limits: Limits,
    lanes: BTreeMap<i32, Lane>,
    /// Entries of all lanes in the order of arrival; `span` holds the partition until the
    /// batch is taken. One list: the room it needs does not grow with the number of lanes.
    entries: Vec<Entry>,
    /// Keys and payloads as read.
    raw: Vec<u8>,
    /// Decoded rows.
    rows: Vec<u8>,
    spares: Vec<Buffers>,
    /// Batches handed out that are too large for their buffers to be kept.
    large: Vec<Weak<Vec<u8>>>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Batcher<R> {
    /// An empty batcher, without lanes.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            entries: Vec::new(),
            raw: Vec::new(),
            rows: Vec::new(),
            spares: Vec::new(),
            large: Vec::new(),
            record: PhantomData,
        }
    }

    /// Gathers a partition from `from` on, the position stored under `claim`. Drops what was
    /// gathered of it before. `last` is the last message stored of it; with `expected` the
    /// partition is read from there, and the first message must be that one.
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
            rejected: counts.rejected,
            last: last.map(Last::Taken),
            expected: last.filter(|_| expected),
        };
        self.lanes.insert(partition, lane);
    }

    /// Stops gathering a partition, and drops what was gathered of it.
    pub fn drop_partition(&mut self, partition: i32) {
        let Some(lane) = self.lanes.remove(&partition) else { return };
        if lane.entries > 0 {
            self.entries.retain(|entry| entry.span.cast_signed() != partition);
        }
        // What is dropped beside other lanes' records stays in the buffers until
        // the next batch is taken.
        if self.entries.is_empty() {
            self.raw.clear();
            self.rows.clear();
        }
    }

    /// Decodes a message into the next batch.
    pub fn push(&mut self, message: &Message<'_>) -> Pushed {
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
        let body = match json::decode::<R>(message.payload, &mut self.rows) {
            Ok(row) => Body::Row { content: Slice::new(row.content), key: Slice::new(row.key) },
            Err(reject) => Body::Rejected(Box::new(reject)),
        };
        let rejected = matches!(body, Body::Rejected(_));
        let span = message.partition.cast_unsigned();
        self.entries.push(Entry { span, position, line: None, payload, message_key, body });
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

    /// Why the last message was rejected, if it was.
    pub fn last_reject(&self) -> Option<&Reject> {
        match &self.entries.last()?.body {
            Body::Rejected(reject) => Some(reject),
            Body::Row { .. } => None,
        }
    }

    /// Reads a partition again from its last message, which must come first. Gives the offset
    /// to read from: that message's, or, where none was ever read, the one before the position,
    /// which shows the reader the partition's leader epoch.
    pub fn read_again(&mut self, partition: i32) -> Option<i64> {
        let lane = self.lanes.get_mut(&partition)?;
        lane.expected = lane.last.map(|last| last.fingerprint(&self.raw));
        Some(lane.expected.map_or(lane.next - 1, |last| last.position).max(0))
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

    /// Whether nothing more should be pushed yet: the next batch has reached a limit, or a large
    /// one is still in memory.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.rows
            || self.raw.len() + self.rows.len() >= self.limits.bytes
            || self.large.iter().any(|batch| batch.strong_count() > 0)
    }

    /// Takes what was gathered, if anything was. The lanes continue behind it.
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
        // A large batch frees its memory when it is stored, and is the only one until then.
        let bytes = raw.capacity().max(rows.capacity());
        if bytes > 2 * self.limits.bytes {
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
        ReadAgain(i32),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let partition = 0..3_i32;
        prop_oneof![
            1 => partition.clone().prop_map(Step::Start),
            1 => partition.clone().prop_map(Step::ReadAgain),
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
        /// The last message pushed.
        last: Option<(i64, bool)>,
    }

    fn start(id: i32, claim: ClaimId, from: i64) -> Start {
        let counts = Counts::default();
        Start { id: LaneId(id), claim, from, last: None, expected: false, counts }
    }

    fn payload(partition: i32, position: i64, valid: bool) -> Vec<u8> {
        let valid = valid.then(|| format!(r#"{{"id":"{partition}-{position}"}}"#).into_bytes());
        valid.unwrap_or_else(|| b"no json".to_vec())
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
                        batcher.start(partition, start(partition, claim, from));
                        let (next, offsets, last) = (from, Vec::new(), None);
                        lanes.insert(partition, Expected { claim, from, next, offsets, last });
                    }
                    Step::Push(partition, gap, valid) => {
                        let position = ends[partition as usize] + gap;
                        let payload = payload(partition, position, valid);
                        let pushed = batcher.push(&message(partition, position, &payload));
                        match lanes.get_mut(&partition) {
                            None => prop_assert_eq!(pushed, Pushed::NotStarted),
                            Some(lane) if position < lane.next => {
                                prop_assert_eq!(pushed, Pushed::Below);
                            }
                            Some(lane) => {
                                prop_assert_eq!(pushed, Pushed::Gathered);
                                lane.offsets.push((position, valid));
                                lane.last = Some((position, valid));
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
                    Step::ReadAgain(partition) => {
                        let from = batcher.read_again(partition);
                        let lane = lanes.get(&partition);
                        let expected = lane.map(|lane| lane.last.map_or(lane.next - 1, |it| it.0));
                        prop_assert_eq!(from, expected);
                        if let Some((position, valid)) = lane.and_then(|lane| lane.last) {
                            let payload = payload(partition, position, valid);
                            let pushed = batcher.push(&message(partition, position, &payload));
                            prop_assert_eq!(pushed, Pushed::Below, "the last message again");
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
            let mut batcher = Batcher::<Note>::new(Limits { rows, bytes, ..Limits::default() });
            batcher.start(0, start(1, ClaimId::random(), 0));
            let mut position = 0;
            while !batcher.is_full() {
                let payload = format!(r#"{{"id":"{position}"}}"#);
                batcher.push(&message(0, position, payload.as_bytes()));
                position += 1;
            }
            let batch = batcher.take().unwrap();
            prop_assert!(batch.entries().len() <= rows);
            drop(batch);
            prop_assert!(!batcher.is_full() && batcher.is_empty());
        }
    }

    #[test]
    fn the_buffers_of_a_stored_batch_are_used_again() {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        batcher.start(0, start(1, ClaimId::random(), 0));
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
    fn a_large_batch_takes_its_memory_with_it_and_many_lanes_need_no_more_than_one() {
        let limits = Limits { rows: 1_000, bytes: 64 << 10, first_rejects: i64::MAX };
        let mut batcher = Batcher::<Note>::new(limits);
        for partition in 0..300 {
            batcher.start(partition, start(partition, ClaimId::random(), 0));
        }
        let large = vec![b' '; 8 << 20];
        for position in 0..8 {
            for partition in 0..300 {
                let payload = if partition == 7 { &large } else { &b"{}"[..] };
                batcher.push(&message(partition, position, payload));
            }
            assert!(batcher.is_full());
            let taken = batcher.take();
            assert!(batcher.is_full(), "nothing is gathered beside a large batch");
            drop(taken);
            assert!(!batcher.is_full());
        }
        let entries = batcher.entries.capacity();
        let buffers = batcher.raw.capacity() + batcher.rows.capacity();
        let spares = batcher.spares.iter();
        let spares: usize = spares.map(|it| it.raw.capacity() + it.rows.capacity()).sum();
        let most = 2 * limits.bytes * (1 + SPARES_MAX);
        assert!(buffers + spares <= 2 * most, "{buffers} and {spares} bytes");
        assert_eq!(entries, 0);
    }

    /// A lane whose messages below 10 are stored, the last one at offset 7, as it is started.
    fn stored_to_ten() -> (Batcher<Note>, Fingerprint) {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        let last = message(0, 7, br#"{"id":"seven"}"#).fingerprint();
        let claim = ClaimId::random();
        let start = Start { last: Some(last), expected: true, ..start(1, claim, 10) };
        batcher.start(0, start);
        (batcher, last)
    }

    #[test]
    fn a_lane_is_read_from_its_last_message_which_is_compared_and_dropped() {
        let (mut batcher, _) = stored_to_ten();
        assert_eq!(batcher.push(&message(0, 6, b"before it")), Pushed::Below);
        assert_eq!(batcher.push(&message(0, 7, br#"{"id":"seven"}"#)), Pushed::Below);
        assert!(batcher.is_empty());
        assert_eq!(batcher.push(&message(0, 10, b"{}")), Pushed::Gathered);
        let span = batcher.take().unwrap().spans()[0].clone();
        assert_eq!((span.from, span.to), (10, 11));
    }

    #[test]
    fn a_lane_whose_last_message_is_gone_says_so_and_is_read_on() {
        for first in [10, 12] {
            let (mut batcher, _) = stored_to_ten();
            let pushed = batcher.push(&message(0, first, b"{}"));
            assert_eq!(pushed, Pushed::GatheredWithoutLast);
            assert_eq!(batcher.push(&message(0, 13, b"{}")), Pushed::Gathered);
        }
    }

    #[test]
    fn a_message_where_there_was_none_below_the_position_is_another_log() {
        let (mut batcher, last) = stored_to_ten();
        let other = message(0, 8, b"{}");
        let found = other.fingerprint();
        let changed = Changed { lane: LaneId(1), position: 10, last, found, gathered: false };
        assert_eq!(batcher.push(&other), Pushed::Changed(changed));
    }

    #[test]
    fn nothing_is_gathered_of_a_lane_with_another_message_where_its_last_one_was() {
        for again in [false, true] {
            let (mut batcher, mut last) = stored_to_ten();
            let (mut at, mut position) = (7, 10);
            if again {
                // Read on, and once more from its last message.
                assert_eq!(batcher.push(&message(0, 7, br#"{"id":"seven"}"#)), Pushed::Below);
                assert_eq!(batcher.push(&message(0, 12, b"{}")), Pushed::Gathered);
                (at, position, last) = (12, 13, message(0, 12, b"{}").fingerprint());
                assert_eq!(batcher.read_again(0), Some(12));
            }
            let other = message(0, at, br#"{"id":"another"}"#);
            let found = other.fingerprint();
            let lane = LaneId(1);
            let changed = Changed { lane, position, last, found, gathered: again };
            for _ in 0..2 {
                assert_eq!(batcher.push(&other), Pushed::Changed(changed));
            }
            assert_eq!(batcher.is_empty(), !again, "what was gathered before stays");
        }
    }

    #[test]
    fn a_lane_of_which_no_message_is_known_is_read_from_before_its_position() {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        assert_eq!(batcher.read_again(0), None);
        for (position, from) in [(0, 0), (5, 4)] {
            batcher.start(0, start(1, ClaimId::random(), position));
            assert_eq!(batcher.read_again(0), Some(from));
        }
    }

    #[test]
    fn a_lane_whose_first_records_are_mostly_rejected_is_found_out_a_later_reject_is_not() {
        let limits = Limits { first_rejects: 2, ..Limits::default() };
        let reject = |read, rejected| {
            let mut batcher = Batcher::<Note>::new(limits);
            let counts = Counts { read, rejected, ..Counts::default() };
            batcher.start(0, Start { counts, ..start(1, ClaimId::random(), 0) });
            let good = batcher.push(&message(0, 0, br#"{"id":"a"}"#));
            assert_eq!(good, Pushed::Gathered, "a good record says nothing");
            let pushed = batcher.push(&message(0, 1, b"none"));
            assert_eq!(batcher.last_reject().unwrap().reason.as_str(), "invalid_json");
            pushed
        };
        assert_eq!(reject(10, 1), Pushed::Gathered);
        assert_eq!(reject(10, 2), Pushed::MostlyRejected);
        assert_eq!(reject(FIRST_RECORDS - 2, 2), Pushed::MostlyRejected);
        assert_eq!(reject(FIRST_RECORDS - 1, 2), Pushed::Gathered);
    }

    #[test]
    fn a_tombstone_is_a_reject_and_its_fingerprint_tells_key_from_value() {
        let mut batcher = Batcher::<Note>::new(Limits::default());
        let fingerprint = |batcher: &mut Batcher<Note>, key, payload| {
            batcher.start(0, start(1, ClaimId::random(), 7));
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
