//! Dead letters: stored by step 4 of the commit, listed, replayed, discarded and purged.

mod filter;
mod origin;
mod replay;
mod taken;

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::dead_letter::Status;
use crate::error::Error;
use crate::header::{self, HeaderBuf};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::{PREPARE, Request};
use crate::postgres::connection::{Connection, Wait, connect_waiting};
use crate::postgres::{progress, remedy, timing};
use crate::progress::LaneName;

pub use self::filter::Filter;
pub use self::replay::{Replay, Skip, Verdict};

/// Settings of an operator's session: loaders wait for it, and never terminate it.
fn settings() -> String {
    timing::durable_session(timing::DEAD_LETTER_LOCK)
}

/// Number of dead letters discarded or purged by one transaction.
const CHUNK: usize = 1_000;

/// A dead letter, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// The lane in which it was read.
    pub lane: LaneName,
    /// Its position in the lane: an offset, or its first byte.
    pub position: i64,
    /// Line on which it starts; files only.
    pub line: Option<i64>,
    /// The file's name; files only.
    pub file_name: Option<String>,
    /// Its job; files only.
    pub job_id: Option<String>,
    /// Reason of its last rejection, as stored (see [`crate::dead_letter::Reason`]).
    pub reason: String,
    /// The field and the expected value.
    pub detail: String,
    /// Its status.
    pub status: Status,
    /// Number of replay attempts.
    pub attempts: i32,
    /// Time of its first rejection.
    pub created_at: jiff::Timestamp,
    /// Its age, by the database's clock.
    pub age: Duration,
    /// Time at which it was replayed or discarded.
    pub resolved_at: Option<jiff::Timestamp>,
    /// Time at which its key, headers and payload were deleted; none once another payload is given.
    pub purged_at: Option<jiff::Timestamp>,
}

/// Content of a dead letter.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Content {
    /// The message key as read.
    pub key: Option<Vec<u8>>,
    /// The bytes as read; `None`: a message without a value, or a purged letter.
    pub payload: Option<Vec<u8>>,
    /// The latest payload given instead.
    pub edited_payload: Option<Vec<u8>>,
    /// The message's headers.
    pub headers: Vec<HeaderBuf>,
    /// Time at which the message was produced.
    pub message_time: Option<jiff::Timestamp>,
}

impl Content {
    /// The bytes that a replay reads.
    pub fn current(&self) -> Option<&[u8]> {
        self.edited_payload.as_deref().or(self.payload.as_deref())
    }
}

impl std::fmt::Debug for Content {
    /// Hides records' values, which are never logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

/// The dead letters of one database.
///
/// ```no_run
/// use std::time::Duration;
///
/// use lambda_core::Postgres;
/// use lambda_core::postgres::DeadLetters;
/// use lambda_core::postgres::dead_letters::Filter;
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let postgres = Postgres::new("postgresql://owner@localhost/app")?;
/// let letters = DeadLetters::new(postgres).answering_within(Duration::from_secs(10));
/// let filter = Filter { topic: Some("readings".into()), ..Filter::default() };
/// for (reason, count) in letters.reasons(&filter).await? {
///     println!("{count} {reason}");
/// }
/// for letter in letters.list(&filter, 20).await? {
///     println!("{} at {} of {}: {}", letter.id, letter.position, letter.lane, letter.detail);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    database: Postgres,
    wait: Wait,
}

impl DeadLetters {
    /// Opens the dead letters in `database`; connects on use.
    pub fn new(database: Postgres) -> Self {
        Self { database, wait: Wait::for_server(timing::SERVER_AWAY) }
    }

    /// The same for interactive reads: a server that does not answer is an error at once,
    /// and a statement ends soon after `limit`.
    #[must_use]
    pub fn answering_within(self, limit: Duration) -> Self {
        Self { wait: Wait::once(limit), ..self }
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let connection = connect_waiting(&self.database, "letters", Some(self.wait.server)).await?;
        let settings = self.wait.settings(&settings());
        PREPARE.ask(connection.batch_execute(&settings)).await?;
        Ok(connection)
    }

    /// Lists the latest dead letters that match `filter`, newest first, at most `limit`.
    /// Readers may call this.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<DeadLetter>, Error> {
        let sql = format!(
            "select d.id, p.pipeline, p.source, p.partition, d.position, d.line, j.file_name, \
                    d.job_id, d.reason, d.detail, d.status, d.attempts, d.created_at, \
                    extract(epoch from clock_timestamp() - d.created_at)::float8 as age, \
                    d.resolved_at, d.purged_at \
             from {} left join lambda.batch_jobs j on j.job_id = d.job_id \
             where {} order by d.id desc limit {limit}",
            filter::FROM,
            filter::WHERE,
        );
        let rows = self.query(&sql, filter, "list dead letters").await?;
        rows.iter().map(letter).collect::<Result<_, _>>().map_err(listing)
    }

    /// Counts the dead letters that match `filter` by reason, most first. Readers may call
    /// this.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn reasons(&self, filter: &Filter) -> Result<Vec<(String, i64)>, Error> {
        let sql = format!(
            "select d.reason, count(*) from {} where {} group by 1 order by 2 desc, 1",
            filter::FROM,
            filter::WHERE,
        );
        let rows = self.query(&sql, filter, "count dead letters").await?;
        let reason = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(reason).collect::<Result<_, _>>().map_err(listing)
    }

    /// Reads a dead letter's content. Only the schema's owner may.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn content(&self, id: i64) -> Result<Option<Content>, Error> {
        let connection = self.connect().await?;
        let sql = "select key, payload, edited_payload, headers::text as headers, message_time \
                   from lambda.dead_letters where id = $1";
        let row = async { connection.query_opt(sql, &[&id]).await.map_err(owning) };
        let row = Request::to("read a dead letter in PostgreSQL").limit(row).await?;
        let Some(row) = row else { return Ok(None) };
        let content = || {
            let stored: Option<String> = row.try_get("headers")?;
            let content = Content {
                key: row.try_get("key")?,
                payload: row.try_get("payload")?,
                edited_payload: row.try_get("edited_payload")?,
                headers: Vec::new(),
                message_time: row.try_get("message_time")?,
            };
            Ok((content, stored))
        };
        let (content, stored) = content().map_err(owning)?;
        let headers = stored.as_deref().map_or_else(|| Ok(Vec::new()), headers)?;
        Ok(Some(Content { headers, ..content }))
    }

    /// Numbers of the dead letters that match `filter`, in order.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    pub async fn ids(&self, filter: &Filter) -> Result<Vec<i64>, Error> {
        let sql = format!("select d.id from {} where {} order by 1", filter::FROM, filter::WHERE);
        let rows = self.query(&sql, filter, "look up dead letters").await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(listing)
    }

    /// Marks the open ones among the dead letters `ids` as discarded, durably, and returns
    /// their numbers. They still count as rejected. A `dry_run` changes nothing. Only the
    /// schema's owner may.
    ///
    /// # Errors
    /// `Transient` or `Fatal`; those discarded before stay so.
    pub async fn discard(&self, ids: &[i64], dry_run: bool) -> Result<Vec<i64>, Error> {
        let sql = "update lambda.dead_letters d set status = 'discarded', resolved_at = now() \
                   from (select id from lambda.dead_letters where id = any($1) and status = 'open' \
                         order by id for update) chosen \
                   where d.id = chosen.id returning d.id";
        self.put_away(sql, ids, dry_run).await
    }

    /// Deletes keys, headers and payloads of the dead letters `ids`, durably, and returns the
    /// numbers of those that were not purged before. Their rows stay, so that the counts
    /// stay explained. A `dry_run` changes nothing. Only the schema's owner may.
    ///
    /// # Errors
    /// `Transient` or `Fatal`; those purged before stay so.
    pub async fn purge(&self, ids: &[i64], dry_run: bool) -> Result<Vec<i64>, Error> {
        let sql = "update lambda.dead_letters d \
                   set key = null, payload = null, edited_payload = null, headers = null, \
                       purged_at = now() \
                   from (select id from lambda.dead_letters where id = any($1) and purged_at is null \
                         order by id for update) chosen \
                   where d.id = chosen.id returning d.id";
        self.put_away(sql, ids, dry_run).await
    }

    async fn put_away(&self, sql: &str, ids: &[i64], dry_run: bool) -> Result<Vec<i64>, Error> {
        const CHANGE: Request =
            Request::to("change dead letters in PostgreSQL").within(timing::DEAD_LETTERS);
        let mut connection = self.connect().await?;
        let mut done = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            let put_away = async {
                let transaction = connection.transaction().await?;
                let rows = transaction.query(sql, &[&chunk]).await?;
                if dry_run {
                    transaction.rollback().await?;
                } else {
                    transaction.commit().await?;
                }
                rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()
            };
            let put_away = async { put_away.await.map_err(owning) };
            done.extend(CHANGE.limit(put_away).await?);
        }
        done.sort_unstable();
        Ok(done)
    }

    async fn query(
        &self,
        sql: &str,
        filter: &Filter,
        what: &'static str,
    ) -> Result<Vec<Row>, Error> {
        let connection = self.connect().await?;
        let rows = async { filter.query(&connection, sql).await.map_err(listing) };
        Request::to(what).within(timing::DEAD_LETTERS).limit(rows).await
    }
}

/// The headers that are stored as `json`.
fn headers(json: &str) -> Result<Vec<HeaderBuf>, Error> {
    header::read(json).ok_or_else(|| {
        Error::misconfigured(
            "a dead letter's headers are not pairs of a name and base64",
            "only this program may write there: restore the changed rows",
        )
    })
}

fn letter(row: &Row) -> Result<DeadLetter, tokio_postgres::Error> {
    let status: String = row.try_get("status")?;
    Ok(DeadLetter {
        id: row.try_get("id")?,
        lane: progress::lane_name(row)?,
        position: row.try_get("position")?,
        line: row.try_get("line")?,
        file_name: row.try_get("file_name")?,
        job_id: row.try_get("job_id")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        // The column's check admits no other names.
        status: Status::parse(&status).unwrap_or(Status::Open),
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
        resolved_at: row.try_get("resolved_at")?,
        purged_at: row.try_get("purged_at")?,
    })
}

/// Converts an error of a list. A loader may not read the numbers of dead letters.
fn listing(error: tokio_postgres::Error) -> Error {
    lacking(error, "list dead letters", "log in as the reader, or as the schema's owner")
}

/// Converts an error of an owner's operation. Only the owner may read payloads, and no
/// loader changes what was rejected.
fn owning(error: tokio_postgres::Error) -> Error {
    let remedy = "log in as the schema's owner: the role that ran lambda-db-setup";
    lacking(error, "show or change dead letters", remedy)
}

fn lacking(error: tokio_postgres::Error, what: &'static str, remedy: &str) -> Error {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::misconfigured(format!("this role may not {what}"), remedy);
    }
    remedy::own_tables(error, what)
}
