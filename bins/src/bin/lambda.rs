//! The operator's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lambda_bins::operate::{doctor, jobs, topic, wait_for};

/// Looks after the platform.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check servers, schema, roles, topic and lag, and say what to do
    Doctor(doctor::DoctorArgs),
    /// List the jobs, newest first
    Jobs(jobs::JobsArgs),
    /// Create the topic, or bring it to what is asked for
    Topic(topic::TopicArgs),
    /// Wait until something is there
    WaitFor(wait_for::WaitForArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda", async |shutdown| match &args.command {
        Command::Doctor(args) => doctor::run(args).await,
        Command::Jobs(args) => jobs::run(args).await,
        Command::Topic(args) => topic::run(args).await,
        Command::WaitFor(args) => wait_for::run(args, &shutdown).await,
    })
}
