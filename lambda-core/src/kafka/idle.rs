//! Advances over the end of a partition that holds nothing for a reader: a
//! transaction marker, aborted or compacted messages (R8). A pure value.
//!
//! librdkafka tells that the end was reached, but not where it was. Asking for the
//! end afterwards could name one behind messages that arrived meanwhile, and those
//! would be skipped. So a partition that has been quiet at its end for a while and
//! whose end lies behind what was read is fetched once more, and only if that
//! reaches the end with nothing read, and the end is where it was before, it is
//! known that nothing lies between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a partition is quiet at its end before it is looked at.
const QUIET: Duration = Duration::from_millis(300);

/// A partition whose end was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    /// Up to where it had been read then.
    next: i64,
    since: Instant,
    /// The end that was found behind `next`, for which it is fetched once more.
    sought: Option<i64>,
}

/// What to do with a partition that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: it was read to its end, or messages came.
    Settled,
    /// Fetch it once more from where it was read to.
    Refetch,
}

/// The partitions that are quiet at their ends.
#[derive(Debug, Default)]
pub(super) struct Tails {
    tails: BTreeMap<i32, Tail>,
}

impl Tails {
    /// The end of a partition that was read up to `next` was reached. Gives the
    /// end that was sought, if the fetch for it read nothing: ask for the end
    /// again, and if it is still there, advance to it.
    pub(super) fn ended(&mut self, partition: i32, next: i64, now: Instant) -> Option<i64> {
        let before = self.tails.remove(&partition).filter(|tail| tail.next == next);
        let sought = before.and_then(|tail| tail.sought);
        if sought.is_none() {
            self.tails.insert(partition, Tail { next, since: now, sought: None });
        }
        sought
    }

    /// A partition that is to be looked at now: ask for its end.
    pub(super) fn due(&self, now: Instant) -> Option<i32> {
        let mut quiet = self.tails.iter().filter(|(_, tail)| {
            tail.sought.is_none() && now.saturating_duration_since(tail.since) >= QUIET
        });
        quiet.next().map(|(partition, _)| *partition)
    }

    /// A partition that was read up to `next` (`None`: not read any more) ends at
    /// `end`.
    pub(super) fn looked(&mut self, partition: i32, next: Option<i64>, end: i64) -> Look {
        match self.tails.get_mut(&partition) {
            Some(tail) if Some(tail.next) == next && end > tail.next => {
                tail.sought = Some(end);
                Look::Refetch
            }
            _ => {
                self.tails.remove(&partition);
                Look::Settled
            }
        }
    }

    /// The end of a partition could not be asked for, or not be fetched: later.
    pub(super) fn postpone(&mut self, partition: i32, now: Instant) {
        if let Some(tail) = self.tails.get_mut(&partition) {
            tail.since = now;
            tail.sought = None;
        }
    }

    /// Forgets a partition: it is not read any more, or from elsewhere.
    pub(super) fn forget(&mut self, partition: i32) {
        self.tails.remove(&partition);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.tails.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_believed_only_after_a_fetch_that_began_behind_the_question() {
        let now = Instant::now();
        let later = now + QUIET;
        let mut tails = Tails::default();
        assert_eq!(tails.ended(0, 10, now), None);
        assert_eq!(tails.due(now), None, "it may only be between two messages");
        assert_eq!(tails.due(later), Some(0));
        assert_eq!(tails.looked(0, Some(10), 12), Look::Refetch);
        assert_eq!(tails.due(later), None);
        assert_eq!(tails.ended(0, 10, later), Some(12));
        assert_eq!(tails.due(later + QUIET), None);
    }

    #[test]
    fn messages_that_arrive_in_between_call_it_off() {
        let now = Instant::now();
        let later = now + QUIET;
        let mut tails = Tails::default();
        assert_eq!(tails.ended(0, 10, now), None);
        assert_eq!(tails.looked(0, Some(11), 12), Look::Settled, "one came before the look");
        assert_eq!(tails.ended(0, 11, now), None);
        assert_eq!(tails.looked(0, Some(11), 13), Look::Refetch);
        assert_eq!(tails.ended(0, 13, later), None, "two came with the fetch");
        assert_eq!(tails.looked(0, Some(13), 13), Look::Settled);
        assert_eq!(tails.due(later + QUIET), None);
    }
}
