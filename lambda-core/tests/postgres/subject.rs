//! Contents of the database, read by plain SQL.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::job::JobRef;
use lambda_core::memory::{Contents, StoredCorrection, StoredDeadLetter, StoredRow};
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::{Connection, DatabaseConfig, PostgresSink, connect};
use lambda_core::progress::{ClaimId, Counts, Fingerprint, LaneId, LaneName, Progress, Sums};
use lambda_core::record::checksum::{self, Checksum};
use lambda_core::record::{Record, RowWriter};
use lambda_core::sink::Sink;
use lambda_core::testing::draft::{SAMPLE_DDL, SAMPLES, Sample};
use lambda_core::testing::sink::Subject;
use tokio_postgres::Row;

/// The sink on a database with the table of samples.
pub(crate) struct Postgres {
    pub(crate) sink: PostgresSink,
    pub(crate) client: Connection,
}

impl Postgres {
    /// Creates the table of samples in a migrated database.
    pub(crate) async fn new(config: &DatabaseConfig, connections: u32) -> Self {
        let client = connect(config, "test").await.expect("a connection");
        client.batch_execute(SAMPLE_DDL).await.expect("the table of samples");
        let sink = PostgresSink::connect(config.clone(), &SAMPLES, "sink", connections, None)
            .await
            .expect("a sink");
        Self { sink, client }
    }
}

#[async_trait]
impl Subject for Postgres {
    fn sink(&self) -> &dyn Sink {
        &self.sink
    }

    async fn job(&self, as_of_micros: i64) -> JobRef {
        let sql = "insert into batch_jobs (pipeline, source, file_name, header, bytes, records, chunks, as_of) \
                   values ('samples', gen_random_uuid()::text, 'f', 'h', 0, 0, 0, \
                           timestamptz 'epoch' + $1::bigint * interval '1 microsecond') returning id";
        let row = self.client.query_one(sql, &[&as_of_micros]).await.expect("a job");
        JobRef { as_of_micros, number: row.get(0) }
    }

    async fn contents(&self) -> Contents {
        contents(&self.client).await.expect("the contents")
    }
}

/// Reads everything in the database.
async fn contents(client: &Connection) -> Result<Contents, tokio_postgres::Error> {
    let mut contents = Contents::default();
    let sql = "select job_id, id, (extract(epoch from as_of) * 1000000)::bigint from batch_jobs";
    let jobs: BTreeMap<String, JobRef> = client
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), JobRef { number: row.get(1), as_of_micros: row.get(2) }))
        .collect();
    for row in client.query("select *, (amount * 100)::bigint as cents from samples", &[]).await? {
        contents.rows.insert(row.get::<_, String>("id").into_bytes(), stored_row(&row, &jobs));
    }
    for row in client.query("select * from dead_letters", &[]).await? {
        let (lane, position) = (LaneId(row.get("lane")), row.get("position"));
        let payload: Option<Vec<u8>> = row.get("payload");
        let reject = Reject::new(reason(row.get("reason")), row.get::<_, String>("detail"));
        let payload = payload.unwrap_or_default();
        let letter = StoredDeadLetter { lane, position, payload, reject };
        contents.dead_letters.insert((lane, position), letter);
    }
    contents.corrections = corrections(client, &jobs).await?;
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

async fn corrections(
    client: &Connection,
    jobs: &BTreeMap<String, JobRef>,
) -> Result<Vec<StoredCorrection>, tokio_postgres::Error> {
    let side = |side: &str| {
        format!(
            "select c.key ->> 0 as key, c.written_xid as corrected_xid, r.*, (r.amount * 100)::bigint as cents from corrections c, \
             jsonb_populate_record(null::samples, c.{side}) r order by c.id"
        )
    };
    let texts = "select coalesce(bool_and(jsonb_typeof(value) in ('string', 'null')), true) \
                 from corrections, jsonb_each(before || after)";
    assert!(client.query_one(texts, &[]).await?.get::<_, bool>(0), "values are texts");
    let before = client.query(&side("before"), &[]).await?;
    let after = client.query(&side("after"), &[]).await?;
    let pairs = before.iter().zip(&after);
    Ok(pairs
        .map(|(before, after)| StoredCorrection {
            key: before.get::<_, String>("key").into_bytes(),
            before: stored_row(before, jobs),
            after: stored_row(after, jobs),
            written_xid: after.get("corrected_xid"),
        })
        .collect())
}

fn stored_row(row: &Row, jobs: &BTreeMap<String, JobRef>) -> StoredRow {
    let sample = Sample {
        id: row.get("id"),
        amount: row.get("cents"),
        note: row.get("note"),
        flag: row.get("flag"),
        rank: row.get("rank"),
    };
    let mut content = Vec::new();
    let mut writer = RowWriter::new(SAMPLES.table(), &mut content);
    sample.write(&mut writer);
    writer.finish().expect("a stored row can be a row");
    let (job_id, kind): (Option<String>, String) = (row.get("job_id"), row.get("ingestion_type"));
    assert_eq!(kind, if job_id.is_some() { "BATCH" } else { "STREAM" });
    let job = job_id.map(|job_id| *jobs.get(&job_id).expect("the row's job"));
    StoredRow {
        content,
        authority: job.map_or(Authority::Stream, Authority::Batch),
        lane: LaneId(row.get("lane")),
        position: row.get("position"),
        checksum: Checksum(row.get("checksum")),
        written_xid: row.get("written_xid"),
    }
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
