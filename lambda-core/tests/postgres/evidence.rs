//! Recomputes the evidence that lanes keep from what is stored.

use std::collections::BTreeMap;

use lambda_core::memory::Contents;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::progress::{Counts, LaneId};
use lambda_core::record::checksum::{displacement, ownership};

/// Compares counts and sums of the progress rows with the rows, corrections and dead
/// letters themselves.
///
/// `replayed`: number of a lane's dead letters that are counted by another outcome.
pub(crate) fn check(contents: &Contents, all: &Counts, replayed: &BTreeMap<LaneId, i64>) {
    let job_id = |authority: &Authority| authority.job().map(|job| job.job_id());
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
        add(&mut written, row.lane, row.checksum.0);
        let job = job_id(&row.authority);
        owned = owned.wrapping_add(ownership(row.checksum, job.as_deref(), row.written_xid));
    }
    for correction in &contents.corrections {
        let (before, after) = (&correction.before, &correction.after);
        assert_eq!(before.written_xid, after.written_xid);
        add(&mut written, before.lane, before.checksum.0);
        let job = job_id(&after.authority).expect("a job corrects");
        let before_job = job_id(&before.authority);
        let k = displacement(
            (before.checksum, before_job.as_deref(), before.written_xid),
            (after.checksum, &job, correction.written_xid),
        );
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
