//! Checks whether everything that was in the topic at the start is stored.

use lambda_core::kafka::topic::Ends;
use lambda_core::progress::{LaneId, Progress};

/// Number of offsets of `ends` that no process has stored yet.
///
/// Offsets are counted, not messages: markers and compacted messages are
/// included. Offsets stored by `given_up` lanes do not count.
pub(crate) fn left(ends: &Ends, lanes: &[Progress], given_up: &[LaneId]) -> i64 {
    let left = ends.ends.iter().map(|(partition, end)| {
        let lane = lanes
            .iter()
            .filter(|lane| !given_up.contains(&lane.lane))
            .find(|lane| lane.name.source == ends.source && lane.name.partition == *partition);
        // A partition that was never claimed counts at least one, so that the run waits until even
        // an empty one is claimed.
        lane.map_or_else(|| (*end).max(1), |lane| (end - lane.position).max(0))
    });
    left.sum()
}

#[cfg(test)]
mod tests {
    use lambda_core::progress::{Counts, LaneId, LaneName, Sums};

    use super::*;

    fn lane(source: &str, partition: i32, position: i64) -> Progress {
        Progress {
            lane: LaneId(1),
            name: LaneName { pipeline: "t".into(), source: source.into(), partition },
            position,
            end_position: None,
            high: 0,
            claim: None,
            counts: Counts::default(),
            sums: Sums::default(),
            last: None,
        }
    }

    #[test]
    fn a_topic_is_drained_when_every_partition_is_stored_up_to_its_end() {
        let ends = Ends { source: "a/t".into(), ends: [(0, 10), (1, 0), (2, 7)].into() };
        assert_eq!(left(&ends, &[], &[]), 18);
        let mut lanes = vec![lane("a/t", 0, 10), lane("a/t", 1, 0), lane("a/t", 2, 3)];
        assert_eq!(left(&ends, &lanes, &[]), 4);
        lanes[2].position = 9;
        assert_eq!(left(&ends, &lanes, &[]), 0, "more may have arrived since");
        assert_eq!(left(&ends, &lanes[..2], &[]), 7);
    }

    #[test]
    fn what_a_given_up_lane_stored_does_not_count() {
        let ends = Ends { source: "a/t".into(), ends: [(0, 10)].into() };
        let (mut old, mut new) = (lane("a/t", 0, 1_000), lane("a/t", 0, 4));
        new.lane = LaneId(2);
        assert_eq!(left(&ends, &[old.clone()], &[LaneId(1)]), 10);
        old.name = old.name.set_aside(old.lane);
        assert_eq!(left(&ends, &[old, new], &[LaneId(1)]), 6);
    }

    #[test]
    fn another_topic_or_cluster_does_not_count() {
        let ends = Ends { source: "a/t".into(), ends: [(0, 10)].into() };
        assert_eq!(left(&ends, &[lane("b/t", 0, 10), lane("a/u", 0, 10)], &[]), 10);
    }
}
