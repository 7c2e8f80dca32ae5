//! `lambda jobs`: the jobs, newest first, with what is stored of each right now.

use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment, Table, presets};
use lambda_core::job::Status;
use lambda_core::postgres::{Job, Jobs};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::{DatabaseArgs, Output, OutputArgs};

/// Lists the jobs, newest first.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Only those in this status
    #[arg(long, value_enum)]
    status: Option<StatusArg>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
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
/// When the database does not answer, or standard output cannot be written.
pub async fn run(args: &JobsArgs) -> Result<(), Failure> {
    let jobs = Jobs::new(args.database.config()?);
    let jobs = jobs.list(args.status.map(Status::from), args.limit).await?;
    match args.output.output {
        Output::Human => crate::print(table(&jobs)),
        Output::Json => crate::print(Value::Array(jobs.iter().map(object).collect())),
    }
}

const COLUMNS: [&str; 15] = [
    "job",
    "status",
    "started",
    "took",
    "chunks",
    "records",
    "read",
    "inserted",
    "confirmed",
    "corrected",
    "superseded",
    "duplicate",
    "rejected",
    "file",
    "error",
];

/// Where the columns of numbers begin and end.
const NUMBERS: std::ops::Range<usize> = 3..13;

fn table(jobs: &[Job]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    for job in jobs {
        let cells = row(job).into_iter().enumerate().map(|(index, text)| {
            let cell = Cell::new(text);
            if NUMBERS.contains(&index) { cell.set_alignment(CellAlignment::Right) } else { cell }
        });
        table.add_row(cells);
    }
    table
}

fn row(job: &Job) -> [String; 15] {
    let counts = &job.counts;
    let status = match (job.status, job.leased) {
        (Status::Running, false) => "running (lease ended)".to_owned(),
        (status, _) => status.to_string(),
    };
    let started = job.started_at.map(|at| at.strftime("%F %TZ").to_string());
    let took = job.started_at.zip(job.finished_at).map(|(started, finished)| {
        format!("{:.1} s", finished.duration_since(started).as_secs_f64())
    });
    [
        job.job_id(),
        status,
        started.unwrap_or_default(),
        took.unwrap_or_default(),
        format!("{}/{}", job.stored_chunks, job.chunks),
        job.records.to_string(),
        counts.read.to_string(),
        counts.inserted.to_string(),
        counts.confirmed.to_string(),
        counts.corrected.to_string(),
        counts.superseded.to_string(),
        counts.duplicate.to_string(),
        counts.rejected.to_string(),
        job.file_name.clone(),
        job.error.clone().unwrap_or_default(),
    ]
}

/// A job as a JSON object.
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
