//! Reads a pipeline's stream lanes from the database. Counts shown to people come only from
//! here, since memory may differ from what is stored (rule R10 in docs/protocol.md).

use std::time::{Duration, Instant};

use lambda_core::Error;
use lambda_core::delivery::retry::Backoff;
use lambda_core::error::Kind;
use lambda_core::postgres::{Connection, Postgres, connect, stream_lanes, stream_lanes_durably};
use lambda_core::progress::{Counts, Progress};

/// Required durability of the lanes that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// As others see them now: a crash of the server may take some back (rule R5 in
    /// docs/protocol.md).
    AsSeen,
    /// Durable: no crash takes back what was read.
    Durably,
}

/// Reads the lanes of one pipeline, over a connection of its own.
#[derive(Debug)]
pub(crate) struct Stored {
    database: Postgres,
    pipeline: String,
    connection: Option<Connection>,
}

impl Stored {
    pub(crate) fn new(database: Postgres, pipeline: &str) -> Self {
        Self { database, pipeline: pipeline.to_owned(), connection: None }
    }

    /// All lanes of the pipeline that a consumer group ever claimed.
    ///
    /// # Errors
    /// `Transient`: the next call connects again. `Fatal`.
    pub(crate) async fn lanes(&mut self) -> Result<Vec<Progress>, Error> {
        self.read(Read::AsSeen).await
    }

    /// Like [`Self::lanes`], but waits for a server that is away.
    ///
    /// # Errors
    /// `Fatal`.
    pub(crate) async fn lanes_waiting(&mut self) -> Result<Vec<Progress>, Error> {
        self.read_waiting(Read::AsSeen, None).await
    }

    /// Like [`Self::lanes`], but waits at most `patience` for a server that is away.
    ///
    /// # Errors
    /// The last error after `patience`; `Fatal` at once.
    pub(crate) async fn lanes_within(
        &mut self,
        patience: Duration,
    ) -> Result<Vec<Progress>, Error> {
        self.read_waiting(Read::AsSeen, Some(patience)).await
    }

    /// Makes the lanes it returns durable, whichever process stored them; waits at most
    /// `patience`.
    ///
    /// # Errors
    /// The last error after `patience`; `Fatal` at once.
    pub(crate) async fn durable_lanes(
        &mut self,
        patience: Duration,
    ) -> Result<Vec<Progress>, Error> {
        self.read_waiting(Read::Durably, Some(patience)).await
    }

    async fn read_waiting(
        &mut self,
        how: Read,
        patience: Option<Duration>,
    ) -> Result<Vec<Progress>, Error> {
        let begun = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            match self.read(how).await {
                Err(error)
                    if error.kind() == Kind::Transient
                        && patience.is_none_or(|patience| begun.elapsed() < patience) =>
                {
                    let retry_in = backoff.next_delay();
                    tracing::warn!(
                        database = %self.database, error = error.chain(), ?retry_in,
                        "waiting for PostgreSQL"
                    );
                    tokio::time::sleep(retry_in).await;
                }
                read => return read,
            }
        }
    }

    /// Reads over the kept connection, or over a new one: a connection that broke while idle
    /// does not mean that the server is away.
    async fn read(&mut self, how: Read) -> Result<Vec<Progress>, Error> {
        if let Some(kept) = self.connection.take() {
            match read(&kept, &self.pipeline, how).await {
                Err(error) if error.kind() == Kind::Transient => {
                    tracing::debug!(error = error.chain(), "reconnecting to read progress");
                }
                Err(error) => return Err(error),
                Ok(lanes) => {
                    self.connection = Some(kept);
                    return Ok(lanes);
                }
            }
        }
        let connection = connect(&self.database, "watch").await?;
        let lanes = read(&connection, &self.pipeline, how).await?;
        // Keeps the connection only while it works.
        self.connection = Some(connection);
        Ok(lanes)
    }
}

async fn read(connection: &Connection, pipeline: &str, how: Read) -> Result<Vec<Progress>, Error> {
    match how {
        Read::AsSeen => stream_lanes(connection, pipeline).await,
        Read::Durably => stream_lanes_durably(connection, pipeline).await,
    }
}

/// Sum of the counts of a source's lanes, given-up lanes included.
pub(crate) fn total(lanes: &[Progress], source: &str) -> Counts {
    let mut total = Counts::default();
    for lane in lanes.iter().filter(|lane| lane.name.was_of(source)) {
        total += lane.counts;
    }
    total
}
