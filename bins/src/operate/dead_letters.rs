//! `lambda dead-letters`: lists, shows, replays, discards and purges rejected records.

mod list;
mod put_away;
mod replay;
mod selection;
mod show;

use clap::{Args, Subcommand};
use lambda_core::Error;
use lambda_core::postgres::DeadLetters;
use lambda_core::postgres::dead_letters::DeadLetter;
use serde_json::{Value, json};

use crate::args::{DatabaseArgs, OutputArgs};
use crate::operate::timeout::{TimeoutArgs, answered};
use crate::{Failure, Stop};

/// Arguments of `lambda dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, newest first, with the number for each reason
    List(list::ListArgs),
    /// Show a dead letter with its key and payload
    Show(show::ShowArgs),
    /// Process dead letters again, as if they had just been read
    Replay(replay::ReplayArgs),
    /// Mark open dead letters as discarded
    Discard(put_away::DiscardArgs),
    /// Delete keys and payloads of old dead letters; counts stay
    Purge(put_away::PurgeArgs),
}

/// Runs the command.
///
/// # Errors
/// 69 if the database does not answer, 78 if the role lacks a grant, 65 if only some of the
/// dead letters could be changed, 75 on a signal to stop, 1 if standard output cannot be
/// written.
pub async fn run(
    args: &DeadLettersArgs,
    timeout: TimeoutArgs,
    shutdown: &Stop,
) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => unless_stopped(shutdown, list::run(args, timeout)).await,
        Command::Show(args) => {
            // Boxed: its future is large.
            unless_stopped(shutdown, Box::pin(show::run(args, timeout))).await
        }
        // A replay stops by itself between two transactions and reports what it has stored.
        Command::Replay(args) => replay::run(args, timeout, shutdown).await,
        Command::Discard(args) => unless_stopped(shutdown, put_away::discard(args, timeout)).await,
        Command::Purge(args) => unless_stopped(shutdown, put_away::purge(args, timeout)).await,
    }
}

/// Runs `work` until a signal to stop. A transaction in progress is then rolled back, because
/// its connection closes.
async fn unless_stopped<T>(
    shutdown: &Stop,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stopped = || {
        let what = "stopped; run it again to continue: it skips what is done".into();
        Err(Error::Interrupted { what }.into())
    };
    tokio::select! {
        done = work => done,
        () = shutdown.stopped() => stopped(),
    }
}

/// Arguments that all these commands share.
#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CommonArgs {
    /// Runs `reading` on the dead letters, within the time limit of a read.
    async fn read<T>(
        &self,
        timeout: TimeoutArgs,
        reading: impl AsyncFnOnce(&DeadLetters) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (database, limit) = (self.database.config()?, timeout.reading());
        let server = format!("PostgreSQL at {database}");
        let letters = DeadLetters::new(database).answering_within(limit);
        answered(server, limit, reading(&letters)).await
    }

    /// Opens the dead letters for a change, and waits for a database that is away.
    async fn letters(&self, timeout: TimeoutArgs) -> Result<DeadLetters, Failure> {
        let database = self.database.config()?;
        timeout.reach(&database).await?;
        Ok(DeadLetters::new(database))
    }
}

/// Formats where a dead letter was read: `topic[partition]@offset` or `file:line`.
fn place(letter: &DeadLetter) -> String {
    let (lane, position) = (&letter.lane, letter.position);
    match (&letter.file_name, letter.line) {
        (Some(path), Some(number)) => format!("{}:{number}", last_part(path)),
        (Some(path), None) => format!("{}@{position}", last_part(path)),
        (None, _) => format!("{}[{}]@{position}", last_part(&lane.source), lane.partition),
    }
}

/// Last part of a path or a source's name.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Formats a dead letter as a JSON object, without its key and payload.
fn object(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "status": letter.status,
        "place": place(letter),
        "pipeline": letter.lane.pipeline,
        "source": letter.lane.source,
        "partition": letter.lane.partition,
        "position": letter.position,
        "line": letter.line,
        "file_name": letter.file_name,
        "job_id": letter.job_id,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "created_at": letter.created_at.to_string(),
        "resolved_at": letter.resolved_at.map(|at| at.to_string()),
        "purged_at": letter.purged_at.map(|at| at.to_string()),
    })
}

/// Replaces control characters, which a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.replace(|character: char| character.is_control(), "\u{fffd}")
}
