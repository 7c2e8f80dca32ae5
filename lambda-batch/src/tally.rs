//! Sums up what is stored of a job, from the progress that its commits return (rule R10 in
//! docs/protocol.md).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lambda_core::Error;
use lambda_core::postgres::jobs::attempt::JobLane;
use lambda_core::progress::{Counts, LaneId, Progress};

/// Progress of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes stored.
    pub bytes: u64,
    /// Bytes of all its chunks.
    pub bytes_total: u64,
    /// Outcomes of its records.
    pub counts: Counts,
}

type Tell = dyn Fn(&Stored) + Send + Sync;

/// Sums a job's lanes, for the limit of rejects and for progress reports.
pub struct Tally {
    lanes: Mutex<HashMap<LaneId, Lane>>,
    rejects_max: Option<i64>,
    tell: Arc<Tell>,
}

#[derive(Debug)]
struct Lane {
    start: i64,
    end: i64,
    position: i64,
    counts: Counts,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally")
            .field("stored", &self.sum())
            .field("rejects_max", &self.rejects_max)
            .finish_non_exhaustive()
    }
}

impl Tally {
    /// A tally of `lanes` as stored. Calls `tell` whenever more is stored.
    pub fn new(lanes: &[JobLane], rejects_max: Option<i64>, tell: Arc<Tell>) -> Self {
        let lane = |lane: &JobLane| {
            let (chunk, progress) = (&lane.chunk, &lane.progress);
            let (start, end) = (chunk.start, chunk.end);
            (
                progress.lane,
                Lane { start, end, position: progress.position, counts: progress.counts },
            )
        };
        Self { lanes: Mutex::new(lanes.iter().map(lane).collect()), rejects_max, tell }
    }

    /// Records new progress of lanes.
    pub fn stored(&self, progress: &[Progress]) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for progress in progress {
            if let Some(lane) = lanes.get_mut(&progress.lane) {
                (lane.position, lane.counts) = (progress.position, progress.counts);
            }
        }
        drop(lanes);
        (self.tell)(&self.sum());
    }

    /// Sum of all lanes.
    pub fn sum(&self) -> Stored {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Stored::default();
        for lane in lanes.values() {
            sum.bytes += (lane.position - lane.start).cast_unsigned();
            sum.bytes_total += (lane.end - lane.start).cast_unsigned();
            sum.counts += lane.counts;
        }
        sum
    }

    /// Whether every lane is at its end.
    pub fn is_complete(&self) -> bool {
        let sum = self.sum();
        sum.bytes == sum.bytes_total
    }

    /// Checks that the job may continue.
    ///
    /// # Errors
    /// [`Error::Input`] if more records were rejected than is allowed.
    pub fn within_limit(&self) -> Result<(), Error> {
        let Some(most) = self.rejects_max else { return Ok(()) };
        let counts = self.sum().counts;
        let (read, rejected) = (counts.read, counts.rejected());
        if rejected <= most {
            return Ok(());
        }
        Err(Error::Input {
            what: format!(
                "{rejected} of {read} records rejected, limit {most}. \
                 Stored rows stay; run again with a higher --max-rejects to finish."
            ),
        })
    }
}
