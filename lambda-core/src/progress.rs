//! How far a lane has been stored, and under which claim.

use std::fmt;
use std::ops::AddAssign;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneName {
    /// The target table.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Records read.
    pub read: i64,
    /// New rows.
    pub inserted: i64,
    /// Rows of a lower authority with the same content, taken over.
    pub confirmed: i64,
    /// Rows of a lower authority with other content, replaced.
    pub corrected: i64,
    /// Records that a row of a higher authority superseded.
    pub superseded: i64,
    /// Records already stored by an equal authority.
    pub duplicate: i64,
    /// Records that became dead letters.
    pub rejected: i64,
}

impl Counts {
    /// Counts one more record.
    pub fn add(&mut self, outcome: Outcome) {
        self.read += 1;
        *match outcome {
            Outcome::Inserted => &mut self.inserted,
            Outcome::Confirmed => &mut self.confirmed,
            Outcome::Corrected => &mut self.corrected,
            Outcome::Superseded => &mut self.superseded,
            Outcome::Duplicate => &mut self.duplicate,
            Outcome::Rejected => &mut self.rejected,
        } += 1;
    }

    /// Change of a lane's counts when records that it has counted as rejected are replayed
    /// with these outcomes: the number read stays (rule R3, docs/protocol.md).
    #[must_use]
    pub fn reconsidered(self) -> Self {
        Self { read: 0, rejected: self.rejected - self.read, ..self }
    }

    /// Whether `read` is the sum of the outcomes.
    pub fn balanced(&self) -> bool {
        self.read == self.outcomes().iter().map(|(_, count)| count).sum::<i64>()
    }
}

impl Counts {
    /// The outcomes by name, without `read`.
    pub const fn outcomes(&self) -> [(&'static str, i64); 6] {
        [
            ("inserted", self.inserted),
            ("confirmed", self.confirmed),
            ("corrected", self.corrected),
            ("superseded", self.superseded),
            ("duplicate", self.duplicate),
            ("rejected", self.rejected),
        ]
    }

    /// Difference since `before`, never negative: a replayed dead letter moves from one
    /// outcome to another.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let added = |now: i64, before: i64| (now - before).max(0);
        Self {
            read: added(self.read, before.read),
            inserted: added(self.inserted, before.inserted),
            confirmed: added(self.confirmed, before.confirmed),
            corrected: added(self.corrected, before.corrected),
            superseded: added(self.superseded, before.superseded),
            duplicate: added(self.duplicate, before.duplicate),
            rejected: added(self.rejected, before.rejected),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.inserted += other.inserted;
        self.confirmed += other.confirmed;
        self.corrected += other.corrected;
        self.superseded += other.superseded;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
    }
}

/// The wrapping sums of evidence that a lane's progress row keeps
/// (see [`crate::record::checksum`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Checksums of the rows that this lane wrote: inserted, or put in place of others.
    pub written: i64,
    /// Ownership hashes that this lane gave, minus those that it took.
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
    /// Outcomes of all its records.
    pub counts: Counts,
    /// Sums of evidence of all its records.
    pub sums: Sums,
    /// The last record read.
    pub last: Option<Fingerprint>,
}
