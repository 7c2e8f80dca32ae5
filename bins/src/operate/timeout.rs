//! `--timeout`: the time that commands wait for servers.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use lambda_core::Error;
use lambda_core::error::Kind;
use lambda_core::postgres::{Postgres, connect};

use crate::Failure;

/// Exit code: a server stayed unreachable.
const UNREACHABLE: u8 = 69;

/// Time limit of a command that only reads.
const READ: Duration = Duration::from_secs(10);

/// Longest wait of a command that changes something for a server that is away.
const CHANGE: Duration = Duration::from_mins(1);

/// Longest wait of `wait-for`.
const WAIT: Duration = Duration::from_mins(5);

/// A year, in seconds: more could not be added to a point in time.
const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// Time between two attempts to reach a server that is away.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// The option, the same for every command.
#[derive(Debug, Clone, Copy, Args)]
pub struct TimeoutArgs {
    /// Time limit for servers [default: 10; changes 60, wait-for 300]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    timeout: Option<u64>,
}

impl TimeoutArgs {
    /// Time limit of a command that only reads.
    pub fn reading(self) -> Duration {
        self.or(READ)
    }

    /// Longest wait of `wait-for`.
    pub fn waiting(self) -> Duration {
        self.or(WAIT)
    }

    fn or(self, default: Duration) -> Duration {
        self.timeout.map_or(default, Duration::from_secs)
    }

    /// Waits for the database of a command that changes something, and logs so once.
    ///
    /// # Errors
    /// The last error once the time is over; any but a transient one at once.
    pub async fn reach(self, database: &Postgres) -> Result<(), Error> {
        let (limit, begun) = (self.or(CHANGE), Instant::now());
        let mut said = false;
        loop {
            match connect(database, "letters").await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() != Kind::Transient => return Err(error),
                Err(error) if begun.elapsed() >= limit => return Err(error),
                Err(_) if said => {}
                Err(_) => {
                    said = true;
                    let limit = limit.as_secs();
                    tracing::warn!("waiting up to {limit} s for PostgreSQL at {database}");
                }
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
}

/// Result of `reading`, if `server` ("PostgreSQL at db:5432/bank") answers within `limit`.
///
/// # Errors
/// 69 if it does not; otherwise the errors of `reading`.
pub async fn answered<T>(
    server: impl fmt::Display,
    limit: Duration,
    reading: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, reading).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        let what = format!(
            "{server} gave no answer within {seconds} s; check that it is up and not overloaded, \
             or raise --timeout"
        );
        Err(Failure::Found { what, code: UNREACHABLE })
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_reported_with_the_time_limit() {
        let never = std::future::pending::<Result<(), Failure>>();
        let failure = answered("Kafka at k:9092", READ, never).await.unwrap_err();
        assert_eq!(failure.exit_code(), UNREACHABLE);
        let text = failure.chain();
        assert!(text.starts_with("Kafka at k:9092 gave no answer within 10 s; "), "{text}");
    }
}
