use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::decode::{Decode, Decoded, Record, Serde};
use crate::outcome::Outcome;
use crate::record::{Column, ColumnType, RowRef, RowWriter, Table};

#[derive(Debug, Deserialize)]
struct Note {
    id: String,
}

impl Record for Note {
    fn table() -> Table {
        Table::new("notes").column(Column::new("id", ColumnType::Text))
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(&self.id);
    }

    fn read(mut row: RowRef<'_>) -> Result<Self, Reject> {
        Ok(Self { id: row.take()? })
    }
}

fn batcher(limits: Limits) -> Batcher {
    Batcher::new(Pipeline::of::<Note>("notes").build().unwrap(), limits)
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

fn message(partition: i32, position: i64, payload: &[u8]) -> Received<'_> {
    let key = Some(&b"key"[..]);
    let (timestamp_ms, payload) = (position * 10, Some(payload));
    Received { partition, position, timestamp_ms, key, payload, headers: &[] }
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
        let mut batcher = batcher(Limits::default());
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
        let mut batcher = batcher(Limits { rows, bytes, ..Limits::default() });
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
    let mut batcher = batcher(Limits::default());
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
    let mut batcher = batcher(limits);
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
fn stored_to_ten() -> (Batcher, Fingerprint) {
    let mut batcher = batcher(Limits::default());
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
    let mut batcher = batcher(Limits::default());
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
        let mut batcher = batcher(limits);
        let good = (Outcome::Inserted, read - rejected);
        let counts = Counts::of([good, (Outcome::Rejected, rejected)]);
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
    let mut batcher = batcher(Limits::default());
    let fingerprint = |batcher: &mut Batcher, key, payload| {
        batcher.start(0, start(1, ClaimId::random(), 7));
        let message =
            Received { partition: 0, position: 7, timestamp_ms: 0, key, payload, headers: &[] };
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

/// Skips messages that begin with a dash.
struct Filter<D>(D);

impl<D: Decode> Decode for Filter<D> {
    fn format(&self) -> &str {
        self.0.format()
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        if message.payload.is_some_and(|payload| payload.starts_with(b"-")) {
            // What was written before is discarded.
            row.put("x");
            return Ok(Decoded::Skip("begins with a dash"));
        }
        self.0.decode(message, row)
    }
}

#[test]
fn a_skipped_message_leaves_no_row_and_moves_the_lane() {
    let notes = Pipeline::of::<Note>("notes").messages(Filter(Serde::<Note>::json()));
    let notes = notes.build().unwrap();
    let mut batcher = Batcher::new(notes, Limits::default());
    batcher.start(0, start(1, ClaimId::random(), 0));
    for (position, payload) in [(0, &b"-"[..]), (1, br#"{"id":"a"}"#), (2, b"no json")] {
        assert_eq!(batcher.push(&message(0, position, payload)), Pushed::Gathered);
    }
    let batch = batcher.take().unwrap();
    let bodies: Vec<&Body> = batch.entries().iter().map(|entry| &entry.body).collect();
    let [Body::Skipped, Body::Row { key, .. }, Body::Rejected(_)] = bodies[..] else {
        panic!("{bodies:?}")
    };
    assert_eq!(batch.row(*key), b"a");
    assert_eq!(batch.spans()[0].to, 3);
    let counts = crate::resolve::Keys::of(&batch).resolve(&[]).counts[0];
    let one = [Outcome::Inserted, Outcome::Rejected, Outcome::Skipped].map(|it| (it, 1));
    assert_eq!(counts, Counts::of(one));
}
