//! Jobs: one for each content that was ever loaded into a pipeline.

use std::fmt;

/// A job as an authority: later `as_of` counts more, then the higher number.
/// Neither ever changes (R4a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobRef {
    /// The moment whose truth the file tells, microseconds since the Unix epoch.
    pub as_of_micros: i64,
    /// The job's number.
    pub number: i64,
}

impl JobRef {
    /// The name in `job_id` columns.
    pub fn job_id(&self) -> String {
        job_id(self.number)
    }
}

/// `BAT` and the number, padded to five digits.
pub fn job_id(number: i64) -> String {
    format!("BAT{number:05}")
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Planned, or stopped before its end; the next run goes on with it.
    Pending,
    /// Somebody holds its lease.
    Running,
    /// Every chunk is stored. Final.
    Completed,
    /// Stopped by an error that a rerun may mend.
    Failed,
}

impl Status {
    /// The name stored in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The status stored under `name`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Completed, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job as a run finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub status: Status,
    /// Whether its lease has not ended yet, by the database's clock.
    pub leased: bool,
}

/// What a run does with a job that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It was loaded before: write nothing, exit 0.
    AlreadyCompleted,
    /// Another run is at it: wait for its lease to end, then look again.
    WaitForLease,
    /// Take it: attempt + 1, a lease, all its lanes.
    TakeOver,
}

/// Decides what a run does with the job of its file (R21, R22).
pub fn start(found: Found) -> Start {
    match found {
        Found { status: Status::Completed, .. } => Start::AlreadyCompleted,
        Found { status: Status::Running, leased: true } => Start::WaitForLease,
        Found { .. } => Start::TakeOver,
    }
}
