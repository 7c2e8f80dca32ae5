//! The first act: three consumers, one of which is frozen inside COPY and killed.

use std::time::{Duration, Instant};

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::demo::Options;
use crate::demo::stage::{Narrator, Stage};
use crate::freeze;
use crate::ledger::Ledger;
use crate::liveness::until;
use crate::processes::{Process, Signal};

/// Number of consumers that share the topic.
const CONSUMERS: usize = 3;

/// Deadline of each step.
const PATIENCE: Duration = Duration::from_mins(1);

/// Streams, kills, shows the takeover, and drains. Returns what the producer
/// delivered.
pub(super) async fn act(
    options: &Options,
    stage: &Stage,
    sql: &Connection,
    narrator: &mut Narrator<'_>,
) -> Result<Ledger, Failure> {
    let consumer = stage
        .loader("lambda-consumer")
        .env("KAFKA_GROUP_ID", "demo")
        // A dead member is replaced after this time; the default is 6 s.
        .env("KAFKA_CONFIG", "session.timeout.ms=4000\nheartbeat.interval.ms=500");
    let mut consumers = Vec::with_capacity(CONSUMERS);
    for _ in 0..CONSUMERS {
        consumers.push(consumer.start()?);
    }
    let pids: Vec<String> = consumers.iter().map(|process| process.pid().to_string()).collect();
    narrator.tell("lambda-consumer", format_args!("{CONSUMERS} processes: {}", pids.join(", ")))?;

    let ledger_file = stage.folder().join("ledger");
    let producer = stage
        .loader("lambda-producer-stream")
        .args(["--seed", "1", "--duplicate-ratio", "0.02", "--invalid-ratio", "0.01"])
        .args(["--rate", &options.rate.to_string()])
        .arg("--ledger")
        .arg(&ledger_file)
        .start()?;
    narrator.tell(
        "lambda-producer",
        format_args!("{} transactions a second, 2% of them repeated, 1% invalid", options.rate),
    )?;
    everyone_works(sql, &consumers).await?;
    kill_one(sql, &mut consumers, narrator).await?;

    producer.signal(Signal::TERM)?;
    let ended = producer.wait(PATIENCE).await?.expect_code(0)?;
    narrator.output("lambda-producer", &ended.stdout)?;
    let ledger = Ledger::read(&ledger_file)?;
    drain(sql, &ledger, consumers, narrator).await?;
    Ok(ledger)
}

/// Waits until each consumer holds lanes and has stored something from one.
async fn everyone_works(sql: &Connection, consumers: &[Process]) -> Result<(), Failure> {
    let pids: Vec<String> =
        consumers.iter().map(|process| format!("%pid {}", process.pid())).collect();
    let working = "select count(distinct owner) = $2 from lambda.ingest_progress \
                   where owner like any($1::text[]) and read > 0";
    let wanted = i64::try_from(consumers.len())?;
    until("each consumer stores records", async || {
        Ok(sql.query_one(working, &[&pids, &wanted]).await?.try_get(0)?)
    })
    .await
}

async fn kill_one(
    sql: &Connection,
    consumers: &mut Vec<Process>,
    narrator: &mut Narrator<'_>,
) -> Result<(), Failure> {
    let frozen = freeze::inside_copy(consumers, sql).await?;
    let victim = consumers.swap_remove(frozen.index);
    let lanes = lanes_of(sql, &victim).await?;
    narrator.tell(
        "frozen",
        format_args!(
            "consumer {} by SIGSTOP, inside COPY: backend {} holds {} uncommitted rows ({} tries)",
            victim.pid(),
            frozen.backend,
            frozen.rows,
            frozen.misses + 1
        ),
    )?;
    let positions: Vec<String> = lanes.iter().map(ToString::to_string).collect();
    narrator.more(format_args!("stored positions: {}", positions.join(", ")))?;

    let (pid, killed) = (victim.pid(), Instant::now());
    victim.kill().await?;
    narrator
        .tell("killed", format_args!("consumer {pid} by SIGKILL: its uncommitted rows are gone"))?;

    let partitions: Vec<i32> = lanes.iter().map(|lane| lane.partition).collect();
    let taken = "select count(*) = 0 from lambda.ingest_progress \
                 where partition = any($1) and owner like $2 and end_position is null";
    let owner = format!("%pid {pid}");
    until("the others take its partitions", async || {
        Ok(sql.query_one(taken, &[&partitions, &owner]).await?.try_get(0)?)
    })
    .await?;
    let seconds = killed.elapsed().as_secs_f64();
    narrator.tell(
        "taken over",
        format_args!("after {seconds:.1} s the others continue from those positions"),
    )?;
    Ok(())
}

/// A partition and its stored position.
struct Lane {
    partition: i32,
    position: i64,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.partition, self.position)
    }
}

async fn lanes_of(sql: &Connection, consumer: &Process) -> Result<Vec<Lane>, Failure> {
    let held =
        "select partition, position from lambda.ingest_progress where owner like $1 order by 1";
    let rows = sql.query(held, &[&format!("%pid {}", consumer.pid())]).await?;
    let lane = |row: &tokio_postgres::Row| {
        Ok(Lane { partition: row.try_get(0)?, position: row.try_get(1)? })
    };
    rows.iter().map(lane).collect()
}

/// Waits until everything delivered was read, then ends the consumers as a deployment
/// does.
async fn drain(
    sql: &Connection,
    ledger: &Ledger,
    consumers: Vec<Process>,
    narrator: &mut Narrator<'_>,
) -> Result<(), Failure> {
    let read = "select coalesce(sum(read), 0)::bigint >= $1 from lambda.ingest_progress";
    let delivered = ledger.kinds().all();
    until("all that was delivered is stored", async || {
        Ok(sql.query_one(read, &[&delivered]).await?.try_get(0)?)
    })
    .await?;
    for consumer in consumers {
        consumer.signal(Signal::TERM)?;
        consumer.wait(PATIENCE).await?.expect_code(0)?;
    }
    narrator.tell(
        "drained",
        format_args!(
            "all {delivered} messages are read; the consumers stopped on SIGTERM, exit code 0"
        ),
    )?;
    Ok(())
}
