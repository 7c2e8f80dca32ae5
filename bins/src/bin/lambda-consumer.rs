//! `lambda-consumer`: a Kafka topic into PostgreSQL, live and exactly once.

use std::process::ExitCode;

use clap::Parser;
use lambda_bins::args::{DatabaseArgs, HelpArgs, HttpArgs, KafkaArgs, Output, OutputArgs};
use lambda_bins::serving::Serving;
use lambda_bins::{Failure, print};
use lambda_core::kafka::{OnSourceChange, StartAt};
use lambda_core::{Record, Transaction};
use lambda_stream::{StreamConfig, Summary, consume};

/// Stores the transactions of a Kafka topic in PostgreSQL, each exactly once
#[derive(Debug, Parser)]
#[command(name = "lambda-consumer", version, disable_help_flag = true)]
struct Args {
    /// Where partitions start that were never read: earliest or latest
    #[arg(long, default_value_t, value_name = "WHERE")]
    start: StartAt,
    /// If a partition is not what was read: stop, or restart it at --start
    #[arg(long, default_value_t, value_name = "WHAT")]
    on_source_change: OnSourceChange,
    /// Take lanes even from another group active in the last minute
    #[arg(long)]
    take_over: bool,
    /// Stop when all is stored that the topic holds now
    #[arg(long)]
    exit_at_end: bool,
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

impl Args {
    fn config(&self) -> Result<StreamConfig, Failure> {
        let mut config = StreamConfig::new(self.kafka.config()?, self.database.config()?);
        config.start = self.start;
        config.on_source_change = self.on_source_change;
        config.take_over = self.take_over;
        config.exit_at_end = self.exit_at_end;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda-consumer", async |shutdown| {
        let serving = Serving::start(&args.http, &shutdown).await?;
        let config = StreamConfig { health: serving.health(), ..args.config()? };
        serving.watch(&config.database, Transaction::TABLE.name);
        let summary = consume::<Transaction>(&config, shutdown.cancelled()).await?;
        report(&summary, args.output.output)
    })
}

fn report(summary: &Summary, output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => print(summary),
        Output::Json => {
            let json = serde_json::to_string(summary);
            print(json.map_err(|error| Failure::unexpected("write the summary", error))?)
        }
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
