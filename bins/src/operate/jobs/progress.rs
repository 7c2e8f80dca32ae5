//! Progress of a job, from what is stored of it.

use std::time::Duration;

use lambda_core::job::Status;
use lambda_core::postgres::Job;

/// Progress of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Share of its records that is stored, 0 to 100.
    pub(super) percent: i64,
    /// Records stored per second, while it runs.
    pub(super) rate: Option<i64>,
    /// Time that the rest will take at that rate.
    pub(super) left: Option<Duration>,
    /// Its status is running, but its process has stopped renewing the lease.
    pub(super) lease_ended: bool,
}

impl Progress {
    /// The progress of `job`. Its rate is measured since `before`, or else since its start. A
    /// job of several attempts has no rate since its start: the time between them is unknown.
    pub(super) fn of(job: &Job, before: &[Job]) -> Self {
        let (stored, running) = (job.counts.read, job.status == Status::Running);
        let percent = (stored * 100).checked_div(job.records).unwrap_or(100);
        let base = match before.iter().find(|before| before.number == job.number) {
            Some(before) => before.took.map(|took| (before.counts.read, took)),
            None if job.attempt == 1 => Some((0, Duration::ZERO)),
            None => None,
        };
        let speed = base.zip(job.took).and_then(|((read, since), took)| {
            let millis = i64::try_from(took.checked_sub(since)?.as_millis()).ok()?;
            let records = stored - read;
            (running && job.leased && millis > 0 && records > 0).then_some((records, millis))
        });
        let rate = speed.map(|(records, millis)| records * 1_000 / millis);
        let rest = job.records - stored;
        let left = speed.and_then(|(records, millis)| {
            Some(Duration::from_millis(u64::try_from(rest.checked_mul(millis)? / records).ok()?))
        });
        Self { percent, rate, left, lease_ended: running && !job.leased }
    }
}
