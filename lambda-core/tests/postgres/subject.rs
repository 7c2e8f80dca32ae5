//! Contents of the database, read by plain SQL.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use lambda_core::Pipeline;
use lambda_core::Record;
use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::job::JobRef;
use lambda_core::memory::{Contents, StoredCorrection, StoredDeadLetter, StoredRow};
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::{Connection, Postgres, PostgresSink, connect};
use lambda_core::progress::{ClaimId, Counts, Fingerprint, LaneId, LaneName, Progress, Sums};
use lambda_core::record::checksum::{self, Checksum};
use lambda_core::record::{RowWriter, Scratch};
use lambda_core::sink::Sink;
use lambda_core::testing::draft::{SAMPLE_DDL, SAMPLES, Sample};
use lambda_core::testing::sink::Subject;
use tokio_postgres::Row;

/// A record that tests store and read back by plain SQL.
pub(crate) trait Stored: Record {
    /// Creates its table.
    const DDL: &'static str;

    /// Its pipeline.
    fn pipeline() -> &'static Pipeline;

    /// Reads a row of its table.
    fn of_row(row: &Row) -> Self;
}

impl Stored for Sample {
    const DDL: &'static str = SAMPLE_DDL;

    fn pipeline() -> &'static Pipeline {
        &SAMPLES
    }

    fn of_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            amount: cents(row),
            note: row.get("note"),
            flag: row.get("flag"),
            rank: row.get("rank"),
        }
    }
}

/// The column `amount` in hundredths, by the server's own arithmetic.
pub(crate) fn cents(row: &Row) -> i64 {
    row.get("cents")
}

/// The sink on a database with the table of a record.
pub(crate) struct PostgresSubject<S = Sample> {
    pub(crate) sink: PostgresSink,
    pub(crate) client: Connection,
    record: PhantomData<fn() -> S>,
}

impl<S: Stored> PostgresSubject<S> {
    /// Creates the record's table in a migrated database.
    pub(crate) async fn new(config: &Postgres, connections: u32) -> Self {
        let client = connect(config, "test").await.expect("a connection");
        client.batch_execute(S::DDL).await.expect("the table");
        let pipeline = S::pipeline();
        registry::register(config, &[pipeline]).await.expect("its name is free");
        let sink = PostgresSink::connect(config.clone(), pipeline, "sink", connections, None);
        Self { sink: sink.await.expect("a sink"), client, record: PhantomData }
    }
}

#[async_trait]
impl<S: Stored> Subject for PostgresSubject<S> {
    fn sink(&self) -> &dyn Sink {
        &self.sink
    }

    async fn reopen(&self) -> Arc<dyn Sink> {
        let config = self.sink.config().clone();
        let sink = PostgresSink::connect(config, S::pipeline(), "sink", 2, None);
        Arc::new(sink.await.expect("a sink"))
    }

    async fn job(&self, as_of_micros: i64) -> JobRef {
        job(&self.client, S::pipeline().name(), as_of_micros).await
    }

    async fn contents(&self) -> Contents {
        contents::<S>(&self.client).await.expect("the contents")
    }
}

/// Adds a job of a pipeline.
pub(crate) async fn job(client: &Connection, pipeline: &str, as_of_micros: i64) -> JobRef {
    let sql = "insert into batch_jobs (pipeline, source, file_name, header, bytes, records, chunks, as_of) \
               values ($2, gen_random_uuid()::text, 'f', 'h', 0, 0, 0, \
                       timestamptz 'epoch' + $1::bigint * interval '1 microsecond') returning id";
    let row = client.query_one(sql, &[&as_of_micros, &pipeline]).await.expect("a job");
    JobRef { as_of_micros, number: row.get(0) }
}

/// Reads everything in the database.
async fn contents<S: Stored>(client: &Connection) -> Result<Contents, tokio_postgres::Error> {
    let mut contents = Contents::default();
    let sql = "select job_id, id, (extract(epoch from as_of) * 1000000)::bigint from batch_jobs";
    let jobs: BTreeMap<String, JobRef> = client
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), JobRef { number: row.get(1), as_of_micros: row.get(2) }))
        .collect();
    let table = S::pipeline().table();
    let sql = format!("select *, (amount * 100)::bigint as cents from {}", table.sql());
    for row in client.query(&sql, &[]).await? {
        let (key, row) = stored_row::<S>(&row, &jobs);
        contents.rows.insert(key, row);
    }
    for row in client.query("select * from dead_letters", &[]).await? {
        let (lane, position) = (LaneId(row.get("lane")), row.get("position"));
        let payload: Option<Vec<u8>> = row.get("payload");
        let reject = Reject::new(reason(row.get("reason")), row.get::<_, String>("detail"));
        let payload = payload.unwrap_or_default();
        let letter = StoredDeadLetter { lane, position, payload, reject };
        contents.dead_letters.insert((lane, position), letter);
    }
    contents.corrections = corrections::<S>(client, &jobs).await?;
    for row in client.query("select * from ingest_progress", &[]).await? {
        let progress = progress(&row);
        let hash: Option<i64> = row.get("hash");
        let committed = hash.map_or(progress.counts == Counts::default(), |hash| {
            hash == checksum::of_progress(&progress)
        });
        assert!(committed, "the hash of {progress:?}");
        contents.lanes.insert(progress.lane, progress);
    }
    Ok(contents)
}

async fn corrections<S: Stored>(
    client: &Connection,
    jobs: &BTreeMap<String, JobRef>,
) -> Result<Vec<StoredCorrection>, tokio_postgres::Error> {
    let table = S::pipeline().table();
    let side = |side: &str| {
        format!(
            "select c.key as correction_key, c.written_xid as corrected_xid, r.*, \
                    (r.amount * 100)::bigint as cents \
             from corrections c, jsonb_populate_record(null::{}, c.{side}) r order by c.id",
            table.sql()
        )
    };
    let texts = "select coalesce(bool_and(jsonb_typeof(value) in ('string', 'null')), true) \
                 from corrections, jsonb_each(before || after)";
    assert!(client.query_one(texts, &[]).await?.get::<_, bool>(0), "values are texts");
    let keys = "select coalesce(bool_and(jsonb_array_length(key) = $1), true) from corrections";
    let columns = table.key_indexes().len() as i32;
    assert!(client.query_one(keys, &[&columns]).await?.get::<_, bool>(0), "keys are whole");
    let before = client.query(&side("before"), &[]).await?;
    let after = client.query(&side("after"), &[]).await?;
    let pairs = before.iter().zip(&after);
    Ok(pairs
        .map(|(before, after)| {
            let (key, stored_before) = stored_row::<S>(before, jobs);
            let (same_key, stored_after) = stored_row::<S>(after, jobs);
            assert_eq!(key, same_key, "a correction keeps the key");
            StoredCorrection {
                key,
                before: stored_before,
                after: stored_after,
                written_xid: after.get("corrected_xid"),
            }
        })
        .collect())
}

/// A row with its key.
fn stored_row<S: Stored>(row: &Row, jobs: &BTreeMap<String, JobRef>) -> (Vec<u8>, StoredRow) {
    let mut bytes = Vec::new();
    let mut scratch = Scratch::default();
    let mut writer = RowWriter::new(S::pipeline().table(), &mut bytes, &mut scratch);
    S::of_row(row).write(&mut writer);
    let place = writer.finish().expect("a stored row can be a row");
    let (job_id, kind): (Option<String>, String) = (row.get("job_id"), row.get("ingestion_type"));
    assert_eq!(kind, if job_id.is_some() { "BATCH" } else { "STREAM" });
    let job = job_id.map(|job_id| *jobs.get(&job_id).expect("the row's job"));
    let stored = StoredRow {
        content: bytes[place.content].to_vec(),
        authority: job.map_or(Authority::Stream, Authority::Batch),
        lane: LaneId(row.get("lane")),
        position: row.get("position"),
        checksum: Checksum(row.get("checksum")),
        written_xid: row.get("written_xid"),
    };
    (bytes[place.key].to_vec(), stored)
}

fn reason(name: &str) -> Reason {
    [Reason::InvalidJson, Reason::RaggedRow, Reason::IdConflict, Reason::Refused]
        .into_iter()
        .find(|reason| reason.as_str() == name)
        .expect("a reason that these tests make")
}

fn progress(row: &Row) -> Progress {
    let last = |name| row.get::<_, Option<i64>>(name);
    let mut counts = Counts::of(Outcome::ALL.map(|outcome| (outcome, row.get(outcome.as_str()))));
    counts.read = row.get("read");
    Progress {
        lane: LaneId(row.get("lane")),
        name: LaneName {
            pipeline: row.get("pipeline"),
            source: row.get("source"),
            partition: row.get("partition"),
        },
        position: row.get("position"),
        end_position: row.get("end_position"),
        high: row.get("high"),
        claim: row.get::<_, Option<uuid::Uuid>>("claim").map(ClaimId),
        counts,
        sums: Sums {
            written: row.get("written"),
            owned: row.get("owned"),
            displaced: row.get("displaced"),
        },
        last: last("last_position").map(|position| Fingerprint {
            position,
            timestamp_ms: last("last_timestamp_ms").unwrap_or_default(),
            checksum: last("last_checksum").unwrap_or_default(),
        }),
    }
}
