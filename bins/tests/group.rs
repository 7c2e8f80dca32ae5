//! A consumer group whose members come, go, die and freeze, on the real broker,
//! and loaders that hold what others need.

mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use lambda_lab::Failure;
use lambda_lab::freeze;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Process, Signal};
use lambda_lab::servers::OwnPostgres;

use support::{Bench, DEADLINE};

/// Every test here has this many partitions.
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
    })
}

/// A bench on a PostgreSQL of the test's own: on this machine a session is known
/// by its port.
async fn bench(context: Context) -> Result<(OwnPostgres, Bench), Failure> {
    let postgres = context.own_postgres(&[]).await?;
    let database = postgres.database().await?;
    let topic = context.topic("transactions", PARTITIONS).await?;
    let bootstrap = context.bootstrap().await?;
    Ok((postgres, Bench::with(context, database, topic, bootstrap).await?))
}

/// A lane as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    position: i64,
    claim: String,
}

/// The lanes a process holds, by its number beside the claims.
async fn lanes_of(bench: &Bench, process: &Process) -> Result<BTreeMap<i32, Lane>, Failure> {
    let sql = "select partition, position, claim::text from ingest_progress where owner like $1";
    let owner = format!("% pid {}", process.pid());
    let rows = bench.sql.query(sql, &[&owner]).await?;
    let lanes = rows.iter().map(|row| {
        Ok((row.try_get(0)?, Lane { position: row.try_get(1)?, claim: row.try_get(2)? }))
    });
    lanes.collect()
}

/// Waits until the process has stored something under a claim it has now.
async fn stores(bench: &Bench, process: &Process) -> Result<(), Failure> {
    let mut seen: BTreeMap<i32, Lane> = BTreeMap::new();
    let waited = tokio::time::timeout(DEADLINE, async {
        loop {
            for (partition, lane) in lanes_of(bench, process).await? {
                let first = seen.entry(partition).or_insert_with(|| lane.clone());
                if first.claim != lane.claim {
                    *first = lane;
                } else if first.position < lane.position {
                    return Ok::<_, Failure>(());
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.map_err(|_| format!("it stores nothing:\n{}", process.stderr()))?
}

/// Waits until all these lanes have moved on under other claims.
async fn moved_on(bench: &Bench, lanes: &BTreeMap<i32, Lane>) -> Result<(), Failure> {
    let sql = "select position, claim::text from ingest_progress where partition = $1";
    let waited = tokio::time::timeout(DEADLINE, async {
        for (partition, before) in lanes {
            loop {
                let row = bench.sql.query_one(sql, &[partition]).await?;
                let (position, claim): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
                if claim != before.claim && position > before.position {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        Ok::<_, Failure>(())
    });
    waited.await.map_err(|_| format!("these lanes were left: {lanes:?}"))?
}

async fn classic(context: Context) -> Result<(), Failure> {
    churn(context, "").await
}

async fn broker_side(context: Context) -> Result<(), Failure> {
    churn(context, "group.protocol=consumer").await
}

async fn churn(context: Context, settings: &str) -> Result<(), Failure> {
    let (_postgres, bench) = bench(context).await?;
    let consumer = bench.consumer().env("KAFKA_CONFIG", settings);
    let mut members = vec![consumer.start()?, consumer.start()?, consumer.start()?];
    let producer = bench.traffic(4_000).start()?;
    for member in &members {
        stores(&bench, member).await?;
    }

    // One freezes inside COPY: the others take its lanes over, by ending its backend.
    let caught = freeze::inside_copy(&members, &bench.sql).await?;
    let at = Instant::now();
    let frozen = members.remove(caught.index);
    let lanes = lanes_of(&bench, &frozen).await?;
    assert!(!lanes.is_empty());
    moved_on(&bench, &lanes).await?;
    eprintln!("{settings:?}: {lanes:?} taken over in {:?}", at.elapsed());
    let backend = format!("select count(*) from pg_stat_activity where pid = {}", caught.backend);
    assert_eq!(bench.number(&backend).await?, 0, "the frozen member's backend was ended");

    // One is killed inside COPY while others join.
    let caught = freeze::inside_copy(&members, &bench.sql).await?;
    let killed = members.remove(caught.index);
    let lanes = lanes_of(&bench, &killed).await?;
    killed.kill().await?;
    members.extend([consumer.start()?, consumer.start()?]);
    moved_on(&bench, &lanes).await?;

    // One leaves in order, and the frozen one wakes.
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
