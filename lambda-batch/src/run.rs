//! A load: which files, where to, and how. It takes files one after the other: each is planned,
//! then loaded as its content's job or, in a dry run, decoded only.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lambda_core::health::Health;
use lambda_core::metrics::{self, CurrentJob};
use lambda_core::postgres::{Jobs, Postgres, PostgresSink};
use lambda_core::{Error, Pipeline, Stop};

use crate::archive;
use crate::config::{Options, Step};
use crate::dry_run;
use crate::input::{self, Input};
use crate::load::{Target, load_file};
use crate::open::{Opened, open, stopped};
use crate::rejects::RejectsFile;
use crate::report::{FileReport, LoadReport, Outcome};

/// Longest wait for a server that is not up yet.
const PATIENCE: Duration = Duration::from_mins(1);

/// Loads files into the table of a pipeline, each exactly once even if earlier runs failed or
/// crashed (rule R21 in docs/protocol.md). The paths are files, folders, patterns, and `-` for
/// standard input (see [`input::resolve`]).
///
/// Await the builder to run it.
///
/// ```no_run
/// use lambda_core::postgres::Postgres;
/// use lambda_core::transaction;
/// use lambda_batch::load;
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let database = Postgres::new("postgresql://loader@localhost/lambda")?;
/// let files = load(&transaction::pipeline(), ["in/"], &database).workers(4).await?;
/// for file in files.into_result()? {
///     assert!(file.error().is_none());
/// }
/// # Ok(())
/// # }
/// ```
pub fn load<P: Into<String>>(
    pipeline: &Pipeline,
    paths: impl IntoIterator<Item = P>,
    database: &Postgres,
) -> Load {
    Load { database: Some(database.clone()), ..check(pipeline, paths) }
}

/// Decodes files as [`load`] would, and stores nothing: a dry run, which needs no database.
///
/// ```
/// use lambda_batch::{Outcome, check};
/// use lambda_core::{Pipeline, Record};
///
/// #[derive(Record)]
/// #[record(table = "ops.readings", key(id))]
/// struct Reading {
///     id: String,
///     millidegrees: i32,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("readings.csv");
/// std::fs::write(&path, "id,millidegrees\nR-1,21500\nR-2,warm\n")?;
/// let readings = Pipeline::of::<Reading>("readings").build()?;
/// let files = check(&readings, [path.display().to_string()]).max_rejects(1).await?;
/// for file in files.into_result()? {
///     assert!(matches!(file.outcome, Outcome::Checked { records: 2, rejected: 1 }));
/// }
/// # Ok(())
/// # }
/// ```
pub fn check<P: Into<String>>(pipeline: &Pipeline, paths: impl IntoIterator<Item = P>) -> Load {
    Load {
        pipeline: pipeline.clone(),
        paths: paths.into_iter().map(Into::into).collect(),
        database: None,
        options: Options::default(),
        stop: Stop::default(),
    }
}

/// A load that does not run yet: `.await` runs it.
///
/// Awaited, it returns a report of each file. It continues with the next file after one that is
/// refused, and ends when it is stopped or the server is unreachable. It is an error before
/// anything is loaded if a path does not exist, if the file of rejects or the archive cannot be
/// used, or if the database cannot be reached or its table does not fit.
#[derive(Debug, Clone)]
#[must_use = "a load does nothing unless it is awaited"]
pub struct Load {
    pipeline: Pipeline,
    paths: Vec<String>,
    /// Nothing in a dry run.
    database: Option<Postgres>,
    options: Options,
    stop: Stop,
}

impl Load {
    /// Number of chunks stored at the same time; 2 if it is not set.
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.workers = workers;
        self
    }

    /// Effective time of the files' data, microseconds since the Unix epoch: a later one takes
    /// precedence. If it is not set, the time when the job is created, by the database's clock.
    pub fn as_of_micros(mut self, micros: impl Into<Option<i64>>) -> Self {
        self.options.as_of_micros = micros.into();
        self
    }

    /// Most rejected records that a file may have. If it is not set, any number, unless they are
    /// most of the file's first 1,000.
    pub fn max_rejects(mut self, most: impl Into<Option<i64>>) -> Self {
        self.options.rejects_max = most.into();
        self
    }

    /// CSV file for rejected records.
    pub fn rejects(mut self, file: impl Into<Option<PathBuf>>) -> Self {
        self.options.rejects = file.into();
        self
    }

    /// Folder to which files are moved when their job is completed.
    pub fn archive(mut self, folder: impl Into<Option<PathBuf>>) -> Self {
        self.options.archive = folder.into();
        self
    }

    /// Calls `watch` with each step of the work; it must return at once.
    ///
    /// ```no_run
    /// use lambda_batch::{Step, load};
    /// use lambda_core::{Postgres, transaction};
    ///
    /// # async fn run() -> Result<(), lambda_core::Error> {
    /// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
    /// let files = load(&transaction::pipeline(), ["in/*.csv.gz"], &postgres)
    ///     .watch(|step| match step {
    ///         Step::Planning { file, bytes, .. } => println!("{file}: {bytes} bytes planned"),
    ///         Step::Loading { file, stored } => println!("{file}: {} read", stored.counts.read),
    ///     })
    ///     .await?;
    /// for file in files.into_result()? {
    ///     println!("{} took {:?}", file.file, file.elapsed);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(mut self, watch: impl Fn(Step<'_>) + Send + Sync + 'static) -> Self {
        self.options.watch = Arc::new(watch);
        self
    }

    /// Health to which the load reports; without one it has its own.
    pub fn health(mut self, health: &Health) -> Self {
        self.options.health = health.clone();
        self
    }

    /// The request that stops the load.
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    async fn run(self) -> Result<LoadReport, Error> {
        let inputs = input::resolve(&self.paths)?;
        if inputs.is_empty() {
            tracing::info!("nothing to load");
            return Ok(LoadReport { files: Vec::new() });
        }
        let target = match &self.database {
            Some(database) => Some(self.target(database).await?),
            None => None,
        };
        if let Some(folder) = self.options.archive.as_ref().filter(|_| target.is_some()) {
            archive::prepare(folder, &inputs)?;
        }
        let create = |path| RejectsFile::create(path, &inputs);
        let mut rejects = self.options.rejects.as_deref().map(create).transpose()?;
        // Shown until the next job begins, so that a scrape still sees a job that has ended.
        let mut current_job = None;
        let mut files = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let begun = Instant::now();
            let outcome = if self.stop.is_stopped() {
                Outcome::Failed { job: None, error: stopped(input) }
            } else {
                self.file(input, target.as_ref(), &mut rejects, &mut current_job).await
            };
            let report = FileReport { file: input.to_string(), outcome, elapsed: begun.elapsed() };
            let gone =
                matches!(report.error(), Some(Error::Unreachable { .. } | Error::Temporary { .. }));
            files.push(report);
            if gone {
                break;
            }
        }
        Ok(LoadReport { files })
    }

    async fn target(&self, database: &Postgres) -> Result<Target, Error> {
        metrics::stores(self.pipeline.name());
        let (database, connections) = (database.clone(), self.options.workers.max(1) as u32);
        let jobs = Jobs::new(database.clone());
        let sink =
            PostgresSink::connect(database, &self.pipeline, "batch", connections, Some(PATIENCE));
        tokio::select! {
            sink = sink => Ok(Target { sink: Arc::new(sink?), jobs }),
            () = self.stop.stopped() => {
                let what = "stopped while waiting for the database".into();
                Err(Error::Interrupted { what })
            }
        }
    }

    async fn file(
        &self,
        input: &Input,
        target: Option<&Target>,
        rejects: &mut Option<RejectsFile>,
        current_job: &mut Option<CurrentJob>,
    ) -> Outcome {
        let Self { pipeline, options, stop, .. } = self;
        let planned = match open(pipeline, input, options, stop).await {
            Ok(Opened::Planned(planned)) => *planned,
            Ok(Opened::Nothing(outcome)) => return outcome,
            Err(error) => return Outcome::Failed { job: None, error },
        };
        match target {
            Some(target) => {
                load_file(pipeline, planned, target, options, rejects, current_job, stop).await
            }
            None => dry_run::check_file(planned, options, rejects, stop)
                .await
                .unwrap_or_else(|error| Outcome::Failed { job: None, error }),
        }
    }
}

impl IntoFuture for Load {
    type Output = Result<LoadReport, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
