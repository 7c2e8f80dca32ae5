//! `lambda topic`: creates the topic and changes its settings.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use lambda_core::kafka::admin::{self, Change, Wanted};
use serde_json::{Value, json};

use crate::args::{KafkaArgs, Output, OutputArgs};
use crate::operate::timeout::{TimeoutArgs, answered};
use crate::pipelines::PipelineArgs;
use crate::{Failure, json};

/// Arguments of `lambda topic`.
#[derive(Debug, Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create the topic, or change an existing one to match
    Ensure(EnsureArgs),
}

#[derive(Debug, Args)]
struct EnsureArgs {
    /// Number of partitions; it can grow but not shrink
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Replicas of a new topic [default: the brokers' setting]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// Topic setting; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Print the changes without making them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Makes the changes and prints them.
///
/// # Errors
/// 69 if no broker answers, 78 if the topic would have to shrink or the brokers refuse a
/// change.
pub async fn run(args: &TopicArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let TopicCommand::Ensure(args) = &args.command;
    let chosen = args.pipeline.chosen()?;
    let kafka = args.kafka.config_for(chosen.name(), chosen.topic())?;
    let wanted = Wanted {
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        settings: args.settings.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let ensuring = async { Ok(admin::ensure(&kafka, &wanted, args.dry_run).await?) };
    let changes = if args.dry_run {
        let server = format_args!("Kafka at {}", kafka.bootstrap());
        answered(server, timeout.reading(), ensuring).await?
    } else {
        ensuring.await?
    };
    match args.output.output {
        Output::Json => {
            let facts = [("topic", json!(kafka.topic())), ("dry_run", json!(args.dry_run))];
            json::print("changes", changes.iter().map(object).collect(), facts)
        }
        Output::Human if changes.is_empty() => {
            crate::print(format_args!("{kafka}: nothing to change"))
        }
        Output::Human => {
            let only = if args.dry_run { " (dry run: nothing was changed)" } else { "" };
            changes
                .iter()
                .try_for_each(|change| crate::print(format_args!("{kafka}: {change}{only}")))
        }
    }
}

fn object(change: &Change) -> Value {
    match change {
        Change::Created { partitions } => json!({ "change": "created", "partitions": partitions }),
        Change::Grown { from, to } => json!({ "change": "grown", "from": from, "to": to }),
        Change::Set { name, from, to } => {
            json!({ "change": "set", "name": name, "from": from, "to": to })
        }
        Change::ReplicationLeft { is, wanted } => {
            json!({ "change": "replication_left", "is": is, "wanted": wanted })
        }
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write a setting as key=value".into()),
    }
}
