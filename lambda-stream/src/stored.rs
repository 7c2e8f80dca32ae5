//! What the database says of a pipeline's stream lanes: the only counts that
//! people are shown (R10).

use lambda_core::Error;
use lambda_core::postgres::{Connection, DatabaseConfig, connect};
use lambda_core::progress::Counts;
use lambda_core::remedy;

/// A partition as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredLane {
    pub(crate) source: String,
    pub(crate) partition: i32,
    /// Everything below is stored.
    pub(crate) position: i64,
    pub(crate) counts: Counts,
}

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
    pub(crate) async fn lanes(&mut self) -> Result<Vec<StoredLane>, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.database, "watch").await?,
        };
        let sql = "select source, partition, position, \
                          read, inserted, confirmed, corrected, superseded, duplicate, rejected \
                   from ingest_progress where pipeline = $1 and consumer_group is not null \
                   order by source, partition";
        let read = async {
            let rows = connection.query(sql, &[&self.pipeline]).await?;
            let lanes = rows.iter().map(|row| {
                Ok(StoredLane {
                    source: row.try_get("source")?,
                    partition: row.try_get("partition")?,
                    position: row.try_get("position")?,
                    counts: Counts {
                        read: row.try_get("read")?,
                        inserted: row.try_get("inserted")?,
                        confirmed: row.try_get("confirmed")?,
                        corrected: row.try_get("corrected")?,
                        superseded: row.try_get("superseded")?,
                        duplicate: row.try_get("duplicate")?,
                        rejected: row.try_get("rejected")?,
                    },
                })
            });
            lanes.collect::<Result<Vec<_>, _>>()
        };
        let lanes = read.await.map_err(|error| remedy::postgres(error, "read progress"))?;
        // Kept only while it works.
        self.connection = Some(connection);
        Ok(lanes)
    }
}

/// The counts of a source's lanes together.
pub(crate) fn total(lanes: &[StoredLane], source: &str) -> Counts {
    let mut total = Counts::default();
    for lane in lanes.iter().filter(|lane| lane.source == source) {
        total += lane.counts;
    }
    total
}
