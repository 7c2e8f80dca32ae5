//! Gives every partition its turn while others have a backlog: a pure value.
//!
//! librdkafka requests all partitions at once, and brokers fill an answer in the order of
//! the request. Whenever its queue was full, librdkafka starts with the same partitions
//! again, so the last of many would wait until the first have no backlog left. Here a
//! partition that has waited for a second, or was just started, is **hungry**. While any is
//! hungry, the others are held back (paused) after a helping each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Number of bytes that a partition may deliver while others are hungry.
const HELPING: usize = 256 << 10;

/// Time for which others are held back for a partition that delivers nothing: it may have
/// no leader.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time for which a partition with unread messages may deliver none before that is
/// reported.
const UNREAD_AFTER: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
struct Partition {
    /// Start of its wait to be read.
    hungry: Option<Instant>,
    /// Number of bytes it has delivered since any partition became hungry.
    helping: usize,
    /// Whether it has delivered a message since the last report of backlogs.
    heard: bool,
    held_back: bool,
}

/// Partitions to pause and to resume.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) pause: Vec<i32>,
    pub(super) resume: Vec<i32>,
}

/// The partitions being read.
#[derive(Debug, Default)]
pub(super) struct Fairness {
    partitions: BTreeMap<i32, Partition>,
}

impl Fairness {
    /// Adds a partition that is read from now on. It is not paused.
    pub(super) fn started(&mut self, partition: i32, now: Instant) {
        let hungry = Some(now);
        let fresh = Partition { hungry, helping: 0, heard: false, held_back: false };
        self.partitions.insert(partition, fresh);
    }

    /// Notes that a partition delivered a message of so many bytes.
    pub(super) fn heard(&mut self, partition: i32, bytes: usize) {
        if let Some(it) = self.partitions.get_mut(&partition) {
            (it.hungry, it.heard) = (None, true);
            it.helping = it.helping.saturating_add(bytes);
        }
    }

    /// Notes that a partition was read to its end.
    pub(super) fn ended(&mut self, partition: i32) {
        if let Some(it) = self.partitions.get_mut(&partition) {
            it.hungry = None;
        }
    }

    /// Notes that all partitions were paused until now, so that none could deliver.
    pub(super) fn resumed(&mut self, now: Instant) {
        for it in self.partitions.values_mut() {
            it.hungry = it.hungry.map(|_| now);
        }
    }

    /// Takes the partitions that have unread messages, as librdkafka reports once a second.
    /// Those among them that delivered nothing since the last report are hungry.
    pub(super) fn behind(&mut self, behind: &BTreeSet<i32>, now: Instant) {
        for (partition, it) in &mut self.partitions {
            let heard = std::mem::take(&mut it.heard);
            if !behind.contains(partition) {
                it.hungry = None;
            } else if !heard && !it.held_back {
                it.hungry.get_or_insert(now);
            }
        }
    }

    /// Determines which partitions to pause and which to resume; `assigned` is what
    /// librdkafka reads, in order.
    pub(super) fn change(&mut self, assigned: &[i32], now: Instant) -> Change {
        self.partitions.retain(|partition, _| assigned.binary_search(partition).is_ok());
        let waits = |it: &Partition| {
            it.hungry.is_some_and(|since| now.saturating_duration_since(since) < PATIENCE)
        };
        let any_waits = self.partitions.values().any(waits);
        let mut change = Change::default();
        for (partition, it) in &mut self.partitions {
            if any_waits && !it.held_back && it.helping >= HELPING {
                it.held_back = true;
                change.pause.push(*partition);
            } else if !any_waits && it.held_back {
                it.held_back = false;
                change.resume.push(*partition);
            }
            if !any_waits {
                it.helping = 0;
            }
        }
        change
    }

    /// Whether a partition is held back.
    pub(super) fn holds_back(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|it| it.held_back)
    }

    /// The partitions that have delivered nothing for long although they have unread
    /// messages.
    pub(super) fn unread(&self, now: Instant) -> Vec<i32> {
        let unread = |it: &Partition| {
            it.hungry.is_some_and(|since| now.saturating_duration_since(since) >= UNREAD_AFTER)
        };
        let partitions = self.partitions.iter().filter(|(_, it)| unread(it));
        partitions.map(|(partition, _)| *partition).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Partitions 0, 1 and 2, of which 0 and 1 deliver and 2 is silent.
    fn one_is_hungry() -> (Fairness, Instant) {
        let (mut fairness, now) = (Fairness::default(), Instant::now());
        for partition in 0..3 {
            fairness.started(partition, now);
        }
        fairness.heard(0, HELPING);
        fairness.heard(1, 100);
        (fairness, now)
    }

    fn change(fairness: &mut Fairness, now: Instant) -> (Vec<i32>, Vec<i32>) {
        let Change { pause, resume } = fairness.change(&[0, 1, 2], now);
        (pause, resume)
    }

    #[test]
    fn while_one_is_hungry_others_get_a_helping_each_until_it_is_read() {
        let (mut fairness, now) = one_is_hungry();
        assert_eq!(change(&mut fairness, now), (vec![0], vec![]));
        assert!(fairness.holds_back(0) && !fairness.holds_back(1));
        fairness.heard(1, HELPING);
        assert_eq!(change(&mut fairness, now), (vec![1], vec![]));
        assert_eq!(change(&mut fairness, now), (vec![], vec![]), "once is enough");
        fairness.heard(2, 1);
        assert_eq!(change(&mut fairness, now), (vec![], vec![0, 1]));
        fairness.heard(2, 2 * HELPING);
        assert_eq!(change(&mut fairness, now), (vec![], vec![]), "none is hungry");
    }

    #[test]
    fn a_partition_without_messages_holds_no_other_back() {
        let (mut fairness, now) = one_is_hungry();
        fairness.ended(2);
        assert_eq!(change(&mut fairness, now), (vec![], vec![]));
    }

    #[test]
    fn a_partition_that_delivers_nothing_is_waited_for_a_while_and_then_reported() {
        let (mut fairness, now) = one_is_hungry();
        assert_eq!(change(&mut fairness, now), (vec![0], vec![]));
        assert_eq!(change(&mut fairness, now + PATIENCE), (vec![], vec![0]));
        fairness.behind(&BTreeSet::from([2]), now + PATIENCE);
        fairness.heard(0, HELPING);
        assert_eq!(change(&mut fairness, now + PATIENCE), (vec![], vec![]), "not again");
        assert!(fairness.unread(now + PATIENCE).is_empty());
        assert_eq!(fairness.unread(now + UNREAD_AFTER), [2]);
        fairness.behind(&BTreeSet::new(), now + UNREAD_AFTER);
        assert!(fairness.unread(now + UNREAD_AFTER).is_empty(), "it has no more messages");
    }

    #[test]
    fn a_partition_that_is_passed_over_for_a_second_is_hungry() {
        let (mut fairness, now) = one_is_hungry();
        fairness.heard(2, 1);
        let all = BTreeSet::from([0, 1, 2]);
        fairness.behind(&all, now);
        fairness.heard(0, HELPING);
        assert_eq!(change(&mut fairness, now), (vec![], vec![]));
        fairness.behind(&all, now + SECOND);
        assert_eq!(change(&mut fairness, now + SECOND), (vec![], vec![]), "a helping first");
        fairness.heard(0, HELPING);
        assert_eq!(change(&mut fairness, now + SECOND), (vec![0], vec![]));
        fairness.behind(&all, now + 2 * SECOND);
        fairness.heard(1, 1);
        fairness.heard(2, 1);
        assert_eq!(change(&mut fairness, now + 2 * SECOND), (vec![], vec![0]));
    }

    #[test]
    fn a_partition_that_is_no_longer_assigned_holds_no_other_back() {
        let (mut fairness, now) = one_is_hungry();
        assert_eq!(fairness.change(&[0, 1], now), Change::default());
    }
}
