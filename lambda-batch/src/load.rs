//! Loads one file: finds or creates its content's job, starts it under a lease, runs
//! several flows, and ends it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lambda_core::decode::csv::Csv;
use lambda_core::delivery::flow::{Flow, FlowConfig};
use lambda_core::error::Kind;
use lambda_core::job::{self, End, Status};
use lambda_core::metrics::{CurrentJob, Outcomes};
use lambda_core::outcome::Authority;
use lambda_core::postgres::jobs::attempt::{self, Attempt, LEASE, Started};
use lambda_core::postgres::jobs::{Job, Jobs, NewJob};
use lambda_core::sink::Sink;
use lambda_core::{Error, Pipeline, Stop};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::archive::archive;
use crate::chunk::{ChunkSource, Chunks, Decoding};
use crate::config::{Options, Step};
use crate::first;
use crate::input::Input;
use crate::open::{Planned, blocking, stopped};
use crate::rejects::RejectsFile;
use crate::report::Outcome;

use crate::tally::{Stored, Tally};

/// Destination of a load.
pub(crate) struct Target {
    /// The sink that stores the records.
    pub(crate) sink: Arc<dyn Sink>,
    /// Connections for the jobs, in the same database.
    pub(crate) jobs: Jobs,
}

/// Time that a worker keeps trying while the server is away.
const PATIENCE: Duration = Duration::from_mins(1);

/// Time between two checks of a job that another run holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time that a stopped run still waits for an answer about its job: a small part of the
/// 30 s that Kubernetes gives a process. The lease ends by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Loads a planned file.
pub(crate) async fn load_file(
    pipeline: &Pipeline,
    planned: Planned,
    target: &Target,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
    current_job: &mut Option<CurrentJob>,
    stop: &Stop,
) -> Outcome {
    let new = new_job(pipeline, &planned, options);
    let found = target.jobs.find_or_create(&new);
    let job = match within_grace(found, planned.content.input(), stop).await {
        Ok(job) => job,
        Err(error) => return Outcome::Failed { job: None, error },
    };
    // Stops showing the previous job before this one is shown.
    current_job.take();
    let shown = &*current_job.insert(CurrentJob::new(&job.job_id()));
    show(shown, &job);
    let working = Box::pin(work(&planned, &job, shown, target, options, stop));
    let outcome = match working.await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Reports show what is stored, if the server still answers.
            let stored = within_grace(target.jobs.get(job.number), planned.content.input(), stop);
            match stored.await.ok().flatten() {
                Some(job) => Outcome::Failed { job: Some(Box::new(job)), error },
                // It was read before the work began and is out of date.
                None => Outcome::Unknown { job_id: job.job_id(), error },
            }
        }
    };
    if let Some(job) = outcome.job() {
        show(shown, job);
    }
    follow_up(outcome, &planned, target, options, rejects).await
}

fn show(shown: &CurrentJob, job: &Job) {
    shown.show(job.status, job.records, job.counts.read);
}

fn new_job(pipeline: &Pipeline, planned: &Planned, options: &Options) -> NewJob {
    let plan = &planned.plan;
    NewJob {
        pipeline: pipeline.name().to_owned(),
        format: Csv::FORMAT.to_owned(),
        source: plan.source.clone(),
        file_name: planned.content.input().to_string(),
        header: plan.header.clone(),
        dialect: pipeline.files().dialect(),
        bytes: plan.bytes.cast_signed(),
        as_of_micros: options.as_of_micros,
        chunks: plan.chunks.clone(),
    }
}

async fn work(
    planned: &Planned,
    job: &Job,
    shown: &CurrentJob,
    target: &Target,
    options: &Options,
    stop: &Stop,
) -> Result<Outcome, Error> {
    let (owner, begun) = (owner(), Instant::now());
    let Some(attempt) = start(planned, job, target, &owner, stop).await? else {
        let job = target.jobs.get(job.number).await?.unwrap_or_else(|| job.clone());
        return Ok(Outcome::AlreadyLoaded { job: Box::new(job) });
    };
    let waited = begun.elapsed();
    let before: i64 = attempt.lanes().iter().map(|lane| lane.progress.counts.read).sum();
    tracing::info!(job = job.job_id(), records = job.records, stored = before, "loading");
    shown.show(Status::Running, job.records, before);
    let result = store(planned, &attempt, shown, target, options, owner, stop).await;
    let result = result.map_err(|error| unless_stopped(error, planned.content.input(), stop));
    let end = job::end(&result);
    let ended = within_grace(attempt.end(&end), planned.content.input(), stop).await;
    // The reason why the work stopped is more useful than its consequences. Only for a fence
    // does the job itself hold the reason.
    if end != End::Fenced {
        result?;
    }
    let job = ended?;
    let records = job.counts.read - before;
    tracing::info!(job = job.job_id(), records, rejected = job.counts.rejected(), "loaded");
    Ok(Outcome::Loaded { job: Box::new(job), records, waited })
}

/// Starts the job, or waits one lease for the run that holds it: a dead run's lease ends
/// by then, a live run renews its own. `None`: the job is completed.
async fn start(
    planned: &Planned,
    job: &Job,
    target: &Target,
    owner: &str,
    stop: &Stop,
) -> Result<Option<Attempt>, Error> {
    let give_up = Instant::now() + LEASE + LOOK_EVERY;
    let first_byte = planned.plan.first_byte();
    let mut logged = false;
    loop {
        let started = attempt::start(&target.jobs, job, first_byte, owner);
        let started = within_grace(started, planned.content.input(), stop).await?;
        let (holder, rest) = match started {
            Started::Attempt(attempt) => return Ok(Some(*attempt)),
            Started::AlreadyCompleted => return Ok(None),
            Started::Leased { owner, rest } => (owner, rest),
        };
        if Instant::now() >= give_up {
            let (what, job) = (planned.content.input(), job.job_id());
            return Err(Error::Interrupted {
                what: format!(
                    "{what} is being loaded as job {job} by {holder}; run it again later"
                ),
            });
        }
        if !logged {
            tracing::info!(job = job.job_id(), holder, lease_ends_in = ?rest, "waiting for the job");
            logged = true;
        }
        tokio::select! {
            () = tokio::time::sleep(rest.clamp(LOOK_EVERY / 10, LOOK_EVERY)) => {}
            () = stop.stopped() => return Err(stopped(planned.content.input())),
        }
    }
}

/// Waits for `work`, however long it takes. Once the run is stopped, waits at most
/// [`GRACE`].
async fn within_grace<T>(
    work: impl Future<Output = Result<T, Error>>,
    input: &Input,
    stop: &Stop,
) -> Result<T, Error> {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = stop.stopped() => {}
    }
    let done = tokio::time::timeout(GRACE, work).await;
    let done = done.unwrap_or_else(|_| Err(stopped(input)));
    done.map_err(|error| unless_stopped(error, input, stop))
}

/// Returns `error`, unless the run was stopped: it then waits for no server, and another
/// run does the rest.
fn unless_stopped(error: Error, input: &Input, stop: &Stop) -> Error {
    // An interruption already says what is left.
    let waits = error.kind() == Kind::Transient && !matches!(error, Error::Interrupted { .. });
    if stop.is_stopped() && waits { stopped(input) } else { error }
}

/// Stores every chunk that is not stored yet.
async fn store(
    planned: &Planned,
    attempt: &Attempt,
    shown: &CurrentJob,
    target: &Target,
    options: &Options,
    owner: String,
    stop: &Stop,
) -> Result<(), Error> {
    let watch = Arc::clone(&options.watch);
    let file = planned.content.input().to_string();
    let shown = shown.clone();
    let tell = move |stored: &Stored| {
        shown.stored(stored.counts.read);
        watch(Step::Loading { file: &file, stored });
    };
    let tally = Arc::new(Tally::new(attempt.lanes(), options.rejects_max, Arc::new(tell)));
    tally.within_limit()?;
    if options.rejects_max.is_none() {
        let planned = planned.clone();
        blocking(move || first::check(&planned)).await?;
    }
    let chunks =
        Arc::new(Chunks::new(Arc::clone(&planned.content), planned.marks(), attempt.lanes()));
    let authority = Authority::Batch(attempt.job().authority());
    let config = FlowConfig {
        authority,
        pipeline: attempt.job().pipeline.clone(),
        format: Csv::FORMAT.to_owned(),
        owner,
        group: None,
        take_over: false,
        patience: Some(PATIENCE),
        health: options.health.clone(),
        outcomes: Outcomes::default(),
    };
    attempt.lanes().iter().for_each(|lane| config.outcomes.begin(&lane.progress));
    let halt = Stop::new();
    let mut flows = JoinSet::new();
    let workers = options.workers.max(1);
    for _ in 0..workers {
        let (chunks, rows) = (Arc::clone(&chunks), planned.rows.clone());
        let decoding = Decoding::new(chunks, rows, authority, options.batch_rows);
        // With more workers than two, others decode while one commits, and a batch decoded
        // ahead would only take memory.
        let source = ChunkSource::new(decoding, Arc::clone(&tally), workers <= 2);
        let flow = Flow::new(config.clone(), source, Arc::clone(&target.sink));
        let halt = halt.clone();
        flows.spawn(async move { flow.run(halt).await.1 });
    }
    let result = join(flows, &halt, attempt, stop).await;
    result?;
    // The last commits may have exceeded the limit.
    tally.within_limit()?;
    if tally.is_complete() { Ok(()) } else { Err(stopped(planned.content.input())) }
}

/// Waits for all workers. The first failure, another attempt, or a request to stop halts
/// the others after their commits in flight.
async fn join(
    mut flows: JoinSet<Result<(), Error>>,
    halt: &Stop,
    attempt: &Attempt,
    stop: &Stop,
) -> Result<(), Error> {
    let mut fenced = attempt.fenced();
    let mut first = Ok(());
    loop {
        let halting = halt.is_stopped();
        tokio::select! {
            joined = flows.join_next() => match joined {
                None => return first,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    halt.stop();
                    first = first.and(Err(error));
                }
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Some(Err(_)) => halt.stop(),
            },
            () = stop.stopped(), if !halting => {
                halt.stop();
            }
            Ok(_) = fenced.wait_for(|fenced| *fenced), if !halting => {
                halt.stop();
                let what = format!("job {}", attempt.job().job_id());
                first = first.and(Err(Error::Fenced { what }));
            }
        }
    }
}

/// Archives the file and writes its rejects, as the outcome requires.
async fn follow_up(
    outcome: Outcome,
    planned: &Planned,
    target: &Target,
    options: &Options,
    rejects: &mut Option<RejectsFile>,
) -> Outcome {
    let job = match &outcome {
        Outcome::Loaded { job, .. }
        | Outcome::AlreadyLoaded { job }
        | Outcome::Failed { job: Some(job), error: Error::Input { .. } } => job.clone(),
        _ => return outcome,
    };
    if let Some(rejects) = rejects
        && let Err(error) = write_rejects(&job, planned, target, rejects).await
    {
        return Outcome::Failed { job: Some(job), error };
    }
    let (Some(folder), false) = (&options.archive, matches!(outcome, Outcome::Failed { .. }))
    else {
        return outcome;
    };
    let (content, folder) = (Arc::clone(&planned.content), folder.clone());
    match blocking(move || archive(&content, &folder)).await {
        Ok(moved) => {
            if let Some(to) = moved {
                tracing::info!(file = %planned.content.input(), to = %to.display(), "archived");
            }
            outcome
        }
        Err(error) => Outcome::Failed { job: Some(job), error },
    }
}

async fn write_rejects(
    job: &Job,
    planned: &Planned,
    target: &Target,
    rejects: &mut RejectsFile,
) -> Result<(), Error> {
    let file = planned.content.input().to_string();
    let write = |reject: lambda_core::postgres::jobs::JobReject| {
        let place = (reject.line, reject.position);
        rejects.write(&file, place, (&reject.reason, &reject.detail), &reject.payload)
    };
    target.jobs.rejects(job, write).await?;
    rejects.flush()
}

/// A unique name of this run, with its host and process.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    let run = uuid::Uuid::new_v4().simple().to_string();
    format!("{host} pid {} run {}", std::process::id(), &run[..8])
}
