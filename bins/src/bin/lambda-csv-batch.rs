//! `lambda-csv-batch`: loads CSV files into PostgreSQL, each exactly once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use lambda_batch::{LoadReport, input};
use lambda_bins::args::{DatabaseArgs, HelpArgs, HttpArgs, OutputArgs, moment};
use lambda_bins::pipelines::{Chosen, PipelineArgs};
use lambda_bins::serving::Serving;
use lambda_bins::{Failure, Stop, loading};
use lambda_core::transaction;

const NAME: &str = "lambda-csv-batch";

/// Loads CSV files (also .gz, .zst) into PostgreSQL, each exactly once. Safe to run again
#[derive(Debug, Parser)]
#[command(name = "lambda-csv-batch", version, disable_help_flag = true, after_help = EXIT_CODES)]
struct Args {
    /// Files, folders or patterns; - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Chunks stored at the same time
    #[arg(long, env = "BATCH_WORKERS", default_value_t = 2, hide_env_values = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Effective time; the latest wins [default: now]
    #[arg(long, env = "BATCH_AS_OF", hide_env_values = true, value_name = "TIME", value_parser = moment)]
    as_of: Option<i64>,
    /// Check the files without storing anything
    #[arg(long)]
    dry_run: bool,
    /// Rejects allowed [default: half of 1000]
    #[arg(long, env = "BATCH_MAX_REJECTS", hide_env_values = true, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    max_rejects: Option<i64>,
    /// Write rejected records to this CSV file
    #[arg(long, env = "BATCH_REJECTS", hide_env_values = true, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Move loaded files to this folder
    #[arg(long, env = "BATCH_ARCHIVE", hide_env_values = true, value_name = "DIR")]
    archive: Option<PathBuf>,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    help: HelpArgs,
}

const EXIT_CODES: &str =
    "Exit codes: 0 loaded, 65 refused, 69 server unreachable, 75 run again, 78 configuration";

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run(NAME, async |stop| {
        let serving = Serving::start(&args.http, &stop).await?;
        let watcher = Arc::new(loading::Watcher::default());
        let report = load(&args, &serving, &watcher, stop).await;
        watcher.clear();
        let report = report?;
        loading::print(&report, args.output.output)?;
        loading::failure(NAME, report).map_or(Ok(()), Err)
    })
}

async fn load(
    args: &Args,
    serving: &Serving,
    watcher: &Arc<loading::Watcher>,
    stop: Stop,
) -> Result<LoadReport, Failure> {
    let chosen = args.pipeline.chosen()?;
    let load = match chosen {
        // Without files, no database is needed.
        Chosen::Transactions if args.dry_run || input::resolve(&args.paths)?.is_empty() => {
            lambda_batch::check(&transaction::pipeline(), &args.paths)
        }
        chosen => {
            let database = args.database.config()?;
            serving.watch(&database, chosen.name());
            let pipeline = chosen.pipeline_unless_stopped(&database, &stop).await?;
            if args.dry_run {
                lambda_batch::check(&pipeline, &args.paths)
            } else {
                lambda_batch::load(&pipeline, &args.paths, &database)
            }
        }
    };
    let watcher = Arc::clone(watcher);
    let load = load
        .workers(usize::from(args.workers))
        .as_of_micros(args.as_of)
        .max_rejects(args.max_rejects)
        .rejects(args.rejects.clone())
        .archive(args.archive.clone())
        .watch(move |step| watcher.show(step))
        .health(&serving.health())
        .stop(stop);
    Ok(load.await?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn help_fits_one_screen() {
        let help = Args::command().render_help().to_string();
        assert!(help.lines().count() <= 40, "{help}");
    }
}
