//! `lambda jobs --watch`: prints the jobs repeatedly until none runs.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use lambda_core::error::Kind;
use lambda_core::job::Status;
use lambda_core::postgres::{Job, Jobs};

use super::progress::Progress;
use super::{JobsArgs, find, show};
use crate::Failure;
use crate::args::Output;
use crate::operate::short;

/// Time between two updates of a terminal.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Moves the cursor home and clears the screen after it (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) async fn run(args: &JobsArgs, jobs: &Jobs, limit: Duration) -> Result<(), Failure> {
    let terminal = stdout().is_terminal() && args.output.output == Output::Human;
    let mut before = Vec::new();
    loop {
        let found = look(args, jobs, limit).await?;
        let running = found.iter().any(runs);
        if terminal {
            crate::print(CLEAR)?;
        }
        match args.output.output {
            // One line for each running job.
            Output::Human if !terminal && running => {
                for job in found.iter().filter(|job| runs(job)) {
                    crate::print(line(job, &Progress::of(job, &before)))?;
                }
            }
            _ => show(args, &found, &before)?,
        }
        if !running {
            return Ok(());
        }
        before = found;
        tokio::time::sleep(if terminal { LOOK_EVERY } else { LINE_EVERY }).await;
    }
}

/// Reads the jobs. Retries for `limit` if the server is away: it may be restarting.
async fn look(args: &JobsArgs, jobs: &Jobs, limit: Duration) -> Result<Vec<Job>, Failure> {
    let begun = Instant::now();
    loop {
        match find(args, jobs, limit).await {
            Err(Failure::Platform(error))
                if error.kind() == Kind::Transient && begun.elapsed() < limit =>
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            found => return found,
        }
    }
}

/// Whether the job makes progress by itself.
fn runs(job: &Job) -> bool {
    job.status == Status::Running && job.leased
}

fn line(job: &Job, progress: &Progress) -> String {
    let left = progress.left.map(|left| format!(", {} left", short(left)));
    format!(
        "{} {}%: {} of {} records, {} rejected{}; {}",
        job.job_id(),
        progress.percent,
        job.counts.read,
        job.records,
        job.counts.rejected(),
        left.unwrap_or_default(),
        job.file_name
    )
}
