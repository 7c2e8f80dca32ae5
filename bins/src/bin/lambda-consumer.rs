//! `lambda-consumer`: stores a Kafka topic in PostgreSQL, live and exactly once.

use std::process::ExitCode;

use clap::Parser;
use lambda_bins::args::{DatabaseArgs, HelpArgs, HttpArgs, KafkaArgs, Output, OutputArgs};
use lambda_bins::pipelines::PipelineArgs;
use lambda_bins::serving::Serving;
use lambda_bins::{Failure, json, print};
use lambda_core::delivery::batcher::FIRST_RECORDS;
use lambda_core::kafka::{OnSourceChange, StartAt};
use lambda_stream::{Summary, consume};

/// Stores the records of a Kafka topic in PostgreSQL, each exactly once
#[derive(Debug, Parser)]
#[command(name = "lambda-consumer", version, disable_help_flag = true)]
struct Args {
    /// Start of a topic never read: earliest or latest
    #[arg(long, default_value_t, value_name = "WHERE")]
    start: StartAt,
    /// If the topic was recreated or cut: stop or restart
    #[arg(long, default_value_t, value_name = "WHAT")]
    on_source_change: OnSourceChange,
    /// Take partitions from another group active in the last minute
    #[arg(long)]
    take_over: bool,
    /// Rejects allowed in a partition's first 1000
    #[arg(long, default_value_t = FIRST_RECORDS / 2, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    max_rejects: i64,
    /// Exit once everything now in the topic is stored
    #[arg(long)]
    exit_at_end: bool,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    help: HelpArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda-consumer", async |stop| {
        let serving = Serving::start(&args.http, &stop).await?;
        let (chosen, database) = (args.pipeline.chosen()?, args.database.config()?);
        let kafka = args.kafka.config_for(chosen.name(), chosen.topic())?;
        serving.watch(&database, chosen.name());
        let pipeline = chosen.pipeline_unless_stopped(&database, &stop).await?;
        let summary = consume(&pipeline, &kafka, &database)
            .start(args.start)
            .on_source_change(args.on_source_change)
            .take_over(args.take_over)
            .max_rejects(args.max_rejects)
            .exit_at_end(args.exit_at_end)
            .health(&serving.health())
            .stop(stop)
            .await?;
        report(&summary, args.output.output)
    })
}

fn report(summary: &Summary, output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => print(summary),
        Output::Json => json::print("topics", vec![json::value(summary)?], []),
    }
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
