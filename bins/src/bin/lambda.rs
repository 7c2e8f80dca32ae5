//! The operator's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lambda_bins::operate::jobs;

/// Looks after the platform.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the jobs, newest first
    Jobs(jobs::JobsArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda", async |_| match &args.command {
        Command::Jobs(args) => jobs::run(args).await,
    })
}
