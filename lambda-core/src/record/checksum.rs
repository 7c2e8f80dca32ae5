//! The evidence hashes: a row's content and origin, and its owner.
//!
//! All are 64 bits of XXH3. They are unkeyed: evidence against accidents, not against
//! deliberate changes.

use xxhash_rust::xxh3::xxh3_64;

use crate::progress::LaneId;

/// Hash of a row's content and origin: its fields, lane and position as binary COPY sends
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub i64);

impl Checksum {
    /// The checksum of the fields, lane field and position field in `sent`.
    pub fn of_sent(sent: &[u8]) -> Self {
        Self(xxh3_64(sent).cast_signed())
    }

    /// The checksum of a row's `content` (see [`crate::record::row`]) read at
    /// `position` of `lane`.
    pub fn of(content: &[u8], lane: LaneId, position: i64) -> Self {
        let mut sent = Vec::with_capacity(content.len() + 20);
        sent.extend_from_slice(content);
        put_origin(&mut sent, lane, position);
        Self::of_sent(&sent)
    }
}

/// Appends the lane field and the position field, as binary COPY sends them.
pub fn put_origin(out: &mut Vec<u8>, lane: LaneId, position: i64) {
    out.extend_from_slice(&4_i32.to_be_bytes());
    out.extend_from_slice(&lane.0.to_be_bytes());
    out.extend_from_slice(&8_i32.to_be_bytes());
    out.extend_from_slice(&position.to_be_bytes());
}

/// o(row): the hash of a row's owner.
pub fn ownership(checksum: Checksum, job_id: Option<&str>, written_xid: i64) -> i64 {
    let ingestion_type = if job_id.is_some() { "BATCH" } else { "STREAM" };
    hash(&[
        &checksum.0.to_be_bytes(),
        text(job_id),
        ingestion_type.as_bytes(),
        &written_xid.to_be_bytes(),
    ])
}

/// k(correction): the hash of a replaced row and its replacement.
pub fn displacement(
    (before, before_job, before_xid): (Checksum, Option<&str>, i64),
    (after, after_job, written_xid): (Checksum, &str, i64),
) -> i64 {
    hash(&[
        &before.0.to_be_bytes(),
        &after.0.to_be_bytes(),
        text(before_job),
        after_job.as_bytes(),
        &before_xid.to_be_bytes(),
        &written_xid.to_be_bytes(),
    ])
}

fn text(value: Option<&str>) -> &[u8] {
    value.unwrap_or_default().as_bytes()
}

/// Hashes parts, each preceded by its length, so that no two lists of parts look alike.
fn hash(parts: &[&[u8]]) -> i64 {
    let mut all = Vec::with_capacity(96);
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    xxh3_64(&all).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_checksum_changes_with_any_byte_lane_or_position(
            content in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<proptest::sample::Index>(), flip in 1..=255_u8,
            lane in any::<i32>(), position in 0..i64::MAX,
        ) {
            let of = |content: &[u8], lane, position| Checksum::of(content, LaneId(lane), position);
            let checksum = of(&content, lane, position);
            prop_assert_eq!(checksum, of(&content, lane, position));
            prop_assert_ne!(checksum, of(&content, lane.wrapping_add(1), position));
            prop_assert_ne!(checksum, of(&content, lane, position + 1));
            let mut changed = content.clone();
            changed[at.index(content.len())] ^= flip;
            prop_assert_ne!(checksum, of(&changed, lane, position));
            prop_assert_ne!(checksum, of(&content[1..], lane, position));
        }

        #[test]
        fn ownership_and_displacement_change_with_any_part(
            checksum in any::<i64>(), xid in any::<i64>(), other in any::<i64>(),
        ) {
            prop_assume!(other != checksum);
            let sum = Checksum(checksum);
            let owned = ownership(sum, Some("BAT00001"), xid);
            prop_assert_ne!(owned, ownership(Checksum(other), Some("BAT00001"), xid));
            prop_assert_ne!(owned, ownership(sum, Some("BAT00002"), xid));
            prop_assert_ne!(owned, ownership(sum, None, xid));
            prop_assert_ne!(owned, ownership(sum, Some("BAT00001"), xid.wrapping_add(1)));
            let moved = displacement((sum, None, xid), (Checksum(other), "BAT00001", xid));
            prop_assert_ne!(
                moved,
                displacement((Checksum(other), None, xid), (sum, "BAT00001", xid))
            );
            prop_assert_ne!(
                moved,
                displacement((sum, Some("BAT00001"), xid), (Checksum(other), "BAT00001", xid))
            );
            prop_assert_ne!(
                moved,
                displacement((sum, None, xid), (Checksum(other), "BAT00002", xid))
            );
        }
    }
}
