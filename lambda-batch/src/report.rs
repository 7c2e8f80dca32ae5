//! Reports of a run: the outcome of each file, and the exit code for all of them.

use std::time::Duration;

use lambda_core::Error;
use lambda_core::postgres::Job;

/// Report of one file.
#[derive(Debug)]
pub struct FileReport {
    /// Name of the file, as found.
    pub file: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// Time it took.
    pub elapsed: Duration,
}

/// Outcome of a file.
///
/// ```no_run
/// use lambda_batch::{Outcome, load};
/// use lambda_core::{Postgres, transaction};
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
/// for file in load(&transaction::pipeline(), ["in/"], &postgres).await?.files {
///     match file.outcome {
///         Outcome::Loaded { job, records, .. } => println!("{}: {records} stored", job.job_id()),
///         Outcome::AlreadyLoaded { job } => println!("{} has loaded it", job.job_id()),
///         Outcome::Failed { error, .. } => println!("{}: {}", file.file, error.chain()),
///         other => println!("{}: {other:?}", file.file),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Its job is completed, by this run.
    Loaded {
        /// The job, as stored.
        job: Box<Job>,
        /// Records that this run stored: fewer than the job's if an earlier run had stored
        /// some.
        records: i64,
        /// Time it waited for another run to release the job.
        waited: Duration,
    },
    /// Its content was already loaded; nothing was written.
    AlreadyLoaded {
        /// The job that loaded it.
        job: Box<Job>,
    },
    /// Its records were decoded in a dry run.
    Checked {
        /// Records in the file.
        records: i64,
        /// Records that would be rejected.
        rejected: i64,
    },
    /// It is empty, without even a header: nothing is loaded, and the file is not moved,
    /// since it may still be being written.
    Empty,
    /// It disappeared after the run began: another run has archived it.
    Taken,
    /// It could not be loaded or archived.
    Failed {
        /// Its job, if it has one.
        job: Option<Box<Job>>,
        /// The reason.
        error: Error,
    },
    /// It could not be loaded, and the server does not report how far its job is.
    Unknown {
        /// The job's name, such as `BAT00001`.
        job_id: String,
        /// The reason.
        error: Error,
    },
}

impl Outcome {
    /// The job of the file's content, if it has one.
    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Loaded { job, .. } | Self::AlreadyLoaded { job } => Some(job),
            Self::Failed { job, .. } => job.as_deref(),
            Self::Checked { .. } | Self::Empty | Self::Taken | Self::Unknown { .. } => None,
        }
    }
}

impl FileReport {
    /// Records per second, of those that this run stored or decoded; includes the time for
    /// planning, but not for waiting.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn records_per_second(&self) -> Option<f64> {
        let (records, waited) = match &self.outcome {
            Outcome::Loaded { records, waited, .. } => (*records, *waited),
            Outcome::Checked { records, .. } => (*records, Duration::ZERO),
            Outcome::AlreadyLoaded { .. }
            | Outcome::Empty
            | Outcome::Taken
            | Outcome::Failed { .. }
            | Outcome::Unknown { .. } => return None,
        };
        let seconds = self.elapsed.saturating_sub(waited).as_secs_f64();
        (seconds > 0.0).then(|| records as f64 / seconds)
    }

    /// The error, if it failed.
    pub fn error(&self) -> Option<&Error> {
        match &self.outcome {
            Outcome::Failed { error, .. } | Outcome::Unknown { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Exit codes, worst first.
const WORST_FIRST: [u8; 4] = [78, 65, 69, 75];

/// Report of a load.
#[derive(Debug)]
#[must_use = "a file may have failed: use into_result"]
pub struct LoadReport {
    /// The files, in the order in which they were loaded; those after a server was lost are left
    /// out.
    pub files: Vec<FileReport>,
}

impl LoadReport {
    /// The reports, if no file failed.
    ///
    /// # Errors
    /// The worst error of a file; it decides the exit code of a run over several files.
    pub fn into_result(self) -> Result<Vec<FileReport>, Error> {
        let rank = |report: &FileReport| {
            let code = report.error()?.exit_code();
            Some(WORST_FIRST.iter().position(|worse| *worse == code).unwrap_or(WORST_FIRST.len()))
        };
        let ranks = self.files.iter().enumerate().filter_map(|(at, file)| Some((rank(file)?, at)));
        let Some((_, worst)) = ranks.min() else { return Ok(self.files) };
        match self.files.into_iter().nth(worst).map(|file| file.outcome) {
            Some(Outcome::Failed { error, .. } | Outcome::Unknown { error, .. }) => Err(error),
            _ => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use lambda_core::error::Server;

    use super::*;

    #[test]
    fn over_several_files_the_worst_code_counts() {
        let failed = |code| {
            let what = String::new();
            let error = match code {
                65 => Error::Input { what },
                69 => Error::Unreachable { server: Server::Postgres, source: "gone".into() },
                75 => Error::Interrupted { what },
                _ => Error::misconfigured("", ""),
            };
            FileReport {
                file: String::new(),
                outcome: Outcome::Failed { job: None, error },
                elapsed: Duration::ZERO,
            }
        };
        let checked = || FileReport {
            file: String::new(),
            outcome: Outcome::Checked { records: 1, rejected: 1 },
            elapsed: Duration::ZERO,
        };
        for (index, worse) in WORST_FIRST.iter().enumerate() {
            for better in &WORST_FIRST[index..] {
                let reports = vec![checked(), failed(*better), failed(*worse), failed(*better)];
                let error = LoadReport { files: reports }.into_result().unwrap_err();
                assert_eq!(error.exit_code(), *worse);
            }
        }
        let count = |files| LoadReport { files }.into_result().unwrap().len();
        assert_eq!((count(vec![checked(), checked()]), count(Vec::new())), (2, 0));
    }
}
