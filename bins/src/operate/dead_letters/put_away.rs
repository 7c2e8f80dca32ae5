//! `lambda dead-letters discard` and `purge`

use std::time::Duration;

use clap::Args;
use lambda_core::dead_letter::Status;
use lambda_core::postgres::dead_letters::Filter;
use serde_json::{Value, json};

use super::CommonArgs;
use super::list::StatusArg;
use super::selection::{ConsentArgs, FilterArgs, SelectionArgs, age, by_number};
use crate::args::Output;
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::NameArgs;
use crate::{Failure, json};

#[derive(Debug, Args)]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct PurgeArgs {
    /// Rejected longer ago than this, for example 90d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
    /// Status: open, replayed, discarded, any [default: replayed and discarded]
    #[arg(long, value_enum, hide_possible_values = true)]
    status: Option<StatusArg>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn discard(args: &DiscardArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    args.selection.check();
    let dry_run = args.selection.consent.dry_run;
    let letters = args.common.letters(timeout).await?;
    let chosen = args.selection.choose(&letters, &args.name.pipeline).await?;
    let done = letters.discard(&chosen.ids, dry_run).await?;
    let left: Vec<i64> =
        chosen.ids.iter().copied().filter(|id| done.binary_search(id).is_err()).collect();
    let most = u32::try_from(left.len()).unwrap_or(u32::MAX);
    let statuses = letters.list(&by_number(left), most).await?;
    let before = |status| statuses.iter().filter(move |letter| letter.status == status);
    let replayed: Vec<i64> = before(Status::Replayed).map(|letter| letter.id).collect();
    match args.common.output.output {
        Output::Human => {
            for id in &replayed {
                crate::print(format_args!("dead letter {id} was already replayed"))?;
            }
            if let Some(missing) = chosen.missing() {
                crate::print(missing)?;
            }
            let discarded = before(Status::Discarded).count();
            if discarded > 0 && !dry_run {
                crate::print(format_args!("{discarded} already discarded"))?;
            }
            crate::print(format_args!("{} {}", done.len(), did(dry_run, "discarded")))?;
        }
        Output::Json => {
            let mut list = verdicts(&done, "discarded");
            list.extend(verdicts(&replayed, "replayed_before"));
            let before: Vec<i64> = before(Status::Discarded).map(|letter| letter.id).collect();
            list.extend(verdicts(&before, "discarded_before"));
            list.extend(verdicts(&chosen.unknown, "unknown"));
            json::print("dead_letters", list, [("dry_run", json!(dry_run))])?;
        }
    }
    Ok(chosen.all_but(replayed.len(), "discarded")?)
}

pub(super) async fn purge(args: &PurgeArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let statuses =
        args.status.map_or_else(|| vec![Status::Replayed, Status::Discarded], StatusArg::statuses);
    let letters = args.common.letters(timeout).await?;
    let filter = Filter {
        older_than: Some(args.older_than),
        unpurged: true,
        ..args.filter.filter(&args.name.pipeline, statuses)
    };
    let dry_run = args.consent.dry_run;
    let chosen = args.consent.choose(&letters, &filter).await?;
    let done = letters.purge(&chosen.ids, dry_run).await?;
    match args.common.output.output {
        Output::Human => crate::print(format_args!("{} {}", done.len(), did(dry_run, "purged"))),
        Output::Json => {
            let list = verdicts(&done, "purged");
            json::print("dead_letters", list, [("dry_run", json!(dry_run))])
        }
    }
}

/// The dead letters `ids` as JSON objects, each with its verdict.
fn verdicts(ids: &[i64], verdict: &str) -> Vec<Value> {
    ids.iter().map(|id| json!({ "id": id, "verdict": verdict })).collect()
}

fn did(dry_run: bool, done: &str) -> String {
    if dry_run { format!("would be {done}; nothing was changed") } else { done.to_owned() }
}
