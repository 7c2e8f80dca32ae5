//! `lambda dead-letters replay`

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use lambda_core::Error;
use lambda_core::dead_letter::Status;
use lambda_core::postgres::dead_letters::{Replay, Skip, Verdict};
use lambda_core::progress::Counts;
use serde_json::{Value, json};

use super::selection::{Chosen, SelectionArgs, by_number, usage};
use super::{CommonArgs, printable, unless_stopped};
use crate::args::Output;
use crate::loading::outcomes;
use crate::operate::table::{Holds, fitted};
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::PipelineArgs;
use crate::{Failure, Stop, json};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Payload to use instead, for one ID; - for standard input
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn run(
    args: &ReplayArgs,
    timeout: TimeoutArgs,
    shutdown: &Stop,
) -> Result<(), Failure> {
    args.selection.check();
    let dry_run = args.selection.consent.dry_run;
    if args.payload.is_some() && args.selection.ids.len() != 1 {
        usage("--payload works with one ID only");
    }
    let edited = args.payload.as_deref().map(read).transpose()?;
    let named = args.pipeline.chosen()?;
    let choosing = async {
        let letters = args.common.letters(timeout).await?;
        let pipeline = named.pipeline(&args.common.database.config()?).await?;
        let chosen = args.selection.choose(&letters, named.name()).await?;
        Ok((pipeline, letters, chosen))
    };
    let (pipeline, letters, chosen) = unless_stopped(shutdown, choosing).await?;
    let replay = Replay { edited, dry_run };
    let mut results = Results::default();
    let filter = by_number(chosen.ids.clone());
    let note = |id, verdict| results.note(id, verdict);
    let done = letters.replay(&pipeline, &filter, &replay, note, shutdown).await;
    // Records stored before an error or a stop remain stored, so they are reported.
    match args.common.output.output {
        Output::Human => results.print(&chosen, dry_run)?,
        Output::Json => results.print_json(&chosen, dry_run)?,
    }
    done?;
    Ok(chosen.all_but(results.left(), if dry_run { "replayable" } else { "replayed" })?)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut payload)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut payload))
    };
    read.map_err(|error| Error::Misconfigured {
        what: format!("could not read {}", path.display()),
        remedy: "give --payload a file that this user can read".into(),
        source: Some(Box::new(error)),
    })?;
    // Editors add a line end to the last line; messages have none.
    while payload.pop_if(|last| matches!(last, b'\r' | b'\n')).is_some() {}
    Ok(payload)
}

/// Results of a replay.
#[derive(Debug, Default)]
struct Results {
    /// Outcomes of the replayed dead letters.
    counts: Counts,
    replayed: Vec<(i64, &'static str)>,
    /// Replayed earlier.
    before: Vec<i64>,
    still_bad: Vec<(i64, String, String)>,
    skipped: Vec<(i64, &'static str)>,
}

impl Results {
    fn note(&mut self, id: i64, verdict: Verdict) {
        match verdict {
            Verdict::Replayed(outcome) => {
                self.counts.add(outcome);
                self.replayed.push((id, outcome.as_str()));
            }
            Verdict::StillBad(reject) => {
                self.still_bad.push((id, reject.reason.to_string(), reject.detail));
            }
            Verdict::Skipped(Skip::Resolved(Status::Replayed)) => self.before.push(id),
            Verdict::Skipped(Skip::Resolved(_)) => self.skipped.push((id, "it was discarded")),
            Verdict::Skipped(Skip::Purged) => {
                self.skipped.push((id, "its payload was purged; give one with --payload"));
            }
            Verdict::Skipped(Skip::OtherPipeline) => {
                self.skipped.push((id, "it belongs to another pipeline"));
            }
        }
    }

    /// Number of dead letters that were not replayed.
    fn left(&self) -> usize {
        self.still_bad.len() + self.skipped.len()
    }

    fn print(&self, chosen: &Chosen, dry_run: bool) -> Result<(), Failure> {
        let bad = self.still_bad.iter();
        let bad = bad.map(|(id, reason, detail)| (*id, format!("still bad: {reason}: {detail}")));
        let skipped = self.skipped.iter().map(|(id, why)| (*id, format!("not tried: {why}")));
        let mut rows: Vec<(i64, String)> = bad.chain(skipped).collect();
        rows.sort_unstable();
        if !rows.is_empty() {
            let rows = rows.into_iter().map(|(id, why)| [id.to_string(), printable(&why)]);
            crate::print(fitted([("id", Holds::Number), ("why", Holds::Prose)], rows))?;
        }
        if let Some(missing) = chosen.missing() {
            crate::print(missing)?;
        }
        if !self.before.is_empty() {
            crate::print(format_args!("{} already replayed", self.before.len()))?;
        }
        let (done, end) =
            if dry_run { ("would be replayed", "; nothing was changed") } else { ("replayed", "") };
        crate::print(format_args!(
            "{} of {} {done}{}{end}",
            self.replayed.len(),
            chosen.ids.len() + chosen.unknown.len(),
            outcomes(&self.counts)
        ))
    }

    fn print_json(&self, chosen: &Chosen, dry_run: bool) -> Result<(), Failure> {
        let mut letters: Vec<Value> = Vec::new();
        for (id, outcome) in &self.replayed {
            letters.push(json!({ "id": id, "verdict": "replayed", "outcome": outcome }));
        }
        for (id, reason, detail) in &self.still_bad {
            let why =
                json!({ "id": id, "verdict": "still_bad", "reason": reason, "detail": detail });
            letters.push(why);
        }
        for (id, why) in &self.skipped {
            letters.push(json!({ "id": id, "verdict": "skipped", "why": why }));
        }
        for id in &self.before {
            letters.push(json!({ "id": id, "verdict": "replayed_before" }));
        }
        for id in &chosen.unknown {
            letters.push(json!({ "id": id, "verdict": "unknown" }));
        }
        letters.sort_by_key(|letter| letter["id"].as_i64());
        let facts = [
            ("dry_run", json!(dry_run)),
            ("replayed", json!(self.replayed.len())),
            ("replayed_before", json!(self.before.len())),
            ("still_bad", json!(self.still_bad.len())),
            ("skipped", json!(self.skipped.len())),
            ("unknown", json!(chosen.unknown.len())),
        ];
        json::print("dead_letters", letters, facts)
    }
}
