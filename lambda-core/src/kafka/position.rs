//! The beginning and end of a partition, and whether it still holds a position.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::progress::{Fingerprint, LaneId, Progress};

/// Start of a partition that was never read before.
///
/// ```
/// use lambda_core::kafka::position::{StartAt, Watermarks};
///
/// let start: StartAt = "latest".parse()?;
/// assert_eq!(start.position(Watermarks { low: 10, high: 25 }), 25);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// At the oldest message kept.
    #[default]
    Earliest,
    /// After the newest message.
    Latest,
}

impl StartAt {
    /// The first position of a partition that holds `kept`.
    pub fn position(self, watermarks: Watermarks) -> i64 {
        match self {
            Self::Earliest => watermarks.low,
            Self::Latest => watermarks.high,
        }
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
        })
    }
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => Err("expected earliest or latest".into()),
        }
    }
}

/// Treatment of a lane whose source has changed (rule R18, docs/protocol.md).
///
/// ```
/// use lambda_core::kafka::position::OnSourceChange;
///
/// assert_eq!(OnSourceChange::default(), OnSourceChange::Stop);
/// assert_eq!("restart".parse(), Ok(OnSourceChange::Restart));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnSourceChange {
    /// Stop, with a remedy; skip nothing.
    #[default]
    Stop,
    /// Give the lane up, and read its partition again from its first position.
    Restart,
}

impl fmt::Display for OnSourceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
        })
    }
}

impl FromStr for OnSourceChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "restart" => Ok(Self::Restart),
            _ => Err("expected stop or restart".into()),
        }
    }
}

/// The offsets that a partition keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first one.
    pub low: i64,
    /// One after the last: the end of what a reader can see, which for readers of committed
    /// messages is the last stable offset.
    pub high: i64,
}

impl Watermarks {
    /// Whether `position` can be read next: it is kept, or is the end.
    pub fn holds(self, position: i64) -> bool {
        (self.low..=self.high).contains(&position)
    }
}

/// Verdict on a lane's source before reading continues (rule R18, docs/protocol.md).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// No sign of a change: the last message is still as it was read, or none was ever
    /// read.
    Same,
    /// The last message is gone (expired, compacted) and the position is kept: a change
    /// cannot be ruled out.
    Gone,
    /// The source has changed: what was found, with its offsets.
    Other(String),
}

/// Judges by the kept offsets alone. `None`: the last message has to be read again, at the
/// offset of its fingerprint.
pub fn judge_range(progress: &Progress, watermarks: Watermarks) -> Option<Verdict> {
    let position = progress.position;
    if !watermarks.holds(position) {
        let cause = if position < watermarks.low {
            "messages expired before they were read"
        } else {
            "the topic was recreated, or lost messages in an unclean election"
        };
        let Watermarks { low, high } = watermarks;
        return Some(Verdict::Other(format!(
            "the next offset is {position}, but it holds {low}..{high}: {cause}"
        )));
    }
    match progress.last {
        None => Some(Verdict::Same),
        Some(last) if last.position < watermarks.low => Some(Verdict::Gone),
        Some(_) => None,
    }
}

/// Judges by the first message at or after the offset of `last` (`None`: there is none up
/// to the partition's end).
pub fn judge_message(last: Fingerprint, found: Option<Fingerprint>) -> Verdict {
    match found {
        Some(found) if found == last => Verdict::Same,
        Some(found) if found.position == last.position => Verdict::Other(format!(
            "the message at offset {} has changed since it was read: its timestamp was {} ms and its \
             checksum {:016x}, they are now {} ms and {:016x}: the topic was recreated, or lost \
             messages in an unclean election",
            last.position, last.timestamp_ms, last.checksum, found.timestamp_ms, found.checksum
        )),
        _ => Verdict::Gone,
    }
}

/// The error for a lane whose source has changed, with the reason `what`. Everything below
/// `position` was read.
pub fn source_changed(
    topic: &str,
    partition: i32,
    lane: LaneId,
    position: i64,
    what: &str,
) -> Error {
    Error::misconfigured(
        format!(
            "partition {partition} of {topic} ({lane}, read up to offset {position}) has changed \
             since it was read: {what}"
        ),
        "nothing was skipped; find out what is lost, then start with --on-source-change restart, \
         which gives the lane up and reads the partition again from its first position",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Counts, LaneId, LaneName, Sums};

    fn lane(position: i64, last: Option<i64>) -> Progress {
        let last =
            last.map(|position| Fingerprint { position, timestamp_ms: 1_000, checksum: 0xabc });
        Progress {
            lane: LaneId(1),
            name: LaneName { pipeline: "t".into(), source: "c/t".into(), partition: 0 },
            position,
            end_position: None,
            high: 0,
            claim: None,
            counts: Counts::default(),
            sums: Sums::default(),
            last,
        }
    }

    #[test]
    fn a_position_outside_the_kept_range_says_how_it_was_lost() {
        let watermarks = Watermarks { low: 5, high: 9 };
        for (position, word) in [(4, "expired"), (10, "recreated")] {
            let Some(Verdict::Other(what)) = judge_range(&lane(position, None), watermarks) else {
                panic!("{position} is not in 5..=9")
            };
            assert!(what.contains(&position.to_string()) && what.contains("5..9"), "{what}");
            assert!(what.contains(word), "{what}");
        }
        assert_eq!(
            (StartAt::Earliest.position(watermarks), StartAt::Latest.position(watermarks)),
            (5, 9)
        );
    }

    #[test]
    fn a_position_that_is_kept_is_judged_by_the_last_message_if_that_is_kept_too() {
        let watermarks = Watermarks { low: 5, high: 9 };
        for position in 5..=9 {
            assert_eq!(judge_range(&lane(position, None), watermarks), Some(Verdict::Same));
            let expired = judge_range(&lane(position, Some(4)), watermarks);
            assert_eq!(expired, Some(Verdict::Gone), "{position}");
        }
        assert_eq!(judge_range(&lane(9, Some(5)), watermarks), None, "read it again");
        let empty = Watermarks { low: 7, high: 7 };
        assert_eq!(judge_range(&lane(7, Some(6)), empty), Some(Verdict::Gone));
        assert_eq!(
            judge_range(&lane(0, None), Watermarks { low: 0, high: 0 }),
            Some(Verdict::Same)
        );
    }

    #[test]
    fn another_message_at_the_same_offset_reveals_another_source_a_later_one_does_not() {
        let last = Fingerprint { position: 6, timestamp_ms: 1_000, checksum: 0xabc };
        assert_eq!(judge_message(last, Some(last)), Verdict::Same);
        assert_eq!(judge_message(last, None), Verdict::Gone);
        assert_eq!(judge_message(last, Some(Fingerprint { position: 7, ..last })), Verdict::Gone);
        for found in
            [Fingerprint { timestamp_ms: 1_001, ..last }, Fingerprint { checksum: 0xdef, ..last }]
        {
            let Verdict::Other(what) = judge_message(last, Some(found)) else {
                panic!("{found:?} is not {last:?}")
            };
            assert!(what.contains("offset 6") && what.contains("0000000000000abc"), "{what}");
        }
    }
}
