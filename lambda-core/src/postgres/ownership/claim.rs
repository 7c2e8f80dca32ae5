//! Claims a lane, and takes it from its former owner (rules R12, R13 and R16 in
//! docs/protocol.md).

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::error::{Error, Server};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{Connection, connect};
use crate::postgres::ownership::backend::Backend;
use crate::postgres::ownership::blockers::{Seen, Terms, ending_blockers};
use crate::postgres::ownership::mark::Mark;
use crate::postgres::progress;
use crate::postgres::timing;
use crate::progress::{ClaimId, Progress};
use crate::sink::ClaimRequest;

/// Conditions under which a claim terminates the session that holds the lane.
const TERMS: Terms = Terms::of(timing::CLAIM_BLOCKED);

/// Number of attempts before the failure of a claim is returned.
const TRIES: u32 = 5;

/// A group that stored or claimed within this time is active (rule R16, docs/protocol.md).
const ACTIVE: &str = "60 seconds";

/// A connection for claims.
#[derive(Debug)]
struct Session {
    connection: Connection,
    backend: Backend,
}

impl Session {
    async fn open(config: &Postgres) -> Result<Self, Error> {
        let connection = connect(config, "claim").await?;
        let prepare = async {
            connection.batch_execute(&timing::durable_session(timing::CLAIM_LOCK)).await?;
            Mark::Claim.put(&connection).await?;
            Backend::of(&connection).await
        };
        let backend = prepare.await.map_err(failed)?;
        Ok(Self { connection, backend })
    }
}

/// Sessions of claims that succeeded a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Vec<(Instant, Session)>>);

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Session)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that no claim took in time.
    pub(crate) fn close_idle(&self) {
        let usable = |since: &Instant, session: &Session| {
            since.elapsed() < timing::CLAIM_SESSION && !session.connection.is_closed()
        };
        self.lock().retain(|(since, session)| usable(since, session));
    }

    fn take(&self) -> Option<Session> {
        self.close_idle();
        self.lock().pop().map(|(_, session)| session)
    }

    fn keep(&self, session: Session) {
        self.lock().push((Instant::now(), session));
    }
}

const CLAIM: Request = Request::to("claim a lane in PostgreSQL").of_own_tables().with_locks();

fn failed(error: tokio_postgres::Error) -> Error {
    CLAIM.failed(error)
}

/// Claims a lane on a connection that does nothing else.
///
/// # Errors
/// As for [`crate::sink::Sink::claim`].
pub(crate) async fn claim(
    config: &Postgres,
    sessions: &Sessions,
    request: &ClaimRequest,
) -> Result<Progress, Error> {
    let claim = async {
        let mut session = match sessions.take() {
            Some(session) => session,
            None => Session::open(config).await?,
        };
        // After a failure the session may be in any state, and is closed.
        let progress = try_claim(config, &mut session, request).await?;
        sessions.keep(session);
        Ok(progress)
    };
    CLAIM.limit(claim).await
}

async fn try_claim(
    config: &Postgres,
    session: &mut Session,
    request: &ClaimRequest,
) -> Result<Progress, Error> {
    let Session { connection, backend } = session;
    let (begun, seen) = (Instant::now(), Seen::default());
    for _ in 0..TRIES {
        if begun.elapsed() > timing::CLAIM_LAST_TRY {
            break;
        }
        let created = create(connection, request);
        match ending_blockers(config, backend, TERMS, &seen, created).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => continue,
            created => created.map_err(failed)?,
        }
        let current = current(connection, request).await?;
        let attempt = swap(connection, request, current);
        let done = ending_blockers(config, backend, TERMS, &seen, attempt).await;
        match done {
            Ok(Some(progress)) => return Ok(progress),
            // Another process claimed it in between, or a lock is still held.
            Ok(None) => {}
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Error::Temporary {
        server: Server::Postgres,
        what: "claim a lane in PostgreSQL",
        remedy: "its row in ingest_progress is locked by another program: look at pg_stat_activity",
        source: request.name.to_string().into(),
    })
}

/// Creates the lane's row, unless it exists. A lane that is given up is set aside in the
/// same transaction; the second process to do so finds another number.
async fn create(
    connection: &mut Connection,
    request: &ClaimRequest,
) -> Result<(), tokio_postgres::Error> {
    let Some(lane) = request.given_up else { return insert(connection, request).await };
    let transaction = connection.transaction().await?;
    let name = &request.name;
    let aside = name.set_aside(lane).source;
    let sql = "update lambda.ingest_progress set source = $5, claim = null, owner = null \
               where pipeline = $1 and source = $2 and partition = $3 and lane = $4";
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&name.pipeline, &name.source, &name.partition, &lane.0, &aside];
    transaction.execute(sql, &parameters).await?;
    insert(&transaction, request).await?;
    transaction.commit().await
}

/// A partition beyond those of the first claim of its source was added later, and starts at
/// its beginning. Members that start together may come here in any order, so the number
/// that the first of them knew counts.
async fn insert(
    connection: &Connection,
    request: &ClaimRequest,
) -> Result<(), tokio_postgres::Error> {
    let (name, first) = (&request.name, request.first_position);
    let sql = "insert into lambda.ingest_progress \
                   (pipeline, source, partition, position, partitions, format) \
               select $1, $2, $3, \
                      case when $3 >= (select min(partitions) from lambda.ingest_progress \
                                       where pipeline = $1 and source = $2) \
                           then coalesce($5, $4::bigint) else $4 end, $6, $7 \
               where not exists ( \
                   select from lambda.ingest_progress where pipeline = $1 and source = $2 and partition = $3) \
               on conflict do nothing";
    let beginning = first.gained.map(|gained| gained.beginning);
    let partitions = first.gained.map(|gained| gained.partitions);
    let parameters: [&(dyn ToSql + Sync); 7] = [
        &name.pipeline,
        &name.source,
        &name.partition,
        &first.position,
        &beginning,
        &partitions,
        &request.format,
    ];
    connection.execute(sql, &parameters).await.map(drop)
}

/// Reads the claim that is to be replaced. Refuses to take a lane from another group that
/// is active.
async fn current(connection: &Connection, request: &ClaimRequest) -> Result<Option<Uuid>, Error> {
    let name = &request.name;
    let sql = format!(
        "select claim, consumer_group, owner, format, \
                updated_at > now() - interval '{ACTIVE}' and consumer_group <> $4 as foreign_group \
         from lambda.ingest_progress where pipeline = $1 and source = $2 and partition = $3"
    );
    let read = async {
        let group = request.group.as_deref();
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&name.pipeline, &name.source, &name.partition, &group];
        let row = connection.query_one(&sql, &parameters).await?;
        let foreign = row.try_get::<_, Option<bool>>("foreign_group")?.unwrap_or_default();
        let by: (Option<String>, Option<String>) =
            (row.try_get("consumer_group")?, row.try_get("owner")?);
        Ok((row.try_get("claim")?, foreign, by, row.try_get::<_, Option<String>>("format")?))
    };
    let (claim, foreign, (group, owner), format) = read.await.map_err(failed)?;
    if let Some(format) = format.filter(|format| *format != request.format) {
        return Err(Error::misconfigured(
            format!("{name} was read in the format {format}, now in {}", request.format),
            "its dead letters need that format's decoder: give a decoder that reads the old \
             records too the old format's name",
        ));
    }
    if foreign && !request.take_over {
        return Err(Error::misconfigured(
            format!(
                "{name} was active within the last {ACTIVE} under the consumer group {} ({})",
                group.unwrap_or_default(),
                owner.unwrap_or_default()
            ),
            "stop that group, use its KAFKA_GROUP_ID, or start with --take-over",
        ));
    }
    Ok(claim)
}

/// Replaces the claim `current`, if it is unchanged: an abandoned earlier attempt that
/// still waits in the server then replaces nothing.
async fn swap(
    connection: &Connection,
    request: &ClaimRequest,
    current: Option<Uuid>,
) -> Result<Option<Progress>, tokio_postgres::Error> {
    let name = &request.name;
    let sql = format!(
        "update lambda.ingest_progress set claim = $4, owner = $6, consumer_group = $7, \
                claimed_at = now(), updated_at = now() \
         where pipeline = $1 and source = $2 and partition = $3 \
           and claim is not distinct from $5 \
         returning {}",
        progress::columns()
    );
    let claim = ClaimId::random().0;
    let row = connection
        .query_opt(
            &sql,
            &[
                &name.pipeline,
                &name.source,
                &name.partition,
                &claim,
                &current,
                &request.owner,
                &request.group,
            ],
        )
        .await?;
    row.as_ref().map(progress::of_row).transpose()
}
