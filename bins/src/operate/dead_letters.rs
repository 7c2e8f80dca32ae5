//! `lambda dead-letters`: rejected records, looked at, taken again, and put away.

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
use crate::{CancellationToken, Failure};

/// Looks after rejected records.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, newest first, and how many there are for which reason
    List(list::ListArgs),
    /// Show a dead letter with what it holds
    Show(show::ShowArgs),
    /// Take dead letters again, as if they had just been read
    Replay(replay::ReplayArgs),
    /// Mark open dead letters as discarded
    Discard(put_away::DiscardArgs),
    /// Delete keys and payloads of old dead letters; what they were counted as stays
    Purge(put_away::PurgeArgs),
}

/// Does what the command says.
///
/// # Errors
/// When the database does not answer, when the role may not (78), when not all that was
/// asked for could be done (65), when it is told to stop (75), or standard output cannot
/// be written.
pub async fn run(args: &DeadLettersArgs, shutdown: &CancellationToken) -> Result<(), Failure> {
    let stopped = || {
        let what = "stopped; run it again: what is done already is passed over".into();
        Err(Error::Interrupted { what }.into())
    };
    tokio::select! {
        done = obey(&args.command) => done,
        // What is under way ends with its connection, and is rolled back.
        () = shutdown.cancelled() => stopped(),
    }
}

async fn obey(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Discard(args) => put_away::discard(args).await,
        Command::Purge(args) => put_away::purge(args).await,
    }
}

/// What every command here needs.
#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CommonArgs {
    fn letters(&self) -> Result<DeadLetters, Failure> {
        Ok(DeadLetters::new(self.database.config()?))
    }
}

/// Where a dead letter was read, for people: `topic[partition]@offset` or `file:line`.
fn place(letter: &DeadLetter) -> String {
    let (lane, position) = (&letter.lane, letter.position);
    match (&letter.file_name, letter.line) {
        (Some(path), Some(number)) => format!("{}:{number}", last_part(path)),
        (Some(path), None) => format!("{}@{position}", last_part(path)),
        (None, _) => format!("{}[{}]@{position}", last_part(&lane.source), lane.partition),
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A dead letter as a JSON object, without what it holds.
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

/// Text of others as it may be printed: a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.replace(|character: char| character.is_control(), "\u{fffd}")
}
