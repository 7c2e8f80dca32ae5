//! `lambda dead-letters list`

use clap::{Args, ValueEnum};
use lambda_core::dead_letter::Status;
use lambda_core::postgres::DeadLetters;
use lambda_core::postgres::dead_letters::DeadLetter;
use serde_json::{Map, Value, json};

use super::selection::FilterArgs;
use super::{CommonArgs, object, place, printable};
use crate::args::Output;
use crate::operate::short;
use crate::operate::table::{Holds, fitted};
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::NameArgs;
use crate::{Failure, json};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Status to list: open, replayed, discarded or any
    #[arg(long, value_enum, default_value = "open", hide_possible_values = true)]
    status: StatusArg,
    /// List at most this many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StatusArg {
    Open,
    Replayed,
    Discarded,
    Any,
}

impl StatusArg {
    /// The selected statuses; an empty list selects all.
    pub(super) fn statuses(self) -> Vec<Status> {
        match self {
            Self::Open => vec![Status::Open],
            Self::Replayed => vec![Status::Replayed],
            Self::Discarded => vec![Status::Discarded],
            Self::Any => Vec::new(),
        }
    }
}

pub(super) async fn run(args: &ListArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let filter = args.filter.filter(&args.name.pipeline, args.status.statuses());
    let reading = async |letters: &DeadLetters| {
        Ok((letters.list(&filter, args.limit).await?, letters.reasons(&filter).await?))
    };
    let (listed, reasons) = args.common.read(timeout, reading).await?;
    match args.common.output.output {
        Output::Human => {
            if !listed.is_empty() {
                crate::print(table(&listed))?;
                crate::print("")?;
            }
            crate::print(summary(listed.len(), &reasons))
        }
        Output::Json => {
            let reasons: Map<String, Value> =
                reasons.into_iter().map(|(reason, count)| (reason, json!(count))).collect();
            let listed = listed.iter().map(object).collect();
            json::print("dead_letters", listed, [("reasons", reasons.into())])
        }
    }
}

fn table(letters: &[DeadLetter]) -> String {
    let columns = [
        ("id", Holds::Number),
        ("age", Holds::Number),
        ("status", Holds::Id),
        ("tries", Holds::Number),
        ("place", Holds::Id),
        ("why", Holds::Prose),
    ];
    let row = |letter: &DeadLetter| {
        [
            letter.id.to_string(),
            short(letter.age),
            letter.status.to_string(),
            letter.attempts.to_string(),
            printable(&place(letter)),
            printable(&format!("{}: {}", letter.reason, letter.detail)),
        ]
    };
    fitted(columns, letters.iter().map(row))
}

fn summary(listed: usize, reasons: &[(String, i64)]) -> String {
    let all: i64 = reasons.iter().map(|(_, count)| count).sum();
    if all == 0 {
        return "no dead letters".to_owned();
    }
    let columns = [("number", Holds::Number), ("reason", Holds::Id)];
    let row = |(reason, count): &(String, i64)| [count.to_string(), printable(reason)];
    format!("{}\n\n{listed} of {all} listed", fitted(columns, reasons.iter().map(row)))
}
