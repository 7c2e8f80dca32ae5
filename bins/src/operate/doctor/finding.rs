//! Result of a check.

use std::time::Duration;

use lambda_core::Error;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Result of one check.
#[derive(Debug)]
pub(super) struct Finding {
    /// Name of the check.
    pub(super) check: &'static str,
    /// Its state.
    pub(super) state: State,
    /// The finding, or why the check was skipped.
    pub(super) found: String,
}

/// State of a check.
#[derive(Debug)]
pub(super) enum State {
    Ok,
    /// It works but should be changed.
    Warning {
        remedy: String,
    },
    /// It does not work.
    Problem {
        remedy: String,
        code: u8,
    },
    /// It could not be checked.
    Skipped,
}

impl State {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning { .. } => "warning",
            Self::Problem { .. } => "problem",
            Self::Skipped => "skipped",
        }
    }
}

/// Exit code of a problem in the configuration.
pub(super) const CONFIGURATION: u8 = 78;

/// Exit code of a server that does not answer.
const UNREACHABLE: u8 = 69;

/// Exit code of a problem that may pass, or that another run resolves.
pub(super) const TEMPORARY: u8 = 75;

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into() }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, state: State::Warning { remedy: remedy.into() }, found: found.into() }
    }

    pub(super) fn problem(
        check: &'static str,
        code: u8,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, state: State::Problem { remedy: remedy.into(), code }, found: found.into() }
    }

    pub(super) fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, state: State::Skipped, found: why.into() }
    }

    /// A check that failed with an error.
    pub(super) fn error(check: &'static str, error: &Error) -> Self {
        let chain = error.chain();
        let (found, remedy) = match error.remedy() {
            // The chain ends with the remedy.
            Some(remedy) => {
                let found = chain.strip_suffix(remedy).unwrap_or(&chain);
                (found.trim_end_matches("; ").to_owned(), remedy.to_owned())
            }
            None => (chain, "check the address, the network and whether the server runs".into()),
        };
        Self::problem(check, error.exit_code(), found, remedy)
    }

    /// Exit code of a problem; `None` in other states.
    pub(super) fn exit_code(&self) -> Option<u8> {
        match self.state {
            State::Problem { code, .. } => Some(code),
            State::Ok | State::Warning { .. } | State::Skipped => None,
        }
    }

    pub(super) fn object(&self) -> Value {
        let remedy = match &self.state {
            State::Warning { remedy } | State::Problem { remedy, .. } => Some(remedy),
            State::Ok | State::Skipped => None,
        };
        json!({
            "check": self.check,
            "state": self.state.name(),
            "found": self.found,
            "remedy": remedy,
            "exit_code": self.exit_code(),
        })
    }
}

/// Time by which all checks must have ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn within(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// Result of `checks`; `None` once the time is over.
    pub(super) async fn until<T>(self, checks: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.at, checks).await.ok()
    }
}

/// Reports the first of `checks` without a finding as the one that took too long, and the
/// others as skipped.
pub(super) fn overdue(
    checks: impl IntoIterator<Item = &'static str>,
    deadline: Deadline,
    findings: &mut Vec<Finding>,
) {
    let mut open = checks.into_iter().filter(|it| !findings.iter().any(|found| found.check == *it));
    let Some(late) = open.next() else { return };
    let skipped: Vec<Finding> =
        open.map(|check| Finding::skipped(check, "the time limit was reached before it")).collect();
    let found = format!("no answer within {} s", deadline.limit.as_secs());
    let remedy = "check that the server is up and not overloaded, or raise --timeout";
    findings.push(Finding::problem(late, UNREACHABLE, found, remedy));
    findings.extend(skipped);
}

/// The finding of a check, or the error it failed with.
pub(super) fn of(check: &'static str, found: Result<Finding, Error>) -> Finding {
    found.unwrap_or_else(|error| Finding::error(check, &error))
}

/// Formats a number of bytes for people.
pub(super) fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
