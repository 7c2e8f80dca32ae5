//! Shows a load to people: a bar on a terminal, a line every ten seconds elsewhere, and a
//! summary at the end.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use lambda_batch::{FileReport, LoadReport, Outcome, Step};
use lambda_core::job::Status;
use lambda_core::progress::Counts;
use serde_json::{Map, Value, json};

use crate::args::Output;
use crate::{Failure, json, logging};

/// Time between two progress lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// As wide as the terminal; a longer message is cut.
const BAR: &str = "{wide_msg} {bar:16} {percent:>3}% {bytes_per_sec:>12}{left}";

/// Time until a rate is stable enough to estimate the time left.
const YOUNG: Duration = Duration::from_secs(1);

/// Shows progress.
#[derive(Debug)]
pub struct Watcher {
    /// Hides itself where standard error is not a terminal.
    bar: ProgressBar,
    shown: Mutex<Shown>,
}

/// Step and time of the last line.
#[derive(Debug)]
struct Shown {
    step: (&'static str, String),
    line: Instant,
}

impl Default for Watcher {
    fn default() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }
}

impl Watcher {
    fn on(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.with_key("left", left));
        }
        if !bar.is_hidden() {
            logging::show_above(Some(bar.clone()));
        }
        let shown = Shown { step: ("", String::new()), line: Instant::now() };
        Self { bar, shown: Mutex::new(shown) }
    }

    /// Removes the bar, so that it does not share a line with what is printed next.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
        logging::show_above(None);
    }

    /// Shows the progress of a file.
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
            // First: of nothing, 100 % would be done.
            self.bar.set_length(total);
            if self.is_new(what, file) {
                // The rate of one step does not predict the next one's.
                self.bar.reset();
            }
            self.bar.set_message(match step {
                Step::Planning { .. } => format!("{what} {file}"),
                Step::Loading { .. } => format!("{} records of {file}", counts.read),
            });
            self.bar.set_position(bytes);
        } else if self.line_is_due() {
            let percent = (bytes * 100).checked_div(total).unwrap_or(100);
            tracing::info!(
                file,
                percent,
                records = counts.read,
                rejected = counts.rejected(),
                "{what}"
            );
        }
    }

    fn is_new(&self, what: &'static str, file: &str) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = (shown.step.0, &*shown.step.1) != (what, file);
        if is_new {
            shown.step = (what, file.to_owned());
        }
        is_new
    }

    fn line_is_due(&self) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let due = shown.line.elapsed() >= LINE_EVERY;
        if due {
            shown.line = Instant::now();
        }
        due
    }
}

/// The time left, once the rate is stable.
fn left(state: &ProgressState, text: &mut dyn fmt::Write) {
    let left = state.eta();
    if state.elapsed() >= YOUNG && left.as_secs() > 0 {
        // Leaves out a field that cannot be written.
        let _ = write!(text, ", {:#} left", HumanDuration(left));
    }
}

/// Prints the outcome of each file. In text, failures are left to [`failure`].
///
/// # Errors
/// When standard output cannot be written.
pub fn print(report: &LoadReport, output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => report.files.iter().filter_map(line).try_for_each(crate::print),
        Output::Json => json::print("files", report.files.iter().map(object).collect(), []),
    }
}

/// Returns the error of the file that decides the exit code, if one failed. Writes the other
/// errors to standard error as `program`'s.
pub fn failure(program: &str, report: LoadReport) -> Option<Failure> {
    let mut failures: Vec<(u8, String)> = report
        .files
        .iter()
        .filter_map(|report| Some((report.error()?.exit_code(), failed(report)?)))
        .collect();
    let code = report.into_result().err()?.exit_code();
    let worst = failures.iter().position(|(other, _)| *other == code)?;
    let (_, what) = failures.remove(worst);
    for (_, what) in failures {
        let _ = writeln!(io::stderr(), "{program}: {what}");
    }
    Some(Failure::Found { what, code })
}

/// The line about a file, unless it failed.
fn line(report: &FileReport) -> Option<String> {
    let file = &report.file;
    let speed = report.records_per_second().map(|speed| format!(", {speed:.0} rows/s"));
    let took = format!("{:.1} s{}", report.elapsed.as_secs_f64(), speed.unwrap_or_default());
    Some(match &report.outcome {
        Outcome::Loaded { job, .. } if job.records == 0 => {
            format!("{file}: only a header, no records; job {} completed", job.job_id())
        }
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
        Outcome::Empty => format!("{file}: empty, not even a header; nothing to load"),
        Outcome::Taken => format!("{file}: moved away by another run; nothing to load"),
        _ => return None,
    })
}

/// The error of a failed file.
fn failed(report: &FileReport) -> Option<String> {
    let (job, error) = match &report.outcome {
        Outcome::Failed { job, error } => (job, error),
        Outcome::Unknown { job_id, error } => {
            let (file, reason) = (&report.file, error.chain());
            return Some(format!(
                "{file}: job {job_id} is not finished, and the database does not report its \
                 progress: {reason}"
            ));
        }
        _ => return None,
    };
    let (file, chain) = (&report.file, error.chain());
    let reason = chain.strip_prefix(&format!("{file}: ")).unwrap_or(&chain);
    if reason.starts_with(file.as_str()) {
        return Some(reason.to_owned());
    }
    let Some(job) = job else { return Some(format!("{file}: {reason}")) };
    let became = match job.status {
        Status::Failed => "failed:",
        Status::Completed => "is completed, but",
        Status::Pending | Status::Running => "is not finished:",
    };
    Some(format!("{file}: job {} {became} {reason}", job.job_id()))
}

/// Formats counts for people.
fn counted(counts: &Counts) -> String {
    format!("{} read{}", counts.read, outcomes(counts))
}

/// Formats outcomes as the rest of a sentence, without those that are zero.
pub(crate) fn outcomes(counts: &Counts) -> String {
    let outcomes = counts.outcomes().into_iter().filter(|(_, count)| *count > 0);
    outcomes.fold(String::new(), |text, (name, count)| format!("{text}, {count} {name}"))
}

fn object(report: &FileReport) -> Value {
    let outcome = match &report.outcome {
        Outcome::Loaded { .. } => "loaded",
        Outcome::AlreadyLoaded { .. } => "already_loaded",
        Outcome::Checked { .. } => "checked",
        Outcome::Empty => "empty",
        Outcome::Taken => "taken",
        _ => "failed",
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::sync::{Arc, MutexGuard};

    use indicatif::TermLike;
    use lambda_batch::tally::Stored;
    use lambda_core::Error;

    use super::*;

    /// A terminal of 80 columns: the rows that it shows, and everything ever written
    /// to it.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Cells>>);

    #[derive(Debug, Default)]
    struct Cells {
        rows: Vec<String>,
        row: usize,
        written: Vec<String>,
    }

    impl Screen {
        fn cells(&self) -> MutexGuard<'_, Cells> {
            let mut cells = self.0.lock().unwrap();
            let rows = cells.rows.len().max(cells.row + 1);
            cells.rows.resize(rows, String::new());
            cells
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, rows: usize) -> io::Result<()> {
            self.cells().row -= rows;
            Ok(())
        }

        fn move_cursor_down(&self, rows: usize) -> io::Result<()> {
            self.cells().row += rows;
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.cells().row += 1;
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut cells = self.cells();
            let row = cells.row;
            cells.rows[row].push_str(text);
            cells.written.push(text.to_owned());
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            let mut cells = self.cells();
            let row = cells.row;
            cells.rows[row].clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl io::Write for Screen {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.write_line(std::str::from_utf8(text).unwrap().trim_end_matches('\n'))?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn progress_fits_80_columns_and_leaves_log_lines_whole() {
        let screen = Screen::default();
        let watcher = Watcher::on(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let mut log = logging::AboveBar(screen.clone());
        let file = "a/folder/with/a/long/name/and a file with a name that is long as well.csv";
        let line = "2026-11-29T00:00:00Z  INFO lambda_batch: a line that is longer than the \
                    progress beside it, which must not be cut";
        for bytes in [0, 1 << 20, 700 << 20] {
            let bytes_total = 700 << 20;
            watcher.show(Step::Planning { file, bytes, bytes_total });
            log.write_all(format!("{line}\n").as_bytes()).unwrap();
            let counts = Counts::of([(lambda_core::outcome::Outcome::Inserted, 7_000_000)]);
            let stored = Stored { bytes, bytes_total, counts };
            watcher.show(Step::Loading { file, stored: &stored });
        }
        let shown = screen.cells().rows.join("\n");
        assert!(shown.contains("7000000 records of a/folder"), "{shown}");
        watcher.clear();
        let cells = screen.cells();
        let rows: Vec<&str> =
            cells.rows.iter().map(|row| row.trim_end()).filter(|row| !row.is_empty()).collect();
        assert_eq!(rows, [line; 3], "log lines and nothing else");
        for written in &cells.written {
            let fits = written == line || written.chars().count() <= 80;
            assert!(fits && !written.contains("0s left"), "{written:?}");
        }
    }

    #[test]
    fn a_failed_file_is_one_sentence() {
        let report = |error| FileReport {
            file: "in/a.csv".into(),
            outcome: Outcome::Failed { job: None, error },
            elapsed: Duration::ZERO,
        };
        let input = |what: &str| Error::Input { what: what.into() };
        let said = |error| failed(&report(error)).unwrap();
        assert_eq!(said(input("in/a.csv: no header")), "in/a.csv: no header");
        assert_eq!(said(input("in/a.csv was changed")), "in/a.csv was changed");
        assert_eq!(said(input("no header")), "in/a.csv: no header");
        let reports = vec![report(input("no header")), report(Error::misconfigured("x", "y"))];
        let failure = failure("a-test", LoadReport { files: reports }).unwrap();
        assert_eq!((failure.exit_code(), failure.chain()), (78, "in/a.csv: x; y".into()));
    }
}
