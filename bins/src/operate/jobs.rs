//! `lambda jobs`: lists the jobs, newest first, or shows one, each with its stored
//! progress.

mod detail;
mod progress;
mod watch;

use std::time::Duration;

use clap::{Args, ValueEnum};
use lambda_core::Error;
use lambda_core::job::{self, Status};
use lambda_core::postgres::{Job, Jobs};
use serde_json::{Value, json};

use self::progress::Progress;
use crate::args::{DatabaseArgs, Output, OutputArgs};
use crate::operate::short;
use crate::operate::table::{Holds, fitted};
use crate::operate::timeout::{TimeoutArgs, answered};
use crate::pipelines::NameArgs;
use crate::{Failure, Stop, json};

/// Arguments of `lambda jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Show everything about this job
    #[arg(value_name = "BAT…", value_parser = number, conflicts_with_all = ["status", "limit"])]
    job: Option<i64>,
    /// Status to list: pending, running, completed or failed [default: all]
    #[arg(long, value_enum, hide_possible_values = true)]
    status: Option<StatusArg>,
    /// List at most this many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Repeat until no job runs: every second on a terminal, else every 10 s
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusArg {
    Pending,
    Running,
    Completed,
    Failed,
}

impl From<StatusArg> for Status {
    fn from(status: StatusArg) -> Self {
        match status {
            StatusArg::Pending => Self::Pending,
            StatusArg::Running => Self::Running,
            StatusArg::Completed => Self::Completed,
            StatusArg::Failed => Self::Failed,
        }
    }
}

/// Prints the jobs.
///
/// # Errors
/// 69 or 78 if the database cannot be read, 65 if the job does not exist, 1 if standard
/// output cannot be written.
pub async fn run(args: &JobsArgs, timeout: TimeoutArgs, shutdown: &Stop) -> Result<(), Failure> {
    let limit = timeout.reading();
    let jobs = Jobs::new(args.database.config()?).answering_within(limit);
    let look = async {
        if args.watch {
            return watch::run(args, &jobs, limit).await;
        }
        show(args, &find(args, &jobs, limit).await?, &[])
    };
    tokio::select! {
        looked = look => looked,
        // The user has ended the command.
        () = shutdown.stopped() => Ok(()),
    }
}

async fn find(args: &JobsArgs, jobs: &Jobs, limit: Duration) -> Result<Vec<Job>, Failure> {
    let reading = async {
        let Some(number) = args.job else {
            let (pipeline, status) = (&*args.name.pipeline, args.status.map(Status::from));
            return Ok(jobs.list(Some(pipeline), status, args.limit).await?);
        };
        let unknown = || {
            let (job, pipeline) = (job::job_id(number), &args.name.pipeline);
            Error::Input { what: format!("pipeline {pipeline} has no job {job}") }
        };
        let job = jobs.get(number).await?.filter(|job| job.pipeline == args.name.pipeline);
        Ok(vec![job.ok_or_else(unknown)?])
    };
    answered(format_args!("PostgreSQL at {}", jobs.database()), limit, reading).await
}

/// Prints jobs; `before` are the same jobs when they were last printed.
fn show(args: &JobsArgs, jobs: &[Job], before: &[Job]) -> Result<(), Failure> {
    match (args.output.output, args.job, jobs) {
        (Output::Human, Some(_), [job]) => {
            crate::print(detail::text(job, &Progress::of(job, before)))
        }
        (Output::Human, ..) => crate::print(table(jobs, before)),
        (Output::Json, ..) => json::print("jobs", jobs.iter().map(object).collect(), []),
    }
}

fn table(jobs: &[Job], before: &[Job]) -> String {
    let columns = [
        ("job", Holds::Id),
        ("status", Holds::Id),
        ("records", Holds::Number),
        ("rejected", Holds::Number),
        ("started", Holds::Id),
        ("took", Holds::Number),
        ("file", Holds::Prose),
    ];
    fitted(columns, jobs.iter().map(|job| row(job, &Progress::of(job, before))))
}

fn row(job: &Job, progress: &Progress) -> [String; 7] {
    let status = match job.status {
        Status::Completed => job.status.to_string(),
        status => format!("{status} {}%", progress.percent),
    };
    let lease_ended = progress.lease_ended.then_some(" (its lease ended: load the file again)");
    let error = job.error.as_ref().map(|error| format!(": {error}"));
    let file = [
        job.file_name.as_str(),
        lease_ended.unwrap_or_default(),
        error.as_deref().unwrap_or_default(),
    ];
    let took = match (job.status, progress.left) {
        (Status::Completed, _) => job.took.map(short),
        (_, left) => left.map(|left| format!("{} left", short(left))),
    };
    [
        job.job_id(),
        status,
        job.records.to_string(),
        job.counts.rejected().to_string(),
        job.started_at.map(|at| at.strftime("%m-%d %H:%MZ").to_string()).unwrap_or_default(),
        took.unwrap_or_default(),
        file.concat(),
    ]
}

/// Parses a job's name, `BAT00001`, or its number alone.
pub(super) fn number(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix("BAT").unwrap_or(text);
    let number = digits.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a job as BAT00001".to_owned())
}

/// Formats a job as a JSON object.
pub fn object(job: &Job) -> Value {
    json!({
        "job_id": job.job_id(),
        "status": job.status,
        "leased": job.leased,
        "pipeline": job.pipeline,
        "source": job.source,
        "file_name": job.file_name,
        "bytes": job.bytes,
        "records": job.records,
        "chunks": job.chunks,
        "stored_chunks": job.stored_chunks,
        "as_of": job.as_of.to_string(),
        "run_time": job.run_time.to_string(),
        "attempt": job.attempt,
        "owner": job.owner,
        "started_at": job.started_at.map(|at| at.to_string()),
        "finished_at": job.finished_at.map(|at| at.to_string()),
        "error": job.error,
        "counts": job.counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_given_by_its_name_or_its_number() {
        assert_eq!(number("BAT00012"), Ok(12));
        assert_eq!(number("BAT100000"), Ok(100_000));
        assert_eq!(number("7"), Ok(7));
        for text in ["", "BAT", "BAT-1", "0", "JOB00001", "BAT1x"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
