//! What the database says of a pipeline's stream lanes: the only counts that
//! people are shown (R10).

use lambda_core::Error;
use lambda_core::postgres::{Connection, DatabaseConfig, connect, stream_lanes};
use lambda_core::progress::{Counts, Progress};

/// Reads the lanes of one pipeline, over a connection of its own.
#[derive(Debug)]
pub(crate) struct Stored {
    database: DatabaseConfig,
    pipeline: &'static str,
    connection: Option<Connection>,
}

impl Stored {
    pub(crate) fn new(database: DatabaseConfig, pipeline: &'static str) -> Self {
        Self { database, pipeline, connection: None }
    }

    /// All lanes of the pipeline that a consumer group ever claimed.
    ///
    /// # Errors
    /// `Transient`: asking again connects anew. `Fatal`.
    pub(crate) async fn lanes(&mut self) -> Result<Vec<Progress>, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.database, "watch").await?,
        };
        let lanes = stream_lanes(&connection, self.pipeline).await?;
        // Kept only while it works.
        self.connection = Some(connection);
        Ok(lanes)
    }
}

/// The counts of a source's lanes together, those that were given up included.
pub(crate) fn total(lanes: &[Progress], source: &str) -> Counts {
    let mut total = Counts::default();
    for lane in lanes.iter().filter(|lane| lane.name.was_of(source)) {
        total += lane.counts;
    }
    total
}
