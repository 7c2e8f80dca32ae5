//! Connections that break at the worst moment, and servers that go away and come
//! back: the real binaries, through a proxy or on servers of the test's own.

mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lambda_core::outcome::Authority;
use lambda_core::postgres::PostgresSink;
use lambda_core::progress::{LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink as _};
use lambda_core::testing::draft::{Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::ledger::Ledger;
use lambda_lab::processes::{Program, Signal};
use lambda_lab::proxy::{At, Fault, Proxy};
use lambda_lab::servers::{Database, OwnPostgres};

use support::{Bench, DEADLINE, until};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.kafka("answers to COMMIT that are lost cost and repeat nothing", answers_lost);
        suite.kafka("COMMITs that never arrive cost and repeat nothing", commits_lost);
        suite.kafka("connections cut inside COPY cost and repeat nothing", copies_cut);
        suite.plain("a commit that its old backend is still at counts", still_committing);
        suite.plain(
            "a frozen backend that has COMMIT before it commits nothing later",
            frozen_backend,
        );
    })
}

/// A proxy before the database's server.
async fn proxy(database: &Database) -> Result<Proxy, Failure> {
    let login = database.login();
    Proxy::start(format!("{}:{}", login.host, login.port)).await
}

/// A consumer that reaches the database through the proxy only.
fn consumer(bench: &Bench, proxy: &Proxy) -> Program {
    let port = proxy.port().to_string();
    bench.consumer().env("DB_HOST", "127.0.0.1").env("DB_PORT", port)
}

/// How often connections break in a test.
const FAULTS: u32 = 5;

/// Two consumers whose connections break again and again, each time after more
/// was stored.
async fn breaking(context: Context, at: At, fault: Fault) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let proxy = proxy(&bench.database).await?;
    let consumers = [consumer(&bench, &proxy).start()?, consumer(&bench, &proxy).start()?];
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    let producer = bench.producer(30_000, 3_000).start()?;
    for faults in 1..=FAULTS {
        let before = bench.read().await?;
        proxy.break_next(at, fault);
        let broken = tokio::time::timeout(DEADLINE, proxy.has_broken(faults)).await;
        broken.map_err(|_| format!("only {} connections broke", proxy.faults()))?;
        bench.stored(before + 1).await?;
    }
    producer.wait(DEADLINE).await?.expect_code(0)?;
    bench.stored(30_000).await?;
    for consumer in consumers {
        consumer.signal(Signal::TERM)?;
        consumer.wait(DEADLINE).await?.expect_code(0)?;
    }
    bench.is_exact(&Ledger::read(&bench.ledger)?).await
}

async fn answers_lost(context: Context) -> Result<(), Failure> {
    breaking(context, At::Commit, Fault::LoseAnswer).await
}

async fn commits_lost(context: Context) -> Result<(), Failure> {
    breaking(context, At::Commit, Fault::Cut).await
}

async fn copies_cut(context: Context) -> Result<(), Failure> {
    breaking(context, At::Copy, Fault::Cut).await
}

/// A sink behind a proxy, one lane of it claimed, and a batch for that lane.
struct OneCommit {
    postgres: OwnPostgres,
    database: Database,
    proxy: Arc<Proxy>,
    sink: Arc<PostgresSink>,
    lane: Progress,
}

impl OneCommit {
    async fn new(context: &Context) -> Result<Self, Failure> {
        let postgres = context.own_postgres(&[]).await?;
        let database = postgres.database().await?;
        database.connect().await?.batch_execute(SAMPLE_DDL).await?;
        let proxy = Arc::new(proxy(&database).await?);
        let mut login = database.login().clone();
        login.port = proxy.port();
        let sink = PostgresSink::connect(login.config(), &SAMPLES, "stream", 2, None).await?;
        let name = LaneName { pipeline: "samples".into(), source: "s".into(), partition: 0 };
        let owner = "a test".to_owned();
        let request =
            ClaimRequest { name, first_position: 0, owner, group: None, take_over: false };
        let lane = sink.claim(&request).await?;
        Ok(Self { postgres, database, proxy, sink: Arc::new(sink), lane })
    }

    /// Commits a batch of one record, in the background.
    fn commit(
        &self,
        durability: Durability,
    ) -> tokio::task::JoinHandle<Result<Committed, lambda_core::Error>> {
        let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&self.lane, 10);
        let batch = draft.record(3, &Sample::new("a", 1)).build();
        let sink = Arc::clone(&self.sink);
        tokio::spawn(async move { sink.commit(&batch, durability).await })
    }

    async fn position(&self) -> Result<i64, Failure> {
        let sql = "select position from ingest_progress";
        Ok(self.database.connect().await?.query_one(sql, &[]).await?.try_get(0)?)
    }
}

async fn still_committing(context: Context) -> Result<(), Failure> {
    let one = OneCommit::new(&context).await?;
    one.proxy.break_next(At::Commit, Fault::Hold);
    let commit = one.commit(Durability::Durable);
    one.proxy.held().await;
    // From here on a commit is in the log, and not seen by others before a standby
    // has it.
    let sql = one.database.connect().await?;
    sql.batch_execute("alter system set synchronous_standby_names = 'nobody'").await?;
    sql.batch_execute("select pg_reload_conf()").await?;
    let other = one.database.connect().await?;
    let waits = tokio::spawn(async move { other.batch_execute("create table t ()").await });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until(&sql, waiting, 1).await?;
    one.proxy.leave_behind();
    let committed = commit.await??;
    assert_eq!(committed.fenced, []);
    assert_eq!(committed.stored.len(), 1, "it was committed, and its lane is still ours");
    assert_eq!(committed.stored[0].position, 10);
    assert_eq!(one.position().await?, 10);
    waits.abort();
    Ok(())
}

async fn frozen_backend(context: Context) -> Result<(), Failure> {
    let one = OneCommit::new(&context).await?;
    one.proxy.break_next(At::Commit, Fault::Hold);
    let commit = one.commit(Durability::Visible);
    let backend = format!("({})", one.proxy.held().await);
    one.postgres.server.signal(&backend, Signal::STOP)?;
    one.proxy.leave_behind();
    // It holds the lane, so nothing can be known before it goes on.
    let settling = "select count(*) from pg_stat_activity where application_name = 'lambda-settle' \
                    and wait_event_type = 'Lock'";
    let sql = one.database.connect().await?;
    until(&sql, settling, 1).await?;
    assert!(!commit.is_finished(), "told before it could be known");
    one.postgres.server.signal(&backend, Signal::CONT)?;
    let told = commit.await?;
    let position = one.position().await?;
    match told {
        Ok(committed) => assert_eq!((committed.stored.len(), position), (1, 10)),
        Err(_) => assert_eq!(position, 0, "told as not committed"),
    }
    Ok(())
}
