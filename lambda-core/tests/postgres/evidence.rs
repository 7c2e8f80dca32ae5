//! Recomputes the evidence that lanes keep from what is stored.

use std::collections::BTreeMap;

use lambda_core::memory::Contents;
use lambda_core::outcome::Outcome;
use lambda_core::progress::{Counts, LaneId};

/// Compares counts and sums of the progress rows with the rows, corrections and dead
/// letters themselves.
///
/// `replayed`: number of a lane's dead letters that are counted by another outcome.
pub(crate) fn check(contents: &Contents, all: &Counts, replayed: &BTreeMap<LaneId, i64>) {
    let mut owned = 0_i64;
    let mut total = Counts::default();
    let mut written: BTreeMap<LaneId, (i64, i64)> = BTreeMap::new();
    let mut displaced: BTreeMap<LaneId, (i64, i64)> = BTreeMap::new();
    let add = |sums: &mut BTreeMap<LaneId, (i64, i64)>, lane, value: i64| {
        let (sum, count) = sums.entry(lane).or_default();
        *sum = sum.wrapping_add(value);
        *count += 1;
    };
    for row in contents.rows.values() {
        assert_eq!(row.checksum, row.recomputed());
        add(&mut written, row.lane, row.hash().written(row.written_xid));
        owned = owned.wrapping_add(row.checksum.0);
    }
    for correction in &contents.corrections {
        let (before, after) = (&correction.before, &correction.after);
        assert_eq!(before.written_xid, after.written_xid);
        assert_eq!(before.checksum, before.recomputed());
        add(&mut written, before.lane, before.hash().written(before.written_xid));
        let k = before.checksum.displacement(after.checksum, correction.written_xid);
        add(&mut displaced, after.lane, k);
    }
    let mut owned_by_lanes = 0_i64;
    for (lane, progress) in &contents.lanes {
        let counts = progress.counts;
        total += counts;
        owned_by_lanes = owned_by_lanes.wrapping_add(progress.sums.owned);
        let (sum, count) = written.get(lane).copied().unwrap_or_default();
        assert_eq!(
            (progress.sums.written, counts[Outcome::Inserted] + counts[Outcome::Corrected]),
            (sum, count),
            "{lane}"
        );
        let (sum, count) = displaced.get(lane).copied().unwrap_or_default();
        assert_eq!((progress.sums.displaced, counts[Outcome::Corrected]), (sum, count), "{lane}");
        let letters = contents.dead_letters.keys().filter(|(of, _)| of == lane).count();
        let replayed = replayed.get(lane).copied().unwrap_or_default();
        assert_eq!(counts[Outcome::Rejected], letters as i64 - replayed, "{lane}");
    }
    assert_eq!(owned_by_lanes, owned, "the lanes that own the rows");
    assert_eq!(total, *all, "the counts are those of the outcomes");
}
