//! How far a lane has been stored, and under which claim.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::outcome::Outcome;

/// The number of a lane: unique in its database, small, part of every row's evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub i32);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.0)
    }
}

/// The name of a lane: one partition of one source, for one pipeline.
///
/// ```
/// use lambda_core::progress::{LaneId, LaneName};
///
/// let lane = LaneName { pipeline: "readings".into(), source: "c1/readings".into(), partition: 3 };
/// assert_eq!(lane.to_string(), "partition 3 of c1/readings into readings");
/// assert!(lane.set_aside(LaneId(7)).was_of("c1/readings"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneName {
    /// The pipeline's name.
    pub pipeline: String,
    /// `<cluster id>/<topic>`, or the SHA-256 of a file's content in hex.
    pub source: String,
    /// Kafka's partition, or a file's chunk.
    pub partition: i32,
}

impl LaneName {
    /// Separates a source's name from the number of a lane of it that was given up. No
    /// topic's name contains it.
    const ASIDE: char = '#';

    /// The name that a lane of this name takes once it is given up.
    #[must_use]
    pub fn set_aside(&self, lane: LaneId) -> Self {
        Self { source: format!("{}{}{}", self.source, Self::ASIDE, lane.0), ..self.clone() }
    }

    /// Whether the lane belongs to `source`, or did before it was given up.
    pub fn was_of(&self, source: &str) -> bool {
        let rest = self.source.strip_prefix(source);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(Self::ASIDE))
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {} into {}", self.partition, self.source, self.pipeline)
    }
}

/// A random id under which a lane is held. The process whose id is in the lane's progress
/// row holds the lane; a commit under any other id is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimId(pub Uuid);

impl ClaimId {
    /// A new random claim.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Number of records by outcome. `read` is always their sum (rule R3, docs/protocol.md).
///
/// ```
/// use lambda_core::outcome::Outcome;
/// use lambda_core::progress::Counts;
///
/// let mut counts = Counts::of([(Outcome::Inserted, 3)]);
/// counts.add(Outcome::Rejected);
/// assert_eq!((counts.read, counts.rejected()), (4, 1));
/// assert!(counts.balanced());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub read: i64,
    /// Records of each outcome, in the order of [`Outcome::ALL`].
    by_outcome: [i64; Outcome::ALL.len()],
}

impl Counts {
    /// Counts of the records that were read with these outcomes.
    pub fn of<const N: usize>(outcomes: [(Outcome, i64); N]) -> Self {
        let mut counts = Self::default();
        for (outcome, count) in outcomes {
            counts.read += count;
            counts[outcome] += count;
        }
        counts
    }

    /// Counts one more record.
    pub fn add(&mut self, outcome: Outcome) {
        self.read += 1;
        self[outcome] += 1;
    }

    /// Change of a lane's counts when records that it has counted as rejected are replayed
    /// with these outcomes: the number read stays (rule R3, docs/protocol.md).
    #[must_use]
    pub fn reconsidered(mut self) -> Self {
        self[Outcome::Rejected] -= self.read;
        self.read = 0;
        self
    }

    /// Records that became dead letters.
    pub fn rejected(&self) -> i64 {
        self[Outcome::Rejected]
    }

    /// Whether `read` is the sum of the outcomes.
    pub fn balanced(&self) -> bool {
        self.read == self.by_outcome.iter().sum::<i64>()
    }

    /// The outcomes by name, without `read`.
    pub fn outcomes(&self) -> [(&'static str, i64); Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| (outcome.as_str(), self[outcome]))
    }

    /// Difference since `before`, never negative: a replayed dead letter moves from one
    /// outcome to another.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let added = |now: i64, before: i64| (now - before).max(0);
        let mut since = Self { read: added(self.read, before.read), ..Self::default() };
        for outcome in Outcome::ALL {
            since[outcome] = added(self[outcome], before[outcome]);
        }
        since
    }
}

impl Index<Outcome> for Counts {
    type Output = i64;

    fn index(&self, outcome: Outcome) -> &i64 {
        &self.by_outcome[outcome as usize]
    }
}

impl IndexMut<Outcome> for Counts {
    fn index_mut(&mut self, outcome: Outcome) -> &mut i64 {
        &mut self.by_outcome[outcome as usize]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        for outcome in Outcome::ALL {
            self[outcome] += other[outcome];
        }
    }
}

impl Serialize for Counts {
    /// A map of `read` and the outcomes by name.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(std::iter::once(("read", self.read)).chain(self.outcomes()))
    }
}

/// The wrapping sums of evidence that a lane's progress row keeps
/// (see [`crate::record::checksum`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Hashes of the rows that this lane wrote: inserted, or put in place of others. They do
    /// not change when a job takes a row over.
    pub written: i64,
    /// Checksums that this lane gave to rows, minus those that it replaced.
    pub owned: i64,
    /// Hashes of the corrections this lane made.
    pub displaced: i64,
}

impl Sums {
    /// Adds `delta`, wrapping around.
    pub fn add(&mut self, delta: Self) {
        self.written = self.written.wrapping_add(delta.written);
        self.owned = self.owned.wrapping_add(delta.owned);
        self.displaced = self.displaced.wrapping_add(delta.displaced);
    }
}

/// Fingerprint of a lane's last record, kept to detect a source that was replaced
/// (rule R18, docs/protocol.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The record's own position.
    pub position: i64,
    /// The source's timestamp of it, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// XXH3-64 of key and value as read.
    pub checksum: i64,
}

/// A lane's stored progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The lane.
    pub lane: LaneId,
    /// Its name.
    pub name: LaneName,
    /// Everything below this position is stored.
    pub position: i64,
    /// End of the lane, if it has one (a file's chunk).
    pub end_position: Option<i64>,
    /// The claim under which it is held.
    pub claim: Option<ClaimId>,
    /// The largest position that a commit ever stored; 0 before the first.
    pub high: i64,
    /// Outcomes of all its records.
    pub counts: Counts,
    /// Sums of evidence of all its records.
    pub sums: Sums,
    /// The last record read.
    pub last: Option<Fingerprint>,
}
