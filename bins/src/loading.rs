//! What people see of a load: a bar on a terminal, a line every ten seconds
//! elsewhere, and a summary at the end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lambda_batch::config::Step;
use lambda_batch::{FileReport, Outcome};
use lambda_core::progress::Counts;
use serde_json::{Map, Value, json};

use crate::args::Output;
use crate::{Failure, json};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

const BAR: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";

/// Shows progress.
#[derive(Debug)]
pub struct Watcher {
    /// Hidden by itself where standard error is no terminal.
    bar: ProgressBar,
    last_line: Mutex<Instant>,
}

impl Default for Watcher {
    fn default() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Self { bar, last_line: Mutex::new(Instant::now()) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Watcher {
    /// Shows how far a file is.
    pub fn show(&self, step: Step<'_>) {
        let (file, what, bytes, total, counts) = match step {
            Step::Planning { file, bytes, bytes_total } => {
                (file, "planning", bytes, bytes_total, Counts::default())
            }
            Step::Loading { file, stored } => {
                (file, "loading", stored.bytes, stored.bytes_total, stored.counts)
            }
        };
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{what} {file}: {} records", counts.read));
            self.bar.set_length(total);
            self.bar.set_position(bytes);
        } else if self.line_is_due() {
            let percent = (bytes * 100).checked_div(total).unwrap_or(100);
            tracing::info!(
                file,
                percent,
                records = counts.read,
                rejected = counts.rejected,
                "{what}"
            );
        }
    }

    fn line_is_due(&self) -> bool {
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.elapsed() >= LINE_EVERY;
        if due {
            *last = Instant::now();
        }
        due
    }
}

/// Prints what became of the files.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(reports: &[FileReport], output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => reports.iter().try_for_each(|report| crate::print(line(report))),
        Output::Json => json::print("files", reports.iter().map(object).collect(), []),
    }
}

fn line(report: &FileReport) -> String {
    let file = &report.file;
    let speed = report.records_per_second().map(|speed| format!(", {speed:.0} rows/s"));
    let took = format!("{:.1} s{}", report.elapsed.as_secs_f64(), speed.unwrap_or_default());
    match &report.outcome {
        Outcome::Loaded { job, .. } => {
            format!("{file}: {}; job {} completed ({took})", counted(&job.counts), job.job_id())
        }
        Outcome::AlreadyLoaded { job } => format!(
            "{file}: already loaded by job {} from {} ({}); nothing was written",
            job.job_id(),
            job.file_name,
            counted(&job.counts)
        ),
        Outcome::Checked { records, rejected } => format!(
            "{file}: {records} read, {rejected} would be rejected; nothing was written ({took})"
        ),
        Outcome::Failed { job: None, error } => {
            let (reason, named) = (error.chain(), format!("{file}: "));
            format!("{file}: not loaded: {}", reason.strip_prefix(&named).unwrap_or(&reason))
        }
        Outcome::Failed { job: Some(job), error } => format!(
            "{file}: job {} is {}: {} of {} records so far: {}",
            job.job_id(),
            job.status,
            counted(&job.counts),
            job.records,
            error.chain()
        ),
        Outcome::Unknown { job_id, error } => format!(
            "{file}: job {job_id} is not finished, and the database does not answer how far it \
             is: {}",
            error.chain()
        ),
    }
}

/// Counts as people read them.
fn counted(counts: &Counts) -> String {
    format!("{} read{}", counts.read, outcomes(counts))
}

/// What became of records, as the rest of a sentence: outcomes that nothing had are left
/// out.
pub(crate) fn outcomes(counts: &Counts) -> String {
    let outcomes = counts.outcomes().into_iter().filter(|(_, count)| *count > 0);
    outcomes.fold(String::new(), |text, (name, count)| format!("{text}, {count} {name}"))
}

fn object(report: &FileReport) -> Value {
    let outcome = match &report.outcome {
        Outcome::Loaded { .. } => "loaded",
        Outcome::AlreadyLoaded { .. } => "already_loaded",
        Outcome::Checked { .. } => "checked",
        Outcome::Failed { .. } | Outcome::Unknown { .. } => "failed",
    };
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("file", json!(report.file));
    put("outcome", json!(outcome));
    put("seconds", json!(report.elapsed.as_secs_f64()));
    if let Some(speed) = report.records_per_second() {
        put("rows_per_second", json!(speed.round()));
    }
    if let Outcome::Checked { records, rejected } = report.outcome {
        put("counts", json!({ "read": records, "rejected": rejected }));
    }
    if let Some(job) = report.outcome.job() {
        put("job", crate::operate::jobs::object(job));
    }
    if let Outcome::Unknown { job_id, .. } = &report.outcome {
        put("job", json!({ "job_id": job_id }));
    }
    if let Some(error) = report.error() {
        put("error", json!(error.chain()));
        put("exit_code", json!(error.exit_code()));
    }
    Value::Object(object)
}
