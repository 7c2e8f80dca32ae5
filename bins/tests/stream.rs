//! From a topic to the table, end to end: the real binaries, a real database, real
//! signals.

#[path = "stream/large.rs"]
mod large;
#[path = "stream/partitions.rs"]
mod partitions;
mod support;

use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::ledger::Ledger;
use lambda_lab::liveness;
use lambda_lab::processes::Signal;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::net::{TcpListener, TcpStream};

use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.kafka("three consumers store every message once, ledger and table agree", three);
        suite.kafka("a consumer killed in the middle is replaced by another", killed);
        suite.kafka("SIGTERM drains, exits 0, and the next run continues from there", sigterm);
        suite.kafka("a run to the end that is stopped early exits 75", stopped_early);
        suite.kafka("a consumer that finds no topic waits, and stops on a signal", no_topic);
        suite.kafka("a database that restarts while Kafka is away is waited for", restarted);
        suite.kafka("a connection that broke while idle does not fail a stop", broke);
        suite.kafka("idle sessions that the server closed do not fail a stop", closed);
        suite.kafka("SIGTERM during a long commit is a clean stop", long_commit);
        suite.kafka("exit 0 relies on nothing that a crash takes back", lasting);
        suite.kafka("a position outside the topic stops with a remedy", out_of_range);
        suite.kafka("another group's active lanes are not taken without --take-over", groups);
        suite.kafka("a file of JSON lines or CSV is produced record by record", from_file);
        suite.real_kafka("a topic that ends in transaction markers is read to its end", markers);
        suite.real_kafka("the broker-side group protocol works by configuration", broker_side);
        suite.real_kafka("partitions that a topic gains are read by running consumers", grown);
        suite.real_kafka(
            "a run to the end of partitions with large batches ends",
            partitions::large_batches,
        );
        suite.real_kafka("every partition is read while others have a backlog", partitions::many);
        suite
            .real_kafka("messages as large as is admitted keep memory in its bound", large::memory);
        suite.real_kafka(
            "responses that uncompress to many times their size keep memory in its bound",
            large::compressed,
        );
        suite
            .real_kafka("a message larger than is admitted stops with its place", large::too_large);
    })
}

async fn three(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 12).await?;
    let ledger = bench.produce(30_000).await?;
    assert!(ledger.kinds().invalid > 100 && ledger.kinds().duplicate > 200);
    let consumer = bench.consumer().arg("--exit-at-end");
    let consumers = [consumer.start()?, consumer.start()?, consumer.start()?];
    for consumer in consumers {
        let ended = consumer.wait(DEADLINE).await?.expect_code(0)?;
        let summary = &ended.json("topics")?["topics"][0];
        // Counts of the table, over all consumers.
        assert_eq!(summary["counts"]["read"], 30_000);
        assert_eq!(summary["counts"]["rejected"], ledger.kinds().invalid);
    }
    bench.is_exact(&ledger).await
}

/// One member checks the topic every second, so the group assigns the new partitions; the
/// other one would not check for five minutes.
async fn grown(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 1).await?;
    let often = "topic.metadata.refresh.interval.ms=1000";
    let first = bench.consumer().start()?;
    bench.holds_lanes(&first).await?;
    let mut second = bench.consumer().env("KAFKA_CONFIG", often).start()?;
    second.says("joining the group", DEADLINE).await?;
    let producer = bench.traffic(2_000).env("KAFKA_CONFIG", often).start()?;
    bench.stored(1_000).await?;
    let operator = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
    let operator = operator.env("KAFKA_BOOTSTRAP_SERVERS", &bench.bootstrap);
    let grow = operator.env("KAFKA_TOPIC", &bench.topic);
    let grow = grow.args(["topic", "ensure", "--partitions", "4"]);
    grow.run(DEADLINE).await?.expect_code(0)?;
    bench.until("select count(*) from ingest_progress where position > 0", 4).await?;
    bench.until("select count(distinct owner) from ingest_progress", 2).await?;
    bench.ends_exact(producer, [first, second]).await
}

async fn killed(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let (first, second) = (bench.consumer().start()?, bench.consumer().start()?);
    bench.holds_lanes(&first).await?;
    bench.holds_lanes(&second).await?;
    let producer = bench.producer(30_000, 5_000).start()?;
    bench.stored(2_000).await?;
    first.kill().await?;
    producer.wait(DEADLINE).await?.expect_code(0)?;
    bench.stored(30_000).await?;
    second.signal(Signal::TERM)?;
    second.wait(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(&Ledger::read(&bench.ledger)?).await
}

async fn sigterm(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 4).await?;
    let producer = bench.producer(20_000, 5_000).start()?;
    let consumer = bench.consumer().start()?;
    bench.stored(1_000).await?;
    consumer.signal(Signal::TERM)?;
    let ended = consumer.wait(DEADLINE).await?.expect_code(0)?;
    let summary = &ended.json("topics")?["topics"][0];
    let stored = bench.read().await?;
    assert_eq!(summary["counts"]["read"], stored, "nothing is stored after the summary");
    producer.wait(DEADLINE).await?.expect_code(0)?;
    let summary = bench.consume_to_end().await?;
    assert_eq!(summary["read"], 20_000 - stored, "what was stored is not read again");
    bench.is_exact(&Ledger::read(&bench.ledger)?).await
}

async fn stopped_early(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 4).await?;
    let ledger = bench.produce(60_000).await?;
    bench.sql.batch_execute("begin; lock table transactions in share mode").await?;
    let consumer = bench.consumer().arg("--exit-at-end").start()?;
    let blocked = "select count(*) from pg_locks where relation = 'transactions'::regclass \
                   and not granted";
    liveness::until(blocked, async || Ok(bench.number(blocked).await? > 0)).await?;
    consumer.signal(Signal::TERM)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.sql.batch_execute("commit").await?;
    let ended = consumer.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("run it again"), "{}", ended.stderr);
    let stored = bench.read().await?;
    assert!(stored < 60_000, "one batch at most was in flight");
    assert_eq!(bench.consume_to_end().await?["read"], 60_000 - stored);
    bench.is_exact(&ledger).await
}

async fn no_topic(context: Context) -> Result<(), Failure> {
    // The in-process broker creates every topic that it is asked for, so the broker is
    // missing instead.
    let bench = Bench { bootstrap: "127.0.0.1:1".into(), ..Bench::new(context, 1).await? };
    for (flags, code) in [(&[][..], 0), (&["--exit-at-end"][..], 75)] {
        let mut consumer = bench.consumer().args(flags).start()?;
        consumer.says("waiting for topic", DEADLINE).await?;
        consumer.signal(Signal::TERM)?;
        consumer.wait(DEADLINE).await?.expect_code(code)?;
    }
    let mut producer = bench.producer(1, 0).start()?;
    producer.says("waiting for", DEADLINE).await?;
    producer.signal(Signal::TERM)?;
    producer.wait(DEADLINE).await?.expect_code(75)?;
    Ok(())
}

/// Forwards connections from now on.
async fn relay(listener: TcpListener, server: String) -> Result<(), Failure> {
    loop {
        let (mut client, _) = listener.accept().await?;
        let mut server = TcpStream::connect(&server).await?;
        tokio::spawn(async move {
            // The way a connection ends is no error here.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

async fn restarted(context: Context) -> Result<(), Failure> {
    let mut postgres = context.own_postgres(&[]).await?;
    let (topic, broker) = (context.topic("transactions", 2).await?, context.bootstrap().await?);
    let bench = Bench::with(context, postgres.database().await?, topic, broker.clone()).await?;
    let ledger = bench.produce(1_000).await?;
    // Connections are accepted, but not answered yet.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let mut bench = Bench { bootstrap: silent.local_addr()?.to_string(), ..bench };
    let mut consumer = bench.consumer().arg("--exit-at-end").start()?;
    consumer.says("waiting for topic", DEADLINE).await?;
    postgres.server.kill()?;
    let relay = tokio::spawn(relay(silent, broker));
    consumer.says("waiting for PostgreSQL", DEADLINE).await?;
    postgres.server.start_again().await?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    relay.abort();
    bench.sql = bench.database.connect().await?;
    bench.is_exact(&ledger).await
}

async fn broke(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let ledger = bench.produce(500).await?;
    let consumer = bench.consumer().start()?;
    bench.stored(500).await?;
    // The next read over it is up to ten seconds away.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where datname = current_database() and application_name like '%-watch'";
    assert_eq!(bench.number(cut).await?, 1);
    consumer.signal(Signal::TERM)?;
    let ended = consumer.wait(DEADLINE).await?.expect_code(0)?;
    let summary = &ended.json("topics")?["topics"][0];
    assert_eq!(summary["counts"]["read"], 500);
    bench.is_exact(&ledger).await
}

/// Closes the sessions that the last commit of the drain would use.
async fn closed(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let ledger = bench.produce(500).await?;
    let consumer = bench.consumer().start()?;
    bench.stored(500).await?;
    let cut = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity \
               where datname = current_database() and application_name = 'lambda-stream'";
    assert!(bench.number(cut).await? > 0, "it has sessions");
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(&ledger).await
}

/// The commit takes longer than the grace period of a stop.
async fn long_commit(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 4).await?;
    let ledger = bench.produce(20_000).await?;
    let waits = "create function wait() returns trigger language plpgsql as \
                     $$ begin perform pg_advisory_xact_lock(42); return null; end $$; \
                 create trigger wait before insert on transactions execute function wait()";
    bench.sql.batch_execute(waits).await?;
    for (flags, code) in [(&[][..], 0), (&["--exit-at-end"][..], 75)] {
        bench.sql.batch_execute("select pg_advisory_lock(42)").await?;
        let consumer = bench.consumer().args(flags).start()?;
        let blocked = "select count(*) from pg_stat_activity where wait_event = 'advisory' \
                       and datname = current_database() and application_name = 'lambda-stream'";
        liveness::until(blocked, async || Ok(bench.number(blocked).await? > 0)).await?;
        consumer.signal(Signal::TERM)?;
        let ended = consumer.wait(DEADLINE).await?.expect_code(code)?;
        assert!(ended.stderr.contains("stopped while a commit took long"), "{}", ended.stderr);
        bench.sql.batch_execute("select pg_advisory_unlock(42)").await?;
    }
    let stored = bench.read().await?;
    assert_eq!(bench.consume_to_end().await?["read"], 20_000 - stored);
    bench.is_exact(&ledger).await
}

/// Only the walwriter, or a session that waits for the disk, makes commits durable here.
const LAZY: [&str; 4] =
    ["wal_buffers=256MB", "autovacuum=off", "bgwriter_lru_maxpages=0", "checkpoint_timeout=1h"];

async fn lasting(context: Context) -> Result<(), Failure> {
    let mut postgres = context.own_postgres(&LAZY).await?;
    let (topic, broker) = (context.topic("transactions", 1).await?, context.bootstrap().await?);
    let mut bench = Bench::with(context, postgres.database().await?, topic, broker).await?;
    let holder = bench.consumer().start()?;
    bench.holds_lanes(&holder).await?;
    postgres.server.signal("walwriter", Signal::STOP)?;
    let ledger = bench.produce(2_000).await?;
    bench.stored(2_000).await?;
    // The group has no partition left for it: it relies on what the other consumer stored.
    bench.consume_to_end().await?;
    holder.kill().await?;
    postgres.server.kill()?;
    postgres.server.start_again().await?;
    bench.sql = bench.database.connect().await?;
    bench.is_exact(&ledger).await
}

async fn out_of_range(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(2_000).await?;
    bench.consume_to_end().await?;
    bench.sql.execute("update ingest_progress set position = position + 1000", &[]).await?;
    let ended = bench.consumer().run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("recreated"), "{}", ended.stderr);
    assert_eq!(bench.read().await?, 2_000, "nothing was skipped or read again");
    Ok(())
}

async fn groups(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let ledger = bench.produce(1_000).await?;
    bench.consume_to_end().await?;
    let other = bench.consumer().env("KAFKA_GROUP_ID", "other");
    let ended = other.run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("--take-over"), "{}", ended.stderr);
    let other = other.arg("--take-over").start()?;
    bench.holds_lanes(&other).await?;
    other.signal(Signal::TERM)?;
    other.wait(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(&ledger).await
}

async fn from_file(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 3).await?;
    let sample =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/base/batch/sample/financial_transactions.csv");
    let producer = bench.program(env!("CARGO_BIN_EXE_lambda-producer-stream"));
    let producer = producer.args(["--rate", "0", "--from", sample, "--ledger"]).arg(&bench.ledger);
    producer.run(DEADLINE).await?.expect_code(0)?;
    bench.consume_to_end().await?;
    let ledger = Ledger::read(&bench.ledger)?;
    assert_eq!(ledger.kinds().valid, 30);
    bench.is_exact(&ledger).await
}

/// A transaction of a few messages in partition 0, committed or aborted.
fn transact(bench: &Bench, id: &str, messages: i32, commit: bool) -> Result<(), Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("transactional.id", format!("{}-{id}", bench.topic))
        .create()?;
    producer.init_transactions(DEADLINE)?;
    producer.begin_transaction()?;
    for number in 0..messages {
        let payload = format!(
            r#"{{"transaction_id":"{id}-{number}","account_id":"A","transaction_type":"deposit","amount":1,"timestamp":"2026-01-01 00:00:00"}}"#
        );
        let record = BaseRecord::to(&bench.topic).partition(0).key("A").payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(DEADLINE)?;
    if commit {
        producer.commit_transaction(DEADLINE)?;
    } else {
        producer.abort_transaction(DEADLINE)?;
    }
    Ok(())
}

async fn markers(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let bench = tokio::task::spawn_blocking(move || {
        transact(&bench, "kept", 5, true)?;
        transact(&bench, "dropped", 3, false)?;
        Ok::<_, Failure>(bench)
    })
    .await??;
    assert_eq!(bench.consume_to_end().await?["counts"]["read"], 5);
    let position = "select position from ingest_progress where partition = 0";
    // Five and three messages, and the marker after each of the two transactions.
    assert_eq!(bench.number(position).await?, 10);
    assert_eq!(bench.number("select count(*) from transactions").await?, 5);
    // Nothing after the markers is missed.
    let bench = tokio::task::spawn_blocking(move || {
        transact(&bench, "more", 4, true)?;
        Ok::<_, Failure>(bench)
    })
    .await??;
    assert_eq!(bench.consume_to_end().await?["read"], 4);
    assert_eq!(bench.number(position).await?, 15);
    Ok(())
}

async fn broker_side(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let ledger = bench.produce(10_000).await?;
    let consumer = bench.consumer().env("KAFKA_CONFIG", "group.protocol=consumer");
    let consumer = consumer.arg("--exit-at-end");
    let consumers = [consumer.start()?, consumer.start()?];
    for consumer in consumers {
        consumer.wait(DEADLINE).await?.expect_code(0)?;
    }
    bench.is_exact(&ledger).await
}
