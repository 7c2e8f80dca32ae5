//! Prints everything about one job.

use std::fmt::Write as _;

use lambda_core::postgres::Job;

use super::progress::Progress;
use crate::operate::short;

pub(super) fn text(job: &Job, progress: &Progress) -> String {
    let counts = &job.counts;
    let lease_ended = if progress.lease_ended { " (lease ended)" } else { "" };
    let rate = progress.rate.map(|rate| format!("{rate} records/s"));
    let left = progress.left.map(|left| format!("{} left", short(left)));
    let speed: Vec<String> = rate.into_iter().chain(left).collect();
    let attempt = match (&job.owner, job.attempt) {
        (_, 0) => None,
        (owner, attempt) => {
            Some(format!("{attempt}, by {}", owner.as_deref().unwrap_or("unknown")))
        }
    };
    let finished = job.finished_at.map(moment);
    let took = job.took.filter(|_| finished.is_some()).map(short);
    let lines = [
        ("status", Some(format!("{}{lease_ended}", job.status))),
        ("file", Some(job.file_name.clone())),
        ("content", Some(format!("{} bytes, SHA-256 {}", job.bytes, job.source))),
        ("as of", Some(moment(job.as_of))),
        ("created", Some(moment(job.run_time))),
        ("attempt", attempt),
        ("started", job.started_at.map(moment)),
        ("finished", finished),
        ("took", took),
        ("error", job.error.clone()),
        ("chunks", Some(format!("{} of {} stored", job.stored_chunks, job.chunks))),
        (
            "records",
            Some(format!("{} of {} stored, {}%", counts.read, job.records, progress.percent)),
        ),
        ("speed", (!speed.is_empty()).then(|| speed.join(", "))),
    ];
    let mut text = format!("job {} into {}", job.job_id(), job.pipeline);
    let counts = counts.outcomes().map(|(name, count)| (name, Some(count.to_string())));
    for (name, value) in lines.into_iter().chain(counts) {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {name:<12}{value}");
        }
    }
    text
}

/// Formats a time without fractions of a second.
fn moment(at: impl std::fmt::Display) -> String {
    format!("{at:.0}")
}
