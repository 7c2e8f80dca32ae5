//! The partitions that the group has granted, and what to do with each: a pure value
//! (rule R14, docs/protocol.md). librdkafka's rebalance callback and the poll loop act on it.
//!
//! A partition passes through: granted by the group; reported to the flow, once its first
//! position is known; read, once the flow has claimed its lane. A grant that is taken back
//! before it was reported is dropped.

use std::collections::{BTreeMap, BTreeSet};

use crate::progress::LaneId;
use crate::source::FirstPosition;

/// A partition that the group has granted to this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hold {
    /// First position of its lane if that was never read before, once known.
    first_position: Option<FirstPosition>,
    /// The lane that is given up for it (rule R18, docs/protocol.md).
    given_up: Option<LaneId>,
    /// Whether the flow knows of the grant.
    told: bool,
    /// Whether it is assigned in librdkafka.
    assigned: bool,
}

/// The next news for the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// These partitions are revoked.
    Revoked(Vec<i32>),
    /// These partitions are granted.
    Granted(Vec<Granted>),
}

/// A partition that the flow may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) partition: i32,
    /// First position of its lane if that was never read before.
    pub(super) first_position: FirstPosition,
    /// The lane that is given up for it.
    pub(super) given_up: Option<LaneId>,
}

/// Way to start reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Its grant is gone, or is not the one that was claimed: leave it.
    Ignore,
    /// Assign it.
    Assign,
    /// Unassign it, which discards what was fetched of it, then assign it.
    Reassign,
}

/// The partitions of one topic in this process. Its size is bounded by their number,
/// however often the group rebalances.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    holds: BTreeMap<i32, Hold>,
    /// Revoked, but not yet reported to the flow.
    revoked: BTreeSet<i32>,
    /// Whether a partition was assigned in librdkafka since the group's last grant.
    started: bool,
    /// Whether assigned partitions may stay paused in librdkafka.
    stalled: bool,
}

impl Assignment {
    /// Adds partitions that the group grants.
    ///
    /// librdkafka pauses what is assigned until it has our answer. It mistakes an assignment
    /// made just before its question for this answer: the pause then ends before it begins,
    /// and what was assigned before stays paused until the next grant.
    pub(super) fn granted(&mut self, partitions: &[i32]) {
        self.stalled |= std::mem::take(&mut self.started);
        for partition in partitions {
            self.holds.entry(*partition).or_default();
        }
    }

    /// Returns partitions to unassign and assign again, since they may be paused until the
    /// next grant. Once any was assigned, each grant affects all of them: this is rare, and
    /// a rebalance has discarded what was fetched of them anyway.
    pub(super) fn stalled(&mut self) -> Vec<i32> {
        if !std::mem::take(&mut self.stalled) {
            return Vec::new();
        }
        let assigned = self.assigned();
        self.started |= !assigned.is_empty();
        assigned
    }

    /// Removes partitions that the group takes back. Returns which of them to unassign in
    /// librdkafka: only assigned ones, since any other fails the whole call.
    pub(super) fn revoked(&mut self, partitions: &[i32]) -> Vec<i32> {
        let mut unassign = Vec::new();
        for partition in partitions {
            let Some(hold) = self.holds.remove(partition) else { continue };
            if hold.told {
                self.revoked.insert(*partition);
            }
            if hold.assigned {
                unassign.push(*partition);
            }
        }
        unassign
    }

    /// Handles the loss of the consumer that held all partitions.
    pub(super) fn lost(&mut self) {
        self.revoked(&self.held());
        (self.started, self.stalled) = (false, false);
    }

    /// The granted partitions whose first positions are not known yet.
    pub(super) fn without_first_position(&self) -> Vec<i32> {
        let holds = self.holds.iter().filter(|(_, hold)| hold.first_position.is_none());
        holds.map(|(partition, _)| *partition).collect()
    }

    /// Sets a partition's first position.
    pub(super) fn first_position(&mut self, partition: i32, first: impl Into<FirstPosition>) {
        if let Some(hold) = self.holds.get_mut(&partition) {
            hold.first_position = Some(first.into());
        }
    }

    /// Returns the next news for the flow, which then counts as reported. Revocations come
    /// first, so that a partition that was revoked and granted again is claimed again.
    pub(super) fn news(&mut self) -> Option<News> {
        if !self.revoked.is_empty() {
            return Some(News::Revoked(std::mem::take(&mut self.revoked).into_iter().collect()));
        }
        let mut granted = Vec::new();
        for (partition, hold) in &mut self.holds {
            if let (Some(first_position), false) = (hold.first_position, hold.told) {
                hold.told = true;
                let (partition, given_up) = (*partition, hold.given_up);
                granted.push(Granted { partition, first_position, given_up });
            }
        }
        (!granted.is_empty()).then_some(News::Granted(granted))
    }

    /// Decides how to read a partition that the flow wants read.
    pub(super) fn start(&mut self, partition: i32) -> Start {
        let Some(hold) = self.holds.get_mut(&partition).filter(|hold| hold.told) else {
            return Start::Ignore;
        };
        self.started = true;
        if std::mem::replace(&mut hold.assigned, true) { Start::Reassign } else { Start::Assign }
    }

    /// Notes that a partition is no longer assigned in librdkafka, or could not be. Returns
    /// whether it was.
    pub(super) fn unassigned(&mut self, partition: i32) -> bool {
        let hold = self.holds.get_mut(&partition);
        hold.is_some_and(|hold| std::mem::take(&mut hold.assigned))
    }

    /// Has a partition claimed again, as if it were revoked and granted; `given_up` is the
    /// lane that the next one replaces. It is not assigned in librdkafka.
    pub(super) fn start_over(&mut self, partition: i32, given_up: Option<LaneId>) {
        let Some(hold) = self.holds.get_mut(&partition) else { return };
        if hold.told {
            self.revoked.insert(partition);
        }
        *hold = Hold { given_up: given_up.or(hold.given_up), ..Hold::default() };
    }

    /// The partitions that the group grants to this process.
    pub(super) fn held(&self) -> Vec<i32> {
        self.holds.keys().copied().collect()
    }

    /// The partitions assigned in librdkafka.
    pub(super) fn assigned(&self) -> Vec<i32> {
        let holds = self.holds.iter().filter(|(_, hold)| hold.assigned);
        holds.map(|(partition, _)| *partition).collect()
    }

    /// Whether the group grants a partition to this process.
    pub(super) fn holds(&self, partition: i32) -> bool {
        self.holds.contains_key(&partition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Grant(Vec<i32>),
        Revoke(Vec<i32>),
        Lose,
        Locate(i64),
        Tell,
        Start(i32),
        Stop(i32),
        Again(i32),
        ReadOn,
    }

    fn step() -> impl Strategy<Value = Step> {
        let partitions = prop::collection::vec(0..4_i32, 0..4);
        prop_oneof![
            partitions.clone().prop_map(Step::Grant),
            partitions.prop_map(Step::Revoke),
            Just(Step::Lose),
            (0..100_i64).prop_map(Step::Locate),
            Just(Step::Tell),
            Just(Step::Tell),
            (0..4_i32).prop_map(Step::Start),
            (0..4_i32).prop_map(Step::Stop),
            (0..4_i32).prop_map(Step::Again),
            Just(Step::ReadOn),
        ]
    }

    /// The environment of an assignment: the state of the group, librdkafka and the flow.
    #[derive(Debug, Default)]
    struct World {
        group: BTreeSet<i32>,
        librdkafka: BTreeSet<i32>,
        flow: BTreeSet<i32>,
        /// Assigned in librdkafka but not read there, if starts come at the worst moments.
        paused: BTreeSet<i32>,
        /// Whether anything was assigned since the last grant.
        started: bool,
    }

    impl World {
        fn read_on(&mut self, assignment: &mut Assignment) {
            for partition in assignment.stalled() {
                assert!(self.librdkafka.contains(&partition), "only what is assigned");
                self.paused.remove(&partition);
                self.started = true;
            }
        }

        fn tell(&mut self, news: News) {
            match news {
                News::Revoked(partitions) => {
                    for partition in partitions {
                        assert!(self.flow.remove(&partition), "revoked only what was reported");
                    }
                }
                News::Granted(partitions) => {
                    for Granted { partition, .. } in partitions {
                        assert!(self.flow.insert(partition), "reported once for each grant");
                        assert!(self.group.contains(&partition), "reported only what is granted");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn librdkafka_gets_only_valid_calls_and_the_flow_ends_up_with_the_groups_view(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut assignment = Assignment::default();
            let mut world = World::default();
            for step in steps {
                match step {
                    Step::Grant(partitions) => {
                        if std::mem::take(&mut world.started) {
                            world.paused = world.librdkafka.clone();
                        }
                        assignment.granted(&partitions);
                        world.group.extend(partitions);
                    }
                    Step::Revoke(partitions) => {
                        for partition in assignment.revoked(&partitions) {
                            prop_assert!(world.librdkafka.remove(&partition));
                        }
                        for partition in &partitions {
                            world.group.remove(partition);
                            prop_assert!(!world.librdkafka.contains(partition));
                        }
                    }
                    Step::Lose => {
                        assignment.lost();
                        world.group.clear();
                        world.librdkafka.clear();
                        world.started = false;
                    }
                    Step::Locate(position) => {
                        if let Some(partition) = assignment.without_first_position().first() {
                            assignment.first_position(*partition, position);
                        }
                    }
                    Step::Tell => if let Some(news) = assignment.news() { world.tell(news) },
                    Step::Start(partition) => {
                        match assignment.start(partition) {
                            Start::Ignore => prop_assert!(!world.librdkafka.contains(&partition)),
                            Start::Assign => {
                                prop_assert!(world.group.contains(&partition));
                                prop_assert!(world.librdkafka.insert(partition), "never twice");
                            }
                            Start::Reassign => prop_assert!(world.librdkafka.contains(&partition)),
                        }
                        world.started |= world.librdkafka.contains(&partition);
                        world.paused.remove(&partition);
                    }
                    Step::ReadOn => world.read_on(&mut assignment),
                    Step::Stop(partition) => {
                        let was = assignment.unassigned(partition);
                        prop_assert_eq!(was, world.librdkafka.remove(&partition));
                    }
                    Step::Again(partition) => {
                        if assignment.unassigned(partition) {
                            world.librdkafka.remove(&partition);
                        }
                        assignment.start_over(partition, None);
                        prop_assert_eq!(assignment.start(partition), Start::Ignore);
                    }
                }
                world.paused.retain(|partition| world.librdkafka.contains(partition));
                let assigned: BTreeSet<i32> = assignment.assigned().into_iter().collect();
                prop_assert_eq!(&assigned, &world.librdkafka);
                prop_assert!(world.librdkafka.is_subset(&world.group));
            }
            for partition in assignment.without_first_position() {
                assignment.first_position(partition, 0);
            }
            while let Some(news) = assignment.news() {
                world.tell(news);
            }
            prop_assert_eq!(&world.flow, &world.group);
            world.read_on(&mut assignment);
            prop_assert_eq!(&world.paused, &BTreeSet::new(), "what is assigned is read");
        }
    }

    #[test]
    fn a_partition_revoked_and_granted_again_is_claimed_again_before_it_is_read() {
        let mut assignment = granted_and_told();
        assert_eq!(assignment.revoked(&[3]), Vec::<i32>::new());
        assignment.granted(&[3]);
        // The claim of the first grant may be over by now.
        assert_eq!(assignment.start(3), Start::Ignore);
        assert_eq!(assignment.news(), Some(News::Revoked(vec![3])));
        assert_eq!(assignment.news(), None);
        assignment.first_position(3, 12);
        assert_eq!(assignment.news(), Some(granted(12, None)));
        assert_eq!(assignment.start(3), Start::Assign);
    }

    #[test]
    fn partitions_that_a_grant_during_a_start_may_leave_paused_are_assigned_again() {
        let mut assignment = granted_and_told();
        assert_eq!(assignment.start(3), Start::Assign);
        assert_eq!(assignment.stalled(), Vec::<i32>::new(), "nothing has paused it since");
        assignment.granted(&[]);
        assert_eq!(assignment.stalled(), [3]);
        assert_eq!(assignment.stalled(), Vec::<i32>::new(), "once is enough");
        // Assigning it again may also coincide with a grant.
        assignment.granted(&[]);
        assert_eq!(assignment.stalled(), [3]);
    }

    #[test]
    fn a_partition_whose_lane_is_given_up_is_granted_again_with_its_first_position() {
        let mut assignment = granted_and_told();
        assignment.start_over(3, Some(LaneId(7)));
        assert_eq!(assignment.start(3), Start::Ignore, "the claim is on the old lane");
        assert_eq!(assignment.news(), Some(News::Revoked(vec![3])));
        assert_eq!(assignment.without_first_position(), [3], "the source is another one");
        // A doubt in between keeps it.
        assignment.start_over(3, None);
        assignment.first_position(3, 0);
        assert_eq!(assignment.news(), Some(granted(0, Some(LaneId(7)))));
        assert_eq!(assignment.start(3), Start::Assign);
    }

    #[test]
    fn a_partition_whose_offsets_are_not_known_holds_up_no_other() {
        let mut assignment = Assignment::default();
        assignment.granted(&[0, 1, 2]);
        assert_eq!(assignment.without_first_position(), [0, 1, 2]);
        assignment.first_position(1, 0);
        assert_eq!(assignment.without_first_position(), [0, 2]);
        let granted = Granted { partition: 1, first_position: 0.into(), given_up: None };
        assert_eq!(assignment.news(), Some(News::Granted(vec![granted])));
    }

    /// An assignment with partition 3 granted, from offset 10, and reported to the flow.
    fn granted_and_told() -> Assignment {
        let mut assignment = Assignment::default();
        assignment.granted(&[3]);
        assignment.first_position(3, 10);
        assert_eq!(assignment.news(), Some(granted(10, None)));
        assignment
    }

    fn granted(position: i64, given_up: Option<LaneId>) -> News {
        let first_position = position.into();
        News::Granted(vec![Granted { partition: 3, first_position, given_up }])
    }
}
