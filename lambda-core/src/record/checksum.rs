//! The evidence hashes: of a row, of a correction, and of a lane's progress.
//!
//! All are 64 bits of XXH3. They are unkeyed: evidence against accidents, not against
//! deliberate changes. Numbers in them are big endian, as binary COPY sends them.

use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::Outcome;
use crate::progress::{LaneId, Progress};
use crate::record::row::NULL;

/// XXH3-64 of any bytes: a producer's ledger keeps it of each payload.
///
/// ```
/// use lambda_core::record::checksum;
///
/// assert_eq!(checksum::of_bytes(b"R-1"), checksum::of_bytes(b"R-1"));
/// assert_ne!(checksum::of_bytes(b"R-1"), checksum::of_bytes(b"R-2"));
/// ```
pub fn of_bytes(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Bytes of the lane field and the position field.
const PLACE_BYTES: usize = 20;

/// Hash of what a row says and where it was read: its fields up to the last one that is not null,
/// lane and position as binary COPY sends them. So a nullable column that is added at the end
/// changes no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(u64);

impl ContentHash {
    /// The hash of the fields, lane field and position field in `sent`.
    pub fn of_sent(sent: &[u8]) -> Self {
        let (content, place) = sent.split_at(sent.len().saturating_sub(PLACE_BYTES));
        // These bytes may also end a value. As its length is before it, no other row of the table
        // has the same bytes left.
        let mut said = content;
        while let Some(before) = said.strip_suffix(&NULL) {
            said = before;
        }
        if said.len() == content.len() {
            return Self(xxh3_64(sent));
        }
        Self(xxh3_64(&[said, place].concat()))
    }

    /// The hash of a row's `content` (see [`crate::record::row`]) read at `position` of
    /// `lane`.
    pub fn of(content: &[u8], lane: LaneId, position: i64) -> Self {
        let mut sent = Vec::with_capacity(content.len() + PLACE_BYTES);
        sent.extend_from_slice(content);
        sent.extend_from_slice(&4_i32.to_be_bytes());
        sent.extend_from_slice(&lane.0.to_be_bytes());
        sent.extend_from_slice(&8_i32.to_be_bytes());
        sent.extend_from_slice(&position.to_be_bytes());
        Self::of_sent(&sent)
    }

    /// The row's checksum: this hash, the transaction that inserted the row, and its job, if
    /// one answers for it.
    pub fn checksum(self, written_xid: i64, job_id: Option<&str>) -> Checksum {
        /// Bytes before the job.
        const BEFORE: usize = 16;
        let job = job_id.unwrap_or_default().as_bytes();
        // Room for any job of ours.
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.0.to_be_bytes());
        bytes[8..BEFORE].copy_from_slice(&written_xid.to_be_bytes());
        let hash = match bytes.get_mut(BEFORE..BEFORE + job.len()) {
            Some(place) => {
                place.copy_from_slice(job);
                xxh3_64(&bytes[..BEFORE + job.len()])
            }
            None => xxh3_64(&[&bytes[..BEFORE], job].concat()),
        };
        Checksum(hash.cast_signed())
    }

    /// Part of the row in the sum of what its lane wrote, which no job changes later.
    pub fn written(self, written_xid: i64) -> i64 {
        self.checksum(written_xid, None).0
    }
}

/// A row's checksum, as stored in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub i64);

impl Checksum {
    /// Hash of the correction that replaced a row of this checksum by one of the checksum
    /// `after`, in the transaction `written_xid`.
    pub fn displacement(self, after: Self, written_xid: i64) -> i64 {
        numbers([self.0, after.0, written_xid])
    }
}

/// Hash of a lane's progress row: its number, position, counts, sums, high and last record.
pub fn of_progress(lane: &Progress) -> i64 {
    let mut bytes = Vec::with_capacity(160);
    let mut put = |number: i64| bytes.extend_from_slice(&number.to_be_bytes());
    put(i64::from(lane.lane.0));
    put(lane.position);
    put(lane.high);
    put(lane.counts.read);
    for outcome in Outcome::ALL {
        put(lane.counts[outcome]);
    }
    put(lane.sums.written);
    put(lane.sums.owned);
    put(lane.sums.displaced);
    if let Some(last) = &lane.last {
        put(last.position);
        put(last.timestamp_ms);
        put(last.checksum);
    }
    xxh3_64(&bytes).cast_signed()
}

fn numbers<const N: usize>(numbers: [i64; N]) -> i64 {
    xxh3_64(numbers.map(i64::to_be_bytes).as_flattened()).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of a table's columns, of any number of bytes.
    fn values() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        let byte = prop_oneof![Just(0xff_u8), any::<u8>()];
        let value = proptest::option::of(proptest::collection::vec(byte, 0..9));
        proptest::collection::vec(value, 4)
    }

    fn content(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let field = |value: &Option<Vec<u8>>| match value {
            None => NULL.to_vec(),
            Some(bytes) => [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat(),
        };
        values.iter().flat_map(field).collect()
    }

    proptest! {
        #[test]
        fn nulls_at_the_end_change_no_checksum_and_other_values_do(
            one in values(), other in values(), added in 0_usize..3,
        ) {
            let of = |values: &[Option<Vec<u8>>]| ContentHash::of(&content(values), LaneId(1), 2);
            prop_assert_eq!(of(&one) == of(&other), one == other);
            let wider = [&one[..], &vec![None; added]].concat();
            prop_assert_eq!(of(&one), of(&wider));
        }

        #[test]
        fn a_checksum_changes_with_any_byte_lane_or_position(
            content in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<proptest::sample::Index>(), flip in 1..=255_u8,
            lane in any::<i32>(), position in 0..i64::MAX,
        ) {
            let of = |content: &[u8], lane, position| {
                ContentHash::of(content, LaneId(lane), position)
            };
            let hash = of(&content, lane, position);
            prop_assert_eq!(hash, of(&content, lane, position));
            prop_assert_ne!(hash, of(&content, lane.wrapping_add(1), position));
            prop_assert_ne!(hash, of(&content, lane, position + 1));
            let mut changed = content.clone();
            changed[at.index(content.len())] ^= flip;
            prop_assert_ne!(hash, of(&changed, lane, position));
            prop_assert_ne!(hash, of(&content[1..], lane, position));
        }

        #[test]
        fn a_checksum_changes_with_the_job_and_the_transaction(
            hash in any::<u64>(), xid in any::<i64>(), job in "BAT[0-9]{5,60}",
        ) {
            let hash = ContentHash(hash);
            let checksum = hash.checksum(xid, Some(&job));
            prop_assert_eq!(checksum, hash.checksum(xid, Some(&job)));
            prop_assert_ne!(checksum, hash.checksum(xid, None));
            prop_assert_ne!(checksum, hash.checksum(xid, Some(&job[1..])));
            prop_assert_ne!(checksum, hash.checksum(xid.wrapping_add(1), Some(&job)));
            prop_assert_ne!(hash.written(xid), hash.written(xid.wrapping_add(1)));
            prop_assert_eq!(hash.written(xid), hash.checksum(xid, None).0);
        }

        #[test]
        fn a_displacement_changes_with_any_part(
            before in any::<i64>(), after in any::<i64>(), xid in any::<i64>(),
        ) {
            prop_assume!(before != after);
            let of = |before, after, xid| Checksum(before).displacement(Checksum(after), xid);
            let hash = of(before, after, xid);
            prop_assert_ne!(hash, of(after, before, xid));
            prop_assert_ne!(hash, of(before, before, xid));
            prop_assert_ne!(hash, of(before, after, xid.wrapping_add(1)));
        }
    }
}
