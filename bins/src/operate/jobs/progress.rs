//! How far a job is, by what is stored of it.

use std::time::Duration;

use lambda_core::job::Status;
use lambda_core::postgres::Job;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Progress {
    /// Which part of its records is stored, 0 to 100.
    pub(super) percent: i64,
    /// Records stored in a second, while it runs.
    pub(super) rate: Option<f64>,
    /// How long the rest takes at that rate.
    pub(super) left: Option<Duration>,
    /// It was running, and whoever ran it has not been heard of for a while.
    pub(super) lease_ended: bool,
}

impl Progress {
    /// The progress of `job`; its rate is that since it was looked at `before`, else that
    /// since its start, if it was started once only: nobody knows when it stood still.
    pub(super) fn of(job: &Job, before: &[Job]) -> Self {
        let (stored, running) = (job.counts.read, job.status == Status::Running);
        let percent = (stored * 100).checked_div(job.records).unwrap_or(100);
        let base = match before.iter().find(|before| before.number == job.number) {
            Some(before) => before.took.map(|took| (before.counts.read, took)),
            None if job.attempt == 1 => Some((0, Duration::ZERO)),
            None => None,
        };
        let rate = base.zip(job.took).and_then(|((read, since), took)| {
            let seconds = took.checked_sub(since)?.as_secs_f64();
            let rate = (stored - read) as f64 / seconds;
            (running && job.leased && rate.is_finite() && rate > 0.0).then_some(rate)
        });
        let left = rate.and_then(|rate| {
            Duration::try_from_secs_f64((job.records - stored).max(0) as f64 / rate).ok()
        });
        Self { percent, rate, left, lease_ended: running && !job.leased }
    }
}
