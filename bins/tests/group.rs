//! A consumer group whose members join, leave, die and freeze, on the real broker, and
//! loaders that hold locks that others need.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lambda_lab::Failure;
use lambda_lab::freeze;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Program, Signal};
use lambda_lab::servers::OwnPostgres;

use support::{Bench, DEADLINE};

/// Number of partitions in each test.
const PARTITIONS: i32 = 6;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(240);
        suite.real_kafka(
            "members frozen inside COPY, killed, joining and leaving store every message once",
            classic,
        );
        suite.real_kafka(
            "the same under the broker-side group protocol stores every message once",
            broker_side,
        );
        suite.kafka("a frozen load's ids are freed for a consumer that needs them", frozen_load);
        suite
            .kafka("a frozen consumer's ids are freed for a load that needs them", frozen_consumer);
        suite.kafka("a group does not fight another one that takes over", take_over);
    })
}

/// A bench on the test's own PostgreSQL: on this machine a session is identified by its
/// port.
async fn bench(context: Context) -> Result<(OwnPostgres, Bench), Failure> {
    let postgres = context.own_postgres(&[]).await?;
    let database = postgres.database().await?;
    let topic = context.topic("transactions", PARTITIONS).await?;
    let bootstrap = context.bootstrap().await?;
    Ok((postgres, Bench::with(context, database, topic, bootstrap).await?))
}

/// Current state of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    position: i64,
    claim: String,
}

/// The lanes that a process holds, by the process id stored beside its claims.
async fn lanes_of(bench: &Bench, process: &Process) -> Result<BTreeMap<i32, Lane>, Failure> {
    let sql = "select partition, position, claim::text from ingest_progress where owner like $1";
    let owner = format!("% pid {}", process.pid());
    let rows = bench.sql.query(sql, &[&owner]).await?;
    let lanes = rows.iter().map(|row| {
        Ok((row.try_get(0)?, Lane { position: row.try_get(1)?, claim: row.try_get(2)? }))
    });
    lanes.collect()
}

/// Waits until the process has stored something under a current claim.
async fn stores(bench: &Bench, process: &Process) -> Result<(), Failure> {
    let mut seen: BTreeMap<i32, Lane> = BTreeMap::new();
    let waited = until("it stores something", async || {
        for (partition, lane) in lanes_of(bench, process).await? {
            let first = seen.entry(partition).or_insert_with(|| lane.clone());
            if first.claim != lane.claim {
                *first = lane;
            } else if first.position < lane.position {
                return Ok(true);
            }
        }
        Ok(false)
    });
    waited.await.map_err(|error| format!("{error}:\n{}", process.stderr()).into())
}

/// Waits until these members have moved all these lanes under other claims. Returns the
/// times after which the first and the last lane moved.
async fn moved_on(
    bench: &Bench,
    lanes: &BTreeMap<i32, Lane>,
    members: &[Process],
) -> Result<[Duration; 2], Failure> {
    let sql = "select partition, position, claim::text from ingest_progress";
    let (begun, mut first) = (Instant::now(), None);
    let waited = until(format!("these lanes moved on: {lanes:?}"), async || {
        let rows = bench.sql.query(sql, &[]).await?;
        let moved = rows.iter().filter(|row| {
            lanes.get(&row.get(0)).is_some_and(|before| {
                row.get::<_, String>(2) != before.claim && row.get::<_, i64>(1) > before.position
            })
        });
        let moved = moved.count();
        if moved > 0 {
            first.get_or_insert_with(|| begun.elapsed());
        }
        Ok(moved == lanes.len())
    });
    waited.await.map_err(|error| {
        let told = members.iter().map(|it| format!("pid {}:\n{}", it.pid(), it.stderr()));
        format!("{error}\n{}", told.collect::<Vec<_>>().join("\n"))
    })?;
    let last = begun.elapsed();
    Ok([first.unwrap_or(last), last])
}

const HEADER: &str = "transaction_id,account_id,transaction_type,amount,timestamp,\
                      merchant_category,location,card_present,risk_score\n";

/// Records in the file that is both streamed and loaded.
const RECORDS: i64 = 60_000;

/// Sends a file to the topic and returns its path; the bench's ledger has the deliveries.
async fn streamed_file(bench: &Bench) -> Result<PathBuf, Failure> {
    let path = bench.context.folder()?.join("both.csv");
    let rows = (0..RECORDS).map(|number| {
        format!(
            "TXN-{number:08},ACC-{},deposit,1.25,2026-01-01 00:00:00,,,true,0.5\n",
            number % 997
        )
    });
    fs::write(&path, HEADER.to_owned() + &rows.collect::<String>())?;
    let producer = bench.program(env!("CARGO_BIN_EXE_lambda-producer-stream"));
    let producer = producer.args(["--rate", "0", "--ledger"]).arg(&bench.ledger);
    producer.arg("--from").arg(&path).run(DEADLINE).await?.expect_code(0)?;
    Ok(path)
}

fn loader(bench: &Bench, path: &Path) -> Program {
    let loader = bench.program(env!("CARGO_BIN_EXE_lambda-csv-batch"));
    loader.envs(bench.database.environment()).arg(path)
}

/// Checks that every id is stored once with the file's content, whichever layer was first,
/// and that every record of both layers is counted.
async fn both_are_exact(bench: &Bench) -> Result<(), Failure> {
    let by_layer = "select count(*) filter (where consumer_group is not null), \
                    sum(read) filter (where consumer_group is not null)::bigint, \
                    sum(read) filter (where consumer_group is null)::bigint, \
                    sum(inserted)::bigint, sum(superseded + confirmed)::bigint, \
                    sum(corrected + duplicate + rejected)::bigint from ingest_progress";
    let row = bench.sql.query_one(by_layer, &[]).await?;
    let counts: Vec<i64> = (0..6).map(|column| row.try_get(column)).collect::<Result<_, _>>()?;
    let partitions = i64::from(PARTITIONS);
    assert_eq!(counts, [partitions, RECORDS, RECORDS, RECORDS, RECORDS, 0]);
    let ids = "select count(*) from transactions where ingestion_type = 'BATCH' \
               and job_id = 'BAT00001' and transaction_id like 'TXN-%'";
    assert_eq!(bench.number(ids).await?, RECORDS);
    assert_eq!(bench.number("select count(*) from transactions").await?, RECORDS);
    assert_eq!(bench.number("select count(*) from dead_letters").await?, 0);
    let job = "select count(*) from batch_jobs where status = 'completed'";
    assert_eq!(bench.number(job).await?, 1);
    Ok(())
}

/// Backends of a purpose that wait for another transaction.
fn waiting(purpose: &str) -> String {
    format!(
        "select least(count(*), 1) from pg_stat_activity where datname = current_database() \
         and application_name = '{purpose}' and wait_event_type = 'Lock'"
    )
}

/// Starts a loader and freezes it inside a transaction: another session holds the
/// file's last id, so the loader waits with the earlier ids inserted.
async fn frozen_holding_ids(
    bench: &Bench,
    loader: &Program,
    purpose: &str,
) -> Result<Process, Failure> {
    let other = bench.database.connect().await?;
    let insert = format!(
        "begin; insert into transactions (transaction_id, account_id, transaction_type, amount, \
             event_time, ingestion_type, lane, position, checksum, written_xid) \
         values ('TXN-{:08}', 'A', 'deposit', 1, now(), 'STREAM', 0, 0, 0, 0)",
        RECORDS - 1
    );
    other.batch_execute(&insert).await?;
    let loader = loader.start()?;
    bench.until(&waiting(purpose), 1).await?;
    loader.freeze().await?;
    other.batch_execute("rollback").await?;
    let open = format!(
        "select count(*) from pg_stat_activity where datname = current_database() \
         and application_name = '{purpose}' and wait_event = 'ClientRead' \
         and state in ('active', 'idle in transaction') and backend_xid is not null"
    );
    bench.until(&open, 1).await?;
    Ok(loader)
}

async fn frozen_load(context: Context) -> Result<(), Failure> {
    let (_postgres, bench) = bench(context).await?;
    let path = streamed_file(&bench).await?;
    let load = loader(&bench, &path).args(["--workers", "1"]);
    let load = frozen_holding_ids(&bench, &load, "lambda-batch").await?;
    let consumer = bench.consumer().start()?;
    bench.until(&waiting("lambda-stream"), 1).await?;
    // The load stays frozen: the consumer ends its backend.
    let streamed = "select coalesce(sum(read), 0)::bigint from ingest_progress \
                    where consumer_group is not null";
    bench.until(streamed, RECORDS).await?;
    load.thaw()?;
    load.wait(DEADLINE).await?.expect_code(0)?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    both_are_exact(&bench).await
}

async fn frozen_consumer(context: Context) -> Result<(), Failure> {
    let (_postgres, bench) = bench(context).await?;
    let path = streamed_file(&bench).await?;
    let consumer = frozen_holding_ids(&bench, &bench.consumer(), "lambda-stream").await?;
    let load = loader(&bench, &path).start()?;
    bench.until(&waiting("lambda-batch"), 1).await?;
    // The consumer stays frozen: the load ends its backend.
    load.wait(DEADLINE).await?.expect_code(0)?;
    consumer.thaw()?;
    let streamed = "select coalesce(sum(read), 0)::bigint from ingest_progress \
                    where consumer_group is not null";
    bench.until(streamed, RECORDS).await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    both_are_exact(&bench).await
}

/// Both groups are allowed to take over; the first is running when the second
/// starts.
async fn take_over(context: Context) -> Result<(), Failure> {
    let (_postgres, bench) = bench(context).await?;
    let first = bench.consumer().arg("--take-over");
    let first = [first.start()?, first.start()?];
    let producer = bench.traffic(2_000).start()?;
    for member in &first {
        stores(&bench, member).await?;
    }
    let second = bench.consumer().env("KAFKA_GROUP_ID", format!("{}-other", bench.topic));
    let refused = second.run(DEADLINE).await?.expect_code(78)?;
    assert!(refused.stderr.contains("--take-over"), "{}", refused.stderr);

    let second = second.arg("--take-over");
    let second = [second.start()?, second.start()?];
    for member in first {
        let ended = member.wait(DEADLINE).await?.expect_code(78)?;
        assert!(ended.stderr.contains("-other"), "{}", ended.stderr);
    }
    for member in &second {
        stores(&bench, member).await?;
    }
    bench.ends_exact(producer, second).await
}

async fn classic(context: Context) -> Result<(), Failure> {
    churn(context, "").await
}

async fn broker_side(context: Context) -> Result<(), Failure> {
    churn(context, "group.protocol=consumer").await
}

/// Messages of a burst: some commits of each member.
const BURST: u32 = 100_000;

/// There is always traffic, so that every lane moves, and a burst at full speed before each
/// fault, so that members are inside COPY.
async fn churn(context: Context, settings: &str) -> Result<(), Failure> {
    let (_postgres, bench) = bench(context).await?;
    let consumer = bench.consumer().env("KAFKA_CONFIG", settings);
    let mut members = vec![consumer.start()?, consumer.start()?, consumer.start()?];
    let producer = bench.traffic(4_000).start()?;
    for member in &members {
        stores(&bench, member).await?;
    }

    bench.burst(1, BURST).await?;
    // One freezes inside COPY: the others end its backend and take over its lanes.
    let caught = freeze::inside_copy(&members, &bench.sql).await?;
    let frozen = members.remove(caught.index);
    let lanes = lanes_of(&bench, &frozen).await?;
    assert!(!lanes.is_empty());
    let [first, last] = moved_on(&bench, &lanes, &members).await?;
    // For information only, with RUST_LOG=info: the machine may be busy.
    tracing::info!(settings, ?first, ?last, "others stored a frozen member's lanes");
    let backend = format!("select count(*) from pg_stat_activity where pid = {}", caught.backend);
    assert_eq!(bench.number(&backend).await?, 0, "the frozen member's backend was ended");

    bench.burst(2, BURST).await?;
    // One is killed inside COPY while others join.
    let caught = freeze::inside_copy(&members, &bench.sql).await?;
    let killed = members.remove(caught.index);
    let lanes = lanes_of(&bench, &killed).await?;
    killed.kill().await?;
    members.extend([consumer.start()?, consumer.start()?]);
    moved_on(&bench, &lanes, &members).await?;

    bench.burst(3, BURST).await?;
    // One leaves cleanly, and the frozen one wakes.
    let leaving = members.remove(0);
    leaving.signal(Signal::TERM)?;
    frozen.thaw()?;
    leaving.wait(DEADLINE).await?.expect_code(0)?;
    stores(&bench, &frozen).await?;
    members.push(frozen);
    for member in &members {
        stores(&bench, member).await?;
    }
    bench.ends_exact(producer, members).await
}
