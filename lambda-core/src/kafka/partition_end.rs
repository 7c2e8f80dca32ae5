//! Advances to a partition's end past offsets without messages for a reader: transaction
//! markers, aborted or compacted messages (rule R8, docs/protocol.md). A pure value.
//!
//! librdkafka reports that the end was reached, but not its offset. Asking for the end
//! afterwards could return one after messages that arrived in between, which would be
//! skipped. So a partition that has been quiet at its end for a while, and whose end is
//! after what was read, is fetched once more. Only if that fetch reaches the end with
//! nothing read, and the end has not moved, is the gap known to be empty.
//!
//! This holds only if the broker of the fetch is the one that reported the end. During a
//! change of leaders they may differ, and the one that is fetched from may lack messages
//! that the other has. So the end is believed only when a second fetch, a while later,
//! finds it in the same place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time for which a partition is quiet at its end before it is checked.
const QUIET: Duration = Duration::from_millis(300);

/// Time after which an end must be found again. A client that fetches from the wrong broker
/// learns of the right one within this time.
const AGAIN: Duration = Duration::from_secs(1);

/// A partition whose end was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QuietPartition {
    /// Position up to which it had been read.
    next: i64,
    /// Time at which the end was reached, or first found after `next`.
    since: Instant,
    /// The end after `next`, while it is fetched once more.
    sought: Option<i64>,
    /// The end that such a fetch reached with nothing read.
    found: Option<i64>,
}

impl QuietPartition {
    fn new(next: i64, since: Instant) -> Self {
        Self { next, since, sought: None, found: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        let wait = if self.found.is_some() { AGAIN } else { QUIET };
        self.sought.is_none() && now.saturating_duration_since(self.since) >= wait
    }
}

/// Next step for a checked partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: it was read to its end, or messages arrived.
    Settled,
    /// Fetch it once more from the position up to which it was read.
    Refetch,
}

/// The partitions that are quiet at their ends.
#[derive(Debug, Default)]
pub(super) struct QuietPartitions {
    quiet: BTreeMap<i32, QuietPartition>,
}

impl QuietPartitions {
    /// Notes that a partition's end was reached after reading up to `next`. Returns whether
    /// a fetch for a later end read nothing: then read the end again, and call
    /// [`found`](Self::found).
    pub(super) fn ended(&mut self, partition: i32, next: i64, now: Instant) -> bool {
        let quiet = self.quiet.entry(partition).or_insert_with(|| QuietPartition::new(next, now));
        if quiet.next != next {
            *quiet = QuietPartition::new(next, now);
        }
        quiet.sought.is_some()
    }

    /// Notes that a partition ends at `end` after a fetch that read nothing. Returns the
    /// end to advance to, once it was found there twice.
    pub(super) fn found(&mut self, partition: i32, end: i64, now: Instant) -> Option<i64> {
        let quiet = self.quiet.get_mut(&partition)?;
        let same = quiet.sought.take() == Some(end);
        quiet.since = now;
        if same && quiet.found == Some(end) {
            self.quiet.remove(&partition);
            return Some(end);
        }
        quiet.found = same.then_some(end);
        None
    }

    /// The partitions to check now: read their ends.
    pub(super) fn due(&self, now: Instant) -> Vec<i32> {
        let due = self.quiet.iter().filter(|(_, quiet)| quiet.is_due(now));
        due.map(|(partition, _)| *partition).collect()
    }

    /// Notes that a partition ends at `end`; it was read up to `next` (`None`: no longer
    /// read).
    pub(super) fn looked(&mut self, partition: i32, next: Option<i64>, end: i64) -> Look {
        match self.quiet.get_mut(&partition) {
            Some(quiet) if Some(quiet.next) == next && end > quiet.next => {
                quiet.sought = Some(end);
                Look::Refetch
            }
            _ => {
                self.quiet.remove(&partition);
                Look::Settled
            }
        }
    }

    /// Starts over, later, with a partition whose end could not be read or fetched.
    pub(super) fn postpone(&mut self, partition: i32, now: Instant) {
        if let Some(quiet) = self.quiet.get_mut(&partition) {
            *quiet = QuietPartition::new(quiet.next, now);
        }
    }

    /// Forgets a partition that is no longer read, or is read from another position.
    pub(super) fn forget(&mut self, partition: i32) {
        self.quiet.remove(&partition);
    }

    /// Forgets all partitions.
    pub(super) fn clear(&mut self) {
        self.quiet.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [i32; 0] = [];

    /// A partition read up to 10, whose end was found at `end` by a first fetch at the
    /// returned moment.
    fn found_once(end: i64) -> (QuietPartitions, Instant) {
        let now = Instant::now();
        let mut quiet = QuietPartitions::default();
        assert!(!quiet.ended(0, 10, now));
        assert_eq!(quiet.looked(0, Some(10), end), Look::Refetch);
        assert!(quiet.ended(0, 10, now + QUIET));
        assert_eq!(quiet.found(0, end, now + QUIET), None);
        (quiet, now + QUIET)
    }

    #[test]
    fn an_end_is_believed_only_after_a_fetch_that_began_after_the_query() {
        let now = Instant::now();
        let mut quiet = QuietPartitions::default();
        assert!(!quiet.ended(0, 10, now));
        assert_eq!(quiet.due(now), NONE, "it may only be between two messages");
        assert_eq!(quiet.due(now + QUIET), [0]);
        assert_eq!(quiet.looked(0, Some(10), 12), Look::Refetch);
        assert_eq!(quiet.due(now + AGAIN), NONE, "the fetch is under way");
        assert!(quiet.ended(0, 10, now + QUIET));
    }

    #[test]
    fn a_reader_advances_to_an_end_found_in_the_same_place_a_while_later() {
        let (mut quiet, once) = found_once(12);
        assert_eq!(quiet.due(once + QUIET), NONE, "a change of leaders takes longer");
        assert!(!quiet.ended(0, 10, once + QUIET), "nothing was fetched for it");
        assert_eq!(quiet.due(once + AGAIN), [0]);
        assert_eq!(quiet.looked(0, Some(10), 12), Look::Refetch);
        assert!(quiet.ended(0, 10, once + AGAIN));
        assert_eq!(quiet.found(0, 12, once + AGAIN), Some(12));
        assert_eq!(quiet.due(once + AGAIN + AGAIN), NONE);
    }

    #[test]
    fn an_end_that_moves_is_sought_from_the_beginning() {
        let (mut quiet, once) = found_once(12);
        assert_eq!(quiet.looked(0, Some(10), 14), Look::Refetch);
        assert!(quiet.ended(0, 10, once + AGAIN));
        assert_eq!(quiet.found(0, 14, once + AGAIN), None, "found there only once");
        assert_eq!(quiet.looked(0, Some(10), 14), Look::Refetch);
        assert_eq!(quiet.found(0, 16, once + AGAIN), None, "it moved during the fetch");
        assert_eq!(quiet.looked(0, Some(10), 14), Look::Refetch);
        assert_eq!(quiet.found(0, 14, once + AGAIN), None, "not twice in a row");
        quiet.postpone(0, once);
        assert_eq!(quiet.looked(0, Some(10), 14), Look::Refetch);
        assert_eq!(quiet.found(0, 14, once), None, "what was found was put off too");
    }

    #[test]
    fn messages_that_another_broker_has_are_read_and_not_skipped() {
        // The first fetch went to a broker that did not have 10 and 11 yet.
        let (mut quiet, once) = found_once(12);
        assert_eq!(quiet.looked(0, Some(10), 12), Look::Refetch);
        assert!(!quiet.ended(0, 12, once + AGAIN), "the second fetch read them");
        assert_eq!(quiet.looked(0, Some(12), 12), Look::Settled);
        assert_eq!(quiet.due(once + AGAIN + AGAIN), NONE);
    }

    #[test]
    fn messages_that_arrive_in_between_cancel_the_advance() {
        let now = Instant::now();
        let later = now + QUIET;
        let mut quiet = QuietPartitions::default();
        assert!(!quiet.ended(0, 10, now));
        assert_eq!(quiet.looked(0, Some(11), 12), Look::Settled, "one came before the look");
        assert!(!quiet.ended(0, 11, now));
        assert_eq!(quiet.looked(0, Some(11), 13), Look::Refetch);
        assert!(!quiet.ended(0, 13, later), "two came with the fetch");
        assert_eq!(quiet.looked(0, Some(13), 13), Look::Settled);
        assert_eq!(quiet.due(later + QUIET), NONE);
    }
}
