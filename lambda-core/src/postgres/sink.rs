//! [`Sink`] on PostgreSQL: a pool of sessions around the commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bb8::{Pool, PooledConnection, RunError};

use crate::batch::Batch;
use crate::delivery::retry::Backoff;
use crate::delivery::settle::settle;
use crate::error::{Error, Kind, Server};
use crate::metrics::{self, Retry};
use crate::postgres::blockers::{Seen, Terms, ending_blockers};
use crate::postgres::claim;
use crate::postgres::commit::{self, Failure, Path};
use crate::postgres::config::DatabaseConfig;
use crate::postgres::connect::{ANSWER_TIMEOUT, LOCK_TIMEOUT, answered, connect, connect_waiting};
use crate::postgres::evict::{self, Backend, Silent};
use crate::postgres::lanes;
use crate::postgres::mark::Mark;
use crate::postgres::migrate;
use crate::postgres::probe::JobCache;
use crate::postgres::session::SessionManager;
use crate::progress::{LaneId, Progress};
use crate::record::Table;
use crate::remedy;
use crate::sink::{ClaimRequest, Committed, Durability, Sink};

/// How long a commit waits for a free connection before it says why there is
/// none.
const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a commit waits for other loaders before it ends those whose
/// transactions are as old.
const BLOCKED_AFTER: Duration = Duration::from_secs(30);

/// How often it looks what it waits for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Ends on the server what is given up here ([`LOCK_TIMEOUT`]).
const SETTLE_SETTINGS: &str = "set lock_timeout = '20s'";

/// Stores batches of one table in PostgreSQL.
#[derive(Debug)]
pub struct PostgresSink {
    config: DatabaseConfig,
    pool: Pool<SessionManager>,
    /// Whether repeats keep coming, so that the commit looks before it copies.
    probe_first: AtomicBool,
    jobs: JobCache,
    /// What was seen to block commits.
    blockers: Seen,
}

impl PostgresSink {
    /// A sink for `table` with up to `connections` commits at a time. `purpose`
    /// is a word that people see in `pg_stat_activity`. Waits for a server that
    /// is not there yet, at most `patience` (`None`: for ever).
    ///
    /// # Errors
    /// `Transient` when patience is over, or when the schema is older than this version
    /// needs; `Fatal` for a wrong login, or a table that does not fit.
    pub async fn connect(
        config: DatabaseConfig,
        table: &'static Table,
        purpose: &str,
        connections: u32,
        patience: Option<Duration>,
    ) -> Result<Self, Error> {
        let first = connect_waiting(&config, purpose, patience).await?;
        migrate::require(&first, migrate::LOADERS_NEED).await?;
        drop(first);
        let manager = SessionManager {
            config: config.clone(),
            purpose: purpose.to_owned(),
            mark: Some(Mark::Loader),
            table,
        };
        // The first session tells at once whether table and schema fit.
        let first = bb8::ManageConnection::connect(&manager).await?;
        drop(first);
        let pool = Pool::builder()
            .max_size(connections)
            .test_on_check_out(false)
            .connection_timeout(CHECKOUT_TIMEOUT)
            .build_unchecked(manager);
        Ok(Self {
            config,
            pool,
            probe_first: AtomicBool::new(false),
            jobs: JobCache::default(),
            blockers: Seen::default(),
        })
    }

    /// Where it stores.
    pub fn config(&self) -> &DatabaseConfig {
        &self.config
    }

    async fn session(&self) -> Result<PooledConnection<'_, SessionManager>, Error> {
        match self.pool.get().await {
            Ok(session) => Ok(session),
            Err(RunError::User(error)) => Err(error),
            // The pool does not tell why: a plain connection does.
            Err(RunError::TimedOut) => match connect(&self.config, "probe").await {
                Err(error) => Err(error),
                Ok(_) => Err(Error::Temporary {
                    server: Server::Postgres,
                    what: "give us a session",
                    remedy: "all connections of the pool are busy, or the schema does not fit",
                    source: Box::new(RunError::<Error>::TimedOut),
                }),
            },
        }
    }

    /// Ends the backend of a connection that broke before COMMIT was sent: it
    /// stores nothing any more, but may hold its locks until it notices.
    async fn end_ghost(&self, backend: &Backend) {
        let ended = answered(ANSWER_TIMEOUT, "end a backend", async {
            let client = connect(&self.config, "evict").await?;
            let ended = backend.end(&client).await;
            ended.map_err(|error| remedy::postgres(error, "end a backend"))
        });
        if let Err(error) = ended.await {
            tracing::debug!(error = error.chain(), "the backend of a broken connection was left");
        }
    }

    /// Finds out what became of a commit whose answer was lost, for as long as it
    /// takes (R6).
    async fn settle(
        &self,
        backend: &Backend,
        batch: &Batch,
        lost: &str,
    ) -> Result<Committed, Error> {
        let mut backoff = Backoff::default();
        loop {
            let asking = self.try_settle(backend, batch);
            match answered(LOCK_TIMEOUT, "tell what became of a commit", asking).await {
                Ok(Some(committed)) => return Ok(committed),
                Ok(None) => {
                    let source = format!("the answer to a commit was lost: {lost}").into();
                    return Err(Error::Unreachable { server: Server::Postgres, source });
                }
                Err(error) if error.kind() != Kind::Transient => return Err(error),
                Err(error) => {
                    let delay = backoff.next_delay();
                    tracing::warn!(
                        error = error.chain(), retry_in = ?delay,
                        "the answer to a commit was lost; asking what became of it"
                    );
                    metrics::retried(Retry::Settle);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Ends the old backend, which may still be committing, then reads progress
    /// with a lock: a plain read could see the old position. `None`: the commit
    /// did not happen.
    async fn try_settle(
        &self,
        backend: &Backend,
        batch: &Batch,
    ) -> Result<Option<Committed>, Error> {
        let mut client = connect(&self.config, "settle").await?;
        let asking = |error| remedy::postgres(error, "tell what became of a commit");
        client.batch_execute(SETTLE_SETTINGS).await.map_err(asking)?;
        Mark::Loader.put(&client).await.map_err(asking)?;
        backend.end(&client).await.map_err(asking)?;
        let transaction = client.transaction().await.map_err(asking)?;
        let lanes: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
        let numbers: Vec<i32> = lanes.iter().map(|lane| lane.0).collect();
        let lock = "select from ingest_progress where lane = any($1) order by lane for update";
        transaction.execute(lock, &[&numbers]).await.map_err(asking)?;
        let stored = lanes::stored(transaction.client(), &lanes).await?;
        transaction.rollback().await.map_err(asking)?;
        Ok(settle(batch.spans(), &stored))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        claim::claim(&self.config, request).await
    }

    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        let mut session = self.session().await?;
        let path = if self.probe_first.load(Ordering::Relaxed) { Path::Probe } else { Path::Fast };
        let backend = session.backend.clone();
        // Within a statement's time, or nobody ever sees what it waits for.
        let limit = session.statement_timeout;
        let within = |time: Duration| limit.map_or(time, |limit| time.min(limit / 2));
        let terms = Terms {
            every: within(LOOK_EVERY),
            waited: within(BLOCKED_AFTER),
            older_than: BLOCKED_AFTER,
        };
        let attempt = commit::commit(&mut session, batch, durability, path, &self.jobs);
        let attempt = ending_blockers(&self.config, &backend, terms, &self.blockers, attempt);
        match evict::unless_silent(&self.config, &backend, attempt).await {
            Ok(Ok(done)) => {
                self.probe_first.store(done.next == Path::Probe, Ordering::Relaxed);
                Ok(done.committed)
            }
            Ok(Err(Failure::Aborted(error))) => {
                let lost = session.client().is_closed();
                if !matches!(error, Error::Refused { .. } | Error::Contended { .. }) {
                    session.retire();
                }
                drop(session);
                if lost {
                    self.end_ghost(&backend).await;
                }
                Err(error)
            }
            // In both cases this closes the connection: it is still marked as in a
            // transaction.
            Ok(Err(Failure::Unknown(lost))) => {
                drop(session);
                self.settle(&backend, batch, &lost.to_string()).await
            }
            Err(Silent) => {
                drop(session);
                self.settle(&backend, batch, "the connection went silent").await
            }
        }
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        let mut session = self.session().await?;
        let reading = lanes::stored(session.client(), lanes);
        let stored = answered(ANSWER_TIMEOUT, "read progress", reading).await;
        if stored.is_err() {
            // The question may still be unanswered.
            session.retire();
        }
        stored
    }
}
