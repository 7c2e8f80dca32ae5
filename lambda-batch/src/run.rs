//! Runs over files, one after the other: each is planned, then loaded as its content's job
//! or, in a dry run, decoded only.

use std::sync::Arc;
use std::time::Instant;

use lambda_core::decode::csv::Header;
use lambda_core::metrics;
use lambda_core::postgres::Jobs;
use lambda_core::sink::Sink;
use lambda_core::{Error, Record};
use tokio::sync::watch;

use crate::archive;
use crate::config::{Options, Step};
use crate::content::Content;
use crate::dry_run;
use crate::input::Input;
use crate::load::load_file;
use crate::plan::{self, Plan};
use crate::rejects::RejectsFile;
use crate::report::{FileReport, Outcome};

/// Destination of a load.
#[derive(Clone)]
pub struct Target {
    /// The sink that stores the records.
    pub sink: Arc<dyn Sink>,
    /// Connections for the jobs, in the same database.
    pub jobs: Jobs,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// A file that is open and planned and has the required columns.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) content: Arc<Content>,
    pub(crate) plan: Plan,
    pub(crate) header: Header,
}

/// Result of opening a file.
enum Opened {
    /// The file has records to load.
    Planned(Box<Planned>),
    /// The file has nothing to load.
    Nothing(Outcome),
}

/// Loads files into the table of `R`, each exactly once even if earlier runs failed or
/// crashed (rule R21 in docs/protocol.md). Continues with the next file after one that is
/// refused; ends when `stop` becomes true or the server is unreachable.
///
/// # Errors
/// `Fatal`, before anything is loaded, if the file of rejects or the archive cannot be
/// used. Reports hold the outcome of each file.
pub async fn load<R: Record>(
    inputs: &[Input],
    target: &Target,
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Vec<FileReport>, Error> {
    if let Some(folder) = &options.archive {
        archive::prepare(folder, inputs)?;
    }
    metrics::stores(R::TABLE.name);
    // Shown until the next job begins, so that a scrape still sees a job that has ended.
    let mut current_job = None;
    over_files(inputs, options, &stop, async |input, rejects| {
        let planned = match open::<R>(input, options, &stop).await {
            Ok(Opened::Planned(planned)) => *planned,
            Ok(Opened::Nothing(outcome)) => return outcome,
            Err(error) => return Outcome::Failed { job: None, error },
        };
        load_file::<R>(planned, target, options, rejects, &mut current_job, &stop).await
    })
    .await
}

/// Decodes files as [`load`] would, and stores nothing: a dry run, which needs no
/// database.
///
/// # Errors
/// As for [`load`].
pub async fn check<R: Record>(
    inputs: &[Input],
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Vec<FileReport>, Error> {
    over_files(inputs, options, &stop, async |input, rejects| {
        let checked = match open::<R>(input, options, &stop).await {
            Ok(Opened::Planned(planned)) => {
                dry_run::check_file::<R>(*planned, options, rejects, &stop).await
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

/// Opens and plans a file, off the runtime's threads.
async fn open<R: Record>(
    input: &Input,
    options: &Options,
    stop: &watch::Receiver<bool>,
) -> Result<Opened, Error> {
    let (opened, stopping) = (input.clone(), stop.clone());
    let (watch, chunk_bytes) = (Arc::clone(&options.watch), options.chunk_bytes);
    let (health, archives) = (options.health.clone(), options.archive.is_some());
    let planned = move || {
        let (input, stop) = (opened, stopping);
        let content = match Content::open(&input) {
            Err(_) if archives && input.is_gone() => return Ok(Opened::Nothing(Outcome::Taken)),
            content => content?,
        };
        let (file, bytes_total) = (input.to_string(), content.stored_bytes());
        let pulse = health.pulse("the plan of a file");
        let plan = plan::plan(&content, chunk_bytes, |bytes| {
            pulse.beat();
            watch(Step::Planning { file: &file, bytes, bytes_total });
            if *stop.borrow() { Err(stopped(&input)) } else { Ok(()) }
        })?;
        let Some(plan) = plan else { return Ok(Opened::Nothing(Outcome::Empty)) };
        let header = Header::parse(plan.header.as_bytes(), const { &R::TABLE })
            .map_err(|error| Error::Input { what: format!("{file}: {error}") })?;
        Ok(Opened::Planned(Box::new(Planned { content: Arc::new(content), plan, header })))
    };
    let mut stopping = stop.clone();
    tokio::select! {
        planned = blocking(planned) => planned,
        // A read from a pipe without a writer does not end: leave it running.
        Ok(_) = stopping.wait_for(|stop| *stop) => Err(stopped(input)),
    }
}

/// Runs blocking work, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Interrupted { what: "the program is shutting down".into() }),
    }
}

/// The error for a file that the run did not finish because it was stopped.
pub(crate) fn stopped(input: &Input) -> Error {
    Error::Interrupted {
        what: format!("{input}: stopped before its end; run it again to continue"),
    }
}
