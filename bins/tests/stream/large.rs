//! Messages of many megabytes, up to the limit and beyond it.

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Signal;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::support::{Bench, DEADLINE};

const MIB: usize = 1 << 20;

/// The memory that docs/operating.md promises for one broker and the default limit, in bytes.
const PROMISED_BYTES: u64 = (96 + 5 * 20) << 20;

/// What the image sets for glibc's malloc.
const MMAP_THRESHOLD: &str = "4194304";

/// A topic whose partitions accept messages of 64 MiB.
async fn bench(context: Context, partitions: i32) -> Result<Bench, Failure> {
    let bench = Bench::new(context, partitions).await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bench.bootstrap).create()?;
    let size = (64 * MIB).to_string();
    let topic = AlterConfig::new(ResourceSpecifier::Topic(&bench.topic));
    let altered = [&topic.set("max.message.bytes", &size)];
    for result in admin.alter_configs(altered, &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| format!("{topic:?} is not altered: {code}"))?;
    }
    Ok(bench)
}

/// Sends each payload to a partition in a batch of its own.
fn send(
    bench: &Bench,
    partition: i32,
    compression: &str,
    payloads: &[String],
) -> Result<(), Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("message.max.bytes", (80 * MIB).to_string())
        .set("compression.type", compression)
        .create()?;
    for payload in payloads {
        let record = BaseRecord::to(&bench.topic).partition(partition).key("A").payload(payload);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(DEADLINE)?;
    }
    Ok(())
}

/// A record whose message has about so many bytes, most of them in `field`.
fn record(id: &str, field: &str, bytes: usize) -> String {
    let text = "-".repeat(bytes);
    format!(
        r#"{{"transaction_id":"{id}","account_id":"A","transaction_type":"deposit","amount":1,"timestamp":"2026-01-01 00:00:00","{field}":"{text}"}}"#
    )
}

/// Stored text, text that no column takes, and no record at all.
pub(crate) async fn memory(context: Context) -> Result<(), Failure> {
    let bench = bench(context, 3).await?;
    for round in 0..3 {
        let payloads = [
            record(&format!("stored-{round}"), "location", 19 * MIB),
            record(&format!("ignored-{round}"), "padding", 19 * MIB),
            "-".repeat(19 * MIB),
            record(&format!("small-{round}"), "location", 10),
        ];
        send(&bench, round, "none", &payloads)?;
        send(&bench, round, "zstd", &[record(&format!("packed-{round}"), "location", 8 * MIB)])?;
    }
    let consumer = bench.consumer().env("MALLOC_MMAP_THRESHOLD_", MMAP_THRESHOLD).start()?;
    bench.stored(15).await.map_err(|error| format!("{error}:\n{}", consumer.stderr()))?;
    let peak = consumer.peak_memory_bytes()?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 12);
    let whole = format!("select count(*) from transactions where length(location) = {}", 19 * MIB);
    assert_eq!(bench.number(&whole).await?, 3);
    let whole = format!("select count(*) from dead_letters where length(payload) = {}", 19 * MIB);
    assert_eq!(bench.number(&whole).await?, 3);
    assert!(peak <= PROMISED_BYTES, "{} MiB", peak >> 20);
    Ok(())
}

/// Uncompressed, the messages of one response take much more memory than it does.
pub(crate) async fn compressed(context: Context) -> Result<(), Failure> {
    const PARTITIONS: i32 = 24;
    const MESSAGES: i32 = 40_000;
    let bench = bench(context, PARTITIONS).await?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("compression.type", "gzip")
        .set("linger.ms", "1000")
        .set("queue.buffering.max.messages", "10000000")
        .create()?;
    for partition in 0..PARTITIONS {
        for number in 0..MESSAGES {
            let payload = record(&format!("T{}", number % 100), "x", 0);
            let record = BaseRecord::to(&bench.topic).partition(partition).key("A");
            producer.send(record.payload(&payload)).map_err(|(error, _)| error)?;
        }
        producer.flush(DEADLINE)?;
    }
    let consumer = bench.consumer().env("MALLOC_MMAP_THRESHOLD_", MMAP_THRESHOLD).start()?;
    bench.stored(i64::from(PARTITIONS * MESSAGES)).await?;
    let peak = consumer.peak_memory_bytes()?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert!(peak <= PROMISED_BYTES, "{} MiB", peak >> 20);
    Ok(())
}

pub(crate) async fn too_large(context: Context) -> Result<(), Failure> {
    let bench = bench(context, 1).await?;
    let small: Vec<String> = (0..10).map(|number| record(&format!("T{number}"), "x", 1)).collect();
    send(&bench, 0, "none", &small)?;
    send(&bench, 0, "none", &[record("large", "location", 40 * MIB)])?;
    let ended = bench.consumer().arg("--exit-at-end").run(DEADLINE).await?.expect_code(78)?;
    let last = ended.stderr.lines().last().unwrap_or_default();
    let place = format!("partition 0 of {} from offset 10 on cannot be read", bench.topic);
    for part in [&*place, "raise receive.message.max.bytes (now 20971520) in KAFKA_CONFIG"] {
        assert!(last.contains(part), "no {part:?} in:\n{}", ended.stderr);
    }
    assert_eq!(bench.number("select count(*) from transactions").await?, 10);

    let raised = bench.consumer().env("KAFKA_CONFIG", "receive.message.max.bytes=50000000");
    let raised = raised.arg("--exit-at-end");
    raised.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 11);

    // With the lower limit the last message that was stored cannot be read again.
    for arguments in [&[][..], &["--exit-at-end"]] {
        let ended = bench.consumer().args(arguments).run(DEADLINE).await?.expect_code(78)?;
        assert!(ended.stderr.contains(&place), "{}", ended.stderr);
    }

    send(&bench, 0, "none", &[record("small", "x", 1)])?;
    raised.run(DEADLINE).await?.expect_code(0)?;
    send(&bench, 0, "lz4", &[record("packed", "location", 40 * MIB)])?;
    let ended = bench.consumer().run(DEADLINE).await?.expect_code(78)?;
    let place = format!("partition 0 of {} at offset 12 has 4194", bench.topic);
    assert!(ended.stderr.contains(&place), "{}", ended.stderr);
    raised.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 13);
    Ok(())
}
