//! Records every metric that this platform exports. The catalogue defines them, and
//! `docs/metrics.md` describes them for people; a test compares that with the exported
//! metrics.
//!
//! Recording goes through the facade of the crate `metrics`: users of the libraries install
//! their own recorder, or none, and then nothing is recorded. The binaries install
//! Prometheus' ([`crate::health::http`]). Everything is recorded at most once for each
//! batch, never for each record.
//!
//! A lane or a job, which may end, is recorded through a value. Dropping the value sets its
//! gauges to "no number", which is not exported.

mod catalogue;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Gauge, with_recorder};

use self::catalogue::{
    ALL, BATCH, BUILD, CLAIMS, COMMIT, COPY, DEAD_LETTERS, DELIVERED, EVICTIONS, FENCES, IN_FLIGHT,
    JOB_RECORDS, JOB_STATUS, JOB_STORED, Kind, LAG, RECORDS, RETRIES,
};
use crate::job::Status;
use crate::progress::{Counts, LaneId, LaneName, Progress};

/// The upper bounds of each histogram's buckets, for recorders.
///
/// ```
/// let names: Vec<&str> = lambda_core::metrics::buckets().map(|(name, _)| name).collect();
/// assert!(!names.is_empty());
/// ```
pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    ALL.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram(buckets) => Some((metric.name, buckets)),
        Kind::Counter | Kind::Gauge => None,
    })
}

/// Describes each metric to the recorder, and records that this program runs.
pub fn describe() {
    with_recorder(|recorder| ALL.iter().for_each(|metric| metric.describe(recorder)));
    BUILD.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// Registers the counters of a process that stores records of `pipeline`, so that the first
/// scrape shows them and a rate includes the first records.
pub fn stores(pipeline: &str) {
    for (name, _) in Counts::default().outcomes() {
        RECORDS.counter(&[pipeline, name]).increment(0);
    }
    for metric in [CLAIMS, FENCES] {
        metric.counter(&[pipeline]).increment(0);
    }
    for metric in [BATCH, COPY, COMMIT] {
        let _ = metric.histogram(&[pipeline]);
    }
    for retry in Retry::ALL {
        retry.count(0);
    }
    for eviction in Eviction::ALL {
        eviction.count(0);
    }
}

/// Registers those of a process that sends messages of these kinds.
pub fn sends(kinds: &[&str]) {
    for kind in kinds {
        delivered(kind, 0);
    }
    in_flight(0);
    Retry::Topic.count(0);
}

/// A retried operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The claim of a lane.
    Claim,
    /// A batch's commit.
    Commit,
    /// A consumer that broke and was replaced.
    Consumer,
    /// A question about a job.
    Job,
    /// The check whether a commit whose answer was lost has happened.
    Settle,
    /// A source that failed because of its environment.
    Source,
    /// The lookup of a missing topic, or of partitions that no broker reported.
    Topic,
}

impl Retry {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Claim,
        Self::Commit,
        Self::Consumer,
        Self::Job,
        Self::Settle,
        Self::Source,
        Self::Topic,
    ];

    fn count(self, tries: u64) {
        let kind = match self {
            Self::Claim => "claim",
            Self::Commit => "commit",
            Self::Consumer => "consumer",
            Self::Job => "job",
            Self::Settle => "settle",
            Self::Source => "source",
            Self::Topic => "topic",
        };
        RETRIES.counter(&[kind]).increment(tries);
    }
}

/// Counts a retry.
pub fn retried(what: Retry) {
    what.count(1);
}

/// Owner of a terminated backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Another loader, which held locks that were waited for (rule R13, docs/protocol.md).
    Blocker,
    /// This process, on a connection that broke (rule R6, docs/protocol.md).
    Own,
}

impl Eviction {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Blocker, Self::Own];

    fn count(self, backends: u64) {
        let kind = match self {
            Self::Blocker => "blocker",
            Self::Own => "own",
        };
        EVICTIONS.counter(&[kind]).increment(backends);
    }
}

/// Counts terminated backends.
pub fn evicted(whose: Eviction, backends: usize) {
    whose.count(backends as u64);
}

/// Counts claimed lanes.
pub fn claimed(pipeline: &str, lanes: usize) {
    CLAIMS.counter(&[pipeline]).increment(lanes as u64);
}

/// Counts lanes of a batch that were left out of its commit.
pub fn fenced(pipeline: &str, lanes: usize) {
    FENCES.counter(&[pipeline]).increment(lanes as u64);
}

/// Records the time of a copy of rows.
pub fn copied(pipeline: &str, took: Duration) {
    COPY.histogram(&[pipeline]).record(took);
}

/// Records the time of an acknowledged transaction that stored records.
pub fn committed(pipeline: &str, took: Duration) {
    COMMIT.histogram(&[pipeline]).record(took);
}

/// Sets the number of open dead letters of a pipeline; `None`: no longer known.
pub fn open_dead_letters(pipeline: &str, open: Option<i64>) {
    DEAD_LETTERS.gauge(&[pipeline]).set(open.map_or(f64::NAN, whole));
}

/// Counts messages of a kind that are in the topic.
pub fn delivered(kind: &str, messages: u64) {
    DELIVERED.counter(&[kind]).increment(messages);
}

/// Sets the number of messages without a delivery report.
pub fn in_flight(messages: usize) {
    IN_FLIGHT.gauge(&[]).set(whole(messages as i64));
}

/// Counts records by outcome, from the stored counts of the lanes that this process holds
/// (rule R10, docs/protocol.md). A lane's counts at its claim are the base, so what other
/// processes stored is not counted here. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    lanes: Arc<Mutex<HashMap<LaneId, Counts>>>,
}

impl Outcomes {
    /// Counts from this stored progress.
    pub fn begin(&self, lane: &Progress) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.insert(lane.lane, lane.counts);
    }

    /// Counts what one commit has stored in its lanes.
    pub fn stored(&self, stored: &[Progress]) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut added = Counts::default();
        for lane in stored {
            if let Some(before) = lanes.get_mut(&lane.lane) {
                added += lane.counts.since(before);
                *before = lane.counts;
            }
        }
        let Some(pipeline) = stored.first().map(|lane| lane.name.pipeline.as_str()) else { return };
        let outcomes = added.outcomes().into_iter().filter(|(_, count)| *count > 0);
        let mut records = 0;
        for (outcome, count) in outcomes {
            RECORDS.counter(&[pipeline, outcome]).increment(count.cast_unsigned());
            records += count;
        }
        if records > 0 {
            BATCH.histogram(&[pipeline]).record(whole(records));
        }
    }
}

/// Lag of a lane that is held here, behind its partition's end.
#[derive(Debug)]
pub struct Lag(Gauge);

impl Lag {
    /// Registers a lane that is held, with unknown lag.
    pub fn of(lane: &LaneName) -> Self {
        let partition = lane.partition.to_string();
        let gauge = LAG.gauge(&[&lane.pipeline, &lane.source, &partition]);
        gauge.set(f64::NAN);
        Self(gauge)
    }

    /// Sets the lag in offsets.
    pub fn set(&self, offsets: i64) {
        self.0.set(whole(offsets));
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.set(f64::NAN);
    }
}

/// Gauges of the current job. Clones share them; dropping the last one ends them.
#[derive(Debug, Clone)]
pub struct CurrentJob(Arc<JobGauges>);

#[derive(Debug)]
struct JobGauges {
    statuses: [(Status, Gauge); 4],
    records: Gauge,
    stored: Gauge,
}

impl CurrentJob {
    /// Registers the job with this id, with nothing known about it.
    pub fn new(job_id: &str) -> Self {
        let gauge = |status: Status| (status, JOB_STATUS.gauge(&[job_id, status.as_str()]));
        Self(Arc::new(JobGauges {
            statuses: Status::ALL.map(gauge),
            records: JOB_RECORDS.gauge(&[job_id]),
            stored: JOB_STORED.gauge(&[job_id]),
        }))
    }

    /// Shows its status, and how many of its records are stored.
    pub fn show(&self, now: Status, records: i64, stored: i64) {
        for (status, gauge) in &self.0.statuses {
            gauge.set(if *status == now { 1.0 } else { 0.0 });
        }
        self.0.records.set(whole(records));
        self.stored(stored);
    }

    /// Shows how many of its records are stored.
    pub fn stored(&self, records: i64) {
        self.0.stored.set(whole(records));
    }
}

impl Drop for JobGauges {
    fn drop(&mut self) {
        let statuses = self.statuses.iter().map(|(_, gauge)| gauge);
        statuses.chain([&self.records, &self.stored]).for_each(|gauge| gauge.set(f64::NAN));
    }
}

/// Converts a count to a gauge's value.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn whole(count: i64) -> f64 {
    count as f64
}
