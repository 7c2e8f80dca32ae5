//! Runs over files, one after the other: each is planned, then loaded as its content's job
//! or, in a dry run, decoded only.

use std::time::Instant;

use lambda_core::metrics;
use lambda_core::{Error, Pipeline};
use tokio::sync::watch;

use crate::archive;
use crate::config::Options;
use crate::dry_run;
use crate::input::Input;
use crate::load::{Target, load_file};
use crate::open::{Opened, open, stopped};
use crate::rejects::RejectsFile;
use crate::report::{FileReport, Outcome};

/// Loads files into the table of `pipeline`, each exactly once even if earlier runs failed or
/// crashed (rule R21 in docs/protocol.md). Continues with the next file after one that is
/// refused; ends when `stop` becomes true or the server is unreachable.
///
/// # Errors
/// `Fatal`, before anything is loaded, if the file of rejects or the archive cannot be
/// used. Reports hold the outcome of each file.
pub async fn load(
    pipeline: &Pipeline,
    inputs: &[Input],
    target: &Target,
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Vec<FileReport>, Error> {
    if let Some(folder) = &options.archive {
        archive::prepare(folder, inputs)?;
    }
    metrics::stores(pipeline.name());
    // Shown until the next job begins, so that a scrape still sees a job that has ended.
    let mut current_job = None;
    over_files(inputs, options, &stop, async |input, rejects| {
        let planned = match open(pipeline, input, options, &stop).await {
            Ok(Opened::Planned(planned)) => *planned,
            Ok(Opened::Nothing(outcome)) => return outcome,
            Err(error) => return Outcome::Failed { job: None, error },
        };
        load_file(pipeline, planned, target, options, rejects, &mut current_job, &stop).await
    })
    .await
}

/// Decodes files as [`load`] would, and stores nothing: a dry run, which needs no
/// database.
///
/// # Errors
/// As for [`load`].
pub async fn check(
    pipeline: &Pipeline,
    inputs: &[Input],
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Vec<FileReport>, Error> {
    over_files(inputs, options, &stop, async |input, rejects| {
        let checked = match open(pipeline, input, options, &stop).await {
            Ok(Opened::Planned(planned)) => {
                dry_run::check_file(*planned, options, rejects, &stop).await
            }
            Ok(Opened::Nothing(outcome)) => Ok(outcome),
            Err(error) => Err(error),
        };
        checked.unwrap_or_else(|error| Outcome::Failed { job: None, error })
    })
    .await
}

async fn over_files(
    inputs: &[Input],
    options: &Options,
    stop: &watch::Receiver<bool>,
    mut one: impl AsyncFnMut(&Input, &mut Option<RejectsFile>) -> Outcome,
) -> Result<Vec<FileReport>, Error> {
    let create = |path| RejectsFile::create(path, inputs);
    let mut rejects = options.rejects.as_deref().map(create).transpose()?;
    let mut reports = Vec::with_capacity(inputs.len());
    for input in inputs {
        let begun = Instant::now();
        let outcome = if *stop.borrow() {
            Outcome::Failed { job: None, error: stopped(input) }
        } else {
            one(input, &mut rejects).await
        };
        let report = FileReport { file: input.to_string(), outcome, elapsed: begun.elapsed() };
        let gone =
            matches!(report.error(), Some(Error::Unreachable { .. } | Error::Temporary { .. }));
        reports.push(report);
        if gone {
            break;
        }
    }
    Ok(reports)
}
