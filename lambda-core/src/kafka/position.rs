//! Where a partition begins, ends, and whether it still holds a position.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Where a partition that was never read before starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest message kept.
    #[default]
    Earliest,
    /// Behind the newest.
    Latest,
}

impl StartAt {
    /// The first position of a partition that holds `kept`.
    pub fn position(self, kept: Kept) -> i64 {
        match self {
            Self::Earliest => kept.low,
            Self::Latest => kept.high,
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

/// The offsets that a partition keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The first one.
    pub low: i64,
    /// One behind the last: the end of what a reader can see, which for readers
    /// of committed messages is the last stable offset.
    pub high: i64,
}

impl Kept {
    /// Whether `position` can be read next: something kept, or the end.
    pub fn holds(self, position: i64) -> bool {
        (self.low..=self.high).contains(&position)
    }

    /// The error for a `position` of `partition` of `topic` that is not held
    /// (R18).
    pub fn out_of_range(self, topic: &str, partition: i32, position: i64) -> Error {
        let cause = if position < self.low {
            "messages expired before they were read"
        } else {
            "the topic was recreated, or lost messages in an unclean election"
        };
        Error::misconfigured(
            format!(
                "partition {partition} of {topic} is to be read from {position}, but holds \
                 {}..{}: {cause}",
                self.low, self.high
            ),
            "nothing was skipped; find out what is lost, then set the position of this lane in \
             ingest_progress by hand to go on",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_outside_what_is_kept_says_which_way_it_was_lost() {
        let kept = Kept { low: 5, high: 9 };
        assert!((5..=9).all(|position| kept.holds(position)));
        assert!(!kept.holds(4) && !kept.holds(10));
        let expired = kept.out_of_range("t", 2, 4).to_string();
        assert!(expired.contains("partition 2 of t") && expired.contains("expired"), "{expired}");
        assert!(kept.out_of_range("t", 2, 10).to_string().contains("recreated"));
        assert_eq!(kept.out_of_range("t", 2, 10).exit_code(), 78);
        assert_eq!((StartAt::Earliest.position(kept), StartAt::Latest.position(kept)), (5, 9));
    }
}
