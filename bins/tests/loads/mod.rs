//! Setup for tests of loads: a database, a folder, the real binary, and the check that
//! everything was stored once.

#![allow(dead_code, reason = "no file of tests uses all of it")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Program};
use lambda_lab::servers::Database;
use serde_json::Value;

pub(crate) const HEADER: &str = "transaction_id,account_id,transaction_type,amount,timestamp,\
                      merchant_category,location,card_present,risk_score\n";

/// Deadline of a run, including a lease that must end first.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// The setup of every test.
pub(crate) struct Bench {
    pub(crate) context: Context,
    pub(crate) database: Database,
    pub(crate) sql: Connection,
    pub(crate) folder: PathBuf,
}

impl Bench {
    pub(crate) async fn new(context: Context) -> Result<Self, Failure> {
        let database = context.database().await?;
        Self::on(context, database).await
    }

    pub(crate) async fn on(context: Context, database: Database) -> Result<Self, Failure> {
        let (sql, folder) = (database.connect().await?, context.folder()?);
        Ok(Self { context, database, sql, folder })
    }

    pub(crate) fn program(&self, paths: &[&Path]) -> Program {
        self.human(paths).args(["--output", "json"])
    }

    /// Prints its summary as text.
    pub(crate) fn human(&self, paths: &[&Path]) -> Program {
        let program = self.context.program(env!("CARGO_BIN_EXE_lambda-csv-batch"));
        program.envs(self.database.environment()).args(paths)
    }

    /// Runs to the end and returns the report of its only file.
    pub(crate) async fn load(
        &self,
        path: &Path,
        flags: &[&str],
        code: i32,
    ) -> Result<Value, Failure> {
        let ended = self.program(&[path]).args(flags).run(DEADLINE).await?.expect_code(code)?;
        Ok(ended.json("files")?["files"][0].clone())
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<i64, Failure> {
        Ok(self.sql.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Waits until `sql` returns true.
    pub(crate) async fn until(&self, sql: &str) -> Result<(), Failure> {
        until(sql, async || Ok(self.sql.query_one(sql, &[]).await?.try_get(0)?)).await
    }

    /// Waits until a backend of this platform waits for a lock here; `purpose` is its
    /// connection's purpose.
    pub(crate) async fn until_blocked(&self, purpose: &str) -> Result<(), Failure> {
        let waits = format!(
            "select count(*) > 0 from pg_stat_activity where datname = current_database() \
             and application_name = 'lambda-{purpose}' and wait_event_type = 'Lock'"
        );
        self.until(&waits).await
    }

    /// All rows of all tables, and which transactions wrote them: equal before and after a run
    /// that must write nothing.
    pub(crate) async fn everything(&self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        for table in
            ["lambda.batch_jobs", "ingest_progress", "transactions", "dead_letters", "corrections"]
        {
            let sql = format!(
                "select coalesce(md5(string_agg(t.xmin || t::text, ',' order by t::text)), '') \
                 from {table} t"
            );
            all.push(self.sql.query_one(&sql, &[]).await?.try_get(0)?);
        }
        Ok(all)
    }

    /// Waits until some records are stored.
    pub(crate) async fn wait_for_progress(&self) -> Result<(), Failure> {
        self.until("select coalesce(sum(read), 0) > 0 from ingest_progress").await
    }

    /// Ends the lease, as if its time had passed.
    pub(crate) async fn end_lease(&self) -> Result<(), Failure> {
        let sql = "update batch_jobs set lease_until = now() where lease_until > now()";
        self.sql.execute(sql, &[]).await?;
        Ok(())
    }

    /// Checks that there is one completed job, whose counts are those of `records` new rows,
    /// and that all of them are stored.
    pub(crate) async fn is_exact(&self, records: usize) -> Result<(), Failure> {
        let records = records as i64;
        assert_eq!(self.number("select count(*) from transactions").await?, records);
        let job = "select job_id, status, read, inserted, records from batch_jobs";
        let row = self.sql.query_one(job, &[]).await?;
        assert_eq!(row.try_get::<_, &str>("job_id")?, "BAT00001");
        assert_eq!(row.try_get::<_, &str>("status")?, "completed");
        for count in ["read", "inserted", "records"] {
            assert_eq!(row.try_get::<_, i64>(count)?, records, "{count}");
        }
        let unfinished = "select count(*) from ingest_progress where position <> end_position";
        assert_eq!(self.number(unfinished).await?, 0);
        let others = "select count(*) from transactions where job_id <> 'BAT00001'";
        assert_eq!(self.number(others).await?, 0);
        Ok(())
    }

    pub(crate) async fn is_empty(&self) -> Result<(), Failure> {
        for table in ["transactions", "batch_jobs", "ingest_progress", "dead_letters"] {
            assert_eq!(self.number(&format!("select count(*) from {table}")).await?, 0, "{table}");
        }
        Ok(())
    }
}

pub(crate) fn row(number: usize) -> String {
    format!(
        "TXN-{number:012},ACC-{:05},purchase,{}.{:02},2025-06-19 10:00:{:02}.5,groceries,\
         \"Paris, FR\",true,0.25\n",
        number % 1_000,
        number % 10_000,
        number % 100,
        number % 60,
    )
}

pub(crate) fn rows(count: usize) -> String {
    let mut text = HEADER.to_owned();
    (0..count).for_each(|number| text.push_str(&row(number)));
    text
}

pub(crate) fn gzip(content: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// Compresses with a checksum, as the command `zstd` does.
pub(crate) fn zstandard(content: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
    encoder.include_checksum(true)?;
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// Inserts a row with the id of that number's [`row`]. While the transaction is open,
/// loaders of that id wait for it.
pub(crate) async fn hold_id(client: &Connection, number: usize) -> Result<(), Failure> {
    let sql = format!(
        "insert into transactions (transaction_id, account_id, transaction_type, amount, event_time, \
                                   ingestion_type, lane, position, checksum, written_xid) \
         values ('TXN-{number:012}', 'ACC', 'refund', 1, now(), 'STREAM', 0, 0, 0, 0)"
    );
    Ok(client.batch_execute(&sql).await?)
}

/// Starts a run of a file with row 2. The run has stored everything and waits before its
/// job's end until the transaction of the connection ends.
pub(crate) async fn all_but_the_end(
    bench: &Bench,
    path: &Path,
    flags: &[&str],
) -> Result<(Process, Connection), Failure> {
    let (first, holder) = (bench.database.connect().await?, bench.database.connect().await?);
    first.batch_execute("begin").await?;
    hold_id(&first, 2).await?;
    let process = bench.program(&[path]).args(flags).start()?;
    bench.until_blocked("batch").await?;
    holder.batch_execute("begin; select from batch_jobs for update").await?;
    first.batch_execute("rollback").await?;
    bench.until_blocked("job").await?;
    bench.until("select bool_and(position = end_position) from ingest_progress").await?;
    Ok((process, holder))
}
