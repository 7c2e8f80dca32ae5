//! [`Sink`] on PostgreSQL: a pool of sessions around the commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bb8::{ManageConnection as _, Pool, PooledConnection, RunError};

use crate::batch::Batch;
use crate::delivery::retry::Backoff;
use crate::delivery::settle::settle;
use crate::error::{Error, Kind, Server};
use crate::metrics::{self, Retry};
use crate::pipeline::Pipeline;
use crate::postgres::commit::probe::JobCache;
use crate::postgres::commit::session::SessionManager;
use crate::postgres::commit::{self, Failure, Path};
use crate::postgres::connection::config::Postgres;
use crate::postgres::connection::request::Request;
use crate::postgres::connection::{connect, connect_waiting};
use crate::postgres::inspect;
use crate::postgres::ownership::backend::{self, Backend, Silent};
use crate::postgres::ownership::blockers::{Seen, Terms, ending_blockers};
use crate::postgres::ownership::claim;
use crate::postgres::ownership::holdup::{self, Slow};
use crate::postgres::ownership::mark::Mark;
use crate::postgres::progress;
use crate::postgres::schema::{fit, migrate, registry};
use crate::postgres::timing;
use crate::progress::{LaneId, Progress};
use crate::sink::{ClaimRequest, Committed, Durability, Sink};

const SETTLE: Request = Request::to("check in PostgreSQL whether a commit happened").with_locks();

/// Stores batches of one pipeline in PostgreSQL.
///
/// ```no_run
/// use std::time::Duration;
///
/// use lambda_core::postgres::PostgresSink;
/// use lambda_core::{Postgres, transaction};
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let postgres = Postgres::new("postgresql://loader@localhost/app")?;
/// let pipeline = transaction::pipeline();
/// let patience = Some(Duration::from_mins(1));
/// let sink = PostgresSink::connect(postgres, &pipeline, "stream", 2, patience).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PostgresSink {
    config: Postgres,
    identity: String,
    sessions: SessionManager,
    pool: Pool<SessionManager>,
    /// Whether repeats keep coming, so that the commit probes before it copies.
    probe_first: AtomicBool,
    jobs: JobCache,
    claims: claim::Sessions,
    /// Sessions that were seen to block commits.
    blockers: Seen,
}

impl PostgresSink {
    /// Creates a sink for `pipeline` with up to `connections` concurrent commits. `purpose` is
    /// a word that people see in `pg_stat_activity`. Waits for a server that is not
    /// reachable, at most `patience` (`None`: without limit).
    ///
    /// # Errors
    /// `Transient` when patience is over, or when the schema is older than this version
    /// needs; `Fatal` for a wrong login, a pipeline that is not registered, or a table that does
    /// not fit.
    pub async fn connect(
        config: Postgres,
        pipeline: &Pipeline,
        purpose: &str,
        connections: u32,
        patience: Option<Duration>,
    ) -> Result<Self, Error> {
        let first = connect_waiting(&config, purpose, patience).await?;
        migrate::PROTOCOL.require(&first, migrate::LOADERS_NEED).await?;
        registry::check(&first, pipeline).await?;
        let identity = inspect::identity(&first).await?;
        let manager = SessionManager {
            config: config.for_copies(),
            purpose: purpose.to_owned(),
            mark: Some(Mark::Loader),
            pipeline: pipeline.clone(),
        };
        // The first session shows at once whether table and schema fit.
        drop(manager.connect().await?);
        fit::warn_of_triggers(&first, pipeline.table()).await?;
        drop(first);
        let pool = Pool::builder()
            .max_size(connections)
            .test_on_check_out(false)
            .connection_timeout(timing::CHECKOUT)
            .build_unchecked(manager.clone());
        Ok(Self {
            config,
            identity,
            sessions: manager,
            pool,
            probe_first: AtomicBool::new(false),
            jobs: JobCache::default(),
            claims: claim::Sessions::default(),
            blockers: Seen::default(),
        })
    }

    /// The database's configuration.
    pub fn config(&self) -> &Postgres {
        &self.config
    }

    /// Identifies the database, in one word (see [`inspect::identity`]).
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes a session from the pool, except one that was closed while it was idle.
    async fn session(&self) -> Result<PooledConnection<'_, SessionManager>, Error> {
        let mut idle = self.pool.state().idle_connections;
        loop {
            match self.pool.get().await {
                Ok(session) if session.client().is_closed() && idle > 0 => idle -= 1,
                Ok(session) => return Ok(session),
                Err(RunError::User(error)) => return Err(error),
                Err(RunError::TimedOut) => return Err(self.no_session().await),
            }
        }
    }

    /// Finds out why the pool has no session. The pool does not report it, so this opens
    /// another one, which meets a wrong login, a table that does not fit, or a server that
    /// is away.
    async fn no_session(&self) -> Error {
        if let Err(error) = self.sessions.connect().await {
            return error;
        }
        let state = self.pool.state();
        let (what, remedy) = if state.connections > state.idle_connections {
            (
                "all sessions of this process are in long commits",
                "check in pg_stat_activity what they wait for",
            )
        } else {
            ("a login takes long", "check the server's load and the network")
        };
        let source = format!("{what}; none was free for {:?}", timing::CHECKOUT).into();
        Error::Temporary {
            server: Server::Postgres,
            what: "open a session in PostgreSQL",
            remedy,
            source,
        }
    }

    /// Explains a fatal failure of a commit. The session may be older than a change of the
    /// table: a new one names what does not fit. If it finds no difference, the statements
    /// that the old session has prepared are out of date.
    async fn explain(&self, error: Error, seasoned: bool) -> Error {
        if error.kind() != Kind::Fatal {
            return error;
        }
        match (self.sessions.connect().await, error) {
            (Err(found), _) if found.kind() == Kind::Fatal => found,
            (Ok(_), Error::Unsupported { what, source }) if seasoned => Error::Temporary {
                server: Server::Postgres,
                what,
                remedy: "the schema has changed: the next session uses the new one",
                source,
            },
            (_, error) => error,
        }
    }

    /// Terminates the backend of a connection that broke before COMMIT was sent: it stores
    /// nothing more, but may hold its locks until it notices.
    async fn end_ghost(&self, backend: &Backend) {
        const END: Request = Request::to("terminate a backend in PostgreSQL");
        let ended = END.limit(async {
            let connection = connect(&self.config, "evict").await?;
            END.ask(backend.end(&connection)).await
        });
        if let Err(error) = ended.await {
            tracing::debug!(
                error = error.chain(),
                "could not terminate the backend of a broken connection"
            );
        }
    }

    /// Finds out the outcome of a commit whose answer was lost, for as long as it takes.
    /// `failed`: the error if it did not happen, after which it may be tried again.
    async fn settle(
        &self,
        backend: &Backend,
        batch: &Batch,
        failed: Error,
    ) -> Result<Committed, Error> {
        let mut backoff = Backoff::default();
        loop {
            match SETTLE.limit(self.try_settle(backend, batch)).await {
                Ok(Some(committed)) => return Ok(committed),
                Ok(None) => return Err(failed),
                Err(error) if error.kind() != Kind::Transient => return Err(error),
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(
                        error = error.chain(), retry_in = ?delay,
                        "connection lost during COMMIT; checking whether it committed"
                    );
                    metrics::retried(Retry::Settle);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Terminates the old backend, which may still be committing, then reads progress with
    /// a lock: a plain read could see the old position. `None`: the commit did not happen.
    async fn try_settle(
        &self,
        backend: &Backend,
        batch: &Batch,
    ) -> Result<Option<Committed>, Error> {
        let mut connection = connect(&self.config, "settle").await?;
        let asking = |error| SETTLE.failed(error);
        let limit = timing::set("lock_timeout", timing::LOCK);
        connection.batch_execute(&limit).await.map_err(asking)?;
        Mark::Loader.put(&connection).await.map_err(asking)?;
        backend.end(&connection).await.map_err(asking)?;
        let transaction = connection.transaction().await.map_err(asking)?;
        let lanes: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
        let numbers: Vec<i32> = lanes.iter().map(|lane| lane.0).collect();
        let lock =
            "select from lambda.ingest_progress where lane = any($1) order by lane for update";
        transaction.execute(lock, &[&numbers]).await.map_err(asking)?;
        let stored = progress::stored(&transaction, &lanes).await?;
        transaction.rollback().await.map_err(asking)?;
        Ok(settle(batch.spans(), &stored))
    }
}

/// The error for a commit whose answer was lost and which did not happen.
fn lost(how: &str) -> Error {
    let source = format!("the answer to a commit was lost: {how}").into();
    Error::Unreachable { server: Server::Postgres, source }
}

impl PostgresSink {
    async fn try_commit(
        &self,
        batch: &Batch,
        durability: Durability,
        patience: Option<Duration>,
    ) -> Result<Committed, Error> {
        // A commit follows at least every 30 s, also when there is nothing to claim or to store.
        self.claims.close_idle();
        let mut session = self.session().await?;
        let path = if self.probe_first.load(Ordering::Relaxed) { Path::Probe } else { Path::Fast };
        let backend = session.backend.clone();
        // Within a statement's timeout, or what it waits for is never found.
        let limit = session.statement_timeout;
        let within = |time: Duration| limit.map_or(time, |limit| time.min(limit / 2));
        let terms = Terms {
            every: within(timing::LOOK),
            waited: within(timing::COMMIT_BLOCKED),
            older_than: timing::COMMIT_BLOCKED,
        };
        // Boxed: large, and in every future that waits for a commit.
        let attempt = Box::pin(commit::commit(&mut session, batch, durability, path, &self.jobs));
        let attempt = ending_blockers(&self.config, &backend, terms, &self.blockers, attempt);
        let attempt = backend::unless_silent(&self.config, &backend, attempt);
        match holdup::unless_slow(&self.config, &backend, patience, attempt).await {
            Ok(Ok(Ok(done))) => {
                self.probe_first.store(done.next == Path::Probe, Ordering::Relaxed);
                Ok(done.committed)
            }
            Ok(Ok(Err(Failure::Aborted(error)))) => {
                let (lost, seasoned) = (session.client().is_closed(), session.is_seasoned());
                if !matches!(error, Error::Refused { .. } | Error::Contended { .. }) {
                    session.retire();
                }
                drop(session);
                if lost {
                    self.end_ghost(&backend).await;
                }
                Err(self.explain(error, seasoned).await)
            }
            // In all these cases this closes the connection: it is still marked as in a
            // transaction.
            Ok(Ok(Err(Failure::Unknown(error)))) => {
                drop(session);
                self.settle(&backend, batch, lost(&error.to_string())).await
            }
            Ok(Err(Silent)) => {
                drop(session);
                self.settle(&backend, batch, lost("the connection went silent")).await
            }
            Err(Slow { waited, holdup }) => {
                drop(session);
                self.settle(&backend, batch, Error::Slow { waited, holdup }).await
            }
        }
    }
}

#[async_trait]
impl Sink for PostgresSink {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        claim::claim(&self.config, &self.claims, request).await
    }

    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        self.try_commit(batch, durability, None).await
    }

    async fn commit_within(
        &self,
        batch: &Batch,
        durability: Durability,
        patience: Duration,
    ) -> Result<Committed, Error> {
        self.try_commit(batch, durability, Some(patience)).await
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        if lanes.is_empty() {
            let connection = connect(&self.config, "look").await?;
            return progress::stored(&connection, lanes).await;
        }
        let mut session = self.session().await?;
        let stored = progress::stored(session.connection(), lanes).await;
        if stored.is_err() {
            // The query may still be unanswered.
            session.retire();
        }
        stored
    }
}
