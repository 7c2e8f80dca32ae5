//! `lambda-producer-stream`: sends transactions to a Kafka topic.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lambda_bins::args::{HelpArgs, HttpArgs, KafkaArgs, Output, OutputArgs};
use lambda_bins::serving::Serving;
use lambda_bins::{Failure, json, print};
use lambda_core::health::Health;
use lambda_stream::produce::{From, ProduceConfig, Produced, produce};

/// Sends generated transactions, or those of a file, to a Kafka topic
#[derive(Debug, Parser)]
#[command(name = "lambda-producer-stream", version, disable_help_flag = true)]
struct Args {
    /// Messages per second; 0 for no limit
    #[arg(long, default_value_t = 10, value_name = "N")]
    rate: u64,
    /// Stop after this many messages [default: never]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Send the records of this file
    #[arg(long, value_name = "FILE.csv|.jsonl", conflicts_with_all = ["seed", "duplicate_ratio", "invalid_ratio"])]
    from: Option<PathBuf>,
    /// Generate the same messages for the same seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Share of messages that repeat an earlier one, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = ratio, value_name = "RATIO")]
    duplicate_ratio: f64,
    /// Share of invalid messages, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = ratio, value_name = "RATIO")]
    invalid_ratio: f64,
    /// Write a JSON line here for each delivered message
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    help: HelpArgs,
}

impl Args {
    fn config(self, health: Health) -> Result<ProduceConfig, Failure> {
        let Self { seed, duplicate_ratio, invalid_ratio, .. } = self;
        let traffic = From::Traffic { seed, duplicate_ratio, invalid_ratio };
        Ok(ProduceConfig {
            kafka: self.kafka.config()?,
            from: self.from.map_or(traffic, From::File),
            rate: self.rate,
            count: self.count,
            ledger: self.ledger,
            health,
        })
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda-producer-stream", async |shutdown| {
        let output = args.output.output;
        let serving = Serving::start(&args.http, &shutdown).await?;
        let config = args.config(serving.health())?;
        let topic = config.kafka.topic().to_owned();
        let work = move || produce(&config, &shutdown);
        let produced = tokio::task::spawn_blocking(work).await;
        // The panic continues on this thread, where its message is kept out of the log.
        let produced = produced.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        report(&produced?, &topic, output)
    })
}

fn report(produced: &Produced, topic: &str, output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => print(produced),
        Output::Json => {
            let mut summary = json::value(produced)?;
            summary["topic"] = topic.into();
            json::print("topics", vec![summary], [])
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
