//! Decides the outcome of a record: a pure function of the record and the existing row
//! under its id.

use crate::job::JobRef;

/// Precedence of a record. Every streamed record is lowest; batch records rank by their
/// job's (`as_of`, id).
///
/// ```
/// use lambda_core::job::JobRef;
/// use lambda_core::outcome::Authority;
///
/// let monday = Authority::Batch(JobRef { as_of_micros: 1_000_000, number: 2 });
/// let tuesday = Authority::Batch(JobRef { as_of_micros: 2_000_000, number: 1 });
/// assert!(Authority::Stream < monday && monday < tuesday);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// Read from the live stream.
    Stream,
    /// Read by a job.
    Batch(JobRef),
}

impl Authority {
    /// The job, unless it is the stream.
    pub fn job(&self) -> Option<JobRef> {
        match self {
            Self::Stream => None,
            Self::Batch(job) => Some(*job),
        }
    }
}

/// Outcome of a record. Each has exactly one.
///
/// ```
/// use lambda_core::outcome::Outcome;
/// use lambda_core::progress::Counts;
///
/// let counts = Counts::of([(Outcome::Inserted, 3), (Outcome::Duplicate, 1)]);
/// for outcome in Outcome::ALL.into_iter().filter(|outcome| counts[*outcome] > 0) {
///     println!("{} {}", counts[outcome], outcome.as_str());
/// }
/// assert_eq!(counts[Outcome::Duplicate], 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is a new row.
    Inserted,
    /// It equals the row of a lower authority, which it takes over.
    Confirmed,
    /// It replaces the row of a lower authority, which moves to the corrections.
    Corrected,
    /// The row has a higher authority.
    Superseded,
    /// An equal record is already stored.
    Duplicate,
    /// It became a dead letter.
    Rejected,
    /// The decoder skipped it: it is none of the pipeline's records.
    Skipped,
}

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Inserted,
        Self::Confirmed,
        Self::Corrected,
        Self::Superseded,
        Self::Duplicate,
        Self::Rejected,
        Self::Skipped,
    ];

    /// The name under which it is counted.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inserted => "inserted",
            Self::Confirmed => "confirmed",
            Self::Corrected => "corrected",
            Self::Superseded => "superseded",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Skipped => "skipped",
        }
    }
}

/// The existing row under a record's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// Its last writer's authority.
    pub authority: Authority,
    /// Whether its content equals the record's.
    pub same_content: bool,
}

/// Decides a record's outcome, by the table in docs/protocol.md#outcomes. The reason of a
/// rejection is [`crate::dead_letter::Reason::IdConflict`].
///
/// ```
/// use lambda_core::job::JobRef;
/// use lambda_core::outcome::{Authority, Existing, Outcome, decide};
///
/// let job = Authority::Batch(JobRef { as_of_micros: 0, number: 1 });
/// let streamed = Existing { authority: Authority::Stream, same_content: false };
/// assert_eq!(decide(job, Some(streamed)), Outcome::Corrected);
/// assert_eq!(decide(Authority::Stream, Some(streamed)), Outcome::Rejected);
/// assert_eq!(decide(Authority::Stream, None), Outcome::Inserted);
/// ```
pub fn decide(record: Authority, row: Option<Existing>) -> Outcome {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let Some(row) = row else {
        return Outcome::Inserted;
    };
    match (record.cmp(&row.authority), row.same_content) {
        (Greater, true) => Outcome::Confirmed,
        (Greater, false) => Outcome::Corrected,
        (Equal, true) => Outcome::Duplicate,
        (Equal, false) => Outcome::Rejected,
        (Less, _) => Outcome::Superseded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Confirmed, Corrected, Duplicate, Inserted, Rejected, Superseded};

    #[test]
    fn every_combination_has_the_outcome_of_the_table() {
        let job = |number, as_of_micros| Authority::Batch(JobRef { as_of_micros, number });
        // From the lowest authority to the highest; of two jobs with one `as_of` the later
        // one takes precedence, whatever the other ids are.
        let authorities = [Authority::Stream, job(9, 10), job(1, 20), job(2, 20), job(3, 30)];
        // The record's rank against the row's, same content, other content.
        let table = [
            (std::cmp::Ordering::Greater, Confirmed, Corrected),
            (std::cmp::Ordering::Equal, Duplicate, Rejected),
            (std::cmp::Ordering::Less, Superseded, Superseded),
        ];
        let mut met = 0;
        for (rank, record) in authorities.into_iter().enumerate() {
            assert_eq!(decide(record, None), Inserted);
            for (existing, authority) in authorities.into_iter().enumerate() {
                for (order, same, other) in table {
                    if rank.cmp(&existing) == order {
                        let row = |same_content| Some(Existing { authority, same_content });
                        assert_eq!(decide(record, row(true)), same, "{record:?} {authority:?}");
                        assert_eq!(decide(record, row(false)), other, "{record:?} {authority:?}");
                        met += 1;
                    }
                }
            }
        }
        assert_eq!(met, 25);
    }
}
