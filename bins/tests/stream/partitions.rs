//! Many partitions, each with batches as large as producers make them.

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::Signal;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::support::{Bench, DEADLINE};

/// Bytes of a batch and of a message: the most that a producer sends by default, in so few
/// messages that the database is not the bottleneck.
const BATCH: usize = 1_000_000;
const MESSAGE: usize = 1_000;

/// Sends this many batches to each partition; ids begin with `name`.
fn send_batches(
    bench: &Bench,
    partitions: i32,
    batches: usize,
    name: &str,
) -> Result<i64, Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("batch.size", BATCH.to_string())
        .set("linger.ms", "500")
        .set("queue.buffering.max.kbytes", "1000000")
        .create()?;
    let messages = batches * (BATCH / MESSAGE);
    let padding = "-".repeat(MESSAGE - 200);
    for partition in 0..partitions {
        for number in 0..messages {
            let payload = format!(
                r#"{{"transaction_id":"{name}-{partition}-{number}","account_id":"A","transaction_type":"deposit","amount":1,"timestamp":"2026-01-01 00:00:00","padding":"{padding}"}}"#
            );
            let record = BaseRecord::to(&bench.topic).partition(partition).key("A");
            producer.send(record.payload(&payload)).map_err(|(error, _)| error)?;
        }
    }
    producer.flush(DEADLINE)?;
    Ok(i64::from(partitions) * i64::try_from(messages)?)
}

/// Each run begins at the last message of each partition, which is inside a large batch.
pub(crate) async fn large_batches(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let mut sent = 0;
    for name in ["first", "second"] {
        sent += send_batches(&bench, 6, 2, name)?;
        assert_eq!(bench.consume_to_end().await?["counts"]["inserted"], sent);
    }
    assert_eq!(bench.consume_to_end().await?["read"], 0);
    Ok(())
}

/// A commit takes longer than claiming all partitions.
const SLOW: &str = "
    create function slow() returns trigger language plpgsql as
        $$ begin perform pg_sleep(1); return null; end $$;
    create trigger slow after insert on transactions
        for each statement execute function slow()";

/// Every partition is being read long before the others have no backlog left.
pub(crate) async fn many(context: Context) -> Result<(), Failure> {
    const PARTITIONS: i32 = 48;
    let bench = Bench::new(context, PARTITIONS).await?;
    let sent = send_batches(&bench, PARTITIONS, 2, "many")?;
    bench.sql.batch_execute(SLOW).await?;
    let consumer = bench.consumer().start()?;
    let mut read = 0;
    let all_begun = "select count(*) from ingest_progress where position > 0";
    let begun = until("every partition is being read", async || {
        read = bench.read().await?;
        Ok(bench.number(all_begun).await? == i64::from(PARTITIONS))
    });
    begun.await.map_err(|error| format!("{error}:\n{}", consumer.stderr()))?;
    assert!(read < sent * 3 / 4, "{read} of {sent} were read before the last one began");
    bench.stored(sent).await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, sent);
    Ok(())
}
