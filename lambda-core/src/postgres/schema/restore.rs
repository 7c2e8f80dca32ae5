//! Adopts a database that was dumped and restored into another cluster: its stored
//! transaction ids are meaningless there until they are moved.

use crate::error::Error;
use crate::postgres::connection::config::Postgres;
use crate::postgres::remedy;
use crate::postgres::schema::migrate::connect_to_set_up;
use crate::postgres::schema::registry::{self, Registered};

/// Result of [`adopt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Offset now added to each transaction id before it is stored.
    pub xid_offset: i64,
    /// Number of lanes that lost their claim.
    pub claims_cleared: u64,
}

/// Makes this cluster the one to which the database's transaction ids belong, if it is not:
/// raises the offset so that every later id is above all stored ones, those of all registered
/// pipelines included, and clears every claim. A running loader's next commit is fenced. `None` when
/// the database was never moved.
///
/// # Errors
/// As for [`connect`](crate::postgres::connection::connect); `Fatal` when the role lacks the
/// privileges.
pub async fn adopt(config: &Postgres) -> Result<Option<Adopted>, Error> {
    let mut connection = connect_to_set_up(config, "setup").await?;
    let adopt = async {
        let transaction = connection.transaction().await?;
        let moved = "\
            select 1 from lambda.xid_offset \
            where system_identifier <> (select system_identifier from pg_control_system()) \
            for update";
        if transaction.query_opt(moved, &[]).await?.is_none() {
            return Ok(None);
        }
        // Lanes first: a commit holds its lanes while it stores ids under the old offset.
        let clear = "update lambda.ingest_progress set claim = null, owner = null, consumer_group = null \
                     where claim is not null";
        transaction.batch_execute("lock table lambda.ingest_progress in exclusive mode").await?;
        let claims_cleared = transaction.execute(clear, &[]).await?;
        let pipelines = registry::read(&transaction).await?;
        let row = transaction.query_one(&raise(&pipelines), &[]).await?;
        transaction.commit().await?;
        Ok(Some(Adopted { xid_offset: row.try_get(0)?, claims_cleared }))
    };
    adopt.await.map_err(|error: tokio_postgres::Error| {
        remedy::explain(error, "move stored transaction ids to this PostgreSQL cluster")
    })
}

/// SQL for the offset that puts every later id above every stored one. An upgraded cluster
/// continues to count from where it was: there the old offset is high enough.
fn raise(pipelines: &[Registered]) -> String {
    let stored: Vec<String> = pipelines
        .iter()
        .map(|pipeline| &*pipeline.table)
        .chain(["lambda.corrections"])
        .map(|name| format!("(select max(written_xid) from {name})"))
        .collect();
    format!(
        "update lambda.xid_offset set \
             system_identifier = (select system_identifier from pg_control_system()), \
             value = greatest(value, \
                 greatest({}) - pg_snapshot_xmin(pg_current_snapshot())::text::bigint + 1) \
         returning value",
        stored.join(", ")
    )
}
