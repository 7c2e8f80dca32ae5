//! Jobs: found or created once for each content, listed, and read.
//! [`crate::postgres::jobs::attempt`] starts, holds and ends them.

pub mod attempt;

use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind};
use crate::job::{Chunk, JobRef, Status};
use crate::metrics::{self, Retry};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::{PREPARE, Request};
use crate::postgres::connection::{Connection, Wait, connect_waiting};
use crate::postgres::ownership::mark::Mark;
use crate::postgres::{counts, remedy, timing};
use crate::progress::Counts;

const CREATE: Request = Request::to("create a job in PostgreSQL").of_own_tables().with_locks();
const READ: Request = Request::to("read a job in PostgreSQL").with_locks();

/// Key of the advisory lock under which jobs are looked up and created.
const NUMBER_LOCK: i64 = 0x6c61_6d62_6461_0002;

/// Sums of what the lanes of a job have stored so far; without its condition.
pub(crate) fn lane_sums() -> String {
    format!(
        "select {}, count(*) as lanes, \
                count(*) filter (where position = end_position) as stored_chunks \
         from lambda.ingest_progress",
        counts::list(|name| format!("coalesce(sum({name}), 0)::bigint as {name}"))
    )
}

/// Query that [`job`] reads. A completed job has counts of its own; those of any other are
/// the sums of what its lanes have stored so far (rule R10, docs/protocol.md).
fn select_job() -> String {
    format!(
        "select j.id, j.pipeline, j.source, j.status, j.file_name, j.bytes, j.records, j.chunks, \
                j.dialect::text as dialect, \
                j.run_time, j.as_of, j.attempt, j.owner, j.started_at, j.finished_at, j.error, \
                extract(epoch from coalesce(j.finished_at, clock_timestamp()) - j.started_at)::float8 \
                    as took, \
                j.status = 'completed' as final, s.stored_chunks, \
                coalesce(j.lease_until > clock_timestamp(), false) as leased, \
                {final_counts}, {live_counts} \
         from lambda.batch_jobs j cross join lateral ( \
             {lane_sums} where pipeline = j.pipeline and source = j.source) s",
        final_counts = counts::list(|name| format!("j.{name}")),
        live_counts = counts::list(|name| format!("s.{name} as live_{name}")),
        lane_sums = lane_sums(),
    )
}

const INSERT_CHUNKS: &str = "\
    insert into lambda.ingest_progress \
        (pipeline, source, format, partition, position, end_position, first_line, records, digest) \
    select $1, $2, $9, n.* from unnest($3::int4[], $4::int8[], $5::int8[], $6::int8[], \
                                       $7::int8[], $8::bytea[]) as n";

/// Takes the next number with the job: both are stored or neither is. Jobs with a number
/// given by hand count too.
const INSERT_JOB: &str = "\
    with number as ( \
        update lambda.job_numbers \
        set last = greatest(last, (select coalesce(max(id), 0) from lambda.batch_jobs)) + 1 \
        returning last) \
    insert into lambda.batch_jobs \
        (id, pipeline, source, file_name, header, bytes, records, chunks, as_of, dialect) \
    overriding system value \
    select last, $1, $2, $3, $4, $5, $6, $7, coalesce($8, now()), $9::text::jsonb from number";

/// A job as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// Its number.
    pub number: i64,
    /// The pipeline's name.
    pub pipeline: String,
    /// SHA-256 of the content, in hex.
    pub source: String,
    /// Its status.
    pub status: Status,
    /// Whether a run holds its lease.
    pub leased: bool,
    /// The name under which the content was first seen.
    pub file_name: String,
    /// The dialect of its rows, as JSON.
    pub dialect: String,
    /// Bytes of the content, decompressed.
    pub bytes: i64,
    /// Records in the content.
    pub records: i64,
    /// Chunks of the content.
    pub chunks: i32,
    /// Chunks that are stored.
    pub stored_chunks: i64,
    /// Effective time of the file's data.
    pub as_of: jiff::Timestamp,
    /// Time of its creation.
    pub run_time: jiff::Timestamp,
    /// Number of starts.
    pub attempt: i32,
    /// Owner of its last start.
    pub owner: Option<String>,
    /// Time of its first start.
    pub started_at: Option<jiff::Timestamp>,
    /// Time of its completion.
    pub finished_at: Option<jiff::Timestamp>,
    /// Time from its first start to its completion, or until now.
    pub took: Option<Duration>,
    /// Error that stopped it last.
    pub error: Option<String>,
    /// Outcomes of its records so far.
    pub counts: Counts,
}

impl Job {
    /// Its authority.
    pub fn authority(&self) -> JobRef {
        JobRef { as_of_micros: self.as_of.as_microsecond(), number: self.number }
    }

    /// Its name in `job_id` columns.
    pub fn job_id(&self) -> String {
        crate::job::job_id(self.number)
    }
}

/// Data for the creation of a job.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The pipeline's name.
    pub pipeline: String,
    /// SHA-256 of the content, in hex.
    pub source: String,
    /// The file's name.
    pub file_name: String,
    /// The format of its records.
    pub format: String,
    /// The header line.
    pub header: String,
    /// The dialect of its rows, as [`Csv::dialect`](crate::decode::Csv::dialect) writes it.
    pub dialect: String,
    /// Bytes of the content, decompressed.
    pub bytes: i64,
    /// Effective time of the file's data, microseconds since the Unix epoch; `None`: the
    /// database's current time.
    pub as_of_micros: Option<i64>,
    /// The content's chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// A dead letter of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobReject {
    /// Its first line.
    pub line: i64,
    /// Its first byte.
    pub position: i64,
    /// Reason, as stored.
    pub reason: String,
    /// The field and the expected value.
    pub detail: String,
    /// Its bytes as read.
    pub payload: Vec<u8>,
}

/// The jobs of one database. Each call uses its own connection: there are few, and none may
/// depend on the state that an earlier one left.
///
/// ```no_run
/// use std::time::Duration;
///
/// use lambda_core::Postgres;
/// use lambda_core::job::Status;
/// use lambda_core::postgres::Jobs;
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let postgres = Postgres::new("postgresql://reader@localhost/app")?;
/// let jobs = Jobs::new(postgres).answering_within(Duration::from_secs(10));
/// for job in jobs.list(Some("readings"), Some(Status::Failed), 20).await? {
///     println!("{} {}: {}", job.job_id(), job.file_name, job.error.unwrap_or_default());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Jobs {
    database: Postgres,
    wait: Wait,
}

impl Jobs {
    /// The jobs in `database`.
    pub fn new(database: Postgres) -> Self {
        Self { database, wait: Wait::for_server(timing::SERVER_AWAY) }
    }

    /// The same for interactive reads: a server that does not answer is an error at once,
    /// and a statement ends soon after `limit`.
    #[must_use]
    pub fn answering_within(self, limit: Duration) -> Self {
        Self { wait: Wait::once(limit), ..self }
    }

    /// The database.
    pub fn database(&self) -> &Postgres {
        &self.database
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        let connection = connect_waiting(&self.database, "job", Some(self.wait.server)).await?;
        // A start waits for its lanes until it has terminated their holder's session (rule
        // R13, docs/protocol.md).
        let settings = self.wait.settings(&timing::durable_session(timing::LOCK));
        PREPARE.ask(connection.batch_execute(&settings)).await?;
        Ok(connection)
    }

    /// Opens a connection for writes to jobs, marked as a loader's.
    pub(crate) async fn connect_to_load(&self) -> Result<Connection, Error> {
        let connection = self.connect().await?;
        PREPARE.ask(Mark::Loader.put(&connection)).await?;
        Ok(connection)
    }

    /// Returns the job of a content. Creates it with all its chunks' lanes if it does not
    /// exist (rules R19 and R21 in docs/protocol.md).
    ///
    /// # Errors
    /// `Fatal` if the job has another `as_of` or dialect than asked for; `Transient` when the
    /// server stays away.
    pub async fn find_or_create(&self, new: &NewJob) -> Result<Job, Error> {
        let mut patience = Patience::default();
        loop {
            match self.try_find_or_create(new).await {
                Err(error) if patience.again(&error).await => {}
                Err(error) => return Err(error),
                Ok(job) => return same_terms(job, new),
            }
        }
    }

    async fn try_find_or_create(&self, new: &NewJob) -> Result<Job, Error> {
        let mut connection = self.connect_to_load().await?;
        CREATE.limit(find_or_create(&mut connection, new)).await
    }

    /// Reads the job with this number.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn get(&self, number: i64) -> Result<Option<Job>, Error> {
        let connection = self.connect().await?;
        READ.limit(get(&connection, number)).await
    }

    /// Lists the latest jobs, newest first, at most `limit`; only those of `pipeline` and in
    /// `status` where these are given.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn list(
        &self,
        pipeline: Option<&str>,
        status: Option<Status>,
        limit: u32,
    ) -> Result<Vec<Job>, Error> {
        const LIST: Request = Request::to("list the jobs in PostgreSQL").with_locks();
        let connection = self.connect().await?;
        let sql = format!(
            "{} where ($1::text is null or j.status = $1) and ($3::text is null or j.pipeline = $3) \
             order by j.id desc limit $2",
            select_job()
        );
        let status = status.map(Status::as_str);
        let limit = i64::from(limit);
        let rows = LIST.ask(connection.query(&sql, &[&status, &limit, &pipeline])).await?;
        rows.iter().map(job).collect::<Result<_, _>>().map_err(|error| LIST.failed(error))
    }

    /// Passes every open dead letter of a job to `each`, one at a time, in the order of the
    /// file.
    ///
    /// # Errors
    /// `Transient` or `Fatal`, and errors of `each`.
    pub async fn rejects(
        &self,
        job: &Job,
        mut each: impl FnMut(JobReject) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = |error| remedy::explain(error, "read dead letters in PostgreSQL");
        let connection = self.connect().await?;
        let sql = "select d.line, d.position, d.reason, d.detail, d.payload \
                   from lambda.ingest_progress p join lambda.dead_letters d using (lane) \
                   where p.pipeline = $1 and p.source = $2 and d.status = 'open' order by d.position";
        let rows =
            connection.query_stream(sql, &[&job.pipeline, &job.source]).await.map_err(failed)?;
        tokio::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            each(reject(&row).map_err(failed)?)?;
        }
        Ok(())
    }
}

/// Refuses another `as_of`, since an authority never changes (rule R4a, docs/protocol.md), and
/// another dialect, in which the stored plan's records might end elsewhere.
fn same_terms(job: Job, new: &NewJob) -> Result<Job, Error> {
    let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).ok();
    if read(&job.dialect) != read(&new.dialect) {
        return Err(Error::misconfigured(
            format!(
                "job {} of this content has the dialect {}, not {}",
                job.job_id(),
                job.dialect,
                new.dialect
            ),
            "a content is read in one dialect: set the job's for the pipeline's files",
        ));
    }
    match new.as_of_micros {
        Some(micros) if micros != job.as_of.as_microsecond() => Err(Error::misconfigured(
            format!("job {} of this content has --as-of {}", job.job_id(), job.as_of),
            "the effective time of a content never changes: omit --as-of or give the same",
        )),
        _ => Ok(job),
    }
}

/// Reads the job with this number.
pub(crate) async fn get(connection: &Connection, number: i64) -> Result<Option<Job>, Error> {
    let failed = |error| READ.failed(error);
    let sql = format!("{} where j.id = $1", select_job());
    let row = connection.query_opt(&sql, &[&number]).await.map_err(failed)?;
    row.as_ref().map(job).transpose().map_err(failed)
}

async fn find_or_create(connection: &mut Connection, new: &NewJob) -> Result<Job, Error> {
    let failed = |error| CREATE.failed(error);
    if let Some(job) = find(connection, new).await.map_err(failed)? {
        return Ok(job);
    }
    let create = async {
        let transaction = connection.transaction().await?;
        // Only one process at a time looks and inserts, so that a content has one job.
        transaction.execute("select pg_advisory_xact_lock($1)", &[&NUMBER_LOCK]).await?;
        if find(&transaction, new).await?.is_none() {
            insert(&transaction, new).await?;
        }
        transaction.commit().await?;
        find(connection, new).await
    };
    let job = create.await.map_err(failed)?;
    job.ok_or_else(|| Error::misconfigured("a job disappeared", "do not delete jobs"))
}

async fn find(connection: &Connection, new: &NewJob) -> Result<Option<Job>, tokio_postgres::Error> {
    let sql = format!("{} where j.pipeline = $1 and j.source = $2", select_job());
    let row = connection.query_opt(&sql, &[&new.pipeline, &new.source]).await?;
    row.as_ref().map(job).transpose()
}

/// Inserts a job. The lanes come first: they may be many, and the next number waits for the
/// end of this transaction.
async fn insert(transaction: &Connection, new: &NewJob) -> Result<(), tokio_postgres::Error> {
    let column = |value: fn(&Chunk) -> i64| new.chunks.iter().map(value).collect::<Vec<i64>>();
    let count = i32::try_from(new.chunks.len()).unwrap_or(i32::MAX);
    let partitions: Vec<i32> = (0..count).collect();
    let digests: Vec<&[u8]> = new.chunks.iter().map(|chunk| &chunk.digest[..]).collect();
    let records = column(|chunk| chunk.records);
    transaction
        .execute(
            INSERT_CHUNKS,
            &[
                &new.pipeline,
                &new.source,
                &partitions,
                &column(|chunk| chunk.start),
                &column(|chunk| chunk.end),
                &column(|chunk| chunk.first_line),
                &records,
                &digests,
                &new.format,
            ],
        )
        .await?;
    let as_of = new.as_of_micros.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    let total: i64 = records.iter().sum();
    transaction
        .execute(
            INSERT_JOB,
            &[
                &new.pipeline,
                &new.source,
                &new.file_name,
                &new.header,
                &new.bytes,
                &total,
                &count,
                &as_of,
                &new.dialect,
            ],
        )
        .await
        .map(drop)
}

/// Decodes a row of [`select_job`].
fn job(row: &Row) -> Result<Job, tokio_postgres::Error> {
    let status: String = row.try_get("status")?;
    let live = if row.try_get("final")? { "" } else { "live_" };
    Ok(Job {
        number: row.try_get("id")?,
        pipeline: row.try_get("pipeline")?,
        source: row.try_get("source")?,
        // The column's check admits no other names.
        status: Status::parse(&status).unwrap_or(Status::Pending),
        leased: row.try_get("leased")?,
        file_name: row.try_get("file_name")?,
        dialect: row.try_get("dialect")?,
        bytes: row.try_get("bytes")?,
        records: row.try_get("records")?,
        chunks: row.try_get("chunks")?,
        stored_chunks: row.try_get("stored_chunks")?,
        as_of: row.try_get("as_of")?,
        run_time: row.try_get("run_time")?,
        attempt: row.try_get("attempt")?,
        owner: row.try_get("owner")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        took: row
            .try_get::<_, Option<f64>>("took")?
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        error: row.try_get("error")?,
        counts: counts::of_row(row, live)?,
    })
}

fn reject(row: &Row) -> Result<JobReject, tokio_postgres::Error> {
    Ok(JobReject {
        line: row.try_get::<_, Option<i64>>("line")?.unwrap_or_default(),
        position: row.try_get("position")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        payload: row.try_get::<_, Option<Vec<u8>>>("payload")?.unwrap_or_default(),
    })
}

/// Retries for a while after errors of the environment.
#[derive(Debug)]
pub(crate) struct Patience {
    since: Instant,
    backoff: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        Self { since: Instant::now(), backoff: Backoff::default() }
    }
}

impl Patience {
    /// Waits, and returns whether to retry after `error`.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        if error.kind() != Kind::Transient || self.since.elapsed() >= timing::SERVER_AWAY {
            return false;
        }
        let delay = self.backoff.next_delay();
        tracing::warn!(error = error.chain(), retry_in = ?delay, "a query to the database failed; retrying");
        metrics::retried(Retry::Job);
        tokio::time::sleep(delay).await;
        true
    }
}
