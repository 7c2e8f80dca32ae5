//! Opens and plans a file.

use std::sync::Arc;

use lambda_core::decode::csv::Marks;
use lambda_core::{Error, Pipeline, Stop};

use crate::chunk::Rows;
use crate::config::{Options, Step};
use crate::content::Content;
use crate::input::Input;
use crate::plan::{self, Plan};
use crate::report::Outcome;

/// A file that is open and planned and has the required columns.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) content: Arc<Content>,
    pub(crate) plan: Plan,
    pub(crate) rows: Rows,
}

impl Planned {
    /// The bytes that separate its fields.
    pub(crate) fn marks(&self) -> Marks {
        self.rows.pipeline.files().marks()
    }
}

/// Result of opening a file.
pub(crate) enum Opened {
    /// The file has records to load.
    Planned(Box<Planned>),
    /// The file has nothing to load.
    Nothing(Outcome),
}

/// Opens and plans a file, off the runtime's threads.
pub(crate) async fn open(
    pipeline: &Pipeline,
    input: &Input,
    options: &Options,
    stop: &Stop,
) -> Result<Opened, Error> {
    let (pipeline, opened, stopping) = (pipeline.clone(), input.clone(), stop.clone());
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
        let plan = plan::plan(&content, pipeline.files().marks(), chunk_bytes, |bytes| {
            pulse.beat();
            watch(Step::Planning { file: &file, bytes, bytes_total });
            if stop.is_stopped() { Err(stopped(&input)) } else { Ok(()) }
        })?;
        let Some(plan) = plan else { return Ok(Opened::Nothing(Outcome::Empty)) };
        let decoder = pipeline.files().open(plan.header.as_bytes(), pipeline.table());
        let decoder = decoder.map_err(|error| Error::Input { what: format!("{file}: {error}") })?;
        let rows = Rows { decoder: Arc::new(decoder), pipeline };
        Ok(Opened::Planned(Box::new(Planned { content: Arc::new(content), plan, rows })))
    };
    tokio::select! {
        planned = blocking(planned) => planned,
        // A read from a pipe without a writer does not end: leave it running.
        () = stop.stopped() => Err(stopped(input)),
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
