//! Messages that cannot be read, and groups that are shared by mistake.

use std::os::unix::fs::FileExt;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Signal};
use rdkafka::ClientConfig;
use rdkafka::admin::NewPartitions;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::support::{Bench, DEADLINE};
use super::{admin, counts, ids, lanes, patient, send};

/// Sends messages in one batch with these settings.
fn send_with(bench: &Bench, settings: &[(&str, &str)], payloads: &[String]) -> Result<(), Failure> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bench.bootstrap).set("linger.ms", "200");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let producer: BaseProducer = config.create()?;
    for payload in payloads {
        let record = BaseRecord::to(&bench.topic).partition(0).key("A").payload(payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(DEADLINE)?)
}

/// Changes a digit of an amount in the second of three batches on the broker's disk.
pub(crate) async fn flipped_byte(context: Context) -> Result<(), Failure> {
    let broker = context.own_kafka(None).await?;
    let topic = broker.broker().topic("damaged", 2).await?;
    let bootstrap = broker.broker().bootstrap().to_owned();
    let bench = Bench::with(context.clone(), context.database().await?, topic, bootstrap).await?;
    for numbers in [0..10, 10..20, 20..30] {
        send_with(&bench, &[], &ids(numbers))?;
    }
    let path = broker.first_segment(&bench.topic, 0);
    let log = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = vec![0; usize::try_from(log.metadata()?.len())?];
    log.read_exact_at(&mut bytes, 0)?;
    let id = bytes.windows(5).position(|window| window == b"\"T15\"").ok_or("T15 is not there")?;
    let amount = bytes[id..].windows(9).position(|window| window == b"\"amount\":");
    log.write_all_at(b"9", (id + amount.ok_or("no amount")? + 9) as u64)?;

    for arguments in [&[][..], &["--exit-at-end"]] {
        let ended = bench.consumer().args(arguments).run(DEADLINE).await?.expect_code(78)?;
        let last = ended.stderr.lines().last().unwrap_or_default();
        let place = format!("partition 0 of {} from offset 10 on cannot be read", bench.topic);
        for part in [&*place, "kafka-delete-records", "--on-source-change restart"] {
            assert!(last.contains(part), "no {part:?} in:\n{}", ended.stderr);
        }
        assert_eq!(counts(&bench).await?, [10, 10, 0, 0], "all before it, and nothing else");
        assert_eq!(lanes(&bench, 0).await?[0].1, 10);
    }
    broker.remove().await
}

pub(crate) async fn codecs(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 1).await?;
    for (index, codec) in (0..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let numbers = 100 * index..100 * (index + 1);
        send_with(&bench, &[("compression.type", codec)], &ids(numbers))?;
    }
    assert_eq!(bench.consume_to_end().await?["counts"]["inserted"], 500);
    Ok(())
}

/// Both consumers are in one group, and each stores in its own database.
pub(crate) async fn two_databases(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context.clone(), 2).await?;
    let other = context.database().await?;
    let mut consumers =
        [bench.consumer().start()?, bench.consumer().envs(other.environment()).start()?];
    let mut sent = 0;
    until("one of them stops", async || {
        for partition in [0, 1] {
            send(&bench, partition, &ids(sent..sent + 10))?;
            sent += 10;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        Ok(consumers[0].has_ended()? || consumers[1].has_ended()?)
    })
    .await?;
    let ended = |consumer: &mut Process| consumer.has_ended();
    let first = usize::from(!ended(&mut consumers[0])?);
    let [a, b] = consumers;
    let (stopped, runs) = if first == 0 { (a, b) } else { (b, a) };
    let said = stopped.wait(DEADLINE).await?.expect_code(78)?.stderr;
    let last = said.lines().last().unwrap_or_default();
    for part in ["two databases share consumer group", &*bench.topic, "its own KAFKA_GROUP_ID"] {
        assert!(last.contains(part), "no {part:?} in:\n{said}");
    }
    drop(runs.kill().await?);

    // A copy of the database on another server takes over: the first one no longer runs.
    let copy = context.database().await?;
    let consumer = bench.consumer().envs(copy.environment()).arg("--exit-at-end");
    consumer.run(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

pub(crate) async fn static_members(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let settings = "group.instance.id=one";
    let consumer = bench.consumer().env("KAFKA_CONFIG", settings);
    let first = consumer.start()?;
    bench.holds_lanes(&first).await?;
    let second = consumer.start()?;
    let said = first.wait(DEADLINE).await?.expect_code(78)?.stderr;
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("same group.instance.id"), "{said}");
    send(&bench, 0, &ids(0..10))?;
    bench.stored(10).await?;
    second.signal(Signal::TERM)?;
    second.wait(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

/// Adds a partition while no consumer runs, and another one while one does.
pub(crate) async fn added_later(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 1).await?;
    let latest = bench.consumer().args(["--start", "latest"]);
    let latest = latest.env("KAFKA_CONFIG", "topic.metadata.refresh.interval.ms=500");
    send(&bench, 0, &ids(0..10))?;
    let first = latest.start()?;
    bench.holds_lanes(&first).await?;
    first.signal(Signal::TERM)?;
    first.wait(DEADLINE).await?.expect_code(0)?;
    send(&bench, 0, &ids(10..20))?;
    add_partitions(&bench, 2).await?;
    send(&bench, 1, &ids(100..140))?;
    let consumer = latest.start()?;
    bench.stored(50).await?;
    add_partitions(&bench, 3).await?;
    send(&bench, 2, &ids(200..240))?;
    bench.stored(90).await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    let positions = [lanes(&bench, 0).await?[0].1, lanes(&bench, 1).await?[0].1];
    assert_eq!(positions, [20, 40]);
    assert_eq!(counts(&bench).await?, [90, 90, 0, 0], "all but what was there at the first start");
    Ok(())
}

async fn add_partitions(bench: &Bench, count: usize) -> Result<(), Failure> {
    let partitions = NewPartitions::new(&bench.topic, count);
    let made = admin(&bench.bootstrap)?.create_partitions([&partitions], &patient()).await?;
    made.into_iter().try_for_each(|made| made.map(drop)).map_err(|(_, code)| code.into())
}

/// What a Connect sink would read, and no record.
pub(crate) async fn envelopes(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 1).await?;
    let wrapped = |number| {
        format!(r#"{{"schema":{{"type":"struct"}},"payload":{{"transaction_id":"T{number}"}}}}"#)
    };
    let wrapped: Vec<String> = (0..3_000).map(wrapped).collect();
    send_with(&bench, &[], &wrapped)?;
    for arguments in [&[][..], &["--exit-at-end"]] {
        let ended = bench.consumer().args(arguments).run(DEADLINE).await?.expect_code(78)?;
        let last = ended.stderr.lines().last().unwrap_or_default();
        let place = format!("partition 0 of {}", bench.topic);
        for part in [&*place, "offset 500", "Kafka Connect", "--max-rejects"] {
            assert!(last.contains(part), "no {part:?} in:\n{}", ended.stderr);
        }
        let letters = bench.number("select count(*) from dead_letters").await?;
        assert!(letters <= 500, "{letters} dead letters");
    }
    let all = bench.consumer().args(["--exit-at-end", "--max-rejects", "1000"]);
    all.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from dead_letters").await?, 3_000);
    Ok(())
}
