//! Connections that break at the worst moment, and servers that go away and come back: the
//! real binaries, through a proxy or on the test's own servers.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lambda_core::outcome::Authority;
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::{Connection, PostgresSink};
use lambda_core::progress::{LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink as _};
use lambda_core::testing::draft::{Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::ledger::Ledger;
use lambda_lab::liveness;
use lambda_lab::processes::{Process, Program, Signal};
use lambda_lab::proxy::{At, Fault, Proxy};
use lambda_lab::servers::{Database, OwnPostgres};

use support::{Bench, DEADLINE, until};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        // Longest first.
        suite.kafka("a database that goes silent is given up for one that answers", silent);
        suite.kafka("messages that a database crash loses are read again, idle or not", rewound);
        suite.kafka("the database may be away during a rebalance", database_away);
        suite.real_kafka("the broker may be away between commits", broker_away);
        suite
            .plain("a load that loses stored chunks in a crash completes only whole", load_rewound);
        suite.real_kafka("a consumer that librdkafka declares dead is replaced in place", replaced);
        suite.kafka(
            "answers to COMMIT that are lost neither lose nor repeat a record",
            answers_lost,
        );
        suite.kafka("COMMITs that never arrive neither lose nor repeat a record", commits_lost);
        suite.kafka("connections cut inside COPY neither lose nor repeat a record", copies_cut);
        suite.plain("a commit that its old backend is still executing counts", still_committing);
        suite.plain("a backend frozen before its COMMIT commits nothing later", frozen_backend);
    })
}

/// A proxy in front of the database server.
async fn proxy(database: &Database) -> Result<Proxy, Failure> {
    let login = database.login();
    Proxy::start(format!("{}:{}", login.host, login.port)).await
}

/// A consumer that reaches the database through the proxy only.
fn consumer(bench: &Bench, proxy: &Proxy) -> Program {
    let port = proxy.port().to_string();
    bench.consumer().env("DB_HOST", "127.0.0.1").env("DB_PORT", port)
}

/// Number of times that connections break in a test.
const FAULTS: u32 = 5;

/// Two consumers whose connections break again and again, each time after they stored
/// more.
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
        registry::register(database.config(), &[&SAMPLES]).await?;
        let proxy = Arc::new(proxy(&database).await?);
        let mut login = database.login().clone();
        login.port = proxy.port();
        let sink = PostgresSink::connect(login.config(), &SAMPLES, "stream", 2, None).await?;
        let name = LaneName { pipeline: "samples".into(), source: "s".into(), partition: 0 };
        let owner = "a test".to_owned();
        let request = ClaimRequest {
            name,
            first_position: 0.into(),
            format: "json".into(),
            owner,
            group: None,
            take_over: false,
            given_up: None,
        };
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
    // From here on a commit is in the log, but not visible to others before a standby has
    // it.
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
    // It holds the lane, so the outcome is unknown until it continues.
    let settling = "select count(*) from pg_stat_activity where application_name = 'lambda-settle' \
                    and wait_event_type = 'Lock'";
    let sql = one.database.connect().await?;
    until(&sql, settling, 1).await?;
    assert!(!commit.is_finished(), "reported before it could be known");
    one.postgres.server.signal(&backend, Signal::CONT)?;
    let told = commit.await?;
    let position = one.position().await?;
    match told {
        Ok(committed) => assert_eq!((committed.stored.len(), position), (1, 10)),
        Err(_) => assert_eq!(position, 0, "reported as not committed"),
    }
    Ok(())
}

/// Settings under which only the walwriter, or a session that waits for the disk, makes
/// commits durable.
const LAZY: [&str; 4] =
    ["wal_buffers=256MB", "autovacuum=off", "bgwriter_lru_maxpages=0", "checkpoint_timeout=1h"];

async fn positions(sql: &Connection) -> Result<BTreeMap<i32, i64>, Failure> {
    let rows = sql.query("select lane, position from ingest_progress", &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Kills the database, whose walwriter is stopped, and restarts it behind the closed proxy.
/// Returns the positions that were visible before, and those that are left.
async fn crash(
    postgres: &mut OwnPostgres,
    database: &Database,
    proxy: &Proxy,
) -> Result<[BTreeMap<i32, i64>; 2], Failure> {
    proxy.cut();
    let before = positions(&database.connect().await?).await?;
    postgres.server.kill()?;
    postgres.server.start_again().await?;
    let after = positions(&database.connect().await?).await?;
    Ok([before, after])
}

async fn rewound(context: Context) -> Result<(), Failure> {
    let mut postgres = context.own_postgres(&LAZY).await?;
    let database = postgres.database().await?;
    let topic = context.topic("transactions", 6).await?;
    let bootstrap = context.bootstrap().await?;
    let mut bench = Bench::with(context, database.clone(), topic, bootstrap).await?;
    let proxy = proxy(&database).await?;
    let consumers = [consumer(&bench, &proxy).start()?, consumer(&bench, &proxy).start()?];
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    let producer = bench.traffic(5_000).start()?;
    bench.stored(5_000).await?;
    postgres.server.signal("walwriter", Signal::STOP)?;
    bench.stored(bench.read().await? + 10_000).await?;
    producer.signal(Signal::TERM)?;
    producer.wait(DEADLINE).await?.expect_code(0)?;
    let ledger = Ledger::read(&bench.ledger)?;
    bench.stored(ledger.kinds().all()).await?;
    // Nothing is in flight, and no further message arrives.
    let [before, after] = crash(&mut postgres, &database, &proxy).await?;
    assert_eq!(before.len(), 6);
    for (lane, before) in before {
        assert!(after[&lane] < before, "lane {lane} lost nothing: {before}");
    }
    proxy.mend();
    bench.sql = database.connect().await?;
    bench.stored(ledger.kinds().all()).await?;
    for consumer in consumers {
        consumer.signal(Signal::TERM)?;
        consumer.wait(DEADLINE).await?.expect_code(0)?;
    }
    bench.is_exact(&ledger).await
}

const HEADER: &str = "transaction_id,account_id,transaction_type,amount,timestamp,\
                      merchant_category,location,card_present,risk_score\n";

async fn load_rewound(context: Context) -> Result<(), Failure> {
    const RECORDS: i64 = 200_000;
    let mut postgres = context.own_postgres(&LAZY).await?;
    let database = postgres.database().await?;
    let proxy = proxy(&database).await?;
    let path = context.folder()?.join("a.csv");
    let rows = (0..RECORDS).map(|number| {
        format!(
            "TXN-{number:08},ACC-{},deposit,1.25,2026-01-01 00:00:00,,,true,0.5\n",
            number % 997
        )
    });
    fs::write(&path, HEADER.to_owned() + &rows.collect::<String>())?;
    let program = context
        .program(env!("CARGO_BIN_EXE_lambda-csv-batch"))
        .envs(database.environment())
        .env("DB_PORT", proxy.port().to_string())
        .args(["--workers", "1"])
        .arg(&path);
    let load = program.start()?;
    let sql = database.connect().await?;
    let started = "select count(*) from batch_jobs where status = 'running'";
    until(&sql, started, 1).await?;
    postgres.server.signal("walwriter", Signal::STOP)?;
    // The loader stores everything and is blocked when it completes the job.
    sql.batch_execute("begin; select from batch_jobs for update").await?;
    let look = database.connect().await?;
    let ending = "select count(*) from pg_stat_activity where query like '%from lambda.batch_jobs where id = % for update' \
                  and wait_event_type = 'Lock'";
    until(&look, ending, 1).await?;
    let unfinished = "select count(*) from ingest_progress where position < end_position";
    until(&look, unfinished, 0).await?;
    let [before, after] = crash(&mut postgres, &database, &proxy).await?;
    let sql = database.connect().await?;
    assert!(before.iter().any(|(lane, before)| after[lane] < *before), "nothing was lost");
    let completed = "select count(*) from batch_jobs where status = 'completed'";
    until(&sql, completed, 0).await?;
    proxy.mend();
    // The chunks that the crash took back are left to the next run.
    let ended = load.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("chunks are stored"), "{}", ended.stderr);
    until(&sql, completed, 0).await?;
    program.run(DEADLINE).await?.expect_code(0)?;
    let count = "select count(*) from transactions";
    until(&sql, completed, 1).await?;
    until(&sql, count, RECORDS).await?;
    let read = "select sum(read)::bigint from ingest_progress where position = end_position";
    until(&sql, read, RECORDS).await
}

/// Waits until every lane has moved.
async fn all_move(bench: &Bench) -> Result<(), Failure> {
    let before = positions(&bench.sql).await?;
    liveness::until(format!("all lanes have moved on from {before:?}"), async || {
        let now = positions(&bench.sql).await?;
        Ok(before.iter().all(|(lane, before)| now[lane] > *before))
    })
    .await
}

/// Number of times that a consumer was granted partitions.
fn grants(consumer: &Process) -> usize {
    consumer.stderr().matches("the group grants partitions").count()
}

async fn database_away(context: Context) -> Result<(), Failure> {
    let mut postgres = context.own_postgres(&[]).await?;
    let database = postgres.database().await?;
    let topic = context.topic("transactions", 6).await?;
    let bootstrap = context.bootstrap().await?;
    let mut bench = Bench::with(context, database, topic, bootstrap).await?;
    // The group removes a member that does not poll for this long.
    let consumer = bench.consumer().env("KAFKA_CONFIG", "max.poll.interval.ms=7000");
    let [first, mut second, mut third] = [consumer.start()?, consumer.start()?, consumer.start()?];
    for consumer in [&first, &second, &third] {
        bench.holds_lanes(consumer).await?;
    }
    let producer = bench.traffic(4_000).start()?;
    bench.stored(2_000).await?;

    postgres.server.kill()?;
    let granted = grants(&second) + grants(&third);
    first.kill().await?;
    second.says("pausing: the database accepts no batches", DEADLINE).await?;
    third.says("pausing: the database accepts no batches", DEADLINE).await?;
    let regrouped = async || Ok(grants(&second) + grants(&third) > granted);
    liveness::until("the killed member's partitions are granted to others", regrouped).await?;
    // Time for which the database is away, not a deadline.
    tokio::time::sleep(Duration::from_secs(9)).await;
    postgres.server.start_again().await?;

    bench.sql = bench.database.connect().await?;
    all_move(&bench).await?;
    for consumer in [&second, &third] {
        bench.holds_lanes(consumer).await?;
        let said = consumer.stderr();
        assert!(!said.contains("lost=true") && !said.contains("poll interval"), "{said}");
    }
    bench.ends_exact(producer, [second, third]).await
}

async fn broker_away(context: Context) -> Result<(), Failure> {
    let kafka = context.own_kafka(None).await?;
    let topic = kafka.broker().topic("transactions", 6).await?;
    let bootstrap = kafka.broker().bootstrap().to_owned();
    let database = context.database().await?;
    let bench = Bench::with(context, database, topic, bootstrap).await?;
    let consumers = [bench.consumer().start()?, bench.consumer().start()?];
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    let producer = bench.traffic(4_000).start()?;
    bench.stored(4_000).await?;
    kafka.kill().await?;
    kafka.start_again().await?;
    all_move(&bench).await?;
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    bench.ends_exact(producer, consumers).await
}

async fn silent(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let proxy = proxy(&bench.database).await?;
    let consumers = [consumer(&bench, &proxy).start()?, consumer(&bench, &proxy).start()?];
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    let producer = bench.traffic(2_000).start()?;
    bench.stored(2_000).await?;
    proxy.silence();
    // Longer than a login may take.
    tokio::time::sleep(Duration::from_secs(12)).await;
    proxy.mend();
    all_move(&bench).await?;
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    bench.ends_exact(producer, consumers).await
}

/// To librdkafka a static member is dead while another one has its name.
async fn replaced(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let settings = "group.protocol=consumer\ngroup.instance.id=one";
    let consumer = bench.consumer().env("KAFKA_CONFIG", settings);
    let first = consumer.start()?;
    let producer = bench.traffic(2_000).start()?;
    bench.stored(1_000).await?;
    let mut second = consumer.start()?;
    second.says("starting another one", DEADLINE).await?;
    first.kill().await?;
    all_move(&bench).await?;
    bench.holds_lanes(&second).await?;
    bench.ends_exact(producer, [second]).await
}
