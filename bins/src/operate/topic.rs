//! `lambda topic`: the topic as it should be.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use lambda_core::kafka::admin::{self, Change, Wanted};
use serde_json::{Value, json};

use crate::args::{KafkaArgs, Output, OutputArgs};
use crate::operate::timeout::{TimeoutArgs, answered};
use crate::{Failure, json};

/// Looks after the topic.
#[derive(Debug, Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create the topic, or bring one that is there to what is asked for
    Ensure(EnsureArgs),
}

#[derive(Debug, Args)]
struct EnsureArgs {
    /// How many partitions; a topic grows, and never shrinks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// In how many copies a new topic is kept [default: as the brokers do]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// A setting of the topic, as often as needed
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Does what is asked about the topic, and says what that was.
///
/// # Errors
/// 69 when no broker answers, 78 for a topic that would have to shrink or what the
/// brokers refuse.
pub async fn run(args: &TopicArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let TopicCommand::Ensure(args) = &args.command;
    let kafka = args.kafka.config()?;
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
            crate::print(format_args!("{kafka} is as it should be"))
        }
        Output::Human => {
            let only = if args.dry_run { " (only to be seen: nothing was done)" } else { "" };
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
        _ => Err("write it as key=value".into()),
    }
}
