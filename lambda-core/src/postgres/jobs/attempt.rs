//! Attempts at a job: their start, their lease and its renewal, and their end.
//!
//! The lease shows others that a run works on the job; it protects nothing. The protection
//! comes from the claims on the job's lanes, and from the attempt's number and owner, which
//! every write to the job carries.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::job::{self, Chunk, End, Found, Start, Status};
use crate::metrics;
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::jobs::{self, Job, Jobs, Patience};
use crate::postgres::ownership::backend::Backend;
use crate::postgres::ownership::blockers::{Seen, Terms, ending_blockers};
use crate::postgres::ownership::mark::Mark;
use crate::postgres::timing;
use crate::postgres::{counts, progress};
use crate::progress::{ClaimId, Progress};

/// Duration of a lease, by the database's clock.
pub const LEASE: Duration = timing::LEASE;

/// Conditions under which a start terminates the session that holds one of its lanes.
const TERMS: Terms = Terms::of(timing::CLAIM_BLOCKED);

const START: Request = Request::to("start a job in PostgreSQL").of_own_tables().with_locks();
const END: Request = Request::to("end a job in PostgreSQL").of_own_tables().with_locks();

const LOCK_JOB: &str = "\
    select status, owner, coalesce(lease_until > clock_timestamp(), false) as leased, \
           coalesce(extract(epoch from lease_until - clock_timestamp()), 0)::float8 as rest \
    from lambda.batch_jobs where id = $1 for update";

const TAKE_JOB: &str = "\
    update lambda.batch_jobs set status = 'running', attempt = attempt + 1, owner = $2, error = null, \
           lease_until = clock_timestamp() + $3::float8 * interval '1 second', \
           started_at = coalesce(started_at, now()), finished_at = null \
    where id = $1 returning attempt";

const LOCK_LANES: &str = "\
    select from lambda.ingest_progress where pipeline = $1 and source = $2 order by lane for update";

/// Holds for a job that this attempt still has. The number alone would not do: a restored
/// database gives it again, while a run from before the restore is still alive.
const MINE: &str = "j.id = $1 and j.attempt = $2 and j.owner = $3 and j.status = 'running'";

fn renew_lease() -> String {
    format!(
        "update lambda.batch_jobs j \
         set lease_until = clock_timestamp() + $4::float8 * interval '1 second' where {MINE}"
    )
}

/// Sets the counts of a job from the sums `s` of its lanes.
fn set_counts() -> String {
    counts::list(|name| format!("{name} = s.{name}"))
}

/// Locks a job before its lanes are locked for a recount, as a start does. Locks nothing if
/// a failover has lost the job.
pub(crate) async fn lock(
    connection: &Connection,
    number: i64,
) -> Result<(), tokio_postgres::Error> {
    connection.query_opt(LOCK_JOB, &[&number]).await.map(drop)
}

/// Sets a locked job's counts to the sums of its lanes. Those of a running job are summed
/// when its attempt ends, and only that attempt may write them (rule R22,
/// docs/protocol.md).
pub(crate) async fn recount(
    connection: &Connection,
    number: i64,
) -> Result<(), tokio_postgres::Error> {
    let (set_counts, lane_sums) = (set_counts(), jobs::lane_sums());
    let sql = format!(
        "update lambda.batch_jobs j set {set_counts} \
         from lambda.batch_jobs k cross join lateral ( \
             {lane_sums} where pipeline = k.pipeline and source = k.source) s \
         where j.id = $1 and k.id = j.id and j.status <> 'running'"
    );
    connection.execute(&sql, &[&number]).await.map(drop)
}

/// Result of starting a job.
#[derive(Debug)]
pub enum Started {
    /// This run has it.
    Attempt(Box<Attempt>),
    /// It is already loaded.
    AlreadyCompleted,
    /// Another run has it.
    Leased {
        /// Owner of its lease.
        owner: String,
        /// Remaining time of its lease.
        rest: Duration,
    },
}

/// One of a job's lanes: its plan, and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLane {
    /// The plan.
    pub chunk: Chunk,
    /// The lane, claimed for this attempt.
    pub progress: Progress,
}

/// A started job. Its lanes are claimed, and its lease is renewed until this is ended or
/// dropped.
#[derive(Debug)]
pub struct Attempt {
    jobs: Jobs,
    job: Job,
    number: i32,
    owner: String,
    lanes: Vec<JobLane>,
    heartbeat: JoinHandle<()>,
    fenced: watch::Receiver<bool>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// Starts `job` as `owner`, a text that no other run has. `first_byte` is the start of its
/// first chunk.
///
/// ```no_run
/// use lambda_core::job::End;
/// use lambda_core::postgres::Jobs;
/// use lambda_core::postgres::jobs::Job;
/// use lambda_core::postgres::jobs::attempt::{self, Started};
///
/// # async fn run(jobs: Jobs, job: Job) -> Result<(), lambda_core::Error> {
/// match attempt::start(&jobs, &job, 0, "host-1 pid 4711").await? {
///     Started::AlreadyCompleted => println!("{} is loaded", job.job_id()),
///     Started::Leased { owner, rest } => println!("{owner} has it for {rest:?}"),
///     Started::Attempt(attempt) => {
///         println!("{} chunks to store", attempt.lanes().len());
///         attempt.end(&End::Pending { error: None }).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Transient` when the server stays away; `Fatal`.
pub async fn start(jobs: &Jobs, job: &Job, first_byte: i64, owner: &str) -> Result<Started, Error> {
    let mut patience = Patience::default();
    loop {
        match try_start(jobs, job, first_byte, owner).await {
            Err(error) if patience.again(&error).await => {}
            result => return result,
        }
    }
}

async fn try_start(jobs: &Jobs, job: &Job, first_byte: i64, owner: &str) -> Result<Started, Error> {
    let mut connection = jobs.connect_to_load().await?;
    START.limit(start_on(&mut connection, jobs, job, first_byte, owner)).await
}

async fn start_on(
    connection: &mut Connection,
    jobs: &Jobs,
    job: &Job,
    first_byte: i64,
    owner: &str,
) -> Result<Started, Error> {
    let failed = |error| START.failed(error);
    let backend = Backend::of(connection).await.map_err(failed)?;
    let transaction = connection.transaction().await.map_err(failed)?;
    let row = transaction.query_opt(LOCK_JOB, &[&job.number]).await.map_err(failed)?;
    let row = row.ok_or_else(|| Error::Interrupted { what: rewound(job) })?;
    let (found, holder, rest) = found(&row, owner).map_err(failed)?;
    match job::start(found) {
        Start::AlreadyCompleted => return Ok(Started::AlreadyCompleted),
        Start::WaitForLease => return Ok(Started::Leased { owner: holder, rest }),
        Start::TakeOver => {}
    }
    let attempt = take_job(&transaction, job, owner).await.map_err(failed)?;
    let lock = lock_lanes(&transaction, job);
    // The former attempt may be frozen inside COPY.
    let seen = Seen::default();
    let locked = ending_blockers(jobs.database(), &backend, TERMS, &seen, lock);
    locked.await.map_err(failed)?;
    let rows = claim_lanes(&transaction, job, owner).await.map_err(failed)?;
    let lanes = job_lanes(&rows, first_byte)?;
    transaction.commit().await.map_err(failed)?;
    metrics::claimed(&job.pipeline, lanes.len());
    let (fence, fenced) = watch::channel(false);
    let owner = owner.to_owned();
    let heartbeat = Heartbeat {
        database: jobs.database().clone(),
        number: job.number,
        attempt,
        owner: owner.clone(),
    };
    let heartbeat = tokio::spawn(heartbeat.run(fence));
    let (jobs, job) = (jobs.clone(), job.clone());
    let attempt = Attempt { jobs, job, number: attempt, owner, lanes, heartbeat, fenced };
    Ok(Started::Attempt(Box::new(attempt)))
}

fn found(row: &Row, owner: &str) -> Result<(Found, String, Duration), tokio_postgres::Error> {
    let status: String = row.try_get("status")?;
    let holder = row.try_get::<_, Option<String>>("owner")?.unwrap_or_default();
    let found = Found {
        status: Status::parse(&status).unwrap_or(Status::Pending),
        leased: row.try_get("leased")?,
        mine: holder == owner,
    };
    let rest = Duration::try_from_secs_f64(row.try_get("rest")?).unwrap_or_default();
    Ok((found, holder, rest))
}

async fn take_job(
    transaction: &Connection,
    job: &Job,
    owner: &str,
) -> Result<i32, tokio_postgres::Error> {
    let seconds = LEASE.as_secs_f64();
    transaction.query_one(TAKE_JOB, &[&job.number, &owner, &seconds]).await?.try_get(0)
}

async fn lock_lanes(transaction: &Connection, job: &Job) -> Result<(), tokio_postgres::Error> {
    transaction.execute(LOCK_LANES, &[&job.pipeline, &job.source]).await.map(drop)
}

async fn claim_lanes(
    transaction: &Connection,
    job: &Job,
    owner: &str,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let sql = format!(
        "with claimed as ( \
             update lambda.ingest_progress set claim = $3, owner = $4, claimed_at = now(), updated_at = now() \
             where pipeline = $1 and source = $2 \
             returning {}, first_line, records, digest) \
         select * from claimed order by partition",
        progress::columns()
    );
    let claim = ClaimId::random().0;
    transaction.query(&sql, &[&job.pipeline, &job.source, &claim, &owner]).await
}

/// Decodes the lanes. A chunk starts where the one before ends.
fn job_lanes(rows: &[Row], first_byte: i64) -> Result<Vec<JobLane>, Error> {
    let read = |row: &Row| {
        let plan: (Option<i64>, Option<i64>, Option<Vec<u8>>) =
            (row.try_get("first_line")?, row.try_get("records")?, row.try_get("digest")?);
        Ok((progress::of_row(row)?, plan))
    };
    let mut start = first_byte;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let (progress, plan) = read(row).map_err(|error| START.failed(error))?;
        let (Some(first_line), Some(records), Some(digest)) = plan else { return Err(no_plan()) };
        let (Some(end), Ok(digest)) = (progress.end_position, digest.try_into()) else {
            return Err(no_plan());
        };
        all.push(JobLane { chunk: Chunk { start, end, first_line, records, digest }, progress });
        start = end;
    }
    Ok(all)
}

fn rewound(job: &Job) -> String {
    format!(
        "job {}: the database lost commits, by a crash, a failover or a restore; \
         run it again to continue from what is stored",
        job.job_id()
    )
}

fn no_plan() -> Error {
    Error::misconfigured(
        "a job's chunk has no plan in ingest_progress",
        "only this program may write there: restore the changed rows",
    )
}

impl Attempt {
    /// The job as found at the start.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Its lanes, in the order of the file.
    pub fn lanes(&self) -> &[JobLane] {
        &self.lanes
    }

    /// Becomes true when another attempt has taken the job over.
    pub fn fenced(&self) -> watch::Receiver<bool> {
        self.fenced.clone()
    }

    /// Ends the attempt, durably, and returns the job as now stored.
    ///
    /// # Errors
    /// `Fenced` if another attempt has the job; [`Error::Interrupted`] if it should be
    /// completed and is not stored whole, or its lanes were rewound; `Transient` when the
    /// server stays away.
    pub async fn end(self, end: &End) -> Result<Job, Error> {
        self.heartbeat.abort();
        let mut patience = Patience::default();
        loop {
            match self.try_end(end).await {
                // This follows from what is stored, which another query does not change.
                Err(error @ Error::Interrupted { .. }) => {
                    if *end == End::Completed {
                        // It is not whole: let go of it, for the next run.
                        let pending = End::Pending { error: Some(error.chain()) };
                        self.try_end(&pending).await?;
                    }
                    return Err(error);
                }
                Err(error) if patience.again(&error).await => {}
                result => return result,
            }
        }
    }

    async fn try_end(&self, end: &End) -> Result<Job, Error> {
        let mut connection = self.jobs.connect_to_load().await?;
        END.limit(self.end_on(&mut connection, end)).await
    }

    async fn end_on(&self, connection: &mut Connection, end: &End) -> Result<Job, Error> {
        let failed = |error| END.failed(error);
        let rewound = || rewound(&self.job);
        let transaction = connection.transaction().await.map_err(failed)?;
        // A later statement sums the lanes: one that waited for a replay of the job's dead
        // letters would set the sums from before it.
        lock(&transaction, self.job.number).await.map_err(failed)?;
        let connection = &*transaction;
        let written = match end {
            End::Completed => self.complete(connection).await.map_err(failed)?,
            End::Pending { error } => {
                let error = error.as_deref();
                self.stop(connection, Status::Pending, error).await.map_err(failed)?
            }
            End::Failed { error } => {
                self.stop(connection, Status::Failed, Some(error)).await.map_err(failed)?
            }
            End::Fenced => {
                let error = rewound();
                self.stop(connection, Status::Pending, Some(&error)).await.map_err(failed)?
            }
        };
        let stored = jobs::get(connection, self.job.number).await?;
        transaction.commit().await.map_err(failed)?;
        // It was not taken over: a deleted job has no holder.
        let stored = stored.ok_or_else(|| Error::Interrupted { what: rewound() })?;
        // An update of no row may also mean that the answer to a first attempt was lost.
        match end {
            // It is still ours: no other run has its lanes, they were rewound.
            End::Fenced if written || self.had(&stored) => {
                Err(Error::Interrupted { what: rewound() })
            }
            _ if written => Ok(stored),
            _ if !self.had(&stored) => Err(self.fenced_error()),
            End::Completed if stored.status == Status::Completed => Ok(stored),
            End::Pending { .. } if stored.status == Status::Pending => Ok(stored),
            End::Failed { .. } if stored.status == Status::Failed => Ok(stored),
            _ => Err(Error::Interrupted {
                what: format!(
                    "job {}: {} of {} chunks are stored",
                    stored.job_id(),
                    stored.stored_chunks,
                    stored.chunks
                ),
            }),
        }
    }

    /// Completes the job. Returns whether it was this attempt's and is now completed: every
    /// chunk is stored, and the counts are the lanes' sums (rule R23, docs/protocol.md).
    async fn complete(&self, connection: &Connection) -> Result<bool, tokio_postgres::Error> {
        let (set_counts, lane_sums) = (set_counts(), jobs::lane_sums());
        let sql = format!(
            "update lambda.batch_jobs j set status = 'completed', lease_until = null, error = null, \
                    finished_at = now(), {set_counts} \
             from ({lane_sums} where pipeline = $4 and source = $5) s \
             where {MINE} and s.lanes = j.chunks and s.stored_chunks = s.lanes"
        );
        let job = &self.job;
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&job.number, &self.number, &self.owner, &job.pipeline, &job.source];
        let written = connection.execute(&sql, &parameters).await?;
        Ok(written == 1)
    }

    /// Releases the lease. Returns whether the job was this attempt's.
    async fn stop(
        &self,
        connection: &Connection,
        status: Status,
        error: Option<&str>,
    ) -> Result<bool, tokio_postgres::Error> {
        let (set_counts, lane_sums) = (set_counts(), jobs::lane_sums());
        let sql = format!(
            "update lambda.batch_jobs j set status = $6, lease_until = null, error = $7, {set_counts} \
             from ({lane_sums} where pipeline = $4 and source = $5) s where {MINE}"
        );
        let job = &self.job;
        let status = status.as_str();
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&job.number, &self.number, &self.owner, &job.pipeline, &job.source, &status, &error];
        let written = connection.execute(&sql, &parameters).await?;
        Ok(written == 1)
    }

    /// Whether the stored job was last started by this attempt.
    fn had(&self, stored: &Job) -> bool {
        stored.attempt == self.number && stored.owner.as_ref() == Some(&self.owner)
    }

    fn fenced_error(&self) -> Error {
        Error::Fenced { what: format!("job {}", self.job.job_id()) }
    }
}

/// Renews a lease, on its own connection, so that no commit delays it.
struct Heartbeat {
    database: Postgres,
    number: i64,
    attempt: i32,
    owner: String,
}

impl Heartbeat {
    /// Runs until aborted, or until another attempt has the job, which it reports to
    /// `fence`.
    async fn run(self, fence: watch::Sender<bool>) {
        loop {
            match self.renew().await {
                Ok(()) => {
                    tracing::warn!(job = job::job_id(self.number), "another run took the job over");
                    fence.send_replace(true);
                    return;
                }
                // Claims decide, so the work continues without the lease.
                Err(error) => {
                    let job = job::job_id(self.number);
                    tracing::warn!(job, error = error.chain(), "could not renew the lease");
                }
            }
            tokio::time::sleep(timing::HEARTBEAT / 5).await;
        }
    }

    /// Renews repeatedly. Returns when the job is no longer this attempt's.
    async fn renew(&self) -> Result<(), Error> {
        const RENEW: Request = Request::to("renew a lease in PostgreSQL").of_own_tables();
        let connection = connect(&self.database, "lease").await?;
        RENEW.ask(Mark::Loader.put(&connection)).await?;
        let mut ticks = tokio::time::interval(timing::HEARTBEAT);
        let (sql, seconds) = (renew_lease(), LEASE.as_secs_f64());
        loop {
            ticks.tick().await;
            let parameters: [&(dyn ToSql + Sync); 4] =
                [&self.number, &self.attempt, &self.owner, &seconds];
            if RENEW.ask(connection.execute(&sql, &parameters)).await? == 0 {
                return Ok(());
            }
        }
    }
}
