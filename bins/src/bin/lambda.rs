//! `lambda`: the operator's command.

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use lambda_bins::operate::timeout::TimeoutArgs;
use lambda_bins::operate::{dead_letters, doctor, jobs, pipelines, topic, wait_for};

/// Inspects and maintains the platform
#[derive(Debug, Parser)]
#[command(name = "lambda", version, disable_help_flag = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check servers, schema, roles, topic and lag, with a remedy for each problem
    Doctor(doctor::DoctorArgs),
    /// List batch jobs, newest first, or show one
    Jobs(jobs::JobsArgs),
    /// List, show, replay, discard or purge rejected records
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Compare pipelines of a file with their tables, and adopt tables
    Pipelines(pipelines::PipelinesArgs),
    /// Create the topic or change its settings
    Topic(topic::TopicArgs),
    /// Wait until a server, topic or schema is ready
    WaitFor(wait_for::WaitForArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let timeout = args.timeout;
    lambda_bins::run("lambda", async |shutdown| match &args.command {
        Command::Doctor(args) => doctor::run(args, timeout).await,
        Command::Jobs(args) => jobs::run(args, timeout, &shutdown).await,
        // Boxed: its future is too large for the stack of a caller.
        Command::DeadLetters(args) => Box::pin(dead_letters::run(args, timeout, &shutdown)).await,
        Command::Pipelines(args) => pipelines::run(args, timeout).await,
        Command::Topic(args) => topic::run(args, timeout).await,
        Command::WaitFor(args) => wait_for::run(args, timeout, &shutdown).await,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_of_every_command_fits_one_screen() {
        let mut commands = vec![Args::command()];
        let mut looked_at = 0;
        while let Some(mut command) = commands.pop() {
            let help = command.render_help().to_string();
            assert!(help.lines().count() <= 40, "{help}");
            commands.extend(command.get_subcommands().cloned());
            looked_at += 1;
        }
        assert!(looked_at > 6, "{looked_at}");
    }
}
