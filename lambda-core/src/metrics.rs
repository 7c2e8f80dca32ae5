//! Records every metric that this platform exports. What they are is said in one
//! place, the catalogue, and for people in `docs/metrics.md`, with which a test
//! compares what is exported.
//!
//! Recorded through the facade of the crate `metrics`: who uses the libraries installs
//! a recorder of their own, or none, and then nothing is recorded. The binaries install
//! Prometheus' ([`crate::health::http`]). Everything is recorded once a batch or less
//! often, never once a record.
//!
//! What is told of something that may end, a lane or a job, is a value that records;
//! dropped, it leaves the gauge at "no number", which is not exported.

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
use crate::transaction::synthetic::Expectation;

/// The upper bounds of each histogram's buckets, for whoever makes a recorder.
pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    ALL.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram(buckets) => Some((metric.name, buckets)),
        Kind::Counter | Kind::Gauge => None,
    })
}

/// Tells the recorder what each metric means, and that this program runs.
pub fn describe() {
    with_recorder(|recorder| ALL.iter().for_each(|metric| metric.describe(recorder)));
    BUILD.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// Shows from the first scrape on what a process can count that stores records of
/// `pipeline`, so that a rate sees the first of them too.
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

/// The same for a process that sends messages.
pub fn sends() {
    for kind in Expectation::ALL {
        delivered(kind, 0);
    }
    in_flight(0);
    Retry::Topic.count(0);
}

/// What was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The claim of a lane.
    Claim,
    /// A batch's commit.
    Commit,
    /// A consumer that broke and was replaced.
    Consumer,
    /// A question about a job.
    Job,
    /// The question what became of a commit whose answer was lost.
    Settle,
    /// A source that had nothing to give because of its surroundings.
    Source,
    /// The look for a topic that was not there, or for its partitions, of which nobody told.
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

/// Something is tried again.
pub fn retried(what: Retry) {
    what.count(1);
}

/// Whose backend was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Another loader's, which held locks that were waited for (R13).
    Blocker,
    /// One that served us until its connection broke (R6).
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

/// So many backends were ended.
pub fn evicted(whose: Eviction, backends: usize) {
    whose.count(backends as u64);
}

/// Lanes were claimed.
pub fn claimed(pipeline: &str, lanes: usize) {
    CLAIMS.counter(&[pipeline]).increment(lanes as u64);
}

/// Lanes of a batch were left out of its commit.
pub fn fenced(pipeline: &str, lanes: usize) {
    FENCES.counter(&[pipeline]).increment(lanes as u64);
}

/// Rows were copied.
pub fn copied(pipeline: &str, took: Duration) {
    COPY.histogram(&[pipeline]).record(took);
}

/// A transaction that stored records was acknowledged.
pub fn committed(pipeline: &str, took: Duration) {
    COMMIT.histogram(&[pipeline]).record(took);
}

/// So many dead letters of a pipeline are open; `None`: it is not known any more.
pub fn open_dead_letters(pipeline: &str, open: Option<i64>) {
    DEAD_LETTERS.gauge(&[pipeline]).set(open.map_or(f64::NAN, whole));
}

/// Messages are in the topic.
pub fn delivered(kind: Expectation, messages: u64) {
    DELIVERED.counter(&[kind.as_str()]).increment(messages);
}

/// So many messages have no delivery report.
pub fn in_flight(messages: usize) {
    IN_FLIGHT.gauge(&[]).set(whole(messages as i64));
}

/// Counts records by outcome, from what is stored of the lanes that this process
/// holds (R10): what a lane had when it was claimed is the base, so that what others
/// stored of it is theirs. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    lanes: Arc<Mutex<HashMap<LaneId, Counts>>>,
}

impl Outcomes {
    /// Counts from this stored progress on.
    pub fn begin(&self, lane: &Progress) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.insert(lane.lane, lane.counts);
    }

    /// What one commit has stored of lanes.
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

/// How far a lane that is held here lies behind its partition's end.
#[derive(Debug)]
pub struct Lag(Gauge);

impl Lag {
    /// A lane is held, its lag not known yet.
    pub fn of(lane: &LaneName) -> Self {
        let partition = lane.partition.to_string();
        let gauge = LAG.gauge(&[&lane.pipeline, &lane.source, &partition]);
        gauge.set(f64::NAN);
        Self(gauge)
    }

    /// So many offsets.
    pub fn set(&self, offsets: i64) {
        self.0.set(whole(offsets));
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.set(f64::NAN);
    }
}

/// The job at hand. Clones are the same; the last one's end ends it.
#[derive(Debug, Clone)]
pub struct JobAtHand(Arc<JobGauges>);

#[derive(Debug)]
struct JobGauges {
    statuses: [(Status, Gauge); 4],
    records: Gauge,
    stored: Gauge,
}

impl JobAtHand {
    /// The job of this id, of which nothing is known yet.
    pub fn new(job_id: &str) -> Self {
        let gauge = |status: Status| (status, JOB_STATUS.gauge(&[job_id, status.as_str()]));
        Self(Arc::new(JobGauges {
            statuses: Status::ALL.map(gauge),
            records: JOB_RECORDS.gauge(&[job_id]),
            stored: JOB_STORED.gauge(&[job_id]),
        }))
    }

    /// Where it stands, and how many of its records are stored.
    pub fn show(&self, now: Status, records: i64, stored: i64) {
        for (status, gauge) in &self.0.statuses {
            gauge.set(if *status == now { 1.0 } else { 0.0 });
        }
        self.0.records.set(whole(records));
        self.stored(stored);
    }

    /// How many of its records are stored by now.
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

/// A count as a gauge's value.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn whole(count: i64) -> f64 {
    count as f64
}
