//! Jobs: one for each content that was ever loaded into a pipeline.

use std::fmt;

use crate::error::{Error, Kind};

/// A job as an authority: a later `as_of` takes precedence, then the higher number. Neither
/// ever changes (rule R4a, docs/protocol.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobRef {
    /// Effective time of the file's data, microseconds since the Unix epoch.
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
///
/// ```
/// assert_eq!(lambda_core::job::job_id(7), "BAT00007");
/// ```
pub fn job_id(number: i64) -> String {
    format!("BAT{number:05}")
}

/// Status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Planned, or stopped before its end; the next run continues it.
    Pending,
    /// A run holds its lease.
    Running,
    /// Every chunk is stored. Final.
    Completed,
    /// Stopped by an error that another run may not meet.
    Failed,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Completed, Self::Failed];

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
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One chunk of a job's content: a lane of its own, planned once and stored with the job
/// (rule R19, docs/protocol.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its first byte, which is that of its first record.
    pub start: i64,
    /// The byte after its last one: the next chunk's start, or the content's end.
    pub end: i64,
    /// Line on which its first record begins, counted from 1.
    pub first_line: i64,
    /// Number of records in it.
    pub records: i64,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// A job as a run finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its status.
    pub status: Status,
    /// Whether its lease is still valid, by the database's clock.
    pub leased: bool,
    /// Whether this run holds it: the answer to its own start was lost.
    pub mine: bool,
}

/// Decision of a run about an existing job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// It is already loaded: write nothing, exit 0.
    AlreadyCompleted,
    /// Another run has it: wait for the end of its lease, then look again.
    WaitForLease,
    /// Take it: attempt + 1, a lease, all its lanes.
    TakeOver,
}

/// Decides what a run does with the job of its file (rules R21 and R22 in
/// docs/protocol.md).
///
/// ```
/// use lambda_core::job::{Found, Start, Status, start};
///
/// let running = Found { status: Status::Running, leased: true, mine: false };
/// assert_eq!(start(running), Start::WaitForLease);
/// assert_eq!(start(Found { leased: false, ..running }), Start::TakeOver);
/// ```
pub fn start(found: Found) -> Start {
    match found {
        Found { status: Status::Completed, .. } => Start::AlreadyCompleted,
        Found { status: Status::Running, leased: true, mine: false } => Start::WaitForLease,
        Found { .. } => Start::TakeOver,
    }
}

/// End of an attempt at a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Every chunk is stored.
    Completed,
    /// It was stopped, or failed for a while because of its environment: the next run
    /// continues.
    Pending {
        /// The error that stopped it; none for a requested stop.
        error: Option<String>,
    },
    /// It was stopped by an error that needs a person.
    Failed {
        /// The error.
        error: String,
    },
    /// A lane was not where this attempt had left it. If another attempt has the job,
    /// nothing of it may be touched; otherwise the database lost commits, and this attempt
    /// lets go of the job.
    Fenced,
}

/// Decides how an attempt that stopped with `result` ends (rules R22 and R23 in
/// docs/protocol.md).
///
/// ```
/// use lambda_core::Error;
/// use lambda_core::job::{End, end};
///
/// let stopped = Err(Error::Interrupted { what: "stopped".into() });
/// assert_eq!(end(&stopped), End::Pending { error: None });
/// assert_eq!(end(&Ok(())), End::Completed);
/// ```
pub fn end(result: &Result<(), Error>) -> End {
    match result {
        Ok(()) => End::Completed,
        Err(Error::Interrupted { .. }) => End::Pending { error: None },
        Err(error) => match error.kind() {
            Kind::Fenced => End::Fenced,
            Kind::Transient => End::Pending { error: Some(error.chain()) },
            Kind::Data | Kind::Fatal => End::Failed { error: error.chain() },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Server;

    #[test]
    fn a_run_treats_a_job_by_this_table() {
        use Start::{AlreadyCompleted, TakeOver, WaitForLease};
        use Status::{Completed, Failed, Pending, Running};
        let table = [
            // status, leased, mine
            (Pending, false, false, TakeOver),
            (Pending, false, true, TakeOver),
            (Pending, true, false, TakeOver),
            (Pending, true, true, TakeOver),
            (Running, false, false, TakeOver),
            (Running, false, true, TakeOver),
            (Running, true, false, WaitForLease),
            (Running, true, true, TakeOver),
            (Completed, false, false, AlreadyCompleted),
            (Completed, false, true, AlreadyCompleted),
            (Completed, true, false, AlreadyCompleted),
            (Completed, true, true, AlreadyCompleted),
            (Failed, false, false, TakeOver),
            (Failed, false, true, TakeOver),
            (Failed, true, false, TakeOver),
            (Failed, true, true, TakeOver),
        ];
        for (status, leased, mine, expected) in table {
            let found = Found { status, leased, mine };
            assert_eq!(start(found), expected, "{found:?}");
        }
    }

    #[test]
    fn the_meaning_of_its_error_decides_how_an_attempt_ends() {
        let text = |text: &str| text.to_owned();
        let lost = || Error::Unreachable { server: Server::Postgres, source: "gone".into() };
        let table = [
            (Ok(()), End::Completed),
            (Err(Error::Interrupted { what: text("stopped") }), End::Pending { error: None }),
            (Err(lost()), End::Pending { error: Some(lost().chain()) }),
            (Err(Error::Fenced { what: text("job") }), End::Fenced),
            (Err(Error::Input { what: text("bad") }), End::Failed { error: text("bad") }),
            (
                Err(Error::misconfigured("no grant", "set up")),
                End::Failed { error: text("no grant; set up") },
            ),
        ];
        for (result, expected) in table {
            assert_eq!(end(&result), expected, "{result:?}");
        }
    }

    #[test]
    fn every_status_is_read_back_as_it_was_stored() {
        for status in [Status::Pending, Status::Running, Status::Completed, Status::Failed] {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("started"), None);
    }

    #[test]
    fn a_job_is_named_by_its_number_with_at_least_five_digits() {
        assert_eq!(job_id(1), "BAT00001");
        assert_eq!(job_id(99_999), "BAT99999");
        assert_eq!(job_id(100_000), "BAT100000");
    }
}
