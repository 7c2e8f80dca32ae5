//! The operator's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lambda_bins::operate::{dead_letters, jobs};

/// Looks after the platform.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the jobs, newest first, or show one
    Jobs(jobs::JobsArgs),
    /// List, show, replay, discard and purge rejected records
    DeadLetters(dead_letters::DeadLettersArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda", async |_| match &args.command {
        Command::Jobs(args) => jobs::run(args).await,
        Command::DeadLetters(args) => dead_letters::run(args).await,
    })
}
